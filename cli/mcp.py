"""``sightline mcp``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ..errors import SightlineError
from .console import LayoutOption, RerankOption, errors, reranker_name, visible
from .searching import FirstStage

__all__ = ["register"]


class Transport(StrEnum):
    """How a client talks to the server."""

    stdio = "stdio"
    http = "http"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("mcp", epilog="Example: sightline mcp scifact.index --transport http --port 8765")(mcp)


def mcp(
    index: Annotated[Path, typer.Argument(help="Directory of the index.")],
    transport: Annotated[
        Transport, typer.Option(help="stdio, for a client that starts this command; or http, at /mcp.")
    ] = Transport.stdio,
    host: Annotated[
        str, typer.Option(help="With http: address to listen at. Nobody is asked for a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With http: port to listen at.", min=1, max=65535)] = 8000,
    candidates: Annotated[int, typer.Option(help="Documents that the first stage hands on.", min=1)] = 100,
    first_stage: Annotated[FirstStage, typer.Option(help="Where candidates come from.")] = FirstStage.dense,
    rerank: RerankOption = "minilm",
    layout: LayoutOption = None,
) -> None:
    """Let assistants search an index and read its documents: an MCP server with the tools search and get_document."""
    from ..integrations.mcp import mcp_server
    from ..search import Searcher

    searcher = Searcher(
        index, reranker_name(rerank, layout), first_stage=cast(Any, first_stage.value), candidates=candidates
    )
    with searcher.index:
        server = mcp_server(searcher)
        if transport is Transport.stdio:
            server.run("stdio")
        else:
            told = f"{index}: MCP at http://{host}:{port}/mcp"
            errors.print(visible(told), markup=False, highlight=False, soft_wrap=True)
            try:
                # No call needs another: no session is kept, so none can be left behind.
                server.run("streamable-http", host=host, port=port, stateless_http=True)
            except SystemExit as end:  # with a code of the HTTP server's own
                raise SightlineError(f"cannot serve at {host}:{port}; the reason is told above") from end
