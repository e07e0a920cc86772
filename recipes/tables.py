"""The tables that a practitioner asks for first, measured here, beside the figures that others published.

    python -m sightline.recipes.tables --data data --out tables

``recipes/tables.yaml`` says what each table holds. Other people's figures are marked as theirs and sorted in among
ours, whichever is better. A collection that is not on this machine is left out, and the table says which and why.
Candidates are read anew: on one free core, 300 queries with 30 candidates each take about a quarter of an hour.
``HF_HUB_OFFLINE=1`` skips what is not on this machine without asking the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer
from rich.table import Table as TextTable

from ..cli.console import console, print_line, print_table, progress_bar, visible, write_json
from ..cli.options import JsonOption
from ..cli.running import Command, go_offline_where_the_hub_is_away
from ..errors import DataError, InputError, MissingExtraError
from ..eval.catalogues import in_catalogue
from ..eval.experiment import evaluate_systems
from ..eval.loading import load_dataset
from ..eval.metrics import check_measures
from ..eval.output import make_folder
from ..eval.results import Results
from ..eval.runs import first_stage_run
from ..files import replace_file
from ..names import SystemName
from ..parsing import as_type, load_yaml

__all__ = ["TABLES", "Filled", "Published", "Row", "Table", "app", "fill", "load_tables", "markdown"]

TABLES = Path(__file__).with_name("tables.yaml")
"""The file that says what the tables hold."""

_GIVEN = "given"  # in a system's name: the collection's own run of BM25
_HERE, _OTHERS = "measured here", "published by others"
_CHECKED = {"extra": "forbid", "allow_inf_nan": False}  # for pydantic
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Published:
    """What others published about a system; it is never run here.

    Args:
        system: its name.
        values: the figure by column.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    system: str
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Table:
    """What a table holds.

    Args:
        id: its name on the command line.
        title: its heading.
        about: the protocol, in words.
        measure: the measure, by a name that ir_measures knows.
        collections: by the name of the column, a folder under the data folder, or ``nano:NAME``.
        systems: what is measured here, named as in ``sightline eval``. ``given`` is the run ``bm25.<split>.tsv`` in the
            collection's folder.
        candidates: how many documents a first stage hands on.
        published: figures of others.
        mean: the column of the mean over all collections, which is left empty if one of them cannot be run; "" for
            none.

    Raises:
        DataError: if a field cannot be used.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    id: str
    title: str
    about: str
    measure: str
    collections: dict[str, str]
    systems: tuple[str, ...]
    candidates: int = 100
    published: tuple[Published, ...] = ()
    mean: str = ""

    def __post_init__(self) -> None:
        if not self.collections or not self.systems:
            raise DataError(f"the table {self.id!r} needs collections and systems")
        if self.candidates < 1:
            raise DataError(f"the table {self.id!r}: candidates must be at least 1, not {self.candidates}")
        try:
            check_measures([self.measure])
            for name in self.systems:
                SystemName.parse(name, [_GIVEN])
        except InputError as error:
            raise DataError(f"the table {self.id!r}: {error}") from None
        for other in self.published:
            if unknown := other.values.keys() - set(self.columns):
                raise DataError(
                    f"the table {self.id!r}: {other.system} has a figure for {min(unknown)!r}, which is no column"
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of figures, that of the mean first."""
        return (*filter(None, [self.mean]), *self.collections)


@dataclass(frozen=True, slots=True)
class _File:
    """What ``tables.yaml`` holds."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    version: Literal[1]
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Args:
        system: the system's name.
        values: its figure by column; a column that is not there has none.
        intervals: the 95 % bootstrap interval by column, of what was measured here.
        ours: whether it was measured here; others published it if not.
    """

    system: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Filled:
    """A table with its figures.

    Args:
        table: what it was to hold.
        rows: the lines, best first, by the first column in which a system has a figure.
        queries: the number of queries by collection that was run.
        skipped: by collection that was not run, why.
    """

    table: Table
    rows: tuple[Row, ...]
    queries: Mapping[str, int]
    skipped: Mapping[str, str]


def load_tables(path: str | Path = TABLES, ids: Sequence[str] = ()) -> list[Table]:
    """Load what tables hold.

    Args:
        path: a YAML file with ``version`` (1) and ``tables``, see `Table`.
        ids: the tables to take; empty for all.

    Raises:
        DataError: naming the field that is wrong, or the id that is there twice.
        InputError: if no table has one of the ids.

    Example:
        >>> [table.id for table in load_tables()]
        ['bm25-top-30', 'nanobeir']
    """
    path = Path(path)
    body = load_yaml(path)
    try:
        tables = {table.id: table for table in as_type(body, _File).tables}
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    if len(tables) < len(body["tables"]):
        raise DataError("two tables have one id", path=path)
    if unknown := [id for id in ids if id not in tables]:
        raise InputError(f"no table is called {unknown[0]!r}; there are {', '.join(tables)}")
    return [tables[id] for id in ids or tables]


def fill(
    table: Table,
    out: str | Path,
    *,
    data: str | Path | None = None,
    max_queries: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Filled:
    """Measure a table's systems on every collection that is here.

    Args:
        table: what it holds.
        out: a folder for the results of each collection, see `sightline.eval.evaluate_systems`; indexes in it are used
            again.
        data: the folder of judged collections; without it, collections in folders are skipped.
        max_queries: how many queries to take of each, the first ones; None for all.
        progress: called with the current step and how much of it is done.

    Raises:
        SightlineError: if a system cannot be run; that a collection is not here is no error.
    """
    measured: dict[str, Results] = {}
    skipped: dict[str, str] = {}
    for column, name in table.collections.items():
        try:
            dataset = load_dataset(_place(name, data), max_queries=max_queries)
            runs = {_GIVEN: first_stage_run(dataset)} if any(_is_given(system) for system in table.systems) else {}
        except (DataError, MissingExtraError) as error:
            skipped[column] = str(error)
            continue
        measured[column] = evaluate_systems(
            dataset,
            table.systems,
            make_folder(Path(out) / f"{table.id}-{column}"),
            runs=runs,
            candidates=table.candidates,
            measures=[table.measure],
            progress=progress,
        )
    rows = [*_measured_rows(table, measured), *(Row(o.system, o.values, ours=False) for o in table.published)]
    queries = {column: results.summary.queries for column, results in measured.items()}
    return Filled(table, tuple(sorted(rows, key=lambda row: _place_in(table, row))), queries, skipped)


def _is_given(system: str) -> bool:
    return SystemName.parse(system, [_GIVEN]).first == _GIVEN


def _place(name: str, data: str | Path | None) -> str | Path:
    if in_catalogue(name):
        return name
    if data is None:
        raise DataError("needs the judged collections: --data, or SIGHTLINE_DATA", path=name)
    return Path(data) / name


def _measured_rows(table: Table, measured: Mapping[str, Results]) -> Iterator[Row]:
    for system in table.systems:
        values = {column: results.systems[system][table.measure] for column, results in measured.items()}
        between = {column: results.summary.intervals[system] for column, results in measured.items()}
        if table.mean and len(values) == len(table.collections):
            values[table.mean] = sum(values.values()) / len(values)
        yield Row(
            system,
            values,
            {column: (interval.low, interval.high) for column, interval in between.items()},
        )


def _place_in(table: Table, row: Row) -> tuple[bool, bool, float]:
    """Where a row is sorted: what has figures first, ours before those of others if they share no column."""
    for number, column in enumerate(table.columns):
        if column in row.values:
            return False, number > 0, -row.values[column]
    return True, False, 0.0


def markdown(filled: Iterable[Filled]) -> str:
    """Tables as Markdown, each with its protocol, and with what was skipped and why."""
    parts = []
    for one in filled:
        table = one.table
        header = ["system", "", *table.columns]
        lines = [f"## {table.title}", "", f"{_caption(one)} {table.about}", ""]
        lines += ["| " + " | ".join(header) + " |", "|" + "---|" * 2 + "---:|" * len(table.columns)]
        lines += [f"| {' | '.join(_cells(table, row))} |".replace("  ", " ") for row in one.rows]
        lines += ["", *(f"- {line}" for line in _skipped(one))]
        parts.append("\n".join(lines).rstrip() + "\n")
    return "\n".join(parts)


def _cells(table: Table, row: Row) -> list[str]:
    cells = [visible(row.system), _HERE if row.ours else _OTHERS]
    for column in table.columns:
        text = (
            "" if column not in row.values else f"{row.values[column]:.4f}" if row.ours else f"{row.values[column]:g}"
        )
        if column in row.intervals:
            text += " ({:.3f} to {:.3f})".format(*row.intervals[column])
        cells.append(text)
    return cells


def _caption(one: Filled) -> str:
    run = ", ".join(f"{column} {queries} queries" for column, queries in one.queries.items())
    told = f"{run}; in brackets 95 % intervals" if run else "nothing was run here"
    return f"{one.table.measure}, first {one.table.candidates} candidates; {told}."


def _skipped(one: Filled) -> Iterator[str]:
    columns: dict[str, list[str]] = {}
    for column, why in one.skipped.items():
        columns.setdefault(why.removeprefix(f"{one.table.collections[column]}: "), []).append(column)
    for why, together in columns.items():
        yield f"{', '.join(together)} {'were' if len(together) > 1 else 'was'} skipped: {visible(why)}"
    if one.table.mean and one.skipped:
        yield f"{one.table.mean}: none of ours, because a mean over fewer collections is another figure."


@app.command(cls=Command, epilog="Example: python -m sightline.recipes.tables bm25-top-30 --data data --out tables")
def main(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="Tables; none for all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables.md, results and indexes, which are used again.")] = Path(
        "tables"
    ),
    data: Annotated[Path | None, typer.Option(help="Folder of judged collections.", envvar="SIGHTLINE_DATA")] = None,
    tables: Annotated[Path, typer.Option(help="File that says what they hold, YAML.", show_default=False)] = TABLES,
    max_queries: Annotated[int | None, typer.Option(help="Take the first so many queries of each.", min=1)] = None,
    json: JsonOption = False,
) -> None:
    """Measure the tables that others publish, and print ours and theirs together."""
    chosen = load_tables(tables, ids or [])
    if any(in_catalogue(name) for table in chosen for name in table.collections.values()):
        go_offline_where_the_hub_is_away()
    filled = []
    with progress_bar("measuring") as tell:
        for table in chosen:
            filled.append(fill(table, out, data=data, max_queries=max_queries, progress=tell))
            if not json:
                _show(filled[-1])
    path = make_folder(out) / "tables.md"
    replace_file(path, markdown(filled).encode())
    if json:
        write_json([_as_json(one) for one in filled])
    else:
        print_line(f"written to {path}")


def _show(one: Filled) -> None:
    shown = TextTable("system", "", title=one.table.title, title_justify="left")
    columns = [column for column in one.table.columns if any(column in row.values for row in one.rows)]
    for column in columns:
        shown.add_column(column, justify="right")
    for row in one.rows:
        cells = dict(zip(one.table.columns, _cells(one.table, row)[2:], strict=True))
        style = None if row.ours else "dim"
        shown.add_row(*_cells(one.table, row)[:2], *(cells[column] for column in columns), style=style)
    print_table(shown)
    console.print(f"{_caption(one)} {one.table.about}", markup=False, highlight=False)
    for line in _skipped(one):
        print_line(line)


def _as_json(one: Filled) -> dict[str, Any]:
    return {
        "id": one.table.id,
        "measure": one.table.measure,
        "queries": dict(one.queries),
        "rows": [{"system": row.system, "measured_here": row.ours, "values": dict(row.values)} for row in one.rows],
        "skipped": dict(one.skipped),
    }


if __name__ == "__main__":
    app()
