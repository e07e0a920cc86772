"""Read JSON and YAML that somebody else wrote: strictly, within limits, and with errors that say what is wrong.

Both readers refuse what would be lost or could not be written again: a field that occurs twice, NaN and infinity (in
JSON), lone surrogates, and nesting beyond reason. YAML is read safely: without tags that make objects, and without
anchors and aliases, with which a few lines become gigabytes ("billion laughs").
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from .documents import encodable
from .errors import DataError, SightlineError
from .wording import quoted

__all__ = ["DEEPEST", "JSON_NUMBER", "as_type", "load_json", "load_yaml", "parse_json", "parse_yaml", "too_deep"]

DEEPEST = 500  # SQLite, which holds metadata, reads 1,000 levels
_DEEPEST_YAML = 50
_NESTS = (Mapping, list, tuple)
_LARGEST_YAML = 2_000_000  # characters; YAML is read at some hundred kilobytes a second
_LONGEST_NUMBER = 100  # characters of a number in YAML, whose sexagesimal ones take quadratic time
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
T = TypeVar("T")
_SURROGATE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    r"""Parse one JSON document.

    Args:
        text: the document. Bytes are UTF-8, with or without a byte order mark.

    Returns:
        Dicts, lists, strings, integers, finite floats, booleans and None, nested at most 500 deep.

    Raises:
        DataError: if the text is not JSON, or has a field twice in one object, NaN, infinity, a number that is too
            large, a lone surrogate, or deeper nesting. The error names no file; callers that know the file add it.

    Example:
        >>> parse_json('{"a": [1, 2.5, null]}')
        {'a': [1, 2.5, None]}
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
        sightline.errors.DataError: not usable JSON: an object has the field 'a' twice
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise DataError(f"not JSON: {error.msg} at {place}") from None
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"not usable JSON: nested more than {DEEPEST} deep") from None
    except ValueError:  # the only one left is Python's limit on the digits of an integer
        raise DataError("not usable JSON: it has an integer of more than 4300 digits") from None
    if text.count("[") + text.count("{") > DEEPEST and too_deep(value):
        raise DataError(f"not usable JSON: nested more than {DEEPEST} deep")
    if _SURROGATE.search(text):
        for string in _strings(value):
            if not encodable(string):
                raise DataError(f"not usable JSON: half a surrogate pair in {quoted(string)}")
    return value


def load_json(path: str | PathLike[str]) -> Any:
    """Parse a file with `parse_json`.

    Args:
        path: the path of the file.

    Returns:
        What `parse_json` returns.

    Raises:
        DataError: if the file cannot be read or `parse_json` refuses it. The error names the file.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "a.json")
        ...     _ = path.write_text("[1, 2]")
        ...     load_json(path)
        [1, 2]
    """
    try:
        return parse_json(Path(path).read_bytes())
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from error


def parse_yaml(text: str) -> Any:
    r"""Parse one YAML document of plain data.

    Args:
        text: the document, with at most 2 million characters.

    Returns:
        Dicts, lists, strings, numbers, booleans, dates and None, nested at most 50 deep.

    Raises:
        DataError: if the text is not YAML, or has anchors, aliases, tags that are not plain data, a field twice in one
            mapping, a number of more than 100 characters, deeper nesting or more text. The error names no file; callers
            that know the file add it.

    Example:
        >>> parse_yaml("parts: [weights, 2]")
        {'parts': ['weights', 2]}
        >>> parse_yaml("a: &x [1]\nb: *x")
        Traceback (most recent call last):
        sightline.errors.DataError: not usable YAML: it has an anchor, &x (line 1, column 4); write the value out
    """
    if len(text) > _LARGEST_YAML:
        raise DataError(f"not usable YAML: more than {_LARGEST_YAML:,} characters")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise DataError(f"not valid YAML: {problem[:200]}{place}") from None
    except DataError:
        raise
    # Besides its own errors, YAML lets through what is no character, no date, or nested beyond reason.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"not valid YAML: {' '.join(str(error).split())[:200]}") from None


def load_yaml(path: str | PathLike[str] | Traversable) -> Any:
    """Parse a file with `parse_yaml`.

    Args:
        path: the path of the file, or a resource of a package.

    Returns:
        What `parse_yaml` returns.

    Raises:
        DataError: if the file cannot be read or `parse_yaml` refuses it. The error names the file.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "a.yaml")
        ...     _ = path.write_text("name: mine")
        ...     load_yaml(path)
        {'name': 'mine'}
    """
    source = path if isinstance(path, Traversable) else Path(path)
    try:
        with source.open("rb") as file:
            data = file.read(4 * _LARGEST_YAML + 1)
        return parse_yaml(data.decode("utf-8-sig"))
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}", path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path=path) from error


def as_type(value: Any, kind: type[T]) -> T:
    """Turn parsed JSON or YAML into a typed object, or refuse it.

    Types are plain dataclasses, TypedDicts and annotations. pydantic checks them strictly: a number in quotes is not a
    number. A class with ``__pydantic_config__ = {"extra": "forbid"}`` also refuses fields that it does not have.

    Args:
        value: the value that `parse_json` or `parse_yaml` returned.
        kind: the type to turn the value into.

    Raises:
        DataError: if a field is wrong. The error names the first such field but no file; callers that know the file add
            it.
        SightlineError: if the ``__post_init__`` of a dataclass raises one.

    Example:
        >>> as_type({"a": [1, 2.5]}, dict[str, list[float]])
        {'a': [1.0, 2.5]}
        >>> as_type({"a": [1, "x"]}, dict[str, list[float]])
        Traceback (most recent call last):
        sightline.errors.DataError: the field a[1] must be a valid number, not 'x'
    """
    from pydantic import ValidationError

    try:
        # Of JSON, strict validation makes tuples and paths where a type has them; of Python's objects it does not.
        typed: T = _adapter(cast(Hashable, kind)).validate_json(json.dumps(value, default=_not_json), strict=True)
        return typed
    except ValidationError as error:
        first_error = error.errors(include_url=False)[0]
    if isinstance(raised := first_error.get("ctx", {}).get("error"), SightlineError):
        raise raised
    lacks = first_error["type"] in ("missing", "missing_argument")
    place = [*_place(value, first_error["loc"]), *(first_error["loc"][-1:] if lacks else ())]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    if lacks:
        raise DataError(f"lacks the field {field}")
    if first_error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        raise DataError(f"has a field {quoted(field)}, which is not one it can have")
    reason = first_error["msg"].replace("Input should be", "must be", 1)
    raise DataError(f"{f'the field {field}' if field else 'it'} {reason}, not {quoted(first_error['input'])}")


def _place(value: Any, location: Sequence[str | int]) -> Iterator[str | int]:
    """The steps of a location that lead into the value; pydantic also names the member of a union that it tried."""
    for step in location:
        if step in (value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()):
            yield step
            value = value[step]


@functools.cache
def _adapter(kind: Hashable) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cast(Any, kind))


def _not_json(value: object) -> Any:
    raise DataError(f"a {type(value).__name__} ({quoted(str(value))}) is not JSON; write it as a text, in quotes")


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML whose result is as large as its text."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = cast(Any, self).peek_event()
        if getattr(event, "anchor", None) is not None:
            kind, sign = ("alias", "*") if isinstance(event, yaml.AliasEvent) else ("anchor", "&")
            self._refuse(f"it has an {kind}, {sign}{event.anchor[:40]}", event, "; write the value out")
        if self._depth >= _DEEPEST_YAML:
            self._refuse(f"nested more than {_DEEPEST_YAML} deep", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            seen = set()
            for key, _ in node.value:
                if (name := self.construct_object(key)) in seen:
                    self._refuse(f"the field {quoted(name)} occurs twice", key)
                seen.add(name)
        return mapping

    def construct_number(self, node: Any) -> Any:
        if len(node.value) > _LONGEST_NUMBER:
            self._refuse(f"a number of {len(node.value)} characters", node)
        return (self.construct_yaml_int if node.tag.endswith(":int") else self.construct_yaml_float)(node)

    def _refuse(self, reason: str, at: Any, advice: str = "") -> None:
        place = f"line {at.start_mark.line + 1}, column {at.start_mark.column + 1}"
        raise DataError(f"not usable YAML: {reason} ({place}){advice}")


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_number)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _PlainLoader.construct_number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise DataError(f"not usable JSON: an object has the field {quoted(twice)} twice")
    return record


def _no_constant(constant: str) -> Any:
    raise DataError(f"not JSON: {constant} is not a finite number; write null for a missing value")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise DataError(f"not usable JSON: the number {quoted(digits)} is too large")
    return value


def _levels(value: Any) -> Iterator[list[Any]]:
    """What stands at each depth; not by recursion, which would be the limit itself."""
    level = [value]
    while level:
        yield level
        level = [
            item
            for outer in level
            if isinstance(outer, _NESTS)
            for item in (outer.values() if isinstance(outer, Mapping) else outer)
        ]


def too_deep(value: Any) -> bool:
    """Tell whether objects and lists are nested deeper than `DEEPEST`, which every reader of JSON accepts.

    Example:
        >>> too_deep([[1]])
        False
    """
    below = next(itertools.islice(_levels(value), DEEPEST, None), [])
    return any(isinstance(item, _NESTS) for item in below)


def _strings(value: Any) -> Iterator[str]:
    for level in _levels(value):
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from item
