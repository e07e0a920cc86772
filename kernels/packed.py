"""What the Triton kernels share: loading and storing rows of packed tensors, and the constants of base-2 softmax."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
import os

import numpy as np
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .packing import Packing
from .paged import Paged

__all__ = [
    "LN2",
    "LOG2E",
    "LOWEST",
    "box",
    "interpreted",
    "load",
    "load_box",
    "load_paged",
    "load_run",
    "padded_dim",
    "places_of",
    "positions_of",
    "row_of",
    "store",
    "upcast",
    "wants_boxes",
]

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))
LOWEST = tl.constexpr(-1e30)  # stands for -inf, and unlike it can be subtracted from itself


@triton.jit
def load(pointer, row, column, row_stride, alive, D: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr):
    """Rows (…, BD) of a matrix whose rows lie ``row_stride`` apart, from ``column`` on; zero where not alive."""
    dims = tl.arange(0, BD)
    ok = alive[:, None]
    if D != BD:
        ok = ok & (dims < D)[None, :]
    x = tl.load(pointer + (row.to(tl.int64) * row_stride + column)[:, None] + dims[None, :], mask=ok, other=0.0)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def load_run(
    pointer, first, row_stride, count, ROWS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr
):
    """ROWS rows (ROWS, BD) of a matrix, one after another from ``first`` on; the last again behind ``count`` of them.

    No memory beyond them is met, and none of what is loaded is a NaN that no row holds.
    """
    dims = tl.arange(0, BD)
    offsets = (tl.minimum(tl.arange(0, ROWS), count - 1) * row_stride)[:, None] + dims[None, :]
    at = pointer + first.to(tl.int64) * row_stride + offsets
    x = tl.load(at, mask=(dims < D)[None, :], other=0.0) if D != BD else tl.load(at)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def load_paged(
    pointer, PLACES, first, step, count, ROWS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr
):
    """What `load_run` loads, of rows that lie where PLACES says, so many steps from the pointer; see `Pages`."""
    dims = tl.arange(0, BD)
    row = tl.load(PLACES + first + tl.minimum(tl.arange(0, ROWS), count - 1))
    at = pointer + (row * step)[:, None] + dims[None, :]
    x = tl.load(at, mask=(dims < D)[None, :], other=0.0) if D != BD else tl.load(at)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def row_of(PLACES, token, alive):
    """The row of a matrix that each token lies in: its own number, or what PLACES says; see `Pages`."""
    return token if PLACES is None else tl.load(PLACES + token, mask=alive, other=0)


@triton.jit
def load_box(descriptor, first, head, ROWS: tl.constexpr, D: tl.constexpr, UPCAST: tl.constexpr):
    """The rows (ROWS, D) of one head from ``first`` on, by the GPU's own copier (TMA); see `box`.

    Unlike `load_run` it knows no end but the tensor's: the caller masks what stands behind its span, even NaN.
    """
    x = descriptor.load([first, head, 0]).reshape(ROWS, D)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def store(pointer, row, column, row_stride, alive, value, D: tl.constexpr, BD: tl.constexpr):
    """The counterpart of `load`; casts to what the pointer points to."""
    dims = tl.arange(0, BD)
    ok = alive[:, None]
    if D != BD:
        ok = ok & (dims < D)[None, :]
    at = pointer + (row.to(tl.int64) * row_stride + column)[:, None] + dims[None, :]
    tl.store(at, value.to(pointer.dtype.element_ty), mask=ok)


def wants_boxes(*tensors: torch.Tensor) -> bool:
    """Whether kernels shall load tensors (T, H, D) as boxes: ``SIGHTLINE_TMA=1``, on a GPU and in a layout that can.

    The copier needs addresses and strides in units of 16 bytes, and head dimensions that are computed as they are.
    """
    if os.environ.get("SIGHTLINE_TMA") != "1":
        return False
    if not interpreted() and torch.cuda.get_device_capability(tensors[0].device) < (9, 0):
        return False
    return all(
        padded_dim(x.shape[2]) == x.shape[2]
        and x.stride(2) == 1
        and not any(bytes % 16 for bytes in (x.data_ptr(), *(step * x.element_size() for step in x.stride()[:2])))
        for x in tensors
    )


def box(x: torch.Tensor, rows: int) -> TensorDescriptor:
    """A description of a tensor (T, H, D) for `load_box`, which loads ``rows`` tokens of a head at a time."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, 1, x.shape[2]])


def places_of(x: torch.Tensor | Paged) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The tensor that a kernel gets for keys or values (T, H, D), and where it finds their rows; None if in order."""
    return (x.pages.base, x.pages.places[x.number]) if isinstance(x, Paged) else (x, None)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return bool(triton.knobs.runtime.interpret)


def upcast(x: torch.Tensor) -> bool:
    """Whether a kernel must widen what it loads: the interpreter cannot multiply bfloat16."""
    return interpreted() and x.dtype == torch.bfloat16


def padded_dim(d: int) -> int:
    """The head dimension that a kernel computes in: the next power of two, 16 at least."""
    return max(16, int(triton.next_power_of_2(d)))


def positions_of(layout: Packing) -> torch.Tensor:
    """Positions of the tokens for a kernel, int32 (T,); nothing of them where no window asks for them."""

    def make(layout: Packing) -> torch.Tensor:
        positions = layout.positions if layout.window is not None else layout.positions[:0]
        return torch.from_numpy(positions.astype(np.int32)).to(layout.device)

    return layout.keep("positions", make)
