"""The effect of the order in which a reranker is given its candidates.

Each list is ranked again in seeded random orders, best first, worst first, and with one relevant document put at places
from the top to the bottom, as Liu et al. 2023 did for generators ("Lost in the Middle",
https://arxiv.org/abs/2307.03172).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...rerank.base import Reranker
from ...search import CandidateList
from ..candidates import rank_lists
from ..metrics import measure_rankings
from ..significance import Interval, interval
from .preferences import global_inconsistency, pairwise_instability
from .sensitivity import PSI, paired_psi

__all__ = ["OrderBias", "Slot", "Spread", "kendall_tau", "measure_order", "relevant_document", "variance"]

_FIXED_ORDERS = ("best_first", "worst_first")


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean, the worst and the best over the permutations of a query's list, each averaged over queries."""

    mean: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Slot:
    """Quality with the relevant document at one place of the list, with a 95 % bootstrap interval.

    Args:
        slot: the place in words: ``top``, ``25 %`` of the way down, ``bottom``.
        value: the mean over queries.
        low: the lower end of the interval.
        high: the upper end of the interval.
    """

    slot: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OrderBias:
    """How far one reranker's answers depend on the order of the candidates. If they do not, all is 0 and tau is 1.

    Args:
        system: the name of the system.
        measure: the measure of quality.
        permutations: the number of random orders in which each list was ranked.
        queries: the number of lists with at least two documents. The others are left out.
        documents: the mean length of these lists.
        relevant_queries: the number of queries with a relevant document in their list. Figures about relevant documents
            and slots are about these. None is added to a list.
        tau: Kendall's tau between the rankings of two permutations, averaged over pairs, then over queries.
        tau_psi: (1 - tau) / 2, the share of pairs of documents that two permutations order differently.
        ppi: the pairwise preference instability over the random orders, averaged over queries; see
            `pairwise_instability`. None if no two documents were given in two ways. It rises as permutations become
            fewer.
        gpi: the global preference inconsistency over the random orders, averaged over queries; see
            `global_inconsistency`.
        score_variance: the population variance of a document's score over permutations, averaged over documents and
            queries. Its unit is the square of the reranker's own.
        score_variance_share: this variance divided by the variance of all scores of the list, over documents and
            permutations: 0, none of it comes from the order; 1, all of it.
        rank_variance: the population variance of a document's rank, averaged over documents and queries.
        gold_rank_variance: the population variance of the rank of relevant documents only, which a moving tail leaves
            alone. None without any.
        ndcg: the measure over permutations.
        per_permutation: the measure for each permutation, averaged over queries.
        arrangements: the measure for ``best_first`` and ``worst_first``, averaged over queries.
        reversal_tau: Kendall's tau between the rankings of these two, averaged over queries.
        gold_at: the measure with a relevant document at each slot. The others keep their order.
        ends_minus_middle: the measure at the top and at the bottom slot, minus that at the slots between, averaged over
            queries ("lost in the middle" if above 0). None without relevant documents.
        slot_psi: the Position Sensitivity Index over the slots. This is the formula of Zeng et al. in another protocol:
            they move evidence through a document, this moves a document through the list.
    """

    system: str
    measure: str
    permutations: int
    queries: int
    documents: float
    relevant_queries: int
    tau: Interval
    tau_psi: float
    ppi: Interval | None
    gpi: Interval
    score_variance: float
    score_variance_share: float
    rank_variance: float
    gold_rank_variance: float | None
    ndcg: Spread
    per_permutation: tuple[float, ...]
    arrangements: Mapping[str, float]
    reversal_tau: Interval
    gold_at: tuple[Slot, ...]
    ends_minus_middle: Interval | None
    slot_psi: PSI

    def as_dict(self) -> dict[str, Any]:
        """Return the bias as JSON-like values."""
        return dataclasses.asdict(self)


def kendall_tau(ranks: np.ndarray) -> np.ndarray:
    """Compute Kendall's tau between every two rankings of the same documents. Without ties, tau-a and tau-b are equal.

    Args:
        ranks: (K, N), the rank of each of N >= 2 documents in each of K rankings, all ranks of a ranking different.

    Returns:
        float64 (K, K).

    Example:
        >>> kendall_tau(np.array([[0, 1, 2], [0, 2, 1], [2, 1, 0]]))[0].round(3).tolist()
        [1.0, 0.333, -1.0]
    """
    above, below = np.triu_indices(ranks.shape[1], 1)
    signs = np.sign(ranks[:, below] - ranks[:, above]).astype(np.float64)  # (K, pairs)
    taus: np.ndarray = signs @ signs.T / signs.shape[1]
    return taus


def variance(values: np.ndarray) -> np.ndarray:
    """Compute the population variance over the first axis; exactly 0 if all values are equal, unlike numpy's.

    Example:
        >>> variance(np.array([[0.1, 1.0]] * 9 + [[0.1, 2.0]])).round(3).tolist()
        [0.0, 0.09]
    """
    from_first = values - values[:1]
    population: np.ndarray = np.maximum(0.0, (from_first**2).mean(axis=0) - from_first.mean(axis=0) ** 2)
    return population


def relevant_document(ids: Sequence[str], grades: Mapping[str, int]) -> str | None:
    """Return the document of the highest grade above 0, the first of them in the list; None if there is none.

    Example:
        >>> relevant_document(["a", "b", "c"], {"b": 1, "c": 2, "d": 3})
        'c'
    """
    best = max(ids, key=lambda id: grades.get(id, 0), default=None)
    return best if best is not None and grades.get(best, 0) > 0 else None


def measure_order(
    system: str,
    reranker: Reranker,
    lists: Iterable[tuple[str, CandidateList]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    measure: str = "nDCG@10",
    permutations: int = 10,
    slots: int = 5,
    seed: int = 0,
) -> OrderBias:
    """Rank every list in many orders.

    Args:
        system: the name of the system in the result.
        reranker: any reranker. It is called ``permutations + 2 + slots`` times for each list.
        lists: the (query id, candidates) of each query, best first.
        qrels: the grades by query id and document id.
        measure: the measure of quality, as ir_measures names it.
        permutations: the number of random orders of each list, at least 2. A query's orders depend only on the seed and
            its id.
        slots: the number of places for a relevant document, evenly from the top to the bottom, at least 3.
        seed: the seed of the permutations and intervals.

    Raises:
        InputError: if a number is too small, or no list has two documents.

    Example:
        >>> from sightline import Document, load_reranker
        >>> documents = [Document(text, text) for text in ("Cats purr.", "Dogs bark.", "Cows moo.")]
        >>> lists = [("q", CandidateList.of("what do cats do", documents))]
        >>> bias = measure_order("minilm", load_reranker(), lists, {"q": {"Cats purr.": 1}})
        >>> bias.tau.mean, bias.score_variance, bias.rank_variance, bias.slot_psi.value
        (1.0, 0.0, 0.0, 0.0)
    """
    if permutations < 2:
        raise InputError(f"permutations must be at least 2, not {permutations}")
    if slots < 3:
        raise InputError(f"slots must be at least 3, not {slots}: a top, a bottom, and something between")
    study = _Study(permutations, slots, seed)
    for id, candidates in lists:
        first = candidates.ids
        if len(first) < 2:
            continue
        grades = qrels.get(id, {})
        orders = study.orders(id, first, grades)
        rankings = rank_lists(reranker, [candidates.arranged(order) for order in orders.values()])
        study.add(id, orders, grades, dict(zip(orders, rankings, strict=True)))
    if not study.judged:
        raise InputError("no list has two documents: there is no order to change")
    return study.result(system, measure)


class _Study:
    """The orders in which lists are ranked, and what came of them."""

    def __init__(self, permutations: int, slots: int, seed: int) -> None:
        self.permutations, self.seed = permutations, seed
        self.places: list[float] = np.linspace(0, 1, slots).tolist()
        self.random_orders = [f"random {k}" for k in range(permutations)]
        self.slot_orders = {f"slot {_words(place)}": place for place in self.places}
        names = (*self.random_orders, *_FIXED_ORDERS, *self.slot_orders)
        self.rankings: dict[str, dict[str, list[str]]] = {name: {} for name in names}
        self.judged: dict[str, Mapping[str, int]] = {}
        self.lengths: list[int] = []
        self.taus: list[float] = []
        self.reversals: list[float] = []
        self.instabilities: list[float] = []
        self.inconsistencies: list[float] = []
        self.score_variances: list[float] = []
        self.shares: list[float] = []
        self.rank_variances: list[float] = []
        self.gold_variances: list[float] = []

    def orders(self, id: str, first: list[str], grades: Mapping[str, int]) -> dict[str, list[str]]:
        """The orders by name; those of the slots are left out where no document is relevant."""
        rng = random.Random(f"{self.seed} {id}")
        orders = {name: rng.sample(first, len(first)) for name in self.random_orders}
        orders |= zip(_FIXED_ORDERS, (first, first[::-1]), strict=True)
        gold = relevant_document(first, grades)
        if gold is not None:
            rest = [document for document in first if document != gold]
            for name, place in self.slot_orders.items():
                at = round(place * len(rest))
                orders[name] = [*rest[:at], gold, *rest[at:]]
        return orders

    def add(
        self,
        id: str,
        orders: Mapping[str, list[str]],
        grades: Mapping[str, int],
        ranked: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Take in a list's orders, and for each its scores by document, best first."""
        self.judged[id] = grades
        first = orders["best_first"]
        for name, scores in ranked.items():
            self.rankings[name][id] = list(scores)
        row = {document: i for i, document in enumerate(first)}
        places, ranks = np.empty((2, self.permutations + 2, len(first)), dtype=np.int64)
        for k, name in enumerate([*self.random_orders, *_FIXED_ORDERS]):
            places[k, [row[document] for document in orders[name]]] = np.arange(len(first))
            ranks[k, [row[document] for document in ranked[name]]] = np.arange(len(first))
        scored = np.array([[ranked[name][document] for document in first] for name in self.random_orders])
        self.lengths.append(len(first))
        self.taus.append(kendall_tau(ranks[: self.permutations])[np.triu_indices(self.permutations, 1)].mean())
        self.reversals.append(kendall_tau(ranks[self.permutations :])[0, 1])
        instability = pairwise_instability(places[: self.permutations], ranks[: self.permutations])
        if instability is not None:
            self.instabilities.append(instability)
        self.inconsistencies.append(global_inconsistency(ranks[: self.permutations]))
        within, total = variance(scored).mean(), variance(scored.reshape(-1, 1))[0]
        self.score_variances.append(within)
        self.shares.append(within / total if total > 0 else 0.0)
        by_rank = variance(ranks[: self.permutations])
        self.rank_variances.append(by_rank.mean())
        if relevant := [row[document] for document in first if grades.get(document, 0) > 0]:
            self.gold_variances.append(by_rank[relevant].mean())

    def result(self, system: str, measure: str) -> OrderBias:
        """Measure the rankings, and sum up."""
        values = {}
        for name, rankings in self.rankings.items():
            judged = {id: self.judged[id] for id in rankings}
            per_query = measure_rankings(judged, rankings, [measure])[1] if rankings else {}
            values[name] = np.array([per_query[id][measure] for id in rankings])
        spread = np.stack([values[name] for name in self.random_orders])  # (K, Q)
        at = np.stack([values[name] for name in self.slot_orders])  # (S, Q with a relevant document)
        from_top = at - at[:1]  # so that equal values give exactly 0, whatever a mean of them rounds to
        ends = from_top[-1] / 2 - from_top[1:-1].mean(axis=0) if at.size else None
        tau = interval(self.taus, seed=self.seed)
        return OrderBias(
            system=system,
            measure=measure,
            permutations=self.permutations,
            queries=len(self.lengths),
            documents=float(np.mean(self.lengths)),
            relevant_queries=at.shape[1],
            tau=tau,
            tau_psi=(1 - tau.mean) / 2,
            ppi=interval(self.instabilities, seed=self.seed) if self.instabilities else None,
            gpi=interval(self.inconsistencies, seed=self.seed),
            score_variance=float(np.mean(self.score_variances)),
            score_variance_share=float(np.mean(self.shares)),
            rank_variance=float(np.mean(self.rank_variances)),
            gold_rank_variance=float(np.mean(self.gold_variances)) if self.gold_variances else None,
            ndcg=Spread(float(spread.mean()), float(spread.min(axis=0).mean()), float(spread.max(axis=0).mean())),
            per_permutation=tuple(spread.mean(axis=1).tolist()),
            arrangements={name: float(values[name].mean()) for name in _FIXED_ORDERS},
            reversal_tau=interval(self.reversals, seed=self.seed),
            gold_at=tuple(
                Slot(_words(place), *dataclasses.astuple(interval(row, seed=self.seed)))
                for place, row in zip(self.places, at, strict=True)
                if len(row)
            ),
            ends_minus_middle=None if ends is None else interval(ends, seed=self.seed),
            slot_psi=paired_psi(at, seed=self.seed) if at.size else PSI(None),
        )


def _words(place: float) -> str:
    return {0.0: "top", 1.0: "bottom"}.get(place, f"{place:.0%}".replace("%", " %"))
