"""The index on disk: a directory that can always be opened, whatever happened to the process that wrote it.

``manifest.json`` says what the index is; ``documents.sqlite`` holds documents, passages, BM25 and the list of what was
appended to ``vectors.f32`` and ``states.*``; ``vectors-N.faiss`` is a structure over the first N vectors. A batch is
appended to the raw files first and then committed in the database; what a killed writer left beyond the last commit is
never read and is overwritten by the next writer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

import numpy as np

from .. import __version__
from ..documents import Document, Passage
from ..errors import (
    DataError,
    IndexCorruptError,
    IndexLockedError,
    IndexMismatchError,
    IndexStoreError,
    InputError,
    ModelError,
    SightlineError,
)
from ..files import digest
from ..models.encoder import Encoder, load_encoder
from ..models.reader import BlockReader, load_reader
from .faiss_index import FaissIndex, build_structure, faiss_device, import_faiss, new_structure
from .files import (
    LOCKS,
    WRITER_LOCK,
    AppendFile,
    committing,
    exchange,
    loading,
    locked,
    populate,
    storage_errors,
)
from .filters import Filter
from .fts5 import Fts5Index
from .lexical_index import LexicalIndex
from .manifest import Manifest
from .passages import Splitter, passage_batches
from .pyserini_index import PyseriniIndex
from .sources import ID_FIELDS, read_documents
from .store import DocumentStore, Segment, StoredPassage, as_json
from .token_states import decode, dtype_of, encode

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["Index"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PROBE = "Sightline checks with this sentence that an index meets the encoder it was built with."
_BATCH_PASSAGES = 512  # commits are this far apart; token states of a batch take about 200 MB while it is written
_DATABASE, _VECTORS = "documents.sqlite", "vectors.f32"
_PATIENCE = 0.5  # seconds: whoever opens an index whose writer was killed holds its lock for a moment
_EMBEDDED = ("minilm", "none")
_MASKS = 32  # filters whose rows an index remembers, a byte a row, until the next commit
_ADVICE = "restore the index from a copy, or build it again"


class Index:
    """A collection that can be searched by meaning and by words, and changed by document id.

    Made by `Index.build` or `Index.create`, opened by `Index.open`; use it as a context manager or call `close`. One
    process writes at a time. An open index follows it: each call sees what was last committed, and `read` makes several
    calls see the same. An index can be copied and pickled, by its path, and used in a forked process.

    Example:
        >>> import tempfile
        >>> documents = [Document("a", "Cats purr when they are content."), Document("b", "Dogs bark at strangers.")]
        >>> with Index.build(tempfile.mkdtemp() + "/index", documents) as index:
        ...     rows, scores = index.search_dense(["feline sounds"], k=1)
        ...     index.passages(rows[0])[0].passage.document.id
        'a'
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `Index.build`, `Index.create` or `Index.open`."""
        self.path = path
        self._settings = manifest
        self._given: Encoder | None = None
        self._encoder: Encoder | None = None
        self._vector_file, self._state_file = _files(path, manifest)
        self._lock = threading.RLock()
        self._closed = False
        self._lucene: PyseriniIndex | None = None
        self._connect()

    def _connect(self) -> None:
        self._reading = threading.local()
        self._pid = os.getpid()
        self._store = DocumentStore(self.path / _DATABASE)
        self._file = self._store.version()[0]
        self._snapshot: _Snapshot | None = None
        self._fts5: Fts5Index | None = None
        self._mended = False  # the words are indexed in memory until somebody who may write mends the file

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        encoder: str | Encoder = "minilm",
        encoder_options: Mapping[str, Any] | None = None,
        faiss: str = "Flat",
        faiss_parameters: str = "",
        lexical: Literal["fts5", "pyserini", "none"] = "fts5",
        token_states: Literal["none", "fp16", "int8"] = "int8",
        max_tokens: int | None = None,
        overlap: int = 0,
    ) -> Index:
        """Make an empty index, or take up an interrupted build with the same settings.

        Args:
            path: a directory that is not there yet, is empty, or holds an incomplete index.
            encoder: a name for `load_encoder`, or an `Encoder`. ``none`` keeps neither embeddings nor token states, so
                that the index is searched by words alone. The path of a model is kept as an absolute path.
            encoder_options: passed to `load_encoder`, kept in the manifest.
            faiss: a FAISS factory string; ``Flat`` is exact search.
            faiss_parameters: FAISS search parameters such as ``"nprobe=64"``; "" for the defaults.
            lexical: the BM25 engine.
            token_states: keep the block reader's token states, so that reranking reads no text: ``int8`` (388 bytes a
                token), ``fp16`` (768) or ``none``.
            max_tokens: of a passage, title included; None for what both models read whole (at most 254), 0 to keep
                every document whole, cut off where a model stops reading.
            overlap: tokens that neighbouring passages share.

        Raises:
            IndexStoreError: if there is a complete index already, or the directory holds something else.
            InputError: if an argument is out of range.
            IndexMismatchError: if there is an incomplete index with other settings.
            ModelError: if the encoder cannot be loaded.
        """
        path = Path(path)
        if isinstance(encoder, str):
            if encoder not in _EMBEDDED and Path(encoder).exists():
                encoder = str(Path(encoder).resolve())
            model = load_encoder(encoder, **(encoder_options or {}))
        else:
            model = encoder
        if not model.dim:
            if faiss != "Flat" or lexical == "none":
                raise InputError("an index without embeddings has no FAISS structure, and needs a lexical engine")
            token_states = "none"
        states: dict[str, Any] = {"kind": token_states}
        if token_states != "none":
            dtype_of(token_states, 1)
            reader = _reader_of(model)
            states |= {"model": reader.name, "revision": reader.revision, "dim": reader.dim}
            states["max_length"] = reader.max_length
        if max_tokens is None:
            max_tokens = min(model.max_length, 256) - 2
        if max_tokens:
            Splitter(model.token_offsets, max_tokens, overlap)
        if lexical not in ("fts5", "pyserini", "none"):
            raise InputError(f"the lexical engine is 'fts5', 'pyserini' or 'none', not {lexical!r}")
        if faiss != "Flat":
            new_structure(model.dim, faiss, faiss_parameters)
        manifest = Manifest(
            encoder={
                "name": model.name,
                "revision": model.revision,
                "dim": model.dim,
                "max_length": model.max_length,
                "options": dict(encoder_options or {}),
                "probe": [round(float(x), 5) for x in model.encode_queries([_PROBE])[0]] if model.dim else [],
            },
            passages={"max_tokens": max_tokens, "overlap": overlap},
            faiss={"factory": faiss, "parameters": faiss_parameters},
            lexical={"engine": lexical},
            token_states=states,
            sightline=__version__,
        )
        if (path / "manifest.json").exists():
            existing = Manifest.load(path)
            if existing.complete:
                raise IndexStoreError(
                    f"{path}: there is an index here already; change it with add, update or delete, or build it again "
                    "with overwrite"
                )
            if existing.settings() != manifest.settings():
                raise IndexMismatchError(
                    f"{path}: an interrupted build with other settings is here ({existing.difference(manifest)}); "
                    "repeat its settings to go on with it, or remove it"
                )
            return cls._opened(path, encoder, model)
        ours = {"manifest.json.new", _DATABASE, f"{_DATABASE}-journal", *LOCKS}
        with storage_errors(path, "nothing was made"):
            if path.exists() and not (path.is_dir() and {found.name for found in path.iterdir()} <= ours):
                raise IndexStoreError(f"{path}: exists and is not a Sightline index; choose another place")
            path.mkdir(parents=True, exist_ok=True)
            for lock in LOCKS:
                (path / lock).touch()
            # The manifest comes last: where there is one, a file that is missing was lost.
            store = DocumentStore(path / _DATABASE, create=True)
            try:
                if lexical == "fts5":
                    with store.transaction():
                        Fts5Index(store.connection)
            finally:
                store.close()
            manifest.save(path)
        return cls._opened(path, encoder, model)

    @classmethod
    def _opened(cls, path: Path, asked: str | Encoder, model: Encoder) -> Index:
        index = cls.open(path, encoder=model)
        index._given = None if isinstance(asked, str) else asked
        return index

    @classmethod
    def open(cls, path: str | Path, *, encoder: str | Encoder | None = None, verify: bool = True) -> Index:
        """Open an index for searching and for changing.

        Args:
            path: the directory.
            encoder: None to load the index's own when it is first needed; or an encoder to use instead, which must
                give the same embeddings.
            verify: check every file against its checksum (about 0.2 s per GB in memory); False trusts them.

        Raises:
            IndexStoreError: if there is no index.
            IndexCorruptError: if a file does not have the bytes it was written with.
            IndexMismatchError: if ``encoder`` is another than the index was built with.
        """
        path = Path(path)
        Manifest.load(path)
        with loading(path):
            # Again, for a writer may have replaced it, and removed files it names, before the lock was held.
            index = cls(path, Manifest.load(path))
            try:
                interrupted = verify and index._verify()
                index._map()
            except BaseException:
                index.close()
                raise
        try:
            if interrupted:
                index._recover()
            if encoder is not None:
                index._encoder = index._given = load_encoder(encoder) if isinstance(encoder, str) else encoder
                index._check_encoder(index._encoder)
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def build(
        cls,
        path: str | Path,
        documents: Iterable[Document | Mapping[str, Any] | str],
        *,
        progress: Callable[[int], None] | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> Index:
        """Make an index of ``documents``, or finish making it.

        A build that was interrupted goes on where it stopped. Documents that have changed since are replaced, and those
        that are not among ``documents`` any more are deleted. On a finished index, the same documents and settings
        change nothing.

        Args:
            path: see `create`.
            documents: read as a stream, one batch in memory at a time: `Document`, mappings with the fields of
                `read_documents`, or texts. Texts, and mappings without an id, get their place as id, from "0".
            progress: called after each batch with the number of documents taken from the stream so far.
            overwrite: replace an index that is there already. It is built beside the old one, which can be searched
                until it is done, and kept if it fails.
            settings: see `create`.

        Raises:
            DataError: if two documents have one id, or there are no documents; nothing is made then.
            IndexStoreError: if there is a finished index of other documents or settings already.
            SightlineError: see `create`.
        """
        path = Path(path)
        if overwrite and (path / "manifest.json").exists():
            return cls._overwrite(path, documents, progress, settings)
        stream = iter(_as_documents(documents))
        first = next(stream, None)
        if first is None:
            raise DataError("there are no documents to index", path=path)
        stream = itertools.chain([first], stream)
        if (path / "manifest.json").exists() and Manifest.load(path).complete:
            return cls._finished(path, stream, settings)
        index = cls.create(path, **settings)
        try:
            with index._writing():
                index._write(stream, "resume", progress)
                index._finish()
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def _finished(cls, path: Path, documents: Iterator[Document], settings: Mapping[str, Any]) -> Index:
        """An index that needs no work, for it was built of these documents already."""
        other = "change it with add, update or delete, or build it again with overwrite"
        with tempfile.TemporaryDirectory() as folder, cls.create(Path(folder, "index"), **settings) as empty:
            wanted, encoder = empty._settings, empty._encoder
        index = cls.open(path)
        try:
            if index._settings.settings() != wanted.settings():
                difference = index._settings.difference(wanted)
                raise IndexMismatchError(f"{path}: there is an index with other settings ({difference}); {other}")
            count = 0
            while some := list(itertools.islice(documents, _BATCH_PASSAGES)):
                count += len(some)
                stored = index._store.find([document.id for document in some])
                for document in some:
                    if not _same(stored.get(document.id), document):
                        raise IndexStoreError(
                            f"{path}: there is an index of other documents, without {document.id!r} as given; {other}"
                        )
            if count != len(index):
                raise IndexStoreError(f"{path}: there is an index of {len(index)} documents, not of {count}; {other}")
        except BaseException:
            index.close()
            raise
        index._encoder = encoder
        index._given = None if isinstance(settings.get("encoder", "minilm"), str) else settings["encoder"]
        logger.info("%s: complete already, with these %d documents", path, count)
        return index

    @classmethod
    def _overwrite(cls, path: Path, documents: Any, progress: Any, settings: dict[str, Any]) -> Index:
        """Build beside the index at ``path``, then let the two change places."""
        beside = path.with_name(path.name + ".building")
        with locked(path / WRITER_LOCK, wait=_PATIENCE):
            if (beside / "manifest.json").exists():
                # What an interrupted run left goes on only if it is the same build, and that one was not finished.
                try:
                    cls.create(beside, **settings).close()
                except IndexStoreError:
                    _remove(beside)
            cls.build(beside, documents, progress=progress, **settings).close()
            with storage_errors(path, "the old index is kept"):
                exchange(path, beside)
                _remove(beside)
        index = cls.open(path)
        index._given = None if isinstance(settings.get("encoder", "minilm"), str) else settings["encoder"]
        index._encoder = index._given
        return index

    def close(self) -> None:
        """Release the files; afterwards every other call is refused."""
        self._closed = True
        if self._lucene is not None:
            self._lucene.close()
        self._snapshot = None
        self._store.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the path, and the encoder if one was given: they open the index again."""
        return _open_again, (str(self.path.absolute()), self._given)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Live documents."""
        return self.counts()["documents"]

    def counts(self) -> dict[str, int]:
        """``documents`` and ``passages`` that are live, and ``deleted_documents``."""
        self._now()
        return self._store.counts()

    @property
    def manifest(self) -> Manifest:
        """What the index is, as of the last write."""
        return self._now().manifest

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, loaded and checked when first used."""
        if self._encoder is None:
            built = self._settings.encoder
            try:
                model = load_encoder(built["name"], **built["options"])
            except ModelError as error:
                raise ModelError(
                    f"{self.path}: its encoder {built['name']!r} cannot be loaded ({error}); if the model was moved, "
                    "open the index with encoder= and the new path"
                ) from error
            self._check_encoder(model)
            self._encoder = model
        return self._encoder

    def _check_encoder(self, model: Encoder) -> None:
        built = self._settings.encoder
        same = model.dim == built["dim"]
        if same and model.dim and not (model.revision and model.revision == built["revision"]):
            probe, now = np.array(built["probe"]), model.encode_queries([_PROBE])[0]
            same = float(probe @ now) >= 0.999 * float(np.linalg.norm(probe) * np.linalg.norm(now))
        if not same:
            raise IndexMismatchError(
                f"{self.path}: built with the encoder {built['name']!r} (dimension {built['dim']}), and {model.name!r} "
                f"(dimension {model.dim}) gives other embeddings; open it with its own, or build it again"
            )

    # -- following the writer ----------------------------------------------------------------------------------------

    def _now(self) -> _Snapshot:
        """The files as of the last commit of any process.

        Raises:
            IndexStoreError: if the index was closed, or another index was put in its place.
        """
        if self._closed:
            raise IndexStoreError(f"{self.path}: this index was closed; open it again")
        held: _Snapshot | None = getattr(self._reading, "snapshot", None)
        if held is not None:
            return held
        if self._pid != os.getpid():
            with contextlib.suppress(RuntimeError):
                _PARENTS.append((self._store, self._lucene))  # SQLite forbids a child even to close what it inherits
            self._lock, self._lucene = threading.RLock(), None
            self._connect()
        snapshot, version = self._snapshot, self._store.version()
        if version[0] not in (0, self._file):
            self._take_replacement()
        elif snapshot is not None and snapshot.version == version:
            return snapshot
        with self._lock, loading(self.path):
            return self._map()

    def _take_replacement(self) -> None:
        """Go on with the index that was put in the place of this one."""
        with self._lock:
            there = Manifest.load(self.path)
            if there.settings() != self._settings.settings():
                raise IndexMismatchError(
                    f"{self.path}: was replaced by an index with other settings ({self._settings.difference(there)}); "
                    "open it again"
                )
            if self._lucene is not None:
                self._lucene.close()
                self._lucene = None
            self._connect()

    def read(self, work: Callable[[], T]) -> T:
        """Do ``work`` on one state of the index: again if somebody committed meanwhile, at last with writers kept out.

        Args:
            work: calls methods of this index, and may be called several times.

        Returns:
            What ``work`` returned.
        """
        if getattr(self._reading, "snapshot", None) is not None:
            return work()  # within another call of this thread, which looks for commits at its end
        for _ in range(3):
            before = self._now()
            try:
                with self._holding(before):
                    done = work()
            except Exception:
                if self._now() is before:
                    raise
                continue
            if self._now() is before:
                return done
        with self._lock, loading(self.path), self._holding(self._map()):
            return work()

    @contextlib.contextmanager
    def _holding(self, snapshot: _Snapshot) -> Iterator[None]:
        """Let this thread's calls use one snapshot, and not look for a later one."""
        self._reading.snapshot = snapshot
        try:
            yield
        finally:
            self._reading.snapshot = None

    def _map(self) -> _Snapshot:
        """Map the files as they are now; the caller keeps writers from committing."""
        version, old = self._store.version(), self._snapshot
        if old is not None and old.version == version:
            return old
        manifest = Manifest.load(self.path)
        rows = self._store.rows()
        if (self._fts5 is None or self._mended) and manifest.lexical["engine"] == "fts5":
            self._mended = False
            with self._store.translated():
                self._fts5 = Fts5Index(self._store.connection, self._store.lock)
        structure = None
        if "file" in manifest.faiss:
            # Opened now, read when first needed: a writer may have replaced and removed the file by then.
            file = self.path / manifest.faiss["file"]
            try:
                structure = file.open("rb")
            except OSError as error:
                raise IndexCorruptError(f"{file}: cannot be read ({error.strerror}); {_ADVICE}") from error
        snapshot = _Snapshot(
            version,
            manifest,
            self._vector_file.map(rows) if self._vector_file else None,
            self._state_file.map(self._store.token_rows()) if self._state_file else None,
            self._store.live(rows),
            structure,
        )
        if structure is not None:
            weakref.finalize(snapshot, structure.close)
        self._snapshot = snapshot
        return snapshot

    # -- checking ----------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Check every file against its checksum.

        Raises:
            IndexCorruptError: naming the first file that does not have the bytes it was written with.
        """
        self._now()
        with loading(self.path):
            self._verify()

    def _verify(self) -> bool:
        """As `verify`, for a caller that keeps writers out; returns whether the last write was cut off at its end."""
        manifest = Manifest.load(self.path)
        with storage_errors(self.path, "nothing was changed"):
            interrupted = self._store.change_counter() != manifest.store.get("counter")
            if interrupted:
                self._store.check()
            elif digest(self._store.path) != manifest.store.get("digest"):
                raise IndexCorruptError(f"{self._store.path}: checksum mismatch; {_ADVICE}")
            for segment in self._store.segments():
                path = self.path / segment.file
                if not path.is_file() or digest(path, segment.start, segment.stop) != segment.digest:
                    raise IndexCorruptError(
                        f"{path}: bytes {segment.start} to {segment.stop} are not what was written; {_ADVICE}"
                    )
            if "file" in manifest.faiss:
                _check_structure(self.path / manifest.faiss["file"], manifest)
        return interrupted

    def _recover(self) -> None:
        """After a killed writer: index the words anew, the one part without checksums of its own, and sign the rest."""
        if not self._store.rows():
            return
        try:
            with self._writing(), self._storing():
                if self._store.change_counter() == Manifest.load(self.path).store.get("counter"):
                    return  # the writer was alive, and has signed its work since
                if self._fts5 is not None:
                    with committing(self.path), self._store.transaction():
                        self._fts5 = self._index_words(self._store.connection, self._store.lock)
                self._sign(Manifest.load(self.path))
        except IndexLockedError:
            return  # another writer is at work, and will sign what it leaves
        except IndexStoreError as error:
            if self._fts5 is None or os.access(self.path, os.W_OK):
                raise
            logger.warning("%s: its last writer was interrupted, and it cannot be mended here (%s)", self.path, error)
            self._fts5 = self._index_words(sqlite3.connect(":memory:", check_same_thread=False), threading.RLock())
            self._mended = True

    def _index_words(self, connection: sqlite3.Connection, lock: threading.RLock) -> Fts5Index:
        connection.execute("DROP TABLE IF EXISTS lexical")
        fts5 = Fts5Index(connection, lock)
        rows = np.flatnonzero(self._store.live(self._store.rows())).tolist()
        for start in range(0, len(rows), _BATCH_PASSAGES):
            found = self._store.passages(rows[start : start + _BATCH_PASSAGES])
            fts5.add(list(found), [stored.passage.contents for stored in found.values()])
        return fts5

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Add documents, a batch at a time; returns how many. See `build` for what they may be.

        Raises:
            DataError: if an id is there already; earlier batches stay added.
        """
        return self._change(documents, "refuse", progress)

    def update(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Replace the documents of these ids, adding those that are not there; returns how many. See `build`."""
        return self._change(documents, "replace", progress)

    def _change(self, documents: Any, existing: Literal["refuse", "replace"], progress: Any) -> int:
        with self._writing():
            count = self._write(_as_documents(documents), existing, progress)
            self._settle()
        return count

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none; returns how many.

        Args:
            ids: a list, or any other iterable, of ids.

        Raises:
            InputError: if an id is not in the index, or ``ids`` is a single string.
        """
        if isinstance(ids, str | bytes):
            raise InputError(f"{self.path}: delete takes a list of ids; for one document, [{ids!r}]")
        wanted = list(dict.fromkeys(_checked_id(id) for id in ids))
        with self._writing():
            there = self._store.existing(wanted)
            missing = [id for id in wanted if id not in there]
            if missing:
                raise InputError(
                    f"{self.path}: no document {missing[0]!r} ({len(missing)} of {len(wanted)} ids not found)"
                )
            self._drop(wanted)
            self._settle()
        return len(wanted)

    def _drop(self, ids: Sequence[str]) -> None:
        with self._storing(), committing(self.path), self._store.transaction():
            self._forget(ids)

    def _forget(self, ids: Sequence[str]) -> None:
        gone = self._store.delete(ids)
        if self._fts5 is not None:
            self._fts5.delete([p.row for p in gone], [p.passage.contents for p in gone])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one writer, from before the first commit until the checksums are written."""
        self._now()
        with locked(self.path / WRITER_LOCK, wait=_PATIENCE):
            try:
                yield
            except BaseException:
                with contextlib.suppress(SightlineError), self._storing():
                    self._sign(Manifest.load(self.path))
                raise

    def _settle(self) -> None:
        """Finish a change. It is committed: that the index cannot keep up with it now is no failure of the change."""
        try:
            self._finish()
        except SightlineError as error:
            logger.warning(
                "%s: the change was made, but the index could not be brought up to date, which makes searches slower; "
                "the next change tries again (%s)",
                self.path,
                error,
            )

    def _storing(self) -> contextlib.AbstractContextManager[None]:
        """Around writes, and around nothing that is the user's: an error of their stream is no error of the index."""
        return storage_errors(self.path, "committed batches are kept")

    def _write(
        self,
        documents: Iterable[Document],
        existing: Literal["refuse", "resume", "replace"],
        progress: Callable[[int], None] | None,
    ) -> int:
        """Write documents, a batch and a commit at a time; see `build` for ``resume``."""
        written = taken = 0
        limit, overlap = self._settings.passages["max_tokens"], self._settings.passages["overlap"]
        splitter = Splitter(self.encoder.token_offsets, limit, overlap) if limit else None
        before = self._store.last_number()
        passed = bytearray(before + 1)  # by document number: it was in the stream
        for batch in passage_batches(documents, splitter, _BATCH_PASSAGES):
            taken += len(batch)
            there = self._store.existing(document.id for document, _ in batch)
            twice = [id for id, number in there.items() if number > before or passed[number]]
            if twice:
                raise DataError(f"two documents have the id {twice[0]!r}", path=self.path)
            if there and existing == "refuse":
                raise DataError(
                    f"document {min(there)!r} is in the index already; update replaces it (--update)", path=self.path
                )
            if there and existing == "resume":
                for number in there.values():
                    passed[number] = True
                stored = self._store.find(there)
                batch = [pair for pair in batch if not _same(stored.get(pair[0].id), pair[0])]
            if batch:
                self._commit(batch, sorted(there.keys() & {document.id for document, _ in batch}))
                written += len(batch)
            if progress is not None:
                progress(taken)
        if existing == "resume":
            gone = [id for number, id in self._store.ids().items() if number <= before and not passed[number]]
            for start in range(0, len(gone), _BATCH_PASSAGES):
                self._drop(gone[start : start + _BATCH_PASSAGES])
        return written

    def _commit(self, batch: list[tuple[Document, list[Passage]]], replaced: Sequence[str]) -> None:
        """Append one batch to the raw files, then make it exist."""
        contents = [passage.contents for _, passages in batch for passage in passages]
        tokens = truncated = np.zeros(len(contents), dtype=np.int64)
        segments = []
        vectors = None
        if not contents:
            pass
        elif self._state_file is None:
            if self._vector_file is not None:
                vectors = self.encoder.encode_documents(contents)
        else:
            reader = _reader_of(self.encoder)
            read = reader.read(contents)
            assert read.states is not None
            vectors = read.pooled if reader is self.encoder else self.encoder.encode_documents(contents)
            tokens, truncated = np.diff(read.offsets), read.truncated
            rows = encode(read.states, self._settings.token_states["kind"])
            segments.append(self._append(self._state_file, rows, self._store.token_rows()))
        if vectors is not None and self._vector_file is not None:
            if not np.isfinite(vectors).all():
                bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
                raise DataError(
                    f"the encoder gave NaN or infinity for a passage that begins {contents[bad][:60]!r}", path=self.path
                )
            segments.append(self._append(self._vector_file, vectors, self._store.rows()))
        with self._storing(), committing(self.path), self._store.transaction():
            if replaced:
                self._forget(replaced)
            added = self._store.insert([d for d, _ in batch], [p for _, p in batch], tokens, truncated)
            if self._fts5 is not None:
                self._fts5.add(added, contents)
            self._store.record(segments)

    def _follow(self, lucene: PyseriniIndex) -> None:
        """Bring Lucene, which commits by itself, to the state of the store, whatever state it was left in."""
        there, live = set(lucene.rows()), set(np.flatnonzero(self._store.live(self._store.rows())).tolist())
        if there - live:
            lucene.delete(sorted(there - live), [])
        missing = sorted(live - there)
        for start in range(0, len(missing), _BATCH_PASSAGES):
            found = self._store.passages(missing[start : start + _BATCH_PASSAGES])
            lucene.add(list(found), [stored.passage.contents for stored in found.values()])

    def _append(self, file: AppendFile, rows: np.ndarray, committed: int) -> Segment:
        size = file.dtype.itemsize
        with self._storing():
            written = file.append(rows, committed)
        return Segment(file.path.name, committed * size, (committed + len(rows)) * size, written)

    def _finish(self) -> None:
        """Bring the FAISS structure up to date, and sign what was committed; the caller is the one writer."""
        with self._storing():
            manifest = Manifest.load(self.path)
            faiss = dict(manifest.faiss)
            if self._vector_file is not None:
                faiss |= self._grown(faiss)
            if isinstance(self._lexical, PyseriniIndex):
                self._follow(self._lexical)
            self._sign(dataclasses.replace(manifest, faiss=faiss, complete=True))

    def _sign(self, manifest: Manifest) -> None:
        """Write the manifest, with the checksum of the database as it is, and map what it names."""
        with committing(self.path):
            store = {"counter": self._store.change_counter(), "digest": digest(self._store.path)}
            dataclasses.replace(manifest, store=store, counts=self._store.counts()).save(self.path)
            for file in self.path.glob("vectors-*.faiss*"):
                if file.name != manifest.faiss.get("file"):
                    file.unlink()
            self._snapshot = None
            self._map()

    def _grown(self, faiss: Mapping[str, Any]) -> dict[str, Any]:
        """The FAISS structure over all rows, built or extended: what the manifest says of it."""
        assert self._vector_file is not None
        rows, old = self._store.rows(), faiss.get("file")
        made = {"version": import_faiss().__version__, "device": faiss_device()}
        if faiss["factory"] == "Flat":
            return made
        if rows <= faiss.get("rows", 0):
            return {}
        # Clusters trained on less than half of what they must hold are trained anew.
        retrain = old is None or rows > 2 * faiss["trained"]
        file = self.path / f"vectors-{rows}.faiss"
        beside = file.with_name(file.name + ".new")
        grow = None if retrain else self.path / str(old)
        build_structure(self._vector_file.map(rows), faiss["factory"], beside, grow)
        beside.replace(file)
        trained = rows if retrain else faiss["trained"]
        return made | {"file": file.name, "rows": rows, "digest": digest(file), "trained": trained}

    # -- searching ---------------------------------------------------------------------------------------------------

    def _vector_index(self, now: _Snapshot) -> FaissIndex:
        if now.vectors is None:
            raise InputError(
                f"{self.path}: built without embeddings (encoder none), so it can only be searched with bm25; "
                "build it again with an encoder for dense and hybrid"
            )
        with self._lock:
            if now.faiss is None:
                faiss, structure = now.manifest.faiss, None
                if now.structure is not None:
                    structure = Path(f"/dev/fd/{now.structure.fileno()}")
                    # FAISS trusts its files: a damaged one can crash it, or keep it busy for ever.
                    _check_structure(structure, now.manifest)
                now.faiss = FaissIndex(now.vectors, structure, faiss["factory"], faiss["parameters"])
        return now.faiss

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Passages nearest in meaning.

        Args:
            queries: Q texts.
            k: passages per query.
            where: metadata filter, see `DocumentStore.live`.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first, K being ``k`` or, if that is less, all rows; -1 and
            -inf where fewer are allowed.

        Raises:
            InputError: if the index has no embeddings, a query cannot be used, or ``k`` is below 1.
        """
        if isinstance(queries, str):
            raise InputError("search_dense takes a list of queries; for one, a list of one")
        now = self._now()
        vectors = self._vector_index(now)
        return vectors.search(self.encoder.encode_queries(list(queries)), k, self._allowed(now, where))

    @property
    def _lexical(self) -> LexicalIndex | None:
        """The lexical index; Lucene starts when it is first needed, and serves one process at a time."""
        if self._lucene is None and self._settings.lexical["engine"] == "pyserini":
            self._lucene = PyseriniIndex(self.path / "lucene")
        return self._fts5 or self._lucene

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Passages that share words, by BM25: (rows, scores), int64 and float64, best first, at most ``k``.

        Raises:
            InputError: if the index was built without a lexical engine, or ``k`` is below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        lexical = self._lexical
        if lexical is None:
            raise InputError(f"{self.path}: built without a lexical index; build it again with one for BM25 and hybrid")
        now = self._now()
        lexical = self._lexical  # after a fork or a replacement it is another
        assert lexical is not None
        with self._store.translated():
            if where is not None:
                return lexical.search(query, min(k, max(1, len(now.live))), np.flatnonzero(self._allowed(now, where)))
            # The lexical index may know passages by now that this state of the others does not.
            known, more = len(now.live), max(0, self._store.rows() - len(now.live))
            rows, scores = lexical.search(query, min(k, max(1, known)) + more)
        return rows[rows < known][:k], scores[rows < known][:k]

    def _allowed(self, now: _Snapshot, where: Mapping[str, Any] | None) -> np.ndarray:
        if where is None:
            return now.live
        filter = Filter(where)
        mask = now.masks.get(filter.key)
        if mask is None:
            if len(now.masks) == _MASKS:
                now.masks.clear()
            mask = now.masks[filter.key] = self._store.live(len(now.live), filter)
        return mask

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """The passages of these rows, in order; rows deleted meanwhile, and -1, are left out."""
        self._now()
        found = self._store.passages([int(row) for row in rows if row >= 0])
        return [found[int(row)] for row in rows if int(row) in found]

    def document_ids(self, rows: Sequence[int] | np.ndarray) -> dict[int, str]:
        """Document id by row; rows deleted meanwhile, and -1, are left out."""
        self._now()
        return self._store.document_ids([int(row) for row in rows if row >= 0])

    def document(self, id: str) -> Document | None:
        """A document by its id, or None.

        Raises:
            InputError: if the id is not a string.
        """
        self._now()
        return self._store.document(_checked_id(id))

    def documents(self) -> Iterator[Document]:
        """All documents, in the order they were added."""
        self._now()
        return self._store.documents()

    def vectors(self) -> np.ndarray:
        """The embeddings of all rows, deleted ones included: float32 (rows, dim), memory-mapped.

        Raises:
            InputError: if the index keeps no embeddings.
        """
        vectors = self._now().vectors
        if vectors is None:
            raise InputError(f"{self.path}: built without embeddings (encoder none)")
        return vectors

    def token_keys(self, rows: Sequence[int]) -> list[Keys] | None:
        """The kept token states of these rows as attention keys, memory-mapped; None if the index keeps none."""
        states = self._now().states
        if states is None:
            return None
        ranges = self._store.token_ranges(rows)
        for start, stop in ranges.values():
            populate(states, start, stop)
        return [decode(states[slice(*ranges[int(row)])]) for row in rows]


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Snapshot:
    """An index as of one commit. Searches take one of these, and what a writer does meanwhile is in another."""

    version: tuple[int, int, int]
    manifest: Manifest
    vectors: np.ndarray | None
    states: np.ndarray | None
    live: np.ndarray
    structure: BinaryIO | None
    faiss: FaissIndex | None = None
    masks: dict[str, np.ndarray] = field(default_factory=dict)  # rows by filter


# Connections that a forked process inherited.
_PARENTS: list[Any] = []


def _files(path: Path, manifest: Manifest) -> tuple[AppendFile | None, AppendFile | None]:
    """The files of the embeddings and of the token states, where the index has them."""
    dim, states = manifest.encoder["dim"], manifest.token_states
    return (
        AppendFile(path / _VECTORS, np.dtype((np.float32, (dim,)))) if dim else None,
        None
        if states["kind"] == "none"
        else AppendFile(path / f"states.{states['kind']}", dtype_of(states["kind"], states["dim"])),
    )


def _check_structure(file: Path, manifest: Manifest) -> None:
    if not file.exists() or digest(file) != manifest.faiss["digest"]:
        raise IndexCorruptError(f"{file.parent / manifest.faiss['file']}: checksum mismatch; {_ADVICE}")


def _open_again(path: str, encoder: Encoder | None) -> Index:
    return Index.open(path, encoder=encoder, verify=False)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _same(stored: Document | None, given: Document) -> bool:
    """Whether a stored document is the given one."""
    return stored is not None and (stored.title, stored.text, as_json(stored.metadata)) == (
        given.title,
        given.text,
        as_json(given.metadata),
    )


def _checked_id(id: Any) -> str:
    if not isinstance(id, str):
        raise InputError(f"ids are strings; use '{id}', not {id!r} ({type(id).__name__})")
    return id


def _as_documents(documents: Iterable[Document | Mapping[str, Any] | str]) -> Iterator[Document]:
    """Documents out of documents, mappings and texts.

    Raises:
        InputError: if one of them, or ``documents`` itself, is something else.
    """
    if isinstance(documents, str | bytes | Mapping | Document) or not isinstance(documents, Iterable):
        raise InputError(f"documents must be a list or another iterable, not a single {type(documents).__name__}")
    if hasattr(documents, "to_dict"):
        raise InputError(f"documents are a {type(documents).__name__}; give its rows: frame.to_dict('records')")
    for place, given in enumerate(documents):
        if isinstance(given, Document):
            yield given
        elif isinstance(given, str):
            yield Document(str(place), given)
        elif isinstance(given, Mapping):
            named = given if given.keys() & set(ID_FIELDS) else {"id": str(place), **given}
            yield from read_documents([named])
        else:
            raise InputError(f"document {place}: must be a Document, a mapping or a text, not {type(given).__name__}")


def _reader_of(encoder: Encoder) -> BlockReader:
    """The model whose token states are kept: the encoder itself where it can read tokens, else the default model."""
    if isinstance(encoder, BlockReader):
        return encoder
    return load_reader()
