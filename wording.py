"""How messages quote what was given, list what there is, and suggest what was meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

__all__ = ["did_you_mean", "listed", "quoted"]

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_COMPARED = 1000  # names longer than this, or beyond so many, are not compared: difflib is quadratic


def quoted(value: Any) -> str:
    """A value of unknown size for a message: its repr, cut after a line's length.

    Args:
        value: anything; a value whose repr fails is named by its type.

    Returns:
        At most 200 characters.

    Example:
        >>> quoted("a" * 1000)[:10], len(quoted("a" * 1000)), quoted([1, "b"])
        ("'aaaaaaaaa", 80, "[1, 'b']")
    """
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:150]} ... {text[-40:]}"


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for a message, with commas between them, the rest counted.

    Args:
        names: the names to list, in this order.
        most: the highest number of names to list.

    Returns:
        The list, or "none" if it is empty.

    Example:
        >>> listed(["lang", "year"]), listed(["a", "b", "c"], most=2), listed([])
        ('lang, year', 'a, b and 1 more', 'none')
    """
    shown = [name if len(name) <= 80 else quoted(name) for name in names]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more or "none"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known one, or nothing.

    Args:
        name: the name that was given.
        known: the names that exist.

    Returns:
        ``"; did you mean 'year'?"``, or "" if nothing is close.

    Example:
        >>> did_you_mean("yeer", ["lang", "year"]), did_you_mean("colour", ["lang", "year"])
        ("; did you mean 'year'?", '')
    """
    by_folded = {
        candidate.casefold(): candidate for candidate in list(known)[:_COMPARED] if len(candidate) <= _COMPARED
    }
    close = difflib.get_close_matches(name[:_COMPARED].casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[close[0]]!r}?" if close else ""
