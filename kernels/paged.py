"""Keys and values that lie where they are kept: in a tensor for each block of text.

To join them would read and write all of them once more in every layer. The Triton kernels find them by a table instead,
as in paged attention (vLLM, 2023), with two differences: a page is a whole block, however long, and there is no pool
that pages have to be moved into. The table says how far each token's row lies in memory from the last of the tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .errors import input_error

__all__ = ["Paged", "Pages", "gathered"]

_STEP = 16  # elements: places are counted in as many, so that a compiler sees that loads may be wide


class Pages:
    """Tensors whose rows are those of packed tokens, the tokens of one tensor behind those of another.

    Args:
        parts: tensors (S, T_n, Hkv, D), contiguous, and alike but for T_n, which may be 0. Each of the S slots holds
            the keys or the values of a layer.

    Attributes:
        parts: the tensors that have tokens.
        base: the last of them, from which `places` are counted.
        shape: S, T, Hkv and D, with T the sum of T_n.

    Raises:
        InputError: if the tensors are not like that, or have no token.

    Example:
        >>> pages = Pages([torch.zeros(2, 3, 1, 4), torch.ones(2, 1, 1, 4)])
        >>> pages.slot(1).shape, pages.slot(1).gathered()[:, 0, 0]
        ((4, 1, 4), tensor([0., 0., 0., 1.]))
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        kinds = {(x.dtype, x.device, x.shape[:1], x.shape[2:]) for x in parts}
        if len(kinds) != 1 or any(x.ndim != 4 or not x.is_contiguous() for x in parts):
            raise input_error(
                "pages are contiguous tensors (slots, tokens, heads, head dimension) on one device, which differ in "
                "their number of tokens only"
            )
        self.parts = [x for x in parts if x.shape[1]]
        if not self.parts:
            raise input_error("pages without a token cannot be read; give a tensor that has one")
        self.base = self.parts[-1]
        slots, _, heads, dim = self.base.shape
        self.shape = (slots, sum(x.shape[1] for x in self.parts), heads, dim)

    @classmethod
    def reserve(cls, base: torch.Tensor, tokens: int) -> Pages:
        """Return pages that others can be written over, for what is recorded as a CUDA graph.

        Args:
            base: the `base` of all that will be written, (S, T_n, Hkv, D) and contiguous.
            tokens: the number of tokens that these may have. All stand for the first row of ``base`` until then.
        """
        pages = cls([base])
        pages.places = pages.places[:, :1].repeat(1, tokens)
        slots, _, heads, dim = base.shape
        pages.shape = (slots, tokens, heads, dim)
        return pages

    def rewrite(self, other: Pages) -> None:
        """Write the places of other pages over these, which `reserve` made; see `Packing.rewrite`.

        Raises:
            InputError: if the others have another base, count in other steps, or have more tokens.
        """
        if other.base is not self.base or other.step != self.step or other.shape[1] > self.shape[1]:
            raise input_error(
                f"pages of {other.shape[1]} tokens do not go into a table for {self.shape[1]}, or lie otherwise"
            )
        self.places[:, : other.shape[1]].copy_(other.places)

    def slot(self, number: int) -> Paged:
        """Return what stands for the keys or values (T, Hkv, D) of one slot."""
        return Paged(self, number)

    @functools.cached_property
    def places(self) -> torch.Tensor:
        """Where the row of each token lies in each slot: int64 (S, T), `step` elements each, from `base` on."""
        slots, tokens, heads, dim = self.shape
        row, device = heads * dim // self.step, self.base.device
        counts = np.array([x.shape[1] for x in self.parts])
        # The first row of each part in each slot, less what the tokens before it add below.
        first = self._starts // self.step + (np.arange(slots)[:, None] * counts - (np.cumsum(counts) - counts)) * row
        spread = torch.from_numpy(counts).to(device)
        places = torch.from_numpy(first).to(device).repeat_interleave(spread, dim=1, output_size=tokens)
        return places.add_(torch.arange(tokens, device=device), alpha=row)

    @functools.cached_property
    def step(self) -> int:
        """The elements in which places are counted: 16, or fewer where tensors or heads do not begin at such steps."""
        return int(np.gcd.reduce([_STEP, self.shape[3], *self._starts]))

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        """Where parts begin, in elements from `base` on: int64 (N,)."""
        addresses = np.array([x.data_ptr() for x in self.parts], dtype=np.int64)
        starts: np.ndarray
        starts, rest = np.divmod(addresses - self.base.data_ptr(), self.base.element_size())
        if rest.any():
            raise input_error("pages begin in the middle of one another's numbers; copy those that are views of bytes")
        return starts


@dataclass(frozen=True, slots=True, eq=False)
class Paged:
    """What stands for a tensor (T, Hkv, D) of keys or values: one slot of `Pages`.

    The functions of `sightline.kernels` take it in place of the tensor. On ``triton``, without gradients, they read it
    where it lies; elsewhere they gather it first.
    """

    pages: Pages
    number: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, Hkv and D."""
        return self.pages.shape[1:]

    @property
    def ndim(self) -> int:
        """3, as of the tensor."""
        return 3

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all tensors."""
        return self.pages.base.dtype

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.pages.base.device

    @property
    def requires_grad(self) -> bool:
        """False: what is kept has no gradients."""
        return False

    def __len__(self) -> int:
        return self.shape[0]

    def stride(self) -> tuple[int, int, int]:
        """Elements from one place to the next, from one head to the next, and 1."""
        return self.pages.step, self.shape[2], 1

    def gathered(self) -> torch.Tensor:
        """Copy the rows into one tensor (T, Hkv, D)."""
        return torch.cat([part[self.number] for part in self.pages.parts])


def gathered(x: torch.Tensor | Paged) -> torch.Tensor:
    """Return the tensor itself, or a copy of what stands for it."""
    return x.gathered() if isinstance(x, Paged) else x
