"""The geometry of the page's plots: axes, per-query differences, the Pareto front. The page itself draws them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["SHARES", "Axis", "difference_path", "pareto_front", "spread_labels"]

_COLUMNS = 600  # of a shape: more queries are averaged in groups, for no screen shows more


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from ``low`` to ``high`` with its ticks.

    Example:
        >>> axis = Axis.around([0.31, 0.68])
        >>> axis.low, axis.high, axis.ticks, round(axis.at(0.5), 1)
        (0.3, 0.7, (0.3, 0.4, 0.5, 0.6, 0.7), 50.0)
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], *, zero: bool = False, most: int = 5) -> Axis:
        """A linear axis that holds all values, and 0 if ``zero``, from tick to tick; at least one value."""
        held = [*values, *([0.0] if zero else [])]
        low, high = min(held), max(held)
        if high - low < 1e-9:
            low, high = low - 0.05, high + 0.05
        rough = (high - low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(n * step, 12) for n in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    @classmethod
    def logarithmic(cls, values: Iterable[float]) -> Axis:
        """A logarithmic axis that holds all values, which are above 0, with ticks at 1, 2 and 5 times powers of ten."""
        held = list(values)
        low, high = min(held) / 1.25, max(held) * 1.25
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 300 else (1,)
        every = [step * 10.0**power for power in powers for step in steps]
        low = max((tick for tick in every if tick <= low), default=low)
        high = min((tick for tick in every if tick >= high), default=high)
        return cls(low, high, tuple(tick for tick in every if low <= tick <= high), log=True)

    def at(self, value: float) -> float:
        """Where a value is, in percent of the axis; values beyond it are at its ends."""
        low, high, value = (math.log(x) for x in (self.low, self.high, value)) if self.log else (
            self.low, self.high, value
        )  # fmt: skip
        return min(100.0, max(0.0, (value - low) / (high - low) * 100))


SHARES = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
"""The axis of probabilities and shares."""


def difference_path(differences: Sequence[float], side: Literal["above", "below"]) -> str:
    """Sorted differences as the ``d`` of an SVG path: a bar per query in a box of 100 by 2, zero in the middle.

    Args:
        differences: the differences of values between 0 and 1, largest first; at least one.
        side: the gains, or the losses.

    Example:
        >>> difference_path([0.5, 0.0], "above")
        'M0 1V0.5H50V1Z'
    """
    group = math.ceil(len(differences) / _COLUMNS)
    heights = [
        sum(part) / len(part) for part in (differences[i : i + group] for i in range(0, len(differences), group))
    ]
    width = 100 / len(heights)
    path, place = [], 0
    while place < len(heights):
        height, start = heights[place], place
        while place < len(heights) and heights[place] == height:
            place += 1
        if (height > 0) if side == "above" else (height < 0):
            top = min(2.0, max(0.0, 1 - height))
            path.append(f"M{start * width:.6g} 1V{top:.4g}H{place * width:.6g}V1Z")
    return "".join(path)


def spread_labels(
    points: Sequence[tuple[float, float]], width: float = 7.5, height: float = 9.0
) -> list[tuple[float, float]]:
    """Places for labels at points, so that no two overlap: at the point itself where that is free, else near it.

    Args:
        points: (x, y) in percent of the plot.
        width: the width of a label, in percent.
        height: the height of a label, in percent.

    Example:
        >>> spread_labels([(10, 10), (90, 90)]), spread_labels([(50, 50), (50, 50)])
        ([(10, 10), (90, 90)], [(50, 50), (57.5, 50.0)])
    """
    placed: list[tuple[float, float]] = []
    rings = [(ring, step) for ring in range(1, 2 + len(points)) for step in range(8 * ring)]
    for x, y in points:
        around = (
            (
                x + ring * width * math.cos(math.tau * step / (8 * ring)),
                y + ring * height * math.sin(math.tau * step / (8 * ring)),
            )
            for ring, step in rings
        )
        inside = (place for place in around if 0 <= place[0] <= 100 and 0 <= place[1] <= 100)
        free = (
            place
            for place in ((x, y), *inside)
            if all(abs(place[0] - a) >= width - 1e-9 or abs(place[1] - b) >= height - 1e-9 for a, b in placed)
        )
        placed.append(next(free, (x, y)))
    return placed


def pareto_front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Points that no other beats by being as cheap and as good, and better in one of the two.

    Args:
        points: the cost and the quality by name.

    Example:
        >>> sorted(pareto_front({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.6)}))
        ['a', 'b']
    """
    front: set[str] = set()
    best, at = float("-inf"), float("nan")
    for name, (cost, quality) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if quality > best:
            best, at = quality, cost
            front.add(name)
        elif quality == best and cost == at:
            front.add(name)
    return front
