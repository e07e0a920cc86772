"""Batches of like lengths under a token budget: little padding, and activations that stay in cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["token_budget_batches"]


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group items so that each batch, padded to its longest item, holds at most ``budget`` tokens.

    Args:
        lengths: tokens per item.
        budget: tokens per padded batch; an item longer than this gets a batch of its own.

    Yields:
        Lists of indices into ``lengths``, longest items first; together they are a permutation of all indices.

    Example:
        >>> list(token_budget_batches([3, 9, 4, 2], budget=9))
        [[1], [2, 0], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
