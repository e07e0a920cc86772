"""Titles, front matter and cells of files of plain text, by their kind."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError
from .json_files import parse
from .values import plain

__all__ = ["front_matter", "heading", "parse_notebook"]

_log = logging.getLogger(__name__)

_MAX_FRONT_MATTER = 1 << 16  # characters
_FENCES = {"---": ("---", "..."), "+++": ("+++",)}
_TITLES = {
    ".rst": re.compile(r"^(?!\.\.)(\S.*)\n([=\-~^\"'`#*+.:_])\2{2,}[ \t]*$", re.MULTILINE),
    ".org": re.compile(r"^(?:#\+title:|\*+)[ \t]+(.+)$", re.MULTILINE | re.IGNORECASE),
    ".adoc": re.compile(r"^=[ \t]+(.+)$", re.MULTILINE),
    ".asciidoc": re.compile(r"^=[ \t]+(.+)$", re.MULTILINE),
    ".tex": re.compile(r"\\title[ \t]*\{([^{}]+)\}"),
}


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can stand for far more than is written."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are refused")
        return super().compose_node(parent, index)


def front_matter(text: str, path: Path) -> tuple[dict[str, Any], str]:
    """The fields that a text begins with, and the text without them: YAML between ``---``, TOML between ``+++``.

    What cannot be used (a syntax error, aliases, more than 64 Ki characters, a value that JSON cannot hold) stays in
    the text, and a warning says so.
    """
    opened, _, rest = text.lstrip("\ufeff").partition("\n")
    fence = opened.rstrip()
    if fence not in _FENCES:
        return {}, text
    within, end = [], 0
    for line in rest[:_MAX_FRONT_MATTER].splitlines(keepends=True):
        end += len(line)
        if line.rstrip() in _FENCES[fence]:
            break
        within.append(line)
    else:
        if fence == "+++" or re.match(r"[\w-]+:", rest):
            _log.warning("%s: front matter has no end in the first 64 Ki characters; it stays in the text", path)
        return {}, text
    try:
        fields = tomllib.loads("".join(within)) if fence == "+++" else yaml.load("".join(within), _Loader)
        if fields is None or isinstance(fields, str):  # two rules across the page, and what is between them
            return {}, rest[end:] if fields is None else text
        if not isinstance(fields, dict):
            raise DataError("it is not made of fields")
        return plain({str(name): value for name, value in fields.items()}, "metadata"), rest[end:]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        _log.warning("%s: front matter that cannot be used stays in the text: %s", path, " ".join(str(error).split()))
        return {}, text


def heading(text: str, suffix: str) -> str:
    """The first heading of a text of the kind that ``suffix`` says, ``""`` if it has none."""
    if suffix in _TITLES:
        match = _TITLES[suffix].search(text)
        return match[1].strip() if match else ""
    return _markdown_heading(text)


def _markdown_heading(text: str) -> str:
    fenced, before = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            if match := re.match(r" {0,3}#{1,6}[ \t]+(.*)", line):
                return re.sub(r"(^|[ \t])#+$", "", match[1].strip()).strip()
            if before and re.fullmatch(r"=+[ \t]*", line):
                return before
            before = line.strip()
    return ""


def parse_notebook(text: str, path: Path) -> tuple[str, str]:
    """Title and text of a Jupyter notebook: its cells of Markdown and code, without what the code printed.

    Raises:
        DataError: if it is no notebook.
    """
    book = parse(text, path, None)
    sheets = book.get("worksheets", [book]) if isinstance(book, dict) else []
    cells = [cell for sheet in sheets for cell in sheet["cells"]] if _are_sheets(sheets) else None
    if not cells and cells != []:
        raise DataError("not a notebook: it has no list of cells", path=path)
    sources, title = [], ""
    for cell in cells:
        source = cell.get("source", cell.get("input", "")) if isinstance(cell, dict) else ""
        source = "".join(map(str, source)) if isinstance(source, list) else str(source)
        if source.strip():
            sources.append(source.strip("\n"))
            if not title and cell.get("cell_type") in {"markdown", "heading"}:
                title = _markdown_heading(source)
    return title, "\n\n".join(sources)


def _are_sheets(sheets: Any) -> bool:
    return (
        isinstance(sheets, list)
        and bool(sheets)
        and all(isinstance(sheet, dict) and isinstance(sheet.get("cells"), list) for sheet in sheets)
    )
