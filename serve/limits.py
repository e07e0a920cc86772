"""The limits of the server; ``sightline serve`` takes each as an option."""

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
    """What one request may ask for.

    Args:
        documents: Documents per request; more are refused (422).
        characters: Characters of a query, or of a document with its title; more are refused (422).
        bytes: Bytes per request body; more are refused (413).
        waiting: Requests waiting in each queue; further ones are refused (429).
        seconds: Seconds per request, including time in the queue; after that the answer is 504.

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
    """How many connections a server keeps open, and for how long.

    Args:
        total: Open connections. At the limit the longest idle one is closed; if none is idle, the answer is 503.
        per_client: Open connections per client address (per /64 network with IPv6). At the limit the client's longest
            idle one is closed; if none is idle, the answer is 429.
        header_seconds: Seconds for a request's headers to arrive; after that the answer is 408. They count from the
            connection or, on a connection that is kept open, from the request's first byte.
        stalled_seconds: Seconds after which a client that takes nothing of its answer is disconnected.
        proxies: IP addresses of reverse proxies. Their connections belong to many clients and are not limited per
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
