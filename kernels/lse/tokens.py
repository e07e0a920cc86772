"""The attention of query blocks on each token: for evidence, and for readouts that look inside documents.

On ``triton`` one kernel each. Elsewhere, and where gradients are wanted, plain torch: a few signal rows against all
keys is one skinny product, a chunk of keys at a time, and its result is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np
import torch

from .. import operators
from ..checks import check_packed, check_scale, wants_gradients
from ..dispatch import Backend, choose
from ..packing import Packing
from ..paged import Paged, gathered
from .spans import document_spans, key_spans, signal_spans

__all__ = ["block_max", "token_mass"]

_CHUNK = 4096  # keys whose logits are held at a time


def token_mass(
    q_signal: torch.Tensor,
    k: torch.Tensor | Paged,
    layout: Packing,
    normaliser: torch.Tensor,
    *,
    scale: float,
    heads: torch.Tensor | None = None,
    reduce: bool = True,
    backend: Backend | None = None,
) -> list[torch.Tensor]:
    """Compute attention of each query block on each token of its documents, averaged over its signal tokens.

    The result carries gradients by ``q_signal``, ``k`` and ``normaliser``; for them, logits are kept, R x Hq x K.

    Args:
        q_signal: the queries (R, Hq, D), the rows ``layout.signal``.
        k: the keys (T, Hkv, D), or the `Paged` that stands for them.
        layout: the layout of T tokens, R of them signal tokens, on the same device.
        normaliser: float (R, Hq), the log-sum-exp of the keys that compete: all that the row sees, see `row_lse`, or
            the tokens of the documents only.
        scale: the factor on q . k.
        heads: int64 (H,), the query heads to use. If None, all of them.
        reduce: whether to sum over those heads. If False, they are kept apart.
        backend: the name of a backend. If None, the one that `sightline.kernels.choose` returns.

    Returns:
        For each query block that has signal tokens, in packed order: float32 (float64 for float64) (K,) or (H, K), K
        the tokens of all documents of its context in packed order.

    Raises:
        InputError: if shapes, dtypes, devices or strides do not fit one another or the layout.
        BackendError: if the backend that you ask for cannot run.

    Example:
        >>> from sightline.kernels import Packing, Context
        >>> layout = Packing([Context(documents=[1, 2], queries=[1])])
        >>> k = torch.zeros(4, 1, 2)
        >>> token_mass(k[3:], k, layout, torch.tensor([[3.0]]).log(), scale=1.0)
        [tensor([0.3333, 0.3333, 0.3333])]
    """
    if torch.compiler.is_dynamo_compiling() and not any(x.requires_grad for x in (q_signal, k, normaliser)):
        return operators.token_mass(q_signal, gathered(k), layout, normaliser, scale, heads, reduce, backend)
    check_packed(layout, queries=len(layout.signal_rows), q=q_signal, k=k, v=None)
    scale = check_scale(scale)
    if ops := _kernels(backend, q_signal, k, normaliser):
        with torch.cuda.device_of(q_signal):
            masses: list[torch.Tensor] = ops.token_mass(q_signal, k, layout, normaliser, scale, heads, reduce)
        return masses
    k, documents, wide = gathered(k), document_spans(layout), torch.promote_types(q_signal.dtype, torch.float32)
    out = []
    for first, last, context in signal_spans(layout):
        start, stop = documents.get(context, (0, 0))
        base = normaliser[first:last].to(wide)[..., None]  # (R, Hq, 1)

        def share(logits: torch.Tensor, base: torch.Tensor = base) -> torch.Tensor:
            p = (logits - base).exp().mean(dim=0)  # (Hq, K)
            p = p if heads is None else p.index_select(0, heads)
            return p.sum(dim=0) if reduce else p

        chunks = _chunks(q_signal, k, layout, (start, stop, first, last), scale, share)
        empty = q_signal.new_zeros(() if reduce else (len(heads) if heads is not None else q_signal.shape[1],))
        out.append(torch.cat(chunks, dim=-1) if chunks else empty.to(wide)[..., None][..., :0])
    return out


def block_max(
    q_signal: torch.Tensor, k: torch.Tensor | Paged, layout: Packing, *, scale: float, backend: Backend | None = None
) -> torch.Tensor:
    """Compute the largest logit of each signal row in each document: late interaction's MaxSim before its sum.

    The result carries gradients by ``q_signal`` and ``k``, as `token_mass` does.

    Args:
        q_signal: the queries (R, Hq, D), the rows ``layout.signal``.
        k: the keys (T, Hkv, D), or the `Paged` that stands for them.
        layout: the layout of T tokens, at most N documents, and R signal tokens, on the same device.
        scale: the factor on q . k.
        backend: the name of a backend. If None, the one that `sightline.kernels.choose` returns.

    Returns:
        float32 (R, Hq, N) (float64 for float64), natural units; ``-inf`` for documents without tokens and those of
        other contexts.

    Raises:
        InputError: see `token_mass`.
        BackendError: see `token_mass`.
    """
    if torch.compiler.is_dynamo_compiling() and not (q_signal.requires_grad or k.requires_grad):
        return operators.largest(q_signal, gathered(k), layout, scale, backend)
    check_packed(layout, queries=len(layout.signal_rows), q=q_signal, k=k, v=None)
    scale = check_scale(scale)
    if ops := _kernels(backend, q_signal, k):
        with torch.cuda.device_of(q_signal):
            largest: torch.Tensor = ops.largest(q_signal, k, layout, scale)
        return largest
    k, wide = gathered(k), torch.promote_types(q_signal.dtype, torch.float32)
    out = q_signal.new_full((*q_signal.shape[:2], layout.documents), -torch.inf, dtype=wide)
    for *span, column in key_spans(layout, "documents").tolist():
        _, _, first, last = span
        chunks = _chunks(q_signal, k, layout, span, scale, lambda logits: logits.amax(dim=2, keepdim=True))
        out[first:last, :, column] = torch.cat(chunks, dim=2).amax(dim=2)
    return out


def _kernels(backend: Backend | None, q: torch.Tensor, *others: torch.Tensor | Paged) -> ModuleType | None:
    """The module of the kernels, or None where plain torch computes: it is what carries gradients."""
    name = choose(q.device, q.dtype, q.shape[2], backend=backend).backend
    if name != "triton" or wants_gradients(q, *others):
        return None
    return import_module(".triton", __package__)


def _chunks(
    q_signal: torch.Tensor,
    k: torch.Tensor,
    layout: Packing,
    span: Sequence[int],
    scale: float,
    use: Callable[[torch.Tensor], torch.Tensor],
) -> list[torch.Tensor]:
    """``use`` of the logits (R, Hq, K) of each chunk of a span: start and stop of keys, and of signal rows."""
    start, stop, first, last = span
    q = q_signal[first:last]
    rows, hq, d = q.shape
    hkv, wide = k.shape[1], torch.promote_types(q.dtype, torch.float32)
    q_ = q.to(wide).reshape(rows, hkv, hq // hkv, d).transpose(0, 1).reshape(hkv, -1, d)  # (Hkv, R * G, D)
    out = []
    for at in range(start, stop, _CHUNK):
        end = min(at + _CHUNK, stop)
        keys = k[at:end].to(wide).transpose(0, 1)  # (Hkv, K, D)
        logits = (q_ @ keys.mT * scale).reshape(hkv, rows, hq // hkv, -1).transpose(0, 1).reshape(rows, hq, -1)
        near = layout.near(layout.signal_rows[first:last, None], np.arange(at, end))
        if not near.all():
            logits = logits.masked_fill(torch.from_numpy(~near).to(k.device)[:, None], -torch.inf)
        out.append(use(logits))
    return out
