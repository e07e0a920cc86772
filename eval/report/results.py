"""A folder of results, read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..compare import new_and_base, own_first_stage
from .schema import Bias, PerQuery, Summary, check

__all__ = ["Results", "clean", "load_bias", "load_results"]

# What no page or table can show: controls but tab and line feed, overrides of the writing direction, half surrogates.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Results:
    """What an evaluation left in its folder; every string of it can be shown.

    Args:
        summary: of ``results.json``; or of ``bias.json``, with no ``systems``, where only biases were measured.
        per_query: value by system, query id and measure, of ``per_query.json``.
        bias: of ``bias.json``, or None.
    """

    summary: dict[str, Any]
    per_query: dict[str, dict[str, dict[str, float]]]
    bias: dict[str, Any] | None

    @property
    def measure(self) -> str:
        """The first measure, by which systems are compared; there is none if no system was measured."""
        return next(iter(next(iter(self.summary["systems"].values()))))

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Comparisons of a reranked system with its own first stage; all comparisons if there is none."""
        pairs: list[dict[str, Any]] = self.summary["comparisons"]
        return [pair for pair in pairs if own_first_stage(pair["a"]) == pair["b"]] or pairs

    def changes(self, a: str, b: str) -> list[dict[str, Any]]:
        """The queries on which two systems differ most: ``id``, ``text``, and the values ``a`` and ``b``."""
        for found in self.summary.get("changes", []):
            if (found["a"], found["b"]) == (a, b):
                return found["queries"]
            if (found["b"], found["a"]) == (a, b):
                return [{**query, "a": query["b"], "b": query["a"]} for query in found["queries"]]
        return []


def _directed(pair: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """A comparison, new minus base: former versions of Sightline wrote others."""
    first, second = sorted((pair["a"], pair["b"]), key=order.index)
    if (pair["a"], pair["b"]) == new_and_base(first, second):
        return pair
    by = pair["difference"]
    turned = {"mean": -by["mean"], "low": -by["high"], "high": -by["low"]}
    return pair | {
        "a": pair["b"],
        "b": pair["a"],
        "difference": turned,
        "wins": pair["losses"],
        "losses": pair["wins"],
    }


def load_results(folder: str | Path) -> Results:
    """Read the results of one collection.

    Raises:
        DataError: if there are none, or a file is not JSON, or a field is missing, of a wrong type, or at odds with
            others; the message names file and field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder of results", path=folder)
    biased = load_bias(folder) if (folder / "bias.json").exists() else None
    if biased is not None and not (folder / "results.json").exists():
        return biased
    summary = _read(folder / "results.json", Summary)
    per_query = _read(folder / "per_query.json", PerQuery)
    try:
        _check_systems(summary)
    except DataError as error:
        raise DataError(f"{error.reason}; evaluate again", path=folder / "results.json") from None
    try:
        _check_queries(summary, per_query)
    except DataError as error:
        raise DataError(f"{error.reason}; evaluate again", path=folder / "per_query.json") from None
    order = list(summary["systems"])
    summary["comparisons"] = [_directed(pair, order) for pair in summary["comparisons"]]
    return Results(summary, per_query, None if biased is None else biased.bias)


def load_bias(folder: str | Path) -> Results:
    """Read the biases of systems on one collection, without their quality; see `load_results`."""
    folder = Path(folder)
    bias = _read(folder / "bias.json", Bias)
    if bias["version"] != 1:
        raise DataError(f"version {bias['version']!r}; this Sightline reads 1", path=folder / "bias.json")
    named = {"dataset": folder.resolve().name, "split": "", "queries": 0, **bias}
    kept = ("dataset", "split", "queries", "command", "git", "hardware", "versions", "seeds", "hashes")
    summary = {
        **{name: named[name] for name in kept if name in named},
        "depth": bias.get("candidates", 0),
        "systems": {},
        "intervals": {},
        "comparisons": [],
    }
    return Results(summary, {}, bias)


def _check_systems(summary: dict[str, Any]) -> None:
    """Every system has the same measures and an interval, and only systems are compared."""
    systems = summary["systems"]
    if not systems or not all(systems.values()):
        raise DataError("holds no system that was measured")
    measures = list(next(iter(systems.values())))
    for name, means in systems.items():
        if list(means) != measures:
            raise DataError(f"systems.{name} has other measures than the first system")
        if name not in summary["intervals"]:
            raise DataError(f"intervals lacks the system {name!r}")
    for part in ("intervals", "milliseconds_per_query"):
        if unknown := summary.get(part, {}).keys() - systems.keys():
            raise DataError(f"{part} has the unknown system {min(unknown)!r}")
    for part in ("comparisons", "changes"):
        for number, pair in enumerate(summary.get(part, [])):
            if not {pair["a"], pair["b"]} <= systems.keys() or pair["a"] == pair["b"]:
                raise DataError(f"{part}[{number}] does not compare two of the systems")


def _check_queries(summary: dict[str, Any], per_query: dict[str, dict[str, dict[str, float]]]) -> None:
    """Every system has the same queries, measured by the first measure."""
    measure = next(iter(next(iter(summary["systems"].values()))))
    ids: set[str] | None = None
    for name in summary["systems"]:
        if name not in per_query:
            raise DataError(f"lacks the system {name!r}")
        ids = set(per_query[name]) if ids is None else ids
        if not ids or per_query[name].keys() != ids:
            raise DataError(f"{name} has no queries, or others than the first system")
        if lacking := [id for id, values in per_query[name].items() if measure not in values]:
            raise DataError(f"{name}.{lacking[0]} lacks {measure}")


def clean(value: Any) -> Any:
    r"""A JSON value with every character that cannot be shown replaced.

    Example:
        >>> clean({"a\x00": ["b\u202ec"]})
        {'a�': ['b�c']}
    """
    if isinstance(value, str):
        return _UNSHOWN.sub("\ufffd", value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean(item) for name, item in value.items()}
    return value


def _read(path: Path, kind: Any) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}; is this a folder of results?", path=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", path=path) from None
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__} where an object should be", path=path)
    try:
        check(value, kind)
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    cleaned: dict[str, Any] = clean(value)
    return cleaned
