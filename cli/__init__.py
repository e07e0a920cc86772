"""The command line: thin, one module per group of commands.

Exit codes: 0 done; 2 the command or an argument is wrong; 3 the data is wrong; 4 the index is missing, damaged, locked
or of another encoder; 5 a model, backend or optional dependency is missing; 1 anything else.
"""

from __future__ import annotations

import json
import logging
import sys

import typer
from rich.text import Text

from ..errors import (
    BackendError,
    DataError,
    IndexStoreError,
    InputError,
    MissingExtraError,
    ModelError,
    SightlineError,
)
from . import bias, evaluation, heads, indexing, mcp, searching, serving, training
from .console import errors, visible

__all__ = ["app", "main"]

app = typer.Typer(
    name="sightline",
    help="Search that reads every candidate at once, and shows what it looked at.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for module in (indexing, searching, evaluation, bias, heads, training, serving, mcp):
    module.register(app)

_EXIT_CODES = (
    ((MissingExtraError, ModelError, BackendError), 5),
    ((IndexStoreError,), 4),
    ((DataError,), 3),
    ((InputError,), 2),
)


def main() -> None:
    """Run the command line; what goes wrong on purpose becomes one message and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except SightlineError as error:
        code = next((code for kinds, code in _EXIT_CODES if isinstance(error, kinds)), 1)
        if "--json" in sys.argv:
            sys.stderr.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        else:
            errors.print(Text.assemble(("error:", "bold red"), " ", visible(str(error))), soft_wrap=True)
        sys.exit(code)
    except SystemExit as end:  # what typer makes of an interrupt
        if end.code == 130:
            errors.print("interrupted; what was committed is kept, and the same command goes on from there")
        raise
