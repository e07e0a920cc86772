"""Copying an index into another store: no text is read again, and the copy is the index as it was at one moment."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import IndexMismatchError, InputError
from .manifest import Manifest, StoreRecord
from .reading import StoredBatch

__all__ = ["Source", "Target", "planned_copy", "synchronise"]

logger = logging.getLogger(__name__)

_DOCUMENTS = 64  # fetched and written at once, with their token states
_PASSES = 10


class Source(Protocol):
    """What can be copied: every `sightline.retrieval.stores.Store`, which describes the methods."""

    @property
    def path(self) -> Path | str:
        """The folder, or the name of the store."""

    @property
    def manifest(self) -> Manifest:
        """What the index is."""

    def digests(self) -> Iterator[dict[str, str]]:
        """Iterate over a digest of each document, by id."""

    def stored(self, ids: Sequence[str]) -> StoredBatch:
        """Return documents with all that is kept of them."""


class Target(Protocol):
    """The writer of a copy."""

    def table(self) -> np.ndarray | None:
        """Return the table that the form of the copy's token states has learned; None if it has none yet."""

    def digests_of(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the digests of the documents with these ids; see `sightline.retrieval.store.digest_of`."""

    def ids(self) -> Iterable[str]:
        """Return the ids of all documents."""

    def replace(self, batch: StoredBatch) -> None:
        """Write documents, and replace those that have the same ids."""

    def remove(self, ids: Sequence[str]) -> None:
        """Delete documents."""


def planned_copy(source: Source) -> Manifest:
    """Return the manifest of an empty copy, with the settings of the index.

    Raises:
        InputError: if the index keeps learned sparse vectors or decoder states, which cannot be copied.
    """
    built = source.manifest
    if built.decoder_states is not None or built.lexical.engine == "sparse":
        kept = "decoder states" if built.decoder_states is not None else "learned sparse vectors"
        raise InputError(
            f"{source.path}: keeps {kept}, which cannot be copied; build the other index from the documents"
        )
    return dataclasses.replace(built, complete=False, counts={}, store=StoreRecord())


def synchronise(source: Source, target: Target, progress: Callable[[int], None] | None = None) -> None:
    """Write what differs and delete what is gone, again and again until one pass over the index finds no difference.

    At the beginning of that pass, the copy equalled the index. An interrupted copy continues, since it lacks only what
    was not written yet.

    Args:
        source: the index to copy from.
        target: the writer of the copy.
        progress: a function that is called with the number of documents that the first pass has compared.

    Raises:
        IndexMismatchError: if the index was replaced by another since the copy began, so that token states which are
            copied already can no longer be decoded in the same way.
    """
    for trial in range(_PASSES):
        there: set[str] = set()
        differing = 0
        for digests in source.digests():
            there |= digests.keys()
            kept = target.digests_of(list(digests))
            waiting = iter([id for id, digest in digests.items() if kept.get(id) != digest])
            while some := list(itertools.islice(waiting, _DOCUMENTS)):
                differing += len(some)
                batch, table = source.stored(some), target.table()
                if batch.table is not None and table is not None and not np.array_equal(batch.table, table):
                    raise IndexMismatchError(
                        f"{source.path}: another index has replaced this one since the copy began, so what was copied "
                        "is of no use; copy it again"
                    )
                target.replace(batch)
            if progress is not None and not trial:
                progress(len(there))
        gone = [id for id in target.ids() if id not in there]
        if gone:
            target.remove(gone)
        if not differing and not gone:
            return
    logger.warning(
        "%s: was changed during each of %d passes over it. Every document of the copy is whole, but they may be of "
        "different moments; copy the index while less is written to it",
        source.path,
        _PASSES,
    )
