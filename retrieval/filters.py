"""Metadata filters: their conditions, which documents meet them, and how they are written in one line.

The same `Filter` serves Python, the command line, HTTP, MCP and the adapters.
"""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..documents import encodable
from ..errors import DataError, InputError
from ..parsing import JSON_NUMBER, parse_json
from ..wording import did_you_mean, listed, quoted

__all__ = ["Condition", "Filter", "fields_of", "kinds_of", "parse_where", "scalars_of"]

_MOST_CONDITIONS = 256
_LONGEST_LINE = 10_000  # characters
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OPERATORS = ("=", "!=", *_ORDER, "in", "not in")
_SAME = {"==": "=", "<>": "!="}
# As other libraries and hasty fingers write them.
_MEANT = {
    **{"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "le": "<=", "gt": ">", "gte": ">=", "ge": ">=", "nin": "not in"},
    **{"===": "=", "=>": ">=", "=<": "<=", "!==": "!=", "not": "!=", "is": "=", "is not": "!="},
    **{"match": "=", "any": "in", "not_in": "not in"},
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one field.

    Args:
        field: the name of the field.
        operator: one of ``= != < <= > >= in`` and ``not in``.
        value: None, a text, a boolean or a number, or a list of these.
    """

    field: str
    operator: str
    value: Any

    @property
    def values(self) -> list[Any]:
        """The values of the condition, as a list."""
        return self.value if isinstance(self.value, list) else [self.value]

    def compares(self, value: Any) -> bool:
        """Tell whether a value is on the right side of the limit of an ordering operator."""
        return _kind(value) == _kind(self.value) and _ORDER[self.operator](value, self.value)

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether a document with this metadata meets the condition."""
        plain = metadata.get(self.field)
        # Most fields hold one number or text. This is what follows below for them, at a third of the time.
        if self.value is not None and isinstance(plain, str | int | float):
            if self.operator in _ORDER:
                return self.compares(plain)
            equal = any(plain == accepted and _kind(plain) == _kind(accepted) for accepted in self.values)
            return equal == (self.operator in ("=", "in"))
        values = list(_values_at(metadata, self.field))
        if self.value is None:
            return any(value is not None for value in values) == (self.operator == "!=")
        scalars = [value for value in _scalars(values) if value is not None]
        if self.operator in _ORDER:
            return any(map(self.compares, scalars))
        same = any(
            value == accepted and _kind(value) == _kind(accepted) for value in scalars for accepted in self.values
        )
        return bool(scalars) and same == (self.operator in ("=", "in"))


class Filter:
    """Conditions on metadata, all of which a document must meet.

    Numbers are compared with numbers, texts with texts, and booleans with booleans. A field that holds a list meets a
    condition if one of its items does; it meets ``!=`` or ``not in`` if none of its items is excluded. ``a.b`` is the
    field ``a.b``, or else the field ``b`` of the object (or of an object in the list) ``a``. A document without the
    field meets only the condition ``None``.

    Args:
        where: a condition for each field: ``{"year": 2020}`` (equal), ``{"lang": ["en", "de"]}`` (one of), or
            ``{"year": {">=": 2000, "<": 2010}}`` with the operators ``= != < <= > >= in`` and ``not in``. The value
            ``None`` means that the field is absent or null. Dates and times stand for their ISO form, as a text.

    Raises:
        InputError: if a condition does not have one of these forms, or there are more than 256.

    Example:
        >>> recent = Filter({"lang": ["en", "de"], "meta.year": {">=": 2000}})
        >>> recent.meets({"lang": "en", "meta": {"year": 2001}}), recent.meets({"lang": "en"})
        (True, False)
    """

    def __init__(self, where: Mapping[str, Any]) -> None:
        if not isinstance(where, Mapping):
            raise InputError(
                "a filter maps metadata fields to conditions, such as {'lang': 'en', 'year': {'>=': 2000}}; "
                f"{quoted(where)} does not"
            )
        self.conditions = tuple(_conditions(where))
        self.key = repr(self.conditions)  # equal for filters that mean the same
        if len(self.conditions) > _MOST_CONDITIONS:
            raise InputError(f"the filter has {len(self.conditions)} conditions; at most {_MOST_CONDITIONS} are usable")

    def meets(self, metadata: Mapping[str, Any]) -> bool:
        """Tell whether a document with this metadata meets all conditions."""
        return all(condition.meets(metadata) for condition in self.conditions)

    @property
    def may_mislead(self) -> bool:
        """Whether documents can meet a condition on a field that none of them has, or on a value of another type."""
        return any(condition.operator in ("!=", "not in") or condition.value is None for condition in self.conditions)

    def check(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Refuse a filter with a condition that compares nothing.

        Args:
            records: the metadata of all documents.

        Raises:
            InputError: if no document has a field that the filter names, or a field holds no value of the type that it
                is compared with. If there are no documents, nothing is refused.
        """
        names: set[str] = set()
        kinds: dict[str, set[str]] = {condition.field: set() for condition in self.conditions}
        examples: dict[str, Any] = {}
        some = False
        for metadata in records:
            some = True
            names.update(metadata)
            for field, field_kinds in kinds.items():
                values = list(_values_at(metadata, field))
                field_kinds |= kinds_of(values)
                for value in values:
                    if isinstance(value, Mapping):
                        examples.setdefault(field, value)
        if some:
            self.check_fields(names, kinds, examples)

    def check_fields(
        self, names: set[str], kinds: Mapping[str, set[str]], examples: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Check the filter like `check`, by what is known of the fields.

        Args:
            names: the fields that documents have.
            kinds: the kinds of values under each field that the filter names; see `kinds_of`.
            examples: for each field that holds objects, one of them.

        Raises:
            InputError: see `check`.
        """
        for condition in self.conditions:
            _check_field(condition, kinds.get(condition.field, set()), names, examples.get(condition.field))


def _check_field(condition: Condition, kinds: set[str], names: set[str], example: Mapping[str, Any] | None) -> None:
    field = condition.field
    if not kinds:
        hint = f"there are: {listed(sorted(names))}" if names else "the documents have no metadata"
        raise InputError(f"filter: no document has a field {quoted(field)}; {hint}{did_you_mean(field, names)}")
    scalars = kinds & set(_PLURAL)
    if condition.value is None or not condition.values or not (scalars or "object" in kinds):
        return
    if not scalars:
        inner = f", such as {field}.{min(map(str, example))}" if example else ""
        raise InputError(f"filter: field {quoted(field)} holds objects; filter on a field inside of them{inner}")
    condition_kinds = {_kind(value) for value in condition.values}
    if not condition_kinds & scalars:
        value = condition.values[0]
        advice = f"; compare it with {str(value)!r}, in quotes" if scalars == {"text"} else ""
        raise InputError(
            f"filter: field {quoted(field)} holds {' and '.join(_PLURAL[kind] for kind in sorted(scalars))}, "
            f"and {quoted(value)} is a {_kind(value)}{advice}"
        )


_PLURAL = {"text": "texts", "number": "numbers", "boolean": "booleans"}


def kinds_of(values: Iterable[Any]) -> set[str]:
    """Return the kinds of values under a field: text, number, boolean, null, object, and list if it is empty."""
    kinds: set[str] = set()
    for value in values:
        if isinstance(value, Mapping):
            kinds.add("object")
        elif isinstance(value, list) and not value:
            kinds.add("list")
        else:
            kinds.update("object" if isinstance(item, Mapping) else _kind(item) for item in _flat(value))
    return kinds


def fields_of(metadata: Mapping[str, Any]) -> dict[str, list[Any]]:
    """List all fields that a condition can name in some metadata, each with the values under it.

    Example:
        >>> fields_of({"year": 2000, "by": [{"name": "Ann"}, {"name": "Bo"}]})["by.name"]
        ['Ann', 'Bo']
    """
    found: dict[str, list[Any]] = {}
    for name, value in metadata.items():
        found[name] = [value]
        if "." in name:
            continue
        inner: dict[str, list[Any]] = {}
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                for rest, values in fields_of(item).items():
                    inner.setdefault(rest, []).extend(values)
        found.update({f"{name}.{rest}": values for rest, values in inner.items() if f"{name}.{rest}" not in metadata})
    return found


def scalars_of(values: Iterable[Any]) -> list[Any]:
    """List the texts, numbers and booleans among values and in lists of them."""
    return [value for value in _scalars(values) if value is not None]


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "boolean"
    return "null" if value is None else "number"


def _values_at(metadata: Any, field: str) -> Iterator[Any]:
    """What stands under a field or a path of fields; in lists of objects, under that of each."""
    if isinstance(metadata, Mapping):
        if field in metadata:
            yield metadata[field]
        elif "." in field:
            first, _, rest = field.partition(".")
            if first in metadata:
                inner = metadata[first]
                for item in inner if isinstance(inner, list) else [inner]:
                    yield from _values_at(item, rest)


def _flat(value: Any) -> Iterator[Any]:
    """The items of a list, and of lists in it; of anything else itself."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        else:
            yield item


def _scalars(values: Iterable[Any]) -> Iterator[Any]:
    return (item for value in values for item in _flat(value) if not isinstance(item, Mapping))


def _conditions(where: Mapping[str, Any]) -> Iterator[Condition]:
    for field, condition in where.items():
        if not (isinstance(field, str) and encodable(field)):
            raise InputError(f"filter field {quoted(field)} is not the name of a metadata field")
        tests = condition if isinstance(condition, Mapping) else {"in" if _is_several(condition) else "=": condition}
        if not tests:
            raise InputError(f"filter on {quoted(field)}: there is no condition in {quoted(condition)}")
        for name, value in tests.items():
            try:
                yield _condition(field, name, value)
            except InputError as error:
                raise InputError(f"filter on {quoted(field)}: {error}") from None


def _condition(field: str, name: Any, value: Any) -> Condition:
    known = _SAME.get(name, name) if isinstance(name, str) else None
    if known not in _OPERATORS:
        meant = _MEANT.get(name.lower().removeprefix("$").strip()) if isinstance(name, str) else None
        advice = f"write {meant!r}" if meant else f"use one of {' '.join(_OPERATORS[:-1])} or 'not in'"
        raise InputError(f"there is no operator {quoted(name)}; {advice}")
    if known in ("in", "not in"):
        if not _is_several(value):
            raise InputError(f"{name!r} takes a list of values, not {quoted(value)}")
        values = [_scalar(item) for item in value]
        if None in values:
            raise InputError("None cannot be one of several values; use it alone, for fields that are absent or null")
        return Condition(field, known, values)
    if _is_several(value):
        raise InputError(f"{name!r} takes one value, not {quoted(value)}; use 'in' or 'not in' with several")
    value = _scalar(value)
    if known in _ORDER and (value is None or isinstance(value, bool)):
        raise InputError(f"{name!r} compares numbers or texts, not {value}")
    return Condition(field, known, value)


def _is_several(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset | range | np.ndarray)


def _scalar(value: Any) -> Any:
    """A value as JSON would hold it."""
    if isinstance(value, np.datetime64) and not np.isnat(value):
        value = value if np.datetime_data(value)[0] in ("Y", "M", "W", "D") else value.astype("datetime64[us]")
        value = value.astype(object)  # a date or a datetime; of nanoseconds it would be an integer
    elif isinstance(value, np.number | np.bool_ | np.str_) and not isinstance(value, np.timedelta64):
        value = value.item()
    if isinstance(value, datetime.date | datetime.time) and value == value:  # NaT, no date, differs from itself
        return value.isoformat()
    if isinstance(value, str) and encodable(value):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if (
        isinstance(value, numbers.Real | decimal.Decimal)
        and not isinstance(value, np.timedelta64)
        and math.isfinite(value)
    ):
        return float(value)
    raise InputError(f"{quoted(value)} is not usable; use a text, a finite number, True, False, None or a date")


# -- in one line -------------------------------------------------------------------------------------------------------

_QUOTED = r'"(?:[^"\\]|\\.)*"' + r"|'[^']*'"
_WORDS = r"not\s+in\b|in\b|is\s+not\b|is\b|between\b|like\b|contains\b"
_LINE = re.compile(
    rf"\s*(?P<field>{_QUOTED}|[^=!<>~\"'\s][^=!<>~]*?)(?:\s*(?P<sign>[=!<>~]+)|\s+(?P<word>{_WORDS}))(?P<value>.*)",
    re.DOTALL | re.IGNORECASE,
)
_VALUE = re.compile(rf"\s*({_QUOTED}|[^,\"'\[\](){{}}][^,\[\](){{}}]*|)\s*(,|$)", re.DOTALL)
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
_JOINED = re.compile(r"[=<>]|&&|\|\||\b(and|or)\b", re.IGNORECASE)


def parse_where(texts: Collection[str] | None) -> dict[str, dict[str, Any]] | None:
    """Read filters as you write them on the command line.

    Args:
        texts: conditions of the form FIELD OPERATOR VALUE, with an operator of Python or SQL: ``= == != <> < <= > >=``,
            ``in [a, b]``, ``not in (a, b)``, ``is null``, ``is not null`` or ``between A and B``. Numbers, ``true``,
            ``false`` and ``null`` mean what they say; everything else, and whatever is in quotes, is a text.

    Returns:
        A filter as `Filter` takes it; None if there are no texts.

    Raises:
        InputError: if a text does not have this form, or a field has an operator twice.

    Example:
        >>> parse_where(["year>=2000", "lang in [en, de]", 'title = "a=b"'])
        {'year': {'>=': 2000}, 'lang': {'in': ['en', 'de']}, 'title': {'=': 'a=b'}}
    """
    where: dict[str, dict[str, Any]] = {}
    for text in texts or []:
        for field, name, value in _read(text):
            tests = where.setdefault(field, {})
            if name in tests:
                raise InputError(
                    f"the filter {quoted(text)} names {field!r} with {name} twice; "
                    "one would be lost (use 'in' or 'not in' for several values)"
                )
            tests[name] = value
    return where or None


def _read(text: str) -> list[tuple[str, str, Any]]:
    try:
        if not isinstance(text, str) or len(text) > _LONGEST_LINE:
            raise InputError(f"it is not a text of at most {_LONGEST_LINE} characters")
        parts = _LINE.fullmatch(text)
        if parts is None:
            known = ", ".join((*_OPERATORS, "between", "is null", "is not null"))
            raise InputError(f"it is not FIELD OPERATOR VALUE with one of {known}")
        field = _unquoted(parts["field"].strip())
        name, value = " ".join((parts["sign"] or parts["word"]).lower().split()), parts["value"].strip()
        if name in ("is", "is not"):
            if value.lower() not in ("null", "none"):
                raise InputError(f"after {name!r} comes null; for other values use = or !=")
            return [(field, "=" if name == "is" else "!=", None)]
        if name == "between":
            bounds = re.split(r"\s+and\s+", value, flags=re.IGNORECASE)
            if len(bounds) != 2:
                raise InputError("it is not FIELD between A and B")
            return [(field, ">=", _value(bounds[0])), (field, "<=", _value(bounds[1]))]
        name = _SAME.get(name, name)
        if name not in _OPERATORS:
            meant = f"; write {_MEANT[name]}" if name in _MEANT else f"; there are {' '.join(_OPERATORS)}"
            raise InputError(f"there is no operator {name}{meant}")
        return [(field, name, _values(value) if name in ("in", "not in") else _value(value))]
    except (InputError, DataError) as error:
        raise InputError(f"the filter {quoted(text)} cannot be read: {error}") from None


def _unquoted(text: str) -> str:
    if text[:1] == '"':
        return str(parse_json(text))
    return text[1:-1] if text[:1] == "'" else text


def _value(text: str) -> Any:
    if not text:
        raise InputError('it has no value; write "" for an empty text, and FIELD is null for an absent one')
    if re.fullmatch(_QUOTED, text, re.DOTALL):
        return _unquoted(text)
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    if JSON_NUMBER.fullmatch(text):
        return parse_json(text)
    if text[0] in "[({":
        raise InputError("several values go with 'in', such as: lang in [en, de]; quote a text that begins so")
    if text[0] in "\"'":
        raise InputError("a quote is not closed, or something follows it")
    if joiner := _JOINED.search(text):
        raise InputError(
            f"its value has {joiner[0]!r} in it; give each condition by itself, or put the value in quotes"
        )
    return text


def _values(text: str) -> list[Any]:
    if not (text[:1] + text[-1:] in ("[]", "()") and len(text) > 1):
        raise InputError("'in' and 'not in' take values in brackets, such as: lang in [en, de]")
    inner, values, place = text[1:-1].strip(), [], 0
    while place < len(inner):
        item = _VALUE.match(inner, place)
        if item is None:
            raise InputError("the values in the brackets must be numbers or texts with commas between them")
        values.append(_value(item[1].strip()))
        place = item.end()
    if inner.endswith(","):
        raise InputError("a value is missing after the last comma")
    return values
