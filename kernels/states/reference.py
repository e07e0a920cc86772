"""The naive reference: float64, one line per formula. Every other backend must agree with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .keys import Keys, to_float

__all__ = ["states_attention", "states_lse", "states_max", "states_mean"]


def _logits(q: torch.Tensor, keys: Keys) -> torch.Tensor:
    return q.double() @ to_float(keys).double().T  # (S, T)


def states_lse(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_lse`."""
    return torch.stack([torch.logsumexp(scale * _logits(q, k), dim=1) for k in keys], dim=1).float()


def states_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """See `sightline.kernels.states_max`."""
    nothing = torch.full((len(q), 1), -torch.inf, dtype=torch.float64)
    return torch.stack([torch.cat([_logits(q, k), nothing], dim=1).amax(dim=1) for k in keys], dim=1).float()


def states_mean(keys: Sequence[Keys]) -> torch.Tensor:
    """See `sightline.kernels.states_mean`."""
    return torch.stack([to_float(k).double().sum(dim=0) / max(1, len(to_float(k))) for k in keys]).float()


def states_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_attention`."""
    return torch.exp(scale * _logits(q, keys) - normaliser.double()[:, None]).mean(dim=0).float()
