"""The HTTP server: search, reranking in the formats of other APIs, and a search page. Needs the extra ``serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras import importing

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]


def create_app(*arguments: Any, **options: Any) -> FastAPI:
    """Create the application, for ``sightline serve`` or any ASGI server; see `sightline.serve.app.create_app`.

    Raises:
        MissingExtraError: without the extra ``serve``.
        BrokenExtraError: if it is installed, and cannot be imported.
    """
    with importing("fastapi", "prometheus_client", extra="serve"):
        from .app import create_app

    return create_app(*arguments, **options)
