"""Attention over a packed context, block by block."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .. import operators
from ..checks import check_packed, check_scale, wants_gradients
from ..dispatch import Backend, choose
from ..errors import input_error
from ..packing import Packing
from ..paged import Paged, gathered
from . import reference

__all__ = ["block_attention"]


def block_attention(
    q: torch.Tensor,
    k: torch.Tensor | Paged,
    v: torch.Tensor | Paged,
    layout: Packing,
    *,
    scale: float,
    backend: Backend | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute softmax attention of every token to what its block sees: its prefix and itself; see `Packing`.

    No tensor of size T x T is made, nothing is padded in memory, and key heads are not repeated. Both results carry
    gradients. Each document is computed by itself, so on ``triton`` a document's rows do not change by a bit when its
    neighbours do.

    Args:
        q: the queries (T, Hq, D), or those from ``layout.first`` on; float32, float16 or bfloat16 (``cpu`` and
            ``reference`` also float64). D is at most 256. The last dimension must be contiguous, the others may have
            any stride.
        k: the keys (T, Hkv, D), of the same dtype and device, or the `Paged` that stands for them. Hq is a multiple of
            Hkv (grouped-query attention).
        v: the values (T, Hkv, D), like the keys.
        layout: the layout of the T tokens, on the same device.
        scale: the factor on q . k, usually ``D ** -0.5``.
        backend: the name of a backend. If None, the one that `sightline.kernels.choose` returns.

    Returns:
        out: like ``q``; lse: float32 (rows of ``q``, Hq) (float64 for float64), the natural logarithm of
        ``sum_j exp(scale * q_i . k_j)`` over the keys that row i sees.

    Raises:
        InputError: if shapes, dtypes, devices or strides do not fit one another or the layout, or gradients are wanted
            after kept tokens.
        BackendError: if the backend that you ask for cannot run.

    Example:
        >>> from sightline.kernels import Packing, Context
        >>> layout = Packing([Context(documents=[2, 3], queries=[2], instruction=1)])
        >>> q = k = v = torch.eye(8)[:, None, :5].contiguous()
        >>> out, lse = block_attention(q, k, v, layout, scale=1.0)
        >>> out.shape, [round(x, 3) for x in lse[:3, 0].exp().tolist()]
        (torch.Size([8, 1, 5]), [2.718, 3.718, 4.718])
    """
    if torch.compiler.is_dynamo_compiling():
        return operators.attention(q, gathered(k), gathered(v), layout, scale, backend)
    check_packed(layout, queries=layout.tokens - layout.first, q=q, k=k, v=v)
    differentiable = wants_gradients(q, k, v)
    if layout.first and differentiable:
        raise input_error(
            "gradients do not reach tokens that were kept; read all tokens, or read under torch.no_grad()"
        )
    scale = check_scale(scale)
    name = choose(q.device, q.dtype, q.shape[2], backend=backend).backend
    if name == "reference":
        return reference.block_attention(q, gathered(k), gathered(v), layout, scale)
    if name == "cpu" or differentiable:
        k, v = gathered(k), gathered(v)
    ops = import_module(f".{name}", __name__)
    run = _BlockAttention.apply if differentiable else _forward
    results: tuple[torch.Tensor, torch.Tensor] = run(q, k, v, layout, scale, ops)
    return results


def _forward(q: Any, k: Any, v: Any, layout: Packing, scale: float, ops: ModuleType) -> Any:
    with torch.cuda.device_of(q):  # Triton launches on the current device, wherever the tensors are
        return ops.forward(q, k, v, layout, scale)


class _BlockAttention(torch.autograd.Function):
    """Gradients by the backend's own backward pass; the naive reference differentiates itself."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, layout: Packing, scale: float, ops: ModuleType) -> Any:
        out, lse = _forward(q, k, v, layout, scale, ops)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale, ctx.ops = layout, scale, ops
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Any, d_lse: Any) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        with torch.cuda.device_of(q):
            gradients = ctx.ops.backward(d_out, d_lse, q, k, v, out, lse, ctx.layout, ctx.scale)
        return (*gradients, None, None, None)
