"""An index in Qdrant, in this process or on a server.

`QdrantStore` makes, opens and copies an index. `qdrant_search` searches it, and `qdrant_writing` changes it.
`qdrant_points` defines its points, and `qdrant_contents` reads its documents and counts. `qdrant_edge` and
`qdrant_server` implement the interface in `qdrant_engines`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from ..documents import Document
from ..errors import DataError, IndexMismatchError, IndexStoreError, InputError
from ..models.encoder import Encoder, load_encoder
from ..models.sparse import SparseEncoder
from ..names import LexicalName, StoreName
from .copying import Source, planned_copy, synchronise
from .manifest import FaissRecord, LexicalRecord, Manifest
from .passages import passage_batches
from .planning import (
    IndexSettings,
    check_backend,
    check_encoder,
    given_encoder,
    load_built_encoder,
    load_planned_encoder,
    plan,
    reading_by,
)
from .qdrant_edge import EdgeEngine
from .qdrant_engines import Engine, Plan
from .qdrant_filters import Where
from .qdrant_points import PLACES, has_manifest, load_manifest, record_of
from .qdrant_search import QdrantSearch
from .qdrant_server import ServerEngine
from .qdrant_writing import OTHERWISE, QdrantWriter
from .reading import Batch, BatchReading, ReadingPlan
from .shards import Shard, ShardStream
from .sources import as_documents
from .store import checked_ids
from .writing import BATCH_PASSAGES

__all__ = ["QdrantStore"]

logger = logging.getLogger(__name__)


class QdrantStore(QdrantSearch):
    """An index in Qdrant, for `sightline.Searcher` and everything else that takes an index.

    Make one with `QdrantStore.build`, `QdrantStore.create` or `QdrantStore.copy`, and open one with `QdrantStore.open`
    or `sightline.open_store`. Its methods are those of `sightline.Index`, with the same results; rows are large
    integers. Several processes may write to a server at once. ``qdrant-edge`` is open in one process at a time.

    Example:
        >>> import tempfile
        >>> documents = [Document("a", "Cats purr when they are content."), Document("b", "Dogs bark at strangers.")]
        >>> with QdrantStore.build("qdrant-edge:" + tempfile.mkdtemp() + "/pets", documents) as store:
        ...     rows, scores = store.search_dense(["feline sounds"], k=1)
        ...     store.passages(rows[0])[0].passage.document.id
        'a'
    """

    def __init__(self, engine: Engine, *, options: Mapping[str, Any] | None = None) -> None:
        """Do not call this; use `QdrantStore.build`, `QdrantStore.create` or `QdrantStore.open`."""
        super().__init__(engine)
        self._options = dict(options or {})
        self._given_encoder: Encoder | None = None
        self._sparse_encoder: SparseEncoder | None = None

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, name: str, *, timeout: float = 60.0, retries: int = 3, client: Any = None, **settings: Any
    ) -> QdrantStore:
        """Make an empty index, or continue an interrupted build with the same settings. Then call `write` and `finish`.

        Args:
            name: the name of the store; see `open`.
            timeout: the number of seconds for one request; see `open`.
            retries: the number of times that a request is sent again; see `open`.
            client: a client for the server; see `open`.
            settings: the fields of `sightline.retrieval.planning.IndexSettings`. ``faiss`` is ``Flat``, for exact
                search, or ``HNSWM``, for Qdrant's graph with M links. ``lexical`` is ``fts5``, ``sparse:MODEL`` or
                ``none``; in Qdrant, ``fts5`` means BM25 by sparse vectors.

        Raises:
            IndexStoreError: if there is a complete index, or the server cannot be reached.
            IndexMismatchError: if there is an incomplete index with other settings.
            InputError: if a setting is out of range, or Qdrant cannot do what it asks for.
        """
        chosen = IndexSettings(**settings)
        options = {"timeout": timeout, "retries": retries, "client": client}
        model = load_planned_encoder(chosen)
        planned = _planned(chosen, model)
        engine = _engine(name, **options)
        try:
            store = cls._joined(engine, planned, options)
            if store.manifest.complete:
                raise IndexStoreError(f"{name}: there is an index here already; {OTHERWISE}")
        except BaseException:
            engine.close()
            raise
        return store._with(chosen, model)

    @classmethod
    def _joined(cls, engine: Engine, planned: Manifest, options: Mapping[str, Any]) -> QdrantStore:
        """Make an index with the planned settings, or open the one that is there, finished or not.

        Other processes may do the same at the same time.
        """
        _refuse_foreign(engine)
        if not has_manifest(engine):
            factory = planned.faiss.factory
            engine.create(
                Plan(
                    planned.encoder.dim,
                    0 if factory == "Flat" else int(factory.removeprefix("HNSW")),
                    planned.lexical.engine != "none",
                )
            )
            engine.upsert("passages", [record_of(planned)], new_only=True)  # the first of all who make it stays
        store = cls(engine, options=options)
        if store.manifest.settings() != planned.settings():
            difference = store.manifest.difference(planned)
            raise IndexMismatchError(
                f"{engine.name}: there is an index with other settings ({difference}); {OTHERWISE}"
                if store.manifest.complete
                else f"{engine.name}: an interrupted build with other settings is here ({difference}); repeat its "
                "settings to continue it, or remove it"
            )
        return store

    def _with(self, settings: IndexSettings, model: Encoder | None) -> QdrantStore:
        """Set the encoder that the settings name. If ``model`` is None, it is loaded when it is first needed."""
        self._given_encoder = given_encoder(settings)
        self._encoder = self._given_encoder or model
        self._backend = settings.backend
        return self

    @classmethod
    def open(
        cls,
        name: str,
        *,
        encoder: str | Encoder | None = None,
        backend: str | None = None,
        sparse_encoder: str | SparseEncoder | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
        verify: bool = True,
    ) -> QdrantStore:
        """Open an index for searching and for changing.

        Args:
            name: ``qdrant-edge:PATH``, or ``qdrant://HOST:PORT/COLLECTION`` (``qdrants://`` over TLS), which may end in
                ``?timeout=SECONDS&retries=NUMBER``. The key of a server is read from ``QDRANT_API_KEY`` in the
                environment.
            encoder: an encoder to use in the place of the index's own; it must give the same embeddings. If None, the
                index's own is loaded when it is first needed.
            backend: the library that reads queries and added documents; see `sightline.Index.open`.
            sparse_encoder: an encoder of learned sparse vectors to use in the place of the index's own; see
                `sightline.Index.open`.
            timeout: the number of seconds to wait for a server's answer to one request, unless the name says it.
            retries: the number of times that a request to a server is sent again after a lost connection, 404, 429 or
                503, unless the name says it.
            client: a ``QdrantClient`` to use for a server. If None, one is made.
            verify: whether to look for passages without their vectors.

        Raises:
            MissingExtraError: if the engine's package is not installed.
            IndexStoreError: if there is no index, or the server cannot be reached.
            IndexCorruptError: if the manifest is damaged, the collection has other vectors than it says, or passages
                lack their vectors.
            IndexMismatchError: if ``encoder`` or ``sparse_encoder`` differs from the one that the index was built with.
        """
        options = {"timeout": timeout, "retries": retries, "client": client}
        check_backend(backend, encoder)
        engine = _engine(name, **options)
        try:
            if not engine.exists():
                raise IndexStoreError(f"{name}: there is no index; build one with: sightline index --store {name}")
            store = cls(engine, options=options)
            store._contents.check_vectors(passages=verify)
            store._backend = backend
            if sparse_encoder is not None:
                store._sparse_encoder = store._contents.take_sparse_encoder(sparse_encoder)
            if encoder is not None:
                if isinstance(encoder, str):
                    encoder = load_encoder(encoder, **reading_by(backend))
                store._encoder = store._given_encoder = encoder
                check_encoder(store.manifest.encoder, encoder, name)
        except BaseException:
            engine.close()
            raise
        return store

    @classmethod
    def build(
        cls,
        name: str,
        documents: Iterable[Document | Mapping[str, Any] | str],
        *,
        progress: Callable[[int], None] | None = None,
        overwrite: bool = False,
        reading: BatchReading | None = None,
        shard: Shard | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
        **settings: Any,
    ) -> QdrantStore:
        """Make an index of documents, or finish making it, as `sightline.Index.build` does.

        Args:
            name: the name of the store; see `open`.
            documents: the documents; see `sightline.Index.build`.
            progress: a function that is called after each batch with the number of documents taken from the stream so
                far.
            overwrite: whether to replace an index that exists. The new one is built beside the old one, which can be
                searched until the new one is done; then an alias, or the folder, is switched at once. A second process
                that does the same takes over what the first has built, and the first fails.
            reading: an object that reads passages; see `sightline.Index.build`. On a server, it also writes them.
            shard: the shard of the documents to index. Each shard is built by a call of its own, in any order, on a
                server also at the same time; the last to end finishes the index. A finished shard is not read again. If
                None, all documents are indexed.
            timeout: the number of seconds for one request; see `open`.
            retries: the number of times that a request is sent again; see `open`.
            client: a client for the server; see `open`.
            settings: the settings of the index; see `create`.

        Raises:
            DataError: if two documents have the same id, or there are no documents. Nothing is made then.
            IndexStoreError: if there is a finished index of other documents or settings.
            IndexMismatchError: if a build with another number of shards is under way, or the documents of a finished
                shard have changed; the shard then counts as unfinished.
            InputError: if you give both ``overwrite`` and ``shard``.
            SightlineError: see `create`.
        """
        chosen = IndexSettings(**settings)
        if shard is not None and overwrite:
            raise InputError("several processes cannot replace an index; build the shards under another name")
        options = {"timeout": timeout, "retries": retries, "client": client}
        stream = iter(as_documents(documents))
        first = next(stream, None)
        if first is None:
            raise DataError("there are no documents to index", path=name)
        stream = itertools.chain([first], stream)
        engine, model = _engine(name, **options), load_planned_encoder(chosen)
        planned = _planned(chosen, model)
        # The number format is for this build only; later texts are read in the encoder's own.
        later = model if chosen.dtype is None else None
        try:
            if shard is not None:
                store = cls._joined(engine, planned, options)._with(chosen, model)
                with store._changing() as writer:
                    store._build_shard(writer, ShardStream(stream, shard), shard, reading, progress)
                return store._with(chosen, later)
            target = _cleared(engine.beside(), planned) if overwrite and has_manifest(engine) else engine
            store = cls._joined(target, planned, options)._with(chosen, model)
            if store.manifest.complete:
                QdrantWriter(store._contents).compare(stream)
                logger.info("%s: complete already, with these %d documents", name, len(store))
                return store._with(chosen, later)
            with store._changing() as writer:
                writer.write(store.encoder, stream, "resume", progress, store._elsewhere(writer, reading, engine))
                writer.finish()
            if target is not engine:
                engine.take(target)
                target.close()
                store = cls(engine, options=options)
            store._with(chosen, later)
        except BaseException:
            engine.close()
            raise
        return store

    @classmethod
    def is_finished(cls, name: str, *, timeout: float = 60.0, retries: int = 3, client: Any = None) -> bool:
        """Tell whether there is an index whose build is complete. The arguments are those of `open`."""
        engine = _engine(name, timeout=timeout, retries=retries, client=client)
        try:
            return has_manifest(engine) and load_manifest(engine).complete
        finally:
            engine.close()

    def _build_shard(
        self,
        writer: QdrantWriter,
        documents: ShardStream,
        shard: Shard,
        reading: BatchReading | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Write the documents of a shard, mark it as finished, and finish the index after the last shard."""
        done = not writer.begin_shard(documents, shard)
        if not done:
            read = self._elsewhere(writer, reading, self.engine)
            writer.write(self.encoder, documents, "resume", progress, read, shard)
            writer.end_shard(documents, shard)
        else:
            logger.info("%s: %s is done already, with %d documents", self.path, shard, documents.count)
        if not (done and writer.contents.manifest.complete):
            writer.finish_shards(shard.of)

    @property
    def shards(self) -> tuple[int, int] | None:
        """The number of shards that are done, and of all shards, of a build in shards; None for any other build."""
        return QdrantWriter(self._contents).shards()

    @classmethod
    def copy(
        cls,
        source: Source,
        name: str,
        *,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
    ) -> QdrantStore:
        """Copy an index into Qdrant, with its embeddings and token states, without reading any text again.

        The copy is the index as it was at one moment, even if others write to the index meanwhile. It is made beside
        an index of this name, and takes the name when it is done; so nobody can open a part of it. An interrupted copy
        continues.

        Args:
            source: the open index, an `Index` or another store.
            name: the name of the store; see `open`.
            overwrite: whether to replace an index that is there. The old one can be searched until the copy is done.
            progress: a function that is called with the number of documents compared so far.
            timeout: the number of seconds for one request; see `open`.
            retries: the number of times that a request is sent again; see `open`.
            client: a client for the server; see `open`.

        Raises:
            InputError: if the index keeps learned sparse vectors or decoder states, which a store in Qdrant does not.
            IndexStoreError: if there is an index already, another process copies to this name too, or the server cannot
                be reached.
            IndexMismatchError: if another index replaces the source meanwhile, and what was copied is of no use.
        """
        options = {"timeout": timeout, "retries": retries, "client": client}
        planned = planned_copy(source)
        factory = planned.faiss.factory
        planned = dataclasses.replace(
            planned,
            faiss=FaissRecord(factory if _possible(factory, planned.faiss.parameters) else "Flat", ""),
            lexical=LexicalRecord("none" if planned.lexical.engine == "none" else "qdrant"),
        )
        engine = _engine(name, **options)
        try:
            _refuse_existing(engine, overwrite)
            _refuse_foreign(engine)
            beside = _cleared(engine.beside(), planned)
            store = cls._joined(beside, planned, options)
            try:
                with store._changing() as writer:
                    synchronise(source, writer, progress)
                    writer.finish()
            except IndexMismatchError:
                beside.drop()
                raise
            _refuse_existing(engine, overwrite)  # another process may have made one meanwhile
            engine.take(beside)
            beside.close()
            store = cls(engine, options=options)
            store._given_encoder = store._encoder = getattr(source, "_given_encoder", None)
        except BaseException:
            engine.close()
            raise
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the name, and the encoder that was given: they open the index again."""
        options = {name: value for name, value in self._options.items() if value is not None}
        if self._given_encoder is None and self._backend is not None:
            options["backend"] = self._backend
        if self._sparse_encoder is not None:
            options["sparse_encoder"] = self._sparse_encoder
        return _open_again, (self.path, self._given_encoder, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- changing ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Iterator[QdrantWriter]:
        """Return a writer for one change, which concerns a single index even if another takes the name meanwhile."""
        fixed = self._contents.fixed()
        try:
            yield QdrantWriter(fixed)
        finally:
            self._contents.adopt(fixed)

    def add(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Add documents, a batch at a time, and return how many.

        Raises:
            DataError: if an id is in the index already. Earlier batches stay added.
        """
        return self._write(documents, "refuse", progress)

    def update(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Replace documents by id, add those whose ids are new, and return how many were written.

        Documents that did not change are written again, which repairs what a killed writer left.
        """
        return self._write(documents, "replace", progress)

    def _write(self, documents: Iterable[Any], existing: Any, progress: Callable[[int], None] | None) -> int:
        with self._changing() as writer:
            written = writer.write(self.encoder, as_documents(documents), existing, progress)
            writer.settle()
        return written

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none, and return how many.

        Raises:
            InputError: if an id is not in the index, or ``ids`` is a single string.
        """
        checked = checked_ids(ids, self.path)
        with self._changing() as writer:
            heads = writer.contents.heads(checked, PLACES)
            if missing := [id for id in checked if id not in heads]:
                raise InputError(
                    f"{self.path}: no document {missing[0]!r} ({len(missing)} of {len(checked)} ids not found)"
                )
            writer.drop(heads)
            writer.settle()
        return len(checked)

    def write(self, documents: Iterable[Document | Mapping[str, Any] | str]) -> int:
        """Read and write documents, and replace those that exist: one batch of a build that several processes share.

        Repeating a write changes nothing, and several processes may write at once, even the same documents. `finish`
        ends the build.

        Args:
            documents: the documents; see `sightline.Index.build`.

        Returns:
            The number of documents that were written.
        """
        written, encoder = 0, self.encoder
        with self._changing() as writer:
            batches = passage_batches(as_documents(documents), writer.splitter(encoder), BATCH_PASSAGES)
            for read in writer.read(encoder, batches):
                writer.put(read)
                written += len(read.documents)
            writer.settle()
        return written

    def write_batch(self, batch: Batch) -> None:
        """Read and write documents that are already cut into passages; see `write`."""
        with self._changing() as writer:
            for read in writer.read(self.encoder, [batch]):
                writer.put(read)
            writer.settle()

    def _elsewhere(self, writer: QdrantWriter, reading: BatchReading | None, engine: Engine) -> Any:
        """Return what reads batches in other processes. They also write if they can open this store by its name."""
        if reading is None:
            return None
        load: Callable[[], Encoder] = partial(load_built_encoder, self.manifest.encoder, self.path, self._backend)
        if (given := self._given_encoder) is not None:
            load = partial(_itself, given)
        shared = self.engine.shared and self.engine is engine and self._options.get("client") is None
        plan = ReadingPlan(self.manifest, self.path, load, writer.contents.table, self if shared else None)
        return partial(reading, plan=plan)

    def finish(self) -> None:
        """End a build: make the vectors of words with the mean length of all passages, and mark it as complete."""
        with self._changing() as writer:
            writer.finish()


def _engine(name: str, *, timeout: float, retries: int, client: Any) -> Engine:
    parsed = StoreName.parse(name)
    if parsed.kind == "qdrant-edge":
        return EdgeEngine(parsed.place)
    if parsed.kind == "qdrant":
        timeout = timeout if parsed.timeout is None else parsed.timeout
        retries = retries if parsed.retries is None else parsed.retries
        return ServerEngine(name, parsed.place, parsed.collection, timeout=timeout, retries=retries, client=client)
    raise InputError(
        f"{name!r} is not the name of a store in Qdrant; use qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION"
    )


def _open_again(name: str, encoder: Encoder | None, options: dict[str, Any]) -> QdrantStore:
    return QdrantStore.open(name, encoder=encoder, verify=False, **options)


def _itself(encoder: Encoder) -> Encoder:
    return encoder


def _possible(factory: str, parameters: str) -> bool:
    """Tell whether Qdrant has such an index over embeddings."""
    return re.fullmatch(r"Flat|HNSW[1-9][0-9]{0,2}", factory) is not None and not parameters


def _planned(settings: IndexSettings, model: Encoder) -> Manifest:
    """The manifest of an empty index, with the encoder that its settings name.

    Raises:
        InputError: if a setting is out of range, or Qdrant does not support it.
    """
    if not _possible(settings.faiss, settings.faiss_parameters):
        raise InputError(
            "a store in Qdrant searches embeddings exactly or by its own graph; set faiss to 'Flat', or to 'HNSWM' "
            f"such as 'HNSW32', and leave faiss_parameters empty, instead of {settings.faiss!r} and "
            f"{settings.faiss_parameters!r}"
        )
    lexical = LexicalName.parse(settings.lexical)
    if lexical.engine not in ("fts5", "none", "sparse"):
        raise InputError(
            f"a store in Qdrant has its own BM25, so lexical must be 'fts5', 'sparse:MODEL' or 'none', not "
            f"{settings.lexical!r}"
        )
    if settings.decoder_states is not None:
        raise InputError("decoder states are not kept in Qdrant; build an index in a folder for them")
    planned = plan(dataclasses.replace(settings, faiss="Flat"), model)
    words = LexicalRecord("qdrant") if lexical.stage == "bm25" else planned.lexical
    return dataclasses.replace(planned, faiss=FaissRecord(settings.faiss, ""), lexical=words)


def _refuse_existing(engine: Engine, overwrite: bool) -> None:
    if not overwrite and has_manifest(engine):
        raise IndexStoreError(
            f"{engine.name}: there is an index here already; overwrite replaces it; or choose another name"
        )


def _refuse_foreign(engine: Engine) -> None:
    # In this order: who makes an index at this moment writes its manifest before anything else.
    if engine.exists() and engine.count(Where()) and not has_manifest(engine):
        raise IndexStoreError(
            f"{engine.name}: the collection has points but no manifest of Sightline; remove it, or choose another name"
        )


def _cleared(beside: Engine, planned: Manifest) -> Engine:
    """Return the place beside an index. What an interrupted run left there is removed unless it can continue."""
    if beside.exists():
        try:
            manifest = load_manifest(beside)
        except IndexStoreError:
            manifest = None
        if manifest is None or manifest.complete or manifest.settings() != planned.settings():
            beside.drop()
    return beside
