"""The fast path in plain torch: one small product per document, reductions over all documents at once.

A product per document costs no more than one over the packed keys (conversion to fp32 stays in a buffer of one
document, in cache), and makes each document's result independent of the others to the last bit. The products are too
small to share: on one thread they take a few milliseconds in all, whereas on several each of some hundred waits for
the slowest thread, and on a busy machine that was seen to take twenty times as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from .keys import Keys, QuantizedKeys

__all__ = ["block_lse", "block_max", "token_attention"]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let the calling thread compute alone; torch keeps this setting per thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _products(q: torch.Tensor, keys: Sequence[Keys]) -> tuple[torch.Tensor, torch.Tensor]:
    """Dot products (T, S) of all documents' tokens, packed, and each document's length (N,)."""
    values = [k.values if isinstance(k, QuantizedKeys) else k for k in keys]
    lengths = [len(v) for v in values]
    columns = q.float().T.contiguous()  # (D, S)
    products = torch.empty(sum(lengths), len(q), device=q.device)
    row = torch.empty(max(lengths, default=0), q.shape[1], device=q.device)
    start = 0
    for key, value, length in zip(keys, values, lengths, strict=True):
        # Into fresh, aligned memory first: BLAS rounds differently on differently aligned output.
        product = row[:length].copy_(value) @ columns
        if isinstance(key, QuantizedKeys):
            product *= key.scales[:, None]
        products[start : start + length] = product
        start += length
    return products, torch.tensor(lengths, device=q.device)


@_one_thread()
def block_lse(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> torch.Tensor:
    """See `sightline.kernels.block_lse`."""
    products, lengths = _products(q, keys)
    logits = products.mul_(scale)
    top = torch.segment_reduce(logits, "max", lengths=lengths, axis=0)  # (N, S)
    logits -= torch.repeat_interleave(top, lengths, dim=0)
    return (top + torch.segment_reduce(logits.exp_(), "sum", lengths=lengths, axis=0).log()).T


@_one_thread()
def block_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """See `sightline.kernels.block_max`."""
    products, lengths = _products(q, keys)
    return torch.segment_reduce(products, "max", lengths=lengths, axis=0).T


@_one_thread()
def token_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
    """See `sightline.kernels.token_attention`."""
    products, _ = _products(q, [keys])
    return torch.exp(products.mul_(scale) - normaliser).mean(dim=1)
