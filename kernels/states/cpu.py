"""The fast path in plain torch: one small product and one reduction per document, on one thread.

Conversion to fp32 stays in a buffer of one document, in cache, and each document's result is independent of the others
to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..threads import one_thread
from .keys import Keys, QuantizedKeys, stored_values

__all__ = ["states_attention", "states_lse", "states_lse_mean", "states_max"]


def _products(q: torch.Tensor, keys: Sequence[Keys]) -> Iterator[torch.Tensor]:
    """For each document, the dot products (S, T_n)."""
    q = q.float()
    values = [stored_values(key) for key in keys]
    row = torch.empty(max(map(len, values), default=0), q.shape[1], device=q.device)
    learning = torch.is_grad_enabled() and (q.requires_grad or any(value.requires_grad for value in values))
    for key, value in zip(keys, values, strict=True):
        # The product is fresh, aligned memory each time: BLAS rounds differently on differently aligned output.
        # Gradients need the keys as they were, and the buffer is written over.
        product = q @ (value.float() if learning else row[: len(value)].copy_(value)).T
        yield product * key.scales if isinstance(key, QuantizedKeys) else product


@one_thread()
def states_lse(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_lse`."""
    return torch.stack([torch.logsumexp(product * scale, dim=1) for product in _products(q, keys)], dim=1)


@one_thread()
def states_lse_mean(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.states_lse_mean`."""
    nothing = q.new_zeros(len(q), dtype=torch.float32)
    lse, means = [], []
    for product in _products(q, keys):
        means.append(product.mean(dim=1) if product.shape[1] else nothing)
        lse.append(torch.logsumexp(product * scale, dim=1))
    return torch.stack(lse, dim=1), torch.stack(means, dim=1)


@one_thread()
def states_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """See `sightline.kernels.states_max`."""
    nothing = q.new_full((len(q),), -torch.inf, dtype=torch.float32)
    return torch.stack([p.amax(dim=1) if p.shape[1] else nothing for p in _products(q, keys)], dim=1)


@one_thread()
def states_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_attention`."""
    (product,) = _products(q, [keys])
    return torch.exp(product * scale - normaliser[:, None]).mean(dim=0)
