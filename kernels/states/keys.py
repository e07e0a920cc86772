"""The forms in which a document's keys may be kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Keys", "QuantizedKeys", "stored_values", "to_float"]


@dataclass(frozen=True, slots=True)
class QuantizedKeys:
    """Keys in int8 with one scale per token: ``row = values * scale``.

    Args:
        values: int8 (T, D).
        scales: float32 (T,).
    """

    values: torch.Tensor
    scales: torch.Tensor


Keys = torch.Tensor | QuantizedKeys


def stored_values(keys: Keys) -> torch.Tensor:
    """The tensor (T, D) that holds the keys, in the dtype in which they are kept."""
    return keys.values if isinstance(keys, QuantizedKeys) else keys


def to_float(keys: Keys) -> torch.Tensor:
    """The keys as float32 (T, D)."""
    if isinstance(keys, QuantizedKeys):
        return keys.values.float() * keys.scales[:, None]
    return keys.float()
