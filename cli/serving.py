"""``sightline serve``."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..errors import InputError, MissingExtraError
from .console import LayoutOption, RerankOption, console, reranker_name, visible
from .searching import FirstStage

__all__ = ["register"]

_LOCAL = ("localhost", "127.0.0.1", "::1")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", epilog="Example: sightline serve scifact.index --port 8000")(serve)


def serve(
    index: Annotated[Path | None, typer.Argument(help="Directory of the index; without it, reranking only.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen to; 0.0.0.0 is everyone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen to; 0 picks a free one.", min=0, max=65535)] = 8000,
    rerank: RerankOption = "minilm",
    layout: LayoutOption = None,
    first_stage: Annotated[FirstStage, typer.Option(help="Where candidates come from.")] = FirstStage.dense,
    candidates: Annotated[int, typer.Option(help="Documents that the first stage hands on.", min=1)] = 100,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name that requests may be addressed to; may be given several times.")
    ] = None,
    max_documents: Annotated[int, typer.Option(help="Documents in a request.", min=1)] = 1000,
    max_characters: Annotated[int, typer.Option(help="Characters of a query or a document.", min=1)] = 100_000,
    max_bytes: Annotated[int, typer.Option(help="Bytes of a request.", min=1)] = 2 << 20,
    max_waiting: Annotated[int, typer.Option(help="Requests that wait; more are answered 429.", min=1)] = 64,
    max_seconds: Annotated[float, typer.Option(help="For a request, waiting included.", min=0.001)] = 60.0,
) -> None:
    """Serve an index over HTTP: a search page, search, reranking, metrics.

    The environment variable SIGHTLINE_API_KEY, if set, lets those who send it add and delete documents.
    """
    from ..rerank.reranker import load_reranker
    from ..retrieval.index import Index
    from ..search import Searcher

    try:
        import uvicorn

        from ..serve.app import Limits, create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error

    limits = Limits(max_documents, max_characters, max_bytes, max_waiting, max_seconds)
    listening = _listen(host, port)  # before the models are loaded: a port that is taken is found at once
    opened = None if index is None else Index.open(index)
    name = reranker_name(rerank, layout)
    reranker = None if name is None else load_reranker(name)
    searcher = None
    if opened is not None:
        searcher = Searcher(opened, reranker, first_stage=cast(Any, first_stage.value), candidates=candidates)
        searcher.search("warming up", 1)  # loads the models, and finds what cannot work before anyone asks
    names = [*(allow_host or []), *_LOCAL] if allow_host or host in _LOCAL else None
    key = os.environ.get("SIGHTLINE_API_KEY") or None
    app = create_app(searcher, reranker, limits=limits, api_key=key, hosts=names)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=1000,
        timeout_graceful_shutdown=int(max_seconds) + 1,
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    what = f"{index}, {len(searcher.index):,} documents" if searcher is not None else f"reranking by {rerank}"
    # Who connects from here on is answered as soon as the server runs: the socket listens already.
    console.print(visible(f"{address}  {what}; Ctrl-C stops it"), markup=False, highlight=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen to {host} port {port}: {error.strerror}; choose another --port") from error
