"""The report as one HTML page: no script, no request, nothing but itself; every text from data is escaped."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..provenance import Provenance
from ..results import Results
from ..significance import Comparison, Interval
from ..summary import Change, Cost, RelevanceQuality, ReliabilityBin, Summary
from . import text
from .bias import BiasView, bias_view
from .plots import SHARES, Axis, difference_path, pareto_front, spread_labels
from .tables import best_systems, significantly_better

__all__ = ["render_page"]


@dataclass(frozen=True, slots=True)
class OverviewColumn:
    """One collection, beside others."""

    anchor: str
    name: str
    measure: str
    queries: int
    values: dict[str, float]
    intervals: dict[str, Interval]
    best: set[str]
    better: set[str]


@dataclass(frozen=True, slots=True)
class Overview:
    """Systems by collections."""

    systems: list[str]
    columns: list[OverviewColumn]


@dataclass(frozen=True, slots=True)
class Placed:
    """An interval with its places on an axis, in percent."""

    value: Interval
    low: float
    mean: float
    high: float

    @classmethod
    def on(cls, axis: Axis, value: Interval) -> Placed:
        """An interval on an axis."""
        return cls(value, axis.at(value.low), axis.at(value.mean), axis.at(value.high))


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One system's mean, and by other measures its ``others``."""

    name: str
    best: bool
    tied: bool
    others: dict[str, float]
    at: Placed


@dataclass(frozen=True, slots=True)
class Quality:
    """All systems' means on one axis."""

    axis: Axis
    rows: list[QualityRow]
    tied: bool


@dataclass(frozen=True, slots=True)
class EffectRow:
    """One comparison."""

    pair: Comparison
    at: Placed


@dataclass(frozen=True, slots=True)
class Effects:
    """Comparisons on one axis."""

    axis: Axis
    rows: list[EffectRow]


@dataclass(frozen=True, slots=True)
class QueryChart:
    """The differences of every query in one comparison, as two shapes."""

    pair: Comparison
    above: str
    below: str
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Point:
    """A system by cost and quality, with its place and that of its label, in percent."""

    number: int
    name: str
    cost: float
    mean: float
    front: bool
    x: float
    y: float
    label_x: float
    label_y: float

    @property
    def moved(self) -> bool:
        """Whether the label does not stand at the point."""
        return (self.label_x, self.label_y) != (self.x, self.y)


@dataclass(frozen=True, slots=True)
class Pareto:
    """Quality by cost; ``alone`` if queries were timed one by one."""

    across: Axis
    up: Axis
    points: list[Point]
    path: str
    alone: bool


@dataclass(frozen=True, slots=True)
class ReliabilityPoint:
    """A bin of a reliability diagram with its place, in percent, and the size of its mark, in pixels."""

    bin: ReliabilityBin
    x: float
    y: float
    size: float


@dataclass(frozen=True, slots=True)
class RelevanceRow:
    """How far one system's relevance can be trusted; ``quality`` is None for a system that has none."""

    name: str
    quality: RelevanceQuality | None
    reason: str
    points: list[ReliabilityPoint]


@dataclass(frozen=True, slots=True)
class Section:
    """One collection; ``quality`` and what follows it are empty or None where only biases were measured."""

    anchor: str
    summary: Summary
    made: Provenance
    bias: BiasView | None
    measure: str = ""
    measures: Sequence[str] = ()
    quality: Quality | None = None
    effects: Effects | None = None
    queries: Sequence[QueryChart] = ()
    relevance: Sequence[RelevanceRow] = ()
    pareto: Pareto | None = None
    cost: Cost | None = None


def render_page(results: Sequence[Results]) -> str:
    """The page for one or several collections.

    Raises:
        InputError: if there are no results.
    """
    if not results:
        raise InputError("there are no results to report")
    names = [result.summary.dataset for result in results]
    page: str = _template().render(
        title=names[0] if len(names) == 1 else f"{len(names)} collections",
        about="evaluation" if any(result.bias is None for result in results) else "bias",
        overview=_overview(results) if len(results) > 1 else None,
        shares=SHARES,
        sections=[_section(result, f"c{number}") for number, result in enumerate(results)],
    )
    return page


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters |= {
        "figure": text.figure,
        "signed": text.signed,
        "p": text.p_value,
        "si": text.si,
        "bytes": text.in_bytes,
        "cell": text.cell,
        "short": text.short,
    }
    return environment.get_template("page.html")


def _finalized(value: Any) -> Any:
    """What the page shows of a value; texts that are marked as safe are the page's own."""
    return text.showable(value) if type(value) is str else value


def _overview(results: Sequence[Results]) -> Overview:
    columns = [
        OverviewColumn(
            anchor=f"c{number}",
            name=result.summary.dataset,
            measure=result.measure,
            queries=result.summary.queries,
            values={system: means[result.measure] for system, means in result.systems.items()},
            intervals=result.summary.intervals,
            best=best_systems(result),
            better=significantly_better(result),
        )
        for number, result in enumerate(results)
        if result.systems
    ]
    return Overview(list(dict.fromkeys(system for result in results for system in result.systems)), columns)


def _section(result: Results, anchor: str) -> Section:
    bias = None if result.bias is None else bias_view(result.bias)
    if not result.systems:
        return Section(anchor, result.summary, result.provenance, bias)
    return Section(
        anchor,
        result.summary,
        result.provenance,
        bias,
        measure=result.measure,
        measures=[name for name in next(iter(result.systems.values())) if name != result.measure],
        quality=_quality(result),
        effects=_effects(result.pairs),
        queries=[_query_chart(result, pair) for pair in result.pairs],
        relevance=_relevance(result.summary) if result.summary.relevance else [],
        pareto=_pareto(result),
        cost=result.summary.cost,
    )


def _quality(result: Results) -> Quality:
    intervals = result.summary.intervals
    axis = Axis.around([end for between in intervals.values() for end in (between.low, between.high)])
    best = best_systems(result)
    rows = [
        QualityRow(
            name=name,
            best=best == {name} and len(intervals) > 1,
            tied=name in best and len(best) > 1,
            others={measure: value for measure, value in means.items() if measure != result.measure},
            at=Placed.on(axis, intervals[name]),
        )
        for name, means in result.systems.items()
    ]
    return Quality(axis, rows, tied=len(best) > 1)


def _effects(pairs: Sequence[Comparison]) -> Effects | None:
    if not pairs:
        return None
    axis = Axis.around([end for pair in pairs for end in (pair.difference.low, pair.difference.high)], zero=True)
    return Effects(axis, [EffectRow(pair, Placed.on(axis, pair.difference)) for pair in pairs])


def _query_chart(result: Results, pair: Comparison) -> QueryChart:
    a, b = result.per_query[pair.a], result.per_query[pair.b]
    differences = sorted((a[id][result.measure] - b[id][result.measure] for id in a), reverse=True)
    above, below = difference_path(differences, "above"), difference_path(differences, "below")
    return QueryChart(pair, above, below, result.changes(pair.a, pair.b))


def _relevance(summary: Summary) -> list[RelevanceRow]:
    return [
        RelevanceRow(
            name,
            quality := summary.relevance.get(name),
            summary.no_relevance.get(name, ""),
            [] if quality is None else [_reliability_point(bin, quality.documents) for bin in quality.reliability],
        )
        for name in summary.systems
    ]


def _reliability_point(bin: ReliabilityBin, documents: int) -> ReliabilityPoint:
    size = 5 + 11 * math.sqrt(bin.documents / max(1, documents))  # pixels
    return ReliabilityPoint(bin, SHARES.at(bin.relevance), 100 - SHARES.at(bin.relevant), size)


def _pareto(result: Results) -> Pareto | None:
    measured = result.summary.cost.systems if result.summary.cost else {}
    means = {name: values[result.measure] for name, values in result.systems.items()}
    spent = (
        {name: cost.latency_ms.p50 for name, cost in measured.items() if name in means}
        if measured
        else result.summary.milliseconds_per_query
    )
    cost = {name: ms for name, ms in spent.items() if ms > 0}
    if len(cost) < 2:
        return None
    front = pareto_front({name: (cost[name], means[name]) for name in cost})
    worst, best = min(means[name] for name in cost), max(means[name] for name in cost)
    room = 0.06 * (best - worst)  # so that no point lies on the axis' figures
    across, up = Axis.logarithmic(cost.values()), Axis.around([worst - room, best + room])
    order = sorted(cost, key=lambda name: (cost[name], -means[name]))
    places = [(across.at(cost[name]), 100 - up.at(means[name])) for name in order]
    points = [
        Point(number, name, cost[name], means[name], name in front, *place, *label)
        for number, (name, place, label) in enumerate(zip(order, places, spread_labels(places), strict=True), start=1)
    ]
    first, *others = [point for point in points if point.front]
    path = f"M{first.x:.4g} 100V{first.y:.4g}" + "".join(f"H{p.x:.4g}V{p.y:.4g}" for p in others) + "H100"
    return Pareto(across, up, points, path, alone=bool(measured))
