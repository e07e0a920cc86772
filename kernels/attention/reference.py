"""The naive reference: block after block, one formula each, in float32 (float64 for float64)."""

from __future__ import annotations

import numpy as np
import torch

from ..packing import SEEN, Packing

__all__ = ["block_attention"]


def block_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.block_attention`; differentiable by autograd."""
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    outs, lses = [], []
    for start, stop, prefix_start, prefix_stop in layout.queried[SEEN].tolist():
        keys, values = (
            torch.cat([x[prefix_start:prefix_stop], x[start:stop]]).to(wide).repeat_interleave(group, dim=1)
            for x in (k, v)
        )  # (S, Hq, D)
        logits = torch.einsum("qhd,khd->hqk", q[start - layout.first : stop - layout.first].to(wide), keys) * scale
        if layout.causal:
            hidden = torch.ones(logits.shape[1:], dtype=torch.bool, device=q.device)
            logits = logits.masked_fill(hidden.triu(prefix_stop - prefix_start + 1), -torch.inf)
        if layout.window is not None:
            seen = np.r_[prefix_start:prefix_stop, start:stop]
            near = torch.from_numpy(layout.near(np.arange(start, stop)[:, None], seen)).to(q.device)
            logits = logits.masked_fill(~near, -torch.inf)
        lse = logits.logsumexp(dim=-1)  # (Hq, Q)
        outs.append(torch.einsum("hqk,khd->qhd", (logits - lse[..., None]).exp(), values))
        lses.append(lse.T)
    return torch.cat(outs).to(q.dtype), torch.cat(lses)
