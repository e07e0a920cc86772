"""The naive reference: float64, one line per formula. Every other backend must agree with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .keys import Keys, to_float

__all__ = ["states_attention", "states_lse", "states_lse_mean", "states_max"]


def _logits(q: torch.Tensor, keys: Keys) -> torch.Tensor:
    return q.double() @ to_float(keys).double().T  # (S, T)


def states_lse(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_lse`."""
    return torch.stack([torch.logsumexp(scale * _logits(q, k), dim=1) for k in keys], dim=1).float()


def states_lse_mean(q: torch.Tensor, keys: Sequence[Keys], scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.states_lse_mean`."""
    means = [_logits(q, k).sum(dim=1) / max(1, _logits(q, k).shape[1]) for k in keys]
    return states_lse(q, keys, scale), torch.stack(means, dim=1).float()


def states_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """See `sightline.kernels.states_max`."""
    nothing = torch.full((len(q), 1), -torch.inf, dtype=torch.float64)
    return torch.stack([torch.cat([_logits(q, k), nothing], dim=1).amax(dim=1) for k in keys], dim=1).float()


def states_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
    """See `sightline.kernels.states_attention`."""
    return torch.exp(scale * _logits(q, keys) - normaliser.double()[:, None]).mean(dim=0).float()
