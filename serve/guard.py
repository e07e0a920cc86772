"""The middleware in front of the application.

It checks hosts, sizes and slow clients, and counts, logs and traces requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from ..tracing import Span, server_span
from .metrics import Metrics
from .request_ids import HEADER, current_request_id, new_request_id

__all__ = ["REQUEST_LOG", "Guard", "error_body", "untraced"]

REQUEST_LOG = "sightline.serve.requests"  # the logger that has a line for each request, at level INFO
request_log = logging.getLogger(REQUEST_LOG)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

_MESSAGE = 600  # characters of an error's message

_UNTRACED = ("/health", "/metrics")  # they are asked for every few seconds


class Guard:
    """The ASGI middleware in front of the application.

    Args:
        app: the application behind it.
        metrics: the counters for requests.
        hosts: the names that a request's ``Host`` header may have; None allows any. This keeps out pages of other sites
            whose name was made to point here (DNS rebinding).
        max_bytes: the largest size of a request's body, in bytes.
        body_seconds: the number of seconds in which a body must arrive.
    """

    def __init__(
        self, app: App, *, metrics: Metrics, hosts: Collection[str] | None, max_bytes: int, body_seconds: float
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = None if hosts is None else {name.lower() for name in hosts}
        self._max_bytes = max_bytes
        self._body_seconds = body_seconds

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        # The id stays set when this returns: what answers to an unforeseen error stands outside.
        id = new_request_id(_header(scope, HEADER.lower()))
        with _traced(scope) as span:
            span.set(request_id=id)
            await self._answer(scope, receive, send, id, span)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, id: str, span: Span) -> None:
        started = time.perf_counter()
        status = 499  # unless there is an answer, the client has gone
        lost = False
        own = (*_HEADERS, (HEADER.lower().encode(), id.encode()))

        async def sending(message: Message) -> None:
            nonlocal status, lost
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                extra = [header for header in own if header[0] not in names]
                message = {**message, "headers": [*message["headers"], *extra]}
            try:
                await send(message)
            except Exception:  # nobody can be answered on this connection any more
                lost = True
                raise

        try:
            refusal, body = await self._admit(scope, receive)
            if refusal is not None:
                await _refuse(sending, *refusal)
            elif body is not None:
                await self._app(scope, _replayed(body, receive), sending)
        except Exception:
            status = 499 if lost else 500
            raise
        finally:
            # Requests count under the route's pattern, not the path: clients must not be able to make up labels.
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._metrics.observe(route, status, seconds)
            span.answered(scope["method"], route, status)
            request_log.info("%s %s %d %.0f ms", scope["method"], route, status, seconds * 1e3)

    async def _admit(
        self, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[tuple[int, str] | None, bytes | None]:
        """A refusal, or the body; neither if the client has gone."""
        headers = dict(scope["headers"])
        host = _name(headers.get(b"host", b"").decode("latin-1"))
        if self._hosts is not None and host not in self._hosts:
            return (421, f"this server does not answer for the host {host!r}; name it with --allow-host"), None
        declared = headers.get(b"content-length", b"0")
        too_large = 413, f"the request is larger than {self._max_bytes} bytes; send fewer or shorter documents"
        if not declared.isdigit() or int(declared) > self._max_bytes:
            return too_large, None
        try:
            async with asyncio.timeout(self._body_seconds):
                body = bytearray()
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None, None
                    body += message.get("body", b"")
                    if len(body) > self._max_bytes:
                        return too_large, None
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return (408, f"the request did not come within {self._body_seconds:g} s"), None
        if body and scope["method"] != "GET" and not _is_json(headers.get(b"content-type", b"")):
            return (415, "send the body as JSON, with the header Content-Type: application/json"), None
        return None, bytes(body)


def error_body(kind: str, message: str, code: int) -> bytes:
    """Return the body of an error.

    Characters that cannot be encoded are escaped, and long messages are cut in the middle.
    """
    message = message if len(message) <= _MESSAGE else f"{message[: _MESSAGE // 2]} … {message[-_MESSAGE // 2 :]}"
    error: dict[str, Any] = {"type": kind, "message": message, "code": code}
    if id := current_request_id():
        error["request_id"] = id
    return json.dumps({"error": error}).encode()


def untraced(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request is left out of traces."""
    return scope.get("path") in _UNTRACED


def _traced(scope: MutableMapping[str, Any]) -> Span:
    """The span around the answer to a request."""
    if untraced(scope):
        return Span()
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return server_span(scope["method"], scope["path"], headers)


def _header(scope: MutableMapping[str, Any], name: str) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()), "")


async def _refuse(send: Send, status: int, message: str) -> None:
    body = error_body("RequestError", message, status)
    # What the client still sends is not read, so the connection cannot be used again.
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, and then what the server receives: that the client has gone."""
    pending = True

    async def replay() -> Message:
        nonlocal pending
        if pending:
            pending = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _is_json(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]*))(?::[0-9]*)?", re.IGNORECASE)


def _name(host: str) -> str:
    """A Host header without its port; all of it where it is not NAME, NAME:PORT, [IPV6] or [IPV6]:PORT."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2] if match else host).lower()
