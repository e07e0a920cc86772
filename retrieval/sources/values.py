"""Values of any kind as JSON can hold them, by the rules that `load_documents` states."""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np

from ...errors import DataError

__all__ = ["BREAK", "identity", "is_missing", "plain", "plain_text"]

BREAK = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
"""What an id cannot have: where `str.splitlines` breaks, and tabs."""
_AS_STRINGS = (uuid.UUID, PurePath, IPv4Address, IPv6Address)
_MAX_EXACT = 2**53  # whole floats up to here stand for one integer only
_CALENDAR = {"Y", "M", "generic"}  # units of numpy's durations that have no length


def is_missing(value: Any) -> bool:
    """Whether the value says that there is none: None, NaN, NaT of numpy and pandas, pandas' NA, numpy's masked."""
    if value is None or value is np.ma.masked:
        return True
    kind = type(value)
    if kind.__name__ == "NAType" and kind.__module__.partition(".")[0] == "pandas":
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, float | np.floating | datetime | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return False


def identity(value: Any, name: str) -> str:
    """An id as a string.

    Raises:
        DataError: if it is missing, neither a string nor a whole number, or has a line break or a tab.
    """
    if is_missing(value):
        raise DataError(f"field {name!r}, the id, is missing")
    identifier = plain(value, name)
    if isinstance(identifier, float) and identifier.is_integer() and abs(identifier) <= _MAX_EXACT:
        identifier = int(identifier)
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        identifier = str(identifier)
    if not isinstance(identifier, str):
        raise DataError(f"field {name!r}, the id, must be a string or a whole number, not {_shown(value)}")
    if broken := BREAK.search(identifier):
        what = f"a line break or a tab (U+{ord(broken[0]):04X})"
        raise DataError(
            f"field {name!r}, the id {identifier!r}, has {what}, which files of runs and judgements cannot hold"
        )
    return identifier


def plain_text(value: Any, name: str) -> str:
    """A title or a text as a string, ``""`` if it is missing.

    Raises:
        DataError: if it is neither missing nor text.
    """
    if is_missing(value):
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise DataError(f"field {name!r} has bytes that are not UTF-8; decode them") from None
    if not isinstance(value, str):
        raise DataError(f"field {name!r} must be a string, not {_shown(value)}")
    return str(value)


def plain(value: Any, name: str) -> Any:
    """The value as JSON can hold it; ``name`` is the field for the error message.

    Raises:
        DataError: if no rule says how; the message names the type.
    """
    if is_missing(value):
        return None
    if isinstance(value, Enum):
        return plain(value.value, name)
    if isinstance(value, str):
        return _string(str(value), name)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, np.timedelta64 | timedelta):
        return _seconds(value, name)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float | np.floating | Decimal | Fraction):
        return _number(value, name)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, np.datetime64):
        return _numpy_date(value)
    if isinstance(value, _AS_STRINGS):
        return _string(str(value), name)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes(bytes(value), name)
    if isinstance(value, Mapping):
        return _mapping(value, name)
    if isinstance(value, np.ndarray):
        return plain(value[()], name) if value.ndim == 0 else [plain(inner, name) for inner in value]
    if isinstance(value, Set):
        return sorted((plain(inner, name) for inner in value), key=lambda inner: (type(inner).__name__, repr(inner)))
    if isinstance(value, Sequence):
        return [plain(inner, name) for inner in value]
    raise DataError(f"field {name!r} has {_shown(value)}, which is not a JSON value; convert it or leave it out")


def _shown(value: Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    article = "an" if (module or kind.__qualname__)[:1] in "aeiou" else "a"
    return f"{article} {module}{kind.__qualname__}"


def _string(value: str, name: str) -> str:
    if "\0" in value:
        raise DataError(f"field {name!r} has a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"field {name!r} has half of a surrogate pair (U+{ord(value[error.start]):04X})") from None
    return value


def _number(value: Any, name: str) -> int | float:
    if (
        isinstance(value, Decimal)
        and value.is_finite()
        and value.adjusted() < 308
        and value == value.to_integral_value()
    ):
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"field {name!r} has {value}, which is not a JSON value; convert it or leave it out")
    return number


def _seconds(value: timedelta | np.timedelta64, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if np.datetime_data(value.dtype)[0] in _CALENDAR:
        raise DataError(
            f"field {name!r} has a duration in {np.datetime_data(value.dtype)[0]!r}, which is no fixed time"
        )
    return float(value / np.timedelta64(1, "s"))


def _numpy_date(value: np.datetime64) -> str:
    inexact = np.datetime_data(value.dtype)[0] in {"ns", "ps", "fs", "as"}
    coarse = value.astype("datetime64[us]") if inexact else value
    exact = coarse.item() if coarse == value else None
    return exact.isoformat() if isinstance(exact, date) else str(value)


def _bytes(value: bytes, name: str) -> str:
    try:
        return _string(value.decode(), name)
    except (UnicodeDecodeError, DataError):
        return base64.b64encode(value).decode()


def _mapping(value: Mapping[Any, Any], name: str) -> dict[str, Any]:
    converted = {}
    for key, inner in value.items():
        if not isinstance(key, str):
            raise DataError(f"field {name!r} has a key that is not a string: {key!r}")
        item = plain(inner, str(key) if name == "metadata" else name)
        if item is not None:
            converted[_string(str(key), name)] = item
    return converted
