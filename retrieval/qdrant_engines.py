"""The seam for Qdrant's engine, in this process or on a server: the few calls that a store makes, with one meaning.

An index has two parts: ``passages``, with the vectors that searches need, and ``states``, what a reranker fetches for a
few candidates, so that nothing else ever reads it.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from .qdrant_filters import BIG, MARKS, NUMBERS, TEXTS, Where
from .store import Traffic

__all__ = ["PAGE", "Engine", "FieldKind", "Hit", "Nearest", "Part", "Plan", "Point", "as_uuid", "number_of"]

Part = Literal["passages", "states"]
FieldKind = Literal["keyword", "integer", "float"]
_KEYWORDS, _INTEGERS = ("words", "document", MARKS), ("passage", "length", "empty")
PAGE = 512
"""Points that a scroll fetches at once."""


class Point(NamedTuple):
    """A point to write.

    Args:
        id: its number, of 128 bits.
        vectors: the dense ones as lists of floats, sparse ones as mappings.
        payload: the payload, as JSON-like values.
    """

    id: int
    vectors: dict[str, list[float] | dict[int, float]]
    payload: dict[str, Any]


class Hit(NamedTuple):
    """A point that a search found."""

    id: int
    score: float
    payload: dict[str, Any]


class Nearest(NamedTuple):
    """A search for the passages with the largest inner product.

    Args:
        using: the name of the vectors, ``dense`` or ``words``.
        vector: the vector of the query: a list of floats, or a mapping for ``words``.
        exact: whether to compare all vectors, even if there is a graph over them.
    """

    using: str
    vector: Any
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """The vectors of an index.

    Args:
        dim: length of an embedding; 0 if there are none.
        links: the number of links of the HNSW graph over the embeddings; 0 for exact search without a graph.
        words: whether there are sparse vectors for words.
    """

    dim: int
    links: int
    words: bool


class Engine(ABC):
    """What the store needs of Qdrant.

    Attributes:
        name: the store's name, for messages.
        traffic: requests and bytes so far; None where they are not counted.
    """

    name: str
    shared: ClassVar[bool]  # whether other processes may write meanwhile

    def __init__(self, name: str) -> None:
        self.name = name
        self.traffic: Traffic | None = None
        self._writes = 0

    @property
    def writes(self) -> int:
        """A number that changes with every write of this process."""
        return self._writes

    @abstractmethod
    def exists(self) -> bool:
        """Whether the index is there."""

    @abstractmethod
    def vectors(self) -> dict[str, int]:
        """The names of the passages' vectors, with the length of those that have one, else 0."""

    @abstractmethod
    def create(self, plan: Plan) -> None:
        """Make both parts where they are missing."""

    @abstractmethod
    def upsert(self, part: Part, points: Sequence[Point], *, new_only: bool = False) -> None:
        """Write points, durably; with ``new_only`` those that are there stay as they are."""

    @abstractmethod
    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]], where: Where) -> None:
        """Replace a sparse vector of those passages that meet conditions.

        Raises:
            IndexStoreError: if a passage is not there. The others are written.
        """

    @abstractmethod
    def delete(self, part: Part, where: Where) -> None:
        """Delete points."""

    @abstractmethod
    def retrieve(
        self, part: Part, ids: Sequence[int], fields: Sequence[str], *, dense: bool = False
    ) -> dict[int, dict[str, Any]]:
        """Fields of the payload of those points that are there, by id; ``dense`` adds their embedding, so named."""

    @abstractmethod
    def search(self, searches: Sequence[Nearest], k: int, where: Where, fields: Sequence[str]) -> list[list[Hit]]:
        """The best ``k`` passages of each search, best first, in one request."""

    @abstractmethod
    def count(self, where: Where) -> int:
        """How many passages meet conditions."""

    @abstractmethod
    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """How many passages hold each value under a key that has an index."""

    @abstractmethod
    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """All points that meet conditions, by id."""

    @abstractmethod
    def index_field(self, key: str, kind: FieldKind) -> None:
        """Have an index over a field of the payload; nothing if there is one."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """Bytes by file, of what is on this machine."""

    @abstractmethod
    def flush(self) -> None:
        """Build what is due, and write all out."""

    @abstractmethod
    def beside(self) -> Engine:
        """The place where an index that is to replace this one is built."""

    @abstractmethod
    def take(self, other: Engine) -> None:
        """Let an index from `beside` be this one from now on, and remove the old."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the index."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def index_fields(self) -> None:
        """Have the indexes that every passage needs."""
        for key in _KEYWORDS:
            self.index_field(key, "keyword")
        for key in _INTEGERS:
            self.index_field(key, "integer")

    def index_values(self, payload: Mapping[str, Any]) -> None:
        """Have indexes over the values that filters compare in a payload of `qdrant_filters.payload_of`."""
        kinds: dict[str, FieldKind] = {TEXTS: "keyword", BIG: "keyword", NUMBERS: "float"}
        for part, kind in kinds.items():
            for key in payload[part]:
                self.index_field(f"{part}.{key}", kind)


def as_uuid(id: int) -> str:
    """A point's number as Qdrant writes it."""
    return str(uuid.UUID(int=id))


def number_of(id: Any) -> int:
    """A point's number from what Qdrant gives."""
    return id.int if isinstance(id, uuid.UUID) else uuid.UUID(str(id)).int
