"""Metadata filters in Qdrant, with the same meaning as in every index.

Qdrant's own filters differ from Sightline's: they cannot order texts, they do not look into lists within lists, and
numbers that are not 64-bit floats lose digits. So the metadata of a passage is kept twice: as JSON, which is returned,
and as values by field, which filters compare. `payload_of` makes these values, and `translated` makes the conditions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import InputError
from ..wording import quoted
from .filters import Condition, Filter, fields_of, kinds_of, scalars_of

__all__ = ["BIG", "MARKS", "NUMBERS", "TEXTS", "Among", "Between", "FieldsOfStore", "HasVector", "Where"]
__all__ += ["check_filter", "field_key", "payload_of", "translated"]

MARKS, TEXTS, NUMBERS, BIG = "marks", "texts", "numbers", "big"
_SEPARATOR = "\x1f"
_MOST_TEXTS = 10_000  # among which a condition that orders texts chooses
_LONGEST = 200  # characters of a text that filters compare; a longer text also has a hash
_LARGEST = 1.7976931348623157e308


@dataclass(frozen=True, slots=True)
class Among:
    """The condition that a field of the payload has one of these texts or integers."""

    key: str
    values: Sequence[str] | Sequence[int]


@dataclass(frozen=True, slots=True)
class Between:
    """The condition that a field of the payload has a number within these limits: ``gt``, ``gte``, ``lt``, ``lte``."""

    key: str
    limits: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class HasVector:
    """The condition that a point has a vector of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Where:
    """Conditions on a point: all of ``must``, at least one of ``should`` if there are any, none of ``must_not``."""

    must: tuple[Any, ...] = ()
    should: tuple[Any, ...] = ()
    must_not: tuple[Any, ...] = ()
    ids: tuple[int, ...] | None = None


class FieldsOfStore(Protocol):
    """What `translated` needs to know of a store."""

    def has(self, mark: str) -> bool:
        """Tell whether any point has this mark."""

    def distinct(self, key: str, limit: int) -> list[str]:
        """Return the different texts under a key of the payload, at most ``limit``."""


def field_key(field: str) -> str:
    """Return a key for a field, whatever characters the name of the field has."""
    return "x" + hashlib.blake2b(field.encode(), digest_size=10).hexdigest()


def payload_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that filters compare, by key of the payload.

    Args:
        metadata: the metadata of a document, as JSON values.
    """
    marks: set[str] = {f"{name}{_SEPARATOR}top" for name in metadata}
    texts: dict[str, list[str]] = {}
    numbers: dict[str, list[float]] = {}
    big: dict[str, list[str]] = {}
    for field, values in fields_of(metadata).items():
        marks |= {f"{field}{_SEPARATOR}{kind}" for kind in kinds_of(values)}
        if any(value is not None for value in values):
            marks.add(f"{field}{_SEPARATOR}some")
        key = field_key(field)
        for value in scalars_of(values):
            if isinstance(value, bool):
                marks.add(f"{field}{_SEPARATOR}is {value}")
            elif isinstance(value, str):
                texts.setdefault(key, []).append(_clipped(value))
            elif _exact(value):
                numbers.setdefault(key, []).append(float(value))
            else:
                marks.add(f"{field}{_SEPARATOR}big")
                big.setdefault(key, []).append(str(value))
    return {MARKS: sorted(marks), TEXTS: texts, NUMBERS: numbers, BIG: big}


def translated(filter: Filter, store: FieldsOfStore) -> Where:
    """Translate a filter into conditions on the payload.

    Args:
        filter: the filter to translate.
        store: tells which texts a field has, since Qdrant cannot order them.

    Raises:
        InputError: if a condition orders the texts of a field that has more than 10,000 different ones.
    """
    must: list[Any] = []
    must_not: list[Any] = []
    for condition in filter.conditions:
        field, operator = condition.field, condition.operator
        if condition.value is None:
            (must if operator == "!=" else must_not).append(_marked(field, "some"))
        elif operator in ("=", "in"):
            must.append(Where(should=tuple(_equal(condition))))
        elif operator in ("!=", "not in"):
            must.append(_marked(field, "text", "number", "boolean"))
            must_not += _equal(condition)
        else:
            must.append(Where(should=tuple(_ordered(condition, store))))
    return Where(tuple(must), (), tuple(must_not))


def check_filter(filter: Filter, marks: Sequence[str]) -> None:
    """Refuse a filter with a condition that compares nothing; see `Filter.check`.

    Args:
        filter: the filter to check.
        marks: the different marks of all points.
    """
    pairs = [mark.rpartition(_SEPARATOR)[::2] for mark in marks]
    names = {field for field, mark in pairs if mark == "top"}
    kinds: dict[str, set[str]] = {}
    for field, mark in pairs:
        if mark in ("text", "number", "boolean", "null", "object", "list"):
            kinds.setdefault(field, set()).add(mark)
    examples = {
        condition.field: {inner: None}
        for condition in filter.conditions
        for field in sorted(kinds, reverse=True)
        if (inner := field.removeprefix(f"{condition.field}.")) != field and "." not in inner
    }
    filter.check_fields(names, kinds, examples)


def _equal(condition: Condition) -> list[Any]:
    """Return conditions, at least one of which is true if a field has one of the values."""
    field, values = condition.field, condition.values
    key = field_key(field)
    texts = [_clipped(value) for value in values if isinstance(value, str)]
    booleans = [f"{field}{_SEPARATOR}is {value}" for value in values if isinstance(value, bool)]
    numbers = [value for value in values if not isinstance(value, str | bool)]
    big = [str(value) for value in numbers if not _exact(value)]
    parts: list[Any] = [Among(f"{TEXTS}.{key}", texts)] if texts else []
    parts += [Among(MARKS, booleans)] if booleans else []
    parts += [Among(f"{BIG}.{key}", big)] if big else []
    parts += [
        Between(f"{NUMBERS}.{key}", {"gte": float(value), "lte": float(value)}) for value in numbers if _exact(value)
    ]
    # Nothing matches an empty list of values.
    return parts or [_marked(field, "nothing")]


def _ordered(condition: Condition, store: FieldsOfStore) -> list[Any]:
    """Return conditions, at least one of which is true if a field has a value on the right side of the limit."""
    limit, key = condition.value, field_key(condition.field)
    if isinstance(limit, str):
        values = _distinct(store, condition, "text", f"{TEXTS}.{key}")
        return [Among(f"{TEXTS}.{key}", [value for value in values if _precedes(condition, value)] or [_SEPARATOR])]
    parts: list[Any] = [Between(f"{NUMBERS}.{key}", dict([_limit(condition.operator, limit)]))]
    big = _distinct(store, condition, "big", f"{BIG}.{key}")
    chosen = [value for value in big if condition.compares(int(value))]
    return [*parts, Among(f"{BIG}.{key}", chosen)] if chosen else parts


def _distinct(store: FieldsOfStore, condition: Condition, mark: str, key: str) -> list[str]:
    if not store.has(f"{condition.field}{_SEPARATOR}{mark}"):
        return []
    values = store.distinct(key, _MOST_TEXTS + 1)
    if len(values) > _MOST_TEXTS:
        raise InputError(
            f"filter: field {quoted(condition.field)} has more than {_MOST_TEXTS:,} different texts, which is too "
            f"many for {condition.operator!r} in Qdrant; store values that you compare in this way as numbers, such as "
            "the year of a date"
        )
    return values


def _precedes(condition: Condition, value: str) -> bool:
    """Tell whether a text, as it is kept, is on the right side of the limit."""
    limit, value = condition.value, value[1:]
    if len(value) > _LONGEST and len(limit) > _LONGEST and value[:_LONGEST] == limit[:_LONGEST]:
        if f"={value}" == _clipped(limit):
            return "=" in condition.operator
        raise InputError(
            f"filter on {quoted(condition.field)}: in Qdrant, texts are compared by their first {_LONGEST} characters, "
            "and a document has a text that begins with the same ones as the limit; use a shorter limit"
        )
    return condition.compares(value)


def _limit(operator: str, limit: float) -> tuple[Literal["gt", "gte", "lt", "lte"], float]:
    """Return a 64-bit float that separates all other floats as the limit does, with its operator."""
    try:
        near = float(limit)
    except OverflowError:
        near = _LARGEST if limit > 0 else -_LARGEST
    upper = operator in ("<", "<=")
    if near > limit:
        return ("lt", near) if upper else ("gte", near)
    if near < limit:
        return ("lte", near) if upper else ("gt", near)
    if upper:
        return ("lt" if operator == "<" else "lte"), near
    return ("gt" if operator == ">" else "gte"), near


def _exact(number: float) -> bool:
    """Tell whether a 64-bit float can be exactly this number."""
    try:
        return float(number) == number
    except OverflowError:
        return False


def _clipped(text: str) -> str:
    # With the sign in front, no version of Qdrant takes a text for a UUID or a date.
    if len(text) <= _LONGEST:
        return f"={text}"
    return f"={text[:_LONGEST]}" + _SEPARATOR + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _marked(field: str, *marks: str) -> Among:
    return Among(MARKS, [f"{field}{_SEPARATOR}{mark}" for mark in marks])
