"""Candidate lists as the pipeline hands them to a reranker, to be ranked again in other orders.

They are taken where the reranker sits, so passages, cuts and kept token states are those of the system that searches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...documents import Document
from ...models.reader import DocumentStates, document_states
from ...rerank.base import Request, Reranker, Scored
from ...retrieval.index import Index
from ...search import FirstStage, Searcher
from ..dataset import Dataset
from ..rerank_run import rerank_run

__all__ = ["CandidateList", "given_lists", "rank_lists", "searched_lists"]

_QUERIES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class CandidateList:
    """What a reranker is given for one query.

    Args:
        query: its text.
        blocks: passages, or whole documents, those of the best document first; what shares an id is one document.
        states: for each block its kept token states, or None to have it read; None if there are none at all.

    Example:
        >>> found = CandidateList("q", (Document("a", "One."), Document("b", "Two."), Document("a", "Three.")))
        >>> found.ids, [block.text for block in found.arranged(["b", "a"]).blocks]
        (['a', 'b'], ['Two.', 'One.', 'Three.'])
    """

    query: str
    blocks: tuple[Document, ...]
    states: tuple[DocumentStates | None, ...] | None = None

    @property
    def ids(self) -> list[str]:
        """Of the documents, best first."""
        return list(dict.fromkeys(block.id for block in self.blocks))

    def arranged(self, ids: Sequence[str]) -> CandidateList:
        """These documents, in this order; others are left out."""
        places: dict[str, list[int]] = {id: [] for id in ids}
        for i, block in enumerate(self.blocks):
            if block.id in places:
                places[block.id].append(i)
        order = [i for id in ids for i in places[id]]
        return dataclasses.replace(self, blocks=_picked(self.blocks, order), states=_picked(self.states, order))

    def top(self, n: int) -> CandidateList:
        """The first ``n`` documents."""
        return self.arranged(self.ids[:n])

    def with_blocks(self, added: Sequence[tuple[Document, DocumentStates | None]], at: int) -> CandidateList:
        """With more blocks before the one at this place."""
        blocks, states = self.blocks, self.states
        if states is not None:
            states = (*states[:at], *(state for _, state in added), *states[at:])
        return dataclasses.replace(
            self, blocks=(*blocks[:at], *(block for block, _ in added), *blocks[at:]), states=states
        )


def _picked(values: Any, places: Sequence[int]) -> Any:
    return None if values is None else tuple(values[i] for i in places)


def rank_lists(reranker: Reranker, lists: Sequence[CandidateList]) -> list[dict[str, float]]:
    """Rank lists; a document's score is that of its best block.

    What is in several of the lists is read once.

    Returns:
        For each list, score by document id, best first.
    """
    if all(one.states is None for one in lists):
        rankings = reranker.rank_batch([(one.query, one.blocks) for one in lists])
    else:
        read = _read_missing(reranker, lists)
        rankings = [
            reranker.rank(
                one.query,
                one.blocks,
                states=None
                if one.states is None
                else [state or read.get(block.contents) for block, state in zip(one.blocks, one.states, strict=True)],
            )
            for one in lists
        ]
    out: list[dict[str, float]] = []
    for ranking in rankings:
        best: dict[str, float] = {}
        for item in ranking:
            best.setdefault(item.document.id, item.score)
        out.append(best)
    return out


def _read_missing(reranker: Reranker, lists: Sequence[CandidateList]) -> dict[str, DocumentStates]:
    """States by text of the blocks that come without, if the reranker's model can be asked for them."""
    missing = dict.fromkeys(
        block.contents
        for one in lists
        if one.states is not None
        for block, state in zip(one.blocks, one.states, strict=True)
        if state is None
    )
    if not missing or reranker.reader is None:
        return {}
    return dict(zip(missing, document_states(reranker.reader, list(missing)), strict=True))


def searched_lists(
    index: Index, first_stage: FirstStage, reranker: Reranker | None, queries: Mapping[str, str], depth: int
) -> Iterator[tuple[str, CandidateList]]:
    """What a first stage finds in an index, as it is handed to the reranker.

    Args:
        index: to search.
        first_stage: its name.
        reranker: whom the lists are for; kept token states are handed over if they are its model's. None for lists
            without states.
        queries: texts by id.
        depth: documents per list.

    Yields:
        (query id, list); queries for which nothing is found have an empty one.
    """
    collector = _Collector(reranker)
    searcher = Searcher(index, collector, first_stage=first_stage, candidates=depth)
    ids = list(queries)
    for start in range(0, len(ids), _QUERIES_AT_ONCE):
        part = ids[start : start + _QUERIES_AT_ONCE]
        searcher.search_batch([queries[id] for id in part], k=1)
        yield from zip(part, collector.take(), strict=True)


def given_lists(
    dataset: Dataset, run: Mapping[str, Mapping[str, float]], reranker: Reranker | None, depth: int
) -> Iterator[tuple[str, CandidateList]]:
    """The top of a given run, as `rerank_run` hands it to the reranker; see `searched_lists`."""
    collector = _Collector(reranker)
    ranked = rerank_run(dataset, run, collector, depth)
    yield from zip(ranked, collector.take(), strict=True)


class _Collector(Reranker):
    """Sits in a reranker's place, ranks nothing, and keeps what it is given."""

    def __init__(self, reranker: Reranker | None) -> None:
        self.name = self.layout = self.model = "none"
        if reranker is not None:
            # What it reads of a text, and with which model, decides passages and kept states.
            self.name, self.reader, self.window = reranker.name, reranker.reader, reranker.window
        self._lists: list[CandidateList] = []

    def take(self) -> list[CandidateList]:
        """What came since the last time."""
        taken, self._lists = self._lists, []
        return taken

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        for one in lists:
            states = tuple(one.states) if any(one.states) else None
            self._lists.append(CandidateList(one.query, tuple(one.documents), states))
        return [Scored(np.zeros(len(one.documents))) for one in lists]
