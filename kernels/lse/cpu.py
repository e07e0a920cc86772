"""The fast path on CPUs: one small batched product and one reduction per span of keys, on one thread.

A document's numbers are those of its own product, whatever stands before or after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..packing import Packing
from ..threads import one_thread
from .spans import Part, columns, key_spans

__all__ = ["backward", "forward"]


@one_thread()
def forward(q_signal: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float, part: Part) -> torch.Tensor:
    """See `sightline.kernels.block_lse`."""
    wide = torch.promote_types(q_signal.dtype, torch.float32)
    rows, hq, _ = q_signal.shape
    out = torch.full((rows, hq, columns(layout, part)), -torch.inf, dtype=wide)
    for logits, _, _, (_, _, first, last, column) in _logits(q_signal, k, layout, scale, part):
        out[first:last, :, column] = _by_row(logits.logsumexp(dim=2, keepdim=True), last - first)[..., 0]
    return out


@one_thread()
def backward(
    d_lse: torch.Tensor,
    q_signal: torch.Tensor,
    k: torch.Tensor,
    lse: torch.Tensor,
    layout: Packing,
    scale: float,
    part: Part,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by q_signal and k."""
    d_q = torch.zeros(q_signal.shape, dtype=lse.dtype)
    d_k = torch.zeros(k.shape, dtype=lse.dtype)
    hkv = k.shape[1]
    lse = lse.masked_fill(lse == -torch.inf, 0)  # rows that see nothing of a span: its probabilities are 0, not 0 / 0
    for logits, q, keys, (start, stop, first, last, column) in _logits(q_signal, k, layout, scale, part):
        lse_, grad = (_by_head(x[first:last, :, column, None], hkv) for x in (lse, d_lse))  # (Hkv, R * G, 1)
        ds = (logits - lse_).exp() * grad * scale
        d_q[first:last] += _by_row(ds @ keys, last - first)
        d_k[start:stop] += (ds.mT @ q).transpose(0, 1)
    return d_q.to(q_signal.dtype), d_k.to(k.dtype)


def _logits(
    q_signal: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float, part: Part
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]]:
    """Per span: logits (Hkv, R * G, S), its rows of q (Hkv, R * G, D), its keys (Hkv, S, D), the span itself."""
    wide = torch.promote_types(q_signal.dtype, torch.float32)
    seen: tuple[int, int] | None = None
    for span in key_spans(layout, part).tolist():
        start, stop, first, last, _ = span
        if seen != (first, last):  # one context's documents share their rows
            seen = first, last
            q = _by_head(q_signal[first:last].to(wide), k.shape[1]).contiguous()
        keys = k[start:stop].to(wide).transpose(0, 1)
        logits = q @ keys.mT * scale
        visible = layout.near(layout.signal_rows[first:last, None], np.arange(start, stop))
        if part == "rest" and layout.causal:
            visible &= np.arange(start, stop) <= layout.signal_rows[first:last, None]
        if not visible.all():
            hidden = torch.from_numpy(~visible).repeat_interleave(q.shape[1] // (last - first), dim=0)
            logits = logits.masked_fill(hidden, -torch.inf)
        yield logits, q, keys, span


def _by_head(x: torch.Tensor, hkv: int) -> torch.Tensor:
    """(R, Hq, D) -> (Hkv, R * G, D)."""
    rows, hq, d = x.shape
    return x.reshape(rows, hkv, hq // hkv, d).transpose(0, 1).reshape(hkv, -1, d)


def _by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
    """(Hkv, R * G, D) -> (R, Hq, D)."""
    hkv, _, d = x.shape
    return x.reshape(hkv, rows, -1, d).transpose(0, 1).reshape(rows, -1, d)
