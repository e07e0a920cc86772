"""The index on disk: a directory that can always be opened, whatever happened to the process that wrote it.

``manifest.json`` says what the index is; ``documents.sqlite`` holds documents, passages, BM25 and the list of what was
appended to ``vectors.f32`` and ``states.*``; ``vectors-N.faiss`` is a structure over the first N vectors. A batch is
appended to the raw files first and then committed in the database; what a killed writer left beyond the last commit is
never read and is overwritten by the next writer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from .. import __version__
from ..documents import Document, Passage
from ..errors import DataError, IndexCorruptError, IndexMismatchError, IndexStoreError, InputError
from .encoder import Encoder, TokenReader, load_encoder
from .faiss_index import FaissIndex, build_structure, faiss_device, import_faiss, new_structure
from .files import AppendFile, digest, locked, populate, storage_errors
from .fts5 import Fts5Index
from .lexical_index import LexicalIndex
from .manifest import Manifest
from .passages import Splitter, passage_batches
from .pyserini_index import PyseriniIndex
from .store import DocumentStore, Segment, StoredPassage
from .token_states import decode, dtype_of, encode

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["Index"]

logger = logging.getLogger(__name__)

_PROBE = "Sightline checks with this sentence that an index meets the encoder it was built with."
_BATCH_PASSAGES = 512  # commits are this far apart; token states of a batch take about 200 MB while it is written
_DATABASE, _VECTORS = "documents.sqlite", "vectors.f32"
_WRITER_LOCK, _COMMIT_LOCK = ".writer.lock", ".commit.lock"
_ADVICE = "restore the index from a copy, or build it again"


class Index:
    """A collection that can be searched by meaning and by words, and changed by document id.

    Made by `Index.build` or `Index.create`, opened by `Index.open`; use it as a context manager or call `close`. One
    process writes at a time; readers see the index as it was when they opened it.

    Example:
        >>> import tempfile
        >>> documents = [Document("a", "Cats purr when they are content."), Document("b", "Dogs bark at strangers.")]
        >>> with Index.build(tempfile.mkdtemp() + "/index", documents) as index:
        ...     rows, scores = index.search_dense(["feline sounds"], k=1)
        ...     index.passages(rows[0])[0].passage.document.id
        'a'
    """

    def __init__(self, path: Path, manifest: Manifest, encoder: Encoder | None) -> None:
        """Use `Index.build`, `Index.create` or `Index.open`."""
        self.path = path
        self.manifest = manifest
        self._encoder = encoder
        self._reader: TokenReader | None = None
        self._store = DocumentStore(path / _DATABASE)
        self._structure: BinaryIO | None = None
        self._vector_file = AppendFile(path / _VECTORS, np.dtype((np.float32, (manifest.encoder["dim"],))))
        kind = manifest.token_states["kind"]
        self._state_file = (
            None
            if kind == "none"
            else AppendFile(path / f"states.{kind}", dtype_of(kind, manifest.token_states["dim"]))
        )
        self._fts5: Fts5Index | None = None
        self._lucene: PyseriniIndex | None = None

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
        token_states: Literal["none", "fp16", "int8"] = "none",
        max_tokens: int | None = None,
        overlap: int = 0,
    ) -> Index:
        """Make an empty index, or take up an interrupted build with the same settings.

        Args:
            path: a directory that is not there yet, is empty, or holds an incomplete index.
            encoder: a name for `load_encoder`, or an `Encoder`.
            encoder_options: passed to `load_encoder`, kept in the manifest.
            faiss: a FAISS factory string; ``Flat`` is exact search.
            faiss_parameters: FAISS search parameters such as ``"nprobe=64"``; "" for the defaults.
            lexical: the BM25 engine.
            token_states: keep the block reader's token states, so that reranking reads no text.
            max_tokens: of a passage, title included; None for what both models read whole (at most 254), 0 to keep
                every document whole, cut off where a model stops reading.
            overlap: tokens that neighbouring passages share.

        Raises:
            IndexStoreError: if there is a complete index already, or the directory holds something else.
            IndexMismatchError: if there is an incomplete index with other settings.
            ModelError: if the encoder cannot be loaded.
        """
        path = Path(path)
        model = load_encoder(encoder, **(encoder_options or {})) if isinstance(encoder, str) else encoder
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
                "probe": [round(float(x), 5) for x in model.encode_queries([_PROBE])[0]],
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
                    f"{path}: there is an index here already; change it with add, update or delete, or remove it first"
                )
            if existing.settings() != manifest.settings():
                raise IndexMismatchError(
                    f"{path}: an interrupted build with other settings is here ({existing.difference(manifest)}); "
                    "repeat its settings to go on with it, or remove it"
                )
            return cls.open(path, encoder=model)
        ours = {"manifest.json.new", _DATABASE, f"{_DATABASE}-journal", *_LOCKS}
        if path.exists() and not (path.is_dir() and {found.name for found in path.iterdir()} <= ours):
            raise IndexStoreError(f"{path}: exists and is not a Sightline index; choose another place")
        with storage_errors(path, "nothing was made"):
            path.mkdir(parents=True, exist_ok=True)
            for lock in _LOCKS:
                (path / lock).touch()
            # The manifest comes last: where there is one, a file that is missing was lost.
            store = DocumentStore(path / _DATABASE, create=True)
            try:
                if lexical == "fts5":
                    Fts5Index(store.connection)
            finally:
                store.close()
            manifest.save(path)
        return cls.open(path, encoder=model)

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
        with locked(path / _COMMIT_LOCK, shared=True):
            # Again, for a writer may have replaced it, and removed files it names, before the lock was held.
            index = cls(path, Manifest.load(path), None)
            try:
                if verify:
                    index.verify()
                index._load()
            except BaseException:
                index.close()
                raise
        if encoder is not None:
            model = load_encoder(encoder) if isinstance(encoder, str) else encoder
            try:
                index._check_encoder(model)
            except BaseException:
                index.close()
                raise
            index._encoder = model
        return index

    @classmethod
    def build(
        cls,
        path: str | Path,
        documents: Iterable[Document],
        *,
        progress: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> Index:
        """Make an index of ``documents``, or finish making it: documents that are already in it are passed over.

        Args:
            path: see `create`.
            documents: read as a stream, one batch in memory at a time.
            progress: called after each batch with the number of documents taken from the stream so far.
            settings: see `create`.

        Raises:
            DataError: if two documents have one id, or there are no documents.
            SightlineError: see `create`.
        """
        index = cls.create(path, **settings)
        try:
            index._write(documents, "skip", progress)
            if not index.counts()["documents"]:
                raise DataError("there are no documents to index", path=path)
            index._finish()
        except BaseException:
            index.close()
            raise
        return index

    def close(self) -> None:
        """Release the files."""
        if self._lucene is not None:
            self._lucene.close()
        if self._structure is not None:
            self._structure.close()
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Live documents."""
        return self.counts()["documents"]

    def counts(self) -> dict[str, int]:
        """``documents`` and ``passages`` that are live, and ``deleted_documents``."""
        return self._store.counts()

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, loaded and checked when first used."""
        if self._encoder is None:
            model = load_encoder(self.manifest.encoder["name"], **self.manifest.encoder["options"])
            self._check_encoder(model)
            self._encoder = model
        return self._encoder

    def _check_encoder(self, model: Encoder) -> None:
        built = self.manifest.encoder
        same = model.dim == built["dim"]
        if same and not (model.revision and model.revision == built["revision"]):
            probe, now = np.array(built["probe"]), model.encode_queries([_PROBE])[0]
            same = float(probe @ now) >= 0.999 * float(np.linalg.norm(probe) * np.linalg.norm(now))
        if not same:
            raise IndexMismatchError(
                f"{self.path}: built with the encoder {built['name']!r} (dimension {built['dim']}), and {model.name!r} "
                f"(dimension {model.dim}) gives other embeddings; open it with its own, or build it again"
            )

    def _load(self) -> None:
        """Map the files as of the last commit."""
        rows = self._store.rows()
        self._vectors = self._vector_file.map(rows)
        self._states = self._state_file.map(self._store.token_rows()) if self._state_file else None
        self._live = self._store.live(rows)
        self._faiss: FaissIndex | None = None
        if self._fts5 is None and self.manifest.lexical["engine"] == "fts5":
            self._fts5 = Fts5Index(self._store.connection, self._store.lock)
        if self._structure is not None:
            self._structure.close()
        # Opened now, read when first needed: a writer may have replaced and removed the file by then.
        structure = self.path / self.manifest.faiss.get("file", "")
        try:
            self._structure = structure.open("rb") if "file" in self.manifest.faiss else None
        except OSError as error:
            raise IndexCorruptError(f"{structure}: cannot be read ({error.strerror}); {_ADVICE}") from error

    def verify(self) -> None:
        """Check every file against its checksum.

        Raises:
            IndexCorruptError: naming the first file that does not have the bytes it was written with.
        """
        # A writer killed between its commit and the manifest leaves another counter: then only SQLite can judge.
        if self._store.change_counter() != self.manifest.store.get("counter"):
            self._store.check()
        elif digest(self._store.path) != self.manifest.store["digest"]:
            raise IndexCorruptError(f"{self._store.path}: checksum mismatch; {_ADVICE}")
        for segment in self._store.segments():
            path = self.path / segment.file
            if not path.is_file() or digest(path, segment.start, segment.stop) != segment.digest:
                raise IndexCorruptError(
                    f"{path}: bytes {segment.start} to {segment.stop} are not what was written; {_ADVICE}"
                )
        structure = self.manifest.faiss.get("file")
        if structure and (
            not (self.path / structure).is_file() or digest(self.path / structure) != self.manifest.faiss["digest"]
        ):
            raise IndexCorruptError(f"{self.path / structure}: checksum mismatch; {_ADVICE}")

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(self, documents: Iterable[Document], progress: Callable[[int], None] | None = None) -> int:
        """Add documents, a batch at a time; returns how many.

        Raises:
            DataError: if an id is there already; earlier batches stay added.
        """
        count = self._write(documents, "refuse", progress)
        self._finish()
        return count

    def update(self, documents: Iterable[Document], progress: Callable[[int], None] | None = None) -> int:
        """Replace the documents of these ids, adding those that are not there; returns how many."""
        count = self._write(documents, "replace", progress)
        self._finish()
        return count

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none; returns how many.

        Raises:
            InputError: if an id is not in the index.
        """
        wanted = list(dict.fromkeys(ids))
        with self._writing():
            there = self._store.existing(wanted)
            missing = [id for id in wanted if id not in there]
            if missing:
                raise InputError(
                    f"{self.path}: no document {missing[0]!r} ({len(missing)} of {len(wanted)} ids not found)"
                )
            with self._storing(), locked(self.path / _COMMIT_LOCK), self._store.transaction():
                self._forget(wanted)
        self._finish()
        return len(wanted)

    def _forget(self, ids: Sequence[str]) -> None:
        gone = self._store.delete(ids)
        if self._fts5 is not None:
            self._fts5.delete([p.row for p in gone], [p.passage.contents for p in gone])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with locked(self.path / _WRITER_LOCK, wait=False):
            # Another process may have written since this one opened the index.
            self.manifest = Manifest.load(self.path)
            try:
                yield
            finally:
                self._load()

    def _storing(self) -> contextlib.AbstractContextManager[None]:
        """Around writes, and around nothing that is the user's: an error of their stream is no error of the index."""
        return storage_errors(self.path, "committed batches are kept")

    def _write(
        self,
        documents: Iterable[Document],
        existing: Literal["refuse", "skip", "replace"],
        progress: Callable[[int], None] | None,
    ) -> int:
        written = taken = 0
        limit, overlap = self.manifest.passages["max_tokens"], self.manifest.passages["overlap"]
        splitter = Splitter(self.encoder.token_offsets, limit, overlap) if limit else None
        with self._writing():
            before = self._store.last_number()
            passed = bytearray(before + 1)  # by document number: it was in the stream
            for batch in passage_batches(documents, splitter, _BATCH_PASSAGES):
                taken += len(batch)
                ids = [document.id for document, _ in batch]
                there = self._store.existing(ids)
                twice = [id for id, number in there.items() if number > before or passed[number]]
                if twice:
                    raise DataError(f"two documents have the id {twice[0]!r}", path=self.path)
                if there and existing == "refuse":
                    raise DataError(
                        f"document {min(there)!r} is in the index already; use update to replace it", path=self.path
                    )
                if there and existing == "skip":
                    for number in there.values():
                        passed[number] = True
                    batch = [(document, passages) for document, passages in batch if document.id not in there]
                if batch:
                    self._commit(batch, sorted(there) if existing == "replace" else [])
                    written += len(batch)
                if progress is not None:
                    progress(taken)
        return written

    def _commit(self, batch: list[tuple[Document, list[Passage]]], replaced: Sequence[str]) -> None:
        """Append one batch to the raw files, then make it exist."""
        contents = [passage.contents for _, passages in batch for passage in passages]
        tokens = truncated = np.zeros(len(contents), dtype=np.int64)
        segments = []
        if self._state_file is None:
            vectors = self.encoder.encode_documents(contents)
        else:
            reader = _reader_of(self.encoder)
            read = reader.read(contents)
            assert read.states is not None
            vectors = read.pooled if reader is self.encoder else self.encoder.encode_documents(contents)
            tokens, truncated = np.diff(read.offsets), read.truncated
            rows = encode(read.states, self.manifest.token_states["kind"])
            segments.append(self._append(self._state_file, rows, self._store.token_rows()))
        if not np.isfinite(vectors).all():
            bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise DataError(
                f"the encoder gave NaN or infinity for a passage that begins {contents[bad][:60]!r}", path=self.path
            )
        first = self._store.rows()
        segments.append(self._append(self._vector_file, vectors, first))
        with self._storing(), locked(self.path / _COMMIT_LOCK), self._store.transaction():
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
            found = self.passages(missing[start : start + _BATCH_PASSAGES])
            lucene.add([p.row for p in found], [p.passage.contents for p in found])

    def _append(self, file: AppendFile, rows: np.ndarray, committed: int) -> Segment:
        size = file.dtype.itemsize
        with self._storing():
            written = file.append(rows, committed)
        return Segment(file.path.name, committed * size, (committed + len(rows)) * size, written)

    def _finish(self) -> None:
        """Bring the FAISS structure up to date, and write down that all is well."""
        with self._writing(), self._storing():
            faiss = dict(self.manifest.faiss)
            rows, built = self._store.rows(), faiss.get("rows", 0)
            old = faiss.get("file")
            if faiss["factory"] == "Flat":
                faiss |= {"version": import_faiss().__version__, "device": faiss_device()}
            elif rows > built:
                # Clusters trained on less than half of what they must hold are trained anew.
                retrain = old is None or rows > 2 * faiss["trained"]
                file = self.path / f"vectors-{rows}.faiss"
                beside = file.with_name(file.name + ".new")
                grow = None if retrain else self.path / str(old)
                build_structure(self._vector_file.map(rows), faiss["factory"], beside, grow)
                beside.replace(file)
                faiss |= {"file": file.name, "rows": rows, "digest": digest(file)}
                faiss |= {"trained": rows if retrain else faiss["trained"]}
                faiss |= {"version": import_faiss().__version__, "device": faiss_device()}
            if isinstance(self._lexical, PyseriniIndex):
                self._follow(self._lexical)
            with locked(self.path / _COMMIT_LOCK):
                store = {"counter": self._store.change_counter(), "digest": digest(self._store.path)}
                self.manifest = dataclasses.replace(
                    self.manifest, faiss=faiss, store=store, counts=self.counts(), complete=True
                )
                self.manifest.save(self.path)
            for stale in self.path.glob("vectors-*.faiss*"):
                if stale.name != faiss.get("file"):
                    stale.unlink()

    # -- searching ---------------------------------------------------------------------------------------------------

    @property
    def _vector_index(self) -> FaissIndex:
        if self._faiss is None:
            faiss = self.manifest.faiss
            structure = None if self._structure is None else Path(f"/dev/fd/{self._structure.fileno()}")
            self._faiss = FaissIndex(self._vectors, structure, faiss["factory"], faiss["parameters"])
        return self._faiss

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Passages nearest in meaning.

        Args:
            queries: Q texts.
            k: passages per query.
            where: metadata filter, see `DocumentStore.live`.

        Returns:
            (rows, scores): int64 and float32 (Q, k), best first; -1 and -inf where there are fewer.
        """
        return self._vector_index.search(self.encoder.encode_queries(list(queries)), k, self._allowed(where))

    @property
    def _lexical(self) -> LexicalIndex | None:
        """The lexical index; Lucene starts when it is first needed, and serves one process at a time."""
        if self._lucene is None and self.manifest.lexical["engine"] == "pyserini":
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
        if where is not None:
            return lexical.search(query, k, np.flatnonzero(self._allowed(where)))
        # The lexical index may know passages of another process that this reader does not.
        known = len(self._live)
        rows, scores = lexical.search(query, k + self._store.rows() - known)
        return rows[rows < known][:k], scores[rows < known][:k]

    def _allowed(self, where: Mapping[str, Any] | None) -> np.ndarray:
        return self._live if where is None else self._store.live(len(self._live), where)

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """The passages of these rows, in order; rows deleted meanwhile, and -1, are left out."""
        found = self._store.passages([int(row) for row in rows if row >= 0])
        return [found[int(row)] for row in rows if int(row) in found]

    def document_ids(self, rows: Sequence[int] | np.ndarray) -> dict[int, str]:
        """Document id by row; rows deleted meanwhile, and -1, are left out."""
        return self._store.document_ids([int(row) for row in rows if row >= 0])

    def document(self, id: str) -> Document | None:
        """A document by the user's id, or None."""
        return self._store.document(id)

    def documents(self) -> Iterator[Document]:
        """All documents, in the order they were added."""
        return self._store.documents()

    def vectors(self) -> np.ndarray:
        """The embeddings of all rows, deleted ones included: float32 (rows, dim), memory-mapped."""
        return self._vectors

    def token_keys(self, rows: Sequence[int]) -> list[Keys] | None:
        """The kept token states of these rows as attention keys, memory-mapped; None if the index keeps none."""
        if self._states is None:
            return None
        ranges = self._store.token_ranges(rows)
        for start, stop in ranges.values():
            populate(self._states, start, stop)
        return [decode(self._states[slice(*ranges[int(row)])]) for row in rows]


_LOCKS = (_WRITER_LOCK, _COMMIT_LOCK)


def _reader_of(encoder: Encoder) -> TokenReader:
    """The model whose token states are kept: the encoder itself where it can read tokens, else the default model."""
    if hasattr(encoder, "read"):
        return encoder  # type: ignore[return-value]
    from ..minilm import load_minilm

    return load_minilm()
