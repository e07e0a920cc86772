"""Spans of OpenTelemetry for applications that collect them; elsewhere they do nothing.

Sightline does not import OpenTelemetry. It checks whether the application did, and whether a tracer provider is set.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

__all__ = ["Span", "flush", "server_span", "span"]

_PREFIX = "sightline."


class Span:
    """A span, used as a context manager. This class records nothing; `span` returns it if no one collects spans.

    Attributes:
        recording: whether attributes are kept. If not, you can skip those that are costly to compute.
    """

    recording = False

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def set(self, **attributes: str | bool | int | float | None) -> None:
        """Set attributes, each with ``sightline.`` before its name. Those that are None are left out."""

    def answered(self, method: str, route: str, status: int) -> None:
        """Name a server's span after the route, and set the status code of the response."""


_NOTHING = Span()


class _Recorded(Span):
    """A span of OpenTelemetry; exceptions that pass through it are recorded and make it an error."""

    def __init__(self, manager: contextlib.AbstractContextManager[Any]) -> None:
        self._manager = manager

    def __enter__(self) -> Span:
        self._span = self._manager.__enter__()
        self.recording = self._span.is_recording()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.__exit__(kind, error, trace)

    def set(self, **attributes: str | bool | int | float | None) -> None:
        self._span.set_attributes({_PREFIX + name: value for name, value in attributes.items() if value is not None})


class _OfServer(_Recorded):
    def answered(self, method: str, route: str, status: int) -> None:
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(_api().StatusCode.ERROR)


def span(name: str) -> Span:
    """Open a span around a step of the work, as a child of the current span.

    Args:
        name: the name of the step, such as ``retrieve``. The span is called ``sightline.retrieve``.

    Example:
        >>> with span("retrieve") as step:
        ...     step.set(passages=100)
        >>> step.recording
        False
    """
    tracer = _tracer()
    return _NOTHING if tracer is None else _Recorded(tracer.start_as_current_span(_PREFIX + name))


def server_span(method: str, path: str, headers: Mapping[str, str]) -> Span:
    """Open a span around the response to a request, as a child of the client's span.

    If a span is open already, as newer versions of FastAPI and instrumentations of ASGI open one, the attributes are
    set on it, and no second span is opened.

    Args:
        method: the method of the request, such as ``POST``.
        path: the path of the request.
        headers: the headers of the request, by their names in lower case; ``traceparent`` identifies the client's span.
    """
    tracer = _tracer()
    if tracer is None:
        return _NOTHING
    from opentelemetry import propagate

    api = _api()
    opened = api.get_current_span()
    if opened.get_span_context().is_valid:
        return _Recorded(contextlib.nullcontext(opened))
    manager = tracer.start_as_current_span(
        method,
        context=propagate.extract(headers),
        kind=api.SpanKind.SERVER,
        attributes={"http.request.method": method, "url.path": path},
    )
    return _OfServer(manager)


def flush(seconds: float) -> None:
    """Export the spans that have ended. A process does so itself at its normal end, but not if a signal ends it.

    Args:
        seconds: the number of seconds to wait for the exporters.
    """
    if _tracer() is not None and (export := getattr(_api().get_tracer_provider(), "force_flush", None)):
        export(int(seconds * 1000))


def _api() -> Any:
    """The module ``opentelemetry.trace`` if the application has imported it."""
    return sys.modules.get("opentelemetry.trace")


def _tracer() -> Any:
    """The tracer of the application's provider; None if it has set none."""
    global _of
    api = _api()
    if api is None or not hasattr(api, "get_tracer_provider"):  # another thread may be importing it right now
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, api.ProxyTracerProvider):  # which stands in until there is one
        return None
    if _of is None or _of[0] is not provider:
        from . import __version__

        _of = provider, provider.get_tracer("sightline", __version__)
    return _of[1]


_of: tuple[Any, Any] | None = None  # the provider, and its tracer
