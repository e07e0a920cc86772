"""CSV and TSV."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...parsing import JSON_NUMBER
from .lines import MAX_BYTES, decode, numbered_lines
from .options import Reading, Records

__all__ = ["check_names", "parse_csv", "parse_tsv"]

_Rows = Iterator[tuple[int, list[str] | DataError]]  # line and cells, or why there are none

_DELIMITERS = ",;\t|"
_LONGEST_NUMBER = 300  # characters
_BOOLEANS = {"true": True, "false": False}
_HEADERLESS = {2: ("id", "text"), 4: ("id", "url", "title", "text")}  # MS MARCO's passages and documents
_ITS_ID = re.compile(r"[0-9]+|D[0-9]+|msmarco_\w+")


def parse_tsv(path: Path, reading: Reading) -> Records:
    """Rows of cells between tabs, without any quoting."""
    return _records(path, partial(_unquoted_rows, path, reading, reading.delimiter or "\t"), reading)


def parse_csv(path: Path, reading: Reading) -> Records:
    """Rows as RFC 4180 says, with the delimiter that the header shows."""
    skipped, delimiter = 0, reading.delimiter
    if delimiter is None:
        first = next((raw for _, raw in numbered_lines(path, reading) if raw.strip()), b"")
        if said := re.fullmatch(rb'"?sep=(.)"?', first.strip(b"\r\n")):  # as Excel writes it
            skipped, delimiter = 1, said[1].decode("latin-1")
        else:
            delimiter = _delimiter(path, reading)
    return _records(path, lambda: islice(_quoted_rows(path, reading, delimiter), skipped, None), reading)


def _delimiter(path: Path, reading: Reading) -> str:
    """The delimiter that finds the fields of id and text in the header, and most fields if several do."""
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        _, cells = next(_quoted_rows(path, reading, delimiter), (1, []))
        if isinstance(cells, DataError) or len(cells) <= most:
            continue
        fits = len(cells) == len(reading.columns) if reading.columns else _names(cells, reading) is not None
        if fits:
            best, most = delimiter, len(cells)
    return best


def _names(first: list[str], reading: Reading) -> tuple[list[str], bool] | None:
    """The columns' names and whether the first row holds them; None if it holds no names that can be used."""
    if reading.columns is not None:
        return list(reading.columns), False
    header = [name.strip() for name in first]
    if reading.fields.fit(header):
        return header, True
    named = _HEADERLESS.get(len(first))
    if named and _ITS_ID.fullmatch(first[0]) and reading.fields.fit(named):
        return list(named), False
    return None


def _records(path: Path, rows: Callable[[], _Rows], reading: Reading) -> Records:
    remaining = rows()
    line, first = next(remaining, (1, DataError("no usable document in it: the file is empty", path=path, line=1)))
    if isinstance(first, DataError):
        raise first
    names, header = _names(first, reading) or ([name.strip() for name in first], True)
    check_names(path, line, names, reading)
    data = remaining if header else chain([(line, first)], remaining)
    types = _types(islice(rows(), int(header), None), names, reading) if reading.csv_types == "json" else {}
    for line, cells in data:
        if isinstance(cells, DataError):
            reading.report(cells)
        elif len(cells) != len(names):
            what = "the header" if header else "the first row" if reading.columns is None else "columns"
            reading.report(DataError(f"the row has {len(cells)} cells, {what} {len(names)}", path=path, line=line))
        else:
            yield path, line, _record(names, cells, types)


def _record(names: list[str], cells: list[str], types: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = dict(zip(names, cells, strict=True))
    for name, type in types.items():
        cell = record[name]
        if not cell.strip():
            record[name] = None
        elif type == "number":
            record[name] = json.loads(cell)
        elif type == "boolean":
            record[name] = _BOOLEANS[cell.lower()]
    return record


def check_names(path: Path, line: int | None, names: Sequence[str], reading: Reading) -> None:
    """Refuse columns of which two have one name, or none is the id or the text.

    Raises:
        DataError: that says which.
    """
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two columns have the name {min(twice)!r}", path=path, line=line)
    try:
        reading.fields.find(names)
    except DataError as error:
        raise DataError(error.reason, path=path, line=line) from None


# ---- Types of columns


def _types(rows: _Rows, names: list[str], reading: Reading) -> dict[str, str]:
    """For each column of metadata: ``number``, ``boolean`` or ``text``, by all of its cells that are not empty."""
    special = reading.fields.find(names)
    types = {name: "" for name in names if name not in special}
    columns = [(number, name) for number, name in enumerate(names) if name in types]
    try:
        for _, cells in rows:
            if isinstance(cells, DataError) or len(cells) != len(names):
                continue
            for number, name in columns:
                if types[name] != "text" and (cell := cells[number]).strip():
                    kind = _kind(cell)
                    types[name] = kind if types[name] in ("", kind) else "text"
            if all(type == "text" for type in types.values()):
                break
    except DataError:
        pass  # is raised again where the rows are used
    return types


def _kind(cell: str) -> str:
    if cell.lower() in _BOOLEANS:
        return "boolean"
    number = len(cell) <= _LONGEST_NUMBER and JSON_NUMBER.fullmatch(cell)
    return "number" if number and math.isfinite(float(cell)) else "text"


# ---- Rows


def _unquoted_rows(path: Path, reading: Reading, delimiter: str) -> _Rows:
    for line, raw in numbered_lines(path, reading):
        if raw.strip(b" \r\n"):
            try:
                yield line, decode(raw, path, line).rstrip("\r\n").split(delimiter)
            except DataError as error:
                yield line, error


def _quoted_rows(path: Path, reading: Reading, delimiter: str) -> _Rows:
    undecoded: list[DataError] = []  # errors of the row that the reader is at
    text = ""

    def decoded() -> Iterator[str]:
        nonlocal text
        for line, raw in numbered_lines(path, reading):
            try:
                text = decode(raw, path, line)
            except DataError as error:
                undecoded.append(error)
                text = raw.decode(errors="replace")  # has the same quotes; its row is not used
            yield text

    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))  # it is one number for the whole process
    reader = csv.reader(decoded(), strict=True, delimiter=delimiter)
    while True:
        line, cells = reader.line_num + 1, None
        undecoded.clear()
        try:
            cells = next(reader, None)
            if cells is None:
                return
        except csv.Error as error:
            bad = DataError(f"not CSV: {error}", path=path, line=line)
            # Behind a quote that is still open, rows cannot be told from the inside of a cell.
            if reader.line_num > line or (text.count('"') % 2 and text.endswith("\n")):
                raise DataError(f"{bad.reason}, and the next row cannot be found", path=path, line=line) from error
            yield line, bad
            continue
        if undecoded:
            yield line, undecoded[0]
        elif cells:
            yield line, cells
