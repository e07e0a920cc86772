"""The figures that the README quotes: what ``recipes/expected.yaml`` says about each, checked as it is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import DataError, InputError
from ..parsing import as_type, load_yaml

__all__ = ["EXPECTED", "Entry", "Figure", "load_expected", "select"]

EXPECTED = Path(__file__).with_name("expected.yaml")
"""The file of the figures that the README quotes."""

_PLACES = ("data", "work", "out", "root")
_CHECKED = {"extra": "forbid", "allow_inf_nan": False}  # for pydantic


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        value: the value that the README quotes.
        at: the way to it in the JSON that is read: keys, places in lists, or fields that pick an item of a list.
        per: the way to the number that it is divided by.
        times: the number that it is multiplied by after that.
        tolerance: how far off it may be. Without this and ``factor``, those of the entry hold.
        factor: the factor by which it may be off, where ``tolerance`` is None.
        cell: row and column of the README's table that quotes it.
        text: the words of the README that quote it, where no table does.

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
    text: str | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and self.factor is not None:
            raise DataError(f"the figure {self.name!r} may have a tolerance or a factor, not both")
        if (self.tolerance or 0) < 0 or (self.factor or 1) < 1:
            raise DataError(f"the figure {self.name!r}: a tolerance is at least 0, a factor at least 1")

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return ", ".join(self.cell) if self.cell else self.text or " / ".join(map(str, self.at))

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
        source: where the figures are quoted.
        kind: ``quality`` (the same on every machine, up to rounding), ``speed`` (of the machine that measured it; run
            only by name) or ``past`` (cannot be run from here).
        command: a command line with ``{data}`` (collections), ``{work}`` (all that is made here), ``{out}`` (a folder
            for this entry) and ``{root}`` (the package); "" if what is read is there already, or for ``past``.
        reads: the JSON file it writes; "" for its standard output.
        after: the id of an earlier entry whose files this one uses.
        modules: what must be installed.
        quick: whether it takes a minute at most.
        why: why an entry of kind ``past`` is not run.
        tolerance: how far off the figures may be that do not say so themselves.
        factor: the factor by which they may be off, where ``tolerance`` is None.
        figures: what is expected.
        measured: the XXH3-128 digests of the files that were measured on, by collection and file name; by default the
            ``collections`` of ``expected.yaml``.

    Raises:
        DataError: if the fields do not go together.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    id: str
    source: str
    kind: Literal["quality", "speed", "past"] = "quality"
    command: str = ""
    reads: str = ""
    after: str = ""
    modules: tuple[str, ...] = ()
    quick: bool = False
    why: str = ""
    tolerance: float | None = None
    factor: float | None = None
    figures: tuple[Figure, ...] = ()
    measured: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source:
            raise DataError("source is empty; say where the figures are quoted")
        if (self.kind == "past") != bool(self.why):
            raise DataError("kind past needs a why, and no other kind has one")
        if self.kind != "past":
            self._check_command()
            self._check_figures()

    @property
    def needs_data(self) -> bool:
        """Whether it needs the judged collections."""
        return "{data}" in self.command

    def _check_command(self) -> None:
        if not self.command and not self.reads:
            raise DataError("there is neither command nor reads: nothing to run and nothing to read")
        for name, text in (("command", self.command), ("reads", self.reads)):
            if unknown := set(re.findall(r"\{(\w*)\}", text)) - set(_PLACES):
                raise DataError(f"{name} has {{{min(unknown)}}}; there are {', '.join(f'{{{p}}}' for p in _PLACES)}")
        if self.command and self.command.split()[0] not in ("sightline", "python"):
            raise DataError("command must begin with sightline or python")

    def _check_figures(self) -> None:
        for figure in self.figures:
            if not figure.at:
                raise DataError(f"the figure {figure.name!r} needs at, the way to its value in the JSON")
            if (self.tolerance, self.factor, figure.tolerance, figure.factor) == (None,) * 4:
                raise DataError(f"the figure {figure.name!r} needs a tolerance or a factor, its own or the entry's")


@dataclass(frozen=True, slots=True)
class _File:
    """What ``expected.yaml`` holds, its entries not yet checked."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    version: Literal[1]
    entries: tuple[dict[str, Any], ...]
    collections: dict[str, dict[str, str]] = field(default_factory=dict)


def load_expected(path: str | Path = EXPECTED) -> list[Entry]:
    """Load a file of expected figures.

    Args:
        path: a YAML file; its fields are ``version`` (1), ``collections`` (see `Entry.measured`) and ``entries``.

    Raises:
        DataError: naming the entry and the field that is wrong.

    Example:
        >>> {entry.kind for entry in load_expected()} == {"quality", "speed", "past"}
        True
    """
    path = Path(path)
    body = load_yaml(path)
    try:
        file = as_type(body, _File)
    except DataError as error:
        raise DataError(error.reason, path=path) from None
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
        except DataError as error:
            raise DataError(f"entry {name!r}: {error.reason}", path=path) from None
    return list(entries.values())


def _complete(entry: Entry, measured: Mapping[str, Mapping[str, str]]) -> Entry:
    """An entry whose figures have the entry's tolerance or factor where they have none of their own."""
    figures = tuple(
        replace(figure, tolerance=entry.tolerance, factor=entry.factor)
        if figure.tolerance is None and figure.factor is None
        else figure
        for figure in entry.figures
    )
    return replace(entry, figures=figures, measured=entry.measured or measured)


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
