"""The limits of the server. ``sightline serve`` has an option for each."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated

from ..errors import InputError
from ..settings import Range, check_settings

__all__ = ["ConnectionLimits", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on a single request.

    Args:
        documents: Maximum number of documents per request; requests with more are refused (422).
        characters: Maximum length in characters of a query, or of a document with its title; longer ones are refused
            (422).
        bytes: Maximum size in bytes of a request's body; larger ones are refused (413).
        waiting: Maximum number of requests that wait in each queue; further ones are refused (429).
        seconds: Maximum time in seconds for a request, including its time in the queue; after that the answer is 504.

    Raises:
        InputError: if a value is out of range.
    """

    documents: Annotated[int, Range(1)] = 1000
    characters: Annotated[int, Range(1)] = 100_000
    bytes: Annotated[int, Range(1)] = 2 << 20
    waiting: Annotated[int, Range(1)] = 64
    seconds: Annotated[float, Range(above=0)] = 60.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits on connections: their number, and how long each may be idle or slow.

    Args:
        total: Maximum number of open connections. At the limit, the one that has been idle longest is closed; if none
            is idle, the answer is 503.
        per_client: Maximum number of open connections per client address (per /64 network with IPv6). At the limit, the
            client's connection that has been idle longest is closed; if none is idle, the answer is 429.
        header_seconds: Maximum time in seconds for a request's headers to arrive; after that the answer is 408. It
            counts from the connection or, on a connection that is kept open, from the request's first byte.
        stalled_seconds: Maximum time in seconds for which a client may read nothing of its answer; after that it is
            disconnected.
        proxies: The IP addresses of reverse proxies. Their connections serve many clients and are not limited per
            client.

    Raises:
        InputError: if a value is out of range, or a proxy's address is not an IP address.
    """

    total: Annotated[int, Range(1)] = 1000
    per_client: Annotated[int, Range(1)] = 256
    header_seconds: Annotated[float, Range(above=0)] = 10.0
    stalled_seconds: Annotated[float, Range(above=0)] = 30.0
    proxies: Collection[str] = field(default=())

    def __post_init__(self) -> None:
        check_settings(self)
        for address in self.proxies:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise InputError(f"{address!r} is not the IP address of a proxy") from None
