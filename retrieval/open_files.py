"""The files of an index as one process has them open, and what they hold as of the last commit of any process.

An open index follows its writer: each call takes the `Snapshot` of the last commit, and what a writer does meanwhile is
in another. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import xxhash

from ..errors import IndexCorruptError, IndexMismatchError, IndexStoreError, InputError
from ..files import digest
from ..models.sparse import SparseEncoder
from .engines import open_vector_index
from .files import DATABASE, RESTORE, AppendFile, loading, locked, populate, storage_errors
from .filters import Filter
from .manifest import Manifest
from .multivector import MULTIVECTOR_FILE, Centroids, MultiVectorIndex, grown, lag
from .store import DocumentStore
from .token_states import SPANS, StatesForm, states_form
from .vector_index import VectorIndex
from .words import Words, open_words

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["OpenFiles", "Snapshot"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_VECTORS = "vectors.f32"
_MASKS = 32  # filters whose rows a snapshot remembers, a byte a row


@dataclass(slots=True, weakref_slot=True, eq=False)
class Snapshot:
    """An index as of one commit.

    Args:
        version: the versions of the database, see `DocumentStore.version`, and of the manifest.
        manifest: the manifest as of that commit.
        vectors: the embeddings of all rows, deleted ones included: float32 (rows, dim), memory-mapped; None if the
            index keeps none.
        states: the token states of all rows, in the form they are kept; None if the index keeps none.
        table: what their form learnt, see `StatesForm.learn`; None if it learns nothing, or there are no states yet.
        spans: the characters that each of these tokens covers, as they are kept. None if there are none.
        decoder: the decoder states of all rows, uint8 (tokens, bytes per token); see `StoredBlock`. None if there are
            none.
        documents: int64 (rows,), the number of the document that each row belongs to; 0 for rows that were deleted.
        live: bool (rows,), which rows belong to documents that are not deleted.
        whole: whether each of these documents is one passage.
        structure: the open file of the FAISS structure.
        engine: the engine that searches the vectors, once it is needed.
        masks: the rows that each filter allows.
    """

    version: tuple[int, ...]
    manifest: Manifest
    vectors: np.ndarray | None
    states: np.ndarray | None
    table: np.ndarray | None
    spans: np.ndarray | None
    decoder: np.ndarray | None
    documents: np.ndarray
    live: np.ndarray
    whole: bool
    structure: BinaryIO | None
    engine: VectorIndex | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)


class _Connection:
    """What one process has open; a fork, or another index in the place of this one, makes another."""

    def __init__(self, path: Path, manifest: Manifest, sparse_encoder: SparseEncoder | None) -> None:
        self.store = DocumentStore(path / DATABASE)
        self.words = open_words(manifest.lexical, path, self.store, sparse_encoder)
        self.process = os.getpid()
        self.snapshot: Snapshot | None = None
        self.held = threading.local()
        self.centroids: Centroids | None = None
        self.clustering = threading.Lock()


# Connections that a forked process inherited: SQLite forbids a child even to close them.
_INHERITED: list[_Connection] = []


class OpenFiles:
    """The files of one index, open.

    Args:
        path: the directory of the index.
        manifest: the manifest, loaded while writers were kept out.
        sparse_encoder: the encoder of learned sparse vectors. If None, it is loaded when it is first needed.

    Raises:
        IndexStoreError: if the database cannot be opened.
    """

    def __init__(self, path: Path, manifest: Manifest, sparse_encoder: SparseEncoder | None = None) -> None:
        self.path = path
        self._sparse_encoder = sparse_encoder
        self.settings = manifest
        self.lock = threading.RLock()
        self.closed = False
        dim, states = manifest.encoder.dim, manifest.token_states
        self.vectors = AppendFile(path / _VECTORS, np.dtype((np.float32, (dim,)))) if dim else None
        self.form: StatesForm | None = None
        self.states = self.table = None
        self.spans = AppendFile(path / "states.spans", SPANS)
        if states.dim is not None:
            self.form = states_form(states.kind, states.dim)
            self.states = AppendFile(path / f"states.{states.kind}", self.form.dtype)
            if self.form.codes is not None:
                self.table = AppendFile(path / "states.table", np.dtype((np.float32, self.form.codes[1:])))
        self.decoder = None
        if (form := manifest.decoder_states) is not None:
            self.decoder = AppendFile(path / f"decoder.{form.kind}", np.dtype((np.uint8, (form.token_bytes,))))
        self._connection = _Connection(path, manifest, sparse_encoder)

    @property
    def store(self) -> DocumentStore:
        """The document store."""
        return self._connection.store

    @property
    def words(self) -> Words:
        """The lexical part."""
        return self._connection.words

    def close(self) -> None:
        """Release the files; afterwards every other call is refused."""
        self.closed = True
        self.words.close()
        self._connection.snapshot = None
        self.store.close()

    # -- following the writer ----------------------------------------------------------------------------------------

    def now(self) -> Snapshot:
        """The files as of the last commit of any process.

        Raises:
            IndexStoreError: if the index was closed, or another index was put in its place.
        """
        if self.closed:
            raise IndexStoreError(f"{self.path}: this index was closed; open it again")
        connection = self._connection
        held: Snapshot | None = getattr(connection.held, "snapshot", None)
        if held is not None:
            return held
        if connection.process != os.getpid():
            self.lock = threading.RLock()  # a thread of the parent may have held it
        else:
            snapshot = connection.snapshot
            if snapshot is not None and snapshot.version == self._version(connection):
                return snapshot
        with self.lock, loading(self.path):
            return self.map()

    def _version(self, connection: _Connection) -> tuple[int, ...]:
        """Changes with every commit, and when the writer signs its commits or another index takes this one's place."""
        try:
            signed = (self.path / "manifest.json").stat()
        except OSError:
            return connection.store.version()  # removed
        return *connection.store.version(), signed.st_ino, signed.st_mtime_ns

    def _current(self) -> _Connection:
        """What is open, opened again after a fork and where another index was put in the place of this one."""
        old = self._connection
        inherited = old.process != os.getpid()
        if not inherited and not old.store.replaced:
            return old
        there = Manifest.load(self.path)
        if there.settings() != self.settings.settings():
            raise IndexMismatchError(
                f"{self.path}: was replaced by an index with other settings ({self.settings.difference(there)}); "
                "open it again"
            )
        new = _Connection(self.path, self.settings, self._sparse_encoder)
        new.words.attach()  # before other threads see it
        self._connection = new
        if inherited:
            _INHERITED.append(old)
        else:
            old.words.close()
        return new

    def map(self) -> Snapshot:
        """Map the files as they are now; the caller keeps writers from committing."""
        connection = self._current()
        store = connection.store
        version, old = self._version(connection), connection.snapshot
        if old is not None and old.version == version:
            return old
        manifest = Manifest.load(self.path)
        rows = store.rows()
        connection.words.attach()
        structure = None
        if manifest.faiss.file is not None:
            # Opened now, read when first needed: a writer may have replaced and removed the file by then.
            file = self.path / manifest.faiss.file
            try:
                structure = file.open("rb")
            except OSError as error:
                raise IndexCorruptError(f"{file}: cannot be read ({error.strerror}); {RESTORE}") from error
        documents, tokens = store.document_numbers(rows), store.token_rows()
        snapshot = Snapshot(
            version,
            manifest,
            self.vectors.map(rows) if self.vectors else None,
            self.states.map(tokens) if self.states else None,
            self.table.map(self.form.codes[0]) if self.table and self.form and self.form.codes and tokens else None,
            self.spans.map(tokens) if manifest.token_states.spans else None,
            self.decoder.map(store.decoder_tokens()) if self.decoder else None,
            documents,
            documents > 0,
            _whole(documents),
            structure,
        )
        if structure is not None:
            weakref.finalize(snapshot, structure.close)
        connection.snapshot = snapshot
        return snapshot

    def read(self, work: Callable[[], T]) -> T:
        """Do ``work`` on one state of the index; see `sightline.retrieval.index.Index.read`."""
        if getattr(self._connection.held, "snapshot", None) is not None:
            return work()  # within another call of this thread, which looks for commits at its end
        for _ in range(3):
            before = self.now()
            try:
                with self._holding(before):
                    done = work()
            except Exception:
                if self.now() is before:
                    raise
                continue
            if self.now() is before:
                return done
        with self.lock, loading(self.path), self._holding(self.map()):
            return work()

    @contextlib.contextmanager
    def _holding(self, snapshot: Snapshot) -> Iterator[None]:
        """Let this thread's calls use one snapshot, and not look for a later one."""
        held = self._connection.held
        held.snapshot = snapshot
        try:
            yield
        finally:
            held.snapshot = None

    # -- what a search needs of a snapshot ---------------------------------------------------------------------------

    def vector_index(self, snapshot: Snapshot) -> VectorIndex:
        """What searches the vectors of a snapshot.

        Raises:
            InputError: if the index keeps no embeddings.
            IndexCorruptError: if the structure does not have the bytes it was written with.
        """
        if snapshot.vectors is None:
            raise InputError(
                f"{self.path}: built without embeddings (encoder none), so it can only be searched with bm25; "
                "build it again with an encoder for dense and hybrid"
            )
        with self.lock:
            if snapshot.engine is None:
                faiss, structure = snapshot.manifest.faiss, None
                if snapshot.structure is not None:
                    structure = Path(f"/dev/fd/{snapshot.structure.fileno()}")
                    # FAISS trusts its files: a damaged one can crash it, or keep it busy for ever.
                    self._check_structure(structure, snapshot.manifest)
                snapshot.engine = open_vector_index(snapshot.vectors, faiss.factory, faiss.parameters, structure)
        return snapshot.engine

    def token_keys(self, snapshot: Snapshot, ranges: Sequence[tuple[int, int]]) -> list[Keys]:
        """Ranges of a snapshot's token states as attention keys, memory-mapped; the index keeps states."""
        assert snapshot.states is not None and self.form is not None
        populate(snapshot.states, ranges)
        return self.form.decode(snapshot.states, ranges, snapshot.table)

    def multi_vectors(self, snapshot: Snapshot) -> MultiVectorIndex:
        """What searches the token states of a snapshot.

        Centroids follow the index where they lag behind it, and are written for other processes where that is possible.

        Raises:
            InputError: if the index keeps no token states.
            MissingExtraError: if there are so many passages that they are clustered, and FAISS is not installed.
        """
        if snapshot.states is None:
            raise InputError(
                f"{self.path}: built without token states, so multivector cannot search it; build it again with "
                "--token-states int8, and an encoder or --reader"
            )
        connection = self._connection
        with connection.clustering:
            if lag(connection.centroids, snapshot.live) and len(snapshot.states):
                connection.centroids = self._followed(snapshot, connection.centroids)
        return MultiVectorIndex(connection.centroids, partial(self._states_of, snapshot))

    def keep_multi_vectors(self) -> None:
        """Let centroids follow the index, if anybody searches by them; the caller is the one writer."""
        if (self.path / MULTIVECTOR_FILE).exists():
            self.multi_vectors(self.now())

    def _followed(self, snapshot: Snapshot, held: Centroids | None) -> Centroids:
        """Centroids that lag behind a snapshot no more: those of the file, if they don't; else made now, and written.

        They are no part of the index, for they follow from its states. So whoever searches may write them.
        """
        read = partial(self._states_of, snapshot)
        states = snapshot.states
        assert states is not None
        made: Centroids | None = None
        try:
            with locked(self.path / ".multivector.lock"):
                loaded = Centroids.load(self.path / MULTIVECTOR_FILE)
                if loaded is not None and loaded.source != self._source(loaded.rows):
                    loaded = None  # of another index, in whose place this one is
                if loaded is not None and not lag(loaded, snapshot.live):
                    return loaded
                source = self._source(len(snapshot.live))
                made = grown(loaded or held, snapshot.live, len(states), source, read)
                with storage_errors(self.path, "the index is as it was"):
                    made.save(self.path / MULTIVECTOR_FILE)
        except IndexCorruptError:
            raise
        except IndexStoreError as error:
            logger.warning(
                "centroids of token states cannot be saved, so they are used by this process only (%s)", error
            )
        return made or grown(held, snapshot.live, len(states), "", read)

    def _states_of(self, snapshot: Snapshot, rows: np.ndarray) -> list[Keys]:
        return self.token_keys(snapshot, self.store.token_ranges(rows.tolist()))

    def _source(self, rows: int) -> str:
        """Names the token states of the first rows: equal names have equal states. "" if there are not so many rows."""
        assert self.states is not None
        if not 0 < rows <= self.store.rows():
            return ""
        [(_, stop)] = self.store.token_ranges([rows - 1])
        stop *= self.states.dtype.itemsize
        name = self.states.path.name
        written = [(part.start, part.digest) for part in self.store.segments() if part.file == name]
        known = [part for part in written if part[0] < stop]
        return xxhash.xxh3_128_hexdigest(repr((name, known)).encode())

    def allowed(self, snapshot: Snapshot, where: Mapping[str, Any] | None) -> np.ndarray:
        """Rows of a snapshot that a search may return: bool (rows,).

        Raises:
            InputError: see `DocumentStore.live`.
        """
        if where is None:
            return snapshot.live
        filter = Filter(where)
        mask = snapshot.masks.get(filter.key)
        if mask is None:
            if len(snapshot.masks) == _MASKS:
                snapshot.masks.clear()
            mask = snapshot.masks[filter.key] = self.store.live(len(snapshot.live), filter)
        return mask

    # -- checking ----------------------------------------------------------------------------------------------------

    def verify(self) -> bool:
        """Check every file against its checksum, for a caller that keeps writers out.

        Returns:
            Whether the last write was cut off at its end, so that the lexical part may lack some of it.

        Raises:
            IndexCorruptError: naming the first file that does not have the bytes it was written with.
        """
        connection, manifest = self._current(), Manifest.load(self.path)
        store = connection.store
        with storage_errors(self.path, "nothing was changed"):
            interrupted = store.change_counter() != manifest.store.counter
            if interrupted:
                store.check()
            elif digest(store.path) != manifest.store.digest:
                raise IndexCorruptError(f"{store.path}: checksum mismatch; {RESTORE}")
            for segment in store.segments():
                path = self.path / segment.file
                if not path.is_file() or digest(path, segment.start, segment.stop) != segment.digest:
                    raise IndexCorruptError(
                        f"{path}: bytes {segment.start} to {segment.stop} are not what was written; {RESTORE}"
                    )
            if manifest.faiss.file is not None:
                self._check_structure(self.path / manifest.faiss.file, manifest)
            connection.words.verify()
        return interrupted

    def _check_structure(self, file: Path, manifest: Manifest) -> None:
        if not file.exists() or digest(file) != manifest.faiss.digest:
            raise IndexCorruptError(f"{self.path / str(manifest.faiss.file)}: checksum mismatch; {RESTORE}")


def _whole(documents: np.ndarray) -> bool:
    """Whether no two rows are of one live document; the rows of a document stand together."""
    return not bool(((documents[1:] == documents[:-1]) & (documents[1:] > 0)).any())
