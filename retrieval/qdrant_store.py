"""An index in Qdrant: the engine in this process, or a server.

A passage is a point, whose id follows from the document's id and the passage's number: a write that is repeated changes
nothing, and several processes may write at once. Its vectors are ``dense``, the embedding, and ``words``, BM25 (see
`sightline.retrieval.qdrant_words`). Its payload has where it is in the document, what filters need (see
`sightline.retrieval.qdrant_filters`), and a digest of the whole document; that of passage 0 has the document itself.
Token states are bytes in a part of their own, fetched for the candidates alone. A point with a fixed id holds the
manifest.

A document's passages are several points, which a reader may see half written. So a passage counts only while its digest
is that of passage 0, and `QdrantStore.read` does a search again whose passages changed meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import logging
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import numpy as np
import xxhash

from ..documents import Document, Passage, encodable
from ..errors import DataError, IndexCorruptError, IndexMismatchError, IndexStoreError, InputError
from ..models.encoder import Encoder, load_encoder
from ..models.reader import DocumentStates
from ..names import StoreName
from .filters import Filter
from .manifest import FaissRecord, LexicalRecord, Manifest, StoreRecord
from .passages import Splitter, passage_batches
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
from .qdrant_engines import EdgeEngine, Engine, Hit, Part, Plan, Point, ServerEngine, Traffic
from .qdrant_filters import MARKS, Among, Between, HasVector, Where, check_filter, payload_of, translated
from .qdrant_words import passage_words, query_vector
from .reading import Batch, BatchReading, ReadingPlan, StoredBatch, read_batch
from .shards import Shard, ShardStream
from .sources import as_documents
from .store import StoredPassage, as_json
from .token_states import decode_spans, states_form
from .writing import BATCH_PASSAGES

if TYPE_CHECKING:
    from ..models.reader import StoredBlock
    from .index import Index

__all__ = ["QdrantStore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LAYOUT = 1
_PASSAGES = 1 << 24  # of a document; the low bits of a point's id are the passage's number
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://sightline/passages")
_RECORD, _MEAN, _TABLE, _SHARDS = (
    uuid.uuid5(_NAMESPACE, f"\x00{name}").int for name in ("manifest", "mean length", "table", "shards")
)
_OTHERWISE = "change it with add, update or delete, or build it again with overwrite"
_FETCHED = ("id", "title", "text", "metadata", "start", "end", "truncated", "tokens", "digest", "passages")
_EVERYTHING = 1_000_000  # different values of a field
_SECONDS = 2.0  # how long what is counted holds where others may write
_KEPT = 64  # translated filters, and frequencies times a thousand
_TRIALS = 3
_DRIFT = 0.005  # of the mean length, from which on vectors of words are made anew
_EXACT = 200_000  # passages, up to which a build makes them exact
_REST = Where(must=(Between("passage", {"gte": 0}),))


@dataclass(frozen=True, slots=True)
class _StoredPoint(StoredPassage):
    digest: str = ""


@dataclass(slots=True)
class _Statistics:
    """What was counted, as long as it holds."""

    writes: int
    until: float
    passages: int
    mean: float
    whole: bool
    documents: int
    frequencies: dict[str, int] = field(default_factory=dict)
    filters: dict[str, Where] = field(default_factory=dict)


class QdrantStore:
    """An index in Qdrant, for `sightline.Searcher` and everything else that takes an index.

    Made by `QdrantStore.build`, `QdrantStore.create` or `QdrantStore.copy`, opened by `QdrantStore.open` or
    `sightline.open_store`. Its methods are those of `sightline.Index`, with the same results; rows are large integers.
    Several processes may write to a server at once. ``qdrant-edge`` is open in one process at a time.

    Example:
        >>> import tempfile
        >>> documents = [Document("a", "Cats purr when they are content."), Document("b", "Dogs bark at strangers.")]
        >>> with QdrantStore.build("qdrant-edge:" + tempfile.mkdtemp() + "/pets", documents) as store:
        ...     rows, scores = store.search_dense(["feline sounds"], k=1)
        ...     store.passages(rows[0])[0].passage.document.id
        'a'
    """

    def __init__(self, engine: Engine, manifest: Manifest, *, options: Mapping[str, Any] | None = None) -> None:
        """Use `QdrantStore.build`, `QdrantStore.create` or `QdrantStore.open`."""
        self.engine = engine
        self._manifest = manifest
        self._options = dict(options or {})
        self._given_encoder: Encoder | None = None
        self._encoder: Encoder | None = None
        self._backend: str | None = None
        self._counted: _Statistics | None = None
        self._known_mean: float | None = None
        self._known_table: np.ndarray | None = None
        self._reading = threading.local()
        states = manifest.token_states
        self._form = None if states.dim is None else states_form(states.kind, states.dim)

    # -- making and opening ------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, name: str, *, timeout: float = 60.0, retries: int = 3, client: Any = None, **settings: Any
    ) -> QdrantStore:
        """Make an empty index, or take up an interrupted build with the same settings; then `write`, then `finish`.

        Args:
            name: see `open`.
            timeout: see `open`.
            retries: see `open`.
            client: see `open`.
            settings: the fields of `sightline.retrieval.planning.IndexSettings`. ``faiss`` is ``Flat``, for exact
                search, or ``HNSWM``, for Qdrant's graph with M links. BM25 is the store's own, or ``lexical="none"``.

        Raises:
            IndexStoreError: if there is a complete index already, or the server cannot be reached.
            IndexMismatchError: if there is an incomplete index with other settings.
            InputError: if a setting is out of range, or Qdrant has no such thing.
        """
        chosen = IndexSettings(**settings)
        options = {"timeout": timeout, "retries": retries, "client": client}
        model = load_planned_encoder(chosen)
        store = cls._create(_engine(name, **options), _planned(chosen, model), options)
        return store._with(chosen, model)

    @classmethod
    def _create(cls, engine: Engine, planned: Manifest, options: Mapping[str, Any]) -> QdrantStore:
        there = engine.exists()
        if there and not engine.retrieve("passages", [_RECORD], ["layout"]) and engine.count(Where()):
            raise IndexStoreError(
                f"{engine.name}: there is something without a manifest of Sightline; remove it, or choose another name"
            )
        factory = planned.faiss.factory
        engine.create(
            Plan(
                planned.encoder.dim,
                0 if factory == "Flat" else int(factory.removeprefix("HNSW")),
                planned.lexical.engine != "none",
            )
        )
        engine.upsert("passages", [_record(planned)], new_only=True)  # the first of all who make it stays
        store = cls(engine, _manifest(engine), options=options)
        if store._manifest.complete:
            engine.close()
            raise IndexStoreError(
                f"{engine.name}: there is an index here already; change it with add, update or delete, or build it "
                "again with overwrite"
            )
        if store._manifest.settings() != planned.settings():
            engine.close()
            raise IndexMismatchError(
                f"{engine.name}: an interrupted build with other settings is here "
                f"({store._manifest.difference(planned)}); repeat its settings to go on with it, or remove it"
            )
        return store

    def _with(self, settings: IndexSettings, model: Encoder | None) -> QdrantStore:
        """This store with the encoder that settings name; None for ``model`` to load it as it reads by itself."""
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
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
        verify: bool = True,
    ) -> QdrantStore:
        """Open an index for searching and for changing.

        Args:
            name: ``qdrant-edge:PATH``, or ``qdrant://HOST:PORT/COLLECTION`` (``qdrants://`` over TLS). The key of a
                server is read from ``QDRANT_API_KEY`` in the environment.
            encoder: None to load the index's own when it is first needed; or an encoder to use instead, which must
                give the same embeddings.
            backend: see `sightline.Index.open`.
            timeout: of a server: seconds for one request and its answer.
            retries: of a server: how often a request is sent again after a lost connection, 429 or 503.
            client: of a server: a ``QdrantClient`` to use.
            verify: look for passages without their vectors.

        Raises:
            MissingExtraError: if the package of the engine is not installed.
            IndexStoreError: if there is no index, or the server cannot be reached.
            IndexCorruptError: if the manifest is damaged, the collection has other vectors than it says, or passages
                lack theirs.
            IndexMismatchError: if ``encoder`` is another than the index was built with.
        """
        options = {"timeout": timeout, "retries": retries, "client": client}
        check_backend(backend, encoder)
        engine = _engine(name, **options)
        try:
            if not engine.exists():
                raise IndexStoreError(f"{name}: there is no index; build one with: sightline index --store {name}")
            store = cls(engine, _manifest(engine), options=options)
            store._check_vectors(verify)
            store._backend = backend
            if encoder is not None:
                if isinstance(encoder, str):
                    encoder = load_encoder(encoder, **reading_by(backend))
                store._encoder = store._given_encoder = encoder
                check_encoder(store._manifest.encoder, encoder, name)
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
        """Make an index of ``documents``, or finish making it, as `sightline.Index.build` does.

        Args:
            name: see `open`.
            documents: see `sightline.Index.build`.
            progress: called after each batch with the number of documents taken from the stream so far.
            overwrite: replace an index that is there already. It is built beside the old one, which can be searched
                until it is done; then an alias, or the folder, is switched at once.
            reading: see `sightline.Index.build`. On a server, what reads passages also writes them.
            shard: index only these of the documents. Each shard is built by a call of its own, in any order, on a
                server also at once; the last to end finishes the index. A shard that is finished is not read again.
            timeout: see `open`.
            retries: see `open`.
            client: see `open`.
            settings: see `create`.

        Raises:
            DataError: if two documents have one id, or there are no documents; nothing is made then.
            IndexStoreError: if there is a finished index of other documents or settings already.
            IndexMismatchError: if a build with another number of shards is going on, or the documents of a finished
                shard have changed; it then counts as unfinished.
            InputError: if ``overwrite`` and ``shard`` are both given.
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
        # A number format is for a build alone; later texts are read as the encoder reads by itself.
        later = model if chosen.dtype is None else None
        try:
            there = engine.exists() and bool(engine.retrieve("passages", [_RECORD], ["layout"]))
            if shard is not None:
                complete = there and _manifest(engine).complete
                make = cls._complete if complete else cls._create
                store = make(engine, planned, options)._with(chosen, model)
                store._build_shard(ShardStream(stream, shard), shard, reading, progress)
                return store._with(chosen, later)
            if there and not overwrite and _manifest(engine).complete:
                return cls._finished(engine, planned, stream, options)._with(chosen, later)
            target = engine.beside() if there and overwrite else engine
            if target is not engine and target.exists() and _leftover(target, planned):
                target.drop()
            store = cls._create(target, planned, options)._with(chosen, model)
            store._write_all(stream, "resume", progress, store._elsewhere(reading, engine))
            store.finish()
            if target is not engine:
                engine.take(target)
                store = cls(engine, _manifest(engine), options=options)
            store._with(chosen, later)
        except BaseException:
            engine.close()
            raise
        return store

    @classmethod
    def is_finished(cls, name: str, *, timeout: float = 60.0, retries: int = 3, client: Any = None) -> bool:
        """Whether there is an index whose build went through; the arguments are those of `open`."""
        engine = _engine(name, timeout=timeout, retries=retries, client=client)
        try:
            there = engine.exists() and bool(engine.retrieve("passages", [_RECORD], ["layout"]))
            return there and _manifest(engine).complete
        finally:
            engine.close()

    @classmethod
    def _finished(
        cls,
        engine: Engine,
        planned: Manifest,
        documents: Iterator[Document],
        options: Mapping[str, Any],
    ) -> QdrantStore:
        """An index that needs no work, for it was built of these documents already."""
        other, store = _OTHERWISE, cls._complete(engine, planned, options)
        count = 0
        while batch := list(itertools.islice(documents, BATCH_PASSAGES)):
            count += len(batch)
            kept = store._heads([document.id for document in batch])
            for document in batch:
                head = kept.get(document.id)
                if head is None or _document(head, engine.name) != _plain(document):
                    others = f"there is an index of other documents, without {document.id!r} as given"
                    raise IndexStoreError(f"{engine.name}: {others}; {other}")
        if count != len(store):
            raise IndexStoreError(
                f"{engine.name}: there is an index of {len(store)} documents, not of {count}; {other}"
            )
        logger.info("%s: complete already, with these %d documents", engine.name, count)
        return store

    @classmethod
    def _complete(cls, engine: Engine, planned: Manifest, options: Mapping[str, Any]) -> QdrantStore:
        """A complete index with the settings that are planned."""
        store = cls(engine, _manifest(engine), options=options)
        if store._manifest.settings() != planned.settings():
            difference = store._manifest.difference(planned)
            raise IndexMismatchError(
                f"{engine.name}: there is an index with other settings ({difference}); {_OTHERWISE}"
            )
        return store

    def _build_shard(
        self,
        documents: ShardStream,
        shard: Shard,
        reading: BatchReading | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Write the documents of a shard, remember that it is done, and finish the index if all are."""
        complete = self._manifest.complete
        if not complete:
            self.engine.upsert("passages", [Point(_SHARDS, {}, {"of": shard.of})], new_only=True)
        of = self.engine.retrieve("passages", [_SHARDS], ["of"]).get(_SHARDS, {}).get("of")
        if of is None:
            raise IndexStoreError(f"{self.path}: there is an index here already, built without shards; {_OTHERWISE}")
        if of != shard.of:
            raise IndexMismatchError(
                f"{self.path}: it is built in {of} shards, not in {shard.of}; go on with {of}, or remove it"
            )
        done = self._done_shards(shard.of).get(shard.number)
        if done is None:
            self._write_all(documents, "resume", progress, self._elsewhere(reading, self.engine), shard)
            record = {"documents": documents.count, "digest": documents.digest}
            self.engine.upsert("passages", [Point(_done_row(shard), {}, record)])
        else:
            for _ in documents:
                pass
            if done != {"documents": documents.count, "digest": documents.digest}:
                if complete:
                    raise IndexStoreError(f"{self.path}: there is an index of other documents in {shard}; {_OTHERWISE}")
                self.engine.delete("passages", Where(ids=(_done_row(shard),)))
                raise IndexMismatchError(
                    f"{self.path}: the documents of {shard} have changed since it was finished "
                    f"({done.get('documents')} then, {documents.count} now), so it counts as unfinished again; build "
                    "it once more"
                )
            logger.info("%s: %s is done already, with %d documents", self.path, shard, documents.count)
        self._counted = None  # others have written
        all_done = self._done_shards(shard.of)
        if complete or len(all_done) < shard.of:
            return
        expected = sum(int(record.get("documents", 0)) for record in all_done.values())
        if expected != len(self):
            raise IndexStoreError(
                f"{self.path}: all shards are done and have {expected} documents, but the index has {len(self)}; did "
                "something else write to it? Build it without shards, which reads only what is missing"
            )
        self.finish()

    def _done_shards(self, of: int) -> dict[int, dict[str, Any]]:
        """What the shards that are done have recorded, by number."""
        rows = {_done_row(Shard(number, of)): number for number in range(of)}
        return {
            rows[row]: payload
            for row, payload in self.engine.retrieve("passages", list(rows), ["documents", "digest"]).items()
        }

    @property
    def shards(self) -> tuple[int, int] | None:
        """Of a build in shards: how many are done, and how many there are; None of any other."""
        of = self.engine.retrieve("passages", [_SHARDS], ["of"]).get(_SHARDS, {}).get("of")
        return None if of is None else (len(self._done_shards(int(of))), int(of))

    @classmethod
    def copy(
        cls,
        index: Index,
        name: str,
        *,
        progress: Callable[[int], None] | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
    ) -> QdrantStore:
        """Copy a local index, with its embeddings and token states: nothing is read again.

        Args:
            index: an open index.
            name: see `open`; a copy that was interrupted goes on.
            progress: called after each batch with the number of documents that are copied.
            timeout: see `open`.
            retries: see `open`.
            client: see `open`.

        Raises:
            InputError: if the index keeps learned sparse vectors or decoder states, which a store in Qdrant does not.
            IndexStoreError: see `create`.
        """
        options = {"timeout": timeout, "retries": retries, "client": client}
        built = index.manifest
        if built.decoder_states is not None or built.lexical.engine == "sparse":
            kept = "decoder states" if built.decoder_states is not None else "learned sparse vectors"
            raise InputError(f"{index.path}: keeps {kept}, and an index in Qdrant does not")
        planned = dataclasses.replace(
            built,
            faiss=FaissRecord("Flat", ""),
            lexical=LexicalRecord("none" if built.lexical.engine == "none" else "qdrant"),
            complete=False,
            counts={},
            store=StoreRecord(),
        )
        store = cls._create(_engine(name, **options), planned, options)
        store._given_encoder = store._encoder = index._given_encoder
        store._table(index.states_table())
        done = 0
        for batch in index.stored_batches(BATCH_PASSAGES):
            store._put(batch)
            done += len(batch.documents)
            if progress is not None:
                progress(done)
        store.finish()
        return store

    def close(self) -> None:
        """Release files and connections; afterwards every other call is refused."""
        self.engine.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the name, and the encoder that was given: they open the index again."""
        options = {name: value for name, value in self._options.items() if value is not None}
        if self._given_encoder is None and self._backend is not None:
            options["backend"] = self._backend
        return _open_again, (self.path, self._given_encoder, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Documents."""
        return self._now().documents

    @property
    def path(self) -> str:
        """The name of the store."""
        return self.engine.name

    @property
    def manifest(self) -> Manifest:
        """What the index is."""
        return self._manifest

    @property
    def encoder(self) -> Encoder:
        """The bi-encoder, loaded and checked when first used."""
        if self._encoder is None:
            self._encoder = load_built_encoder(self._manifest.encoder, self.path, self._backend)
        return self._encoder

    def counts(self) -> dict[str, int]:
        """``documents`` and ``passages``; ``deleted_documents`` is 0, for Qdrant clears up by itself."""
        now = self._now()
        return {"documents": now.documents, "passages": now.passages, "deleted_documents": 0}

    def size(self) -> dict[str, int]:
        """Bytes by file, of ``qdrant-edge``; nothing of a server."""
        return self.engine.size()

    @property
    def traffic(self) -> Traffic:
        """Requests that were sent to a server, and bytes of its answers."""
        return self.engine.traffic

    def verify(self) -> None:
        """Look for passages without their vectors.

        Raises:
            IndexCorruptError: if there are any.
        """
        self._check_vectors(True)

    def _check_vectors(self, passages: bool) -> None:
        there, dim = self.engine.vectors(), self._manifest.encoder.dim
        if there.get("dense", 0) != dim or "words" not in there:
            raise IndexCorruptError(
                f"{self.path}: the manifest says embeddings of {dim} dimensions and words, and the collection has "
                f"{', '.join(f'{name} ({size})' for name, size in there.items())}; build the index again"
            )
        if not passages:
            return
        for name, needed in (("dense", dim > 0), ("words", self._manifest.lexical.engine != "none")):
            has = (Between("length", {"gte": 1}),) if name == "words" else _REST.must
            lacking = Where(must=has, must_not=(HasVector(name), Among("empty", [1])))
            if needed and (count := self.engine.count(lacking)):
                ids = [payload for _, payload in itertools.islice(self._scroll(lacking, ["document"]), 1)]
                raise IndexCorruptError(
                    f"{self.path}: {count} passages have no vector {name!r}, as that of document number "
                    f"{ids[0].get('document') if ids else '?'}, so no search would find them; write their documents "
                    "again (sightline add --update), or build the index again"
                )

    # -- what is counted ---------------------------------------------------------------------------------------------

    def _now(self) -> _Statistics:
        """What is counted of the index as it is now."""
        counted, writes = self._counted, self.engine.writes
        if counted is not None and counted.writes == writes and time.monotonic() < counted.until:
            return counted
        until = time.monotonic() + _SECONDS if self.engine.shared else float("inf")
        if self._manifest.lexical.engine == "none":
            passages, mean = self.engine.count(Where(must=_REST.must, must_not=(Among("empty", [1]),))), 0.0
        else:
            lengths = self.engine.facet("length", _EVERYTHING)
            passages = sum(lengths.values())
            mean = sum(length * count for length, count in lengths.items()) / max(1, passages)
        documents = self.engine.count(Where(must=(Among("passage", [0]),)))
        whole = not self.engine.count(Where(must=(Between("passage", {"gte": 1}),)))
        counted = self._counted = _Statistics(writes, until, passages, mean, whole, documents)
        return counted

    def _frequency(self, term: str) -> int:
        """How many passages have a term."""
        known = self._now().frequencies
        if term not in known:
            if len(known) >= _KEPT * 1000:
                known.clear()
            known[term] = self.engine.count(Where(must=(Among("words", [term]),)))
        return known[term]

    def has(self, mark: str) -> bool:
        """See `sightline.retrieval.qdrant_filters.FieldsOfStore`."""
        return self.engine.count(Where(must=(Among(MARKS, [mark]),))) > 0

    def distinct(self, key: str, limit: int) -> list[str]:
        """See `sightline.retrieval.qdrant_filters.FieldsOfStore`."""
        return list(self.engine.facet(key, limit))

    def _where(self, where: Mapping[str, Any] | None) -> Where:
        """A filter as conditions on the payload.

        Raises:
            InputError: see `Filter.check`, and `translated`.
        """
        if where is None:
            return Where()
        filter, now = Filter(where), self._now()
        known = now.filters.get(filter.key)
        if known is None:
            known = translated(filter, self)
            if now.documents and (filter.may_mislead or not self.engine.count(known)):
                check_filter(filter, list(self.engine.facet(MARKS, _EVERYTHING)))
            if len(now.filters) >= _KEPT:
                now.filters.clear()
            now.filters[filter.key] = known
        return known

    # -- searching ---------------------------------------------------------------------------------------------------

    def read(self, work: Callable[[], T]) -> T:
        """Do ``work``, again if a passage that it found was changed meanwhile.

        Args:
            work: calls methods of this index, and may be called several times.

        Returns:
            What ``work`` returned. Passages that still change at the third time are left out.
        """
        if getattr(self._reading, "found", None) is not None:
            return work()
        for trial in range(1, _TRIALS + 1):
            self._reading.found, self._reading.changed = {}, False
            writes = self.engine.writes
            try:
                done = work()
                changed = self._reading.changed or self.engine.writes != writes
                if not changed or trial == _TRIALS:
                    return done
            finally:
                self._reading.found = None
        raise AssertionError

    def _changed(self) -> None:
        self._reading.changed = True

    @property
    def _watched(self) -> list[str]:
        """What a search fetches to see whether another process changes what it found."""
        return ["digest"] if self.engine.shared else []

    def _found(self, hits: Sequence[Hit]) -> None:
        """Remember of which state of its document each passage was found."""
        found = getattr(self._reading, "found", None)
        if found is None or not self._watched:
            return
        for hit in hits:
            digest = hit.payload.get("digest")
            if found.setdefault(hit.id, digest) != digest:
                self._changed()

    def search_dense(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Passages nearest in meaning, see `sightline.Index.search_dense`; rows are an array of Python's integers."""
        if isinstance(queries, str):
            raise InputError("search_dense takes a list of queries; for one, a list of one")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        if not self._manifest.encoder.dim:
            raise InputError(
                f"{self.path}: built without embeddings (encoder none), so it can only be searched with bm25; "
                "build it again with an encoder for dense and hybrid"
            )
        conditions = self._where(where)
        vectors = self.encoder.encode_queries(list(queries))
        if not np.isfinite(vectors).all():
            raise InputError("the encoder gave NaN or infinity for a query")
        exact = self._manifest.faiss.factory == "Flat"
        lists = (
            self.engine.nearest("dense", vectors.tolist(), k, conditions, self._watched, exact=exact) if queries else []
        )
        width = max((len(hits) for hits in lists), default=0)
        rows = np.full((len(lists), width), -1, dtype=object)
        scores = np.full((len(lists), width), -np.inf, dtype=np.float32)
        for place, hits in enumerate(lists):
            self._found(hits)
            rows[place, : len(hits)], scores[place, : len(hits)] = _ordered(hits)
        return rows, scores

    def search_multivector(
        self, queries: Sequence[str], k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refused: in Qdrant, token states are kept to be read, and are not searched.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.path}: token states in Qdrant are not searched; use the first stage dense, bm25 or hybrid, or an "
            "index in a folder for multivector and hybrid-multivector"
        )

    def search_lexical(
        self, query: str, k: int, where: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Passages that share words, by BM25, see `sightline.Index.search_lexical`."""
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return self._by_words(query, k, self._where(where))

    def _by_words(self, query: str, k: int, where: Where) -> tuple[np.ndarray, np.ndarray]:
        if self._manifest.lexical.engine == "none":
            raise InputError(
                f"{self.path}: built without a lexical index; build it again with one for bm25, sparse and hybrid"
            )
        vector = query_vector(query, self._now().passages, self._frequency)
        hits: list[Hit] = []
        if vector:
            [hits] = self.engine.nearest("words", [vector], k, where, self._watched)
        self._found(hits)
        rows, scores = _ordered(hits)
        return np.array(rows, dtype=object), np.array(scores, dtype=np.float64)

    def bm25(self, query: str, rows: Sequence[int]) -> np.ndarray:
        """BM25 scores of given passages, see `sightline.Index.bm25`."""
        asked = [int(row) for row in rows]
        self._manifest.lexical.name.check("bm25", self.path)
        if not asked:
            return np.zeros(0)
        only = Where(ids=tuple(dict.fromkeys(asked)))
        found, scores = self._by_words(query, len(asked), only)
        by_row = dict(zip(found.tolist(), scores.tolist(), strict=True))
        return np.array([by_row.get(row, 0.0) for row in asked])

    @property
    def whole_documents(self) -> bool:
        """Whether every document is one passage."""
        return self._now().whole

    def document_numbers(self, rows: np.ndarray) -> np.ndarray:
        """Number of the document that each row is of, which its id says; 0 for -1."""
        return np.array([row // _PASSAGES if row >= 0 else 0 for row in rows.tolist()], dtype=object)

    def passages(self, rows: Sequence[int] | np.ndarray) -> list[StoredPassage]:
        """The passages of these rows, in order; those that are gone, and -1, are left out."""
        asked = [int(row) for row in rows if row >= 0]
        heads = {row: row - row % _PASSAGES for row in asked}
        ids = list(dict.fromkeys([*asked, *heads.values()]))
        payloads = self.engine.retrieve("passages", ids, _FETCHED) if ids else {}
        found = getattr(self._reading, "found", None) or {}
        documents: dict[int, Document] = {}
        stored: list[StoredPassage] = []
        for row in asked:
            own, head = payloads.get(row), payloads.get(heads[row])
            digest = None if own is None else own.get("digest")
            if own is None or head is None or digest != head.get("digest") or found.get(row, digest) != digest:
                self._changed()
                continue
            if (document := documents.get(heads[row])) is None:
                document = documents[heads[row]] = _document(head, self.path)
            stored.append(_passage(row, document, own, self.path))
        return stored

    def passages_of(self, ids: Iterable[str]) -> list[StoredPassage]:
        """All passages of the documents with these ids; ids that the index does not have are passed over.

        Raises:
            InputError: if an id is not a string.
        """
        heads = self._heads([_checked_id(id) for id in ids], ("id", "passages"))
        rows = [_row(id) + place for id, head in heads.items() for place in range(_count(head))]
        return self.passages(rows)

    def document(self, id: str) -> Document | None:
        """A document by its id, or None.

        Raises:
            InputError: if the id is not a string.
        """
        head = self._heads([_checked_id(id)]).get(id)
        return None if head is None else _document(head, self.path)

    def documents(self) -> Iterator[Document]:
        """All documents, in no order that means anything."""
        for _, head in self._scroll(Where(must=(Among("passage", [0]),)), _FETCHED):
            yield _document(head, self.path)

    def _scroll(self, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.engine.scroll("passages", where, fields)

    def _heads(self, ids: Sequence[str], fields: Sequence[str] = _FETCHED) -> dict[str, dict[str, Any]]:
        """The payload of passage 0 of the documents that are there, by their ids."""
        rows = {id: _row(id) for id in ids if encodable(id)}
        payloads = self.engine.retrieve("passages", list(rows.values()), fields) if rows else {}
        return {id: payloads[row] for id, row in rows.items() if row in payloads and payloads[row].get("id") == id}

    def token_states(self, passages: Sequence[StoredPassage]) -> list[DocumentStates | None] | None:
        """The kept token states of passages; None in the place of one that is changing, to be read anew."""
        if self._form is None:
            return None
        width = self._form.dtype.itemsize
        kept = self.engine.retrieve("states", [one.row for one in passages], ["states", "spans", "digest"])
        pieces: list[bytes | None] = []
        spans: list[np.ndarray | None] = []
        for one in passages:
            payload = kept.get(one.row, {})
            data = None
            if payload.get("digest") == getattr(one, "digest", None) and isinstance(payload.get("states"), str):
                with contextlib.suppress(ValueError):
                    data = base64.b64decode(payload["states"], validate=True)
            if data is None or len(data) != width * (one.tokens[1] - one.tokens[0]):
                if payload.get("digest") != getattr(one, "digest", None) and payload:
                    self._changed()
                logger.warning(
                    "%s: the token states of a passage of document %r are missing or of another time, so it is read "
                    "anew; updating the document writes them",
                    self.path,
                    one.passage.document.id,
                )
                data = None
            pieces.append(data)
            spans.append(_spans(payload.get("spans"), one) if data is not None else None)
        whole = bytearray(b"".join(piece or b"" for piece in pieces))
        ends = [0, *itertools.accumulate(len(piece or b"") // width for piece in pieces)]
        rows = np.frombuffer(whole, dtype=self._form.dtype).reshape(ends[-1], *self._form.dtype.shape)
        keys = self._form.decode(rows, list(itertools.pairwise(ends)), self._table())
        return [
            None if piece is None else DocumentStates(key, one.truncated, span)
            for one, piece, key, span in zip(passages, pieces, keys, spans, strict=True)
        ]

    def decoder_states(self, passages: Sequence[StoredPassage]) -> list[StoredBlock | None] | None:
        """None: decoder states are not kept in Qdrant."""
        return None

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Add documents, a batch at a time; returns how many.

        Raises:
            DataError: if an id is there already; earlier batches stay added.
        """
        written = self._write_all(as_documents(documents), "refuse", progress)
        self._settle(_DRIFT)
        return written

    def update(
        self, documents: Iterable[Document | Mapping[str, Any] | str], progress: Callable[[int], None] | None = None
    ) -> int:
        """Replace the documents of these ids, adding those that are not there; returns how many."""
        written = self._write_all(as_documents(documents), "replace", progress)
        self._settle(_DRIFT)
        return written

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id, all or none; returns how many.

        Raises:
            InputError: if an id is not in the index, or ``ids`` is a single string.
        """
        if isinstance(ids, str | bytes):
            raise InputError(f"{self.path}: delete takes a list of ids; for one document, [{ids!r}]")
        checked = list(dict.fromkeys(_checked_id(id) for id in ids))
        heads = self._heads(checked, ("id", "passages"))
        if missing := [id for id in checked if id not in heads]:
            raise InputError(
                f"{self.path}: no document {missing[0]!r} ({len(missing)} of {len(checked)} ids not found)"
            )
        self._drop(heads)
        self._settle(_DRIFT)
        return len(checked)

    def _drop(self, heads: Mapping[str, Mapping[str, Any]]) -> None:
        if heads:
            self.engine.delete("passages", Where(must=(Among("document", [_hex(_row(id)) for id in heads]),)))
            rows = [_row(id) + place for id, head in heads.items() for place in range(_count(head))]
            if rows and self._form is not None:
                self.engine.delete("states", Where(ids=tuple(rows)))

    def _write_all(
        self,
        documents: Iterable[Document],
        existing: Literal["refuse", "resume", "replace"],
        progress: Callable[[int], None] | None,
        read: Callable[[Iterator[Batch]], Iterator[StoredBatch | None]] | None = None,
        shard: Shard | None = None,
    ) -> int:
        """Write a stream; ``resume`` passes over what is there, and at the end deletes what was not in the stream.

        Args:
            documents: read as a stream.
            existing: see `sightline.retrieval.writing.Writer.write`.
            progress: called after each batch with the number of documents taken so far.
            read: reads batches, in order; it may take some ahead, and write them. None to read each here.
            shard: the documents that the stream can hold; None for all.
        """
        written = taken = put = 0
        passed: set[int] = set()
        ahead: deque[tuple[int, int]] = deque()  # of each batch that is being read: taken so far, and documents

        def waiting() -> Iterator[Batch]:
            nonlocal taken
            for batch in passage_batches(documents, self._splitter(), BATCH_PASSAGES):
                taken += len(batch)
                rows = {_row(document.id): document.id for document, _ in batch}
                if twice := [id for row, id in rows.items() if row in passed]:
                    raise DataError(f"two documents have the id {twice[0]!r}", path=self.path)
                passed.update(rows)
                if existing != "replace":
                    heads = self._heads([document.id for document, _ in batch], ("id", "digest"))
                    if heads and existing == "refuse":
                        raise DataError(
                            f"document {min(heads)!r} is in the index already; update replaces it (--update)",
                            path=self.path,
                        )
                    batch = [pair for pair in batch if heads.get(pair[0].id, {}).get("digest") != _digest(*pair)]
                if batch:
                    ahead.append((taken, len(batch)))
                    yield batch
                elif progress is not None and not ahead:
                    progress(taken)

        for batch in (read or self._read)(waiting()):
            if batch is not None:
                self._put(batch)
            put, count = ahead.popleft()
            written += count
            if progress is not None:
                progress(put)
        if progress is not None and taken > put:
            progress(taken)
        if existing == "resume":
            gone: dict[str, dict[str, Any]] = {}
            for row, head in self._scroll(Where(must=(Among("passage", [0]),)), ["id", "passages"]):
                if row not in passed and (shard is None or shard.holds(str(head.get("id")))):
                    gone[str(head.get("id"))] = head
            self._drop(gone)
        return written

    def _splitter(self) -> Splitter | None:
        cut = self._manifest.passages
        return Splitter(self.encoder.token_offsets, cut.max_tokens, cut.overlap) if cut.max_tokens else None

    def write(self, documents: Iterable[Document | Mapping[str, Any] | str]) -> int:
        """Read and write documents, replacing those that are there: a batch of a build that several processes share.

        To repeat it changes nothing, and several processes may write at once, be it the same documents. `finish` ends
        the build.

        Args:
            documents: see `sightline.Index.build`.

        Returns:
            How many documents were written.
        """
        written = 0
        for batch in passage_batches(as_documents(documents), self._splitter(), BATCH_PASSAGES):
            self.write_batch(batch)
            written += len(batch)
        return written

    def write_batch(self, batch: Batch) -> None:
        """Read and write documents that are cut into passages already, see `write`."""
        for read in self._read(iter([batch])):
            self._put(read)

    def _read(self, batches: Iterator[Batch]) -> Iterator[StoredBatch]:
        for batch in batches:
            yield read_batch(self.encoder, self._manifest, batch, self.path, self._table())

    def _elsewhere(self, reading: BatchReading | None, engine: Engine) -> Any:
        """What reads batches in other processes, which write them too if they can open this store by its name."""
        if reading is None:
            return None
        load: Callable[[], Encoder] = partial(load_built_encoder, self._manifest.encoder, self.path, self._backend)
        if (given := self._given_encoder) is not None:
            load = partial(_itself, given)
        shared = self.engine.shared and self.engine is engine and self._options.get("client") is None
        plan = ReadingPlan(self._manifest, self.path, load, self._table, self if shared else None)
        return partial(reading, plan=plan)

    def _put(self, batch: StoredBatch) -> None:
        """Write documents with all that is kept of them. What a reader needs of another point is there before it."""
        rows_of_states = batch.rows
        if batch.states is not None and self._form is not None:
            rows_of_states = self._form.encode(batch.states, self._learnt(batch.states) if len(batch.states) else None)
        contents = [passage.contents for _, passages in batch.documents for passage in passages]
        keeps_words = self._manifest.lexical.engine != "none"
        words = passage_words(contents) if keeps_words else []
        mean = self._mean([one.length for one in words]) if words else 0.0
        states: list[Point] = []
        heads: list[Point] = []
        others: list[Point] = []
        digests: dict[str, str] = {}
        place = 0
        for document, passages in batch.documents:
            base, digest = _row(document.id), _digest(document, passages)
            digests[_hex(base)] = digest
            values = payload_of(json.loads(as_json(document.metadata)))
            self.engine.index_values(values)
            if len(passages) >= _PASSAGES:
                raise DataError(f"document {document.id!r} has {len(passages)} passages, which is too many")
            for number, passage in enumerate(passages or [None]):
                payload: dict[str, Any] = {
                    "document": _hex(base),
                    "passage": number,
                    "digest": digest,
                    **{key: value for key, value in values.items() if value},
                }
                if number == 0:
                    payload |= {
                        "id": document.id,
                        "title": document.title,
                        "text": document.text,
                        "metadata": as_json(document.metadata),
                        "passages": len(passages),
                    }
                vectors: dict[str, Any] = {}
                if passage is None:
                    payload["empty"] = 1
                else:
                    first, stop = int(batch.offsets[place]), int(batch.offsets[place + 1])
                    payload |= {
                        "start": passage.start,
                        "end": passage.end,
                        "truncated": int(batch.truncated[place]),
                        "tokens": stop - first,
                    }
                    if batch.vectors is not None:
                        vectors["dense"] = batch.vectors[place].tolist()
                    if keeps_words:
                        own = words[place]
                        payload |= {
                            "length": own.length,
                            "words": list(own.counts),
                            "counts": list(own.counts.values()),
                        }
                        if own.counts:
                            vectors["words"] = own.vector(mean)
                    if rows_of_states is not None:
                        kept = {"digest": digest, "states": _encoded(rows_of_states[first:stop])}
                        if batch.spans is not None:
                            kept["spans"] = _encoded(batch.spans[first:stop])
                        states.append(Point(base + number, {}, kept))
                    place += 1
                (others if number else heads).append(Point(base + number, vectors, payload))
        writes: tuple[tuple[Part, list[Point]], ...] = (("states", states), ("passages", others), ("passages", heads))
        for part, points in writes:
            if points:
                self.engine.upsert(part, points)
        stale = Where(
            must=(Among("document", list(digests)),), must_not=(Among("digest", sorted(set(digests.values()))),)
        )
        if others or self.engine.count(stale):
            self.engine.delete("passages", stale)

    def _mean(self, lengths: Sequence[int] = ()) -> float:
        """The mean length that the vectors of words are made with: that of the first batch that anyone wrote.

        Args:
            lengths: of the passages of a batch, in case it is the first.
        """
        if self._known_mean is None:
            kept = self.engine.retrieve("passages", [_MEAN], ["mean"])
            if not kept:
                mean = sum(lengths) / max(1, len(lengths)) or 1.0
                self.engine.upsert("passages", [Point(_MEAN, {}, {"mean": mean})], new_only=True)
                kept = self.engine.retrieve("passages", [_MEAN], ["mean"])
            self._known_mean = float(kept[_MEAN]["mean"])
        return self._known_mean

    def _table(self, given: np.ndarray | None = None) -> np.ndarray | None:
        """What the form of the token states learnt, if it learns anything; ``given`` where nobody has learnt yet."""
        if self._form is None or self._form.codes is None:
            return None
        if self._known_table is None:
            kept = self.engine.retrieve("states", [_TABLE], ["table"])
            if not kept and given is not None:
                point = Point(_TABLE, {}, {"table": _encoded(given)})
                self.engine.upsert("states", [point], new_only=True)  # of several at once, the first
                kept = self.engine.retrieve("states", [_TABLE], ["table"])
            if kept:
                data = base64.b64decode(kept[_TABLE]["table"])
                self._known_table = np.frombuffer(data, dtype=np.float32).reshape(self._form.codes)
        return self._known_table

    def _learnt(self, states: np.ndarray) -> np.ndarray | None:
        assert self._form is not None
        known = self._table()
        return self._table(self._form.learn(states)) if known is None else known

    def finish(self) -> None:
        """End a build: make the vectors of words with the mean length of all passages, and say that it is complete."""
        self._settle(_DRIFT if self._now().passages > _EXACT else 0.0)
        self.engine.flush()
        counts = {name: count for name, count in self.counts().items() if name != "deleted_documents"}
        self._manifest = dataclasses.replace(_manifest(self.engine), complete=True, counts=counts)
        self.engine.upsert("passages", [_record(self._manifest)])

    def _settle(self, drift: float) -> None:
        """Make the vectors of words anew if the mean length has moved by more than this."""
        if self._manifest.lexical.engine == "none":
            return
        now, used = self._now(), self._mean()
        if not now.passages or abs(now.mean / used - 1) <= drift:
            return
        from .qdrant_words import PassageWords

        waiting: dict[int, dict[int, float]] = {}
        fields = ["words", "counts", "length"]
        for row, payload in self._scroll(Where(must=(Between("length", {"gte": 1}),)), fields):
            words = PassageWords(dict(zip(payload["words"], payload["counts"], strict=True)), payload["length"])
            waiting[row] = words.vector(now.mean)
            if len(waiting) == BATCH_PASSAGES:
                self.engine.set_vectors("words", waiting)
                waiting = {}
        if waiting:
            self.engine.set_vectors("words", waiting)
        self.engine.upsert("passages", [Point(_MEAN, {}, {"mean": now.mean})])
        self._known_mean = now.mean


# -- names, records and payloads ---------------------------------------------------------------------------------------


def _engine(name: str, *, timeout: float, retries: int, client: Any) -> Engine:
    parsed = StoreName.parse(name)
    if parsed.kind == "qdrant-edge":
        return EdgeEngine(parsed.place)
    if parsed.kind == "qdrant":
        return ServerEngine(name, parsed.place, parsed.collection, timeout=timeout, retries=retries, client=client)
    raise InputError(f"{name!r} names no store in Qdrant; write qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION")


def _open_again(name: str, encoder: Encoder | None, options: dict[str, Any]) -> QdrantStore:
    return QdrantStore.open(name, encoder=encoder, verify=False, **options)


def _itself(encoder: Encoder) -> Encoder:
    return encoder


def _planned(settings: IndexSettings, model: Encoder) -> Manifest:
    """The manifest of an empty index, with the encoder that its settings name.

    Raises:
        InputError: if a setting is out of range, or Qdrant has no such thing.
    """
    if not re.fullmatch(r"Flat|HNSW[1-9][0-9]{0,2}", settings.faiss) or settings.faiss_parameters:
        raise InputError(
            f"in Qdrant, faiss is 'Flat', for exact search, or 'HNSWM' such as 'HNSW32', without parameters; not "
            f"{settings.faiss!r} {settings.faiss_parameters!r}".rstrip(" '")
        )
    if settings.lexical not in ("fts5", "none"):
        raise InputError(f"in Qdrant, words are searched by BM25 of the store's own, not by {settings.lexical!r}")
    if settings.decoder_states is not None:
        raise InputError("decoder states are not kept in Qdrant; build an index in a folder for them")
    planned = plan(dataclasses.replace(settings, faiss="Flat"), model)
    return dataclasses.replace(
        planned,
        faiss=FaissRecord(settings.faiss, ""),
        lexical=LexicalRecord("none" if settings.lexical == "none" else "qdrant"),
    )


def _leftover(engine: Engine, planned: Manifest) -> bool:
    """Whether what an interrupted run left cannot go on."""
    try:
        manifest = _manifest(engine)
    except IndexStoreError:
        return True
    return manifest.complete or manifest.settings() != planned.settings()


def _record(manifest: Manifest) -> Point:
    """The point that holds a manifest."""
    body = json.dumps(manifest.as_dict(), ensure_ascii=False)
    return Point(_RECORD, {}, {"layout": _LAYOUT, "manifest": body, "sum": xxhash.xxh3_128_hexdigest(body.encode())})


def _manifest(engine: Engine) -> Manifest:
    """The manifest of an index.

    Raises:
        IndexStoreError: if there is none, or one of a newer layout.
        IndexCorruptError: if it is damaged.
    """
    payload = engine.retrieve("passages", [_RECORD], ["layout", "manifest", "sum"]).get(_RECORD)
    if payload is None:
        raise IndexStoreError(
            f"{engine.name}: there is no manifest, so it is no index of Sightline, or making it broke off; "
            f"build it with: sightline index --store {engine.name}"
        )
    if payload.get("layout") != _LAYOUT:
        raise IndexStoreError(
            f"{engine.name}: layout {payload.get('layout')!r}, this version reads {_LAYOUT}; build the index again"
        )
    body = payload.get("manifest")
    if not isinstance(body, str) or xxhash.xxh3_128_hexdigest(body.encode()) != payload.get("sum"):
        raise IndexCorruptError(
            f"{engine.name}: the manifest is not what was written; restore a snapshot, or build the index again"
        )
    return Manifest.from_dict(json.loads(body), engine.name, f"{engine.name}: manifest")


def _row(id: str) -> int:
    """The id of a document's passage 0."""
    number = uuid.uuid5(_NAMESPACE, id).int
    return number - number % _PASSAGES


def _done_row(shard: Shard) -> int:
    """The id of the point that says that a shard is done."""
    return uuid.uuid5(_NAMESPACE, f"\x00{shard}").int


def _hex(row: int) -> str:
    return f"{row // _PASSAGES:026x}"


def _digest(document: Document, passages: Sequence[Passage]) -> str:
    """A digest of a document and of how it is cut."""
    fields = [document.id, document.title, document.text, as_json(document.metadata)]
    places = [[passage.start, passage.end] for passage in passages]
    return xxhash.xxh3_128_hexdigest(json.dumps([fields, places]).encode())


def _plain(document: Document) -> Document:
    """A document as it comes out of a store."""
    return dataclasses.replace(document, metadata=json.loads(as_json(document.metadata)))


def _document(head: Mapping[str, Any], index: str) -> Document:
    try:
        return Document(head["id"], head["text"], head["title"], json.loads(head["metadata"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise IndexCorruptError(
            f"{index}: document {head.get('id')!r} is damaged ({error}); update the document, or build the index again"
        ) from error


def _passage(row: int, document: Document, payload: Mapping[str, Any], index: str) -> StoredPassage:
    try:
        passage = Passage(document, int(payload["start"]), int(payload["end"]))
        tokens = (0, int(payload["tokens"]))
        return _StoredPoint(row, passage, tokens, int(payload["truncated"]), (0, 0), str(payload["digest"]))
    except (KeyError, ValueError, TypeError) as error:
        raise IndexCorruptError(
            f"{index}: a passage of document {document.id!r} is damaged ({error}); update the document, or build the "
            "index again"
        ) from error


def _count(head: Mapping[str, Any]) -> int:
    count = head.get("passages")
    return count if isinstance(count, int) and 0 <= count < _PASSAGES else 0


def _encoded(rows: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(rows).tobytes()).decode()


def _spans(text: Any, one: StoredPassage) -> np.ndarray | None:
    """The characters that the tokens of a passage cover; None if they are not known."""
    try:
        spans = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint16).reshape(-1, 2)
    except (TypeError, ValueError):
        return None
    return decode_spans(spans, [one.tokens])[0] if len(spans) == one.tokens[1] else None


def _ordered(hits: Sequence[Hit]) -> tuple[list[int], list[float]]:
    """Rows and scores, best first, ties by row."""
    ordered = sorted(hits, key=lambda hit: (-hit.score, hit.id))
    return [hit.id for hit in ordered], [hit.score for hit in ordered]


def _checked_id(id: Any) -> str:
    if not isinstance(id, str):
        raise InputError(f"ids are strings; use '{id}', not {id!r} ({type(id).__name__})")
    return id
