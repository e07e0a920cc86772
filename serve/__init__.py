"""The HTTP server: search, reranking in the formats of other APIs, and a search page. Needs the extra ``serve``."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]


def create_app(*arguments: Any, **options: Any) -> FastAPI:
    """Create the application, for ``sightline serve`` or any ASGI server; see `sightline.serve.app.create_app`.

    Raises:
        MissingExtraError: without the extra ``serve``.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "serve")
    from .app import create_app

    return create_app(*arguments, **options)
