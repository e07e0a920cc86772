"""What every call on packed tensors is checked for: a wrong argument is an error, never a wrong number."""

from __future__ import annotations

import math

import torch

from .errors import input_error
from .packing import Packing
from .paged import Paged

__all__ = ["check_packed", "check_scale", "wants_gradients"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_HEAD_DIM = 256


def check_packed(
    layout: Packing, *, queries: int, q: torch.Tensor, k: torch.Tensor | Paged, v: torch.Tensor | Paged | None
) -> None:
    """Shapes, dtypes, devices and strides of the tensors of one call.

    Args:
        layout: the layout that they should follow.
        queries: rows that ``q`` must have.
        q: the queries, of shape (queries, Hq, D).
        k: the keys, of shape (T, Hkv, D), or the `Paged` that stands for them.
        v: the values, like ``k``, or None.

    Raises:
        InputError: naming the tensor and what it should be.
    """
    named: dict[str, torch.Tensor | Paged] = {"q": q, "k": k} | ({} if v is None else {"v": v})
    for name, tensor in named.items():
        rows = queries if name == "q" else layout.tokens
        if tensor.ndim != 3:
            raise input_error(f"{name} has shape {tuple(tensor.shape)}; it takes (rows, heads, head dimension)")
        if len(tensor) != rows:
            what = "signal tokens" if name == "q" and queries != layout.tokens - layout.first else "tokens"
            raise input_error(f"{name} has {len(tensor)} rows, but the layout covers {rows} {what}; pack exactly those")
        if tensor.dtype not in _FLOATS:
            raise input_error(f"{name} is {tensor.dtype}; it takes float32, float16, bfloat16 or float64")
        if tensor.dtype != q.dtype:
            raise input_error(f"{name} is {tensor.dtype} but q is {q.dtype}; cast one of them")
        if tensor.device != q.device:
            raise input_error(f"{name} is on {tensor.device} but q is on {q.device}; move one of them")
        if tensor.shape[2] != q.shape[2]:
            raise input_error(f"{name} has heads of {tensor.shape[2]} dimensions but q of {q.shape[2]}")
        if tensor.shape[2] > 1 and (step := tensor.stride()[2]) != 1:
            raise input_error(f"the last dimension of {name} is not contiguous (stride {step}); call .contiguous()")
    if not 1 <= q.shape[2] <= _MAX_HEAD_DIM:
        raise input_error(f"heads have {q.shape[2]} dimensions; they may have 1 to {_MAX_HEAD_DIM}")
    if v is not None and v.shape != k.shape:
        raise input_error(f"v has shape {tuple(v.shape)} but k {tuple(k.shape)}")
    if k.shape[1] < 1 or q.shape[1] < 1 or q.shape[1] % k.shape[1]:
        raise input_error(
            f"{q.shape[1]} query heads cannot share {k.shape[1]} key heads; one must be a multiple of the other"
        )
    if layout.device != q.device:
        raise input_error(f"the layout is on {layout.device} but q is on {q.device}; use layout.to(q.device)")


def check_scale(scale: float) -> float:
    """The scale as a finite float.

    Raises:
        InputError: if it is not one.
    """
    if not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise input_error(f"scale is {scale!r}; it takes a finite number, such as head_dim ** -0.5")
    return float(scale)


def wants_gradients(*tensors: torch.Tensor | Paged) -> bool:
    """Whether a result that is computed from the tensors now shall carry gradients."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
