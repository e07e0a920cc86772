"""The forms in which a document's keys may be kept, and what every backend computes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

__all__ = ["Keys", "Products", "QuantizedKeys", "quantized", "stored_values", "to_float"]


@dataclass(frozen=True, slots=True)
class QuantizedKeys:
    """Keys in int8 with one scale per token: ``row = values * scale``.

    Args:
        values: int8 (T, D), the values of the keys.
        scales: float32 (T,), the scale of each token.
    """

    values: torch.Tensor
    scales: torch.Tensor


Keys = torch.Tensor | QuantizedKeys


def quantized(keys: torch.Tensor) -> QuantizedKeys:
    """Quantize keys to one byte per number, symmetric about zero, so that each token's largest number becomes 127.

    Args:
        keys: float (T, D), the keys.

    Example:
        >>> quantized(torch.tensor([[1.0, -0.5, 0.0]])).values
        tensor([[127, -64,   0]], dtype=torch.int8)
    """
    scales = keys.float().abs().amax(dim=1).clamp_min(1e-12) / 127
    return QuantizedKeys((keys.float() / scales[:, None]).round_().to(torch.int8), scales)


class Products(Protocol):
    """The dot products of S query rows with the tokens of N documents, reduced as often as needed.

    `sightline.kernels.states_products` makes them. Each document is reduced by itself.
    """

    def lse(self, scale: float) -> torch.Tensor:
        """See `sightline.kernels.states_lse`."""
        ...

    def mean(self) -> torch.Tensor:
        """Compute the mean dot product of each query row with a document's tokens: float32 (S, N), 0 without tokens."""
        ...

    def max(self) -> torch.Tensor:
        """See `sightline.kernels.states_max`."""
        ...

    def attention(self, place: int, normaliser: torch.Tensor, scale: float) -> torch.Tensor:
        """See `sightline.kernels.states_attention`, for the document at a place."""
        ...


def stored_values(keys: Keys) -> torch.Tensor:
    """Return the tensor (T, D) that holds the keys, in the dtype in which they are kept."""
    return keys.values if isinstance(keys, QuantizedKeys) else keys


def to_float(keys: Keys) -> torch.Tensor:
    """Return the keys as float32 (T, D)."""
    if isinstance(keys, QuantizedKeys):
        return keys.values.float() * keys.scales[:, None]
    return keys.float()
