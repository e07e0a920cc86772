"""Candidate lists to measure on: those of a given run, those that a first stage finds, and how rerankers score them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

from ..documents import Document, Passage
from ..errors import DataError, InputError
from ..models.reader import BlockReader, Window, document_states
from ..rerank.base import Reranker
from ..retrieval.bm25 import SMALL, blended_bm25
from ..retrieval.passages import Splitter
from ..retrieval.store import StoredPassage
from ..retrieval.stores import Store
from ..search import CandidateList, Searcher
from .dataset import Dataset, candidate_texts
from .trec import trec_order

__all__ = ["GivenLists", "known_queries", "rank_lists", "read_lists", "searched_lists"]

logger = logging.getLogger(__name__)

_NOWHERE = -1  # row of a document without a text, which no index has
_QUERIES_AT_ONCE = 32  # searched together; bounds the candidates in memory


class GivenLists:
    """The top of a run as candidate lists, with the texts of the data set.

    Args:
        dataset: the data set that has the texts.
        run: the scores by query id and document id. Queries that the data set lacks are ignored, with a warning.
        candidates: the number of candidates that are taken of each query. Those below are left out.
        index: an index of the data set, by whose word statistics BM25 scores are computed. If None, the lists have
            none.

    Attributes:
        queries: the ids of the queries, in the run's order.

    Raises:
        DataError: if a candidate has no text, or no query of the run is in the data set.
        InputError: if ``candidates`` is below 1.
    """

    def __init__(
        self,
        dataset: Dataset,
        run: Mapping[str, Mapping[str, float]],
        candidates: int = 100,
        index: Store | None = None,
    ) -> None:
        if candidates < 1:
            raise InputError(f"candidates must be at least 1, not {candidates}")
        self.queries = known_queries(dataset, run)
        self._dataset, self._run = dataset, run
        self._top = {id: trec_order(run[id])[:candidates] for id in self.queries}
        self._texts = candidate_texts(dataset, self._top)
        self._index = index if index is not None and index.manifest.lexical.name.stage == "bm25" else None

    def lists(self, window: Window | None, *, bm25: bool = False) -> Iterator[tuple[str, CandidateList]]:
        """The lists as a reranker is given them: a document that is longer than it reads is cut into passages.

        Args:
            window: an object that tells how much of a text the reranker reads. If None, every document is taken whole.
            bm25: whether the lists have the BM25 scores of the index. If it cuts a document into other passages, no
                list has them, with a warning: scores of two kinds of statistics could not be compared.

        Yields:
            (query id, list), in the order of `queries`.
        """
        splitter = None if window is None else Splitter(window.token_offsets, window.room)
        passages = {id: _cut(document, splitter) for id, document in self._texts.items()}
        rows = self._rows(passages) if bm25 else None
        for id in self.queries:
            query = self._dataset.queries[id]
            pieces = [passage for document in self._top[id] for passage in passages[document]]
            texts = [passage.contents for passage in pieces]
            scores = None if rows is None else self._bm25(query, [row for d in self._top[id] for row in rows[d]], texts)
            yield id, dataclasses.replace(CandidateList.of(query, pieces, self._run[id]), bm25=scores)

    def _rows(self, passages: Mapping[str, list[Passage]]) -> dict[str, list[int]] | None:
        """The row of every passage in the index, by document; None without an index, or if it has others."""
        if self._index is None:
            return None
        indexed: dict[str, list[StoredPassage]] = {}
        for stored in self._index.passages_of(passages):
            indexed.setdefault(stored.passage.document.id, []).append(stored)
        rows: dict[str, list[int]] = {}
        for id, own in passages.items():
            held = indexed.get(id, [])
            places = {(stored.passage.start, stored.passage.end): stored.row for stored in held}
            if len(own) == len(held) == 1:
                rows[id] = [held[0].row]
            elif not held and own[0].document.empty:
                rows[id] = [_NOWHERE]
            elif all((passage.start, passage.end) in places for passage in own):
                rows[id] = [places[passage.start, passage.end] for passage in own]
            else:
                logger.warning(
                    "%s does not have document %r as the reranker reads it, so BM25 scores are by the word statistics "
                    "that ship with Sightline",
                    self._index.path,
                    id,
                )
                return None
        return rows

    def _bm25(self, query: str, rows: Sequence[int], texts: Sequence[str]) -> tuple[float, ...]:
        assert self._index is not None
        own = self._index.bm25(query, rows).tolist()
        return tuple(blended_bm25(query, texts, own, self._index.count_passages(SMALL)))


def _cut(document: Document, splitter: Splitter | None) -> list[Passage]:
    passages = splitter.split(document) if splitter else []
    return passages if len(passages) > 1 else [Passage(document, 0, len(document.text))]


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


def searched_lists(searcher: Searcher, queries: Mapping[str, str]) -> Iterator[tuple[str, CandidateList]]:
    """What a searcher finds, some queries at a time.

    Args:
        searcher: the searcher whose first stage is asked. Kept token states are handed over if its reranker can use
            them.
        queries: the texts of the queries by id.

    Yields:
        (query id, list), in the order of ``queries``; a query for which nothing is found has an empty list.
    """
    ids = list(queries)
    for start in range(0, len(ids), _QUERIES_AT_ONCE):
        part = ids[start : start + _QUERIES_AT_ONCE]
        yield from zip(part, searcher.candidates([queries[id] for id in part]), strict=True)


def read_lists(reader: BlockReader, lists: Sequence[CandidateList]) -> list[CandidateList]:
    """The lists with the token states of their texts, of which each is read once."""
    texts = dict.fromkeys(block.contents for candidates in lists for block in candidates.blocks if not block.empty)
    states = dict(zip(texts, document_states(reader, list(texts)), strict=True))
    return [
        candidates.with_states(reader, [states.get(block.contents) for block in candidates.blocks])
        for candidates in lists
    ]


def rank_lists(reranker: Reranker, lists: Sequence[CandidateList]) -> list[dict[str, float]]:
    """Rank lists; a document's score is that of its best block. What is in several lists is read once.

    Returns:
        For each list, score by document id, best first.
    """
    rankings = reranker.rank_batch(
        [(candidates.query, candidates.blocks) for candidates in lists],
        states=[candidates.states_for(reranker) for candidates in lists],
        bm25=[candidates.bm25 for candidates in lists],
        best_per_id=True,
    )
    return [{item.document.id: item.score for item in ranking} for ranking in rankings]
