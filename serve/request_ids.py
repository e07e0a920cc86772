"""Ids of requests, for the header ``X-Request-ID``, the bodies of errors, and the log."""

from __future__ import annotations

import logging
import re
import uuid
from contextvars import ContextVar

__all__ = ["HEADER", "RequestIdFilter", "current_request_id", "new_request_id"]

HEADER = "X-Request-ID"

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_current: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id(sent: str) -> str:
    """Start a request in this context, and return its id.

    Args:
        sent: the id that the client or a proxy sent. It is used if it has at most 128 letters, digits and ``._:-``,
            which are safe in logs and headers; otherwise a new one is made.

    Example:
        >>> new_request_id("a1b2-c3d4"), current_request_id()
        ('a1b2-c3d4', 'a1b2-c3d4')
        >>> len(new_request_id("two words"))
        32
    """
    id = sent if _SANE.fullmatch(sent) else uuid.uuid4().hex
    _current.set(id)
    return id


def current_request_id() -> str:
    """Return the id of the current request, or "" if there is none."""
    return _current.get()


class RequestIdFilter(logging.Filter):
    """Gives the records of a handler the attribute ``request_id``, for its format; ``-`` outside of requests.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(RequestIdFilter())
        >>> handler.setFormatter(logging.Formatter("%(levelname)s [%(request_id)s] %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.request_id = _current.get() or "-"
        return True
