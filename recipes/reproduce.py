"""The figures that the README quotes, run again: ``data/expected.yaml`` says by which command each comes about."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError
from ..eval.matrix import MATRIX, load_matrix
from ..files import digest
from ..parsing import parse_json, read_json, read_yaml

__all__ = ["EXPECTED", "Check", "Entry", "Figure", "load_expected", "reproduce", "select"]

_ROOT = Path(__file__).resolve().parents[1]
EXPECTED = _ROOT / "data" / "expected.yaml"
"""What the README quotes."""

_KINDS = {
    "quality": "the same on every machine, up to rounding",
    "speed": "of the machine that measured it; run only if asked for",
    "past": "cannot be run from here; the entry says why",
}
_DONE = ".done"  # in an entry's folder once its command went through
_PLACES = ("data", "work", "out", "root")
_ENTRY = {
    "id",
    "kind",
    "source",
    "command",
    "reads",
    "after",
    "modules",
    "quick",
    "why",
    "tolerance",
    "factor",
    "figures",
}
_FIGURE = {"at", "per", "value", "times", "tolerance", "factor", "cell", "text"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        value: as the README has it.
        at: the way to it in the JSON that is read: keys, places in lists, or for a list the fields of the item wanted.
        per: the way to what it is divided by.
        times: what it is multiplied by then.
        tolerance: how far off it may be.
        factor: or by which factor, where ``tolerance`` is None.
        cell: row and column of the README's table that has it.
        text: or the words of the README that have it.
    """

    value: float
    at: tuple[Any, ...] = ()
    per: tuple[Any, ...] = ()
    times: float = 1.0
    tolerance: float | None = None
    factor: float | None = None
    cell: tuple[str, str] | None = None
    text: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(self.cell) if self.cell else self.text or " / ".join(map(str, self.at))

    def holds(self, found: float) -> bool:
        """Whether a value is the expected one, within what is allowed."""
        if not math.isfinite(found):
            return False
        if self.tolerance is not None:
            return abs(found - self.value) <= self.tolerance * (1 + 1e-9)
        assert self.factor is not None
        return self.value / self.factor <= found <= self.value * self.factor


@dataclass(frozen=True, slots=True)
class Entry:
    """A command and the figures that come of it.

    Args:
        id: its name.
        kind: ``quality``, ``speed`` or ``past``.
        source: where the figures are quoted.
        command: a command line with ``{data}`` (collections), ``{work}`` (all that is made here), ``{out}`` (a folder
            for this entry) and ``{root}`` (the package); "" if what is read is there already, or for ``past``.
        reads: the JSON file it writes; "" for its standard output.
        after: an entry whose files this one uses.
        modules: what must be installed.
        quick: takes a minute at most.
        why: of ``past``: why it is not run.
        figures: what is expected.
        measured: of every collection that was measured, XXH3-128 by file, see `sightline.eval.provenance`.
    """

    id: str
    kind: str
    source: str
    command: str
    reads: str
    after: str
    modules: tuple[str, ...]
    quick: bool
    why: str
    figures: tuple[Figure, ...]
    measured: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def needs_data(self) -> bool:
        """Whether it needs the judged collections."""
        return "{data}" in self.command


@dataclass(frozen=True, slots=True)
class Check:
    """What came of an entry.

    Args:
        entry: the entry.
        found: for each figure the value found.
        seconds: wall time.
        error: what went wrong, if the figures could not be had.
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
            and all(figure.holds(found) for figure, found in zip(self.entry.figures, self.found, strict=True))
        )


def load_expected(path: str | Path = EXPECTED) -> list[Entry]:
    """Read and check a file of expected figures.

    Raises:
        DataError: naming the entry and the field that is wrong.

    Example:
        >>> {entry.kind for entry in load_expected()} == {"quality", "speed", "past"}
        True
    """
    path = Path(path)
    body = read_yaml(path)
    if not isinstance(body, dict) or body.get("version") != 1 or not isinstance(body.get("entries"), list):
        raise DataError("must have version: 1, and entries, a list", path=path)
    measured = _measured(body, path)
    entries: dict[str, Entry] = {}
    for number, record in enumerate(body["entries"], start=1):
        name = record.get("id") if isinstance(record, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise DataError(f"entry {number} has no id of letters, digits and hyphens: {name!r}", path=path)
        try:
            if name in entries:
                raise DataError("the id is there for the second time")
            entries[name] = replace(_entry(record), measured=measured)
            if entries[name].after and entries[name].after not in entries:
                raise DataError(f"after {entries[name].after!r}: no entry before it has this id")
        except DataError as error:
            raise DataError(f"entry {name!r}: {error.reason}", path=path) from None
    return list(entries.values())


def _measured(body: Mapping[str, Any], path: Path) -> Mapping[str, Mapping[str, str]]:
    """The hashes of the measured collections."""
    found = body.get("collections", {})
    right = isinstance(found, dict) and all(
        isinstance(files, dict) and all(isinstance(hash, str) for hash in files.values()) for files in found.values()
    )
    if not right:
        raise DataError("collections must give, by name, a hash for each file", path=path)
    return found


def _entry(record: Mapping[str, Any]) -> Entry:
    if unknown := record.keys() - _ENTRY:
        raise DataError(f"unknown field {min(map(str, unknown))!r}; there are {', '.join(sorted(_ENTRY))}")
    texts = {name: record.get(name, "") for name in ("kind", "source", "command", "reads", "after", "why")}
    texts["kind"] = texts["kind"] or "quality"
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise DataError(f"{wrong[0]} must be a text")
    if texts["kind"] not in _KINDS:
        raise DataError(f"kind {texts['kind']!r} is none of {', '.join(_KINDS)}")
    if not texts["source"]:
        raise DataError("source is missing: where are the figures quoted?")
    if (texts["kind"] == "past") != bool(texts["why"]):
        raise DataError("kind past needs a why, and no other has one")
    if texts["kind"] != "past" and not texts["command"] and not texts["reads"]:
        raise DataError("neither command nor reads: there is nothing to run and nothing to read")
    for name in ("command", "reads"):
        if unknown := set(re.findall(r"\{(\w*)\}", texts[name])) - set(_PLACES):
            raise DataError(f"{name} has {{{min(unknown)}}}; there are {', '.join(f'{{{p}}}' for p in _PLACES)}")
    if texts["command"] and texts["command"].split()[0] not in ("sightline", "python"):
        raise DataError("command must begin with sightline or python")
    modules, quick, figures = record.get("modules", []), record.get("quick", False), record.get("figures", [])
    if not isinstance(modules, list) or not isinstance(quick, bool) or not isinstance(figures, list):
        raise DataError("modules and figures must be lists, and quick true or false")
    allowed = {name: record[name] for name in ("tolerance", "factor") if name in record}
    return Entry(
        id=record["id"],
        modules=tuple(map(str, modules)),
        quick=quick,
        figures=tuple(_figure(f, n, allowed, past=texts["kind"] == "past") for n, f in enumerate(figures, start=1)),
        **texts,
    )


def _figure(record: Any, number: int, allowed: Mapping[str, Any], past: bool) -> Figure:
    where = f"figure {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: must be a mapping")
    if unknown := record.keys() - _FIGURE:
        raise DataError(f"{where}: unknown field {min(map(str, unknown))!r}; there are {', '.join(sorted(_FIGURE))}")
    record = {**({} if record.keys() & {"tolerance", "factor"} else allowed), **record}
    for name in ("value", "times", "tolerance", "factor"):
        value = record.get(name)
        if name in record and (
            not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value)
        ):
            raise DataError(f"{where}: {name} must be a number, not {value!r}")
    if "value" not in record:
        raise DataError(f"{where}: value is missing")
    if not past:
        if not isinstance(record.get("at"), list) or not record["at"]:
            raise DataError(f"{where}: at must be a list, the way to the value in the JSON")
        if ("tolerance" in record) == ("factor" in record):
            raise DataError(f"{where}: needs a tolerance or a factor, here or for the whole entry, and not both")
        if record.get("tolerance", 0) < 0 or record.get("factor", 1) < 1:
            raise DataError(f"{where}: a tolerance is at least 0, a factor at least 1")
    cell = record.get("cell")
    if cell is not None and not (isinstance(cell, list) and len(cell) == 2 and all(isinstance(x, str) for x in cell)):
        raise DataError(f"{where}: cell must be [row, column], both texts")
    ways = {name: tuple(record.get(name, ())) for name in ("at", "per")}
    return Figure(**{**record, **ways, "cell": None if cell is None else (cell[0], cell[1])})


def select(entries: Sequence[Entry], ids: Sequence[str] = (), *, quick: bool = False) -> list[Entry]:
    """The entries to run: those named, or else all of kind ``quality``; with ``quick``, of these the quick ones.

    Raises:
        InputError: if no entry has one of the ids.
    """
    known = {entry.id: entry for entry in entries}
    if unknown := [id for id in ids if id not in known]:
        raise InputError(f"no entry is called {unknown[0]!r}; there are {', '.join(known)}")
    chosen = [known[id] for id in dict.fromkeys(ids)] if ids else [e for e in entries if e.kind == "quality"]
    return [entry for entry in chosen if entry.quick or not quick]


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
        For each entry, as it is done, what came of it.
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
            for one in (before, entry):
                if one is not None and data is not None:
                    _check_data(one, Path(data))
            if before is not None:
                _run(before, work, places)
            value = _run(entry, work, places)
            found = tuple(_look_up(value, figure) for figure in entry.figures)
        except DataError as error:
            yield Check(entry, seconds=time.perf_counter() - started, error=str(error))
            continue
        yield Check(entry, found, time.perf_counter() - started)


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
    if "matrix" in arguments:
        options = {name: value for name, value in pairwise(arguments) if name in ("--plan", "--only")}
        plan = options.get("--plan", str(MATRIX)).format(root=_ROOT)
        only = options.get("--only", "").split(",")
        names |= {one.folder.name for one in load_matrix(data, plan, only=[name for name in only if name])}
    for name in sorted(names):
        if not (data / name).is_dir():
            raise DataError("no such folder; the figures were measured on this collection", path=data / name)
        for file, hash in entry.measured.get(name, {}).items():
            path = data / name / file
            if not path.is_file() or digest(path) != hash:
                reason = f"your {name} is another one than the figures were measured on: {file} differs or is missing"
                raise DataError(reason, path=data / name)


def _run(entry: Entry, work: Path, places: Mapping[str, str]) -> Any:
    """The JSON that an entry's command wrote or said."""
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
        return read_json(filled["reads"]) if entry.reads else parse_json(said)
    except DataError as error:
        where = filled["reads"] or "standard output"
        raise DataError(f"there is no JSON to read: {error.reason}", path=where) from None


def _look_up(value: Any, figure: Figure) -> float:
    found = _follow(value, figure.at)
    return (found / _follow(value, figure.per) if figure.per else found) * figure.times


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
