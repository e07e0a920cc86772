"""An index on disk: a directory that can always be opened, whatever happened to the process that wrote it.

``manifest.json`` says what the index is; ``documents.sqlite`` holds documents, passages, BM25 and the list of what was
appended to ``vectors.f32`` and ``states.*``; ``vectors-N.faiss`` is a structure over the first N vectors; ``tantivy``,
``lucene`` and ``sparse`` are folders of engines in the place of the database's BM25; ``multivector.safetensors`` has
centroids of the token states, which a search makes again if they are missing. `Index` is the face; behind it,
`planning` makes an empty index, `open_files` follows the last commit, and `writing` changes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np

from ..documents import Document, encodable
from ..errors import DataError, IndexMismatchError, IndexStoreError, InputError, ModelError
from ..models.encoder import Encoder, load_encoder
from ..models.loading import load_reader
from ..models.reader import BlockReader, DecoderReader, DocumentStates, StoredBlock
from ..models.sparse import SparseEncoder
from .copying import Source, planned_copy, synchronise
from .faiss_index import new_structure
from .files import LOCKS, PATIENCE, WRITER_LOCK, committing, exchange, loading, locked, populate, storage_errors
from .manifest import FaissRecord, LexicalRecord, Manifest
from .multivector import NPROBE
from .open_files import OpenFiles
from .planning import (
    OTHERWISE,
    IndexSettings,
    check_backend,
    check_encoder,
    given_encoder,
    joined,
    load_built_encoder,
    load_planned_encoder,
    make,
    plan,
    reading_by,
)
from .reading import BatchReading, ReadingPlan, StoredBatch
from .sources import as_documents
from .store import Ranked, StoredPassage, Traffic, checked_id, checked_ids
from .token_states import decode_spans
from .words import built_sparse_encoder
from .writing import BATCH_PASSAGES, Writer

if TYPE_CHECKING:
    from ..kernels import Keys

__all__ = ["Index"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Index:
    """A collection that can be searched by meaning and by words, and changed by document id.

    Make one with `Index.build` or `Index.create`, and open one with `Index.open`. Use it as a context manager, or call
    `close`. One process writes at a time. An open index follows the writer: each call sees the last commit, and `read`
    makes several calls see the same one. An index can be copied and pickled (which keeps its path), and used in a
    forked process.

    Example:
        >>> import tempfile
        >>> documents = [Document("a", "Cats purr when they are content."), Document("b", "Dogs bark at strangers.")]
        >>> with Index.build(tempfile.mkdtemp() + "/index", documents) as index:
        ...     rows, scores = index.search_dense(["feline sounds"], k=1)
        ...     index.passages(rows[0])[0].passage.document.id
        'a'
    """

    def __init__(self, files: OpenFiles) -> None:
        """Do not call this; use `Index.build`, `Index.create` or `Index.open`."""
        self.path = files.path
        self._files = files
        self._writer = Writer(files)
        self._given_encoder: Encoder | None = None
        self._encoder: Encoder | None = None
        self._backend: str | None = None
        self._sparse_encoder: SparseEncoder | None = None
        self._reader: BlockReader | None = None
        self._decoder: DecoderReader | None = None

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, **settings: Any) -> Index:
        """Make an empty index, or continue an interrupted build with the same settings.

        Args:
            path: a directory that does not exist yet, is empty, or holds an incomplete index.
            settings: the fields of `sightline.retrieval.planning.IndexSettings`: ``encoder``, ``faiss``, ``lexical``,
                ``token_states``, ``decoder_states``, ``max_tokens``, ...

        Raises:
            IndexStoreError: if the directory holds a complete index or something else.
            InputError: if a setting is out of range.
            IndexMismatchError: if the directory holds an incomplete index with other settings.
            MissingExtraError: if the structure needs FAISS, which is not installed.
            ModelError: if the encoder cannot be loaded.
        """
        chosen = IndexSettings(**settings)
        index = cls._joined(Path(path), chosen, load_planned_encoder(chosen))
        if index.manifest.complete:
            index.close()
            raise IndexStoreError(f"{path}: there is an index here already; {OTHERWISE}")
        return index

    @classmethod
    def _joined(cls, path: Path, settings: IndexSettings, model: Encoder) -> Index:
        """Make an empty index, or open the one that is there with these settings, finished or not."""
        make(path, plan(settings, model))
        index = cls.open(path, encoder=model if settings.dtype is None else None)
        index._given_encoder, index._decoder = given_encoder(settings), settings.decoder_states
        index._backend = settings.backend
        return index

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: str | Encoder | None = None,
        backend: str | None = None,
        sparse_encoder: str | SparseEncoder | None = None,
        decoder_states: DecoderReader | None = None,
        verify: bool = True,
    ) -> Index:
        """Open an index for searching and for changing.

        Args:
            path: the directory of the index.
            encoder: an encoder to use in the place of the index's own; it must give the same embeddings. If None, the
                index's own is loaded when it is first needed.
            backend: the library that reads queries and added documents, ``torch``, ``onnx`` or ``openvino``, whichever
                built the index; None for torch. It cannot be given with ``encoder`` as an object.
            sparse_encoder: an encoder of learned sparse vectors to use in the place of the index's own, or its new path
                if it was moved. It must have the same revision.
            decoder_states: the reranker with which an index that keeps decoder states was built. You need it to add
                documents.
            verify: whether to check every file against its checksum (about 0.2 s per GB in memory). If False, the files
                are trusted.

        Raises:
            IndexStoreError: if there is no index in the directory.
            IndexCorruptError: if a file does not hold the bytes that were written to it.
            IndexMismatchError: if ``encoder``, ``sparse_encoder`` or ``decoder_states`` differs from the one that the
                index was built with.
        """
        path = Path(path)
        check_backend(backend, encoder)
        lexical = Manifest.load(path).lexical
        if sparse_encoder is not None:
            sparse_encoder = built_sparse_encoder(lexical, path, sparse_encoder)
        with loading(path):
            # Again, for a writer may have replaced it, and removed files it names, before the lock was held.
            files = OpenFiles(path, Manifest.load(path), sparse_encoder)
            try:
                interrupted = verify and files.verify()
                files.map()
            except BaseException:
                files.close()
                raise
        index = cls(files)
        index._backend, index._sparse_encoder = backend, sparse_encoder
        try:
            if interrupted:
                index._writer.recover()
            if encoder is not None:
                if isinstance(encoder, str):
                    encoder = load_encoder(encoder, **reading_by(backend))
                index._encoder = index._given_encoder = encoder
                check_encoder(files.settings.encoder, encoder, str(path))
            if decoder_states is not None:
                index._check_decoder(decoder_states)
                index._decoder = decoder_states
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
        reading: BatchReading | None = None,
        **settings: Any,
    ) -> Index:
        """Make an index of documents, or finish making it.

        An interrupted build continues where it stopped. Documents that have changed since are replaced, and those that
        are no longer among ``documents`` are deleted. If the index is finished already, the same documents and settings
        change nothing.

        Args:
            path: a directory; see `create`.
            documents: the documents, read as a stream with one batch in memory at a time: `Document` objects, mappings
                with the fields of `load_documents`, or texts. Texts, and mappings without an id, get their place as id,
                from "0".
            progress: a function that is called after each batch with the number of documents taken from the stream so
                far.
            overwrite: whether to replace an index that exists. The new one is built beside the old one, which can be
                searched until the new one is done, and which is kept if the build fails.
            reading: an object that reads passages, such as `sightline.scale.RayReading`, which uses several processes.
                The index is the same. If None, this process reads them.
            settings: the fields of `sightline.retrieval.planning.IndexSettings`; see `create`.

        Raises:
            DataError: if two documents have the same id, or there are no documents. Nothing is made then.
            IndexStoreError: if there is a finished index of other documents or settings.
            SightlineError: see `create`.
        """
        path, chosen = Path(path), IndexSettings(**settings)
        if overwrite and (path / "manifest.json").exists():
            return cls._overwrite(path, documents, progress, chosen, reading)
        return cls._build(path, documents, progress, chosen, reading)

    @classmethod
    def _build(
        cls, path: Path, documents: Any, progress: Any, settings: IndexSettings, reading: BatchReading | None
    ) -> Index:
        if reading is not None and settings.decoder_states is not None:
            raise InputError("a decoder reads passages in this process alone; leave the driver out to keep its states")
        stream = iter(as_documents(documents))
        first = next(stream, None)
        if first is None:
            raise DataError("there are no documents to index", path=path)
        stream = itertools.chain([first], stream)
        model = load_planned_encoder(settings)
        index = cls._joined(path, settings, model)
        read = None
        if reading is not None:
            named = dataclasses.replace(settings, encoder=model.name if isinstance(settings.encoder, str) else model)
            load = partial(load_planned_encoder, named)
            read = partial(reading, plan=ReadingPlan(index.manifest, str(path), load, index.states_table))
        try:
            if not index.manifest.complete:
                with index._writer.writing():
                    if not index.manifest.complete:  # nobody has finished it since
                        index._writer.write(model, stream, "resume", progress, index._decoder, read)
                        index._writer.finish()
                        return index
            index._writer.compare(stream)
        except BaseException:
            index.close()
            raise
        logger.info("%s: complete already, with these %d documents", path, len(index))
        return index

    @classmethod
    def _overwrite(
        cls, path: Path, documents: Any, progress: Any, settings: IndexSettings, reading: BatchReading | None
    ) -> Index:
        """Build beside the index at ``path``, then let the two change places."""
        beside = _beside(path)
        with locked(path / WRITER_LOCK, wait=PATIENCE):
            if (beside / "manifest.json").exists():
                _clear(beside, plan(settings, load_planned_encoder(settings)))
            cls._build(beside, documents, progress, settings, reading).close()
            with locked(beside / WRITER_LOCK, wait=PATIENCE):
                _take_place(path, beside, overwrite=True)
        # Checked, for another process may have replaced it again.
        given, decoder = given_encoder(settings), settings.decoder_states
        return cls.open(path, encoder=given, backend=settings.backend, decoder_states=decoder)

    @classmethod
    def copy(
        cls,
        source: Source,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Index:
        """Copy an index into a folder, with its embeddings and token states, without reading any text again.

        The copy is the index as it was at one moment, even if others write to the index meanwhile. It is made beside
        ``path``, and moved there when it is done; so nobody can open a part of it. An interrupted copy continues.

        Args:
            source: the open index, such as a `sightline.retrieval.qdrant_store.QdrantStore`.
            path: a directory that does not exist yet.
            overwrite: whether to replace an index at ``path``.
            progress: a function that is called with the number of documents compared so far.

        Raises:
            InputError: if the index keeps learned sparse vectors or decoder states, which are not copied.
            IndexStoreError: if there is something at ``path``, or the disk refuses.
            IndexMismatchError: if another index replaces the source meanwhile, and what was copied is of no use.
            MissingExtraError: if the index has a graph over its embeddings, and FAISS is not installed.
        """
        path, planned = Path(path), planned_copy(source)
        if planned.lexical.engine == "qdrant":
            planned = dataclasses.replace(planned, lexical=LexicalRecord("fts5"))
        planned = dataclasses.replace(planned, faiss=FaissRecord(planned.faiss.factory, planned.faiss.parameters))
        if planned.faiss.factory != "Flat":
            new_structure(planned.encoder.dim, planned.faiss.factory, planned.faiss.parameters)
        there = (path / "manifest.json").exists()
        if path.exists() and not (there and overwrite):
            what = "there is an index here already; overwrite replaces it" if there else "exists and is no index"
            raise IndexStoreError(f"{path}: {what}; or choose another place")
        beside = _beside(path)
        with locked(path / WRITER_LOCK, wait=PATIENCE) if there else contextlib.nullcontext():
            if (beside / "manifest.json").exists():
                _clear(beside, planned)
            make(beside, planned)
            with cls.open(beside) as copied, copied._writer.writing():
                try:
                    synchronise(source, copied._writer, progress)
                except IndexMismatchError:
                    _remove(beside)
                    raise
                copied._writer.finish()
                _take_place(path, beside, overwrite=there)
        return cls.open(path, encoder=getattr(source, "_given_encoder", None))

    def close(self) -> None:
        """Release the files. Afterwards, every other call is refused."""
        self._files.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the path, and the encoders that were given: they open the index again."""
        return _open_again, (str(self.path.absolute()), self._given_encoder, self._sparse_encoder, self._backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Count the documents, without deleted ones."""
        return self.counts()["documents"]

    def counts(self) -> dict[str, int]:
        """Count the ``documents`` and ``passages``, without deleted ones, and the ``deleted_documents``."""
        self._files.now()
        return self._files.store.counts()

    def count_passages(self, limit: int) -> int:
        """Count the passages, without deleted ones, up to a limit; which takes no longer in a large index.

        Args:
            limit: the number from which on they are not counted.
        """
        self._files.now()
        return self._files.store.count_passages(limit)

    def size(self) -> dict[str, int]:
        """Return the size of each file in bytes."""
        sizes = {}
        for folder, _, names in os.walk(self.path):
            for file in (Path(folder, name) for name in names):
                with contextlib.suppress(FileNotFoundError):  # a writer has removed it
                    sizes[file.relative_to(self.path).as_posix()] = file.stat().st_size
        return dict(sorted(sizes.items()))

    @property
    def traffic(self) -> Traffic | None:
        """None: nothing of it comes over a network."""
        return None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the index, as of the last write."""
        return self._files.now().manifest

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, which is loaded and checked when you first use it."""
        if self._encoder is None:
            self._encoder = load_built_encoder(self._files.settings.encoder, str(self.path), self._backend)
        return self._encoder

    @property
    def reader(self) -> BlockReader:
        """The block reader that made the token states, which is loaded and checked when you first use it.

        Raises:
            InputError: if the index keeps no token states.
            IndexMismatchError: if the reader differs from the one that the index was built with.
            ModelError: if the reader cannot be loaded.
        """
        if self._reader is None:
            kept, encoder = self._files.settings.token_states, self._files.settings.encoder
            if kept.model is None:
                raise InputError(f"{self.path}: built without token states; build it again with --token-states int8")
            try:
                own = (kept.model, kept.revision) == (encoder.name, encoder.revision)
                reader = self.encoder if own else load_reader(kept.model)
            except ModelError as error:
                raise ModelError(
                    f"{self.path}: the reader of its token states, {kept.model!r}, cannot be loaded ({error}); put the "
                    "model back where it was, or build the index again with --reader and its new path"
                ) from error
            if not isinstance(reader, BlockReader) or (reader.revision, reader.dim) != (kept.revision, kept.dim):
                raise IndexMismatchError(
                    f"{self.path}: keeps token states of {kept.model!r} at revision {kept.revision!r}, and the model "
                    f"of that name is now a different one (revision {getattr(reader, 'revision', '')!r}); build the "
                    "index again"
                )
            self._reader = reader
        return self._reader

    def _check_decoder(self, reader: DecoderReader) -> None:
        form = self._files.settings.decoder_states
        if form is None:
            raise IndexMismatchError(f"{self.path}: keeps no decoder states; open it without decoder_states")
        reason = "it is no reranker by a decoder"
        if isinstance(reader, DecoderReader) and reader.reading is not None:
            reason = form.reading.misfit(reader.reading)
        if reason:
            raise IndexMismatchError(
                f"{self.path}: keeps decoder states of {form.reading.name!r}, which the reranker that was given cannot "
                f"read: {reason}"
            )

    def read(self, work: Callable[[], T]) -> T:
        """Call ``work`` on one state of the index.

        If somebody commits meanwhile, call it again, in the end with writers kept out.

        Args:
            work: a function that calls methods of this index. It may be called several times.

        Returns:
            The value that ``work`` returned.
        """
        return self._files.read(work)

    def verify(self) -> None:
        """Check every file against its checksum.

        Raises:
            IndexCorruptError: if a file does not hold the bytes that were written to it. The error names the first such
                file.
        """
        self._files.now()
        with self._files.lock, loading(self.path):
            self._files.verify()

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Add documents, a batch at a time, and return how many. See `build` for the forms that they can have.

        Raises:
            DataError: if an id is in the index already. Earlier batches stay added.
        """
        return self._change(documents, "refuse", progress)

    def update(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Replace documents by id, add those whose ids are new, and return how many were written. See `build`.

        Documents that did not change are not read again: those that have the same title, text and metadata as in the
        index, and would be cut into the same passages.
        """
        return self._change(documents, "replace", progress)

    def _change(self, documents: Any, existing: Literal["refuse", "replace"], progress: Any) -> int:
        with self._writer.writing():
            form = self._files.settings.decoder_states
            if form is not None and self._decoder is None:
                raise InputError(
                    f"{self.path}: keeps decoder states, so that its decoder must read what is added; open it with "
                    f"decoder_states=load_reranker({form.reading.name!r})"
                )
            count = self._writer.write(self.encoder, as_documents(documents), existing, progress, self._decoder)
            self._writer.settle()
        return count

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none, and return how many.

        Args:
            ids: the ids, as a list or any other iterable.

        Raises:
            InputError: if an id is not in the index, or ``ids`` is a single string.
        """
        checked = checked_ids(ids, self.path)
        with self._writer.writing():
            self._writer.delete(checked)
            self._writer.settle()
        return len(checked)

    # -- searching ---------------------------------------------------------------------------------------------------

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the passages with the nearest embeddings.

        Args:
            queries: the texts of Q queries.
            k: the number of passages to find for each query.
            where: a metadata filter; see `DocumentStore.live`.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first. K is ``k``, or the number of all rows if that is less.
            Where fewer passages are allowed, the rest is -1 and -inf.

        Raises:
            InputError: if the index has no embeddings, a query cannot be used, or ``k`` is below 1.
        """
        if isinstance(queries, str):
            raise InputError("search_dense takes a list of queries; for one, a list of one")
        now = self._files.now()
        vectors = self._files.vector_index(now)
        return vectors.search(self.encoder.encode_queries(list(queries)), k, self._files.allowed(now, where))

    def search_multivector(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None, *, nprobe: int = NPROBE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the passages with the largest MaxSim of the token states that the index keeps; see `MultiVectorIndex`.

        If the index has more than a few hundred passages, the first search clusters their tokens, which takes a few
        seconds for each thousand passages. The centroids are kept beside the states.

        Args:
            queries: the texts of Q queries.
            k: the number of passages to find for each query.
            where: a metadata filter; see `DocumentStore.live`.
            nprobe: the number of centroids that each token of a query looks up. More find more and take longer; with
                all of them, every passage is scored.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first. K is ``k``, or the number of all rows if that is less.
            Where fewer passages are found, the rest is -1 and -inf.

        Raises:
            InputError: if the index keeps no token states, a query cannot be used, or ``k`` or ``nprobe`` is below 1.
            IndexMismatchError: if the reader of the states differs from the one that the index was built with.
            ModelError: if the reader cannot be loaded.
            MissingExtraError: if FAISS is needed and not installed.
        """
        if isinstance(queries, str):
            raise InputError("search_multivector takes a list of queries; for one, a list of one")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        now = self._files.now()
        vectors, allowed = self._files.multi_vectors(now), self._files.allowed(now, where)
        shape = len(queries), min(k, len(allowed))
        rows, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
        for place, read in enumerate(self.reader.read_queries(list(queries))):
            assert read.states is not None
            found, values = vectors.search(read.states, k, allowed, nprobe)
            rows[place, : len(found)], scores[place, : len(found)] = found, values
        return rows, scores

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find passages that share words with a query, by BM25 or learned sparse vectors, whichever the index keeps.

        Args:
            query: the text of the query.
            k: the largest number of passages to find.
            where: a metadata filter; see `DocumentStore.live`.

        Returns:
            (rows, scores): int64 and float64, best first.

        Raises:
            InputError: if the index was built without a lexical engine, or ``k`` is below 1.
            IndexMismatchError: if the sparse encoder differs from the one that the index was built with.
            ModelError: if the sparse encoder cannot be loaded.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        now = self._files.now()
        lexical, store = self._files.words.engine, self._files.store
        with store.translated():
            if where is not None:
                allowed = np.flatnonzero(self._files.allowed(now, where))
                return lexical.search(query, min(k, max(1, len(now.live))), allowed)
            known = len(now.live)
            most = min(k, max(1, known))
            rows, scores = lexical.search(query, most)
            if (rows >= known).any():
                # The lexical index knows passages by now that this state of the others does not.
                rows, scores = lexical.search(query, most + max(0, store.rows() - known))
        return rows[rows < known][:k], scores[rows < known][:k]

    def search_both(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[list[Ranked], list[Ranked]]:
        """Search by embeddings and by words.

        Args:
            queries: the texts of Q queries.
            k: the number of passages to find for each query by each of the two.
            where: a metadata filter; see `DocumentStore.live`.

        Returns:
            For each query, the rows and scores of `search_dense`; and for each query, those of `search_lexical`.

        Raises:
            SightlineError: see `search_dense` and `search_lexical`.
        """
        dense = self.search_dense(queries, k, where)
        return list(zip(*dense, strict=True)), [self.search_lexical(query, k, where) for query in queries]

    def bm25(self, query: str, rows: Sequence[int]) -> np.ndarray:
        """Score given passages with BM25 by the statistics of this index: float64 (N,), 0 without a query word.

        Args:
            query: the text of the query.
            rows: the rows of N passages.

        Raises:
            InputError: if the index was built without a BM25 engine.
        """
        asked = np.array(rows, dtype=np.int64)
        self._files.now().manifest.lexical.name.check("bm25", str(self.path))
        with self._files.store.translated():
            found, scores = self._files.words.engine.search(query, max(1, len(asked)), np.unique(asked))
        by_row = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([by_row.get(row, 0.0) for row in asked.tolist()])

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """Return the passages of these rows, in order. Rows that were deleted meanwhile, and -1, are left out."""
        self._files.now()
        asked = [int(row) for row in rows if row >= 0]
        stored = self._files.store.passages(asked)
        return [stored[row] for row in asked if row in stored]

    def passages_of(self, ids: Iterable[str]) -> list[StoredPassage]:
        """Return all passages of the documents with these ids. Ids that the index does not have are ignored.

        Raises:
            InputError: if an id is not a string.
        """
        self._files.now()
        return self._files.store.passages_of([id for id in map(checked_id, ids) if encodable(id)])

    def document_ids(self, rows: Sequence[int] | np.ndarray) -> dict[int, str]:
        """Return the document id of each row. Rows that were deleted meanwhile, and -1, are left out."""
        self._files.now()
        return self._files.store.document_ids([int(row) for row in rows if row >= 0])

    def document(self, id: str) -> Document | None:
        """Return the document with this id, or None.

        Raises:
            InputError: if the id is not a string.
        """
        self._files.now()
        return self._files.store.document(checked_id(id))

    def documents(self) -> Iterator[Document]:
        """Iterate over all documents, in the order in which they were added."""
        self._files.now()
        return self._files.store.documents()

    def sample(self, count: int) -> list[Document]:
        """Return up to ``count`` documents, spread evenly over the order in which they were added.

        They are the same ones until the index changes.
        """
        self._files.now()
        return self._files.store.sample(count)

    def vectors(self) -> np.ndarray:
        """Return the embeddings of all rows, deleted ones included: float32 (rows, dim), memory-mapped.

        Raises:
            InputError: if the index keeps no embeddings.
        """
        vectors = self._files.now().vectors
        if vectors is None:
            raise InputError(f"{self.path}: built without embeddings (encoder none)")
        return vectors

    @property
    def whole_documents(self) -> bool:
        """Whether every document is one passage, so that as many documents as passages are found."""
        return self._files.now().whole

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the document that each row belongs to; 0 for rows that were deleted, and for -1.

        Documents are numbered within the index. `passages` gives the documents of some rows with their ids and texts.

        Args:
            rows: int64 (N,), rows as `search_dense` and `search_lexical` return them.

        Returns:
            int64 (N,).
        """
        return np.where(rows >= 0, self._files.now().documents[rows], 0)

    def token_keys(self, passages: Sequence[StoredPassage]) -> list[Keys] | None:
        """Return the kept token states of passages as attention keys, memory-mapped; None if the index keeps none."""
        now = self._files.now()
        return None if now.states is None else self._files.token_keys(now, [stored.tokens for stored in passages])

    def token_spans(self, passages: Sequence[StoredPassage]) -> list[np.ndarray | None] | None:
        """Return the characters of passages that their kept token states cover, memory-mapped: uint16 (T, 2) each.

        They count from the start of `Passage.contents`. A passage with a token beyond its 65,534th character has None.
        The result is None if the index keeps no such characters, as indexes of earlier versions.
        """
        spans = self._files.now().spans
        return None if spans is None else decode_spans(spans, [stored.tokens for stored in passages])

    def states_table(self) -> np.ndarray | None:
        """Return the table that the form of the token states has learned; see `StatesForm.learn`.

        None if it has none.
        """
        return self._files.now().table

    def token_states(self, passages: Sequence[StoredPassage]) -> list[DocumentStates | None] | None:
        """Return the kept token states of passages and the characters they cover; None if the index keeps none."""
        keys = self.token_keys(passages)
        if keys is None:
            return None
        spans = self.token_spans(passages) or [None] * len(passages)
        return [
            DocumentStates(key, passage.truncated, span)
            for passage, key, span in zip(passages, keys, spans, strict=True)
        ]

    def digests(self) -> Iterator[dict[str, str]]:
        """Iterate over a digest of each document and its passages, by id, some hundred documents at a time."""
        waiting = self.documents()
        while documents := list(itertools.islice(waiting, BATCH_PASSAGES)):
            yield self._writer.digests_of([document.id for document in documents])

    def stored(self, ids: Sequence[str]) -> StoredBatch:
        """Return the documents with these ids and what is kept of them, except words; absent ones are left out."""
        return self.read(partial(self._stored, ids))

    def _stored(self, ids: Sequence[str]) -> StoredBatch:
        now, found = self._files.now(), self._files.store.find(ids)
        documents = {id: found[id] for id in ids if id in found}
        passages: dict[str, list[StoredPassage]] = {id: [] for id in documents}
        for passage in self.passages_of(documents):
            passages[passage.passage.document.id].append(passage)
        ordered = [passage for group in passages.values() for passage in group]
        places = np.concatenate(
            [np.empty(0, np.int64), *(np.arange(*passage.tokens, dtype=np.int64) for passage in ordered)]
        )
        lengths = [passage.tokens[1] - passage.tokens[0] for passage in ordered]
        return StoredBatch(
            [(document, [one.passage for one in passages[id]]) for id, document in documents.items()],
            None if now.vectors is None else np.asarray(now.vectors[[passage.row for passage in ordered]]),
            None if now.states is None else np.asarray(now.states[places]),
            None if now.spans is None else np.asarray(now.spans[places]),
            np.array([0, *itertools.accumulate(lengths)], dtype=np.int64),
            np.array([passage.truncated for passage in ordered], dtype=np.int64),
            table=now.table,
        )

    def decoder_states(self, passages: Sequence[StoredPassage]) -> list[StoredBlock | None] | None:
        """Return the kept decoder states of passages, memory-mapped; None if the index keeps none."""
        now = self._files.now()
        states, form = now.decoder, now.manifest.decoder_states
        if states is None or form is None:
            return None
        populate(states, [stored.decoder_tokens for stored in passages])
        places = (stored.decoder_tokens for stored in passages)
        return [
            StoredBlock(states[first:stop].reshape(-1), stop - first, form) if stop > first else None
            for first, stop in places
        ]


def _open_again(path: str, encoder: Encoder | None, sparse_encoder: SparseEncoder | None, backend: str | None) -> Index:
    backend = None if encoder is not None else backend  # it reads by its own
    return Index.open(path, encoder=encoder, backend=backend, sparse_encoder=sparse_encoder, verify=False)


def _beside(path: Path) -> Path:
    """Return the folder in which an index is made before it takes its place at ``path``."""
    return path.with_name(path.name + ".building")


def _clear(beside: Path, planned: Manifest) -> None:
    """Remove what an interrupted run left in `_beside`, unless it was the same one and did not come to its end."""
    with locked(beside / WRITER_LOCK, wait=PATIENCE):
        try:
            if not joined(beside, planned).complete:
                return
        except IndexStoreError:
            pass
        _remove(beside)


def _take_place(path: Path, beside: Path, *, overwrite: bool) -> None:
    """Move the index from `_beside` to ``path`` in one step, and remove the index that it replaces.

    The caller is the one writer of both. Who waits for the old one meanwhile goes on with the new one; see `locked`.
    """
    kept = "the old index is kept" if overwrite else f"the index is finished in {beside}, which you can rename"
    with storage_errors(path, kept):
        if not overwrite:
            beside.rename(path)  # fails if somebody has made something there meanwhile
            return
        with committing(path):
            exchange(path, beside)
        _remove(beside)


def _remove(folder: Path) -> None:
    """Remove the folder of an index, by whose manifest and locks others know what it is until the end."""
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir(), key=lambda entry: (entry.name in LOCKS, entry.name == "manifest.json")):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()
        folder.rmdir()
