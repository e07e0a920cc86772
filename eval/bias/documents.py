"""Properties of documents that should not affect their rank: length, copies, near-duplicates, ids."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...documents import Document
from ...errors import InputError
from ...rerank.base import Reranker
from ...search import CandidateList
from ...sentences import sentence_spans
from ..candidates import rank_lists
from ..significance import Interval, interval
from .order import kendall_tau, relevant_document
from .position import Bin, Bins
from .sensitivity import PSI, grouped_psi

__all__ = ["WORDS", "CopyBias", "DocumentBias", "IdBias", "LengthBias", "TwinBias", "measure_documents"]

_SHORT = 0.5  # CoRe's threshold: the relevant document has at most half the words of the longest other
_COPIES = (1, 4)
WORDS = Bins(
    (0, 25, 50, 100, 200, 400, float("inf")), ("1-25", "26-50", "51-100", "101-200", "201-400", "401-"), "right"
)

_Variant = tuple[CandidateList, Callable[[dict[str, float]], None]]  # a list, and what to do with its scores


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Whether long documents are preferred (CoRe, https://arxiv.org/abs/2510.02219, ``length_bias_test.py``).

    Args:
        queries: the number of queries whose longest relevant document has at most half the words of the longest other
            candidate.
        gold_above_longest: the share of these queries in which the best-ranked relevant document is above the longest
            other.
        gold_above_others: the mean share of all other candidates that it is above in these queries, which is what the
            former would be if length did not count.
        length_tau: Kendall's tau-b between words and rank among the candidates without a positive judgement, averaged
            over all queries. Above 0, longer documents are ranked higher.
    """

    queries: int
    gold_above_longest: Interval | None
    gold_above_others: Interval | None
    length_tau: Interval | None


@dataclass(frozen=True, slots=True)
class CopyBias:
    """The effect of exact copies under ids of their own.

    Args:
        queries: the number of queries that have a relevant document and another one in their list.
        copies: the number of copies of the highest ranked other document that were added after it.
        gold_rank_change: the number of places by which the relevant document falls (above 0) or rises, copies not
            counted.
        reordered: the share of the queries in which any two of the old documents changed places.
        unequal: the share of the queries in which a copy's score differs from its original's.
        largest_difference: the largest such difference.
    """

    queries: int
    copies: int
    gold_rank_change: Interval
    reordered: float
    unequal: float
    largest_difference: float


@dataclass(frozen=True, slots=True)
class TwinBias:
    """The score and rank of a near-duplicate of the relevant document, added to the list's other end.

    Args:
        edit: the edit that made the near-duplicate: what was taken from the document.
        queries: the number of queries that have a relevant document from which it could be taken.
        score_change: the near-duplicate's score minus the original's, divided by the standard deviation of the list's
            scores.
        rank_change: the near-duplicate's rank minus the original's. Above 0, it is ranked lower.
        above: the share of the queries in which the near-duplicate is ranked above the original.
    """

    edit: str
    queries: int
    score_change: Interval
    rank_change: Interval
    above: float


@dataclass(frozen=True, slots=True)
class IdBias:
    """The effect of exchanging the ids of a list's documents, and nothing else.

    Args:
        queries: the number of queries that have a list of at least two documents.
        changed: the share of the queries in which a text's score changed.
        largest_difference: the largest change of a score.
        tau: Kendall's tau between the rankings of the texts before and after. If no score changed, it is below 1 only
            by ties, such as those of equal texts, which are broken by id.
    """

    queries: int
    changed: float
    largest_difference: float
    tau: Interval


@dataclass(frozen=True, slots=True)
class DocumentBias:
    """How far one system depends on properties of documents that should not count.

    Args:
        system: the name of the system.
        queries: the number of lists that were ranked.
        length: the preference for long documents; see `LengthBias`.
        copies: the effect of copies; see `CopyBias`. Empty for a first stage, and if no list has a relevant and another
            document.
        twins: the effect of near-duplicates, for each edit that fits some document; see `TwinBias`. Empty for a first
            stage.
        ids: the effect of ids; see `IdBias`. None for a first stage, and if no list has two documents.
        bins: the mean reciprocal rank of the relevant document of the highest grade, by its number of words. Bins
            without queries are left out.
        psi: the Position Sensitivity Index over these bins: the formula of Zeng et al. for lengths instead of
            positions. Lengths come with the questions, so it shows more than a preference.
    """

    system: str
    queries: int
    length: LengthBias
    copies: tuple[CopyBias, ...]
    twins: tuple[TwinBias, ...]
    ids: IdBias | None
    bins: tuple[Bin, ...]
    psi: PSI

    def as_dict(self) -> dict[str, Any]:
        """Return the bias as one row for JSON and tables, whose columns are named after what was done and measured."""
        row: dict[str, Any] = {"system": self.system, "queries": self.queries}
        row |= {f"short_{name}" if name == "queries" else name: x for name, x in _fields(self.length, ())}
        for copies in self.copies:
            prefix = f"{copies.copies}_copies" if copies.copies > 1 else "copy"
            row |= {f"{prefix}_{name}": x for name, x in _fields(copies, ("copies",))}
        for twin in self.twins:
            row |= {f"{twin.edit.replace(' ', '_')}_{name}": x for name, x in _fields(twin, ("edit",))}
        if self.ids is not None:
            row |= {f"ids_exchanged_{name}": x for name, x in _fields(self.ids, ("queries",))}
        return row | {"bins": list(map(dataclasses.asdict, self.bins)), "psi": dataclasses.asdict(self.psi)}


def measure_documents(
    system: str,
    reranker: Reranker | None,
    lists: Iterable[tuple[str, CandidateList]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    twins_of: Set[str] | None = None,
    seed: int = 0,
) -> DocumentBias:
    """Rank every list as it is, with copies and near-duplicates added, and with exchanged ids.

    Args:
        system: the name of the system in the result.
        reranker: any reranker. It ranks each list and up to six of its variants. If None, only the preference of the
            first stage's own order for length is measured.
        lists: the (query id, candidates) of each query, best first.
        qrels: the grades by query id and document id.
        twins_of: the ids of the queries for which near-duplicates are made. These must be read, which takes most of the
            time if everything else has kept states. If None, all queries.
        seed: the seed for the exchange of ids and for the intervals.

    Raises:
        InputError: if no list has a document.

    Example:
        >>> from sightline import load_reranker
        >>> documents = [Document(text[:4], text) for text in ("Cats purr. They do.", "Dogs bark.", "Cows moo.")]
        >>> lists = [("q", CandidateList.of("what do cats do", documents))]
        >>> bias = measure_documents("minilm", load_reranker(), lists, {"q": {"Cats": 1}})
        >>> bias.ids.largest_difference, bias.copies[0].largest_difference, [twin.edit for twin in bias.twins]
        (0.0, 0.0, ['first sentence dropped', 'last sentence dropped'])
    """
    length, copies, twins, ids = _Lengths(), {n: _Copies() for n in _COPIES}, dict[str, _Twins](), _Ids()
    queries = 0
    for id, candidates in lists:
        if not candidates.passages:
            continue
        queries += 1
        grades = qrels.get(id, {})
        # No index has BM25 scores of what is added, and lists with and without them could not be compared.
        candidates = dataclasses.replace(candidates, bm25=None)
        if reranker is None:
            length.add(candidates, candidates.ids, grades)
            continue
        (base,) = rank_lists(reranker, [candidates])
        length.add(candidates, list(base), grades)
        gold = relevant_document(list(base), grades)
        other = next((document for document in base if grades.get(document, 0) <= 0), None)
        variants: list[_Variant] = []
        if gold is not None and other is not None:
            variants += [tally.variant(candidates, base, gold, other, n) for n, tally in copies.items()]
        if gold is not None and (twins_of is None or id in twins_of):
            for edit, twin in _twins(candidates, gold):
                variants.append(twins.setdefault(edit, _Twins()).variant(candidates, gold, twin))
        ranked = rank_lists(reranker, [variant for variant, _ in variants])
        for (_, add), scores in zip(variants, ranked, strict=True):
            add(scores)
        if len(base) > 1:  # alone, as the list itself was: in a batch with others, rounding might change a score too
            exchanged, add = ids.variant(candidates, base, random.Random(f"{seed} {id}"))
            add(*rank_lists(reranker, [exchanged]))
    if not queries:
        raise InputError("none of the lists has a document in it")
    return DocumentBias(
        system,
        queries,
        length.result(seed),
        tuple(tally.result(n, seed) for n, tally in copies.items() if tally.changes),
        tuple(tally.result(edit, seed) for edit, tally in twins.items()),
        ids.result(seed) if ids.taus else None,
        *length.by_length(seed),
    )


# -- length ------------------------------------------------------------------------------------------------------------


class _Lengths:
    def __init__(self) -> None:
        self.longest: list[float] = []
        self.others: list[float] = []
        self.taus: list[float] = []
        self.by_place: dict[int, list[float]] = {}

    def add(self, candidates: CandidateList, ranking: Sequence[str], grades: Mapping[str, int]) -> None:
        from scipy import stats

        words: dict[str, int] = {}
        for block in candidates.blocks:
            words[block.id] = words.get(block.id, 0) + len(block.contents.split())
        rank = {document: i for i, document in enumerate(ranking)}
        gold = [document for document in ranking if grades.get(document, 0) > 0]
        others = [document for document in ranking if grades.get(document, 0) <= 0]
        relevant = relevant_document(ranking, grades)
        if relevant is not None and (place := WORDS.place(words[relevant])) is not None:
            self.by_place.setdefault(place, []).append(1 / (1 + rank[relevant]))
        if len({words[document] for document in others}) > 1:
            tau = stats.kendalltau([words[d] for d in others], [-rank[d] for d in others]).statistic
            self.taus.append(float(tau))
        if not gold or not others:
            return
        longest = max(others, key=words.__getitem__)
        if max(words[document] for document in gold) <= _SHORT * words[longest]:
            best = min(rank[document] for document in gold)
            self.longest.append(float(best < rank[longest]))
            self.others.append(float(np.mean([best < rank[document] for document in others])))

    def result(self, seed: int) -> LengthBias:
        return LengthBias(
            len(self.longest), *(_interval(values, seed) for values in (self.longest, self.others, self.taus))
        )

    def by_length(self, seed: int) -> tuple[tuple[Bin, ...], PSI]:
        """Reciprocal rank of the relevant document by its length."""
        places = sorted(self.by_place)
        groups = [self.by_place[place] for place in places]
        bins = [
            Bin(WORDS.labels[place], len(group), **dataclasses.asdict(interval(group, seed=seed)))
            for place, group in zip(places, groups, strict=True)
        ]
        return tuple(bins), grouped_psi(groups, seed=seed) if groups else PSI(None)


# -- copies ------------------------------------------------------------------------------------------------------------


class _Copies:
    def __init__(self) -> None:
        self.changes: list[float] = []
        self.reordered: list[bool] = []
        self.differences: list[float] = []

    def variant(self, candidates: CandidateList, base: Mapping[str, float], gold: str, other: str, n: int) -> _Variant:
        names = _new_ids(other, "copy", n, base)
        source = candidates.arranged([other])
        states = source.states or (None,) * len(source.passages)
        added = [
            (dataclasses.replace(block, id=name), state)
            for name in names
            for block, state in zip(source.blocks, states, strict=True)
        ]
        # Copies go to the bottom, behind their original and the rest: a reranker that looks at places shows it there.
        # Kept states are of the text, so that a copy has them too.

        def add(scores: dict[str, float]) -> None:
            before, after = list(base), [document for document in scores if document in base]
            self.changes.append(float(after.index(gold) - before.index(gold)))
            self.reordered.append(before != after)
            self.differences.append(max(abs(scores[name] - scores[other]) for name in names))

        return candidates.with_blocks(added, len(candidates.passages)), add

    def result(self, n: int, seed: int) -> CopyBias:
        return CopyBias(
            len(self.changes),
            n,
            interval(self.changes, seed=seed),
            float(np.mean(self.reordered)),
            float(np.mean([difference > 0 for difference in self.differences])),
            max(self.differences),
        )


# -- near-duplicates ---------------------------------------------------------------------------------------------------


def _twins(candidates: CandidateList, gold: str) -> list[tuple[str, Document]]:
    """What is left of the relevant document's first block, by what was taken from it."""
    block = candidates.arranged([gold]).blocks[0]
    (name,) = _new_ids(gold, "twin", 1, candidates.ids)
    edits = []
    if block.title:
        edits.append(("title dropped", Document(name, block.text, "")))
    spans = sentence_spans(block.text)
    if len(spans) > 1:
        edits.append(("first sentence dropped", Document(name, block.text[spans[1][0] :], block.title)))
        edits.append(("last sentence dropped", Document(name, block.text[: spans[-2][1]], block.title)))
    return edits


class _Twins:
    def __init__(self) -> None:
        self.scores: list[float] = []
        self.ranks: list[float] = []

    def variant(self, candidates: CandidateList, gold: str, twin: Document) -> _Variant:
        # Of the relevant document, the list has only the block that the twin was made of, and it is read anew like the
        # twin: kept states are rounded, and would differ from a twin's by that too.
        place = next(i for i, passage in enumerate(candidates.passages) if passage.document.id == gold)
        others = candidates.arranged([document for document in candidates.ids if document != gold])
        count = len(others.passages)
        alone = others.with_blocks([(candidates.passages[place].as_document(), None)], min(place, count))
        at = 0 if place > count / 2 else count + 1

        def add(scores: dict[str, float]) -> None:
            order = list(scores)
            spread = float(np.std(list(scores.values())))
            self.scores.append((scores[twin.id] - scores[gold]) / spread if spread > 0 else 0.0)
            self.ranks.append(float(order.index(twin.id) - order.index(gold)))

        return alone.with_blocks([(twin, None)], at), add

    def result(self, edit: str, seed: int) -> TwinBias:
        return TwinBias(
            edit,
            len(self.ranks),
            interval(self.scores, seed=seed),
            interval(self.ranks, seed=seed),
            float(np.mean([change < 0 for change in self.ranks])),
        )


# -- ids ---------------------------------------------------------------------------------------------------------------


class _Ids:
    def __init__(self) -> None:
        self.differences: list[float] = []
        self.taus: list[float] = []

    def variant(self, candidates: CandidateList, base: Mapping[str, float], rng: random.Random) -> _Variant:
        ids = candidates.ids
        shuffled = rng.sample(ids, len(ids))
        if shuffled == ids:  # then nothing would be exchanged
            shuffled = ids[1:] + ids[:1]
        named = dict(zip(ids, shuffled, strict=True))

        def add(scores: dict[str, float]) -> None:
            before, after = list(base), list(scores)
            ranks = np.array([[before.index(id), after.index(named[id])] for id in ids]).T
            self.taus.append(float(kendall_tau(ranks)[0, 1]))
            self.differences.append(max(abs(scores[named[id]] - base[id]) for id in ids))

        return candidates.renamed(named), add

    def result(self, seed: int) -> IdBias:
        return IdBias(
            len(self.taus),
            float(np.mean([difference > 0 for difference in self.differences])),
            max(self.differences),
            interval(self.taus, seed=seed),
        )


def _new_ids(id: str, kind: str, n: int, taken: Iterable[str]) -> list[str]:
    taken = set(taken)
    numbered = (f"{id}-{kind}{i}" for i in range(1, len(taken) + n + 2))
    return [name for name in numbered if name not in taken][:n]


def _interval(values: Sequence[float], seed: int) -> Interval | None:
    known = [value for value in values if not math.isnan(value)]
    return interval(known, seed=seed) if known else None


def _fields(bias: Any, but: Sequence[str]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in dataclasses.asdict(bias).items() if name not in but]
