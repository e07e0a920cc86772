"""Batches of like lengths under a token budget: little padding, and activations that stay in cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["interruptible", "token_budget_batches", "tokens_at_once"]

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextlib.contextmanager
def interruptible(check: Callable[[], None] | None) -> Iterator[None]:
    """Call ``check`` before every batch of this block in this thread. What it raises ends the work there.

    A batch that has begun cannot be stopped. If ``check`` is None, nothing interrupts the block.

    Example:
        >>> def stop():
        ...     raise TimeoutError
        >>> with interruptible(stop):
        ...     next(token_budget_batches([3], budget=9))
        Traceback (most recent call last):
        TimeoutError
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens, padding included, an encoder reads at once on a device.

    Activations of about 2,000 tokens stay in the last-level cache of a laptop; larger batches were slower on CPU.
    """
    return 2048 if device.type == "cpu" else 65536


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group items so that each batch, padded to its longest item, holds at most ``budget`` tokens.

    Args:
        lengths: the number of tokens of each item.
        budget: the number of tokens of a padded batch. An item that is longer gets a batch of its own.

    Yields:
        Lists of indices into ``lengths``, longest items first; together they are a permutation of all indices.

    Example:
        >>> list(token_budget_batches([3, 9, 4, 2], budget=9))
        [[1], [2, 0], [3]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        if (check := _check.get()) is not None:
            check()
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
