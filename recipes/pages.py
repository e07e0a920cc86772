"""Pages of the documentation that show figures: Markdown in which expressions of Jinja stand for the measured values.

``{{ figure("scifact-tests/gain-over-dense") }}`` is a figure by its entry and name, ``{{ table("quality") }}`` a table,
and ``{{ command("scifact") }}`` the command that gives an entry's figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import jinja2

from ..errors import DataError
from .figures import Entry, Figure, Number, Table

__all__ = ["Pages"]

_WIDEST = 80  # characters of a line of a command


class Pages:
    """Renders pages, and remembers what they have shown.

    Args:
        entries: the entries whose figures and commands pages may show.
        tables: the tables that they may show, by id.

    Attributes:
        shown: the ids of the tables and the ENTRY/NAME of the figures shown so far.

    Example:
        >>> from sightline.recipes.figures import load_figures
        >>> pages = Pages(*load_figures())
        >>> pages.render('BM25 reaches {{ figure("scifact-whole/bm25") }}.')
        'BM25 reaches .6870.'
    """

    def __init__(self, entries: Sequence[Entry], tables: dict[str, Table]) -> None:
        self._entries = {entry.id: entry for entry in entries}
        self._tables = tables
        self._cells: dict[tuple[str, str, str], dict[str, tuple[Figure, ...]]] = {}
        for entry in entries:
            for figure in entry.figures:
                if figure.cell is not None:
                    given = self._cells.setdefault((figure.table, *figure.cell), {})
                    given[entry.id] = (*given.get(entry.id, ()), figure)
        self.shown: set[str] = set()
        self._jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        self._jinja.globals.update(figure=self.figure, table=self.table, command=self.command)

    def render(self, markdown: str) -> str:
        """A page with its expressions replaced.

        Raises:
            DataError: if an expression is malformed, or names what is not there.
        """
        try:
            return self._jinja.from_string(markdown).render()
        except jinja2.TemplateError as error:
            raise DataError(f"an expression cannot be evaluated: {error}") from None

    def figure(self, name: str) -> str:
        """A figure, as it is written in a sentence.

        Args:
            name: ENTRY/NAME.

        Raises:
            DataError: if there is no such figure.
        """
        id, _, own = name.partition("/")
        for figure in self._entry(id).figures:
            if own and figure.name == own:
                self.shown.add(name)
                return format(Number(figure.value), figure.style)
        raise DataError(f"no figure is called {name!r}")

    def command(self, id: str) -> str:
        """An entry's command as one types it in a clone, with the collections in ``data``, after what it needs.

        Raises:
            DataError: if there is no such entry, or it has no command.
        """
        entry = self._entry(id)
        commands = [self.command(entry.after)] if entry.after else []
        if entry.command:
            text = entry.command.format(data="data", work="results", out=f"results/{id}", root="ROOT")
            lines = [""]
            for part in re.findall(r"--\S+(?: [^-]\S*)?|\S+", text.replace("ROOT/", "")):  # an option and its value
                if lines[-1] and len(lines[-1]) + len(part) > _WIDEST:
                    lines.append("   ")
                lines[-1] = f"{lines[-1]} {part}" if lines[-1] else part
            commands.append(" \\\n".join(lines))
        if not commands:
            raise DataError(f"the entry {id!r} has no command")
        return "\n".join(commands)

    def table(self, id: str) -> str:
        """A table in Markdown.

        Raises:
            DataError: if there is no such table, or a cell does not have the figures that its format needs.
        """
        table = self._table(id)
        self.shown.add(id)
        lines = [[table.corner, *table.columns], ["---"] * (len(table.columns) + 1)]
        best = {column: self._largest(id, column) for column in table.columns} if table.bold_largest else {}
        for row in table.rows:
            cells = [self._cell(id, row, column, best.get(column)) for column in table.columns]
            lines.append([row, *cells])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def figures(self, id: str, row: str, column: str) -> tuple[Figure, ...]:
        """The figures of a table's cell, of its own or of the table that it takes them from; none for words.

        Raises:
            DataError: if two entries give the cell different values.
        """
        found, *others = self._cells.get((id, row, column), {"": ()}).values()
        for given in others:
            if [figure.value for figure in found] != [figure.value for figure in given]:
                raise DataError(f"entries give the cell {row!r}, {column!r} of {id!r} different values")
        also = self._table(id).also
        if not found and also and row in self._table(also).rows and column in self._table(also).columns:
            return self.figures(also, row, column)
        return found

    def rows(self, id: str) -> tuple[str, ...]:
        """The names of a table's rows.

        Raises:
            DataError: if there is no such table.
        """
        return self._table(id).rows

    def _cell(self, id: str, row: str, column: str, best: float | None) -> str:
        table, figures = self._tables[id], self.figures(id, row, column)
        words = table.words.get(column, {}).get(row)
        if (words is None) == (not figures):
            raise DataError(f"the cell {row!r}, {column!r} of {id!r} needs either figures or words")
        if words is not None:
            return words
        form = table.formats.get(row) or table.formats.get(column) or table.format
        if len(figures) != form.count("{"):
            raise DataError(f"the cell {row!r}, {column!r} of {id!r} has {len(figures)} figures for {form!r}")
        text = form.format(*(_Styled(figure) for figure in figures))
        return f"**{text}**" if figures[0].value == best else text

    def _largest(self, id: str, column: str) -> float | None:
        values = [figures[0].value for row in self._tables[id].rows if (figures := self.figures(id, row, column))]
        return max(values, default=None)

    def _entry(self, id: str) -> Entry:
        if id not in self._entries:
            raise DataError(f"there is no entry {id!r} in the file of figures")
        return self._entries[id]

    def _table(self, id: str) -> Table:
        if id not in self._tables:
            raise DataError(f"there is no table {id!r} in the file of figures")
        return self._tables[id]


class _Styled:
    """A figure in a table, whose own style goes before the table's."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    def __format__(self, spec: str) -> str:
        return format(Number(self._figure.value), self._figure.style or spec)
