"""Relevance as a probability, fitted to judgements and measured against them. Pure functions on arrays.

Scores become probabilities by Platt scaling (Platt, 1999): a logistic regression on the score, with smoothed targets.
How well probabilities separate what is relevant is the area under the ROC curve (`auroc`); how far they are from the
share that is relevant is the expected calibration error (`calibration_error`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..rerank.layout import RelevanceSpec

__all__ = [
    "BINS",
    "Judged",
    "Thresholds",
    "auroc",
    "bin_places",
    "calibrate",
    "calibration_error",
    "false_accepts",
    "platt_scaling",
    "reliability",
]

BINS = 15  # of equal width, as in Guo et al. (2017)
_STEPS = 200  # of Newton's method; it needs about ten
_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The scores or probabilities that a reranker gave the candidates of one collection, with their judgements.

    Args:
        values: float64 (N,), scores or probabilities.
        relevant: bool (N,), whether each candidate is relevant.
        queries: int64 (N,), the number of each candidate's query, from 0, never decreasing.

    Raises:
        InputError: if the arrays do not have one length, or a value is not finite.

    Example:
        >>> Judged.of([[(2.0, True), (1.0, False)], [(0.5, False)]]).queries.tolist()
        [0, 0, 1]
    """

    values: np.ndarray
    relevant: np.ndarray
    queries: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.relevant) == len(self.queries):
            raise InputError("values, relevant and queries must have the same length")
        if not np.isfinite(self.values).all():
            raise InputError("a value is not finite; every candidate needs a number")

    @classmethod
    def of(cls, lists: Sequence[Sequence[tuple[float, bool]]]) -> Judged:
        """Make one of lists of (value, whether it is relevant) for each query.

        Queries without candidates are left out.
        """
        lists = [pairs for pairs in lists if pairs]
        flat = [pair for pairs in lists for pair in pairs]
        return cls(
            np.array([value for value, _ in flat], dtype=np.float64),
            np.array([relevant for _, relevant in flat], dtype=bool),
            np.repeat(np.arange(len(lists)), [len(pairs) for pairs in lists]).astype(np.int64),
        )

    @property
    def count(self) -> int:
        """The number of queries."""
        return int(self.queries[-1]) + 1 if len(self.queries) else 0


def calibrate(collections: Sequence[Judged]) -> RelevanceSpec:
    """Fit the two numbers that turn a reranker's scores into probabilities.

    Every collection has the same weight, and so has every query within a collection and every candidate within a query.

    Args:
        collections: the scores and judgements of one or several collections.

    Raises:
        InputError: if there is no relevant or no other candidate, or relevant ones do not have higher scores.

    Example:
        >>> scores = [(4.0, True), (3.0, True), (3.0, False), (2.0, True), (2.0, False), (1.0, False)]
        >>> spec = calibrate([Judged.of([scores])])
        >>> round(spec.probability(4.0), 2), round(spec.probability(2.5), 2), round(spec.probability(1.0), 2)
        (0.74, 0.5, 0.26)
    """
    weights = []
    for judged in collections:
        lengths = np.bincount(judged.queries)
        weights.append(1 / (len(collections) * judged.count * lengths[judged.queries]))
    slope, offset = platt_scaling(
        np.concatenate([judged.values for judged in collections]) if collections else np.zeros(0),
        np.concatenate([judged.relevant for judged in collections]) if collections else np.zeros(0, dtype=bool),
        np.concatenate(weights) if collections else np.zeros(0),
    )
    if slope <= 0:
        raise InputError(
            f"relevant candidates do not have higher scores than others (slope {slope:.3g}), so the scores say nothing "
            "about relevance; check the judgements, or take another reranker"
        )
    return RelevanceSpec(slope=slope, offset=offset)


def platt_scaling(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Fit a logistic regression of relevance on the score, with Platt's targets, by Newton's method.

    The targets are (n + 1) / (n + 2) for relevant and 1 / (m + 2) for other candidates, of which there are n and m, so
    that scores which separate the two without an error still give finite numbers (Platt, 1999).

    Args:
        scores: float64 (N,), the scores of candidates.
        relevant: bool (N,), whether each candidate is relevant.
        weights: float64 (N,), the weight of each candidate, above 0. Only ratios count.

    Returns:
        Slope and offset. The probability is ``1 / (1 + exp(-(slope * score + offset)))``.

    Raises:
        InputError: if there is no relevant or no other candidate, or all scores are the same.

    Example:
        >>> slope, offset = platt_scaling(np.array([-1.0, 1.0]), np.array([False, True]), np.ones(2))
        >>> round(slope, 4)  # ln 2, since the targets are 1/3 and 2/3
        0.6931
    """
    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    if not positives or not negatives:
        raise InputError(f"there are {positives} relevant and {negatives} other candidates; fitting needs some of both")
    shift, spread = float(scores.mean()), float(scores.std())
    if not spread > 0:
        raise InputError("all scores are the same; they say nothing about relevance")
    share = weights / weights.sum()
    x = np.stack([(scores - shift) / spread, np.ones(len(scores))], axis=1)
    targets = np.where(relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray) -> float:
        logits = x @ parameters
        return float(share @ (np.logaddexp(0, logits) - targets * logits))

    base = float(share @ targets)
    fitted = np.array([0.0, np.log(base / (1 - base))])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ fitted, -700, 700)))
        gradient = x.T @ (share * (p - targets))
        if np.abs(gradient).max() < _TOLERANCE:
            break
        hessian = (x * (share * p * (1 - p))[:, None]).T @ x
        step, before, size = np.linalg.solve(hessian, gradient), loss(fitted), 1.0
        while size > 1e-6 and loss(fitted - size * step) > before:
            size /= 2
        fitted = fitted - size * step
    slope = float(fitted[0]) / spread
    return slope, float(fitted[1]) - slope * shift


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """What thresholds on some values accept, where the queries that the values are of count more or less often.

    Args:
        values: float64 (U,), the thresholds, rising.
        positive: sparse float64 (Q, U), how many values of each query are at each threshold and below the next, of
            those that should be accepted.
        negative: sparse float64 (Q, U), the same of those that should not.

    Example:
        >>> queries = np.array([0, 1])
        >>> one = Thresholds.of((np.array([0.9, 0.4]), queries), (np.array([0.6, 0.2]), queries), count=2)
        >>> one.auroc(np.ones((1, 2))).tolist(), one.false_accepts(np.ones((1, 2)), 0.9)[0].tolist()
        ([0.75], [0.5])
    """

    values: np.ndarray
    positive: Any
    negative: Any

    @classmethod
    def of(
        cls,
        positive: tuple[np.ndarray, np.ndarray],
        negative: tuple[np.ndarray, np.ndarray],
        count: int,
        levels: int | None = None,
    ) -> Thresholds:
        """Count values.

        Args:
            positive: float64 (P,), values that should be accepted, and int64 (P,), the query of each.
            negative: float64 (M,), values that should not, and int64 (M,), the query of each.
            count: the number of queries.
            levels: the number of quantiles of each kind at which thresholds are set, since all values are slow if there
                are many. If None, there is one at every value.
        """
        from scipy.sparse import csr_array

        values = np.unique(np.concatenate([positive[0], negative[0]]))
        if levels is not None and len(values) > 2 * levels:
            shares = np.linspace(0, 1, levels)
            kinds = [part for part, _ in (positive, negative) if len(part)]
            values = np.unique([np.quantile(part, shares, method="inverted_cdf") for part in kinds])

        def counted(part: np.ndarray, queries: np.ndarray) -> Any:
            place = np.searchsorted(values, part, side="right") - 1
            return csr_array((np.ones(len(part)), (queries, place)), shape=(count, len(values)))

        return cls(values, counted(*positive), counted(*negative))

    def auroc(self, counts: np.ndarray) -> np.ndarray:
        """Share of pairs of a positive and a negative in which the positive has the higher value; ties count half.

        Args:
            counts: (R, Q), how often each query counts in each of R resamples.

        Returns:
            float64 (R,), NaN for a resample without both kinds.
        """
        positive, negative = counts @ self.positive, counts @ self.negative
        below = np.cumsum(negative, axis=1) - negative / 2
        return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    def false_accepts(self, counts: np.ndarray, recall: float) -> tuple[np.ndarray, np.ndarray]:
        """Share of negatives that are accepted by the highest threshold that accepts enough positives.

        Args:
            counts: (R, Q), how often each query counts in each of R resamples.
            recall: the share of positives that must be accepted, above 0, at most 1.

        Returns:
            Shares and thresholds, float64 (R,); the share is NaN for a resample without both kinds.
        """
        positive, negative = counts @ self.positive, counts @ self.negative
        total = positive.sum(axis=1)
        accepted = _from_above(positive) >= recall * total[:, None] * (1 - 1e-12)
        at = np.maximum(accepted.sum(axis=1) - 1, 0)  # accepted falls as the threshold rises
        share = _ratio(_from_above(negative)[np.arange(len(at)), at], negative.sum(axis=1))
        return np.where(total > 0, share, np.nan), self.values[at]


def _from_above(weights: np.ndarray) -> np.ndarray:
    """For each value, how much has this value or a higher one."""
    summed: np.ndarray = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    return summed


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    out = np.full(len(part), np.nan)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def auroc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """Compute the area under the ROC curve: how often a positive has a higher value than a negative. Ties count half.

    Args:
        positive: float64 (P,), the values of what should be accepted.
        negative: float64 (M,), the values of what should not be accepted.

    Returns:
        A number from 0 to 1, where .5 is chance; None unless there are some of both kinds.

    Example:
        >>> auroc(np.array([0.9, 0.4]), np.array([0.6, 0.4]))
        0.625
    """
    area = float(_together(positive, negative).auroc(np.ones((1, 1)))[0])
    return None if np.isnan(area) else area


def false_accepts(positive: np.ndarray, negative: np.ndarray, recall: float = 0.9) -> tuple[float, float] | None:
    """Share of negatives at or above the highest threshold that accepts a share of the positives, and that threshold.

    Args:
        positive: float64 (P,), the values of what should be accepted.
        negative: float64 (M,), the values of what should not be accepted.
        recall: the share of positives that must be accepted, above 0, at most 1.

    Returns:
        (share, threshold), or None unless there are some of both.

    Example:
        >>> false_accepts(np.array([0.9, 0.8, 0.3]), np.array([0.85, 0.5, 0.1]), recall=0.6)
        (0.3333333333333333, 0.8)
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall must be above 0 and at most 1, not {recall}")
    if not len(positive) or not len(negative):
        return None
    share, threshold = _together(positive, negative).false_accepts(np.ones((1, 1)), recall)
    return float(share[0]), float(threshold[0])


def _together(positive: np.ndarray, negative: np.ndarray) -> Thresholds:
    """Values that all count once."""
    kinds = [(values, np.zeros(len(values), dtype=np.int64)) for values in (positive, negative)]
    return Thresholds.of(kinds[0], kinds[1], count=1)


def reliability(probabilities: np.ndarray, relevant: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Probabilities and judgements by bins of equal width.

    Args:
        probabilities: float64 (N,), probabilities from 0 to 1. 1 is in the last bin.
        relevant: bool (N,), whether each candidate is relevant.
        bins: the number of bins.

    Returns:
        float64 (bins, 3): how many probabilities are in each, their sum, and how many of these are of relevant ones.

    Example:
        >>> reliability(np.array([0.1, 0.2, 1.0]), np.array([False, True, True]), bins=2).round(3).tolist()
        [[2.0, 0.3, 1.0], [1.0, 1.0, 1.0]]
    """
    place = bin_places(probabilities, bins)
    parts = (None, probabilities, relevant.astype(np.float64))
    return np.stack([np.bincount(place, part, minlength=bins).astype(np.float64) for part in parts], axis=1)


def bin_places(probabilities: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each probability, int64 (N,).

    Raises:
        InputError: if one is not from 0 to 1.
    """
    if len(probabilities) and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError("probabilities must be from 0 to 1")
    places: np.ndarray = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return places


def calibration_error(probabilities: np.ndarray, relevant: np.ndarray, bins: int = BINS) -> float | None:
    """Compute the expected calibration error: how far a bin's mean probability is from its share of relevant ones.

    Bins are of equal width and weigh by what is in them (Naeini et al. 2015; Guo et al. 2017, equation 3).

    Args:
        probabilities: float64 (N,), probabilities from 0 to 1.
        relevant: bool (N,), whether each candidate is relevant.
        bins: the number of bins.

    Returns:
        A number from 0 to 1, or None without a probability.

    Example:
        >>> calibration_error(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, False]))
        0.25
    """
    if not len(probabilities):
        return None
    binned = reliability(probabilities, relevant, bins)
    return float(np.abs(binned[:, 1] - binned[:, 2]).sum() / len(probabilities))
