"""A Qdrant server, through ``qdrant-client``."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import IndexStoreError, InputError
from ..extras import importing
from ..names import NEXT_COLLECTION, STATES_COLLECTION
from ..settings import Range
from ..wording import quoted
from .qdrant_engines import PAGE, Engine, FieldKind, Hit, Nearest, Part, Plan, Point, RefusedError, as_uuid, number_of
from .qdrant_filters import Among, Between, HasVector, Where
from .store import Traffic

__all__ = ["ServerEngine"]

_jitter = random.Random()  # apart from the generator that users seed
_SECONDS = Range(above=0, high=86_400)
_TRIED_AGAIN = (404, 429, 503)  # 404: of a collection whose alias has been switched meanwhile
_LARGEST_REQUEST = 8_000_000  # characters of payloads; servers accept 32 MB


class ServerEngine(Engine):
    """A Qdrant server, through its REST API.

    Args:
        name: the name of the store.
        url: the URL of the server; None with ``client``.
        collection: the name of the collection of passages. That of the token states ends in ``-states``. Both names are
            aliases of collections that end in a number, so that another index can replace them in one step.
        timeout: the number of seconds for a request and its answer.
        retries: the number of times that a request is sent again after 404 (no such collection), 429 (too many
            requests), 503 (not available) or a lost connection. The first wait is 0.5 to 1 second, and each further one
            twice as long. It does no harm to send a request twice.
        client: a ``QdrantClient`` to use. If None, one is made.

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
        with importing("qdrant_client", extra="qdrant"):
            import qdrant_client
        if timeout not in _SECONDS:
            raise InputError(f"timeout must be {_SECONDS}, not {quoted(timeout)}")
        if not (isinstance(retries, int) and retries in Range(0)):
            raise InputError(f"retries must be a whole number, {Range(0)}, not {quoted(retries)}")
        self.url, self.collection, self.timeout, self.retries = url, collection, timeout, retries
        self._models = qdrant_client.models
        self._indexed: set[tuple[str, str]] = set()
        self._places: dict[str, str] = {}  # the collections that requests go to, by alias; see `fixed`
        self._own = client is None
        self._client = client
        if client is None:
            self.traffic = Traffic()
            key = os.environ.get("QDRANT_API_KEY", "").strip() or None
            # The client takes whole seconds.
            self._client = qdrant_client.QdrantClient(
                url=url, api_key=key, timeout=max(1, round(timeout)), check_compatibility=False
            )
            hooks = self._client.http.client._client.event_hooks
            self._client.http.client._client.event_hooks = {**hooks, "response": [self._seen]}

    def _seen(self, response: Any) -> None:
        response.read()
        assert self.traffic is not None
        self.traffic.requests += 1
        self.traffic.bytes += response.num_bytes_downloaded

    def _called(self, part: Part) -> str:
        return self.collection if part == "passages" else self.collection + STATES_COLLECTION

    def _place(self, part: Part) -> str:
        return self._places.get(self._called(part), self._called(part))

    def _ask(self, call: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Send a request, and send it again if that may help."""
        import httpx
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        for trial in range(1, self.retries + 2):
            kind = IndexStoreError
            try:
                return call(*values, **options)
            except UnexpectedResponse as error:
                problem, again = self._why_refused(error), error.status_code in _TRIED_AGAIN
                kind = RefusedError
                if error.status_code == 404 and (self._places or self.collection.endswith(NEXT_COLLECTION)):
                    raise RefusedError(
                        f"{self.name}: another process has replaced or removed the index meanwhile, or has begun to "
                        f"({problem}); repeat what you did"
                    ) from error
            except ResponseHandlingException as error:
                source = error.source
                again = not isinstance(source, httpx.TimeoutException)
                if not isinstance(source, httpx.TransportError):
                    raise IndexStoreError(
                        f"{self.name}: the answer cannot be read ({source}); check that there is a Qdrant server at "
                        "this address"
                    ) from error
                problem = (
                    f"the connection failed ({source}); check that the server is running"
                    if again
                    else f"no answer within {self.timeout:g} s; allow more, as in qdrant://HOST/COLLECTION?timeout=300"
                )
            except (ValueError, TypeError, KeyError, AssertionError) as error:  # raised by the client itself
                raise IndexStoreError(f"{self.name}: {' '.join(str(error).split())}") from error
            if not again or trial > self.retries:
                tried = f"; tried {trial} times" if trial > 1 else ""
                raise kind(f"{self.name}: {problem}{tried}; what was written before is kept")
            self._sleep(_jitter.uniform(0.25, 0.5) * 2**trial)
        raise AssertionError

    def _why_refused(self, error: Any) -> str:
        try:
            said = str(error.structured()["status"]["error"])
        except (ValueError, KeyError, TypeError):
            said = error.reason_phrase
        if error.status_code in (401, 403):
            return (
                f"the server refused the key ({error.status_code}: {said[:300]}); set the environment variable "
                "QDRANT_API_KEY"
            )
        if error.status_code == 404:
            return f"the server does not have this collection, or has it no more (404: {said[:300]})"
        return f"the server answered {error.status_code}: {' '.join(said.split())[:300]}"

    def exists(self) -> bool:
        """See `Engine.exists`."""
        return bool(self._ask(self._client.collection_exists, self._place("passages")))

    def vectors(self) -> dict[str, int]:
        """See `Engine.vectors`."""
        config = self._ask(self._client.get_collection, self._place("passages")).config.params
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
        # Two processes that make it at the same time make the same collections.
        places = {self._called(part): f"{self._called(part)}.1" for part, _ in parts}
        if self._called("passages") not in self._aliases():
            sparse = {"words": models.SparseVectorParams()}
            for place, (_, dense) in zip(places.values(), parts, strict=True):
                try:
                    self._ask(self._client.create_collection, place, vectors_config=dense, sparse_vectors_config=sparse)
                except IndexStoreError:
                    if not self._ask(self._client.collection_exists, place):
                        raise
            if self._called("passages") not in self._aliases():
                made = [models.CreateAlias(collection_name=place, alias_name=alias) for alias, place in places.items()]
                changes = [models.CreateAliasOperation(create_alias=one) for one in made]
                self._ask(self._client.update_collection_aliases, changes)  # both at once
        self.index_fields()

    def _aliases(self) -> dict[str, str]:
        answer = self._ask(self._client.get_aliases)
        return {alias.alias_name: alias.collection_name for alias in answer.aliases}

    def _rename(self, other: ServerEngine) -> None:
        """Give an index the name of another, both collections at once, unless it has lost its own."""
        models = self._models
        parts: tuple[Part, ...] = ("states", "passages")
        names = [(self._called(part), other._called(part)) for part in parts]
        changes = [models.RenameAlias(old_alias_name=old, new_alias_name=new) for old, new in names]
        self._ask(
            self._client.update_collection_aliases,
            [models.RenameAliasOperation(rename_alias=change) for change in changes],
        )

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
            self._ask(self._client.upsert, self._place(part), made, update_mode=mode)
            self._writes += 1

    def _vector(self, vector: Any) -> Any:
        if isinstance(vector, Mapping):
            return self._models.SparseVector(indices=list(vector), values=list(vector.values()))
        return vector

    def set_vectors(self, name: str, vectors: Mapping[int, dict[int, float]], where: Where) -> None:
        """See `Engine.set_vectors`."""
        made = [self._models.PointVectors(id=as_uuid(id), vector={name: self._vector(v)}) for id, v in vectors.items()]
        only = self._filter(where)
        self._ask(self._client.update_vectors, self._place("passages"), made, update_filter=only)
        self._writes += 1

    def delete(self, part: Part, where: Where) -> None:
        """See `Engine.delete`."""
        selector = self._models.FilterSelector(filter=self._filter(where))
        self._ask(self._client.delete, self._place(part), selector)
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

    def retrieve(
        self, part: Part, ids: Sequence[int], fields: Sequence[str], *, dense: bool = False
    ) -> dict[int, dict[str, Any]]:
        """See `Engine.retrieve`."""
        asked = [as_uuid(id) for id in ids]
        payload, vectors = list(fields), ["dense"] if dense else False
        records = self._ask(self._client.retrieve, self._place(part), asked, with_payload=payload, with_vectors=vectors)
        # If no vector is asked for, that of a record is None or empty.
        return {number_of(record.id): (record.payload or {}) | (record.vector or {}) for record in records}

    def search(self, searches: Sequence[Nearest], k: int, where: Where, fields: Sequence[str]) -> list[list[Hit]]:
        """See `Engine.search`."""
        models, filter = self._models, self._filter(where)
        requests = [
            models.QueryRequest(
                query=self._vector(one.vector),
                using=one.using,
                filter=filter,
                params=models.SearchParams(exact=True) if one.exact and one.using == "dense" and self._own else None,
                limit=k,
                with_payload=list(fields) or False,
            )
            for one in searches
        ]
        answers = self._ask(self._client.query_batch_points, self._place("passages"), requests)
        return [[Hit(number_of(p.id), p.score, p.payload or {}) for p in answer.points] for answer in answers]

    def count(self, where: Where) -> int:
        """See `Engine.count`."""
        filter = self._filter(where)
        return int(self._ask(self._client.count, self._place("passages"), filter, exact=True).count)

    def facet(self, key: str, limit: int) -> dict[Any, int]:
        """See `Engine.facet`."""
        answer = self._ask(self._client.facet, self._place("passages"), key, limit=limit, exact=True)
        return {hit.value: hit.count for hit in answer.hits if hit.count}

    def scroll(self, part: Part, where: Where, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Engine.scroll`."""
        filter, offset = self._filter(where), None
        while True:
            records, offset = self._ask(
                self._client.scroll, self._place(part), filter, limit=PAGE, offset=offset, with_payload=list(fields)
            )
            for record in records:
                yield number_of(record.id), record.payload or {}
            if offset is None:
                return

    def index_field(self, key: str, kind: FieldKind) -> None:
        """See `Engine.index_field`."""
        place = self._place("passages")
        if (place, key) in self._indexed or not self._own:  # the client's local mode has no indexes
            return
        schema = self._models.PayloadSchemaType(kind)
        self._ask(self._client.create_payload_index, place, key, schema)
        self._indexed.add((place, key))

    def size(self) -> dict[str, int]:
        """See `Engine.size`."""
        return {}

    def flush(self) -> None:
        """Do nothing, since a server does this by itself."""

    def fixed(self) -> ServerEngine:
        """See `Engine.fixed`."""
        if self.collection.endswith(NEXT_COLLECTION):
            return self  # it loses this name when it takes the place of the index
        fixed = copy.copy(self)
        fixed._places = self._aliases()
        return fixed

    def beside(self) -> ServerEngine:
        """See `Engine.beside`.

        The name is of one process. Another one that continues its work gives it another name, and a process whose index
        has lost its name can neither change it nor let it take the place of this one.
        """
        beside = ServerEngine(
            self.name,
            self.url,
            f"{self.collection}.{secrets.token_hex(4)}{NEXT_COLLECTION}",
            timeout=self.timeout,
            retries=self.retries,
            client=None if self._own else self._client,
        )
        named = re.compile(re.escape(self.collection) + r"(\.[0-9a-f]{8})?" + re.escape(NEXT_COLLECTION))
        for name in filter(named.fullmatch, self._aliases()):
            begun = copy.copy(beside)
            begun.collection = name
            with contextlib.suppress(IndexStoreError):  # another process has been faster
                begun._rename(beside)
                break
        return beside

    def take(self, other: Engine) -> None:
        """See `Engine.take`."""
        assert isinstance(other, ServerEngine)
        places = self._aliases()
        parts: tuple[Part, ...] = ("passages", "states")
        try:
            other._rename(self)
        except IndexStoreError:  # it may be done already if the answer was lost
            place = places.get(other._called("passages"))
            if place is None or self._aliases().get(self._called("passages")) != place:
                raise
        for part in parts:
            if self._called(part) in places:
                self._ask(self._client.delete_collection, places[self._called(part)])
        self._writes += 1

    def drop(self) -> None:
        """See `Engine.drop`."""
        places = self._aliases()
        # Aliases go with their collections. Without that of the passages, there is no index.
        for alias in (self._called("states"), self._called("passages")):
            if alias in places:
                self._ask(self._client.delete_collection, places[alias])

    def close(self) -> None:
        """See `Engine.close`."""
        if self._own:
            self._client.close()


def _by_size(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Split points into groups that fit into a request."""
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
