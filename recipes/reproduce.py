"""The figures of the documentation, run again: ``recipes/expected.yaml`` says which command gives each of them.

python -m sightline.recipes.reproduce scifact --data data
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..cli.console import console, print_line, progress_bar, visible, write_json
from ..cli.options import JsonOption
from ..cli.running import Command
from ..errors import DataError
from ..eval.matrix import load_matrix
from ..files import digest
from ..parsing import load_json, parse_json
from .figures import EXPECTED, Entry, Figure, load_expected, select

__all__ = ["Check", "app", "reproduce"]

_ROOT = Path(__file__).resolve().parents[1]
_DONE = ".done"  # the file in an entry's folder that says that its command went through
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of an entry.

    Args:
        entry: the entry.
        found: the value found for each figure.
        seconds: the wall time.
        error: what went wrong, if the command failed, or its JSON lacks a figure.
        skipped: why it was not run.
    """

    entry: Entry
    found: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""
    skipped: str = ""

    @property
    def holds(self) -> bool:
        """Whether it ran, and every figure is as expected."""
        return (
            not self.error
            and not self.skipped
            and all(figure.holds(measured) for figure, measured in zip(self.entry.figures, self.found, strict=True))
        )


def reproduce(
    entries: Sequence[Entry],
    work: str | Path,
    *,
    data: str | Path | None = None,
    known: Sequence[Entry] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[Check]:
    """Run entries and compare what they give; one that fails does not keep the others from running.

    Args:
        entries: see `select`.
        work: a folder for all that they make; indexes in it are used again.
        data: the folder of judged collections; without it, entries that need it are skipped.
        known: entries among which an entry's ``after`` is looked for; None for ``entries``.
        progress: called with an entry's id and how many are done.

    Yields:
        The outcome of each entry, as soon as it is there.
    """
    work, by_id = Path(work).resolve(), {entry.id: entry for entry in known or entries}
    places = {"work": str(work), "root": str(_ROOT), "data": "" if data is None else str(Path(data).resolve())}
    for number, entry in enumerate(entries):
        if progress is not None:
            progress(entry.id, number)
        started = time.perf_counter()
        before = by_id.get(entry.after)
        if before is not None and (work / before.id / _DONE).exists():
            before = None
        if skipped := _obstacle(entry, data) or (_obstacle(before, data) if before else ""):
            yield Check(entry, skipped=skipped)
            continue
        try:
            for needed in (before, entry):
                if needed is not None and data is not None:
                    _check_data(needed, Path(data))
            if before is not None:
                _run(before, work, places)
            value = _run(entry, work, places)
            figures = tuple(_look_up(value, figure) for figure in entry.figures)
        except DataError as error:
            yield Check(entry, seconds=time.perf_counter() - started, error=str(error))
            continue
        yield Check(entry, figures, time.perf_counter() - started)


def _obstacle(entry: Entry, data: str | Path | None) -> str:
    if entry.kind == "past":
        return entry.why
    if entry.needs_data and data is None:
        return "needs the judged collections: --data, or SIGHTLINE_DATA"
    absent = [name for name in entry.modules if importlib.util.find_spec(name) is None]
    return f"needs {absent[0]}, which is not installed" if absent else ""


def _check_data(entry: Entry, data: Path) -> None:
    """Refuse data that an entry's figures were not measured on, before its command runs.

    Raises:
        DataError: if a collection is not there, or has other files.
    """
    if not entry.needs_data:
        return
    if not data.is_dir():
        raise DataError("no such folder of judged collections", path=data)
    names = set(re.findall(r"\{data\}/([\w-]+)", entry.command))
    arguments = shlex.split(entry.command)
    options = {name: value for name, value in pairwise(arguments) if name in ("--plan", "--only")}
    if "matrix" in arguments and "--plan" in options:
        plan = options["--plan"].format(root=_ROOT)
        only = options.get("--only", "").split(",")
        names |= {
            collection.folder.name for collection in load_matrix(data, plan, only=[name for name in only if name])
        }
    for name in sorted(names):
        if not (data / name).is_dir():
            raise DataError("no such folder; the figures were measured on this collection", path=data / name)
        for file, hash in entry.measured.get(name, {}).items():
            path = data / name / file
            if not path.is_file() or digest(path) != hash:
                reason = f"your {name} is another one than the figures were measured on: {file} differs or is missing"
                raise DataError(reason, path=data / name)


def _run(entry: Entry, work: Path, places: Mapping[str, str]) -> Any:
    """The JSON that an entry's command wrote to its file or its standard output."""
    out = work / entry.id
    out.mkdir(parents=True, exist_ok=True)
    filled = {
        name: text.format(**places, out=out) for name, text in (("command", entry.command), ("reads", entry.reads))
    }
    said = ""
    if entry.command:
        program, *arguments = [part.format(**places, out=out) for part in shlex.split(entry.command)]
        start = [sys.executable, "-m", "sightline"] if program == "sightline" else [sys.executable]
        done = subprocess.run(
            [*start, *arguments], capture_output=True, text=True, cwd=out, env={**os.environ, "COLUMNS": "200"}
        )
        if done.returncode:
            last = " ".join(done.stderr.split()[-40:]) or "it said nothing"
            raise DataError(f"the command failed with exit code {done.returncode}: {last}")
        said = done.stdout
        (out / _DONE).touch()
    try:
        return load_json(filled["reads"]) if entry.reads else parse_json(said)
    except DataError as error:
        where = filled["reads"] or "standard output"
        raise DataError(f"there is no JSON to read: {error.reason}", path=where) from None


def _look_up(value: Any, figure: Figure) -> float:
    number = _follow(value, figure.at)
    return (number / _follow(value, figure.per) if figure.per else number) * figure.times


def _follow(value: Any, way: Sequence[Any]) -> float:
    for step in way:
        try:
            if isinstance(step, dict):
                [value] = [item for item in value if isinstance(item, dict) and step.items() <= item.items()]
            else:
                value = value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise DataError(f"there is no {step!r} on the way {' / '.join(map(str, way))}") from None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise DataError(f"{' / '.join(map(str, way))} is no number: {str(value)[:80]}")
    return float(value)


@app.command(cls=Command, epilog="Example: python -m sightline.recipes.reproduce scifact --data data --out reproduced")
def main(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Entries; none for all of quality.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for everything that the commands make; indexes in it are used again.")
    ] = Path("reproduced"),
    data: Annotated[Path | None, typer.Option(help="Folder of judged collections.", envvar="SIGHTLINE_DATA")] = None,
    expected: Annotated[Path, typer.Option(help="File of expected figures, YAML.", show_default=False)] = EXPECTED,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes more than a minute.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the entries, and run nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Run the figures of the documentation again, and say which hold; the exit code is 1 if one does not."""
    entries = load_expected(expected)
    if list_only:
        _show_list(entries, json)
        return
    checks = []
    with progress_bar("reproducing") as tell:
        for check in reproduce(select(entries, ids or [], quick=quick), out, data=data, known=entries, progress=tell):
            checks.append(check)
            if not json:
                _show_check(check)
    if json:
        write_json([_as_json(check) for check in checks])
    if not all(check.holds or check.skipped for check in checks):
        raise typer.Exit(1)


def _show_list(entries: Sequence[Entry], json: bool) -> None:
    if json:
        write_json([{"id": e.id, "kind": e.kind, "quick": e.quick, "command": e.command} for e in entries])
        return
    for entry in entries:
        facts = f"{entry.kind}{', quick' * entry.quick}, {len(entry.figures)} figures"
        print_line(f"{entry.id} ({facts})")
        about = f"    {entry.command or entry.why or entry.reads}"
        print_line(about, "dim")


def _show_check(check: Check) -> None:
    if check.skipped or check.error:
        word, style = ("skipped", "dim") if check.skipped else ("failed", "bold red")
        console.print(Text.assemble((f"{word} ", style), visible(f"{check.entry.id}: {check.skipped or check.error}")))
        return
    word, style = ("holds ", "green") if check.holds else ("differs ", "bold red")
    about = f"{check.entry.id}: {len(check.found)} figures, {check.seconds:.0f} s"
    console.print(Text.assemble((word, style), visible(about)))
    for figure, measured in zip(check.entry.figures, check.found, strict=True):
        if not figure.holds(measured):
            console.print(Text(visible(f"    {figure.label}: expected {figure.value:g}, found {measured:.6g}")))


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "id": check.entry.id,
        "holds": check.holds,
        "seconds": check.seconds,
        "error": check.error,
        "skipped": check.skipped,
        "figures": [
            {"name": figure.label, "expected": figure.value, "found": measured, "holds": figure.holds(measured)}
            for figure, measured in zip(check.entry.figures, check.found, strict=False)
        ],
    }


if __name__ == "__main__":
    app()
