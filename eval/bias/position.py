"""Quality by the place of the evidence in its document, for retrievers and rerankers alike.

Each query is measured once, by any system. Its value then goes to the bin of its answer's position. Positions come with
the data (`sightline.eval.bias.positions`). Documents and questions are not changed, so bins differ by more than
position: a late answer is one in a long document. Relative positions, and those within documents of similar length,
remove that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...errors import InputError
from ..significance import interval
from .sensitivity import PSI, grouped_psi

__all__ = ["CHARACTERS", "LENGTHS", "RELATIVE", "Bin", "Bins", "PositionBias", "Span", "Trend", "measure_position"]


@dataclass(frozen=True, slots=True)
class Span:
    """The place of a query's answer in its document.

    Args:
        start: the place of its first character.
        end: the place after its last character.
        length: the length of the document, in characters.
        tokens: the number of the document's tokens, as the data set counts them. None if it does not.

    Example:
        >>> Span(start=20, end=30, length=100).relative
        0.25
    """

    start: int
    end: int
    length: int
    tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or self.length < 1:
            raise InputError(f"characters [{self.start}, {self.end}) of {self.length} are not a place in a document")

    @property
    def relative(self) -> float:
        """The span's midpoint as a share of the length, from 0 to 1. What is beyond is clipped, as in PosIR."""
        return min(1.0, (self.start + self.end) / 2 / self.length)


@dataclass(frozen=True, slots=True)
class Bins:
    """Intervals that share no value: each is open where its neighbour is closed.

    Args:
        edges: B + 1 ascending numbers. The last one may be infinite.
        labels: the names of the B bins.
        closed: the closed side of each bin. ``left``: [a, b), and infinity belongs to none; ``right``: (a, b], but the
            first bin is [a, b].

    Raises:
        InputError: if the edges do not ascend, or there is not one label fewer than edges.

    Example:
        >>> [CHARACTERS.place(start) for start in (0, 99, 100, 499, 500, 10_000)]
        [0, 0, 1, 4, 5, 5]
        >>> RELATIVE.place(0.05), RELATIVE.place(0.0501), RELATIVE.place(1.0), RELATIVE.place(1.1)
        (0, 1, 19, None)
    """

    edges: tuple[float, ...]
    labels: tuple[str, ...]
    closed: Literal["left", "right"]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.edges) - 1 or list(self.edges) != sorted(set(self.edges)):
            raise InputError("bins need ascending edges, and one label fewer than edges")

    def place(self, value: float) -> int | None:
        """Return the index of the bin that has the value; None if it is outside of all bins."""
        if self.closed == "right" and value == self.edges[0]:
            return 0
        place = int(np.searchsorted(self.edges, value, side="right" if self.closed == "left" else "left")) - 1
        return place if 0 <= place < len(self.labels) else None


# SQuAD-PosQ's code has these edges in both neighbours (exp_SQuAD-PosQ.py: min <= start <= max); here each is in one.
CHARACTERS = Bins(
    (0, 100, 200, 300, 400, 500, float("inf")), ("0-99", "100-199", "200-299", "300-399", "400-499", "500-"), "left"
)
# PosIR: pandas.cut into 20, of the span's midpoint over the document's length (ndcg_PSI_analysis.py).
RELATIVE = Bins(tuple(np.linspace(0, 1, 21).tolist()), tuple(f"{5 * i}-{5 * i + 5} %" for i in range(20)), "right")
# PosIR: Q1 to Q4, tokens of the document.
LENGTHS = Bins((0, 512, 1024, 1536, float("inf")), ("1-512", "513-1024", "1025-1536", "1537-"), "right")


@dataclass(frozen=True, slots=True)
class Bin:
    """Quality of one bin's queries: the mean with its 95 % bootstrap interval."""

    label: str
    queries: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trend:
    """The relation between bin means and bin centres, unweighted as in PosIR. None where scipy has no value.

    Args:
        slope: the slope of the regression line: what the last position gains over the first.
        pearson: the correlation coefficient of Pearson.
        spearman: the correlation coefficient of the ranks.
        kendall: the correlation coefficient of Kendall, tau-b.
    """

    slope: float | None
    pearson: float | None
    spearman: float | None
    kendall: float | None


@dataclass(frozen=True, slots=True)
class PositionBias:
    """One system's quality by the position of the evidence.

    Args:
        system: the name of the system.
        measure: the name of the measure.
        axis: the kind of position. ``start``: the first character of the answer, in the bins of SQuAD-PosQ;
            ``relative``: the midpoint of the answer divided by the document's length, in PosIR's 20 bins.
        length: ``all``, or a range of the documents' tokens, in PosIR's buckets.
        queries: the number of queries in the bins.
        mean: the unweighted mean of the bin means.
        bins: the bins that have queries, in the order of position.
        psi: the Position Sensitivity Index over these bins.
        trend: the trend over the bins' centres. None for ``start``, whose last bin has no centre.
    """

    system: str
    measure: str
    axis: Literal["start", "relative"]
    length: str
    queries: int
    mean: float
    bins: tuple[Bin, ...]
    psi: PSI
    trend: Trend | None

    def as_dict(self) -> dict[str, Any]:
        """Return the bias as JSON-like values."""
        return dataclasses.asdict(self)


def measure_position(
    system: str,
    measure: str,
    values: Mapping[str, float],
    spans: Mapping[str, Span],
    *,
    seed: int = 0,
    resamples: int = 9999,
) -> list[PositionBias]:
    """Sort a system's values of single queries by the position of the evidence.

    Args:
        system: the name of the system in the result.
        measure: the name of the measure. Its values must not be negative, as those of ``nDCG@10``, or of ``Success@1``,
            which is accuracy.
        values: the value by query id, as `sightline.eval.metrics.measure_rankings` returns them.
        spans: the span by query id. Queries without one are left out.
        seed: the seed of the intervals.
        resamples: the number of resamples from which each interval is drawn.

    Returns:
        The bias by start over all documents, by relative position over all documents, and by relative position for each
        length bucket if the documents' tokens are counted.

    Raises:
        InputError: if no query has both a value and a span.

    Example:
        >>> spans = {"q1": Span(0, 10, 600), "q2": Span(550, 560, 600)}
        >>> start, relative = measure_position("dense", "nDCG@10", {"q1": 1.0, "q2": 0.5}, spans)
        >>> [(bin.label, bin.mean) for bin in start.bins], start.psi.value
        ([('0-99', 1.0), ('500-', 0.5)], 0.5)
    """
    known = [id for id in values if id in spans]
    if not known:
        raise InputError(f"{system!r}: none of {len(values)} measured queries has an answer's position")

    def study(axis: Literal["start", "relative"], ids: Sequence[str], length: str) -> PositionBias:
        bins = CHARACTERS if axis == "start" else RELATIVE
        groups: dict[int, list[float]] = {}
        for id in ids:
            place = bins.place(spans[id].start if axis == "start" else spans[id].relative)
            assert place is not None  # both axes are bounded, and covered
            groups.setdefault(place, []).append(values[id])
        places = sorted(groups)
        intervals = [interval(groups[place], seed=seed, resamples=resamples) for place in places]
        means = [between.mean for between in intervals]
        return PositionBias(
            system=system,
            measure=measure,
            axis=axis,
            length=length,
            queries=len(ids),
            mean=float(np.mean(means)),
            bins=tuple(
                Bin(bins.labels[place], len(groups[place]), between.mean, between.low, between.high)
                for place, between in zip(places, intervals, strict=True)
            ),
            psi=grouped_psi([groups[place] for place in places], seed=seed, resamples=resamples),
            trend=_trend([(bins.edges[p] + bins.edges[p + 1]) / 2 for p in places], means)
            if axis == "relative"
            else None,
        )

    studies = [study("start", known, "all"), study("relative", known, "all")]
    buckets: dict[int, list[str]] = {}
    for id in known:
        tokens = spans[id].tokens
        if tokens is not None and (place := LENGTHS.place(tokens)) is not None:
            buckets.setdefault(place, []).append(id)
    return studies + [study("relative", buckets[place], LENGTHS.labels[place]) for place in sorted(buckets)]


def _trend(centres: Sequence[float], means: Sequence[float]) -> Trend:
    from scipy import stats

    if len(centres) < 2:
        return Trend(None, None, None, None)
    if np.ptp(means) < 1e-12:  # a level line, up to rounding: correlations with a constant are undefined
        return Trend(0.0, None, None, None)
    return Trend(
        float(stats.linregress(centres, means).slope),
        float(stats.pearsonr(centres, means).statistic),
        float(stats.spearmanr(centres, means).statistic),
        float(stats.kendalltau(centres, means).statistic),
    )
