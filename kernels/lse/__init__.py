"""Attention mass per document: the log-sum-exp of each signal row over each document, and what follows from it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

from .. import operators
from ..checks import check_packed, check_scale, wants_gradients
from ..dispatch import Backend, choose
from ..errors import input_error
from ..packing import Packing
from ..paged import Paged, gathered
from . import reference
from .spans import Part
from .tokens import block_max, token_mass

__all__ = ["block_lse", "block_max", "mass", "row_lse", "token_mass"]


def block_lse(
    q_signal: torch.Tensor,
    k: torch.Tensor | Paged,
    layout: Packing,
    *,
    scale: float,
    backend: Backend | None = None,
) -> torch.Tensor:
    """Compute log-sum-exp of the attention logits of each signal row over each document, in one pass over K.

    Neither V nor the attention's output is needed. Every document is reduced by itself: on ``triton`` and ``cpu``, its
    numbers do not change by a bit when its neighbours do. The result carries gradients by ``q_signal`` and ``k``.

    Args:
        q_signal: the queries (R, Hq, D), the rows of q at ``layout.signal``. Dtypes and strides are as for
            `block_attention`.
        k: the keys (T, Hkv, D), or the `Paged` that stands for them.
        layout: the layout of T tokens, R of them signal tokens.
        scale: the factor on q . k.
        backend: the name of a backend. If None, the one that `sightline.kernels.choose` returns.

    Returns:
        float32 (R, Hq, N) (float64 for float64), natural logarithm: ``log sum_j exp(scale * q_i . k_j)`` over the
        tokens j of document n of row i's context; -inf for a document without tokens, and where the context has fewer
        than N. The mean over the document's tokens, instead of their sum, is ``lse - log(tokens)``.

    Raises:
        InputError: if shapes, dtypes, devices or strides do not fit one another or the layout.
        BackendError: if the backend that you ask for cannot run.

    Example:
        >>> from sightline.kernels import Packing, Context
        >>> layout = Packing([Context(documents=[2, 0, 1], queries=[1])])
        >>> block_lse(torch.zeros(1, 1, 4), torch.ones(4, 1, 4), layout, scale=0.5).exp()
        tensor([[[2., 0., 1.]]])
    """
    return _lse(q_signal, k, layout, scale, backend, "documents")


def row_lse(
    q_signal: torch.Tensor,
    k: torch.Tensor | Paged,
    layout: Packing,
    *,
    scale: float,
    lse: torch.Tensor | None = None,
    backend: Backend | None = None,
) -> torch.Tensor:
    """Compute log-sum-exp of each signal row over all keys that it sees, as `block_attention` also returns it.

    Use it for a layer whose attention is not computed, such as the last one read. It adds the instruction and the row's
    own query block to the documents.

    Args:
        q_signal: the queries (R, Hq, D), as for `block_lse`.
        k: the keys (T, Hkv, D), or the `Paged` that stands for them.
        layout: the layout of T tokens, R of them signal tokens.
        scale: the factor on q . k.
        lse: the result of `block_lse` for the same arguments. If None, it is computed.
        backend: the name of a backend. If None, the one that `sightline.kernels.choose` returns.

    Returns:
        float32 (R, Hq) (float64 for float64), natural logarithm.

    Raises:
        InputError: see `block_lse`.
        BackendError: see `block_lse`.
    """
    if lse is None:
        lse = block_lse(q_signal, k, layout, scale=scale, backend=backend)
    rest = _lse(q_signal, k, layout, scale, backend, "rest")  # (R, Hq, 2)
    return torch.logsumexp(torch.cat([lse, rest], dim=2), dim=2)


def mass(
    lse: torch.Tensor,
    normalisation: Literal["documents", "all_keys"] = "documents",
    *,
    normaliser: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute attention mass: the probability that each signal row puts on each document.

    It is summed in float64, in an order that does not depend on that of the documents, so that permuting documents
    permutes their masses to the last bit.

    Args:
        lse: (R, Hq, N), the result of `block_lse`.
        normalisation: the keys that compete: ``documents``, the tokens of the documents only (BlockRank), or
            ``all_keys``, all keys that the row sees (ICR, QRHead), which needs ``normaliser``.
        normaliser: (R, Hq), the result of `row_lse`, or the log-sum-exp of `block_attention` at ``layout.signal``.

    Returns:
        (R, Hq, N), in the dtype of ``lse``. Rows sum to one for ``documents``, and to one minus the mass on instruction
        and query for ``all_keys``. A document without tokens has 0; so has every document of a context in which none
        has tokens.

    Raises:
        InputError: if there is no such normalisation, or if ``normaliser`` is missing, superfluous or of another shape.

    Example:
        >>> mass(torch.tensor([[[1.0, 3.0, 0.0]]]).log())
        tensor([[[0.2500, 0.7500, 0.0000]]])
    """
    if normalisation not in ("documents", "all_keys"):
        raise input_error(f"normalisation is 'documents' or 'all_keys', not {normalisation!r}")
    if (normaliser is not None) != (normalisation == "all_keys"):
        verb = "needs" if normaliser is None else "does not take"
        raise input_error(f"normalisation {normalisation!r} {verb} normaliser, the log-sum-exp over all keys")
    wide = lse.double()
    if normaliser is not None:
        if normaliser.shape != lse.shape[:2]:
            raise input_error(
                f"normaliser has shape {tuple(normaliser.shape)}, not {tuple(lse.shape[:2])}: one value per row and "
                "head"
            )
        return torch.exp(wide - normaliser.double()[..., None]).to(lse.dtype)
    if not lse.shape[2]:
        return lse.clone()
    largest = wide.amax(dim=2, keepdim=True).detach()
    shares = torch.exp(wide - torch.where(largest.isneginf(), 0, largest))
    total = shares.sort(dim=2).values.sum(dim=2, keepdim=True)
    return (shares / torch.where(total == 0, 1, total)).to(lse.dtype)


def _lse(
    q_signal: torch.Tensor, k: torch.Tensor | Paged, layout: Packing, scale: float, backend: Backend | None, part: Part
) -> torch.Tensor:
    if torch.compiler.is_dynamo_compiling():
        return operators.lse(q_signal, gathered(k), layout, scale, backend, part)
    check_packed(layout, queries=len(layout.signal_rows), q=q_signal, k=k, v=None)
    scale = check_scale(scale)
    differentiable = wants_gradients(q_signal, k)
    name = choose(q_signal.device, q_signal.dtype, q_signal.shape[2], backend=backend).backend
    if name == "reference":
        return reference.lse(q_signal, gathered(k), layout, scale, part)
    if name == "cpu" or differentiable:
        k = gathered(k)
    ops = import_module(f".{name}", __name__)
    run = _BlockLSE.apply if differentiable else _forward
    lse: torch.Tensor = run(q_signal, k, layout, scale, part, ops)
    return lse


def _forward(q: Any, k: Any, layout: Packing, scale: float, part: Part, ops: ModuleType) -> Any:
    with torch.cuda.device_of(q):  # Triton launches on the current device, wherever the tensors are
        return ops.forward(q, k, layout, scale, part)


class _BlockLSE(torch.autograd.Function):
    """The gradient of a log-sum-exp is the softmax inside the document, so K is read once more and nothing is kept."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, layout: Packing, scale: float, part: Part, ops: ModuleType) -> torch.Tensor:
        lse: torch.Tensor = _forward(q, k, layout, scale, part, ops)
        ctx.save_for_backward(q, k, lse)
        ctx.rest = layout, scale, part
        ctx.ops = ops
        return lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_lse: Any) -> Any:
        q, k, lse = ctx.saved_tensors
        with torch.cuda.device_of(q):
            gradients = ctx.ops.backward(d_lse, q, k, lse, *ctx.rest)
        return (*gradients, None, None, None, None)
