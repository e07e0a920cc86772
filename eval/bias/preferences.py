"""Preferences between two documents, and how far they depend on the order in which a reranker is given a list.

Pairwise preference instability (PPI) and global preference inconsistency (GPI) of Bito, Ren and He ("Position Bias
Undermines Preference Consistency in Listwise LLM-Based Reranking", RecSys 2026, https://arxiv.org/abs/2608.03091), as
the code that the authors published with the paper computes them. Their third measure, listwise output consistency, is
the mean Kendall's tau.
"""

from __future__ import annotations

import numpy as np

__all__ = ["global_inconsistency", "pairwise_instability"]

_PARTS = 3  # of a list: head, middle and tail, as the authors have it
_LEAST_GAIN = 1e-9


def pairwise_instability(places: np.ndarray, ranks: np.ndarray) -> float | None:
    """Compute how far preferences between documents depend on the parts of the list they are given in (PPI).

    The list has three parts. For every pair of documents, and every two parts in which they were given, there is a
    share of rankings in which the first document is above the second. The highest of these shares minus the lowest is
    the pair's instability.

    Few permutations make it larger, since a share over a single ranking is 0 or 1. Compare it only for one number of
    permutations.

    Args:
        places: int (K, N), the place, from 0, at which each of N documents was given in K permutations.
        ranks: int (K, N), the rank of each document in the resulting rankings.

    Returns:
        The mean over pairs that were given in at least two ways, from 0 to 1; None if there is none.

    Example:
        >>> places = np.array([[0, 1, 2], [2, 1, 0]])
        >>> pairwise_instability(places, np.array([[0, 1, 2], [0, 1, 2]])), pairwise_instability(places, places)
        (0.0, 1.0)
    """
    count = places.shape[1]
    part = np.minimum(places * _PARTS // count, _PARTS - 1)
    first, second = np.triu_indices(count, 1)
    pair = part[:, first] * _PARTS + part[:, second]  # (K, pairs)
    above = ranks[:, first] < ranks[:, second]
    ways = [pair == way for way in range(_PARTS * _PARTS)]
    seen = np.stack([way.sum(axis=0) for way in ways])  # (9, pairs)
    shares = np.stack([(way & above).sum(axis=0) for way in ways]) / np.maximum(seen, 1)
    highest, lowest = (np.where(seen > 0, shares, -1).max(axis=0), np.where(seen > 0, shares, 2).min(axis=0))
    several = (seen > 0).sum(axis=0) > 1
    return float((highest - lowest)[several].mean()) if several.any() else None


def global_inconsistency(ranks: np.ndarray) -> float:
    """Compute the share of preferences between two documents that contradict the best-fitting ranking (GPI).

    A ranking that puts one document above another contradicts the share of the K rankings that do not. The best-fitting
    one (Kemeny's) is searched for from the order of the mean ranks, by exchanging two documents as long as that helps.
    So the result is at least the true minimum, which is NP-hard to find.

    Args:
        ranks: int (K, N), the rank of each of N >= 2 documents in K rankings.

    Returns:
        The mean over pairs, from 0 to 0.5.

    Example:
        >>> global_inconsistency(np.array([[0, 1, 2], [0, 1, 2]])), global_inconsistency(np.array([[0, 1], [1, 0]]))
        (0.0, 0.5)
    """
    count = ranks.shape[1]
    above = (ranks[:, :, None] < ranks[:, None, :]).mean(axis=0)  # (N, N), share of rankings with i above j
    order = np.lexsort((np.arange(count), ranks.mean(axis=0)))
    while True:
        arranged = above[np.ix_(order, order)]
        gain = _gain_of_exchanges(arranged - arranged.T)
        best = int(gain.argmax())
        i, j = divmod(best, count)
        if gain[i, j] < _LEAST_GAIN:
            break
        order[[i, j]] = order[[j, i]]
    return float(np.tril(arranged, -1).sum() / (count * (count - 1) / 2))


def _gain_of_exchanges(lead: np.ndarray) -> np.ndarray:
    """By how much less a ranking is at odds if its documents at i < j change places; 0 elsewhere.

    Args:
        lead: (N, N), share of rankings with i above j less the share with j above i, in the ranking's order.
    """
    by_row, by_column = np.cumsum(lead, axis=1), np.cumsum(lead, axis=0)
    past_first = by_row - np.diag(by_row)[:, None]  # the document at i falls below all up to j
    past_second = np.diag(by_column)[None, :] - by_column  # the document at j rises above those between
    return np.triu(-(past_first + past_second), 1)
