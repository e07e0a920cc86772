"""What the kernels are timed beside: other ways to compute attention over a packed context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..kernels import block_attention
from ..kernels.packing import DOCUMENT, SEEN, Packing
from .ragged import Attention, Unable, flash_attention_3, flash_attention_4, flashinfer_paged, varlen
from .timing import seconds_in_turns

__all__ = ["OTHER_MASK", "PEERS", "Attention", "Unable"]

_MAX_MASK_BYTES = 12 * 2**30  # a bool per pair of tokens, and what torch makes of it, must fit beside the rest


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """`block_attention`, as dispatched."""
    return lambda: block_attention(q, k, v, layout, scale=scale)[0]


def sdpa_masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """Torch's attention with the dense boolean mask, made beforehand."""
    if (size := layout.tokens**2) > _MAX_MASK_BYTES:
        raise Unable(f"its mask takes {size / 2**30:.0f} GiB")
    mask = layout.mask()
    k, v = _ungrouped(q, k, v)
    return lambda: _sdpa(q, k, v, scale=scale, attn_mask=mask)


def sdpa_dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """Torch's attention without blocks: every token sees all before it (all, for encoders). Another result."""
    return lambda: _sdpa(q, k, v, scale=scale, is_causal=layout.causal)


def padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """One batch of all documents padded to the longest, each behind a copy of the instruction; the rest by SDPA."""
    k, v = _ungrouped(q, k, v)
    (context,) = layout.contexts
    first, count = context.instruction, len(context.documents)
    starts = torch.tensor([start for *_, start, _ in layout.spans(DOCUMENT)], device=q.device)
    sizes = torch.tensor(context.documents, device=q.device)
    place = torch.arange(int(sizes.max()), device=q.device)
    rows = starts[:, None] + torch.minimum(place, sizes[:, None] - 1)  # (N, L)
    real = place < sizes[:, None]
    keys = torch.cat([torch.arange(first, device=q.device).expand(count, first), rows], dim=1)  # (N, I + L)
    own = torch.ones(len(place), len(place), dtype=torch.bool, device=q.device)
    own = own.tril()[None] if layout.causal else real[:, None, :].expand(count, len(place), -1)
    before = torch.ones(own.shape[0], len(place), first, dtype=torch.bool, device=q.device)
    mask = torch.cat([before, own], dim=2)[:, None]
    packed = rows[real]
    end = layout.tokens - context.queries[0]
    last = torch.ones(layout.tokens - end, layout.tokens, dtype=torch.bool, device=q.device)
    last = last.tril(end) if layout.causal else last

    def attend() -> torch.Tensor:
        out = torch.empty_like(q)
        out[packed] = _sdpa(q[rows], k[keys], v[keys], scale=scale, attn_mask=mask)[real]
        if first:
            out[:first] = _sdpa(q[:first], k[:first], v[:first], scale=scale, is_causal=layout.causal)
        out[end:] = _sdpa(q[end:], k, v, scale=scale, attn_mask=last)
        return out

    return attend


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float) -> Attention:
    """FlexAttention, compiled, with the same mask; the fastest of three block sizes that work."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    owner = layout.owner(np.arange(layout.tokens))
    start, stop, before, until = (
        torch.from_numpy(layout.blocks[field][owner]).to(q.device, torch.int32) for field in SEEN
    )
    causal = layout.causal

    def sees(b: Any, h: Any, i: Any, j: Any) -> Any:
        own = (j >= start[i]) & ((j <= i) if causal else (j < stop[i]))
        return own | ((j >= before[i]) & (j < until[i]))

    heads = [x.transpose(0, 1)[None].contiguous() for x in (q, k, v)]
    cuda = q.device.type == "cuda"
    torch._dynamo.reset()
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    best: tuple[float, Attention] | None = None
    failures = []
    for size in ((128, 128), (64, 64), (128, 64)) if cuda else ((128, 128),):
        try:
            mask = create_block_mask(
                sees, None, None, layout.tokens, layout.tokens, device=q.device, BLOCK_SIZE=size, _compile=cuda
            )

            def attend(mask: Any = mask) -> torch.Tensor:
                out: torch.Tensor = compiled(*heads, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
                return out[0].transpose(0, 1)

            seconds = seconds_in_turns({"flex": attend}, q.device.type)["flex"]
        except Exception as error:  # whatever the compiler says is the peer's answer
            failures.append(f"blocks of {size}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            continue
        if best is None or seconds < best[0]:
            best = seconds, attend
    if best is None:
        raise Unable("; ".join(failures))
    return best[1]


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """Torch's attention on (..., tokens, heads, D), with or without a batch."""
    op: Any = torch.nn.functional.scaled_dot_product_attention
    if q.ndim == 3:
        return _sdpa(q[None], k[None], v[None], **options)[0]
    out: torch.Tensor = op(*(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True, **options)
    return out.transpose(1, 2)


def _ungrouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> list[torch.Tensor]:
    """Keys and values; on a GPU with heads repeated, because torch's fused kernels there take no mask with groups."""
    group = q.shape[1] // k.shape[1] if q.device.type == "cuda" else 1
    return [x.repeat_interleave(group, dim=1) for x in (k, v)]


PEERS: dict[str, Callable[..., Attention]] = {
    "sightline": ours,
    "SDPA, boolean mask": sdpa_masked,
    "SDPA, padded batch": padded,
    "FlexAttention": flex,
    "varlen_attn + merge": varlen,
    "FlashAttention-3 + merge": flash_attention_3,
    "FlashAttention-4 + merge": flash_attention_4,
    "FlashInfer, pages": flashinfer_paged,
    "SDPA, dense": sdpa_dense,
}
OTHER_MASK = {"SDPA, dense"}
"""Peers that let every token see all others, so that their result is another one."""
