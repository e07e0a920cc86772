"""The words of an index: its lexical engine, BM25 or learned sparse vectors, kept in step with the document store.

An engine may live in the store's database and commit with it, or beside it and catch up after each commit. `Index` and
its writer know neither: they call `Words`. A new engine is a `LexicalIndex`, a subclass here, a line in `_ENGINES` and
a name for `sightline.names.LexicalName`.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import IndexMismatchError, InputError, ModelError
from ..models.sparse import SparseEncoder, load_sparse_encoder
from .fts5 import Fts5Index
from .lexical_index import LexicalIndex
from .manifest import LexicalRecord
from .pyserini_index import PyseriniIndex
from .sparse_index import SparseIndex, SparsePostings
from .store import DocumentStore
from .tantivy_index import TantivyIndex

__all__ = ["FOLDERS", "Words", "built_sparse_encoder", "open_words"]

FOLDERS = _LUCENE, _TANTIVY, _SPARSE = ("lucene", "tantivy", "sparse")
"""Folders of engines, within that of the index."""
_PASSAGES_AT_ONCE = 512


class _EngineBeside(LexicalIndex, Protocol):
    """An engine that knows what it holds."""

    def rows(self) -> list[int]: ...


def open_words(
    record: LexicalRecord, folder: Path, store: DocumentStore, encoder: SparseEncoder | None = None
) -> Words:
    """Open the lexical part of an index.

    Args:
        record: the manifest's record of the words of the index.
        folder: the folder of the index.
        store: the open document store of the index.
        encoder: the encoder of learned sparse vectors, if it is loaded already.
    """
    return _ENGINES[record.engine](record, folder, store, encoder)


class Words:
    """The lexical part of one open index. This class is the part of an index that keeps no words.

    Args:
        record: the manifest's record of the words of the index.
        folder: the folder of the index.
        store: the open document store of the index.
        encoder: the encoder of learned sparse vectors. If None, it is loaded when it is first needed.
    """

    def __init__(
        self, record: LexicalRecord, folder: Path, store: DocumentStore, encoder: SparseEncoder | None = None
    ) -> None:
        self._record = record
        self._folder = folder
        self._store = store
        self._encoder = encoder

    @property
    def engine(self) -> LexicalIndex:
        """What searches.

        Raises:
            InputError: if the index keeps no words.
        """
        raise InputError(
            f"{self._folder}: built without a lexical index; build it again with one for bm25, sparse and hybrid"
        )

    def make(self) -> None:
        """Make what must be there before the first document."""

    def attach(self) -> None:
        """Take up the state of the last commit, while the caller keeps writers out."""

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Take in passages, within the transaction that adds them to the store."""

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget passages, within the transaction that deletes them from the store."""

    def committed(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Take in passages right after the transaction that added them; `catch_up` takes in what is missed here."""

    def catch_up(self) -> None:
        """Follow the commits that were made; the caller is the one writer."""

    def verify(self) -> None:
        """Check files that have checksums, and that the store does not check.

        Raises:
            IndexCorruptError: naming the first file that does not have the bytes it was written with.
        """

    def rebuild(self) -> None:
        """Rebuild, within a transaction, what has no checksum and may have been cut off when its writer was killed."""

    def rebuild_in_memory(self) -> bool:
        """As `rebuild`, for this process alone, where the files cannot be written; whether that is possible."""
        return False

    def close(self) -> None:
        """Release processes."""


class _StoredWords(Words):
    """FTS5, in the database of the store: it commits with the documents."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._fts5: Fts5Index | None = None
        self._in_memory = False  # until somebody who may write mends the file

    @property
    def engine(self) -> LexicalIndex:
        assert self._fts5 is not None, "attach comes first"
        return self._fts5

    def make(self) -> None:
        with self._store.transaction():
            Fts5Index(self._store.connection)

    def attach(self) -> None:
        if self._fts5 is None or self._in_memory:
            self._in_memory = False
            with self._store.translated():
                self._fts5 = Fts5Index(self._store.connection, self._store.lock)

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        self.engine.add(rows, texts)

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        self.engine.delete(rows, texts)

    def rebuild(self) -> None:
        self._fts5 = self._indexed(self._store.connection, self._store.lock)

    def rebuild_in_memory(self) -> bool:
        self._fts5 = self._indexed(sqlite3.connect(":memory:", check_same_thread=False), threading.RLock())
        self._in_memory = True
        return True

    def _indexed(self, connection: sqlite3.Connection, lock: threading.RLock) -> Fts5Index:
        connection.execute("DROP TABLE IF EXISTS lexical")
        fts5 = Fts5Index(connection, lock)
        _add_rows(fts5, self._store, np.flatnonzero(self._store.live(self._store.rows())).tolist(), _PASSAGES_AT_ONCE)
        return fts5


class _WordsBeside(Words, ABC):
    """An engine in a folder of its own: it commits by itself, follows the store, and starts when it is first needed."""

    passages_at_once = 16_384  # each time is a commit of the engine

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._started: _EngineBeside | None = None

    @abstractmethod
    def _start(self) -> _EngineBeside: ...

    @property
    def engine(self) -> _EngineBeside:
        if self._started is None:
            self._started = self._start()
        return self._started

    def catch_up(self) -> None:
        engine, live = self.engine, set(np.flatnonzero(self._store.live(self._store.rows())).tolist())
        indexed = set(engine.rows())
        if indexed - live:
            engine.delete(sorted(indexed - live), [])
        _add_rows(engine, self._store, sorted(live - indexed), self.passages_at_once)

    def close(self) -> None:
        if self._started is not None:
            self._started.close()


class _LuceneWords(_WordsBeside):
    """Lucene, in a process of its own."""

    def _start(self) -> PyseriniIndex:
        return PyseriniIndex(self._folder / _LUCENE)


class _TantivyWords(_WordsBeside):
    """Tantivy, which other processes may search while this one writes."""

    def make(self) -> None:
        self._started = TantivyIndex(self._folder / _TANTIVY, create=True)

    def _start(self) -> TantivyIndex:
        return TantivyIndex(self._folder / _TANTIVY)


class _SparseWords(_WordsBeside):
    """Learned sparse vectors, which other processes may search while this one writes."""

    passages_at_once = 2048  # so that an interrupted reading has not lost much

    @property
    def _path(self) -> Path:
        return self._folder / _SPARSE

    def make(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)  # of a making that was interrupted, perhaps for another model
        SparsePostings(self._path, dim=self._record.dim or 0, create=True)

    def _start(self) -> SparseIndex:
        return SparseIndex(self._path, self._load)

    def committed(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        self.engine.add(rows, texts)  # batch by batch, since a model reads them

    def verify(self) -> None:
        SparsePostings(self._path).verify()

    def _load(self) -> SparseEncoder:
        """The encoder by which the index was built."""
        if self._encoder is not None:
            return self._encoder
        return built_sparse_encoder(self._record, self._folder)


def built_sparse_encoder(
    record: LexicalRecord, index: object, encoder: str | SparseEncoder | None = None
) -> SparseEncoder:
    """Load and check the sparse encoder that an index was built with.

    Args:
        record: the manifest's record of the words of the index.
        index: the name of the index, for messages.
        encoder: an encoder to use in its place, or the path of one. If None, the one that the record names.

    Raises:
        ModelError: if it cannot be loaded.
        IndexMismatchError: if it gives other weights than those that the index keeps, or the index keeps no learned
            sparse vectors.
    """
    if record.engine != "sparse":
        raise IndexMismatchError(f"{index}: keeps no learned sparse vectors; open it without sparse_encoder")
    if encoder is None or isinstance(encoder, str):
        name = encoder or record.model or ""
        try:
            encoder = load_sparse_encoder(name, revision=record.revision or None)
        except ModelError as error:
            raise ModelError(
                f"{index}: its sparse encoder {name!r} cannot be loaded ({error}); if the model was moved, open "
                "the index with sparse_encoder= and the new path"
            ) from error
    if (encoder.revision, encoder.dim) != (record.revision, record.dim):
        raise IndexMismatchError(
            f"{index}: built with the sparse encoder {record.model!r} of revision {record.revision!r} ({record.dim} "
            f"terms), and {encoder.name!r} is {encoder.revision!r} ({encoder.dim} terms); open it with its own, or "
            "build it again"
        )
    return encoder


def _add_rows(engine: LexicalIndex, store: DocumentStore, rows: Sequence[int], at_once: int) -> None:
    for start in range(0, len(rows), at_once):
        stored = store.passages(rows[start : start + at_once])
        engine.add(list(stored), [passage.passage.contents for passage in stored.values()])


_ENGINES: dict[str, type[Words]] = {
    "fts5": _StoredWords,
    "tantivy": _TantivyWords,
    "pyserini": _LuceneWords,
    "sparse": _SparseWords,
    "none": Words,
}
