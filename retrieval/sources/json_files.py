"""JSON Lines, and JSON files that hold one array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...parsing import DEEPEST, too_deep
from .lines import decode, numbered_lines, whole_text
from .options import Reading, Records

__all__ = ["parse", "parse_json_file", "parse_json_lines"]

_MAX_ARRAY = 256 << 20


def parse(text: str, path: Path, line: int | None) -> Any:
    """A JSON value, held to the standard except for NaN, which is a missing value.

    Raises:
        DataError: if it is not JSON.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
        # How deep Python's parser goes differs by version.
        if text.count("[") + text.count("{") > DEEPEST and too_deep(value):
            raise DataError(f"not JSON that can be read: nested more than {DEEPEST} deep")
        return value
    except DataError as error:
        raise DataError(error.reason, path=path, line=line) from None
    except json.JSONDecodeError as error:
        row = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(f"not JSON: {error.msg} at {row}column {error.colno}", path=path, line=line) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON that can be read: {error}", path=path, line=line) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise DataError("not JSON that can be read: an object has the same field twice")
    return record


def _constant(constant: str) -> Any:
    if constant == "NaN":
        return None
    raise DataError(f"not JSON: {constant}")


def parse_json_lines(path: Path, reading: Reading) -> Records:
    """A value per line; blank lines are skipped."""
    for line, raw in numbered_lines(path, reading):
        if not raw.strip():
            continue
        try:
            yield path, line, parse(decode(raw, path, line), path, line)
        except DataError as error:
            reading.report(error)


def parse_json_file(path: Path, reading: Reading) -> Records:
    """An array's values, numbered from 1; or else JSON Lines, which often has this suffix too."""
    first = next((raw for _, raw in numbered_lines(path, reading) if raw.strip()), b"")
    if not first.lstrip().startswith(b"["):
        yield from parse_json_lines(path, reading)
        return
    records = parse(whole_text(path, reading.encoding, _MAX_ARRAY), path, None)
    for number, record in enumerate(records, 1):
        yield path, number, record
