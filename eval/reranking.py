"""Reranking a TREC run: the same candidates, in a better order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from ..errors import InputError
from ..rerank.base import Reranker
from ..retrieval.stores import Store
from ..search import CandidateList
from .candidates import GivenLists, rank_lists, read_lists
from .dataset import Dataset
from .trec import trec_order

__all__ = ["rerank_run", "rerank_run_each", "with_positives"]

T = TypeVar("T")

_QUERIES_AT_ONCE = 16  # lists whose documents are read together; bounds the token states in memory


def rerank_run(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    reranker: Reranker,
    candidates: int = 100,
    progress: Callable[[int], None] | None = None,
    index: Store | None = None,
) -> dict[str, dict[str, float]]:
    """Rerank the top of a run.

    A document that is longer than the model reads is cut into passages, and gets the score of its best one.

    Args:
        dataset: the data set that has the texts.
        run: the scores by query id and document id. Queries that the data set lacks are ignored, with a warning.
        reranker: the reranker to use.
        candidates: the number of candidates that are taken of each query. Those below are left out of the result.
        progress: a function that is called with the number of queries that are done.
        index: an index of the data set, by whose word statistics a reranker that uses BM25 scores. If None, the
            statistics that ship with Sightline are used.

    Returns:
        The scores by query id and document id, best first.

    Raises:
        DataError: if a candidate has no text, or no query of the run is in the data set.
        InputError: if ``candidates`` is below 1.
    """
    return rerank_run_each(dataset, run, [reranker], candidates, progress, index)[0][0]


def rerank_run_each(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    rerankers: Sequence[Reranker],
    candidates: int = 100,
    progress: Callable[[int], None] | None = None,
    index: Store | None = None,
) -> list[tuple[dict[str, dict[str, float]], float]]:
    """Rerank the top of a run by several rerankers; those that share a model read each document once.

    See `rerank_run` for the arguments and errors.

    Returns:
        For each reranker, what `rerank_run` returns, and its milliseconds: all of the reading, which it would have had
        to do alone, and its own ranking.
    """
    given = GivenLists(dataset, run, candidates, index)
    windows, readers = [reranker.window for reranker in rerankers], [reranker.reader for reranker in rerankers]
    words = {id(window) for reranker, window in zip(rerankers, windows, strict=True) if reranker.uses_bm25}
    lists = {id(window): given.lists(window, bm25=id(window) in words) for window in windows}
    runs: list[dict[str, dict[str, float]]] = [{} for _ in rerankers]
    seconds = [0.0] * len(rerankers)
    for start in range(0, len(given.queries), _QUERIES_AT_ONCE):
        part = {key: dict(islice(left, _QUERIES_AT_ONCE)) for key, left in lists.items()}
        read: dict[tuple[int, int], tuple[list[CandidateList], float]] = {}
        for number, (reranker, window, reader) in enumerate(zip(rerankers, windows, readers, strict=True)):
            some = list(part[id(window)].values())
            if reader is not None and readers.count(reader) > 1:
                key = (id(reader), id(window))
                if key not in read:
                    read[key] = _timed(partial(read_lists, reader, some))
                some, reading = read[key]
                seconds[number] += reading
            scores, ranking = _timed(partial(rank_lists, reranker, some))
            seconds[number] += ranking
            runs[number] |= zip(part[id(window)], scores, strict=True)
        if progress is not None:
            progress(min(start + _QUERIES_AT_ONCE, len(given.queries)))
    return [(reranked, spent * 1e3) for reranked, spent in zip(runs, seconds, strict=True)]


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work gives, and its seconds."""
    started = time.perf_counter()
    done = work()
    return done, time.perf_counter() - started


def with_positives(
    dataset: Dataset, run: Mapping[str, Mapping[str, float]], candidates: int = 100
) -> dict[str, dict[str, float]]:
    """The top of a run, and below it every relevant document that is not there.

    What is measured on such lists is how a reranker orders them, and no longer what a user would have got.

    Args:
        dataset: has judgements and texts; a relevant document without a text is not added, nor one with the query's id.
        run: the scores by query id and document id.
        candidates: the number of candidates per query, to which the relevant ones are added.

    Returns:
        Scores by query id and document id; they say the order and no more.

    Raises:
        InputError: if ``candidates`` is below 1.
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, not {candidates}")
    relevant = {
        id: [document for document, grade in dataset.qrels[id].items() if grade > 0 and document != id]
        for id in dataset.queries
    }
    texts = {
        document.id for document in dataset.documents(only={d for documents in relevant.values() for d in documents})
    }
    out = {}
    for id, documents in relevant.items():
        top = trec_order(run.get(id, {}))[:candidates]
        lists = [*top, *(document for document in documents if document in texts and document not in top)]
        if lists:
            out[id] = {document: -float(rank) for rank, document in enumerate(lists)}
    return out
