"""What all commands share: consoles, JSON output, progress, and options that hold several parts in one text."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..errors import InputError

__all__ = [
    "console",
    "errors",
    "given_runs",
    "names",
    "print_line",
    "print_table",
    "progress_bar",
    "visible",
    "working",
    "write_json",
]

_LINE_EVERY = 30  # seconds between lines of progress where there is no terminal

_WIDEST = 1000  # characters of a table, where no terminal says how many there are

console = Console()
errors = Console(stderr=True)


# What would steer a terminal rather than be shown: controls (C0, DEL, C1), overrides of the writing direction, and half
# surrogates, which cannot be written at all.
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""A text of unknown origin for a terminal: nothing in it can move the cursor, colour or retitle anything.

    Blanks and line breaks become spaces, other controls the pictures that Unicode has of them.

    Example:
        >>> visible("a\tb\x1b[31m")
        'a b␛[31m'
    """
    return _UNSHOWN.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if chr(code).isspace():
        return " "
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"


def print_line(text: str, style: str | None = None, *, to: Console | None = None) -> None:
    """Print a text of unknown origin as it is: `visible`, without markup or highlighting, and not broken into lines."""
    (to or console).print(visible(text), style=style, markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table; where the output is no terminal, none of its figures is cut for lack of width."""
    if not console.is_terminal:
        needed = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
        console.width = max(console.width, needed)
    console.print(table)


def write_json(value: Any) -> None:
    """Print a value as one JSON document, in which no string can steer a terminal.

    Where the output cannot encode a character, all that are not ASCII are escaped, so that it stays JSON.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8", "surrogatepass")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    # Of what matches, only line breaks are outside of strings.
    typer.echo(_UNSHOWN.sub(lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def names(text: str) -> list[str]:
    """The parts of a comma-separated option.

    Example:
        >>> names("bm25, dense")
        ['bm25', 'dense']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def given_runs(texts: list[str] | None) -> dict[str, str]:
    """``["mine=run.trec"]`` as names and files.

    Raises:
        InputError: if a text is not NAME=FILE, or the name has the sign that begins a reranker's.
    """
    runs = {}
    for text in texts or []:
        name, equals, file = text.partition("=")
        if not equals or not name or "+" in name:
            raise InputError(f"--run {text!r} is not NAME=FILE")
        runs[name] = file
    return runs


@contextlib.contextmanager
def working(step: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal's stderr, and nothing elsewhere; call it with the next step."""
    with errors.status(Text(step)) if errors.is_terminal else contextlib.nullcontext() as status:
        yield lambda text: None if status is None else status.update(Text(text))


@contextlib.contextmanager
def progress_bar(step: str) -> Iterator[Callable[..., None]]:
    """Show on stderr how far work has come: a bar on a terminal, elsewhere a line every 30 seconds.

    Call what it yields with (count) or (step, count). ``total`` is the count at the end, where it is known: it says how
    long the rest will take. ``detail`` is shown beside the count.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    started = last_line = time.monotonic()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(step, total=None, rate="", detail="", left="")
        first: int | None = None  # what an earlier run had done does not count for the speed of this one

        def tell(*news: Any, total: int | None = None, detail: str = "") -> None:
            nonlocal last_line, first
            *name, done = news
            first = done if first is None else first
            now = time.monotonic()
            rate = f"{done / (now - started):.0f}/s" if now - started > 1 else ""
            shown = name[0] if name else step
            left = ""
            if total is not None and first < done < total:
                left = f"about {(now - started) / (done - first) * (total - done):.0f} s left"
            bar.update(task, completed=done, total=total, description=shown, rate=rate, detail=detail, left=left)
            if not errors.is_terminal and now - last_line >= _LINE_EVERY:
                last_line = now
                count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
                words = [f"{shown}: {count}", detail, rate, f"{now - started:.0f} s", left]
                print_line(", ".join(filter(None, words)), to=errors)

        yield tell
