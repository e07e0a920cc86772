"""``sightline mcp``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..errors import SightlineError
from .console import errors, visible
from .options import (
    SERVER,
    CandidatesOption,
    FirstStageOption,
    IndexArgument,
    RerankOption,
    reranker_or_none,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "mcp",
        rich_help_panel="Serve",
        epilog="Example: sightline mcp scifact.index --transport http --port 8765",
    )(mcp)


def mcp(
    index: IndexArgument,
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(help="stdio, for a client that starts this command; or http, at /mcp.", rich_help_panel=SERVER),
    ] = "stdio",
    host: Annotated[
        str,
        typer.Option(help="With http: address to listen on. Clients need no key.", rich_help_panel=SERVER),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="With http: port to listen on.", min=1, max=65535, rich_help_panel=SERVER)
    ] = 8000,
    rerank: RerankOption = "minilm",
    first_stage: FirstStageOption = "dense",
    candidates: CandidatesOption = 100,
) -> None:
    """Let assistants search an index and read its documents: an MCP server with the tools search and get_document."""
    from ..integrations.mcp import mcp_server
    from ..search import Searcher

    searcher = Searcher(index, reranker_or_none(rerank), first_stage=first_stage, candidates=candidates)
    with searcher.index:
        server = mcp_server(searcher)
        if transport == "stdio":
            server.run("stdio")
        else:
            address = f"{index}: MCP at http://{host}:{port}/mcp"
            errors.print(visible(address), markup=False, highlight=False, soft_wrap=True)
            try:
                # No call needs another: no session is kept, so none can be left behind.
                server.run("streamable-http", host=host, port=port, stateless_http=True)
            except SystemExit as end:  # with a code of the HTTP server's own
                raise SightlineError(f"cannot serve at {host}:{port}; the reason is told above") from end
