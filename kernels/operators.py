"""The kernels as operators of torch, on tensors and numbers only, for code that `torch.compile` traces.

``block_attention`` and the others call them when they are traced; a model that is compiled as one graph goes through
them without a break. They ask for that with ``is_dynamo_compiling``: what ``is_compiling`` says is true in all threads
while one compiles. Layouts go by their numbers, see `Packing.handle`, so that another list is no other graph. What a
call is checked for, and which backend computes it, is decided when it runs, as without a compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from .checks import check_packed, check_scale
from .dispatch import choose
from .errors import backend_error
from .packing import Packing, of_handle

__all__ = ["attention", "largest", "lse", "token_mass"]

# Libraries that probe for a package `kernels` may import this one again, under that name. In one namespace, the second
# copy would take the operators of the first away, and it does not know the layouts of the first.
_NAMESPACE = __name__.partition(".")[0]
_OPERATORS = getattr(torch.ops, _NAMESPACE)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float, backend: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.block_attention`."""
    out, lse = _OPERATORS.block_attention(q, k, v, layout.handle, scale, backend or "")
    return out, lse


def lse(
    q: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float, backend: str | None, part: str
) -> torch.Tensor:
    """See `sightline.kernels.block_lse` and `sightline.kernels.row_lse`."""
    width = layout.documents if part == "documents" else 2
    found: torch.Tensor = _OPERATORS.block_lse(q, k, layout.handle, width, scale, backend or "", part)
    return found


def largest(q: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float, backend: str | None) -> torch.Tensor:
    """See `sightline.kernels.block_max`; without gradients."""
    found: torch.Tensor = _OPERATORS.block_max(q, k, layout.handle, layout.documents, scale, backend or "")
    return found


def token_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    layout: Packing,
    normaliser: torch.Tensor,
    scale: float,
    heads: torch.Tensor | None,
    reduce: bool,
    backend: str | None,
) -> list[torch.Tensor]:
    """See `sightline.kernels.token_mass`; without gradients."""
    sizes = list(layout.document_tokens)
    shape = [sum(sizes)] if reduce else [q.shape[1] if heads is None else len(heads), sum(sizes)]
    found: torch.Tensor = _OPERATORS.token_mass(
        q, k, normaliser, heads, layout.handle, shape, scale, reduce, backend or ""
    )
    return list(found.split(sizes, dim=-1))


def _wide(q: torch.Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _kernels(room: str, q: torch.Tensor, backend: str) -> Any:
    """The module of a backend that has gradients of its own.

    Raises:
        BackendError: if it is the reference, which differentiates itself where nothing is compiled.
    """
    name = choose(q.device, q.dtype, q.shape[2], backend=backend or None).backend
    if name == "reference":
        raise backend_error(
            "compiled code has no gradients of the backend 'reference'; choose another, or do not compile"
        )
    return import_module(f".{room}.{name}", __package__)


@torch.library.custom_op(
    f"{_NAMESPACE}::block_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, SymInt layout, float scale, str backend) -> (Tensor, Tensor)",
)
def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: int, scale: float, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    packing = of_handle(layout)
    check_packed(packing, queries=packing.tokens - packing.first, q=q, k=k, v=v)
    name = choose(q.device, q.dtype, q.shape[2], backend=backend or None).backend
    ops = import_module(f".attention.{name}", __package__)
    with torch.cuda.device_of(q):
        out, lse = (ops.block_attention if name == "reference" else ops.forward)(q, k, v, packing, check_scale(scale))
    return out, lse


@_attention.register_fake
def _(q: Any, k: Any, v: Any, layout: int, scale: float, backend: str) -> Any:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=_wide(q))


@torch.library.custom_op(
    f"{_NAMESPACE}::block_attention_backward",
    mutates_args=(),
    schema="(Tensor d_out, Tensor d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, SymInt layout, "
    "float scale, str backend) -> (Tensor, Tensor, Tensor)",
)
def _attention_backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    layout: int,
    scale: float,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    packing, ops = of_handle(layout), _kernels("attention", q, backend)
    with torch.cuda.device_of(q):
        d_q, d_k, d_v = ops.backward(d_out, d_lse, q, k, v, out, lse, packing, scale)
    return d_q, d_k, d_v


@_attention_backward.register_fake
def _(d_out: Any, d_lse: Any, q: Any, k: Any, v: Any, *rest: Any) -> Any:
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _keep_attention(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, v, *ctx.rest = inputs
    ctx.save_for_backward(q, k, v, *output)


def _differentiate_attention(ctx: Any, d_out: Any, d_lse: Any) -> Any:
    gradients = _OPERATORS.block_attention_backward(d_out, d_lse, *ctx.saved_tensors, *ctx.rest)
    return (*gradients, None, None, None)


_attention.register_autograd(_differentiate_attention, setup_context=_keep_attention)


@torch.library.custom_op(
    f"{_NAMESPACE}::block_lse",
    mutates_args=(),
    schema="(Tensor q, Tensor k, SymInt layout, SymInt width, float scale, str backend, str part) -> Tensor",
)
def _lse(
    q: torch.Tensor, k: torch.Tensor, layout: int, width: int, scale: float, backend: str, part: str
) -> torch.Tensor:
    packing = of_handle(layout)
    check_packed(packing, queries=len(packing.signal_rows), q=q, k=k, v=None)
    name = choose(q.device, q.dtype, q.shape[2], backend=backend or None).backend
    ops = import_module(f".lse.{name}", __package__)
    with torch.cuda.device_of(q):
        lse: torch.Tensor = (ops.lse if name == "reference" else ops.forward)(q, k, packing, check_scale(scale), part)
    return lse


@_lse.register_fake
def _(q: Any, k: Any, layout: int, width: int, scale: float, backend: str, part: str) -> Any:
    return q.new_empty(*q.shape[:2], width, dtype=_wide(q))


@torch.library.custom_op(
    f"{_NAMESPACE}::block_lse_backward",
    mutates_args=(),
    schema="(Tensor d_lse, Tensor q, Tensor k, Tensor lse, SymInt layout, SymInt width, float scale, str backend, "
    "str part) -> (Tensor, Tensor)",
)
def _lse_backward(
    d_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    layout: int,
    width: int,
    scale: float,
    backend: str,
    part: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    packing, ops = of_handle(layout), _kernels("lse", q, backend)
    with torch.cuda.device_of(q):
        d_q, d_k = ops.backward(d_lse, q, k, lse, packing, scale, part)
    return d_q, d_k


@_lse_backward.register_fake
def _(d_lse: Any, q: Any, k: Any, *rest: Any) -> Any:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _keep_lse(ctx: Any, inputs: Any, output: Any) -> None:
    q, k, *ctx.rest = inputs
    ctx.save_for_backward(q, k, output)


def _differentiate_lse(ctx: Any, d_lse: Any) -> Any:
    gradients = _OPERATORS.block_lse_backward(d_lse, *ctx.saved_tensors, *ctx.rest)
    return (*gradients, None, None, None, None, None)


_lse.register_autograd(_differentiate_lse, setup_context=_keep_lse)


@torch.library.custom_op(
    f"{_NAMESPACE}::block_max",
    mutates_args=(),
    schema="(Tensor q, Tensor k, SymInt layout, SymInt width, float scale, str backend) -> Tensor",
)
def _largest(q: torch.Tensor, k: torch.Tensor, layout: int, width: int, scale: float, backend: str) -> torch.Tensor:
    tokens = import_module(".lse.tokens", __package__)
    found: torch.Tensor = tokens.block_max(q, k, of_handle(layout), scale=scale, backend=backend or None)
    return found


@_largest.register_fake
def _(q: Any, k: Any, layout: int, width: int, scale: float, backend: str) -> Any:
    return q.new_empty(*q.shape[:2], width, dtype=_wide(q))


@torch.library.custom_op(
    f"{_NAMESPACE}::token_mass",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor normaliser, Tensor? heads, SymInt layout, SymInt[] shape, float scale, "
    "bool reduce, str backend) -> Tensor",
)
def _token_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    normaliser: torch.Tensor,
    heads: torch.Tensor | None,
    layout: int,
    shape: list[int],
    scale: float,
    reduce: bool,
    backend: str,
) -> torch.Tensor:
    tokens = import_module(".lse.tokens", __package__)
    masses: list[torch.Tensor] = tokens.token_mass(
        q, k, of_handle(layout), normaliser, scale=scale, heads=heads, reduce=reduce, backend=backend or None
    )
    return torch.cat(masses, dim=-1) if masses else q.new_zeros(shape, dtype=_wide(q))


@_token_mass.register_fake
def _(q: Any, k: Any, normaliser: Any, heads: Any, layout: int, shape: Any, *rest: Any) -> Any:
    return q.new_empty(shape, dtype=_wide(q))
