"""The report as one HTML page: no script, no request, nothing but itself; every text from data is escaped."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..compare import own_first_stage
from .plots import Axis, difference_path, pareto_front, spread_labels
from .results import Results
from .tables import best_systems, significantly_better

__all__ = ["render_page"]

_LABEL_ROOM = 38  # characters below the narrowest chart
_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render_page(results: Sequence[Results]) -> str:
    """The page for one or several collections.

    Raises:
        InputError: if there are no results.
    """
    if not results:
        raise InputError("there are no results to report")
    names = [found.summary["dataset"] for found in results]
    return _template().render(
        title=names[0] if len(names) == 1 else f"{len(names)} collections",
        about="evaluation" if any(found.bias is None for found in results) else "bias",
        overview=_overview(results) if len(results) > 1 else None,
        sections=[_section(found, f"c{number}") for number, found in enumerate(results)],
    )


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "signed": _signed,
        "p": _p,
        "si": _si,
        "bytes": _bytes,
        "cell": _cell,
        "short": _short,
    }
    return environment.get_template("page.html")


def _overview(results: Sequence[Results]) -> dict[str, Any]:
    systems = list(dict.fromkeys(system for found in results for system in found.summary["systems"]))
    columns = []
    for number, found in enumerate(results):
        if not found.summary["systems"]:
            continue
        values = {system: means[found.measure] for system, means in found.summary["systems"].items()}
        columns.append(
            {
                "anchor": f"c{number}",
                "name": found.summary["dataset"],
                "measure": found.measure,
                "queries": found.summary["queries"],
                "values": values,
                "intervals": found.summary["intervals"],
                "best": best_systems(found),
                "better": significantly_better(found),
            }
        )
    return {"systems": systems, "columns": columns}


def _section(found: Results, anchor: str) -> dict[str, Any]:
    summary = found.summary
    bias = None if found.bias is None else _bias(found.bias)
    if not summary["systems"]:  # only biases were measured
        parts = dict.fromkeys(("quality", "effects", "pareto", "cost"))
        return {"anchor": anchor, "summary": summary, "bias": bias, **parts}
    return {
        "anchor": anchor,
        "summary": summary,
        "measure": found.measure,
        "measures": [name for name in next(iter(summary["systems"].values())) if name != found.measure],
        "quality": _quality(found),
        "effects": _effects(found.pairs),
        "all_pairs": summary["comparisons"],
        "queries": [_by_query(found, pair) for pair in found.pairs],
        "pareto": _pareto(found),
        "cost": summary.get("cost"),
        "bias": bias,
    }


def _quality(found: Results) -> dict[str, Any]:
    intervals = found.summary["intervals"]
    axis = Axis.around([value for between in intervals.values() for value in (between["low"], between["high"])])
    best = best_systems(found)
    rows = [
        {
            "name": name,
            "best": best == {name} and len(intervals) > 1,
            "tied": name in best and len(best) > 1,
            "others": {measure: value for measure, value in means.items() if measure != found.measure},
            **_placed(axis, intervals[name]),
        }
        for name, means in found.summary["systems"].items()
    ]
    return {"axis": axis, "rows": rows, "tied": len(best) > 1}


def _effects(pairs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not pairs:
        return None
    bounds = [value for pair in pairs for value in (pair["difference"]["low"], pair["difference"]["high"])]
    axis = Axis.around(bounds, zero=True)
    return {"axis": axis, "rows": [{**pair, **_placed(axis, pair["difference"])} for pair in pairs]}


def _by_query(found: Results, pair: dict[str, Any]) -> dict[str, Any]:
    a, b = found.per_query[pair["a"]], found.per_query[pair["b"]]
    differences = sorted((a[id][found.measure] - b[id][found.measure] for id in a), reverse=True)
    return {
        **pair,
        "above": difference_path(differences, "above"),
        "below": difference_path(differences, "below"),
        "changes": found.changes(pair["a"], pair["b"]),
    }


def _pareto(found: Results) -> dict[str, Any] | None:
    measured = (found.summary.get("cost") or {}).get("systems", {})
    means = {name: values[found.measure] for name, values in found.summary["systems"].items()}
    if measured:
        cost = {name: values["latency_ms"]["p50"] for name, values in measured.items() if name in means}
        cost = {name: ms for name, ms in cost.items() if ms > 0}
    else:
        cost = {name: ms for name, ms in found.summary.get("milliseconds_per_query", {}).items() if ms > 0}
    if len(cost) < 2:
        return None
    front = pareto_front({name: (cost[name], means[name]) for name in cost})
    worst, best = min(means[name] for name in cost), max(means[name] for name in cost)
    room = 0.06 * (best - worst)  # so that no point lies on the axis' figures
    across, up = Axis.logarithmic(cost.values()), Axis.around([worst - room, best + room])
    order = sorted(cost, key=lambda name: (cost[name], -means[name]))
    points = [
        {
            "number": number,
            "name": name,
            "cost": cost[name],
            "mean": means[name],
            "front": name in front,
            "reranked": own_first_stage(name) is not None,
            "x": across.at(cost[name]),
            "y": 100 - up.at(means[name]),
        }
        for number, name in enumerate(order, start=1)
    ]
    for point, (x, y) in zip(points, spread_labels([(point["x"], point["y"]) for point in points]), strict=True):
        point |= {"label_x": x, "label_y": y, "moved": (x, y) != (point["x"], point["y"])}
    steps = [point for point in points if point["front"]]
    path = f"M{steps[0]['x']:.4g} 100V{steps[0]['y']:.4g}"
    path += "".join(f"H{point['x']:.4g}V{point['y']:.4g}" for point in steps[1:]) + "H100"
    return {"across": across, "up": up, "points": points, "path": path, "alone": bool(measured)}


def _bias(bias: dict[str, Any]) -> dict[str, Any]:
    order = bias.get("order", [])
    spread = None
    if order:
        values = [
            value for one in order for value in (one["ndcg"]["min"], one["ndcg"]["max"], *_arranged(one).values())
        ]
        axis = Axis.around(values)
        spread = {
            "axis": axis,
            "rows": [
                {
                    **one,
                    "low": axis.at(one["ndcg"]["min"]),
                    "mean_at": axis.at(one["ndcg"]["mean"]),
                    "high": axis.at(one["ndcg"]["max"]),
                    "marks": [axis.at(value) for value in one.get("per_permutation") or []],
                    "arranged": {name: axis.at(value) for name, value in _arranged(one).items()},
                }
                for one in order
            ],
        }
    slots = [
        {"system": one["system"], "ends": one.get("ends_minus_middle"), **_columns(one["gold_at"], "slot")}
        for one in order
        if one.get("gold_at")
    ]
    position = [
        {**one, **_columns(one["bins"], "label", "mean")} for one in bias.get("position", []) if one.get("bins")
    ]
    documents = [row for row in bias.get("documents") or [] if isinstance(row, dict)]
    lengths = [
        {"system": row["system"], "psi": row.get("psi"), **_columns(row["bins"], "label", "mean")}
        for row in documents
        if row.get("bins")
    ]
    return {
        "psi": _sensitivities(order, position, documents),
        "spread": spread,
        "slots": _with_table(slots),
        "position": [
            {"about": _axis_words(axis, length), **_with_table([c for c in position if _axis(c) == (axis, length)])}
            for axis, length in dict.fromkeys(map(_axis, position))
        ],
        "lengths": _with_table(lengths),
        "documents": documents,
        "facts": [
            name
            for name in dict.fromkeys(name for row in documents for name in row)
            if name not in ("system", "bins", "psi")
        ],
    }


def _axis(chart: dict[str, Any]) -> tuple[str, str]:
    return chart.get("axis", ""), chart.get("length", "all")


def _axis_words(axis: str, length: str) -> str:
    words = {"start": "Character at which the answer starts", "relative": "Relative position of the answer"}
    return words.get(axis, "Position of the answer") + ("" if length == "all" else f", documents of {length} tokens")


def _sensitivities(
    order: Sequence[dict[str, Any]], position: Sequence[dict[str, Any]], documents: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every Position Sensitivity Index there is, each with the bins that are worst and best."""
    found = [
        *(
            ("place in the list", one["system"], one.get("slot_psi"), one.get("gold_at"), "slot", "value")
            for one in order
        ),
        *((_axis_words(*_axis(one)), one["system"], one.get("psi"), one["bins"], "label", "mean") for one in position),
        *(
            ("length of the document", one["system"], one.get("psi"), one.get("bins"), "label", "mean")
            for one in documents
        ),
    ]
    rows = []
    for about, system, psi, bins, label, mean in found:
        held = [one for one in bins or [] if one.get(mean) is not None]
        if psi is not None and held:
            low, high = min(held, key=lambda one: one[mean]), max(held, key=lambda one: one[mean])
            rows.append({"about": about, "system": system, "psi": psi, "worst": low[label], "best": high[label]})
    return rows


def _with_table(charts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Charts on one scale, and the table of their bins: a row each, with its value in every chart."""
    placed = _one_scale(charts)
    if placed is None:
        return None
    labels = dict.fromkeys(column["label"] for chart in charts for column in chart["columns"])
    rows = [
        {
            "label": label,
            "cells": [next((c for c in chart["columns"] if c["label"] == label), None) for chart in charts],
        }
        for label in labels
    ]
    for row in rows:
        counts = dict.fromkeys(c["queries"] for c in row["cells"] if c is not None and c["queries"] is not None)
        row["queries"] = ", ".join(map(str, counts)) or "–"
    return {**placed, "rows": rows}


def _arranged(one: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in (one.get("arrangements") or {}).items() if value is not None}


def _columns(bins: Sequence[dict[str, Any]], label: str, mean: str = "value") -> dict[str, Any]:
    """Bins that hold something, each with its label; a bin without a value keeps its place and is empty."""
    return {
        "columns": [
            {
                "label": one[label],
                "mean": one.get(mean),
                "low": one.get(mean) if one.get("low") is None else one["low"],
                "high": one.get(mean) if one.get("high") is None else one["high"],
                "queries": one.get("queries"),
            }
            for one in bins
        ]
    }


def _one_scale(charts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Small multiples share their axis, so that heights compare."""
    values = [
        value
        for chart in charts
        for column in chart["columns"]
        for value in (column["mean"], column["low"], column["high"])
        if value is not None
    ]
    if not values:
        return None
    axis = Axis.around(values, most=4)
    for chart in charts:
        widest = max(len(str(column["label"])) for column in chart["columns"]) + 2
        step = math.ceil(widest * len(chart["columns"]) / _LABEL_ROOM)
        for number, column in enumerate(chart["columns"]):
            # A few too many stand in two lines; of very many some are left out.
            column["lower"] = step == 2 and number % 2 == 1
            column["labelled"] = step == 2 or number % step == 0
        for number, column in enumerate(chart["columns"]):
            column["x"] = (number + 0.5) / len(chart["columns"]) * 100
            if column["mean"] is not None:
                column |= {f"{end}_y": 100 - axis.at(column[end]) for end in ("mean", "low", "high")}
    return {"axis": axis, "charts": charts}


def _placed(axis: Axis, between: dict[str, float]) -> dict[str, Any]:
    """An interval with its places on the axis, in percent."""
    at = {f"{end}_at": axis.at(between[end]) for end in ("low", "mean", "high")}
    return {**at, "value": between}


def _figure(value: float | None, digits: int = 4) -> str:
    """As tables of this field have it: no zero before the point."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _signed(value: float, digits: int = 3) -> str:
    value = round(value, digits) or 0.0  # nothing is not less than nothing
    text = f"{value:+.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.{digits}f}"
    return text.replace("-", "−") if value else text[1:]


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else _figure(value, 3)


def _si(value: float | None, digits: int = 3) -> str:
    """With a prefix: 12.3 G."""
    if value is None:
        return "–"
    for size, prefix in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {prefix}"
    return f"{value:.{digits}g} "


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{_si(value)}B"


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, int | float) else _cell(value)


def _cell(value: Any) -> str:
    """What a table of unknown columns shows: intervals as value (low to high), numbers short, the rest as text."""
    if isinstance(value, dict) and {"low", "high"} <= value.keys():
        middle = value.get("mean", value.get("value"))
        return f"{_cell(middle)} ({_cell(value['low'])} to {_cell(value['high'])})"
    if isinstance(value, float) and 0.9995 <= value < 1:
        return _figure(value, 6)  # not one
    if isinstance(value, float):
        return _figure(value, 3) if not value or abs(value) >= 0.0005 else f"{value:.1g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "–" if value is None else str(value)
