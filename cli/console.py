"""What all commands share: consoles, JSON output, progress, and options that several of them have."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..errors import InputError

__all__ = [
    "JsonOption",
    "LayoutOption",
    "RerankOption",
    "WhereOption",
    "console",
    "errors",
    "given_runs",
    "names",
    "progress_bar",
    "reranker_name",
    "visible",
    "write_json",
]

console = Console()
errors = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RerankOption = Annotated[
    str,
    typer.Option(
        help="minilm, sightline-mini, a folder of sightline train, a layout (name or .yaml), hf:MODEL, or none."
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(help="For hf:MODEL: icr, icr-block, blockrank, blockrank-cached, qrhead, core, or a layout's .yaml."),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Metadata filter, such as lang=en, 'year>=2000', 'lang in [en, de]' or 'year is null'; may be "
        "given several times, and all must hold.",
    ),
]


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


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if chr(code).isspace():
        return " "
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"


def write_json(value: Any) -> None:
    """Print a value as one JSON document, in which no string can steer a terminal."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Of what matches, only line breaks are outside of strings.
    typer.echo(_UNSHOWN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text))


def reranker_name(rerank: str, layout: str | None) -> str | None:
    """What ``--rerank`` and ``--layout`` ask for, as one name for `load_reranker`; None for no reranker.

    Raises:
        InputError: if there is a layout and no decoder model for it.
    """
    if layout is not None and not rerank.startswith("hf:"):
        raise InputError(f"--layout {layout} goes with --rerank hf:MODEL, not with --rerank {rerank}")
    if rerank == "none":
        return None
    return rerank if layout is None else f"{rerank}#{layout}"


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
        name, found, file = text.partition("=")
        if not found or not name or "+" in name:
            raise InputError(f"--run {text!r} is not NAME=FILE")
        runs[name] = file
    return runs


@contextlib.contextmanager
def progress_bar(step: str) -> Iterator[Callable[..., None]]:
    """A counter on a terminal's stderr, and nothing elsewhere; call it with (count) or (step, count)."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
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
