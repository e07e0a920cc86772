"""The fast path on CPUs: int8 keys by one integer product, others by one small product per document, on one thread.

The products of all documents lie in one array, which NumPy reduces document by document: its loops give a document the
same bits wherever in the array it lies. Where gradients flow, or tensors are elsewhere, torch reduces tensor by tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..threads import one_thread
from .integer import exact_products, integer_products
from .keys import Keys, Products, QuantizedKeys, stored_values

__all__ = ["products"]

_TOKENS_AT_ONCE = 8192  # of one integer product: a copy of their keys, and the sums, stay in the processor's cache


@one_thread()
def products(q: torch.Tensor, keys: Sequence[Keys]) -> Products:
    """See `sightline.kernels.states_products`."""
    q = q.float()
    values = [stored_values(key) for key in keys]
    learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, *values))
    if keys and (learning or q.device.type != "cpu"):
        return _Listed([_scaled(q @ value.float().T, key) for key, value in zip(keys, values, strict=True)])
    lengths = [value.shape[0] for value in values]
    offsets = [0, *itertools.accumulate(lengths)]
    packed = torch.empty(len(q), offsets[-1])
    buffer = torch.empty(max(lengths, default=0), q.shape[1])
    for run in _runs(keys, offsets):
        out = packed[:, offsets[run.start] : offsets[run.stop]]
        together = [key for key in keys[run.start : run.stop] if isinstance(key, QuantizedKeys)]
        if together and out.shape[1] and exact_products():
            integer_products(q.detach(), together, out)
            continue
        for place in run:
            # The product is fresh, aligned memory each time: BLAS rounds differently on differently aligned output.
            product = q @ buffer[: lengths[place]].copy_(values[place]).T
            packed[:, offsets[place] : offsets[place + 1]] = _scaled(product, keys[place])
    return _Packed(packed.numpy(), np.array(offsets))


def _runs(keys: Sequence[Keys], offsets: Sequence[int]) -> Iterator[range]:
    """Neighbouring places whose keys are kept alike, few enough of them for one product."""
    start = 0
    for stop in range(1, len(keys) + 1):
        if (
            stop == len(keys)
            or type(keys[stop]) is not type(keys[start])
            or offsets[stop + 1] - offsets[start] > _TOKENS_AT_ONCE
        ):
            yield range(start, stop)
            start = stop


def _scaled(product: torch.Tensor, key: Keys) -> torch.Tensor:
    return product * key.scales if isinstance(key, QuantizedKeys) else product


@dataclass(frozen=True, slots=True)
class _Listed(Products):
    """Products in a tensor (S, T_n) for each document."""

    of: list[torch.Tensor]

    @one_thread()
    def lse(self, scale: float) -> torch.Tensor:
        return torch.stack([torch.logsumexp(product * scale, dim=1) for product in self.of], dim=1)

    @one_thread()
    def mean(self) -> torch.Tensor:
        return torch.stack([product.sum(dim=1) / max(1, product.shape[1]) for product in self.of], dim=1)

    @one_thread()
    def max(self) -> torch.Tensor:
        padded = (torch.nn.functional.pad(product, (0, 1), value=-torch.inf) for product in self.of)
        return torch.stack([product.amax(dim=1) for product in padded], dim=1)

    @one_thread()
    def attention(self, place: int, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.exp(self.of[place] * scale - normaliser[:, None]).mean(dim=0)


@dataclass(frozen=True, slots=True)
class _Packed(Products):
    """Products in an array (S, T): document n has the columns ``offsets[n]:offsets[n + 1]``."""

    of: np.ndarray
    offsets: np.ndarray

    def lse(self, scale: float) -> torch.Tensor:
        logits = self.of * np.float32(scale)
        largest = self._reduced(np.maximum, logits, -np.inf)
        with np.errstate(invalid="ignore", divide="ignore"):
            logits -= np.repeat(largest, np.diff(self.offsets), axis=1)
            return torch.from_numpy(np.log(self._reduced(np.add, np.exp(logits, out=logits), 0)) + largest)

    def mean(self) -> torch.Tensor:
        lengths = np.diff(self.offsets).clip(1).astype(np.float32)
        return torch.from_numpy(self._reduced(np.add, self.of, 0) / lengths)

    def max(self) -> torch.Tensor:
        return torch.from_numpy(self._reduced(np.maximum, self.of, -np.inf))

    def attention(self, place: int, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
        logits = self.of[:, self.offsets[place] : self.offsets[place + 1]] * np.float32(scale)
        logits -= normaliser.numpy()[:, None]
        return torch.from_numpy(np.exp(logits, out=logits).mean(axis=0))

    def _reduced(self, reduction: np.ufunc, values: np.ndarray, nothing: float) -> np.ndarray:
        """Reduce the columns of each document: (S, N); ``nothing`` for a document without any."""
        out = np.full((len(values), len(self.offsets) - 1), nothing, dtype=np.float32)
        filled = np.flatnonzero(np.diff(self.offsets))
        if len(filled):
            out[:, filled] = reduction.reduceat(values, self.offsets[filled], axis=1)
        return out
