"""The naive reference: float64, one line per formula. Every other backend must agree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .keys import Keys, Products, to_float

__all__ = ["products"]


def products(q: torch.Tensor, keys: Sequence[Keys]) -> Products:
    """See `sightline.kernels.states_products`."""
    return _Reference([q.double() @ to_float(key).double().T for key in keys], len(q))


@dataclass(frozen=True, slots=True)
class _Reference(Products):
    """Products in a float64 tensor (S, T_n) for each document."""

    of: list[torch.Tensor]
    rows: int

    def lse(self, scale: float) -> torch.Tensor:
        return self._columns(torch.logsumexp(scale * p, dim=1) for p in self.of)

    def mean(self) -> torch.Tensor:
        return self._columns(p.sum(dim=1) / max(1, p.shape[1]) for p in self.of)

    def max(self) -> torch.Tensor:
        nothing = torch.full((self.rows, 1), -torch.inf, dtype=torch.float64)
        return self._columns(torch.cat([p, nothing], dim=1).amax(dim=1) for p in self.of)

    def attention(self, place: int, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.exp(scale * self.of[place] - normaliser.double()[:, None]).mean(dim=0).float()

    def _columns(self, columns: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.stack([torch.zeros(self.rows, dtype=torch.float64), *columns], dim=1)[:, 1:].float()
