"""Systems over several collections: the mean of their means, and where one is worst against another.

Each collection counts alike, however many queries it has. Intervals resample the queries within each collection (a
stratified bootstrap), so they say how sure the mean is for these collections, not for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .results import Results
from .significance import Interval, bootstrap_means, percentile_interval

__all__ = ["Against", "Overall", "overall"]


@dataclass(frozen=True, slots=True)
class Against:
    """A system against another over several collections.

    Args:
        difference: mean difference, new minus other, with its 95 % interval.
        worst: the collection where the difference is smallest.
        worst_difference: the difference there, with its 95 % interval.
    """

    difference: Interval
    worst: str
    worst_difference: Interval


@dataclass(frozen=True, slots=True)
class Overall:
    """Systems over several collections.

    Args:
        measure: the name of the measure.
        collections: names of the collections.
        means: for each system that ran on all of them, the mean of its means, with its 95 % interval.
        best: the system with the highest mean.
        against: the best system against each other one.
    """

    measure: str
    collections: tuple[str, ...]
    means: Mapping[str, Interval]
    best: str
    against: Mapping[str, Against]


def overall(results: Sequence[Results], *, seed: int = 0) -> Overall:
    """Means over collections, by the first measure of the results.

    Args:
        results: the results of at least one collection each, all with the same first measure.
        seed: the seed of the resampling.

    Raises:
        InputError: if there are no results, measures differ, or no system ran on all collections.
    """
    if not results:
        raise InputError("there are no results to take a mean of")
    measure = results[0].measure
    if other := next((result.measure for result in results if result.measure != measure), None):
        raise InputError(
            f"results in {measure} and in {other} have no common mean; evaluate with the same measure first"
        )
    systems = [name for name in results[0].systems if all(name in result.systems for result in results)]
    if not systems:
        raise InputError("no system ran on all collections, so there is no mean to compare")
    values = [_values(result, systems, measure) for result in results]
    drawn = [bootstrap_means(part, seed=seed + number) for number, part in enumerate(values)]
    observed = np.array([part.mean(axis=0) for part in values])  # (collections, systems)
    resampled = np.mean(drawn, axis=0)  # (resamples, systems)
    best = int(observed.mean(axis=0).argmax())
    against = {}
    for number, name in enumerate(systems):
        if number == best:
            continue
        differences = observed[:, best] - observed[:, number]
        worst = int(differences.argmin())
        against[name] = Against(
            percentile_interval(differences.mean(), resampled[:, best] - resampled[:, number]),
            results[worst].summary.dataset,
            percentile_interval(differences[worst], drawn[worst][:, best] - drawn[worst][:, number]),
        )
    return Overall(
        measure,
        tuple(result.summary.dataset for result in results),
        {name: percentile_interval(observed[:, i].mean(), resampled[:, i]) for i, name in enumerate(systems)},
        systems[best],
        against,
    )


def _values(result: Results, systems: Sequence[str], measure: str) -> np.ndarray:
    """float64 (queries, systems)."""
    queries = list(result.per_query[systems[0]])
    return np.array([[result.per_query[name][query][measure] for name in systems] for query in queries])
