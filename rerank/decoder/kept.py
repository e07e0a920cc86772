"""Keys and values of a block of text, kept for later queries: as they were computed, or in fewer bytes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...models.cache import Form
from ...models.reader import StoredBlock

__all__ = ["KeptBlock", "compressed", "joined"]

_SCALE_BYTES = 2  # a float16 behind the values of a token and head


@dataclass(frozen=True, slots=True)
class KeptBlock:
    """A block's keys and values, positions applied, for as many layers as are read; nothing depends on a query.

    Each tensor is (T, Hkv, D) in a floating-point format, or (T, Hkv, D + 2) in int8, see `compressed`.

    Args:
        keys: one tensor per layer, the signal layer included.
        values: one tensor per layer below the signal layer.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def tokens(self) -> int:
        """T, the number of its tokens."""
        return len(self.keys[0])

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All its tensors, as a `DocumentCache` keeps them: keys, then values."""
        return (*self.keys, *self.values)

    @classmethod
    def of_tensors(cls, tensors: tuple[torch.Tensor, ...]) -> KeptBlock:
        """The block of which `tensors` are all tensors."""
        layers = len(tensors) // 2 + 1  # the signal layer has keys only
        return cls(tensors[:layers], tensors[layers:])

    def stored(self, layer: int) -> np.ndarray:
        """The bytes in which an index keeps the block, see `StoredBlock`.

        Args:
            layer: the signal layer up to which it is kept.

        Returns:
            uint8, one-dimensional.
        """
        tensors = itertools.chain(*zip(self.keys[:layer], self.values[:layer], strict=True), [self.keys[layer]])
        return torch.cat([x.contiguous().view(torch.uint8).flatten() for x in tensors]).cpu().numpy()

    @classmethod
    def of(cls, stored: StoredBlock, layer: int) -> KeptBlock:
        """The block that an index keeps, without a copy.

        Args:
            stored: the block as the index gave it.
            layer: the signal layer up to which it is needed; the index keeps as many layers or more.
        """
        dtype = torch.int8 if stored.form.kind == "int8" else torch.float16
        sizes = [stored.tokens * size for size in stored.form.slot_bytes(layer)]
        # What lies above the signal layer comes last, and is not touched.
        flat = torch.from_numpy(stored.data[: sum(sizes)]).view(dtype)
        parts = flat.split([size // dtype.itemsize for size in sizes])
        tensors = [part.view(stored.tokens, stored.form.heads, -1) for part in parts]
        return cls(tuple(tensors[::2]), tuple(tensors[1::2]))


def compressed(x: torch.Tensor, form: Form) -> torch.Tensor:
    """Keys or values (T, Hkv, D) in the form in which they are kept.

    Args:
        x: a tensor of floating-point numbers.
        form: ``exact`` changes nothing. ``int8`` has one scale per token and head, symmetric about zero: the largest
            number becomes 127, so that the rounding error is at most 1/254 of it.

    Returns:
        (T, Hkv, D); for ``int8`` (T, Hkv, D + 2), whose last two bytes are the scale as float16.

    Example:
        >>> x = torch.tensor([[[2.0, -0.5, 0.25]]])
        >>> compressed(x, "int8")[..., :3]
        tensor([[[127, -32,  16]]], dtype=torch.int8)
        >>> joined([compressed(x, "int8")], x).flatten()
        tensor([ 1.9999, -0.5039,  0.2520,  2.0000, -0.5000,  0.2500])
    """
    if form == "exact":
        return x
    if form == "fp16":
        return x.to(torch.float16)
    wide = x.float()
    # Values are divided by the scale as it is kept, so that its own rounding costs nothing.
    scales = (wide.abs().amax(dim=2, keepdim=True) / 127).clamp_(max=65504).to(torch.float16)
    values = (wide / torch.where(scales == 0, 1, scales).float()).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat([values, scales.view(torch.int8)], dim=2)


def joined(kept: Sequence[torch.Tensor], own: torch.Tensor) -> torch.Tensor:
    """Keys or values of kept blocks, one after another, and those of the tokens behind them.

    Args:
        kept: (T_n, Hkv, D or D + 2) each, in any of the forms of `compressed`.
        own: (T, Hkv, D), whose format is computed in.

    Returns:
        (sum of T_n + T, Hkv, D), in the format of ``own``.
    """
    out = own.new_empty(sum(map(len, kept)) + len(own), *own.shape[1:])
    at = 0
    # Neighbours of one form are one copy and one product, however many they are.
    for (dtype, device), group in itertools.groupby(kept, key=lambda x: (x.dtype, x.device)):
        parts = list(group)
        place = out[at : at + sum(map(len, parts))]
        at += len(place)
        if (dtype, device) == (own.dtype, own.device):
            torch.cat(parts, out=place)
            continue
        rows = torch.cat(parts).to(own.device)
        if dtype == torch.int8:
            scales = rows[..., -_SCALE_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.float16)
            torch.mul(rows[..., :-_SCALE_BYTES], scales.to(own.dtype), out=place)
        else:
            place.copy_(rows)
    out[at:] = own
    return out
