"""``sightline serve``."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..extras import importing
from ..models.cache import CacheSettings, shared_cache
from ..serve.limits import ConnectionLimits, Limits
from .console import errors, print_line
from .options import (
    SERVER,
    BackendOption,
    CandidatesOption,
    FirstStageOption,
    MinScoreOption,
    RerankOption,
    reranker_or_none,
)
from .settings import SettingsOptions, takes_settings

__all__ = ["register"]

_LOCAL = ("localhost", "127.0.0.1", "::1")
_CLIENTS = "Clients"
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"
_CACHE = SettingsOptions(
    kind=CacheSettings,
    panel="What is kept of requests",
    names={"mb": ("--cache-mb",), "folder": ("--cache-folder",), "folder_mb": ("--cache-folder-mb",)},
)
_LIMITS = SettingsOptions(
    kind=Limits,
    panel="Limits on requests",
    names={name: (f"--max-{name}",) for name in ("documents", "characters", "bytes", "waiting", "seconds")},
)
_CONNECTIONS = SettingsOptions(
    kind=ConnectionLimits,
    panel="Limits on connections",
    left_out=("stalled_seconds", "proxies"),
    names={
        "total": ("--max-connections",),
        "per_client": ("--max-connections-per-client",),
        "header_seconds": ("--max-header-seconds",),
    },
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", rich_help_panel="Serve", epilog="Example: sightline serve scifact.index --port 8000")(serve)


@takes_settings(_CACHE, _LIMITS, _CONNECTIONS)
def serve(
    index: Annotated[
        str | None,
        typer.Argument(
            help="Directory of the index, or a store: qdrant-edge:PATH or qdrant://HOST:PORT/COLLECTION; without it, "
            "reranking only."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535, rich_help_panel=SERVER)
    ] = 8000,
    rerank: RerankOption = "minilm",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number format that the reranker computes in, such as bfloat16, which some processors multiply twice "
            "as fast. It changes scores by about a hundredth.",
            show_default="the reranker's own",
            rich_help_panel=SERVER,
        ),
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the layers of a decoder, for GPUs. The start takes longer, and rankings take less time.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    cuda_graphs: Annotated[
        bool,
        typer.Option(
            "--cuda-graphs",
            help="Record a decoder's passes over kept documents, for GPUs, so that the processor starts them at once.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    backend: BackendOption = None,
    first_stage: FirstStageOption = None,
    candidates: CandidatesOption = 100,
    min_score: MinScoreOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Number of searches, and of rankings, that run at once.",
            min=1,
            show_default="one for each processor, at most 16",
            rich_help_panel=SERVER,
        ),
    ] = None,
    model_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model name to accept, such as rerank-v3.5. You can give several.",
            rich_help_panel=_CLIENTS,
        ),
    ] = None,
    any_model: Annotated[
        bool,
        typer.Option(
            "--any-model",
            help="Accept any model name in rerank requests. The model stays the same.",
            rich_help_panel=_CLIENTS,
        ),
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A host name that requests may be addressed to. You can give several.",
            rich_help_panel=_CLIENTS,
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            help="IP address of a reverse proxy. Its connections belong to many clients and are not limited per "
            "client; you can give it several times.",
            rich_help_panel=_CONNECTIONS.panel,
        ),
    ] = None,
    log_requests: Annotated[
        bool,
        typer.Option(
            "--log-requests",
            help="Log a line for each request: its id, method, route, status and milliseconds.",
            rich_help_panel=SERVER,
        ),
    ] = False,
    max_idle_seconds: Annotated[
        int,
        typer.Option(
            help="Seconds that a connection stays open between requests.", min=1, rich_help_panel=_CONNECTIONS.panel
        ),
    ] = 15,
    **settings: Any,
) -> None:
    """Serve an index over HTTP: a search page, search, reranking, metrics.

    --min-score holds for searches and rankings whose request gives no min_score of its own.

    If you set the environment variable SIGHTLINE_API_KEY, clients that send this key can add and delete documents.

    What was read of documents is kept in memory, and with --cache-folder on disk, so that a passage that comes again,
    as in RAG, is not read again: rankings are the same, and many times as fast.

    Log records on stderr carry the id of the request that they belong to; answers carry it in X-Request-ID.

    Every limit below has a status code that clients see. Bodies must arrive within 30 seconds (408), a client that
    reads nothing of its answer for 30 seconds is disconnected, an object in a body has at most 1,000 fields (400), a
    filter has at most 100 fields (422), and a search returns at most 1,000 hits (422).
    """
    from ..rerank.loading import load_reranker, reader_options
    from ..retrieval.stores import open_store
    from ..search import Searcher

    with importing("uvicorn", "fastapi", "prometheus_client", extra="serve"):
        import uvicorn

        from ..serve.app import create_app
        from ..serve.connections import limited_protocol
        from ..serve.guard import REQUEST_LOG
        from ..serve.request_ids import RequestIdFilter

    for handler in logging.getLogger().handlers:
        handler.addFilter(RequestIdFilter())
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    if log_requests:
        logging.getLogger(REQUEST_LOG).setLevel(logging.INFO)
    limits = _LIMITS.build(settings)
    cache = _CACHE.build(settings)
    connections = _CONNECTIONS.build(settings, proxies=trusted_proxy or ())
    listening = _listen(host, port)  # before the models are loaded: a port that is taken is found at once
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    name = reranker_or_none(rerank)
    if loaded := " and ".join(filter(None, (index, name))):
        print_line(f"loading {loaded}, to be served at {address}", to=errors)
    opened = None if index is None else open_store(index, backend=backend)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    options |= {name: True for name, asked in (("compile", compile), ("cuda_graphs", cuda_graphs)) if asked}
    reranker = None if name is None else load_reranker(name, **options, **reader_options(name, backend))
    if reranker is not None:
        reranker.keep_documents(shared_cache(cache))
    searcher = None
    if opened is not None:
        searcher = Searcher(opened, reranker, first_stage=first_stage, candidates=candidates)
        searcher.search("warming up", 1)  # loads the models, and finds what cannot work before anyone asks
    app = create_app(
        searcher,
        reranker,
        limits=limits,
        api_key=os.environ.get("SIGHTLINE_API_KEY") or None,
        hosts=[*(allow_host or []), *_LOCAL] if allow_host or host in _LOCAL else None,
        model_names=model_name or (),
        any_model=any_model,
        min_score=min_score,
        threads=threads,
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        log_config=None,  # to the same handlers, with ids
        access_log=False,
        server_header=False,
        http=limited_protocol(connections),
        ws="none",
        proxy_headers=False,
        timeout_keep_alive=max_idle_seconds,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    what = f"{index}, {len(searcher.index):,} documents" if searcher is not None else f"reranking by {rerank}"
    # The socket listens already: a client that connects now is answered as soon as the server runs.
    print_line(f"{address}  {what}; Ctrl-C stops it")
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen to {host} port {port}: {error.strerror}; choose another --port") from error
