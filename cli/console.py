"""What all commands share: consoles, JSON output, progress, and options that several of them have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..errors import InputError

__all__ = ["JsonOption", "WhereOption", "conditions", "console", "errors", "progress_bar", "write_json"]

console = Console()
errors = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="Metadata filter, such as lang=en or 'year>=2000'; may be given several times."),
]


def write_json(value: Any) -> None:
    """Print a value as one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def conditions(texts: list[str] | None) -> dict[str, dict[str, Any]] | None:
    """``["year>=2000"]`` as a filter: ``{"year": {">=": 2000}}``. Values are read as JSON where they are JSON.

    Raises:
        InputError: if a text is not FIELD OPERATOR VALUE.
    """
    where: dict[str, dict[str, Any]] = {}
    for text in texts or []:
        for operator in ("!=", "<=", ">=", "=", "<", ">"):
            field, found, value = text.partition(operator)
            if found and field.strip():
                try:
                    parsed = json.loads(value)
                except ValueError:
                    parsed = value.strip()
                where.setdefault(field.strip(), {})[operator] = parsed
                break
        else:
            raise InputError(f"--where {text!r} is not FIELD OPERATOR VALUE with one of = != < <= > >=")
    return where or None


@contextlib.contextmanager
def progress_bar(step: str) -> Iterator[Callable[..., None]]:
    """A counter on a terminal's stderr, and nothing elsewhere; call it with (count) or (step, count)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(step, total=None, rate="")

        def tell(*news: Any) -> None:
            *name, done = news
            elapsed = bar.tasks[0].elapsed or 0
            rate = f"{done / elapsed:.0f}/s" if elapsed > 1 else ""
            bar.update(task, completed=done, description=name[0] if name else step, rate=rate)

        yield tell
