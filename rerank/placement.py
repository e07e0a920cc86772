"""Where ranked passages stand in the prompt of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from ..errors import InputError

__all__ = ["Order", "arrange"]

Order = Literal["relevance", "basin"]

T = TypeVar("T")


def arrange(ranked: Sequence[T], order: Order = "basin") -> list[T]:
    """Arrange ranked items for the prompt of a language model.

    Language models attend more to the items at the beginning and the end of a list than to those between, the
    "attention basin" (Yi et al. 2025, https://arxiv.org/abs/2508.05128; earlier Liu et al. 2023, "Lost in the Middle",
    https://arxiv.org/abs/2307.03172). The basin order puts the best item first, the second last, the third second, and
    so on, so that the least relevant ones stand in the middle. Yi et al. also measure the profile of each model; this
    order assumes that it is symmetric and deepest in the middle.

    Args:
        ranked: the items, best first. The list is not changed.
        order: ``basin``, or ``relevance`` to keep the best first.

    Raises:
        InputError: if there is no such order.

    Example:
        >>> arrange([1, 2, 3, 4, 5])
        [1, 3, 5, 4, 2]
    """
    if order not in ("relevance", "basin"):
        raise InputError(f"the order must be 'relevance' or 'basin', not {order!r}")
    return list(ranked) if order == "relevance" else [*ranked[::2], *ranked[1::2][::-1]]
