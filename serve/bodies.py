"""Read and write bodies: strict JSON in, and one format for all errors out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from ..errors import DataError, IndexLockedError, InputError, RankingError, RemoteError, SightlineError
from .guard import error_body
from .lane import ClosedError, QueueFullError, TimeLimitError
from .request_ids import HEADER, current_request_id
from .service import GoneError

__all__ = ["JsonRoute", "add_error_handlers", "answer"]

logger = logging.getLogger(__name__)

_FIELDS = 1000  # the most that one object may have


def answer(model: BaseModel, status: int = 200) -> Response:
    """Return a model as JSON, without the fields that are None."""
    # Pydantic can write whatever the model can hold; json fails at infinities.
    return Response(model.model_dump_json(exclude_none=True), status, media_type="application/json")


class _JsonRequest(Request):
    async def json(self) -> Any:
        """The body, read strictly: without NaN, infinities, lone surrogates and bottomless nesting.

        What has too many documents or fields is refused here, since validation takes time and memory for each.
        """
        try:
            value = from_json(await self.body(), allow_inf_nan=False, cache_strings="keys")
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from None
        if isinstance(value, dict):
            for name in ("documents", "texts"):
                if isinstance(listed := value.get(name), list):
                    try:
                        self.app.state.service.check_count(len(listed))
                    except InputError as error:
                        raise HTTPException(422, str(error)) from None
        try:
            _check_values(value)
        except ValueError as error:
            raise HTTPException(400, f"the body is not usable: {error}") from None
        return value


class JsonRoute(APIRoute):
    """A route whose body is parsed strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


def _check_values(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number in it is too large")
    if isinstance(value, dict):
        if len(value) > _FIELDS:
            raise ValueError(f"an object in it has {len(value)} fields, and at most {_FIELDS} are allowed")
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _check_values(part)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the format of `ErrorResponse`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        mistakes = error.errors()
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        return _error("RequestError", _in_words(mistakes[0]) + more, 422)

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        message, headers = str(error.detail), dict(error.headers or {})
        if message in ("Not Found", "Method Not Allowed"):
            message = f"there is no {request.method} {request.url.path} here; see /openapi.json"
        if error.status_code == 405:  # the framework names only the methods of the first route with this path
            routes = [route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE]
            headers["Allow"] = ", ".join(
                sorted({method for route in routes for method in getattr(route, "methods", ())})
            )
        return _error("RequestError", message, error.status_code, headers)

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: GoneError) -> Response:
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
        # The rest is about this machine, with paths and addresses: the log's, not the client's.
        logger.error("%s: %s", kind, error)
        if isinstance(error, RemoteError):
            return _error(kind, "the rerank API behind this server failed; the server's log says why", 502)
        return _error(kind, "the server cannot do this now; its log says why", 500)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        message = "something went wrong in the server; its log has the details"
        # The guard, which adds the header to every other answer, stands inside of what answers to this.
        return _error("InternalError", message, 500, {HEADER: current_request_id()})


def _error(kind: str, message: str, code: int, headers: Any = None) -> Response:
    return Response(error_body(kind, message, code), code, dict(headers or {}), "application/json")


def _in_words(error: dict[str, Any]) -> str:
    """A validation error in words: the place and the mistake, without the value that was sent."""
    place = list(error["loc"][1:])
    # The parts that name a kind of union are of no use to the client: that of the body before the name of a field, and
    # that of a document behind its number.
    if len(place) > 1 and place[0] in ("documents", "texts") and isinstance(place[1], str):
        del place[0]
    pairs = zip([None, *place], place, strict=False)
    place = [part for before, part in pairs if not (isinstance(before, int) and part in ("string", "object"))]
    where = ".".join(map(str, place)) or error["loc"][0]
    return f"{where}: {error['msg']}"
