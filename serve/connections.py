"""Limits on connections: their number per client, and the time that headers and the reading of an answer may take.

This is a class for uvicorn's option ``http``, because ASGI applications see only requests whose headers have arrived.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Collection
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .guard import App, Receive, Send, error_body
from .limits import ConnectionLimits

__all__ = ["limited_protocol"]


def limited_protocol(limits: ConnectionLimits) -> type[H11Protocol]:
    """Return the protocol of a server with these limits, for ``uvicorn.Config(http=...)``.

    At a limit, a new connection replaces the one that has been idle longest: among those of the same client, or among
    all. If none is idle, the new one is refused with 429 or 503.

    Example:
        >>> limited_protocol(ConnectionLimits(per_client=10)).__name__
        'LimitedProtocol'
    """
    return type("LimitedProtocol", (_LimitedProtocol,), {"registry": _Registry(limits)})


class _LimitedProtocol(H11Protocol):
    registry: _Registry

    # When the present wait for headers began, and whether some have arrived.
    since = 0.0
    partial = False
    kept_open = False
    # How much of an answer the client has still to read, and since when that has not become less.
    unsent = 0
    unsent_since = 0.0

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = time.monotonic()
        self.registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.registry.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.idle and not self.partial:
            self.partial = True
            if self.kept_open:
                self.since = time.monotonic()
        super().data_received(data)
        if not self.idle:
            self.partial = False

    def on_response_complete(self) -> None:
        self.since, self.kept_open = time.monotonic(), True
        self.partial = bool(self.conn.trailing_data[0])
        super().on_response_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked, and clients must not fill the log."""

    def check(self, now: float) -> None:
        """Disconnect a client that is too slow; called about once a second."""
        limits = self.registry.limits
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            unsent = self.transport.get_write_buffer_size()
            if not self.unsent_since or unsent < self.unsent:
                self.unsent, self.unsent_since = unsent, now
            if now - self.unsent_since > limits.stalled_seconds:
                self.transport.abort()
            return
        self.unsent_since = 0.0
        if self.idle and (self.partial or not self.kept_open) and now - self.since > limits.header_seconds:
            self.close_idle(f"the headers did not arrive within {limits.header_seconds:g} s")

    def close_idle(self, reason: str) -> None:
        """Close a connection on which nothing is being answered; say why if a request has begun."""
        if self.partial and self.conn.our_state is h11.IDLE:
            body = error_body("RequestError", reason, 408)
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=408, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Registry:
    """All connections of a server, by client."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._clients: dict[str, dict[_LimitedProtocol, None]] = {}
        self._all: dict[_LimitedProtocol, None] = {}
        self._proxies = {_client(address) for address in limits.proxies}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: _LimitedProtocol) -> None:
        client = _client(connection.client[0] if connection.client else "")
        own = self._clients.setdefault(client, {})
        own[connection] = self._all[connection] = None
        limits = self.limits
        if len(own) > limits.per_client and client not in self._proxies and not self._make_room(own, connection):
            connection.app = _refusal(429, f"you have {limits.per_client} connections open; close one first")
        elif len(self._all) > limits.total and not self._make_room(self._all, connection):
            connection.app = _refusal(503, f"{limits.total} connections are open; try again later")
        if self._timer is None:
            self._timer = connection.loop.call_later(1.0, self._check)

    def remove(self, connection: _LimitedProtocol) -> None:
        client = _client(connection.client[0] if connection.client else "")
        self._all.pop(connection, None)
        own = self._clients.get(client, {})
        own.pop(connection, None)
        if not own:
            self._clients.pop(client, None)

    def _make_room(self, among: Collection[_LimitedProtocol], new: _LimitedProtocol) -> bool:
        idle = [c for c in among if c is not new and c.idle and not c.transport.is_closing()]
        if not idle:
            return False
        oldest = min(idle, key=lambda connection: connection.since)
        oldest.close_idle("the server has too many connections")
        self.remove(oldest)
        return True

    def _check(self) -> None:
        now = time.monotonic()
        for connection in list(self._all):
            connection.check(now)
        self._timer = next(iter(self._all)).loop.call_later(1.0, self._check) if self._all else None


def _client(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which is what one site is given."""
    try:
        ip: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6:
        ip = ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64))
    return str(ip)


def _refusal(status: int, message: str) -> App:
    """An application that refuses every request."""
    body = error_body("ConnectionLimitError", message, status)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]

    async def refuse(scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return refuse
