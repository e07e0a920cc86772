"""What rerankers return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from ..documents import Document

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["DocumentStates", "Evidence", "Ranked", "Ranking"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A span that got attention: characters ``[start, end)`` of the document's ``field``, their text, and the mass."""

    start: int
    end: int
    mass: float
    text: str
    field: Literal["text", "title"] = "text"


@dataclass(frozen=True, slots=True)
class DocumentStates:
    """A document's token states, kept from an earlier reading.

    Args:
        keys: (T, D).
        truncated: tokens of the text that were not read.
    """

    keys: Keys
    truncated: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking.

    Args:
        document: the document.
        index: its place in the list that was ranked.
        score: higher is better. Relative to its list: a score says nothing beside a score of another list.
        mass: share of the query's attention that the document got, a mean over signal tokens; over a list it sums to 1.
        truncated: tokens at its end that the model did not read.
        evidence: spans with their mass, if asked for.
        token_mass: attention mass by signal token, in the order of `Ranking.query_tokens`.
    """

    document: Document
    index: int
    score: float
    mass: float
    truncated: int
    evidence: tuple[Evidence, ...] | None
    token_mass: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Ranked]):
    """A ranked list, best first: a sequence of `Ranked`, cut to ``top_n`` where that was asked for.

    Args:
        query: the query.
        items: the documents, best first.
        total: how many documents were ranked.
        query_tokens: the signal tokens.
        truncated: how many of the ranked documents were not read to their end.
        layout: name of the layout.
        model: name of the model.
        revision: of the model's weights.
        dtype: that the token states were computed with, or float16 or int8 where they were kept in it.
        backend: the kernels' backend.
        seconds: wall time.
        warnings: what the reader of this ranking should know.
    """

    query: str
    items: tuple[Ranked, ...]
    total: int
    query_tokens: tuple[str, ...]
    truncated: int
    layout: str
    model: str
    revision: str
    dtype: str
    backend: str
    seconds: float
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Ranked: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Ranked, ...]: ...

    def __getitem__(self, index: int | slice) -> Ranked | tuple[Ranked, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.items)
