"""The application and its routes, in Sightline's own format and in those of other servers."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from importlib import resources
from typing import Annotated, Any, get_args

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import Convertor, register_url_convertor

from .. import __version__
from ..documents import Document
from ..errors import InputError, SightlineError
from ..models.batching import interruptible
from ..rerank.base import Reranker
from ..rerank.evidence import asked_evidence, prune
from ..rerank.results import relevance_or_score
from ..search import Searcher, SearchResult
from .bodies import JsonRoute, add_error_handlers, answer
from .guard import Guard, untraced
from .limits import Limits
from .ranking import RankedList, RankingWork
from .schemas import (
    AnyRerankRequest,
    DocumentOut,
    DocumentsRequest,
    ErrorResponse,
    HealthResponse,
    ModelOut,
    ModelsResponse,
    RerankDocument,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankResult,
    ScoreKind,
    SearchRequest,
    SearchResponse,
    TeiItem,
    TeiRequest,
    Usage,
    WrittenResponse,
)
from .service import Service

__all__ = ["create_app"]

_BEARER = HTTPBearer(auto_error=False, description="The API key that the server was started with.")
_SCORES = "Sightline-Scores"
DocumentId = Annotated[str, Query(min_length=1, description="The document's id.")]


class _DocumentConvertor(Convertor[str]):
    """The rest of a path, with its slashes and line breaks, which an id may have."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("document", _DocumentConvertor())

_STATUS = {
    400: "The body is not JSON.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    421: "The server does not answer for this host.",
    422: "The request asks for something that cannot be done.",
    429: "Too many requests are waiting. Try again after the number of seconds in Retry-After.",
    502: "The rerank API behind the server failed.",
    503: "The server is stopping.",
    504: "The request took longer than the server allows.",
}


def create_app(
    searcher: Searcher | None = None,
    reranker: Reranker | None = None,
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Sequence[str] | None = None,
    model_names: Collection[str] = (),
    any_model: bool = False,
    min_score: float | None = None,
    threads: int | None = None,
) -> FastAPI:
    """Create the application. It closes the index of its searcher when it shuts down.

    Args:
        searcher: the searcher behind ``/search``, ``/documents`` and the search page. If None, these routes are left
            out.
        reranker: the reranker behind ``/rerank`` and its other versions. If None, the searcher's; if it has none
            either, these routes are left out.
        limits: the limits on requests. If None, the defaults of `Limits`.
        api_key: the key that allows its holders to write to the index. If None, the routes that write are left out.
        hosts: the host names that requests may be addressed to; None allows any. Set it if the server listens to this
            machine only, so that no web page can reach it under another name (DNS rebinding).
        model_names: further names that requests may give as their ``model``, such as ``rerank-v3.5``.
        any_model: whether to accept any name as the ``model``.
        min_score: the least relevance, from 0 to 1, of what is returned by searches and rankings whose request gives no
            ``min_score``. If None, nothing is left out.
        threads: the number of searches, and of rankings, that run at the same time. If None, one for each processor, at
            most 16. Rerankers and encoders that several threads must not use (`Reranker.concurrent`) run one at a time.

    Raises:
        InputError: if there is nothing to serve, the key is too short to protect the index, or ``min_score`` is given
            for a reranker that has no relevance.

    Example:
        >>> from sightline import load_reranker
        >>> app = create_app(reranker=load_reranker("minilm"))
        >>> sorted(app.openapi()["paths"])
        ['/health', '/metrics', '/rerank', '/v1/models', '/v1/rerank', '/v2/rerank']
    """
    reranker = reranker or (searcher.reranker if searcher is not None else None)
    if searcher is None and reranker is None:
        raise InputError("there is nothing to serve: give a searcher, a reranker, or both")
    if api_key is not None and len(api_key) < 16:
        raise InputError("the API key must have at least 16 characters; make one with: openssl rand -hex 16")
    if api_key is not None and searcher is None:
        raise InputError("the API key is for writing to an index, and no index is served")
    if min_score is not None:
        for ranks in [reranker] if searcher is None else [reranker, searcher.reranker]:
            if ranks is None:
                raise InputError("min_score needs a reranker: it is compared with the reranker's relevance")
            ranks.check_min_score(min_score)
    limits = limits or Limits()
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    service = Service(searcher, reranker, limits, threads)
    app = FastAPI(
        title="Sightline",
        version=__version__,
        description="Search and reranking by attention.",
        lifespan=service.lifespan,
        # FastAPI's own pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={code: {"model": ErrorResponse, "description": text} for code, text in _STATUS.items()},
        generate_unique_id_function=lambda route: route.name,
        # Versions of FastAPI that do not trace requests themselves ignore this; then the guard does.
        telemetry={"exclude": untraced, "operation_spans": False},
    )
    app.state.service = service
    app.router.route_class = JsonRoute
    add_error_handlers(app)
    _add_common(app, service, min_score)
    if reranker is not None:
        _add_reranking(app, service, reranker, [reranker.name, *model_names], any_model, min_score)
    if searcher is not None:
        _add_searching(app, service, searcher, min_score)
        _add_page(app)
        if api_key is not None:
            _add_writing(app, service, searcher, api_key)
    app.add_middleware(
        Guard, metrics=service.metrics, hosts=hosts, max_bytes=limits.bytes, body_seconds=min(30.0, limits.seconds)
    )
    return app


# -- routes ------------------------------------------------------------------------------------------------------------


def _add_common(app: FastAPI, service: Service, min_score: float | None) -> None:
    @app.get(
        "/health",
        response_model=HealthResponse,
        responses={503: {"model": HealthResponse, "description": "The server is stopping, or its index fails."}},
    )
    async def health() -> Response:
        """Report whether the server works, and what it serves."""
        counts = await service.now_counted()
        report = HealthResponse(
            status="stopping" if not service.healthy() else "ok" if service.problem is None else "failing",
            version=__version__,
            model=service.reranker.name if service.reranker is not None else None,
            layout=service.reranker.layout if service.reranker is not None else None,
            evidence=service.reranker is not None and service.reranker.has_evidence,
            relevance=service.reranker is not None and service.reranker.why_no_relevance() is None,
            min_score=min_score,
            first_stage=service.searcher.first_stage if service.searcher is not None else None,
            index=counts,
            problem=service.problem,
            examples=service.examples,
        )
        return answer(report, 200 if report.status == "ok" else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counters for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _add_reranking(
    app: FastAPI,
    service: Service,
    reranker: Reranker,
    model_names: Sequence[str],
    any_model: bool,
    min_score: float | None,
) -> None:
    model_names = list(dict.fromkeys(model_names))
    started = int(time.time())

    scores: ScoreKind = "raw" if reranker.why_no_relevance() else "relevance"

    def least(body: RerankRequest | TeiRequest) -> float | None:
        """The request's ``min_score``, refused before it waits if the reranker has no relevance."""
        reranker.check_min_score(body.min_score)
        return min_score if body.min_score is None else body.min_score

    async def cohere(request: Request, body: RerankRequest) -> Response:
        if not (any_model or body.model is None or body.model in model_names):
            known = ", ".join(map(repr, model_names))
            raise HTTPException(
                404, f"there is no model {body.model!r} here; there is {known}; --model-name or --any-model allow more"
            )
        pair = body.truncate_prompt_tokens
        work = RankingWork(
            body.query,
            [(d.title or "", d.text or "") if isinstance(d, RerankDocument) else ("", d) for d in body.documents],
            body.top_n or None,
            body.max_tokens_per_doc,
            max_pair_tokens=None if pair == -1 else pair,
            evidence=asked_evidence(body.evidence, body.prune),
            min_score=least(body),
        )
        return answer(_rerank_response(reranker, body, await service.rank(request, work), scores))

    async def tei(request: Request, body: TeiRequest) -> Response:
        texts = [("", text) for text in body.texts]
        work = RankingWork(body.query, texts, refuse_long=body.truncate is False, min_score=least(body))
        done = await service.rank(request, work)
        items = [
            TeiItem(
                index=item.index,
                score=item.score if body.raw_scores else relevance_or_score(item),
                text=body.texts[item.index] if body.return_text else None,
            )
            for item in done.ranking
        ]
        content = b"[" + b",".join(item.model_dump_json(exclude_none=True).encode() for item in items) + b"]"
        headers = {_SCORES: "raw" if body.raw_scores else scores}
        return Response(content, media_type="application/json", headers=headers)

    unknown: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "No such model."}}

    @app.get("/v1/models", response_model=ModelsResponse)
    async def models() -> Response:
        """List the names that requests may give as their model."""
        return answer(ModelsResponse(data=[ModelOut(id=name, created=started) for name in model_names]))

    header = {
        "description": "Successful Response",
        "headers": {
            _SCORES: {
                "description": "In answers to texts, the kind of score: relevance, the probability that the text is "
                "relevant, from 0 to 1; or raw, the reranker's own score, because the request asks for raw_scores or "
                "the reranker has no relevance.",
                "schema": {"type": "string", "enum": list(get_args(ScoreKind))},
            }
        },
    }

    @app.post("/rerank", response_model=RerankResponse | list[TeiItem], responses={200: header, **unknown})
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


def _add_searching(app: FastAPI, service: Service, searcher: Searcher, min_score: float | None) -> None:
    @app.post("/search", response_model=SearchResponse)
    async def search(request: Request, body: SearchRequest) -> Response:
        """Search the index."""
        service.check_length("query", body.query)
        call = functools.partial(
            searcher.search,
            body.query,
            body.k,
            where=body.where,
            evidence=asked_evidence(body.evidence, body.prune),
            unit=body.unit,
            min_score=min_score if body.min_score is None else body.min_score,
        )
        return answer(await service.search(request, lambda: _search_response(call(), body)))

    missing: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse, "description": "No such document."}}

    @app.get("/documents", response_model=DocumentOut, responses=missing)
    async def document_by_query(request: Request, id: DocumentId) -> Response:
        """Return a whole document of the index. The id is a parameter, so it may be ``.`` or ``..``, too."""
        return await document(request, id)

    @app.get("/documents/{id:document}", response_model=DocumentOut, responses=missing)
    async def document(request: Request, id: str) -> Response:
        """Return a whole document of the index."""
        stored = await service.search(request, functools.partial(searcher.index.document, id))
        if stored is None:
            raise HTTPException(404, f"there is no document {id!r}")
        return answer(DocumentOut(id=stored.id, title=stored.title, text=stored.text, metadata=dict(stored.metadata)))


def _add_writing(app: FastAPI, service: Service, searcher: Searcher, api_key: str) -> None:
    async def allowed(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        sent = credentials.credentials if credentials is not None else ""
        if not hmac.compare_digest(sent.encode(), api_key.encode()):
            raise HTTPException(
                401, "writing needs the API key, as Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )

    def write(call: Callable[[], int]) -> int:
        # A write that has begun runs to its end: half of it would be harder to explain than a late answer.
        with interruptible(None):
            try:
                return call()
            finally:
                with contextlib.suppress(SightlineError):  # health tells it; what was written is written
                    service.count(searcher)

    responses: dict[int | str, dict[str, Any]] = {
        401: {"model": ErrorResponse, "description": "The key is missing or wrong."},
        409: {"model": ErrorResponse, "description": "An id is in the index already, or occurs twice in the request."},
    }
    options: dict[str, Any] = {
        "response_model": WrittenResponse,
        "dependencies": [Depends(allowed)],
        "responses": responses,
    }

    @app.post("/documents", **options)
    async def add(request: Request, body: DocumentsRequest) -> Response:
        """Add documents with new ids. What was written before an error stays; after a 504, the rest follows."""
        new = _documents(service, body)
        count = await service.search(request, lambda: write(lambda: searcher.index.add(new)), alone=True)
        return answer(WrittenResponse(written=count, **service.counts.model_dump()))

    @app.put("/documents", **options)
    async def update(request: Request, body: DocumentsRequest) -> Response:
        """Replace documents by id, and add those with new ids. Errors are those of adding."""
        new = _documents(service, body)
        count = await service.search(request, lambda: write(lambda: searcher.index.update(new)), alone=True)
        return answer(WrittenResponse(written=count, **service.counts.model_dump()))

    deleting = {
        **options,
        "responses": {**responses, 404: {"model": ErrorResponse, "description": "No such document."}},
    }

    @app.delete("/documents", **deleting)
    async def delete_by_query(request: Request, id: DocumentId) -> Response:
        """Delete a document. The id is a parameter, so it may be ``.`` or ``..``, too."""
        return await delete(request, id)

    @app.delete("/documents/{id:document}", **deleting)
    async def delete(request: Request, id: str) -> Response:
        """Delete a document."""

        def call() -> int:
            return 0 if searcher.index.document(id) is None else write(lambda: searcher.index.delete([id]))

        count = await service.search(request, call, alone=True)
        if not count:
            raise HTTPException(404, f"there is no document {id!r}")
        return answer(WrittenResponse(deleted=count, **service.counts.model_dump()))


def _documents(service: Service, body: DocumentsRequest) -> list[Document]:
    """The documents to write; too many, or one that is too long, are refused."""
    service.check_count(len(body.documents))
    for place, document in enumerate(body.documents):
        service.check_length(f"document {place}", f"{document.title} {document.text or ''}")
    return [Document(d.id, d.text or "", d.title, d.metadata) for d in body.documents]


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


def _rerank_response(reranker: Reranker, body: RerankRequest, done: RankedList, scores: ScoreKind) -> RerankResponse:
    results = []
    for item in done.ranking[: body.top_n or None]:
        sent = body.documents[item.index]
        document = sent if isinstance(sent, RerankDocument) else RerankDocument(text=sent)
        results.append(
            RerankResult(
                index=item.index,
                relevance_score=relevance_or_score(item),
                document=document if body.return_documents else None,
                evidence=None if body.evidence is None else [dataclasses.asdict(e) for e in item.evidence or ()],  # type: ignore[misc]
                # Of the text as it was sent: what was cut off before reading got no attention.
                pruned_text=None if body.prune is None else prune(document.text or "", item.evidence, body.prune).text,
            )
        )
    warnings = _warnings(done, len(body.documents), body.__pydantic_extra__)
    if reason := reranker.why_no_relevance():
        warnings.append(f"relevance_score is the raw score of {reranker.name}, which has no relevance: {reason}")
    meta = RerankMeta(
        api_version={"version": "2"},
        billed_units={"search_units": 1},
        warnings=warnings or None,
        scores=scores,
        truncated=done.truncated,
    )
    usage = Usage(prompt_tokens=done.tokens, total_tokens=done.tokens)
    return RerankResponse(
        id=str(uuid.uuid4()), model=body.model or reranker.name, results=results, usage=usage, meta=meta
    )


def _search_response(result: SearchResult, body: SearchRequest) -> SearchResponse:
    plain_result = result.as_dict()
    for plain, hit in zip(plain_result["hits"], result.hits, strict=True):
        plain["length"] = len(hit.document.text)
        if body.prune is not None:
            plain["pruned_text"] = hit.pruned_text(body.prune)
        if body.evidence is None:  # it was marked for pruning alone
            plain.pop("evidence", None)
    return SearchResponse.model_validate(plain_result)


def _warnings(done: RankedList, documents: int, ignored: dict[str, Any] | None) -> list[str]:
    warnings = list(done.ranking.warnings)
    if done.truncated:
        warnings.append(f"{done.truncated} of {documents} documents were not read to their end")
    if ignored:
        names = ", ".join(repr(name) for name in sorted(ignored)[:10])
        warnings.append(f"fields that this server does not know were ignored: {names}")
    return warnings


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
