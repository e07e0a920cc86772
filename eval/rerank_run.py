"""Reranking a TREC run: the same candidates, in a better order."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from ..documents import Document
from ..errors import DataError, InputError
from ..models.reader import BlockReader, DocumentStates, document_states
from ..rerank.base import Reranker
from ..retrieval.passages import Splitter
from .dataset import Dataset
from .trec import trec_order

__all__ = ["known_queries", "rerank_run", "rerank_run_each", "with_positives"]

logger = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 16  # lists whose documents are read together; bounds the token states in memory


def rerank_run(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    reranker: Reranker,
    depth: int = 100,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Rerank the top of a run.

    A document longer than the model reads is cut into passages, and scored by its best.

    Args:
        dataset: has the texts.
        run: scores by query id and document id. Queries that the data set lacks are passed over, with a warning.
        reranker: see `Reranker`.
        depth: candidates per query; those below are left out of the result.
        progress: called with the number of queries done.

    Returns:
        scores by query id and document id, best first.

    Raises:
        DataError: if a candidate has no text, or no query of the run is in the data set.
        InputError: if ``depth`` is below 1.
    """
    return rerank_run_each(dataset, run, [reranker], depth, progress)[0][0]


def rerank_run_each(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    rerankers: Sequence[Reranker],
    depth: int = 100,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[dict[str, dict[str, float]], float]]:
    """Rerank the top of a run by several rerankers; those that share a model read each document once.

    See `rerank_run` for the arguments and errors.

    Returns:
        For each reranker, what `rerank_run` returns, and its milliseconds: all of the reading, which it would have had
        to do alone, and its own ranking.
    """
    if depth < 1:
        raise InputError(f"depth must be at least 1, not {depth}")
    known = known_queries(dataset, run)
    top = {id: trec_order(run[id])[:depth] for id in known}
    wanted = {document for documents in top.values() for document in documents}
    texts = {document.id: document for document in dataset.documents(only=wanted)}
    for query, documents in top.items():
        missing = [document for document in documents if document not in texts]
        if missing:
            raise DataError(f"query {query!r}: candidate {missing[0]!r} is not in the corpus", path=dataset.folder)
    readers = [reranker.reader for reranker in rerankers]
    blocks = [_blocks(texts, reranker) for reranker in rerankers]
    outs: list[dict[str, dict[str, float]]] = [{} for _ in rerankers]
    spent = [0.0] * len(rerankers)
    for start in range(0, len(known), _QUERIES_AT_ONCE):
        part = known[start : start + _QUERIES_AT_ONCE]
        states: dict[int, dict[str, DocumentStates]] = defaultdict(dict)
        reading: dict[int, float] = defaultdict(float)
        for number, (reranker, reader) in enumerate(zip(rerankers, readers, strict=True)):
            lists = [(dataset.queries[q], [block for d in top[q] for block in blocks[number][d]]) for q in part]
            started = time.perf_counter()
            if reader is not None and readers.count(reader) > 1:
                known_states = states[id(reader)]
                _read(reader, [block for _, candidates in lists for block in candidates], known_states)
                reading[id(reader)] += time.perf_counter() - started
                spent[number] += reading[id(reader)]
                started = time.perf_counter()
                rankings = [
                    reranker.rank(query, candidates, states=[known_states.get(block.contents) for block in candidates])
                    for query, candidates in lists
                ]
            else:
                rankings = reranker.rank_batch(lists)
            spent[number] += time.perf_counter() - started
            for q, ranking in zip(part, rankings, strict=True):
                best: dict[str, float] = {}
                for item in ranking:
                    best.setdefault(item.document.id, item.score)
                outs[number][q] = best
        if progress is not None:
            progress(start + len(part))
    return [(out, seconds * 1e3) for out, seconds in zip(outs, spent, strict=True)]


def _blocks(texts: Mapping[str, Document], reranker: Reranker) -> dict[str, list[Document]]:
    """By document id, what the reranker reads as one: the document, or its passages where it is too long."""
    window = reranker.window
    splitter = None if window is None else Splitter(window.token_offsets, window.room)
    blocks = {}
    for id, text in texts.items():
        passages = splitter.split(text) if splitter else []
        blocks[id] = [Document(id, p.text, text.title) for p in passages] if len(passages) > 1 else [text]
    return blocks


def _read(reader: BlockReader, blocks: Sequence[Document], known: dict[str, DocumentStates]) -> None:
    """Add the states of texts that are not known yet."""
    texts = [text for text in dict.fromkeys(block.contents for block in blocks if not block.empty) if text not in known]
    known.update(zip(texts, document_states(reader, texts), strict=True))


def known_queries(dataset: Dataset, run: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The run's queries that the data set has, in the run's order; others are passed over, with a warning.

    Raises:
        DataError: if there is none.
    """
    known = [id for id in run if id in dataset.queries]
    if not known:
        raise DataError(f"none of the run's {len(run)} queries is in {dataset.name}, split {dataset.split}")
    if len(known) < len(run):
        logger.warning("%d of the run's %d queries are not in the data set", len(run) - len(known), len(run))
    return known


def with_positives(
    dataset: Dataset, run: Mapping[str, Mapping[str, float]], depth: int = 100
) -> dict[str, dict[str, float]]:
    """The top of a run, and below it every relevant document that is not there.

    What is measured on such lists is how a reranker orders them, and no longer what a user would have got.

    Args:
        dataset: has judgements and texts; a relevant document without a text is not added, nor one with the query's id.
        run: scores by query id and document id.
        depth: candidates per query, to which the relevant ones are added.

    Returns:
        Scores by query id and document id; they say the order and no more.

    Raises:
        InputError: if ``depth`` is below 1.
    """
    if depth < 1:
        raise InputError(f"depth must be at least 1, not {depth}")
    relevant = {
        id: [document for document, grade in dataset.qrels[id].items() if grade > 0 and document != id]
        for id in dataset.queries
    }
    texts = {document.id for document in dataset.documents(only={d for found in relevant.values() for d in found})}
    out = {}
    for id, wanted in relevant.items():
        top = trec_order(run.get(id, {}))[:depth]
        lists = [*top, *(document for document in wanted if document in texts and document not in top)]
        if lists:
            out[id] = {document: -float(rank) for rank, document in enumerate(lists)}
    return out
