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
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)] = 8000,
    rerank: RerankOption = "minilm",
    layout: LayoutOption = None,
    first_stage: Annotated[FirstStage, typer.Option(help="Where candidates come from.")] = FirstStage.dense,
    candidates: Annotated[int, typer.Option(help="Number of documents the first stage passes on.", min=1)] = 100,
    model_name: Annotated[
        list[str] | None,
        typer.Option(help="Another model name to accept, such as rerank-v3.5; you can give it several times."),
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Accept any model name in rerank requests; the model stays the same.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A host name that requests may be addressed to; you can give it several times."),
    ] = None,
    max_documents: Annotated[int, typer.Option(help="Documents per request; more are refused (422).", min=1)] = 1000,
    max_characters: Annotated[
        int, typer.Option(help="Characters of a query, or of a document with its title; more are refused (422).", min=1)
    ] = 100_000,
    max_bytes: Annotated[int, typer.Option(help="Bytes per request body; more are refused (413).", min=1)] = 2 << 20,
    max_waiting: Annotated[
        int, typer.Option(help="Requests waiting in each queue; further ones are refused (429).", min=1)
    ] = 64,
    max_seconds: Annotated[
        float,
        typer.Option(help="Seconds per request, including time in the queue; after that the answer is 504.", min=0.001),
    ] = 60.0,
    max_connections: Annotated[
        int,
        typer.Option(
            help="Open connections. At the limit the longest idle one is closed; if none is idle, the answer is 503.",
            min=1,
        ),
    ] = 1000,
    max_connections_per_client: Annotated[
        int,
        typer.Option(
            help="Open connections per client address (per /64 network with IPv6). At the limit the client's longest "
            "idle one is closed; if none is idle, the answer is 429.",
            min=1,
        ),
    ] = 256,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="IP address of a reverse proxy. Its connections belong to many clients and are not limited per "
            "client; you can give it several times."
        ),
    ] = None,
    max_header_seconds: Annotated[
        float,
        typer.Option(help="Seconds for a request's headers to arrive; after that the answer is 408.", min=0.001),
    ] = 10.0,
    max_idle_seconds: Annotated[
        int, typer.Option(help="Seconds a connection stays open between requests.", min=1)
    ] = 15,
) -> None:
    """Serve an index over HTTP: a search page, search, reranking, metrics.

    If you set the environment variable SIGHTLINE_API_KEY, clients that send this key can add and delete documents.

    Every limit below has a status code that clients see. Bodies must arrive within 30 seconds (408), a client that
    reads nothing of its answer for 30 seconds is disconnected, an object in a body has at most 1,000 fields (400), a
    filter has at most 100 fields (422), and a search returns at most 1,000 hits (422).
    """
    from ..rerank.loading import load_reranker
    from ..retrieval.index import Index
    from ..search import Searcher

    try:
        import uvicorn

        from ..serve.app import Limits, create_app
        from ..serve.connections import ConnectionLimits, limited_protocol
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error

    limits = Limits(max_documents, max_characters, max_bytes, max_waiting, max_seconds)
    connections = ConnectionLimits(
        total=max_connections,
        per_client=max_connections_per_client,
        header_seconds=max_header_seconds,
        proxies=trusted_proxy or (),
    )
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
    app = create_app(
        searcher, reranker, limits=limits, api_key=key, hosts=names, model_names=model_name or (), any_model=any_model
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=limited_protocol(connections),
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=max_idle_seconds,
        timeout_graceful_shutdown=int(max_seconds) + 1,
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    what = f"{index}, {len(searcher.index):,} documents" if searcher is not None else f"reranking by {rerank}"
    # The socket listens already: a client that connects now is answered as soon as the server runs.
    console.print(visible(f"{address}  {what}; Ctrl-C stops it"), markup=False, highlight=False, soft_wrap=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen to {host} port {port}: {error.strerror}; choose another --port") from error
