"""The naive reference: one log-sum-exp per signal row and span, in float32 (float64 for float64)."""

from __future__ import annotations

import numpy as np
import torch

from ..packing import Packing
from .spans import Part, columns, key_spans

__all__ = ["lse"]


def lse(q_signal: torch.Tensor, k: torch.Tensor, layout: Packing, scale: float, part: Part) -> torch.Tensor:
    """See `sightline.kernels.block_lse`; differentiable by autograd."""
    wide = torch.promote_types(q_signal.dtype, torch.float32)
    group = q_signal.shape[1] // k.shape[1]
    nothing = q_signal.new_full(q_signal.shape[:2], -torch.inf, dtype=wide)  # (R, Hq)
    out = [nothing] * columns(layout, part)
    for start, stop, first, last, column in key_spans(layout, part).tolist():
        keys = k[start:stop].to(wide).repeat_interleave(group, dim=1)
        logits = torch.einsum("rhd,khd->rhk", q_signal[first:last].to(wide), keys) * scale
        if part == "rest" and layout.causal:
            after = torch.arange(start, stop, device=k.device) > layout.signal[first:last, None]
            logits = logits.masked_fill(after[:, None], -torch.inf)
        near = torch.from_numpy(layout.near(layout.signal_rows[first:last, None], np.arange(start, stop))).to(k.device)
        blind = ~near.any(dim=1, keepdim=True)  # rows that see nothing here: the gradient of -inf is not a number
        value = logits.masked_fill(~(near | blind)[:, None], -torch.inf).logsumexp(dim=2).masked_fill(blind, -torch.inf)
        out[column] = torch.cat([out[column][:first], value, out[column][last:]])
    return torch.stack(out, dim=2) if out else q_signal.new_empty(*q_signal.shape[:2], 0, dtype=wide)
