"""Whether systems differ: paired tests over the same queries, corrected for their number, with intervals.

The t-test and the randomisation test agree on measures such as these, and others have less power or less cause to be
trusted (Smucker, Allan and Carterette, CIKM 2007). Both are scipy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..errors import InputError

__all__ = ["Comparison", "Interval", "compare", "holm", "interval", "largest_changes"]

PerQuery = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Value by system, query id and measure, as in `sightline.eval.evaluate.Outcome`."""

_BATCH = 1000  # resamples held in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over queries, and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems by one measure.

    Args:
        measure: its name.
        a: one system.
        b: the other.
        difference: mean of ``a`` minus mean of ``b``, with its paired bootstrap interval.
        p_t: two-sided paired t-test.
        p_randomisation: two-sided paired randomisation test (Fisher): which of the two scores is whose, by query.
        p_holm: the latter after Holm's correction over all pairs that were compared.
        wins: queries on which ``a`` is better.
        ties: on which both are the same.
        losses: on which ``b`` is better.
    """

    measure: str
    a: str
    b: str
    difference: Interval
    p_t: float
    p_randomisation: float
    p_holm: float
    wins: int
    ties: int
    losses: int


def compare(per_query: PerQuery, measure: str, *, seed: int = 0, resamples: int = 9999) -> list[Comparison]:
    """Compare every pair of systems.

    Args:
        per_query: value by system, query id and measure; every system over the same queries.
        measure: which of the measures.
        seed: of the resampling; the same gives the same.
        resamples: of bootstrap and randomisation. With few queries all possibilities are gone through instead.

    Returns:
        One `Comparison` for each pair, in the order in which the systems are given.

    Raises:
        InputError: if the systems are not measured over the same queries, or not by this measure.

    Example:
        >>> values = {"a": {"q1": {"AP": 0.5}, "q2": {"AP": 0.7}}, "b": {"q1": {"AP": 0.4}, "q2": {"AP": 0.7}}}
        >>> [found] = compare(values, "AP")
        >>> round(found.difference.mean, 3), found.wins, found.ties, found.losses, found.p_holm
        (0.05, 1, 1, 0, 1.0)
    """
    from scipy import stats

    values = _matrix(per_query, measure)
    pairs = list(combinations(values, 2))
    tests = []
    for a, b in pairs:
        difference = values[a] - values[b]
        if len(difference) < 2 or not difference.any():  # nothing can be told; scipy has no value for either
            tests.append((1.0, 1.0))
            continue
        t = stats.ttest_rel(values[a], values[b]).pvalue
        randomised = stats.permutation_test(
            (values[a], values[b]),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=_BATCH,
            rng=np.random.default_rng(seed),
        )
        tests.append((float(t), float(randomised.pvalue)))
    corrected = holm([p for _, p in tests])
    return [
        Comparison(
            measure=measure,
            a=a,
            b=b,
            difference=interval(values[a] - values[b], seed=seed, resamples=resamples),
            p_t=p_t,
            p_randomisation=p,
            p_holm=p_holm,
            wins=int((values[a] > values[b]).sum()),
            ties=int((values[a] == values[b]).sum()),
            losses=int((values[a] < values[b]).sum()),
        )
        for (a, b), (p_t, p), p_holm in zip(pairs, tests, corrected, strict=True)
    ]


def interval(values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 9999) -> Interval:
    """The mean of per-query values (or differences) with its 95 % percentile bootstrap interval.

    Args:
        values: float (Q,), at least one.
        seed: of the resampling.
        resamples: how many.

    Example:
        >>> interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    from scipy import stats

    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2 or (data == data[0]).all():  # scipy has no interval for these
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (data,), np.mean, vectorized=True, method="percentile", n_resamples=resamples, batch=_BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(mean, float(found.low), float(found.high))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, in their order (Holm, 1979: step down, keep monotone, at most 1).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = largest
    return corrected


def largest_changes(per_query: PerQuery, a: str, b: str, measure: str, n: int = 5) -> list[tuple[str, float, float]]:
    """The queries on which two systems differ most.

    Args:
        per_query: value by system, query id and measure.
        a: one system.
        b: the other.
        measure: which of the measures.
        n: how many at most; queries without a difference are left out.

    Returns:
        (query id, value of ``a``, value of ``b``), largest difference first, ties by id.

    Raises:
        InputError: as `compare`.
    """
    values = _matrix({a: per_query[a], b: per_query[b]}, measure)
    found = zip(sorted(per_query[a]), values[a].tolist(), values[b].tolist(), strict=True)
    changed = [row for row in found if row[1] != row[2]]
    return sorted(changed, key=lambda row: (-abs(row[1] - row[2]), row[0]))[:n]


def _matrix(per_query: PerQuery, measure: str) -> dict[str, np.ndarray]:
    """float64 (Q,) by system, queries in the order of their ids."""
    systems = list(per_query)
    queries = sorted(per_query[systems[0]]) if systems else []
    if not queries:
        raise InputError("there is nothing to compare: no system, or none with a query")
    for system in systems:
        if per_query[system].keys() != set(queries):
            odd = sorted(per_query[system].keys() ^ set(queries))[0]
            raise InputError(f"{systems[0]!r} and {system!r} are not measured over the same queries: {odd!r} is in one")
        if missing := [id for id in queries if measure not in per_query[system][id]]:
            raise InputError(f"{system!r} has no {measure} for query {missing[0]!r}; measure it first")
    return {
        system: np.array([per_query[system][id][measure] for id in queries], dtype=np.float64) for system in systems
    }
