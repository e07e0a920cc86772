"""``sightline mcp``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..errors import SightlineError
from .console import errors, print_line
from .options import (
    SERVER,
    CandidatesOption,
    FirstStageOption,
    IndexArgument,
    MinScoreOption,
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
        typer.Option(
            help="How clients connect: stdio, if they start this command; or http, at /mcp.", rich_help_panel=SERVER
        ),
    ] = "stdio",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on, with --transport http. Clients need no key.", rich_help_panel=SERVER),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on, with --transport http.", min=1, max=65535, rich_help_panel=SERVER)
    ] = 8000,
    rerank: RerankOption = "minilm",
    first_stage: FirstStageOption = None,
    candidates: CandidatesOption = 100,
    min_score: MinScoreOption = None,
) -> None:
    """Let assistants search an index and read its documents: an MCP server with the tools search and get_document.

    --min-score holds for searches in which the assistant gives no min_score of its own.
    """
    from ..integrations.mcp import mcp_server
    from ..search import Searcher

    searcher = Searcher(index, reranker_or_none(rerank), first_stage=first_stage, candidates=candidates)
    with searcher.index:
        server = mcp_server(searcher, min_score=min_score)
        if transport == "stdio":
            server.run("stdio")
        else:
            print_line(f"{index}: MCP at http://{host}:{port}/mcp", to=errors)
            try:
                # No call needs another: no session is kept, so none can be left behind.
                server.run("streamable-http", host=host, port=port, stateless_http=True)
            except SystemExit as end:  # the HTTP server exits with a code of its own
                raise SightlineError(f"cannot serve at {host}:{port}; the reason is printed above") from end
