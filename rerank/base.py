"""The seam for rerankers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..documents import Document
from ..errors import InputError
from .results import DocumentStates, Ranking

if TYPE_CHECKING:
    pass

__all__ = ["Candidate", "Reranker", "as_documents"]

Candidate = Document | str | Mapping[str, Any]


class Reranker(Protocol):
    """What a reranker must do.

    For every reranker whose layout has no ids in the text and restarts positions per block: permuting the candidates
    changes no score, nor do batch size and the split over calls (beyond rounding), duplicates get equal scores, and
    truncation takes document text only and is counted.

    A reranker that is served, or ranks documents longer than it reads, also has ``reads``: its ``room`` is how many
    tokens of a document it reads, and ``token_offsets(text)`` says which characters each token of a text covers.

    Attributes:
        name: as asked for.
    """

    name: str

    def rank(
        self,
        query: str,
        documents: Sequence[Candidate],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
        states: Sequence[DocumentStates | None] | None = None,
        best_per_id: bool = False,
    ) -> Ranking:
        """Rank one list.

        Documents that the model cannot tell apart are tied: they stand in the order of their ids, then of their texts.
        Documents without a text or title are ranked last, with mass 0, and change nothing for the others. The ranking
        warns of both.

        Args:
            query: a text with at least one token.
            documents: `Document`, plain strings, or mappings with ``text`` and optionally ``id`` and ``title``.
            top_n: how many to return, at least 1; None, or more than there are, for all. All are ranked either way.
            evidence: mark what got the attention in the returned documents.
            states: for each document its kept token states, or None to read its text.
            best_per_id: documents that share an id are passages of one document: return the best of each.

        Raises:
            InputError: if the query or a document cannot be used.
            RankingError: if a score is not finite: weights or kept states are damaged.
        """
        ...

    def rank_batch(
        self,
        lists: Sequence[tuple[str, Sequence[Candidate]]],
        top_n: int | None = None,
        *,
        evidence: Literal["sentence", "token"] | None = None,
    ) -> list[Ranking]:
        """Rank several lists; no list ever influences another."""
        ...


def as_documents(candidates: Sequence[Candidate]) -> list[Document]:
    """Candidates as documents; those without an id get their place in the list, from 0, or a variant that is free.

    In a mapping, a ``text`` or ``title`` that is None or NaN counts as empty, and an ``id`` that is None as absent.

    Raises:
        InputError: naming the place of a candidate that cannot be used.
    """
    if isinstance(candidates, str | Document | Mapping) or not isinstance(candidates, Collection):
        raise InputError(f"documents must be a list, not a single {type(candidates).__name__}")
    documents = []
    given = {id for candidate in candidates if (id := _id(candidate)) is not None}
    for place, candidate in enumerate(candidates):
        try:
            if isinstance(candidate, Document):
                documents.append(candidate)
            elif isinstance(candidate, str):
                documents.append(Document(_free_id(place, given), candidate))
            elif isinstance(candidate, Mapping):
                if "text" not in candidate:
                    raise InputError(f"has no 'text'; there are: {', '.join(map(repr, candidate)) or 'no fields'}")
                id = _free_id(place, given) if _id(candidate) is None else candidate["id"]
                documents.append(Document(id, _text(candidate["text"]), _text(candidate.get("title"))))
            else:
                raise InputError(
                    f"a candidate must be a Document, a string or a mapping, not {type(candidate).__name__}"
                )
        except InputError as error:
            raise InputError(f"candidate {place}: {error}") from error
    return documents


def _id(candidate: object) -> Any:
    if isinstance(candidate, Mapping):
        return candidate.get("id")
    return candidate.id if isinstance(candidate, Document) else None


def _free_id(place: int, given: Collection[Any]) -> str:
    name = str(place)
    while name in given:
        name += "'"
    return name


def _text(value: Any) -> Any:
    """A field's value; None and NaN, with which tables fill what is missing, are empty."""
    return "" if value is None or (isinstance(value, float) and value != value) else value
