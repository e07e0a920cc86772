"""Qdrant's engine in this process, on disk: ``qdrant-edge-py``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import IndexLockedError, IndexStoreError
from ..extras import importing
from .files import exchange
from .qdrant_engines import PAGE, Engine, FieldKind, Hit, Nearest, Part, Plan, Point, as_uuid, number_of
from .qdrant_filters import Among, Between, HasVector, Where

__all__ = ["EdgeEngine"]


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Shards:
    """The open shards of a folder. A process can open them only once, so its stores share them."""

    path: str
    process: int
    by_part: dict[str, Any] = field(default_factory=dict)
    indexed: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    writes: int = 0

    def close(self) -> None:
        """Close the shards."""
        for shard in self.by_part.values():
            shard.close()
        self.by_part.clear()


_OPEN: weakref.WeakValueDictionary[str, _Shards] = weakref.WeakValueDictionary()
_opening = threading.RLock()


class EdgeEngine(Engine):
    """Qdrant's engine in this process, on disk. Only one process at a time can have it open.

    Args:
        path: the folder of the engine's files.

    Raises:
        MissingExtraError: if ``qdrant-edge-py`` is not installed.
    """

    shared = False

    def __init__(self, path: str) -> None:
        super().__init__(f"qdrant-edge:{path}")
        with importing("qdrant_edge", extra="qdrant"):
            import qdrant_edge
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
                f"{self.name}: this process is a fork of the one that opened the store, and Qdrant's engine does not "
                "work in both; close the store before the fork and open it after, or serve it from one process "
                "(sightline serve)"
            )
        with _opening:
            key = str(self.path.resolve())
            shards = _OPEN.get(key)
            if shards is None:
                shards = _Shards(key, os.getpid())
                for part in ("passages", "states"):
                    if not (self.path / part).is_dir():
                        raise IndexStoreError(
                            f"{self.name}: not a Sightline index (no folder {part}); build one with: sightline index "
                            f"--store {self.name}"
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
                    f"{self.name}: another process has it open, and only one can at a time; close it there, or serve "
                    "it with sightline serve and send requests to that server"
                ) from error
            why = "no space left on the device" if "No space left" in text or "os error 28" in text else text
            raise IndexStoreError(f"{self.name}: {why}; what was written before is kept") from error

    def _do(self, part: Part, name: str, *values: Any, **options: Any) -> Any:
        """Call a method of a shard."""
        shards = self._open()
        with self._translated():
            return getattr(shards.by_part[part], name)(*values, **options)

    def _update(self, part: Part, operation: Any) -> None:
        shards = self._open()
        with shards.lock, self._translated():
            shards.by_part[part].update(operation)
            shards.writes += 1

    @property
    def writes(self) -> int:
        """The number of writes to the folder by all stores of this process."""
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

    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]], where: Where) -> None:
        """See `Engine.set_vectors`."""
        points = [self._edge.PointVectors(as_uuid(id), {name: self._vector(v)}) for id, v in vectors.items()]
        self._update("passages", self._edge.UpdateOperation.update_vectors(points, self._filter(where)))

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

    def retrieve(
        self, part: Part, ids: Sequence[int], fields: Sequence[str], *, dense: bool = False
    ) -> dict[int, dict[str, Any]]:
        """See `Engine.retrieve`."""
        asked = [as_uuid(id) for id in ids]
        vectors = ["dense"] if dense else False
        records = self._do(part, "retrieve", asked, with_payload=list(fields), with_vector=vectors)
        # If no vector is asked for, that of a record is None or empty.
        return {number_of(record.id): (record.payload or {}) | (record.vector or {}) for record in records}

    def search(self, searches: Sequence[Nearest], k: int, where: Where, fields: Sequence[str]) -> list[list[Hit]]:
        """See `Engine.search`."""
        edge, filter = self._edge, self._filter(where)
        requests = [
            edge.QueryRequest(
                limit=k,
                query=edge.Query.Nearest(self._vector(one.vector), using=one.using),
                filter=filter,
                params=edge.SearchParams(exact=one.exact),
                with_payload=list(fields) or False,
                with_vector=False,
            )
            for one in searches
        ]
        answers = self._do("passages", "query_batch", edge.QueryBatchRequest(requests))
        return [[Hit(number_of(p.id), p.score, p.payload or {}) for p in points] for points in answers]

    def count(self, where: Where) -> int:
        """See `Engine.count`."""
        request = self._edge.CountRequest(exact=True, filter=self._filter(where))
        return int(self._do("passages", "count", request))

    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """See `Engine.facet`."""
        request = self._edge.FacetRequest(key, limit=limit, exact=True)
        hits = self._do("passages", "facet", request)
        return {hit.value: hit.count for hit in hits if hit.count}  # values of deleted points remain, with a count of 0

    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Engine.scroll`."""
        offset = None
        while True:
            request = self._edge.ScrollRequest(
                offset=offset,
                limit=PAGE,
                filter=self._filter(where),
                with_payload=list(fields),
                with_vector=False,
            )
            records, offset = self._do(part, "scroll", request)
            for record in records:
                yield number_of(record.id), record.payload or {}
            if offset is None:
                return

    def index_field(self, key: str, kind: FieldKind) -> None:
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
        # Qdrant makes files larger than their contents, so count the blocks that they take.
        return {file.relative_to(self.path).as_posix(): file.stat().st_blocks * 512 for file in files}

    def flush(self) -> None:
        """Write segments out, and build what is due."""
        for part in ("passages", "states"):
            self._do(part, "optimize")
            self._do(part, "flush")

    def fixed(self) -> EdgeEngine:
        """See `Engine.fixed`."""
        return self  # nobody else can replace it

    def beside(self) -> EdgeEngine:
        """See `Engine.beside`."""
        return EdgeEngine(f"{self.path}.building")

    def take(self, other: Engine) -> None:
        """See `Engine.take`."""
        assert isinstance(other, EdgeEngine)
        for engine in (self, other):
            engine._release()
        with self._translated():
            if self.path.exists():
                exchange(self.path, other.path)
                shutil.rmtree(other.path, ignore_errors=True)
            else:
                other.path.rename(self.path)

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
        self._closed, self._shards = True, None  # the shards close when the last store that uses them is gone
