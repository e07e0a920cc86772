"""What can be ranked, and whether a request can be served."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

from ..documents import Document, Grain, encodable
from ..errors import InputError

__all__ = ["Candidate", "as_documents", "check_request", "has_id"]

Candidate = Document | str | Mapping[str, Any]


def check_request(
    query: str,
    documents: Sequence[Candidate],
    top_n: int | None = None,
    evidence: Grain | None = None,
) -> list[Document]:
    """The documents of a request that can be served; see `Reranker.rank`.

    Raises:
        InputError: naming what is wrong.
    """
    if not isinstance(query, str):
        raise InputError(f"the query must be a string, not {type(query).__name__}")
    if not encodable(query):
        raise InputError(f"the query {query!r} has a lone surrogate; clean it")
    if top_n is not None and (not isinstance(top_n, Integral) or isinstance(top_n, bool) or top_n < 1):
        raise InputError(f"top_n must be a whole number of at least 1, or None for all, not {top_n!r}")
    if evidence not in (None, "sentence", "token"):
        raise InputError(f"evidence must be 'sentence' or 'token', not {evidence!r}")
    return as_documents(documents)


def as_documents(candidates: Sequence[Candidate]) -> list[Document]:
    """Candidates as documents; those without an id get their place in the list, from 0, or a variant that is free.

    In a mapping, a ``text`` or ``title`` that is None or NaN counts as empty, and an ``id`` that is None as absent.

    Raises:
        InputError: naming the place of a candidate that cannot be used.
    """
    if isinstance(candidates, str | Document | Mapping) or not isinstance(candidates, Collection):
        raise InputError(f"documents must be a list, not a single {type(candidates).__name__}")
    documents = []
    taken = {id for candidate in candidates if (id := _id(candidate)) is not None}
    for place, candidate in enumerate(candidates):
        try:
            if isinstance(candidate, Document):
                documents.append(candidate)
            elif isinstance(candidate, str):
                documents.append(Document(_free_id(place, taken), candidate))
            elif isinstance(candidate, Mapping):
                if "text" not in candidate:
                    raise InputError(f"has no 'text'; there are: {', '.join(map(repr, candidate)) or 'no fields'}")
                id = _free_id(place, taken) if _id(candidate) is None else candidate["id"]
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


def _free_id(place: int, taken: Collection[Any]) -> str:
    name = str(place)
    while name in taken:
        name += "'"
    return name


def _text(value: Any) -> Any:
    """A field's value; None and NaN, with which tables fill what is missing, are empty."""
    return "" if value is None or (isinstance(value, float) and value != value) else value


def has_id(candidate: Candidate) -> bool:
    """Whether a candidate came with an id of its own."""
    return isinstance(candidate, Document) or (isinstance(candidate, Mapping) and candidate.get("id") is not None)
