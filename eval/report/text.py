"""Texts and numbers as reports show them."""

from __future__ import annotations

import re
from typing import Any

from ..biases import Psi
from ..significance import Interval

__all__ = ["cell", "figure", "in_bytes", "p_value", "short", "showable", "si", "signed"]

# What no page or table can show: controls but tab and line feed, overrides of the writing direction, half surrogates.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def showable(text: str) -> str:
    r"""A text with every character that cannot be shown replaced.

    Example:
        >>> showable("a\x00b\u202ec")
        'a�b�c'
    """
    return _UNSHOWN.sub("\ufffd", text)


def figure(value: float | None, digits: int = 4) -> str:
    """A number as tables of this field have it: no zero before the point."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, unless it is 0."""
    value = round(value, digits) or 0.0  # nothing is not less than nothing
    text = f"{value:+.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.{digits}f}"
    return text.replace("-", "−") if value else text[1:]


def p_value(value: float) -> str:
    """A p-value with three digits."""
    return "< .001" if value < 0.001 else figure(value, 3)


def si(value: float | None, digits: int = 3) -> str:
    """A number with a unit's prefix: 12.3 G."""
    if value is None:
        return "–"
    for size, prefix in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {prefix}"
    return f"{value:.{digits}g} "


def in_bytes(value: float | None) -> str:
    """A number of bytes with a unit's prefix."""
    return "–" if value is None else f"{si(value)}B"


def short(value: Any) -> str:
    """A number with two digits."""
    return f"{value:.2g}" if isinstance(value, int | float) else cell(value)


def cell(value: Any) -> str:
    """What a table of unknown columns shows: intervals as value (low to high), numbers short, the rest as text."""
    match value:
        case Interval(mean=middle, low=low, high=high) | Psi(value=middle, low=low, high=high):
            return _between(middle, low, high)
        case {"low": low, "high": high}:
            return _between(value.get("mean", value.get("value")), low, high)
        case dict():
            return ", ".join(f"{name} {cell(item)}" for name, item in value.items())
        case list():
            return ", ".join(map(cell, value))
        case float() if 0.9995 <= value < 1:
            return figure(value, 6)  # not one
        case float():
            return figure(value, 3) if not value or abs(value) >= 0.0005 else f"{value:.1g}"
    return "–" if value is None else str(value)


def _between(middle: Any, low: Any, high: Any) -> str:
    return f"{cell(middle)} ({cell(low)} to {cell(high)})"
