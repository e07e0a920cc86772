"""The figures that the documentation shows: what ``recipes/expected.yaml`` says about each, checked as it is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import DataError, InputError
from ..parsing import as_type, load_yaml

__all__ = ["EXPECTED", "Entry", "Figure", "Number", "Table", "load_expected", "load_figures", "select"]

EXPECTED = Path(__file__).with_name("expected.yaml")
"""The file of the figures that the documentation shows."""

_PLACES = ("data", "work", "out", "root")
_CHECKED = {"extra": "forbid", "allow_inf_nan": False}  # for pydantic


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        value: the value that the documentation shows.
        at: the way to it in the JSON that is read: keys, places in lists, or fields that pick an item of a list.
        per: the way to the number that it is divided by.
        times: the number that it is multiplied by after that.
        tolerance: how far off it may be. Without this and ``factor``, those of the entry hold.
        factor: the factor by which it may be off, where ``tolerance`` is None.
        cell: row and column of the table that shows it.
        table: the id of this table. Without it, the entry's table is meant.
        name: what a page calls it by, as ENTRY/NAME, to show it in a sentence.
        style: a format specification such as ``.3f``, for a number that is not written as the table says.

    Raises:
        DataError: if the fields do not go together.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    value: float
    at: tuple[str | int | dict[str, Any], ...] = ()
    per: tuple[str | int | dict[str, Any], ...] = ()
    times: float = 1.0
    tolerance: float | None = None
    factor: float | None = None
    cell: tuple[str, str] | None = None
    table: str = ""
    name: str = ""
    style: str = ""

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.factor is not None:
            raise DataError(f"the figure {self.label!r} may have a tolerance or a factor, not both")
        if (self.tolerance or 0) < 0 or (self.factor or 1) < 1:
            raise DataError(f"the figure {self.label!r}: a tolerance is at least 0, a factor at least 1")

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return ", ".join(self.cell) if self.cell else self.name or " / ".join(map(str, self.at))

    def holds(self, measured: float) -> bool:
        """Whether a value is the expected one, within what is allowed."""
        if not math.isfinite(measured):
            return False
        if self.tolerance is not None:
            return abs(measured - self.value) <= self.tolerance * (1 + 1e-9)
        assert self.factor is not None
        return self.value / self.factor <= measured <= self.value * self.factor


@dataclass(frozen=True, slots=True)
class Entry:
    """A command and the figures that it gives.

    Args:
        id: its name.
        kind: ``quality`` (the same on every machine, up to rounding), ``speed`` (of the machine that measured it; run
            only by name) or ``past`` (cannot be run from here).
        command: a command line with ``{data}`` (collections), ``{work}`` (all that is made here), ``{out}`` (a folder
            for this entry) and ``{root}`` (the package); "" if what is read is there already. For ``past``, the one
            that a page shows, if any.
        reads: the JSON file it writes; "" for its standard output.
        after: the id of an earlier entry whose files this one uses.
        modules: what must be installed.
        quick: whether it takes a minute at most.
        why: why an entry of kind ``past`` is not run.
        tolerance: how far off the figures may be that do not say so themselves.
        factor: the factor by which they may be off, where ``tolerance`` is None.
        table: the id of the table that shows those figures that have a cell and name no table themselves.
        figures: what is expected.
        measured: the XXH3-128 digests of the files that were measured on, by collection and file name; by default the
            ``collections`` of ``expected.yaml``.

    Raises:
        DataError: if the fields do not go together.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    id: str
    kind: Literal["quality", "speed", "past"] = "quality"
    command: str = ""
    reads: str = ""
    after: str = ""
    modules: tuple[str, ...] = ()
    quick: bool = False
    why: str = ""
    tolerance: float | None = None
    factor: float | None = None
    table: str = ""
    figures: tuple[Figure, ...] = ()
    measured: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.kind == "past") != bool(self.why):
            raise DataError("kind past needs a why, and no other kind has one")
        self._check_command()
        self._check_figures()

    @property
    def needs_data(self) -> bool:
        """Whether it needs the judged collections."""
        return "{data}" in self.command

    def _check_command(self) -> None:
        if self.kind != "past" and not self.command and not self.reads:
            raise DataError("there is neither command nor reads: nothing to run and nothing to read")
        for name, text in (("command", self.command), ("reads", self.reads)):
            if unknown := set(re.findall(r"\{(\w*)\}", text)) - set(_PLACES):
                raise DataError(f"{name} has {{{min(unknown)}}}; there are {', '.join(f'{{{p}}}' for p in _PLACES)}")
        if self.command and self.command.split()[0] not in ("sightline", "python"):
            raise DataError("command must begin with sightline or python")

    def _check_figures(self) -> None:
        names = [figure.name for figure in self.figures if figure.name]
        if len(set(names)) < len(names):
            raise DataError(f"two figures have the name {max(names, key=names.count)!r}")
        for figure in self.figures:
            if self.kind == "past":
                continue
            if not figure.at:
                raise DataError(f"the figure {figure.label!r} needs at, the way to its value in the JSON")
            if (self.tolerance, self.factor, figure.tolerance, figure.factor) == (None,) * 4:
                raise DataError(f"the figure {figure.label!r} needs a tolerance or a factor, its own or the entry's")


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is made of figures.

    Args:
        columns: the names of its columns, from left to right, without that of the rows' names.
        rows: the names of its rows, from top to bottom.
        corner: what stands above the rows' names.
        format: how a cell shows its figures, in the order of their entry: a replacement field for each, such as
            ``{:.3f} ({:.3f} to {:.3f})``. `Number` says what the specifications mean.
        formats: the format of a row or a column that differs.
        words: the text of the cells that show no figure, by column and row; "" for an empty cell.
        bold_largest: whether the largest figure of each column is set in bold.
        also: the id of a table whose figures fill the cells that have none of their own.

    Raises:
        DataError: if a name is there twice, or a field speaks of a row or column that is not there.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    corner: str = ""
    format: str = "{}"
    formats: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    bold_largest: bool = False
    also: str = ""

    def __post_init__(self) -> None:
        for names in (self.columns, self.rows):
            if len(set(names)) < len(names):
                raise DataError(f"it has {max(names, key=names.count)!r} twice")
        worded = {row for column in self.words.values() for row in column}
        unknown = (set(self.formats) - {*self.columns, *self.rows}) | (set(self.words) - set(self.columns))
        if unknown := unknown | (worded - set(self.rows)):
            raise DataError(f"it has neither row nor column {min(unknown)!r}")


class Number(float):
    """A number as the documentation writes it.

    Format specifications are Python's, with two exceptions: one that begins with a point leaves out the zero before the
    decimal point, and an empty one writes as many decimals as the number was given with, and commas between thousands.

    Example:
        >>> f"{Number(0.7439):.3f}, {Number(0.68):0.2f}, {Number(6082)}, {Number(0.000001)}"
        '.744, 0.68, 6,082, 0.000001'
    """

    def __format__(self, spec: str) -> str:
        if not spec:
            whole, _, decimals = f"{float(self):,.12f}".partition(".")
            decimals = decimals.rstrip("0")
            return f"{whole}.{decimals}" if decimals else whole
        text = format(float(self), spec)
        return re.sub(r"^(-?)0\.", r"\1.", text) if spec.startswith(".") else text


@dataclass(frozen=True, slots=True)
class _File:
    """What ``expected.yaml`` holds, its entries and tables not yet checked."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    version: Literal[1]
    entries: tuple[dict[str, Any], ...]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    collections: dict[str, dict[str, str]] = field(default_factory=dict)


def load_expected(path: str | Path = EXPECTED) -> list[Entry]:
    """Load the entries of a file of expected figures; see `load_figures`.

    Raises:
        DataError: naming the entry and the field that is wrong.

    Example:
        >>> {entry.kind for entry in load_expected()} == {"quality", "speed", "past"}
        True
    """
    return load_figures(path)[0]


def load_figures(path: str | Path = EXPECTED) -> tuple[list[Entry], dict[str, Table]]:
    """Load a file of expected figures, and the tables that show them.

    Args:
        path: a YAML file; its fields are ``version`` (1), ``collections`` (see `Entry.measured`), ``tables`` (by id)
            and ``entries``.

    Returns:
        The entries, in their order, and the tables by id.

    Raises:
        DataError: naming the entry or table and the field that is wrong.

    Example:
        >>> entries, tables = load_figures()
        >>> tables["quality"].columns[:2]
        ('SciFact', 'NFCorpus')
    """
    path = Path(path)
    body = load_yaml(path)
    try:
        file = as_type(body, _File)
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    tables: dict[str, Table] = {}
    for id, record in file.tables.items():
        try:
            tables[id] = as_type(record, Table)
            if tables[id].also and tables[id].also not in file.tables:
                raise DataError(f"also: there is no table {tables[id].also!r}")
        except DataError as error:
            raise DataError(f"table {id!r}: {error.reason}", path=path) from None
    entries: dict[str, Entry] = {}
    for number, record in enumerate(file.entries, start=1):
        name = record.get("id")
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise DataError(f"entry {number} has no id of letters, digits and hyphens: {name!r}", path=path)
        try:
            if name in entries:
                raise DataError("an earlier entry has the same id")
            entries[name] = _complete(as_type(record, Entry), file.collections)
            if entries[name].after and entries[name].after not in entries:
                raise DataError(f"after {entries[name].after!r}: no entry before it has this id")
            for figure in entries[name].figures:
                _check_place(figure, tables)
        except DataError as error:
            raise DataError(f"entry {name!r}: {error.reason}", path=path) from None
    return list(entries.values()), tables


def _check_place(figure: Figure, tables: Mapping[str, Table]) -> None:
    if figure.cell is None:
        return
    if figure.table not in tables:
        raise DataError(f"the figure {figure.label!r} has a cell, but there is no table {figure.table!r}")
    row, column = figure.cell
    if row not in tables[figure.table].rows or column not in tables[figure.table].columns:
        raise DataError(f"the table {figure.table!r} has no cell {row!r}, {column!r}")


def _complete(entry: Entry, measured: Mapping[str, Mapping[str, str]]) -> Entry:
    """An entry whose figures have its tolerance, factor and table where they have none of their own."""
    figures = []
    for figure in entry.figures:
        bare = figure.tolerance is None and figure.factor is None
        tolerance, factor = (entry.tolerance, entry.factor) if bare else (figure.tolerance, figure.factor)
        table = (figure.table or entry.table) if figure.cell else ""
        figures.append(replace(figure, tolerance=tolerance, factor=factor, table=table))
    return replace(entry, figures=tuple(figures), measured=entry.measured or measured)


def select(entries: Sequence[Entry], ids: Sequence[str] = (), *, quick: bool = False) -> list[Entry]:
    """The entries to run.

    Args:
        entries: all there are.
        ids: the ids of the entries to run; empty for all of kind ``quality``.
        quick: leave out what takes more than a minute.

    Raises:
        InputError: if no entry has one of the ids.
    """
    known = {entry.id: entry for entry in entries}
    if unknown := [id for id in ids if id not in known]:
        raise InputError(f"no entry is called {unknown[0]!r}; there are {', '.join(known)}")
    chosen = [known[id] for id in dict.fromkeys(ids)] if ids else [e for e in entries if e.kind == "quality"]
    return [entry for entry in chosen if entry.quick or not quick]
