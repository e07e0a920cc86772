"""The title and the text of an HTML page, in time linear in its size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...extras import importing

__all__ = ["parse_html", "row_blocks"]

_BLOCKS = frozenset(
    "address article aside blockquote body caption dd details div dl dt fieldset figcaption figure footer form h1 h2 h3"
    " h4 h5 h6 header hr html legend li main nav ol option p pre section summary table tbody td tfoot th thead tr "
    "ul".split()
)
_HEADINGS = frozenset("h1 h2 h3 h4 h5 h6".split())
_UNREAD = frozenset("script style template noscript title".split())
_VERBATIM = frozenset("pre textarea".split())
_DRAWINGS = frozenset("svg math".split())
_DRAWING_NOTES = frozenset("desc metadata symbol defs".split())
_LONGEST_CELL = 1000  # characters


def parse_html(markup: str, path: Path) -> tuple[str, str]:
    """Title and text of a page; a blank line between its blocks, as between paragraphs of plain text.

    The row of a table is one line, its cells separated by ``|``, unless the table only arranges the page: the row then
    has one cell, a heading, another table, or a cell of more than 1,000 characters. Scripts, styles, templates and
    what is for browsers without scripts are not text. The title is that of the page, never that of a drawing in it, or
    else the first heading ``h1``.
    """
    with importing("lxml", extra="readers"):
        from lxml import etree
    page = _Page()
    # Events instead of a tree: unclosed elements may nest a hundred thousand deep.
    parser = etree.HTMLParser(target=page, encoding="utf-8", huge_tree=True)
    try:
        parser.feed(markup.encode())
        parser.close()
    except etree.LxmlError as error:
        if markup.strip():
            raise DataError(f"not HTML that can be read: {error}", path=path) from error
    page.end_block()
    text = "\n\n".join(page.blocks)
    return page.title or page.heading, re.sub(r"\n{3,}", "\n\n", text)


class _Page:
    """What the parser tells, gathered as blocks of text."""

    def __init__(self) -> None:
        self.title = self.heading = ""
        self.blocks: list[str] = []
        self._line: list[str] = []  # pieces of the block that is being read
        self._row: list[list[str]] | None = None  # the cells of the innermost row, each of blocks
        self._title: list[str] | None = None  # pieces of the title, while it is being read
        self._unread = self._notes = self._drawings = self._verbatim = 0  # elements of each kind that are open

    def start(self, tag: str, attributes: Any) -> None:
        self._count(tag, 1)
        if tag == "title" and not self.title and self._unread == 1 and not self._drawings:
            self._title = []
        elif tag == "br":
            self._line.append("\n" if self._row is None else " ")
        elif tag in _BLOCKS:
            self.end_block()
            if tag in _HEADINGS or tag == "table":
                self._dissolve()
            elif tag == "tr":
                self._end_row()
                self._row = []
            elif tag in {"td", "th"} and self._row is not None:
                self._row.append([])

    def end(self, tag: str) -> None:
        self._count(tag, -1)
        if tag == "title" and self._title is not None:
            self.title, self._title = _one_line("".join(self._title)), None
        elif tag in _BLOCKS:
            if tag == "h1" and not self.heading:
                self.heading = _one_line("".join(self._line))
            self.end_block()
            if tag in {"tr", "table"}:
                self._end_row()

    def data(self, data: str) -> None:
        if self._title is not None:
            self._title.append(data)
        elif not (self._unread or self._notes):
            if not self._verbatim:
                data = re.sub(r"\s+", " ", data)
                if not self._line or self._line[-1][-1:].isspace():
                    data = data.removeprefix(" ")
            if data:
                self._line.append(data)

    def close(self) -> None:
        """Nothing is left to do: the parser has ended every element."""

    def end_block(self) -> None:
        """Make a block of the pieces there are, in the cell of a row if one is open."""
        lines = [line.rstrip() for line in "".join(self._line).split("\n")]
        self._line = []
        if block := "\n".join(lines).strip("\n"):
            (self._row[-1] if self._row else self.blocks).append(block)

    def _count(self, tag: str, by: int) -> None:
        if tag in _UNREAD:
            self._unread += by
        elif tag in _DRAWINGS:
            self._drawings += by
        elif tag in _DRAWING_NOTES and self._drawings:
            self._notes += by
        elif tag in _VERBATIM:
            self._verbatim += by

    def _dissolve(self) -> None:
        """The row arranges the page: what is in it, and what comes, are blocks like others."""
        for cell in self._row or []:
            self.blocks += cell
        self._row = None

    def _end_row(self) -> None:
        if self._row is not None:
            self.blocks += row_blocks(self._row)
            self._row = None


def row_blocks(cells: list[list[str]]) -> list[str]:
    """The row of a table, its cells given as blocks: one line, or the blocks as they are if it only arranges them."""
    lines = [_one_line(" ".join(cell)) for cell in cells]
    if len(cells) < 2 or max(map(len, lines)) > _LONGEST_CELL:
        return [block for cell in cells for block in cell]
    return [" | ".join(lines)] if any(lines) else []


def _one_line(text: str) -> str:
    return " ".join(text.split())
