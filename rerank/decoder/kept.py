"""Keys and values of a block of text, kept for later queries: as they were computed, or in fewer bytes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ...errors import ModelError
from ...kernels import Paged, Pages
from ...models.cache import Form
from ...models.reader import StoredBlock

__all__ = ["Behind", "KeptBlock", "What", "alike", "compressed", "joined"]

What = Literal["keys", "values"]

_SCALE_BYTES = 2  # a float16 behind the values of a token and head


@dataclass(frozen=True)
class KeptBlock:
    """A block's keys and values, positions applied, for as many layers as are read; nothing depends on a query.

    They fill 2 L - 1 slots: the keys of L layers, the signal layer included, then the values of the layers below it.
    Each slot is (T, Hkv, D) in a floating-point format, or (T, Hkv, D + 2) in int8, see `compressed`.

    Args:
        tensors: one tensor (2 L - 1, T, Hkv, D) of all slots; or, where layers differ in shape, one tensor per slot.
    """

    tensors: tuple[torch.Tensor, ...]

    @property
    def whole(self) -> torch.Tensor | None:
        """The tensor of all slots; None if each has its own."""
        return self.tensors[0] if self.tensors[0].ndim == 4 else None

    @property
    def tokens(self) -> int:
        """T, the number of its tokens."""
        return self.tensors[0].shape[-3]

    @functools.cached_property
    def slots(self) -> tuple[torch.Tensor, ...]:
        """All slots."""
        return self.tensors if self.whole is None else self.whole.unbind()

    def slot(self, what: What, layer: int) -> int:
        """The number of the slot that holds the keys or the values of a layer."""
        return layer if what == "keys" else (len(self.slots) + 1) // 2 + layer

    def read(self, what: What, layer: int) -> torch.Tensor:
        """The keys or the values of a layer."""
        return self.slots[self.slot(what, layer)]

    def stored(self, layer: int) -> np.ndarray:
        """The bytes in which an index keeps the block, see `StoredBlock`.

        Args:
            layer: the signal layer up to which it is kept.

        Returns:
            uint8, one-dimensional.
        """
        below = [self.read(what, i) for i in range(layer) for what in ("keys", "values")]
        tensors = [*below, self.read("keys", layer)]
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
        return cls((*tensors[::2], *tensors[1::2]))


class Behind:
    """Kept blocks, and behind them the tokens of a pass: their keys and values, layer after layer.

    Blocks in the format that the pass computes in are read where they lie. Others are decoded and joined.

    Args:
        blocks: the kept blocks, in the order in which the pass sees them.
        tokens: the number of tokens of the pass, at least one.
    """

    def __init__(self, blocks: Sequence[KeptBlock], tokens: int) -> None:
        self.blocks = blocks
        self._pages: Pages | None = None
        if (wholes := alike(blocks)) is not None:
            self._own = _room(wholes[0], tokens)
            self._pages = Pages([*wholes, *self._own.tensors])

    @classmethod
    def reserve(cls, like: torch.Tensor, kept: int, tokens: int) -> Behind:
        """Return room for the tokens of a pass, before which any kept blocks can be put: see `rewrite`.

        Args:
            like: the tensor of all slots of such a block.
            kept: the number of tokens that the blocks may have together.
            tokens: the number of tokens of the pass.
        """
        behind = cls((), tokens)
        behind._own = _room(like, tokens)
        [own] = behind._own.tensors
        behind._pages = Pages.reserve(own, kept + tokens)
        return behind

    def rewrite(self, blocks: Sequence[KeptBlock]) -> None:
        """Put blocks that are `alike` before the tokens of the pass; see `sightline.kernels.Pages.rewrite`."""
        assert self._pages is not None
        self._pages.rewrite(Pages([*(block.tensors[0] for block in blocks), *self._own.tensors]))

    def read(self, what: What, layer: int, own: torch.Tensor) -> torch.Tensor | Paged:
        """The keys or the values of a layer.

        Args:
            what: which of them.
            layer: the layer.
            own: those of the pass's own tokens, (T, Hkv, D).
        """
        if self._pages is not None:
            room = self._own.read(what, layer)
            if (room.dtype, room.device, room.shape) == (own.dtype, own.device, own.shape):
                room.copy_(own)
                return self._pages.slot(self._own.slot(what, layer))
        if not self.blocks:
            raise ModelError(
                f"the model computes keys and values as {own.dtype} {tuple(own.shape)}, but keeps them as "
                f"{room.dtype} {tuple(room.shape)}, so its passes cannot be recorded; load it without cuda_graphs=True"
            )
        return joined([block.read(what, layer) for block in self.blocks], own)


def alike(blocks: Sequence[KeptBlock]) -> list[torch.Tensor] | None:
    """Return the tensors of all slots of blocks that differ in their number of tokens only; None if others do."""
    wholes = [block.whole for block in blocks if block.whole is not None]
    kinds = {(x.dtype, x.device, x.shape[:1], x.shape[2:]) for x in wholes}
    return wholes if len(wholes) == len(blocks) and len(kinds) == 1 else None


def _room(like: torch.Tensor, tokens: int) -> KeptBlock:
    """Room for the keys and values of a pass's own tokens, filled as it goes."""
    slots, _, *row = like.shape
    return KeptBlock((like.new_empty(slots, tokens, *row),))


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
    # Flat, since a tensor without tokens may have strides that no view as bytes can have.
    return torch.cat([values, scales.flatten().view(torch.int8).view(*values.shape[:2], _SCALE_BYTES)], dim=2)


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
