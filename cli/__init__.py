"""The command line: thin, one module per group of commands.

Exit codes: 0 done; 2 the command or an argument is wrong; 3 the data is wrong; 4 the index is missing, damaged, locked
or of another encoder; 5 a model, backend or optional dependency is missing; 1 anything else.
"""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from . import bias, calibration, evaluation, heads, indexing, mcp, searching, serving, training, tuning
from .console import console, errors
from .running import Command, configure_logging, flush_streams, open_streams

__all__ = ["app", "main"]

app = typer.Typer(
    name="sightline",
    help="Search your own documents, rerank the results by attention, and see which words got it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for module in (indexing, searching, evaluation, bias, calibration, tuning, heads, training, serving, mcp):
    module.register(app)
for registered in app.registered_commands:
    registered.cls = Command
    # A terminal breaks the lines of a paragraph where it is full, not where the source does.
    paragraphs = (inspect.getdoc(registered.callback) or "").split("\n\n")
    registered.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _version(requested: bool) -> None:
    if requested:
        from .. import __version__

        console.print(f"sightline {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback for unexpected errors.", envvar="SIGHTLINE_DEBUG")
    ] = False,
) -> None:
    """Options that stand before the command."""
    context.obj = {"debug": debug}


def main() -> None:
    """Run the command line. An error becomes one message and an exit code."""
    open_streams()
    configure_logging()
    try:
        app(prog_name="sightline")
    except SystemExit as end:  # what typer makes of an interrupt
        if end.code == 130:
            errors.print("interrupted; what was committed is kept, and the same command continues from there")
        raise
    finally:
        flush_streams()
