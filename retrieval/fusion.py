"""Fusion of several rankings of the same rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from ..errors import InputError

__all__ = ["RRF_CONSTANT", "reciprocal_rank", "weighted_sum"]

RRF_CONSTANT = 60
"""The damping constant of reciprocal rank fusion, as in the paper."""
Id = TypeVar("Id", bound=Hashable)


def reciprocal_rank(runs: Sequence[Mapping[Id, float]], k: int = RRF_CONSTANT) -> dict[Id, float]:
    """Fuse rankings by reciprocal rank (Cormack et al., 2009): the sum over runs of ``1 / (k + rank)``, ranks from 1.

    Args:
        runs: mappings of id to score. Higher is better; ties keep the order of the mapping.
        k: the damping constant, 60 in the paper.

    Returns:
        The fused score of each id, best first.

    Example:
        >>> list(reciprocal_rank([{"a": 9.0, "b": 8.0}, {"b": 0.7, "c": 0.1}]))
        ['b', 'a', 'c']
    """
    fused: dict[Id, float] = {}
    for run in runs:
        for rank, id in enumerate(sorted(run, key=lambda i: -run[i]), start=1):
            fused[id] = fused.get(id, 0.0) + 1 / (k + rank)
    return _sorted(fused)


def weighted_sum(runs: Sequence[Mapping[Id, float]], weights: Sequence[float]) -> dict[Id, float]:
    """Fuse rankings by a weighted sum of min-max normalised scores. A run that lacks an id adds nothing to its score.

    Args:
        runs: mappings of id to score. Higher is better.
        weights: the weight of each run.

    Returns:
        The fused score of each id, best first. A run whose scores are all equal gives each of its ids the full weight.

    Raises:
        InputError: if there is not one weight per run.

    Example:
        >>> weighted_sum([{"a": 9.0, "b": 8.0}, {"b": 0.7, "c": 0.1}], [0.5, 0.5])
        {'a': 0.5, 'b': 0.5, 'c': 0.0}
    """
    if len(runs) != len(weights):
        raise InputError(f"{len(runs)} runs need as many weights, not {len(weights)}")
    fused: dict[Id, float] = {}
    for run, weight in zip(runs, weights, strict=True):
        low, high = min(run.values(), default=0.0), max(run.values(), default=0.0)
        for id, score in run.items():
            share = (score - low) / (high - low) if high > low else 1.0
            fused[id] = fused.get(id, 0.0) + weight * share
    return _sorted(fused)


def _sorted(scores: dict[Id, float]) -> dict[Id, float]:
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
