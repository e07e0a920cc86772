"""Settings: dataclasses that say for each field which values it can have and what it means.

The default, the range (`Range`), the choices (``Literal``) and the help (``Args`` in the docstring) of a field are
written once, in the dataclass. `check_settings`, called in ``__post_init__``, checks values against them, and
`settings_of` lets the command line make options of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from .errors import InputError
from .wording import quoted

__all__ = ["Range", "Setting", "check_settings", "settings_of"]


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a field can have, as in ``Annotated[float, Range(0, 1)]``. They are always finite.

    Args:
        low: the lowest number. If None, there is no limit.
        high: the highest number. If None, there is no limit.
        above: a lower limit that is not itself in the range. If None, there is no such limit.

    Example:
        >>> [str(numbers) for numbers in (Range(0, 1), Range(1), Range(above=0))]
        ['from 0 to 1', '1 or more', 'above 0']
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real):
            return False
        number: Any = value  # of numpy too; Real has no comparisons for type checkers
        return (
            -math.inf < number < math.inf
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        if self.above is not None:
            return f"above {self.above:g}" + ("" if self.high is None else f" and at most {self.high:g}")
        if self.low is None or self.high is None:
            return f"{self.high:g} or less" if self.low is None else f"{self.low:g} or more"
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of a dataclass of settings.

    Args:
        name: the name of the field.
        type: the type of its values, without None.
        optional: whether None is one of its values.
        range: the range of a number; None for other fields.
        choices: the values that a text can have; empty for other fields.
        default: the value that the field has if you give none; ``dataclasses.MISSING`` if you must give one.
        help: the first sentence that the docstring says about the field.
    """

    name: str
    type: Any
    optional: bool
    range: Range | None
    choices: tuple[str, ...]
    default: Any
    help: str


def settings_of(kind: type) -> tuple[Setting, ...]:
    """List the fields of a dataclass of settings, in their order.

    Args:
        kind: the dataclass. Its docstring has a section ``Args``.

    Example:
        >>> @dataclass
        ... class Walk:
        ...     '''A walk.
        ...
        ...     Args:
        ...         steps: How many steps. None walks on.
        ...     '''
        ...     steps: typing.Annotated[int | None, Range(1)] = None
        >>> settings_of(Walk)[0].help, str(settings_of(Walk)[0].range), settings_of(Walk)[0].optional
        ('How many steps.', '1 or more', True)
    """
    hints, helps = typing.get_type_hints(kind, include_extras=True), _arguments(kind)
    return tuple(_setting(field, hints[field.name], helps.get(field.name, "")) for field in dataclasses.fields(kind))


def check_settings(settings: Any) -> None:
    """Check the type, the range and the choices of every field of a dataclass; meant for its ``__post_init__``.

    Args:
        settings: the instance to check.

    Raises:
        InputError: naming the first field that is wrong, and what it can be.
    """
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.name)
        if value is None and setting.optional:
            continue
        if setting.range is not None and value not in setting.range:
            raise InputError(f"{setting.name} must be {setting.range}, not {quoted(value)}")
        if setting.choices and value not in setting.choices:
            raise InputError(f"{setting.name} must be one of {', '.join(setting.choices)}, not {quoted(value)}")
        kind, what = _KINDS.get(setting.type, (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            raise InputError(f"{setting.name} must be {what}, not {quoted(value)}")


_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "True or False"),
    float: (Real, "a number"),
    int: (Integral, "a whole number"),
    str: (str, "a text"),
}


def _setting(field: dataclasses.Field[Any], hint: Any, help: str) -> Setting:
    extras: list[Any] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *extras = typing.get_args(hint)
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [part for part in parts if part is not types.NoneType]
    kind = kinds[0] if len(kinds) == 1 else hint
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return Setting(
        name=field.name,
        type=kind,
        optional=len(kinds) < len(parts),
        range=next((extra for extra in extras if isinstance(extra, Range)), None),
        choices=typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else (),
        default=default,
        help=help,
    )


def _arguments(kind: type) -> dict[str, str]:
    """The first sentence that the section ``Args`` of a class's docstring says of each argument."""
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: re.split(r"(?<=\.) (?=[A-Z0-9`])", " ".join(text.split()))[0] for name, text in entries}
