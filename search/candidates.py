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
    """The candidates of one query. It stands for itself: ranking it asks no index.

    Made by `sightline.Searcher.candidates`, or out of your own documents by `CandidateList.of`; ranked by
    `sightline.Searcher.rank`.

    Args:
        query: the query.
        passages: N passages with their documents, as a reranker is given them; those of one document share its id.
        scores: score of each passage in the first stage.
        first: rank from 1 and score of each document in the first stage, by id, best first.
        first_stage: name of the first stage.
        states: kept token states of each passage, or None for a passage to be read; None if there are none at all.
        reader: revision and maximal length of the reader whose token states these are.
        decoder_states: kept decoder states of each passage, or None for a passage to be read; None if there are none.
        reading: how the decoder states of the index were read, whether or not the list has them; None if it keeps none.
        bm25: BM25 score of each passage by the statistics of its collection; None if there are none.
        milliseconds: wall time: ``retrieve`` to find the passages, ``fetch`` to fetch them, ``states`` to open their
            token states.

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
        """A list of your own documents.

        Args:
            query: a text.
            passages: passages, or documents to be taken whole, those of the best document first.
            scores: score by document id; None for minus the rank, which says the order and no more.
            first_stage: where they come from.
        """
        taken = tuple(whole(passage) if isinstance(passage, Document) else passage for passage in passages)
        ids = dict.fromkeys(passage.document.id for passage in taken)
        if scores is None:
            scores = {id: -float(rank) for rank, id in enumerate(ids, start=1)}
        first = {id: (rank, scores[id]) for rank, id in enumerate(ids, start=1)}
        return cls(query, taken, tuple(scores[passage.document.id] for passage in taken), first, first_stage)

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in the order of the list."""
        return list(dict.fromkeys(passage.document.id for passage in self.passages))

    @property
    def blocks(self) -> list[Document]:
        """The passages as a reranker reads them: each as a document of its own."""
        return [passage.as_document() for passage in self.passages]

    def states_for(self, reranker: Reranker) -> tuple[DocumentStates | StoredBlock | None, ...] | None:
        """The token states if they are those of the reranker's reader, the decoder states if it reads so; else None."""
        if self.reader is not None and self.reader == identity(reranker.reader):
            return self.states
        return self.decoder_states if self.decoder_misfit(reranker) == "" else None

    def decoder_misfit(self, reranker: Reranker) -> str | None:
        """Why a reranker cannot use the decoder states of the index; "" if it can.

        None if the reranker is no decoder, or the index keeps no decoder states.
        """
        return None if self.reading is None or reranker.reading is None else reranker.reading.misfit(self.reading)

    def with_states(self, reader: BlockReader, states: Sequence[DocumentStates | None]) -> CandidateList:
        """The list with the token states that a reader gave for the passages, or None for a passage to be read."""
        return dataclasses.replace(self, states=tuple(states), reader=identity(reader))

    def arranged(self, ids: Sequence[str]) -> CandidateList:
        """These documents, in this order; others are left out."""
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
        """The first ``n`` documents."""
        return self.arranged(self.ids[:n])

    def with_blocks(self, added: Sequence[tuple[Document, DocumentStates | None]], at: int) -> CandidateList:
        """The list with more documents before the passage at a place; the first stage gave them no score, which is NaN.

        No index has BM25 scores of them, so the new list has none, and rerankers score the words of all texts alike.

        Args:
            added: documents, each with its token states, or None to have it read.
            at: the place, from 0 to N.
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
        """The same texts under other ids.

        Args:
            ids: the new id of every document.
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
    """A document as one passage."""
    return Passage(document, 0, len(document.text))


def identity(reader: BlockReader | None) -> tuple[str, int] | None:
    """What tells a reader's token states from those of another: its revision and maximal length."""
    return None if reader is None else (reader.revision, reader.max_length)


def _picked(values: tuple[T, ...], places: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[i] for i in places)
