"""Candidate lists: what a first stage hands to a reranker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ..documents import Document, Passage
from ..models.reader import DecoderReading, DocumentStates, StoredBlock

if TYPE_CHECKING:
    from ..models.reader import BlockReader
    from ..rerank.base import Reranker

__all__ = ["CandidateList"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CandidateList:
    """The candidates of one query. A list is self-contained: ranking it does not access the index.

    `sightline.Searcher.candidates` makes such lists, and `CandidateList.of` makes one of your own documents.
    `sightline.Searcher.rank` ranks them.

    Args:
        query: the text of the query.
        passages: N passages with their documents, as a reranker gets them. Passages of one document share its id.
        scores: the score of each passage in the first stage.
        first: the rank (from 1) and score of each document in the first stage, by id, best first.
        first_stage: the name of the first stage.
        states: the token states that the index keeps of each passage; None in the place of a passage that must be read.
            If None, the list has no token states at all.
        reader: the revision and the maximal length of the reader that made the token states.
        decoder_states: the decoder states that the index keeps of each passage; None in the place of a passage that
            must be read. If None, the list has no decoder states at all.
        reading: how the decoder states of the index were made, whether or not the list has them; None if the index
            keeps none.
        bm25: the BM25 score of each passage, by the statistics of its collection; None if there are none.
        milliseconds: the wall time of each step: ``retrieve`` to find the passages, ``fetch`` to fetch them, ``states``
            to open their token states.

    Example:
        >>> documents = [Document("a", "One."), Document("b", "Two."), Document("a", "Three.")]
        >>> candidates = CandidateList.of("q", documents)
        >>> candidates.ids, [block.text for block in candidates.arranged(["b", "a"]).blocks]
        (['a', 'b'], ['Two.', 'One.', 'Three.'])
    """

    query: str
    passages: tuple[Passage, ...]
    scores: tuple[float, ...]
    first: Mapping[str, tuple[int, float]]
    first_stage: str
    states: tuple[DocumentStates | None, ...] | None = None
    reader: tuple[str, int] | None = None
    decoder_states: tuple[StoredBlock | None, ...] | None = None
    reading: DecoderReading | None = None
    bm25: tuple[float, ...] | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        query: str,
        passages: Sequence[Passage | Document],
        scores: Mapping[str, float] | None = None,
        *,
        first_stage: str = "given",
    ) -> CandidateList:
        """Make a list of your own documents.

        Args:
            query: the text of the query.
            passages: passages, or documents that become one passage each. Those of the best document come first.
            scores: a score for each document id. If None, the score is minus the rank, which conveys the order only.
            first_stage: the name of the system that found the documents.
        """
        taken = tuple(whole(passage) if isinstance(passage, Document) else passage for passage in passages)
        ids = dict.fromkeys(passage.document.id for passage in taken)
        if scores is None:
            scores = {id: -float(rank) for rank, id in enumerate(ids, start=1)}
        first = {id: (rank, scores[id]) for rank, id in enumerate(ids, start=1)}
        return cls(query, taken, tuple(scores[passage.document.id] for passage in taken), first, first_stage)

    @property
    def ids(self) -> list[str]:
        """The ids of the documents, in the order of the list."""
        return list(dict.fromkeys(passage.document.id for passage in self.passages))

    @property
    def blocks(self) -> list[Document]:
        """The passages as a reranker reads them: each as a document of its own."""
        return [passage.as_document() for passage in self.passages]

    def states_for(self, reranker: Reranker) -> tuple[DocumentStates | StoredBlock | None, ...] | None:
        """Return the kept states that a reranker can use, of tokens or of a decoder; None if there are none."""
        if self.reader is not None and self.reader == identity(reranker.reader):
            return self.states
        return self.decoder_states if self.decoder_misfit(reranker) == "" else None

    def decoder_misfit(self, reranker: Reranker) -> str | None:
        """Say why a reranker cannot use the decoder states of the index; "" if it can.

        The answer is None if the reranker is not a decoder, or the index keeps no decoder states.
        """
        return None if self.reading is None or reranker.reading is None else reranker.reading.misfit(self.reading)

    def with_states(self, reader: BlockReader, states: Sequence[DocumentStates | None]) -> CandidateList:
        """Make a copy with other token states, each None if the passage must be read."""
        return dataclasses.replace(self, states=tuple(states), reader=identity(reader))

    def arranged(self, ids: Sequence[str]) -> CandidateList:
        """Make a copy with only these documents, in this order."""
        places: dict[str, list[int]] = {id: [] for id in ids}
        for i, passage in enumerate(self.passages):
            if passage.document.id in places:
                places[passage.document.id].append(i)
        order = [i for id in ids for i in places[id]]
        return dataclasses.replace(
            self,
            passages=_picked(self.passages, order),
            scores=_picked(self.scores, order),
            states=None if self.states is None else _picked(self.states, order),
            decoder_states=None if self.decoder_states is None else _picked(self.decoder_states, order),
            bm25=None if self.bm25 is None else _picked(self.bm25, order),
        )

    def top(self, n: int) -> CandidateList:
        """Make a copy with only the first ``n`` documents."""
        return self.arranged(self.ids[:n])

    def with_blocks(self, added: Sequence[tuple[Document, DocumentStates | None]], at: int) -> CandidateList:
        """Make a copy with more documents, before the passage at a place. Their first-stage score is NaN.

        No index has BM25 scores of the new documents, so the new list has none, and rerankers score the words of all
        texts in the same way.

        Args:
            added: the documents to add, each with its token states, or None to have it read.
            at: the place to add them at, from 0 to N.
        """
        states, decoder_states = self.states, self.decoder_states
        if states is not None:
            states = (*states[:at], *(state for _, state in added), *states[at:])
        if decoder_states is not None:
            decoder_states = (*decoder_states[:at], *(None for _ in added), *decoder_states[at:])
        return dataclasses.replace(
            self,
            passages=(*self.passages[:at], *(whole(document) for document, _ in added), *self.passages[at:]),
            scores=(*self.scores[:at], *(float("nan") for _ in added), *self.scores[at:]),
            states=states,
            decoder_states=decoder_states,
            bm25=None,
        )

    def renamed(self, ids: Mapping[str, str]) -> CandidateList:
        """Make a copy of the same texts under other ids.

        Args:
            ids: the new id of every document, by its old id.
        """
        return dataclasses.replace(
            self,
            passages=tuple(
                dataclasses.replace(
                    passage, document=dataclasses.replace(passage.document, id=ids[passage.document.id])
                )
                for passage in self.passages
            ),
            first={ids[id]: place for id, place in self.first.items() if id in ids},
        )


def whole(document: Document) -> Passage:
    """Make a document one passage."""
    return Passage(document, 0, len(document.text))


def identity(reader: BlockReader | None) -> tuple[str, int] | None:
    """Return what distinguishes a reader's token states from those of others: its revision and maximal length."""
    return None if reader is None else (reader.revision, reader.max_length)


def _picked(values: tuple[T, ...], places: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in places)
