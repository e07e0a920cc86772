"""Measurements while training: nDCG@10 of the reranker in its current state, on lists that it does not learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.reranking import rerank_run_each
from ..eval.runs import first_stage_run, load_run
from ..eval.significance import compare, interval
from ..rerank.base import Reranker
from .examples import Source
from .summary import Gain

__all__ = ["MEASURE", "DevSet", "PerQuery", "gains", "load_dev_sets", "mean_of_collections", "measure"]

MEASURE = "nDCG@10"

PerQuery = dict[str, dict[str, float]]
"""Value by collection and query id."""


@dataclass(frozen=True, slots=True)
class DevSet:
    """A collection to measure on.

    Args:
        dataset: the texts, queries and judgements.
        run: the scores of the candidates, by query id and document id.
        candidates: the number of candidates of each query that are reranked.
    """

    dataset: Dataset
    run: Mapping[str, Mapping[str, float]]
    candidates: int = 100

    @property
    def name(self) -> str:
        """The name of the collection and the split, as ``COLLECTION/SPLIT``."""
        return f"{self.dataset.name}/{self.dataset.split}"


def load_dev_sets(
    sources: Sequence[Source],
    runs: Iterable[tuple[str, str | Path]] = (),
    *,
    candidates: int = 100,
    max_queries: int | None = None,
) -> list[DevSet]:
    """Load collections with candidates to measure on.

    Args:
        sources: the judged collections. Their weights do not matter here.
        runs: the name of a collection and the file of a run, for collections that have no ``bm25.<split>.tsv`` or are
            to have other candidates.
        candidates: the number of candidates of each query.
        max_queries: the number of queries that are taken of each collection, the first ones. If None, all of them.

    Raises:
        InputError: if a source is a file of lists, a run names none, or ``candidates`` or ``max_queries`` is below 1.
        DataError: see `load_dataset` and `first_stage_run`.
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, not {candidates}")
    files = dict(runs)
    names = [source.name for source in sources]
    if strange := sorted(set(files) - set(names)):
        raise InputError(f"a run is for {strange[0]!r}; the collections to measure on are {', '.join(names) or 'none'}")
    dev = []
    for source in sources:
        if source.is_file:
            raise InputError(f"{source.path}: give a judged collection to measure on, not a file of lists")
        dataset = load_dataset(source.path, source.split, max_queries=max_queries)
        whole = load_run(files[source.name], source.split) if source.name in files else first_stage_run(dataset)
        run = {id: whole[id] for id in dataset.queries if id in whole}
        if not run:
            raise InputError(f"{dataset.name}, split {dataset.split}: its run has candidates for none of its queries")
        dev.append(DevSet(dataset, run, candidates))
    return dev


def measure(rerankers: Sequence[Reranker], dev: Sequence[DevSet]) -> list[PerQuery]:
    """Measure nDCG@10 of every judged query for each reranker; a query without candidates counts as 0.

    Args:
        rerankers: the rerankers to measure. Those that share a model read each document once.
        dev: the collections to measure on.
    """
    measured: list[PerQuery] = [{} for _ in rerankers]
    for collection in dev:
        ranked = rerank_run_each(collection.dataset, collection.run, rerankers, collection.candidates)
        for by_collection, (run, _) in zip(measured, ranked, strict=True):
            _, values = measure_rankings(
                collection.dataset.qrels, {id: list(scores) for id, scores in run.items()}, [MEASURE]
            )
            by_collection[collection.name] = {id: value[MEASURE] for id, value in values.items()}
    return measured


def mean_of_collections(values: PerQuery) -> float:
    """Return the mean over collections of the mean over queries, so that a large collection does not count more.

    Example:
        >>> mean_of_collections({"small": {"q1": 1.0}, "large": {"q1": 0.0, "q2": 0.0, "q3": 0.0}})
        0.5
    """
    return sum(sum(by_query.values()) / len(by_query) for by_query in values.values()) / len(values)


def gains(before: PerQuery, after: PerQuery) -> dict[str, Gain]:
    """The nDCG@10 of each collection before and after with intervals, and their paired difference."""
    by_collection = {}
    for name, values in after.items():
        pair = {
            "before": {id: {MEASURE: value} for id, value in before[name].items()},
            "after": {id: {MEASURE: value} for id, value in values.items()},
        }
        [difference] = compare(pair, MEASURE)
        by_collection[name] = Gain(
            queries=len(values),
            before=interval(list(before[name].values())),
            after=interval(list(values.values())),
            difference=difference.difference,
            p=difference.p_randomisation,
        )
    return by_collection
