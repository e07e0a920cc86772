"""What query blocks pay to each token: for evidence, and for readouts that look inside documents.

Plain torch, the same on every device: a few signal rows against all keys is one skinny product, a chunk of keys at a
time, and its result is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..checks import check_packed, check_scale
from ..packing import DOCUMENT, Packing
from .spans import key_spans

__all__ = ["block_max", "token_mass"]

_CHUNK = 4096  # keys whose logits are held at a time


def token_mass(
    q_signal: torch.Tensor,
    k: torch.Tensor,
    layout: Packing,
    normaliser: torch.Tensor,
    *,
    scale: float,
    heads: torch.Tensor | None = None,
    reduce: bool = True,
) -> list[torch.Tensor]:
    """Attention of each query block's signal tokens on each token of its documents, a mean over the signal tokens.

    Carries gradients by ``q_signal``, ``k`` and ``normaliser``; for them logits are kept, R x Hq x K.

    Args:
        q_signal: (R, Hq, D), rows ``layout.signal``.
        k: (T, Hkv, D).
        layout: T tokens, R signal tokens, on the same device.
        normaliser: float (R, Hq), log-sum-exp of the keys that compete: all that the row sees, see `row_lse`, or the
            tokens of the documents only.
        scale: factor on q . k.
        heads: int64 (H,), which query heads; None for all.
        reduce: sum over those heads, else keep them apart.

    Returns:
        For each query block that has signal tokens, in packed order: float32 (float64 for float64) (K,) or (H, K), K
        the tokens of all documents of its context in packed order.

    Raises:
        InputError: if shapes, dtypes, devices or strides do not fit one another or the layout.

    Example:
        >>> from sightline.kernels import Packing, Context
        >>> layout = Packing([Context(documents=[1, 2], queries=[1])])
        >>> k = torch.zeros(4, 1, 2)
        >>> token_mass(k[3:], k, layout, torch.tensor([[3.0]]).log(), scale=1.0)
        [tensor([0.3333, 0.3333, 0.3333])]
    """
    check_packed(layout, queries=len(layout.signal_rows), q=q_signal, k=k, v=None)
    scale = check_scale(scale)
    documents, wide = _document_spans(layout), torch.promote_types(q_signal.dtype, torch.float32)
    out = []
    for first, last, context in _signal_spans(layout):
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


def block_max(q_signal: torch.Tensor, k: torch.Tensor, layout: Packing, *, scale: float) -> torch.Tensor:
    """The largest logit of each signal row in each document, late interaction's MaxSim before its sum.

    Carries gradients by ``q_signal`` and ``k``, as `token_mass` does.

    Args:
        q_signal: (R, Hq, D), rows ``layout.signal``.
        k: (T, Hkv, D).
        layout: T tokens, N documents at most, R signal tokens, on the same device.
        scale: factor on q . k.

    Returns:
        float32 (R, Hq, N) (float64 for float64), natural units; ``-inf`` for documents without tokens and those of
        other contexts.

    Raises:
        InputError: as `token_mass`.
    """
    check_packed(layout, queries=len(layout.signal_rows), q=q_signal, k=k, v=None)
    scale = check_scale(scale)
    wide = torch.promote_types(q_signal.dtype, torch.float32)
    out = q_signal.new_full((*q_signal.shape[:2], layout.documents), -torch.inf, dtype=wide)
    for *span, column in key_spans(layout, "documents").tolist():
        _, _, first, last = span
        chunks = _chunks(q_signal, k, layout, span, scale, lambda logits: logits.amax(dim=2, keepdim=True))
        out[first:last, :, column] = torch.cat(chunks, dim=2).amax(dim=2)
    return out


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


def _document_spans(layout: Packing) -> dict[int, tuple[int, int]]:
    """Per context: first and last+1 token of its documents, which stand together."""
    spans: dict[int, tuple[int, int]] = {}
    for context, _, start, stop in layout.spans(DOCUMENT):
        spans[context] = (spans.get(context, (start, stop))[0], stop)
    return spans


def _signal_spans(layout: Packing) -> list[tuple[int, int, int]]:
    """Per query block that has signal rows: first and last+1 of them, and its context."""
    out: list[tuple[int, int, int]] = []
    for i, context in enumerate(layout.signal_contexts.tolist()):
        if out and layout.signal_blocks[i - 1] == layout.signal_blocks[i]:
            out[-1] = (out[-1][0], i + 1, context)
        else:
            out.append((i, i + 1, context))
    return out
