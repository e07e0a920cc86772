"""The application: routes in the dialects of others and our own, over two lanes of work.

Searches and writes take turns in one lane, so an index never changes under a search; reranking has a lane of its own,
so a long list does not hold up the search page.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import importlib.metadata
import logging
import math
import re
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from importlib import resources
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from ..batching import interruptible
from ..documents import Document
from ..errors import DataError, IndexLockedError, InputError, RankingError, SightlineError
from ..rerank.relevance import relevance
from ..rerank.reranker import Reranker
from ..search import Hit, Searcher, SearchResult
from .guard import Guard, error_body
from .lane import ClosedError, Lane, QueueFullError, TimeLimitError
from .metrics import Metrics
from .ranking import RankedList, RankingWork, rank_all
from .schemas import (
    AnyRerankRequest,
    DocumentOut,
    DocumentsRequest,
    ErrorResponse,
    HealthResponse,
    IndexCounts,
    RerankDocument,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankResult,
    SearchRequest,
    SearchResponse,
    TeiItem,
    TeiRequest,
    Usage,
    WrittenResponse,
)

__all__ = ["Limits", "create_app"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Lists that wait are read together up to about two of the model's batches; beyond that nobody gains.
_CHARACTERS_TOGETHER = 16_384
_BEARER = HTTPBearer(auto_error=False, description="The API key that the server was started with.")
_STATUS = {
    400: "The body is not JSON.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    421: "The server does not answer for this host.",
    422: "The request says something that cannot be done.",
    429: "Too many requests are waiting; try again after the seconds in Retry-After.",
    503: "The server is stopping.",
    504: "It took longer than the server allows.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for.

    Args:
        documents: in one list.
        characters: of a query, a document, or a title.
        bytes: of a request's body.
        waiting: requests in each lane's queue; more are answered 429.
        seconds: for a request, waiting included; after that it is answered 504.

    Raises:
        InputError: if one of them is not above zero.
    """

    documents: int = 1000
    characters: int = 100_000
    bytes: int = 2 << 20
    waiting: int = 64
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"the limit on {field.name} must be above 0, not {getattr(self, field.name)!r}")


def create_app(
    searcher: Searcher | None = None,
    reranker: Reranker | None = None,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The application; it closes the index of its searcher when it shuts down.

    Args:
        searcher: serves ``/search``, ``/documents`` and the search page; None leaves them out.
        reranker: serves ``/rerank`` and its kin; None for the searcher's, or leaves them out if that has none.
        limits: None for the defaults.
        api_key: lets those who have it write to the index; None leaves writing out.
        hosts: names that requests may be addressed to, None for any. Where the server listens to this machine only,
            name them, so that no page in a browser can come to it under a name of its own.

    Raises:
        InputError: if there is nothing to serve, or the key is too short to keep anyone out.

    Example:
        >>> from sightline import load_reranker
        >>> app = create_app(reranker=load_reranker("minilm"))
        >>> sorted(app.openapi()["paths"])
        ['/health', '/metrics', '/rerank', '/v1/rerank', '/v2/rerank']
    """
    reranker = reranker or (searcher.reranker if searcher is not None else None)
    if searcher is None and reranker is None:
        raise InputError("there is nothing to serve: give a searcher, a reranker, or both")
    if api_key is not None and len(api_key) < 16:
        raise InputError("the API key must have at least 16 characters; make one with: openssl rand -hex 16")
    if api_key is not None and searcher is None:
        raise InputError("the API key is for writing to an index, and no index is served")
    limits = limits or Limits()
    service = _Service(searcher, reranker, limits)
    app = FastAPI(
        title="Sightline",
        version=_version(),
        description="Search and reranking by attention. Scores are relative to their list.",
        lifespan=service.lifespan,
        # The pages that FastAPI has for these load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={code: {"model": ErrorResponse, "description": text} for code, text in _STATUS.items()},
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.router.route_class = _JsonRoute
    _add_errors(app)
    _add_common(app, service)
    if reranker is not None:
        _add_reranking(app, service, reranker)
    if searcher is not None:
        _add_searching(app, service, searcher)
        _add_page(app)
        if api_key is not None:
            _add_writing(app, service, searcher, api_key)
    app.add_middleware(
        Guard, metrics=service.metrics, hosts=hosts, max_bytes=limits.bytes, body_seconds=min(30.0, limits.seconds)
    )
    return app


class _Service:
    """What the routes share: lanes, limits, counters."""

    def __init__(self, searcher: Searcher | None, reranker: Reranker | None, limits: Limits) -> None:
        self.searcher, self.reranker, self.limits = searcher, reranker, limits
        self.metrics = Metrics()
        self.counts = IndexCounts(documents=0, passages=0)
        self._searches: Lane[Callable[[], Any], Any] | None = None
        self._rankings: Lane[RankingWork, RankedList] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Lanes run while the application does."""
        waiting = self.limits.waiting
        if self.searcher is not None:
            self._searches = Lane("search", lambda calls: [call() for call in calls], capacity=waiting)
            self.count(self.searcher)
        if self.reranker is not None:
            handle = functools.partial(rank_all, self.reranker)
            self._rankings = Lane("rerank", handle, capacity=waiting, budget=_CHARACTERS_TOGETHER)
        lanes = [lane for lane in (self._searches, self._rankings) if lane is not None]
        for lane in lanes:
            self.metrics.watch(lane)
        try:
            yield
        finally:
            for lane in lanes:
                await asyncio.to_thread(lane.close)
            if self.searcher is not None:
                self.searcher.index.close()

    def count(self, searcher: Searcher) -> None:
        """Remember what the index holds: counting takes time in a large one."""
        counts = searcher.index.counts()
        self.counts = IndexCounts(documents=counts["documents"], passages=counts["passages"])

    def healthy(self) -> bool:
        """Whether all lanes work."""
        return all(lane.alive() for lane in (self._searches, self._rankings) if lane is not None)

    async def search(self, request: Request, call: Callable[[], T]) -> T:
        """Do it in the lane of searches."""
        if self._searches is None:
            raise ClosedError("the server is not running")
        return await _while_there(request, self._searches.do(call, seconds=self.limits.seconds))

    async def rank(self, request: Request, work: RankingWork) -> RankedList:
        """Do it in the lane of rankings."""
        if self._rankings is None:
            raise ClosedError("the server is not running")
        self.check_count(len(work.documents))
        self.check_length("query", work.query)
        for place, (title, text) in enumerate(work.documents):
            self.check_length(f"document {place}", f"{title} {text}" if title else text)
        weight = sum(len(title) + len(text) for title, text in work.documents)
        if work.evidence is not None:
            weight = _CHARACTERS_TOGETHER + 1  # not read together with others
        done = await _while_there(request, self._rankings.do(work, seconds=self.limits.seconds, weight=weight))
        self.metrics.ranked.inc(len(work.documents))
        self.metrics.truncated.inc(done.truncated)
        return done

    def check_count(self, documents: int) -> None:
        """Refuse what would take too long."""
        if documents > self.limits.documents:
            raise InputError(f"{documents} documents are more than the {self.limits.documents} of a request")

    def check_length(self, what: str, text: str) -> None:
        """Refuse what would take the tokenizer too long."""
        if len(text) > self.limits.characters:
            raise InputError(f"{what} has {len(text)} characters, and at most {self.limits.characters} are taken")


# -- routes ------------------------------------------------------------------------------------------------------------


def _add_common(app: FastAPI, service: _Service) -> None:
    @app.get("/health", responses={503: {"model": HealthResponse, "description": "The server is stopping."}})
    async def health() -> HealthResponse:
        """Whether the server works, and what it serves."""
        found = HealthResponse(
            status="ok" if service.healthy() else "stopping",
            version=_version(),
            model=service.reranker.name if service.reranker is not None else None,
            first_stage=service.searcher.first_stage if service.searcher is not None else None,
            index=service.counts if service.searcher is not None else None,
        )
        return found if found.status == "ok" else _answer(found, 503)  # type: ignore[return-value]

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_reranking(app: FastAPI, service: _Service, reranker: Reranker) -> None:
    async def cohere(request: Request, body: RerankRequest) -> Response:
        if body.model not in (None, reranker.name):
            raise HTTPException(404, f"there is no model {body.model!r} here; there is {reranker.name!r}")
        documents = [document if isinstance(document, RerankDocument) else None for document in body.documents]
        texts = [(d.title or "", d.text) if isinstance(d, RerankDocument) else ("", d) for d in body.documents]
        done = await service.rank(
            request,
            RankingWork(body.query, texts, body.top_n, body.max_tokens_per_doc, evidence=body.evidence),
        )
        results = [
            RerankResult(
                index=item.index,
                relevance_score=relevance(reranker, item.score),
                document=(documents[item.index] or RerankDocument(text=texts[item.index][1]))
                if body.return_documents
                else None,
                evidence=None if item.evidence is None else [dataclasses.asdict(e) for e in item.evidence],  # type: ignore[misc]
            )
            for item in done.ranking[: body.top_n]
        ]
        meta = RerankMeta(
            api_version={"version": "2"},
            billed_units={"search_units": 1},
            warnings=_warnings(done, len(texts), body.__pydantic_extra__) or None,
            truncated=done.truncated,
        )
        usage = Usage(prompt_tokens=done.tokens, total_tokens=done.tokens)
        return _answer(
            RerankResponse(id=str(uuid.uuid4()), model=reranker.name, results=results, usage=usage, meta=meta)
        )

    async def tei(request: Request, body: TeiRequest) -> Response:
        texts = [("", text) for text in body.texts]
        done = await service.rank(request, RankingWork(body.query, texts, refuse_long=body.truncate is False))
        items = [
            TeiItem(
                index=item.index,
                score=item.score if body.raw_scores else relevance(reranker, item.score),
                text=body.texts[item.index] if body.return_text else None,
            )
            for item in done.ranking
        ]
        content = b"[" + b",".join(item.model_dump_json(exclude_none=True).encode() for item in items) + b"]"
        return Response(content, media_type="application/json")

    unknown: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "No such model."}}

    @app.post("/rerank", response_model=RerankResponse | list[TeiItem], responses=unknown)
    async def rerank(request: Request, body: AnyRerankRequest) -> Response:
        """Rank a list: as Cohere, Jina and vLLM do, or with ``texts`` as text-embeddings-inference does."""
        return await (tei(request, body) if isinstance(body, TeiRequest) else cohere(request, body))

    @app.post("/v1/rerank", response_model=RerankResponse, responses=unknown)
    async def rerank_v1(request: Request, body: RerankRequest) -> Response:
        """Rank a list, as Cohere, Jina and vLLM do."""
        return await cohere(request, body)

    @app.post("/v2/rerank", response_model=RerankResponse, responses=unknown)
    async def rerank_v2(request: Request, body: RerankRequest) -> Response:
        """Rank a list, as Cohere, Jina and vLLM do."""
        return await cohere(request, body)


def _add_searching(app: FastAPI, service: _Service, searcher: Searcher) -> None:
    @app.post("/search", response_model=SearchResponse)
    async def search(request: Request, body: SearchRequest) -> Response:
        """Search the index: candidates, attention over all of them, evidence."""
        service.check_length("query", body.query)
        call = functools.partial(
            searcher.search, body.query, body.k, where=body.where, evidence=body.evidence, level=body.level
        )
        return _answer(await service.search(request, lambda: _search_response(call())))

    @app.get(
        "/documents/{id:path}",
        response_model=DocumentOut,
        responses={404: {"model": ErrorResponse, "description": "No such document."}},
    )
    async def document(request: Request, id: str) -> Response:
        """A document of the index, whole."""
        found = await service.search(request, functools.partial(searcher.index.document, id))
        if found is None:
            raise HTTPException(404, f"there is no document {id!r}")
        return _answer(DocumentOut(id=found.id, title=found.title, text=found.text, metadata=dict(found.metadata)))


def _add_writing(app: FastAPI, service: _Service, searcher: Searcher, api_key: str) -> None:
    async def allowed(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        sent = given.credentials if given is not None else ""
        if not hmac.compare_digest(sent.encode(), api_key.encode()):
            raise HTTPException(
                401, "writing needs the API key, as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    def write(call: Callable[[], int]) -> int:
        # A write that has begun goes to its end: half of it would be harder to explain than a late answer.
        with interruptible(None):
            try:
                return call()
            finally:
                service.count(searcher)

    def documents(body: DocumentsRequest) -> list[Document]:
        if len(body.documents) > service.limits.documents:
            raise InputError(
                f"{len(body.documents)} documents are more than the {service.limits.documents} of a request"
            )
        for place, one in enumerate(body.documents):
            service.check_length(f"document {place}", f"{one.title} {one.text}")
        return [Document(one.id, one.text, one.title, one.metadata) for one in body.documents]

    responses: dict[int | str, dict[str, Any]] = {
        401: {"model": ErrorResponse, "description": "The key is missing or wrong."},
        409: {"model": ErrorResponse, "description": "An id is there already, or twice in the request."},
    }
    options: dict[str, Any] = {
        "response_model": WrittenResponse,
        "dependencies": [Depends(allowed)],
        "responses": responses,
    }

    @app.post("/documents", **options)
    async def add(request: Request, body: DocumentsRequest) -> Response:
        """Add documents whose ids are new. Batches that were written before an error stay."""
        new = documents(body)
        count = await service.search(request, lambda: write(lambda: searcher.index.add(new)))
        return _answer(WrittenResponse(written=count, **service.counts.model_dump()))

    @app.put("/documents", **options)
    async def update(request: Request, body: DocumentsRequest) -> Response:
        """Replace documents by id, and add those whose ids are new."""
        new = documents(body)
        count = await service.search(request, lambda: write(lambda: searcher.index.update(new)))
        return _answer(WrittenResponse(written=count, **service.counts.model_dump()))

    @app.delete(
        "/documents/{id:path}",
        **{**options, "responses": {**responses, 404: {"model": ErrorResponse, "description": "No such document."}}},
    )
    async def delete(request: Request, id: str) -> Response:
        """Delete a document."""

        def call() -> int:
            return 0 if searcher.index.document(id) is None else write(lambda: searcher.index.delete([id]))

        count = await service.search(request, call)
        if not count:
            raise HTTPException(404, f"there is no document {id!r}")
        return _answer(WrittenResponse(deleted=count, **service.counts.model_dump()))


def _add_page(app: FastAPI) -> None:
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # The page's own script and style are allowed by their digests, and nothing else at all.
    digests = {
        tag: " ".join(f"'sha256-{_digest(inline)}'" for inline in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {digests['script']}; style-src {digests['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )

    @app.get("/", include_in_schema=False)
    async def search_page() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})


# -- answers -----------------------------------------------------------------------------------------------------------


def _search_response(result: SearchResult) -> SearchResponse:
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "hits"}
    return SearchResponse.model_validate({**fields, "hits": [_hit(hit) for hit in result.hits]}, from_attributes=True)


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "id": hit.id,
        "score": hit.score,
        "title": hit.document.title,
        "text": hit.passage.text,
        "start": hit.passage.start,
        "end": hit.passage.end,
        "length": len(hit.document.text),
        "metadata": dict(hit.document.metadata),
        "first_rank": hit.first_rank,
        "first_score": hit.first_score,
        "mass": hit.mass,
        "evidence": hit.evidence,
        "token_mass": hit.token_mass,
    }


def _warnings(done: RankedList, documents: int, ignored: dict[str, Any] | None) -> list[str]:
    warnings = list(done.ranking.warnings)
    if done.truncated:
        warnings.append(f"{done.truncated} of {documents} documents were not read to their end")
    if ignored:
        names = ", ".join(repr(name) for name in sorted(ignored)[:10])
        warnings.append(f"fields that this server does not know were ignored: {names}")
    return warnings


def _answer(model: BaseModel, status: int = 200) -> Response:
    # By pydantic: it can write whatever the model can hold, where json fails at infinities.
    return Response(model.model_dump_json(exclude_none=True), status, media_type="application/json")


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body by a strict reader: no NaN, no infinity, no lone surrogate, no bottomless nesting."""
        try:
            value = from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from None
        if not _finite(value):
            raise HTTPException(400, "the body is not usable: a number in it is too large")
        return value


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class _GoneError(Exception):
    """The client went away."""


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is given up when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise _GoneError
        return await doing
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


# -- errors ------------------------------------------------------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return _error("RequestError", _told(found[0]) + more, 422)

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        message, headers = str(error.detail), dict(error.headers or {})
        if message in ("Not Found", "Method Not Allowed"):
            message = f"there is no {request.method} {request.url.path} here; see /openapi.json"
        if error.status_code == 405:  # of all routes with this path, where the framework names the first one's
            there = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
            headers["Allow"] = ", ".join(
                sorted({method for route in there for method in getattr(route, "methods", ())})
            )
        return _error("RequestError", message, error.status_code, headers)

    @app.exception_handler(_GoneError)
    async def gone(_: Request, error: _GoneError) -> Response:
        return Response(status_code=499)  # nobody reads it; the counters do

    @app.exception_handler(SightlineError)
    async def ours(_: Request, error: SightlineError) -> Response:
        kind = type(error).__name__
        if isinstance(error, QueueFullError):
            return _error(kind, str(error), 429, {"Retry-After": str(error.retry_after)})
        if isinstance(error, ClosedError):
            return _error(kind, str(error), 503, {"Retry-After": "5"})
        if isinstance(error, TimeLimitError):
            return _error(kind, str(error), 504)
        if isinstance(error, IndexLockedError):
            return _error(kind, "another process is writing to the index", 503, {"Retry-After": "5"})
        if isinstance(error, DataError):
            return _error(kind, error.reason, 409)
        if isinstance(error, InputError | RankingError):
            return _error(kind, str(error), 422)
        # The rest is about this machine, with paths: the log's, not the client's.
        logger.error("%s: %s", kind, error)
        return _error(kind, "the server cannot do this now; its log says why", 500)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return _error("InternalError", "something went wrong in the server; its log has the details", 500)


def _error(kind: str, message: str, code: int, headers: Any = None) -> Response:
    return Response(error_body(kind, message, code), code, dict(headers or {}), "application/json")


def _told(error: dict[str, Any]) -> str:
    """A validation error in words: where, and what; not what was sent."""
    # The parts that name a kind of union are of no use to the client.
    place = [part for part in error["loc"][1:] if part not in ("documents", "texts", "string", "object")]
    kinds = [part for part in error["loc"][1:] if part in ("documents", "texts")]
    where = ".".join(str(part) for part in [*kinds[-1:], *place]) or error["loc"][0]
    return f"{where}: {error['msg']}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    try:
        return importlib.metadata.version("sightline")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
