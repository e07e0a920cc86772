"""The interface of Qdrant's engine, in this process or on a server: the calls that a store makes.

An index has two parts. ``passages`` has the vectors and payloads that searches need. ``states`` has the token states,
which a reranker fetches for its candidates and nothing else reads.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from ..errors import IndexStoreError
from .qdrant_filters import BIG, MARKS, NUMBERS, TEXTS, Where
from .store import Traffic

__all__ = ["PAGE", "Engine", "FieldKind", "Hit", "Nearest", "Part", "Plan", "Point", "RefusedError"]
__all__ += ["as_uuid", "number_of"]

Part = Literal["passages", "states"]
FieldKind = Literal["keyword", "integer", "float"]
_KEYWORDS, _INTEGERS = ("words", "document", MARKS), ("passage", "length", "empty")
PAGE = 512
"""The number of points that a scroll fetches at once."""


class Point(NamedTuple):
    """A point to write.

    Args:
        id: the id, an integer of 128 bits.
        vectors: dense vectors as lists of floats, sparse ones as mappings.
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


class RefusedError(IndexStoreError):
    """A server has answered that a request is wrong."""


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
    """The calls of Qdrant's engine that a store makes.

    Attributes:
        name: the name of the store, for messages.
        traffic: the number of requests and bytes so far; None if they are not counted.
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
        """Tell whether the index exists."""

    @abstractmethod
    def vectors(self) -> dict[str, int]:
        """Return the length of each vector of the passages, by name; 0 for sparse ones."""

    @abstractmethod
    def create(self, plan: Plan) -> None:
        """Make the parts that do not exist yet."""

    @abstractmethod
    def upsert(self, part: Part, points: Sequence[Point], *, new_only: bool = False) -> None:
        """Write points durably. With ``new_only``, points that exist stay as they are."""

    @abstractmethod
    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]], where: Where) -> None:
        """Replace a sparse vector of passages, if they meet conditions.

        Raises:
            IndexStoreError: if a passage does not exist. The vectors of the others are written.
        """

    @abstractmethod
    def delete(self, part: Part, where: Where) -> None:
        """Delete the points that meet conditions."""

    @abstractmethod
    def retrieve(
        self, part: Part, ids: Sequence[int], fields: Sequence[str], *, dense: bool = False
    ) -> dict[int, dict[str, Any]]:
        """Return fields of the payload of those points that exist, by id. ``dense`` adds the embedding."""

    @abstractmethod
    def search(self, searches: Sequence[Nearest], k: int, where: Where, fields: Sequence[str]) -> list[list[Hit]]:
        """Return the best ``k`` passages of each search, best first, with one request."""

    @abstractmethod
    def count(self, where: Where) -> int:
        """Count the passages that meet conditions."""

    @abstractmethod
    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """Count the passages that have each value of a field. The field must have an index."""

    @abstractmethod
    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Iterate over the points that meet conditions, by id."""

    @abstractmethod
    def index_field(self, key: str, kind: FieldKind) -> None:
        """Make an index over a field of the payload, unless there is one."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """Return the size in bytes of each file on this machine."""

    @abstractmethod
    def flush(self) -> None:
        """Finish pending work, and write everything to disk."""

    @abstractmethod
    def fixed(self) -> Engine:
        """Return the index that has the name now. If another one takes the name, requests fail."""

    @abstractmethod
    def beside(self) -> Engine:
        """Return the place where an index that will replace this one is built."""

    @abstractmethod
    def take(self, other: Engine) -> None:
        """Replace this index by one from `beside`, and remove the old one."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the index."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def index_fields(self) -> None:
        """Make the indexes over fields that every passage has."""
        for key in _KEYWORDS:
            self.index_field(key, "keyword")
        for key in _INTEGERS:
            self.index_field(key, "integer")

    def index_values(self, payload: Mapping[str, Any]) -> None:
        """Make the indexes over values that filters compare; see `qdrant_filters.payload_of`."""
        kinds: dict[str, FieldKind] = {TEXTS: "keyword", BIG: "keyword", NUMBERS: "float"}
        for part, kind in kinds.items():
            for key in payload[part]:
                self.index_field(f"{part}.{key}", kind)


def as_uuid(id: int) -> str:
    """Return the id of a point as Qdrant writes it."""
    return str(uuid.UUID(int=id))


def number_of(id: Any) -> int:
    """Return the id of a point from the form in which Qdrant returns it."""
    return id.int if isinstance(id, uuid.UUID) else uuid.UUID(str(id)).int
