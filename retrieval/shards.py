"""Shards of a build: which documents one of several processes indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import xxhash

from ..documents import Document
from ..errors import InputError
from .store import as_json

__all__ = ["Shard", "ShardStream"]


@dataclass(frozen=True, slots=True)
class Shard:
    """The documents that one of several processes indexes: those whose ids, as a hash, fall to it.

    Which documents these are depends only on their ids, so any process can continue what another one left.

    Args:
        number: the number of this shard, from 0.
        of: the number of all shards.

    Raises:
        InputError: if there is no such shard.

    Example:
        >>> [[id for id in "abcdef" if Shard(number, 2).holds(id)] for number in range(2)]
        [['d', 'e', 'f'], ['a', 'b', 'c']]
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InputError(
                f"shards are counted from 0, so a shard of {self.of} is one of 0 to {self.of - 1}, not {self.number}"
            )

    def holds(self, id: str) -> bool:
        """Tell whether the document with this id belongs to this shard."""
        return xxhash.xxh3_64_intdigest(id.encode()) % self.of == self.number

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"


class ShardStream:
    """The documents of a stream that belong to a shard, and a digest of them when the stream has ended.

    Args:
        documents: all documents of the stream.
        shard: the shard whose documents are taken.

    Attributes:
        seen: the number of documents of the stream so far.
        count: the number of those that belong to the shard.
    """

    def __init__(self, documents: Iterable[Document], shard: Shard) -> None:
        self._documents, self._shard = documents, shard
        self.seen = self.count = self._sum = 0

    def __iter__(self) -> Iterator[Document]:
        for document in self._documents:
            self.seen += 1
            if self._shard.holds(document.id):
                self.count += 1
                fields = f"{document.id}\0{document.title}\0{document.text}\0{as_json(document.metadata)}"
                self._sum += xxhash.xxh3_64_intdigest(fields.encode())
                yield document

    @property
    def digest(self) -> str:
        """A digest of the documents of the shard, whatever their order."""
        return f"{self._sum % (1 << 64):016x}"
