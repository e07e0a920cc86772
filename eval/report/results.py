"""A folder of results, read back."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..compare import new_and_base, own_first_stage

__all__ = ["Results", "clean", "load_results"]

# What no page or table can show: controls but tab and line feed, overrides of the writing direction, half surrogates.
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NEEDED = ("dataset", "split", "queries", "depth", "systems", "intervals", "comparisons")


@dataclass(frozen=True, slots=True)
class Results:
    """What an evaluation left in its folder; every string of it can be shown.

    Args:
        summary: of ``results.json``.
        per_query: value by system, query id and measure, of ``per_query.json``.
        bias: of ``bias.json``, or None.
    """

    summary: dict[str, Any]
    per_query: dict[str, dict[str, dict[str, float]]]
    bias: dict[str, Any] | None

    @property
    def measure(self) -> str:
        """The first measure, by which systems are compared."""
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
        DataError: if there are none, they are no JSON, or a part is missing.
    """
    folder = Path(folder)
    summary, per_query = _read(folder / "results.json"), _read(folder / "per_query.json")
    bias = _read(folder / "bias.json") if (folder / "bias.json").exists() else None
    if missing := [name for name in _NEEDED if name not in summary]:
        raise DataError(f"lacks {missing[0]!r}; evaluate again", path=folder / "results.json")
    if not summary["systems"] or not all(summary["systems"].values()):
        raise DataError("holds no system that was measured; evaluate again", path=folder / "results.json")
    if missing := [name for name in summary["systems"] if name not in per_query or name not in summary["intervals"]]:
        raise DataError(f"lacks the system {missing[0]!r}; evaluate again", path=folder / "per_query.json")
    if bias is not None and bias.get("version") != 1:
        raise DataError(f"version {bias.get('version')!r}; this Sightline reads 1", path=folder / "bias.json")
    order = list(summary["systems"])
    summary["comparisons"] = [_directed(pair, order) for pair in summary["comparisons"]]
    return Results(summary, per_query, bias)


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


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}; is this a folder of results?", path=path) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", path=path) from None
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__} where an object should be", path=path)
    cleaned: dict[str, Any] = clean(value)
    return cleaned
