"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...extras import importing
from ..compression import open_binary
from .options import Reading, Records
from .tables import check_names

__all__ = ["parse_parquet"]

_ROWS = 256


def parse_parquet(path: Path, reading: Reading) -> Records:
    """Rows, numbered from 1."""
    with importing("pyarrow", extra="readers"):
        import pyarrow
        from pyarrow import parquet
    number = 0
    try:
        with open_binary(path), parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            check_names(path, None, file.schema_arrow.names, reading)
            reading.summary.unit, reading.summary.total = "rows", file.metadata.num_rows
            target = _exact_schema(file.schema_arrow)
            maps = "strict" if _string_keys(file.schema_arrow) else None
            for batch in file.iter_batches(_ROWS):
                for record in _records(pyarrow.Table.from_batches([batch]), target, maps):
                    number += 1
                    if isinstance(record, Exception):
                        reading.report(DataError(f"cannot be read: {record}", path=path, line=number))
                    else:
                        yield path, number, record
                reading.summary.done = number
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a parquet file that can be read: {error}", path=path, line=number + 1) from error


def _records(table: Any, schema: Any, maps: str | None) -> Iterator[dict[str, Any] | Exception]:
    try:
        yield from table.cast(schema, safe=False).to_pylist(maps_as_pydicts=maps)
    except (ValueError, OverflowError, KeyError) as error:
        # Text that is not UTF-8, dates that Python does not have, a map with one key twice: which row is it?
        if table.num_rows == 1:
            yield error
            return
        for row in range(table.num_rows):
            yield from _records(table.slice(row, 1), schema, maps)


def _exact_schema(schema: Any) -> Any:
    """The schema with microseconds for nanoseconds, which Python's own dates do not have."""
    import pyarrow

    for number, field in enumerate(schema):
        kind = field.type
        if getattr(kind, "unit", "") != "ns":
            continue
        if pyarrow.types.is_timestamp(kind):
            schema = schema.set(number, field.with_type(pyarrow.timestamp("us", kind.tz)))
        elif pyarrow.types.is_duration(kind):
            schema = schema.set(number, field.with_type(pyarrow.duration("us")))
        elif pyarrow.types.is_time64(kind):
            schema = schema.set(number, field.with_type(pyarrow.time64("us")))
    return schema


def _string_keys(schema: Any) -> bool:
    """Whether every map has strings as keys, so that it can be an object; others are lists of pairs."""
    import pyarrow

    waiting = [field.type for field in schema]
    while waiting:
        kind = waiting.pop()
        if pyarrow.types.is_map(kind):
            if not (pyarrow.types.is_string(kind.key_type) or pyarrow.types.is_large_string(kind.key_type)):
                return False
            waiting.append(kind.item_type)
        elif pyarrow.types.is_nested(kind):
            waiting += [kind.field(number).type for number in range(kind.num_fields)]
    return True
