"""Qdrant as an engine in this process and as a server: the few calls that the store makes, with one meaning.

`EdgeEngine` is ``qdrant-edge-py``, the engine itself in this process, on disk. `ServerEngine` talks to a server by
``qdrant-client``. An index has two parts: ``passages``, with the vectors that searches need, and ``states``, what a
reranker fetches for a few candidates, so that nothing else ever reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from ..errors import IndexLockedError, IndexStoreError, InputError, MissingExtraError
from ..settings import Range
from ..wording import quoted
from .files import exchange
from .qdrant_filters import BIG, MARKS, NUMBERS, TEXTS, Among, Between, HasVector, Where

__all__ = ["EdgeEngine", "Engine", "Hit", "Part", "Plan", "Point", "ServerEngine", "Traffic", "as_uuid"]

T = TypeVar("T")

Part = Literal["passages", "states"]
_KEYWORDS, _INTEGERS = ("words", "document", MARKS), ("passage", "length", "empty")
_PAGE = 512  # points of a scroll
_jitter = random.Random()  # not the one that users seed


class Point(NamedTuple):
    """A point to write.

    Args:
        id: its number, of 128 bits.
        vectors: the dense ones as lists of floats, sparse ones as mappings.
        payload: JSON.
    """

    id: int
    vectors: dict[str, list[float] | dict[int, float]]
    payload: dict[str, Any]


class Hit(NamedTuple):
    """A point that a search found."""

    id: int
    score: float
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """The vectors of an index.

    Args:
        dim: length of an embedding; 0 if there are none.
        links: of the HNSW graph over the embeddings; 0 for exact search, without a graph.
        words: whether there are sparse vectors for words.
    """

    dim: int
    links: int
    words: bool


@dataclass(slots=True)
class Traffic:
    """What came over the network: requests, and bytes of their answers."""

    requests: int = 0
    bytes: int = 0


class Engine(ABC):
    """What the store needs of Qdrant.

    Attributes:
        name: the store's name, for messages.
        traffic: requests and bytes so far.
    """

    name: str
    shared: ClassVar[bool]  # whether other processes may write meanwhile

    def __init__(self, name: str) -> None:
        self.name = name
        self.traffic = Traffic()
        self._writes = 0

    @property
    def writes(self) -> int:
        """A number that changes with every write of this process."""
        return self._writes

    @abstractmethod
    def exists(self) -> bool:
        """Whether the index is there."""

    @abstractmethod
    def vectors(self) -> dict[str, int]:
        """The names of the passages' vectors, with the length of those that have one, else 0."""

    @abstractmethod
    def create(self, plan: Plan) -> None:
        """Make both parts where they are missing."""

    @abstractmethod
    def upsert(self, part: Part, points: Sequence[Point], *, new_only: bool = False) -> None:
        """Write points, durably; with ``new_only`` those that are there stay as they are."""

    @abstractmethod
    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]]) -> None:
        """Replace a sparse vector of passages that are there."""

    @abstractmethod
    def delete(self, part: Part, where: Where) -> None:
        """Delete points."""

    @abstractmethod
    def retrieve(self, part: Part, ids: Sequence[int], fields: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Fields of the payload of those points that are there, by id."""

    @abstractmethod
    def nearest(
        self, using: str, vectors: Sequence[Any], k: int, where: Where, fields: Sequence[str], *, exact: bool = True
    ) -> list[list[Hit]]:
        """The best ``k`` passages for each of some vectors, by inner product, best first."""

    @abstractmethod
    def count(self, where: Where) -> int:
        """How many passages meet conditions."""

    @abstractmethod
    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """How many passages hold each value under a key that has an index."""

    @abstractmethod
    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """All points that meet conditions, by id."""

    @abstractmethod
    def index_field(self, key: str, kind: Literal["keyword", "integer", "float"]) -> None:
        """Have an index over a field of the payload; nothing if there is one."""

    @abstractmethod
    def size(self) -> dict[str, int]:
        """Bytes by file, of what is on this machine."""

    @abstractmethod
    def flush(self) -> None:
        """Build what is due, and write all out."""

    @abstractmethod
    def beside(self) -> Engine:
        """The place where an index that is to replace this one is built."""

    @abstractmethod
    def take(self, other: Engine) -> None:
        """Let an index from `beside` be this one from now on, and remove the old."""

    @abstractmethod
    def drop(self) -> None:
        """Remove the index."""

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def index_fields(self) -> None:
        """Have the indexes that every passage needs."""
        for key in _KEYWORDS:
            self.index_field(key, "keyword")
        for key in _INTEGERS:
            self.index_field(key, "integer")

    def index_values(self, payload: Mapping[str, Any]) -> None:
        """Have indexes over the values that filters compare in a payload of `qdrant_filters.payload_of`."""
        for part, kind in ((TEXTS, "keyword"), (BIG, "keyword"), (NUMBERS, "float")):
            for key in payload[part]:
                self.index_field(f"{part}.{key}", kind)  # type: ignore[arg-type]


def as_uuid(id: int) -> str:
    """A point's number as Qdrant writes it."""
    return str(uuid.UUID(int=id))


def _number(id: Any) -> int:
    return id.int if isinstance(id, uuid.UUID) else uuid.UUID(str(id)).int


# -- in this process ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Shards:
    """The shards of one folder, which a process may open once; shared by all who have it open here."""

    path: str
    process: int
    by_part: dict[str, Any] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    writes: int = 0

    def close(self) -> None:
        """Close them."""
        for shard in self.by_part.values():
            shard.close()
        self.by_part.clear()


_OPEN: weakref.WeakValueDictionary[str, _Shards] = weakref.WeakValueDictionary()
_opening = threading.RLock()


class EdgeEngine(Engine):
    """Qdrant's engine in this process, on disk; one process at a time has it open.

    Args:
        path: the folder.

    Raises:
        MissingExtraError: if ``qdrant-edge-py`` is not installed.
    """

    shared = False

    def __init__(self, path: str) -> None:
        super().__init__(f"qdrant-edge:{path}")
        try:
            import qdrant_edge
        except ModuleNotFoundError as error:
            raise MissingExtraError("qdrant_edge", "qdrant") from error
        self._edge = qdrant_edge
        self.path = Path(path)
        self._shards: _Shards | None = None
        self._closed = False

    def exists(self) -> bool:
        """See `Engine.exists`."""
        return (self.path / "passages").is_dir()

    def vectors(self) -> dict[str, int]:
        """See `Engine.vectors`."""
        file = self.path / "passages" / "edge_config.json"
        try:
            config = json.loads(file.read_bytes())
            dense = {name: int(parameters["size"]) for name, parameters in config.get("vectors", {}).items()}
            return dense | dict.fromkeys(config.get("sparse_vectors", {}), 0)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise IndexStoreError(f"{file}: cannot be read ({error}); restore the index from a copy") from error

    def _open(self) -> _Shards:
        if self._closed:
            raise IndexStoreError(f"{self.name}: this store was closed; open it again")
        if self._shards is not None and self._shards.process == os.getpid():
            return self._shards
        if self._shards is not None:
            raise IndexStoreError(
                f"{self.name}: Qdrant's engine cannot be used in a forked process; open the store there, after the "
                "parent closed it, or serve it from one process"
            )
        with _opening:
            key = str(self.path.resolve())
            shards = _OPEN.get(key)
            if shards is None:
                shards = _Shards(key, os.getpid())
                for part in ("passages", "states"):
                    if not (self.path / part).is_dir():
                        raise IndexStoreError(
                            f"{self.name}: not a Sightline index (no folder {part}); build one with: sightline index"
                        )
                    with self._translated():
                        shards.by_part[part] = self._edge.EdgeShard.load(str(self.path / part))
                shards.indexed = set(shards.by_part["passages"].info().payload_schema)
                _OPEN[key] = shards
            self._shards = shards
        return shards

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (IndexStoreError, MemoryError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            if "WouldBlock" in text:
                raise IndexLockedError(
                    f"{self.name}: another process has it open, and only one may at a time; close it there, or ask "
                    "that process (sightline serve)"
                ) from error
            why = "no space left on the device" if "No space left" in text or "os error 28" in text else text
            raise IndexStoreError(f"{self.name}: {why}; what was written before is kept") from error

    def _do(self, part: Part, work: Callable[[Any], T]) -> T:
        shards = self._open()
        with self._translated():
            return work(shards.by_part[part])

    def _update(self, part: Part, operation: Any) -> None:
        shards = self._open()
        with shards.lock, self._translated():
            shards.by_part[part].update(operation)
            shards.writes += 1

    @property
    def writes(self) -> int:
        """Writes to the folder, by whoever has it open in this process."""
        return self._open().writes

    def create(self, plan: Plan) -> None:
        """See `Engine.create`."""
        edge = self._edge
        graph = edge.HnswIndexConfig(m=plan.links, ef_construct=max(100, 2 * plan.links), full_scan_threshold=10_000)
        dense = edge.EdgeVectorParams(size=plan.dim, distance=edge.Distance.Dot, hnsw_config=graph)
        vectors = {"dense": dense} if plan.dim else {}
        with self._translated():
            # The part that searches need comes last: without it there is no index.
            for part, dense_vectors in (("states", {}), ("passages", vectors)):
                folder = self.path / part
                if folder.is_dir() and any(folder.iterdir()):
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                words = {"words": edge.EdgeSparseVectorParams()}
                config = edge.EdgeConfig(vectors=dense_vectors, sparse_vectors=words)
                edge.EdgeShard.create(str(folder), config).close()
        self.index_fields()

    def _point(self, point: Point) -> Any:
        vectors = {name: self._vector(vector) for name, vector in point.vectors.items()}
        return self._edge.Point(as_uuid(point.id), vectors, point.payload)

    def _vector(self, vector: Any) -> Any:
        if isinstance(vector, Mapping):
            return self._edge.SparseVector(indices=list(vector), values=list(vector.values()))
        return vector

    def upsert(self, part: Part, points: Sequence[Point], *, new_only: bool = False) -> None:
        """See `Engine.upsert`."""
        mode = self._edge.UpdateMode.InsertOnly if new_only else self._edge.UpdateMode.Upsert
        operation = self._edge.UpdateOperation.upsert_points([self._point(point) for point in points], None, mode)
        self._update(part, operation)

    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]]) -> None:
        """See `Engine.set_vectors`."""
        points = [self._edge.PointVectors(as_uuid(id), {name: self._vector(v)}) for id, v in vectors.items()]
        self._update("passages", self._edge.UpdateOperation.update_vectors(points))

    def delete(self, part: Part, where: Where) -> None:
        """See `Engine.delete`."""
        self._update(part, self._edge.UpdateOperation.delete_points_by_filter(self._filter(where)))

    def _filter(self, where: Where) -> Any:
        edge = self._edge
        must = [self._condition(condition) for condition in where.must]
        if where.ids is not None:
            must.append(edge.HasIdCondition({as_uuid(id) for id in where.ids}))
        should, must_not = ([self._condition(c) for c in part] or None for part in (where.should, where.must_not))
        return edge.Filter(must=must or None, should=should, must_not=must_not)

    def _condition(self, condition: Any) -> Any:
        edge = self._edge
        if isinstance(condition, Among):
            return edge.FieldCondition(condition.key, match=edge.MatchAny(list(condition.values)))
        if isinstance(condition, HasVector):
            return edge.HasVectorCondition(condition.name)
        if isinstance(condition, Between):
            return edge.FieldCondition(condition.key, range=edge.RangeFloat(**condition.limits))
        return self._filter(condition)

    def retrieve(self, part: Part, ids: Sequence[int], fields: Sequence[str]) -> dict[int, dict[str, Any]]:
        """See `Engine.retrieve`."""
        asked = [as_uuid(id) for id in ids]
        records = self._do(part, lambda shard: shard.retrieve(asked, with_payload=list(fields), with_vector=False))
        return {_number(record.id): record.payload or {} for record in records}

    def nearest(
        self, using: str, vectors: Sequence[Any], k: int, where: Where, fields: Sequence[str], *, exact: bool = True
    ) -> list[list[Hit]]:
        """See `Engine.nearest`."""
        edge, filter = self._edge, self._filter(where)
        requests = [
            edge.QueryRequest(
                limit=k,
                query=edge.Query.Nearest(self._vector(vector), using=using),
                filter=filter,
                params=edge.SearchParams(exact=exact),
                with_payload=list(fields) or False,
                with_vector=False,
            )
            for vector in vectors
        ]
        answers = self._do("passages", lambda shard: shard.query_batch(edge.QueryBatchRequest(requests)))
        return [[Hit(_number(p.id), p.score, p.payload or {}) for p in points] for points in answers]

    def count(self, where: Where) -> int:
        """See `Engine.count`."""
        request = self._edge.CountRequest(exact=True, filter=self._filter(where))
        return int(self._do("passages", lambda shard: shard.count(request)))

    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """See `Engine.facet`."""
        request = self._edge.FacetRequest(key, limit=limit, exact=True)
        return {hit.value: hit.count for hit in self._do("passages", lambda shard: shard.facet(request))}

    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Engine.scroll`."""
        offset = None
        while True:
            request = self._edge.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=self._filter(where),
                with_payload=list(fields),
                with_vector=False,
            )
            records, offset = self._do(part, lambda shard, request=request: shard.scroll(request))  # type: ignore[misc]
            for record in records:
                yield _number(record.id), record.payload or {}
            if offset is None:
                return

    def index_field(self, key: str, kind: Literal["keyword", "integer", "float"]) -> None:
        """See `Engine.index_field`."""
        shards = self._open()
        if key not in shards.indexed:
            schema = self._edge.PayloadSchemaType
            kinds = {"keyword": schema.Keyword, "integer": schema.Integer, "float": schema.Float}
            self._update("passages", self._edge.UpdateOperation.create_field_index(key, kinds[kind]))
            shards.indexed.add(key)

    def size(self) -> dict[str, int]:
        """See `Engine.size`."""
        files = sorted(file for file in self.path.rglob("*") if file.is_file())
        # Qdrant sets files to a size at once; what counts is what they take.
        return {file.relative_to(self.path).as_posix(): file.stat().st_blocks * 512 for file in files}

    def flush(self) -> None:
        """Write segments out, and build what is due."""
        for part in ("passages", "states"):
            self._do(part, lambda shard: (shard.optimize(), shard.flush()))

    def beside(self) -> EdgeEngine:
        """See `Engine.beside`."""
        return EdgeEngine(f"{self.path}.building")

    def take(self, other: Engine) -> None:
        """See `Engine.take`."""
        assert isinstance(other, EdgeEngine)
        for engine in (self, other):
            engine._release()
        exchange(self.path, other.path)
        shutil.rmtree(other.path, ignore_errors=True)

    def drop(self) -> None:
        """See `Engine.drop`."""
        self._release()
        shutil.rmtree(self.path, ignore_errors=True)

    def _release(self) -> None:
        with _opening:
            shards = _OPEN.pop(str(self.path.resolve()), None)
            if shards is not None:
                shards.close()
            self._shards = None

    def close(self) -> None:
        """See `Engine.close`."""
        self._closed, self._shards = True, None  # the shards close with the last who has them open


# -- a server ----------------------------------------------------------------------------------------------------------

_SECONDS = Range(above=0, high=86_400)
_TRIED_AGAIN = (429, 503)
_LARGEST_REQUEST = 8_000_000  # characters of payloads; servers take 32 MB


class ServerEngine(Engine):
    """A Qdrant server, by its REST API.

    Args:
        name: the store's name.
        url: of the server; None with ``client``.
        collection: the collection of the passages; ``-states`` is added for that of the states. Both are aliases, of
            collections that end in a number, so that another index can take their place at once.
        timeout: seconds for one request and its answer.
        retries: how often a request is sent again after 429 (too many requests), 503 (not available) or a lost
            connection; the wait doubles from 0.5 to 1 second on. All requests may be sent twice.
        client: a ``QdrantClient`` to use instead of a connection of one's own.

    Raises:
        MissingExtraError: if ``qdrant-client`` is not installed.
        InputError: if an option is out of range.
    """

    shared = True
    _sleep = staticmethod(time.sleep)

    def __init__(
        self,
        name: str,
        url: str | None,
        collection: str,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        client: Any = None,
    ) -> None:
        super().__init__(name)
        try:
            import qdrant_client
        except ModuleNotFoundError as error:
            raise MissingExtraError("qdrant_client", "qdrant") from error
        if timeout not in _SECONDS:
            raise InputError(f"timeout must be {_SECONDS}, not {quoted(timeout)}")
        if not (isinstance(retries, int) and retries in Range(0)):
            raise InputError(f"retries must be a whole number, {Range(0)}, not {quoted(retries)}")
        self.url, self.collection, self.timeout, self.retries = url, collection, timeout, retries
        self._models = qdrant_client.models
        self._indexed: set[str] = set()
        self._own = client is None
        self._client = client
        if client is None:
            key = os.environ.get("QDRANT_API_KEY", "").strip() or None
            # The client's own number of seconds is whole.
            self._client = qdrant_client.QdrantClient(
                url=url, api_key=key, timeout=max(1, round(timeout)), check_compatibility=False
            )
            hooks = self._client.http.client._client.event_hooks
            self._client.http.client._client.event_hooks = {**hooks, "response": [self._seen]}

    def _seen(self, response: Any) -> None:
        response.read()
        self.traffic.requests += 1
        self.traffic.bytes += response.num_bytes_downloaded

    def _called(self, part: Part) -> str:
        return self.collection if part == "passages" else f"{self.collection}-states"

    def _ask(self, call: Callable[[], T]) -> T:
        """What a request gives; it is sent again where that may help."""
        import httpx
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        for trial in range(1, self.retries + 2):
            try:
                return call()
            except UnexpectedResponse as error:
                problem, again = self._why_refused(error), error.status_code in _TRIED_AGAIN
            except ResponseHandlingException as error:
                source = error.source
                again = not isinstance(source, httpx.TimeoutException)
                if not isinstance(source, httpx.TransportError):
                    raise IndexStoreError(
                        f"{self.name}: the answer cannot be used ({source}); is it Qdrant?"
                    ) from error
                problem = (
                    f"the connection failed ({source}); does the server run?"
                    if again
                    else f"no answer within {self.timeout:g} s; open it with a larger timeout"
                )
            except (ValueError, TypeError, AssertionError) as error:  # of the client's own
                raise IndexStoreError(f"{self.name}: {' '.join(str(error).split())}") from error
            if not again or trial > self.retries:
                tried = f"; tried {trial} times" if trial > 1 else ""
                raise IndexStoreError(f"{self.name}: {problem}{tried}; what was written before is kept")
            self._sleep(_jitter.uniform(0.25, 0.5) * 2**trial)
        raise AssertionError

    def _why_refused(self, error: Any) -> str:
        try:
            said = str(error.structured()["status"]["error"])
        except (ValueError, KeyError, TypeError):
            said = error.reason_phrase
        if error.status_code in (401, 403):
            return f"it needs another key ({error.status_code}), in the environment as QDRANT_API_KEY: {said[:300]}"
        return f"it answers {error.status_code}: {' '.join(said.split())[:300]}"

    def exists(self) -> bool:
        """See `Engine.exists`."""
        return bool(self._ask(lambda: self._client.collection_exists(self._called("passages"))))

    def vectors(self) -> dict[str, int]:
        """See `Engine.vectors`."""
        config = self._ask(lambda: self._client.get_collection(self._called("passages"))).config.params
        dense = config.vectors if isinstance(config.vectors, dict) else {}
        return {name: vector.size for name, vector in dense.items()} | dict.fromkeys(config.sparse_vectors or {}, 0)

    def create(self, plan: Plan) -> None:
        """See `Engine.create`."""
        models = self._models
        graph = models.HnswConfigDiff(m=plan.links)
        vectors = (
            {"dense": models.VectorParams(size=plan.dim, distance=models.Distance.DOT, hnsw_config=graph)}
            if plan.dim
            else {}
        )
        parts: tuple[tuple[Part, dict[str, Any]], ...] = (("states", {}), ("passages", vectors))
        for part, dense in parts:
            alias = self._called(part)
            if self._ask(lambda alias=alias: self._client.collection_exists(alias)):  # type: ignore[misc]
                continue
            # Two who make it at once make the same one.
            place = f"{alias}.{self._generation() + 1}"
            sparse = {"words": models.SparseVectorParams()}
            try:
                self._ask(
                    lambda place=place, dense=dense, sparse=sparse: self._client.create_collection(  # type: ignore[misc]
                        place, vectors_config=dense, sparse_vectors_config=sparse
                    )
                )
            except IndexStoreError:
                if not self._ask(lambda place=place: self._client.collection_exists(place)):  # type: ignore[misc]
                    raise
            self._ask(lambda place=place, alias=alias: self._alias({alias: place}))  # type: ignore[misc]
        self.index_fields()

    def _aliases(self) -> dict[str, str]:
        answer = self._ask(self._client.get_aliases)
        return {alias.alias_name: alias.collection_name for alias in answer.aliases}

    def _generation(self) -> int:
        """The highest number that a collection of this index, or of one that is to replace it, has."""
        base = self.collection.removesuffix(".next")
        places = self._aliases()
        ends = [places[name].rpartition(".")[2] for name in (base, f"{base}.next") if name in places]
        return max((int(end) for end in ends if end.isdigit()), default=0)

    def _alias(self, places: Mapping[str, str], gone: Sequence[str] = ()) -> None:
        models, known = self._models, self._aliases()
        changes: list[Any] = [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
            for name in (*places, *gone)
            if name in known
        ]
        changes += [
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=place, alias_name=alias))
            for alias, place in places.items()
        ]
        self._client.update_collection_aliases(changes)

    def upsert(self, part: Part, points: Sequence[Point], *, new_only: bool = False) -> None:
        """See `Engine.upsert`."""
        models = self._models
        mode = models.UpdateMode.INSERT_ONLY if new_only else models.UpdateMode.UPSERT
        for some in _by_size(points):
            made = [
                models.PointStruct(
                    id=as_uuid(point.id),
                    vector={name: self._vector(vector) for name, vector in point.vectors.items()},
                    payload=point.payload,
                )
                for point in some
            ]
            self._ask(lambda made=made: self._client.upsert(self._called(part), made, update_mode=mode))  # type: ignore[misc]
            self._writes += 1

    def _vector(self, vector: Any) -> Any:
        if isinstance(vector, Mapping):
            return self._models.SparseVector(indices=list(vector), values=list(vector.values()))
        return vector

    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]]) -> None:
        """See `Engine.set_vectors`."""
        made = [self._models.PointVectors(id=as_uuid(id), vector={name: self._vector(v)}) for id, v in vectors.items()]
        self._ask(lambda: self._client.update_vectors(self._called("passages"), made))
        self._writes += 1

    def delete(self, part: Part, where: Where) -> None:
        """See `Engine.delete`."""
        selector = self._models.FilterSelector(filter=self._filter(where))
        self._ask(lambda: self._client.delete(self._called(part), selector))
        self._writes += 1

    def _filter(self, where: Where) -> Any:
        models = self._models
        must = [self._condition(condition) for condition in where.must]
        if where.ids is not None:
            must.append(models.HasIdCondition(has_id=[as_uuid(id) for id in where.ids]))
        should, must_not = ([self._condition(c) for c in part] or None for part in (where.should, where.must_not))
        return models.Filter(must=must or None, should=should, must_not=must_not)

    def _condition(self, condition: Any) -> Any:
        models = self._models
        if isinstance(condition, Among):
            return models.FieldCondition(key=condition.key, match=models.MatchAny(any=list(condition.values)))
        if isinstance(condition, HasVector):
            return models.HasVectorCondition(has_vector=condition.name)
        if isinstance(condition, Between):
            return models.FieldCondition(key=condition.key, range=models.Range(**condition.limits))
        return self._filter(condition)

    def retrieve(self, part: Part, ids: Sequence[int], fields: Sequence[str]) -> dict[int, dict[str, Any]]:
        """See `Engine.retrieve`."""
        asked = [as_uuid(id) for id in ids]
        records = self._ask(lambda: self._client.retrieve(self._called(part), asked, with_payload=list(fields)))
        return {_number(record.id): record.payload or {} for record in records}

    def nearest(
        self, using: str, vectors: Sequence[Any], k: int, where: Where, fields: Sequence[str], *, exact: bool = True
    ) -> list[list[Hit]]:
        """See `Engine.nearest`."""
        models, filter = self._models, self._filter(where)
        requests = [
            models.QueryRequest(
                query=self._vector(vector),
                using=using,
                filter=filter,
                params=models.SearchParams(exact=True) if exact and using == "dense" and self._own else None,
                limit=k,
                with_payload=list(fields) or False,
            )
            for vector in vectors
        ]
        answers = self._ask(lambda: self._client.query_batch_points(self._called("passages"), requests))
        return [[Hit(_number(p.id), p.score, p.payload or {}) for p in answer.points] for answer in answers]

    def count(self, where: Where) -> int:
        """See `Engine.count`."""
        filter = self._filter(where)
        return int(self._ask(lambda: self._client.count(self._called("passages"), filter, exact=True)).count)

    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """See `Engine.facet`."""
        answer = self._ask(lambda: self._client.facet(self._called("passages"), key, limit=limit, exact=True))
        return {hit.value: hit.count for hit in answer.hits}

    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Engine.scroll`."""
        filter, offset = self._filter(where), None
        while True:
            records, offset = self._ask(
                lambda offset=offset: self._client.scroll(  # type: ignore[misc]
                    self._called(part), filter, limit=_PAGE, offset=offset, with_payload=list(fields)
                )
            )
            for record in records:
                yield _number(record.id), record.payload or {}
            if offset is None:
                return

    def index_field(self, key: str, kind: Literal["keyword", "integer", "float"]) -> None:
        """See `Engine.index_field`."""
        if key in self._indexed or not self._own:  # the client's local mode has no indexes
            return
        schema = self._models.PayloadSchemaType(kind)
        self._ask(lambda: self._client.create_payload_index(self._called("passages"), key, schema))
        self._indexed.add(key)

    def size(self) -> dict[str, int]:
        """See `Engine.size`."""
        return {}

    def flush(self) -> None:
        """Nothing: a server does it by itself."""

    def beside(self) -> ServerEngine:
        """See `Engine.beside`."""
        return ServerEngine(
            self.name,
            self.url,
            f"{self.collection}.next",
            timeout=self.timeout,
            retries=self.retries,
            client=None if self._own else self._client,
        )

    def take(self, other: Engine) -> None:
        """See `Engine.take`."""
        assert isinstance(other, ServerEngine)
        places = self._aliases()
        parts: tuple[Part, ...] = ("passages", "states")
        old = [places[self._called(part)] for part in parts if self._called(part) in places]
        new = {self._called(part): places[other._called(part)] for part in parts}
        gone = [other._called(part) for part in parts]
        self._ask(lambda: self._alias(new, gone))  # all at once
        for place in old:
            self._ask(lambda place=place: self._client.delete_collection(place))  # type: ignore[misc]
        self._writes += 1
        self._indexed.clear()

    def drop(self) -> None:
        """See `Engine.drop`."""
        places = self._aliases()
        for part in ("passages", "states"):
            alias = self._called(part)
            if alias in places:
                self._ask(lambda alias=alias: self._alias({}, [alias]))  # type: ignore[misc]
                self._ask(lambda place=places[alias]: self._client.delete_collection(place))  # type: ignore[misc]

    def close(self) -> None:
        """See `Engine.close`."""
        if self._own:
            self._client.close()


def _by_size(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Points in groups that a request can hold."""
    group: list[Point] = []
    size = 0
    for point in points:
        length = sum(len(value) for value in point.payload.values() if isinstance(value, str | list))
        length += sum(12 * len(vector) for vector in point.vectors.values())
        if group and size + length > _LARGEST_REQUEST:
            yield group
            group, size = [], 0
        group.append(point)
        size += length
    if group:
        yield group
