"""What the page shows of biases: charts whose axes are shared, and a table beside each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..biases import Bias, BiasBin, DocumentRow, OrderRow, PositionRow, Psi, Slot
from ..significance import Interval
from .plots import Axis

__all__ = ["BiasView", "bias_view"]

_LABEL_ROOM = 38  # characters below the narrowest chart


@dataclass(frozen=True, slots=True)
class Column:
    """A bin of a chart, with its places in percent. A bin without a value keeps its place and is empty."""

    label: str | int | float
    mean: float | None
    low: float | None
    high: float | None
    queries: int | None
    x: float = 0.0
    mean_y: float = 0.0
    low_y: float = 0.0
    high_y: float = 0.0
    labelled: bool = True
    lower: bool = False

    @classmethod
    def of(cls, source: BiasBin | Slot) -> Column:
        """A bin or a slot; where it has no interval, the interval is its value."""
        if isinstance(source, Slot):
            label, mean, queries = source.slot, source.value, None
        else:
            label, mean, queries = source.label, source.mean, source.queries
        low, high = (mean if end is None else end for end in (source.low, source.high))
        return cls(label, mean, low, high, queries)


@dataclass(frozen=True, slots=True)
class Chart:
    """One system's bins."""

    system: str
    columns: list[Column]
    psi: Psi | None = None
    measure: str = ""
    ends: Interval | None = None


@dataclass(frozen=True, slots=True)
class BinRow:
    """A bin of all charts of a group."""

    label: str | int | float
    cells: list[Column | None]
    queries: str


@dataclass(frozen=True, slots=True)
class Group:
    """Charts that share their axis, so that heights compare, and the table of their bins."""

    about: str
    axis: Axis
    charts: list[Chart]
    rows: list[BinRow]


@dataclass(frozen=True, slots=True)
class SpreadRow:
    """A measure over permutations of one reranker's candidates, with its places in percent."""

    order: OrderRow
    low: float
    mean: float
    high: float
    marks: list[float]
    arranged: dict[str, float]


@dataclass(frozen=True, slots=True)
class Spreads:
    """All rerankers' `SpreadRow`, on one axis."""

    axis: Axis
    rows: list[SpreadRow]


@dataclass(frozen=True, slots=True)
class PsiRow:
    """A Position Sensitivity Index, with the bins that are worst and best."""

    about: str
    system: str
    psi: Psi
    worst: str | int | float
    best: str | int | float


@dataclass(frozen=True, slots=True)
class BiasView:
    """What the page shows of the biases on one collection; parts that were not measured are empty or None."""

    psi: list[PsiRow]
    spread: Spreads | None
    slots: Group | None
    position: list[Group]
    lengths: Group | None
    documents: list[DocumentRow]
    facts: list[str]


def bias_view(bias: Bias) -> BiasView:
    """Lay out the biases on one collection."""
    slots = [
        Chart(row.system, list(map(Column.of, row.gold_at)), row.slot_psi, ends=row.ends_minus_middle)
        for row in bias.order
        if row.gold_at
    ]
    position = [row for row in bias.position if row.bins]
    lengths = [Chart(row.system, list(map(Column.of, row.bins)), row.psi) for row in bias.documents if row.bins]
    by_place = [("place in the list", chart) for chart in slots]
    by_axis = [(_axis_words(row.axis, row.length), _position_chart(row)) for row in position]
    by_length = [("length of the document", chart) for chart in lengths]
    return BiasView(
        psi=[row for about, chart in [*by_place, *by_axis, *by_length] if (row := _psi_row(about, chart))],
        spread=_spreads(bias.order) if bias.order else None,
        slots=_group("", slots),
        position=_by_axis(position),
        lengths=_group("", lengths),
        documents=bias.documents,
        facts=list(dict.fromkeys(name for row in bias.documents for name in row.facts)),
    )


def _position_chart(row: PositionRow) -> Chart:
    return Chart(row.system, list(map(Column.of, row.bins)), row.psi, row.measure)


def _by_axis(rows: Sequence[PositionRow]) -> list[Group]:
    """Charts of one axis and length together."""
    groups = []
    for axis, length in dict.fromkeys((row.axis, row.length) for row in rows):
        charts = [_position_chart(row) for row in rows if (row.axis, row.length) == (axis, length)]
        if group := _group(_axis_words(axis, length), charts):
            groups.append(group)
    return groups


def _axis_words(axis: str, length: str) -> str:
    words = {"start": "Character at which the answer starts", "relative": "Relative position of the answer"}
    return words.get(axis, "Position of the answer") + ("" if length == "all" else f", documents of {length} tokens")


def _psi_row(about: str, chart: Chart) -> PsiRow | None:
    held = [(column.mean, column.label) for column in chart.columns if column.mean is not None]
    if chart.psi is None or not held:
        return None
    (_, worst), (_, best) = (pick(held, key=lambda item: item[0]) for pick in (min, max))
    return PsiRow(about, chart.system, chart.psi, worst, best)


def _spreads(order: Sequence[OrderRow]) -> Spreads:
    arranged = [{name: at for name, at in row.arrangements.items() if at is not None} for row in order]
    ends = [end for row in order for end in (row.ndcg.min, row.ndcg.max)]
    axis = Axis.around([*ends, *(value for places in arranged for value in places.values())])
    rows = [
        SpreadRow(
            row,
            low=axis.at(row.ndcg.min),
            mean=axis.at(row.ndcg.mean),
            high=axis.at(row.ndcg.max),
            marks=list(map(axis.at, row.per_permutation)),
            arranged={name: axis.at(value) for name, value in places.items()},
        )
        for row, places in zip(order, arranged, strict=True)
    ]
    return Spreads(axis, rows)


def _group(about: str, charts: Sequence[Chart]) -> Group | None:
    """Charts on one axis; None if they have no value."""
    values = [
        value
        for chart in charts
        for column in chart.columns
        for value in (column.mean, column.low, column.high)
        if value is not None
    ]
    if not values:
        return None
    axis = Axis.around(values, most=4)
    placed = [dataclasses.replace(chart, columns=_placed(chart.columns, axis)) for chart in charts]
    labels = dict.fromkeys(column.label for chart in charts for column in chart.columns)
    return Group(about, axis, placed, [_bin_row(label, placed) for label in labels])


def _placed(columns: Sequence[Column], axis: Axis) -> list[Column]:
    widest = max(len(str(column.label)) for column in columns) + 2
    step = math.ceil(widest * len(columns) / _LABEL_ROOM)
    return [
        dataclasses.replace(
            column,
            x=(number + 0.5) / len(columns) * 100,
            mean_y=_height(axis, column.mean),
            low_y=_height(axis, column.low),
            high_y=_height(axis, column.high),
            # A few too many stand in two lines; of very many some are left out.
            lower=step == 2 and number % 2 == 1,
            labelled=step == 2 or number % step == 0,
        )
        for number, column in enumerate(columns)
    ]


def _height(axis: Axis, value: float | None) -> float:
    return 0.0 if value is None else 100 - axis.at(value)


def _bin_row(label: str | int | float, charts: Sequence[Chart]) -> BinRow:
    cells = [next((c for c in chart.columns if c.label == label), None) for chart in charts]
    counts = dict.fromkeys(c.queries for c in cells if c is not None and c.queries is not None)
    return BinRow(label, cells, ", ".join(map(str, counts)) or "–")
