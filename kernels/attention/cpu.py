"""The fast path on CPUs: blocks of about one length together, in one batched call with one small mask.

A batch holds copies of each block's keys behind copies of its prefix; blocks are padded to the longest of their batch
(at most an eighth). Query blocks, whose prefix is the whole context, are computed in two parts that share no key
and are merged by their log-sum-exp. Half precisions are computed in float32: without AMX or AVX512-BF16, CPUs multiply
bfloat16 several times slower.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..packing import QUERY, SEEN, Packing

__all__ = ["backward", "forward"]

_SLACK = 0.875  # of the longest in a batch: shorter blocks begin another batch
_BATCH_KEYS = 2**15  # keys copied for one batch, at most (one block may have more)
_CHUNK = 4096  # keys of a query block's prefix that the backward pass holds probabilities for at a time


class _Index(NamedTuple):
    """Packed indices of any shape."""

    tokens: torch.Tensor  # int64
    span: slice | None  # where they are consecutive: then nothing need be copied

    @classmethod
    def of(cls, tokens: np.ndarray) -> _Index:
        """An index with its span, if it has one."""
        flat = tokens.ravel()
        consecutive = len(flat) > 0 and bool((np.diff(flat) == 1).all())
        return cls(torch.from_numpy(tokens), slice(int(flat[0]), int(flat[-1]) + 1) if consecutive else None)


class _Batch(NamedTuple):
    """Blocks computed together: B of up to L tokens behind P prefix tokens each."""

    rows: _Index  # (B, L), packed indices; padding repeats the last token
    keys: _Index  # (B, P + L)
    mask: torch.Tensor | None  # bool, broadcasts to (B, 1, L, P + L); None where every row sees every key
    real: torch.Tensor | None  # bool (B, L), False for padding; None where there is none


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.block_attention`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.empty(q.shape, dtype=wide)
    lse = torch.empty(q.shape[:2], dtype=wide)

    def attend(rows: _Index, keys: _Index, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return _attend(_take(q, rows, wide), _take(k, keys, wide), _take(v, keys, wide), mask, scale)

    for batch in layout.keep("cpu batches", lambda: _batches(layout)):
        results = attend(batch.rows, batch.keys, batch.mask)
        for whole, part in zip((out, lse), results, strict=True):
            _put(whole, batch, part)
    for rows, own, prefix in layout.keep("cpu queries", lambda: _queries(layout)):
        o, s = attend(rows, rows, own)
        if prefix.tokens.numel():
            far, far_s = attend(rows, prefix, None)
            both = torch.logaddexp(s, far_s)
            o, s = o * (s - both).exp()[..., None] + far * (far_s - both).exp()[..., None], both
        out[rows.span], lse[rows.span] = o[0], s[0]
    return out.to(q.dtype), lse


def backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    layout: Packing,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients by q, k and v; probabilities are computed again from ``lse`` (FlashAttention-2, section 3.1.2)."""
    wide, group = lse.dtype, q.shape[1] // k.shape[1]
    d_q, d_k, d_v = (torch.zeros(x.shape, dtype=wide) for x in (q, k, v))
    # The softmax's inner product, less what the log-sum-exp's own gradient adds to every logit.
    delta = (out.to(wide) * d_out.to(wide)).sum(dim=-1) - d_lse  # (T, Hq)

    def add(rows: _Index, keys: _Index, mask: torch.Tensor | None) -> None:
        k_, v_ = (_take(x, keys, wide).transpose(1, 2) for x in (k, v))  # (B, Hkv, S, D)
        of_rows = [_take(x, rows, wide).transpose(1, 2) for x in (q, d_out, lse[..., None], delta[..., None])]
        for g in range(group):
            q_, do_, lse_, delta_ = (x[:, g::group] for x in of_rows)  # (B, Hkv, L, D or 1)
            p = (q_ @ k_.mT * scale - lse_).exp()  # (B, Hkv, L, S)
            if mask is not None:
                p = p.masked_fill(~mask, 0)
            ds = p * (do_ @ v_.mT - delta_) * scale
            d_q[:, g::group].index_add_(0, rows.tokens.flatten(), (ds @ k_).transpose(1, 2).flatten(0, 1))
            d_k.index_add_(0, keys.tokens.flatten(), (ds.mT @ q_).transpose(1, 2).flatten(0, 1))
            d_v.index_add_(0, keys.tokens.flatten(), (p.mT @ do_).transpose(1, 2).flatten(0, 1))

    for batch in layout.keep("cpu batches", lambda: _batches(layout)):
        mask = batch.mask
        if batch.real is not None:  # padded rows repeat a real one: they must not be counted again
            real = batch.real[:, None, :, None]
            mask = real if mask is None else mask & real
        add(batch.rows, batch.keys, mask)
    for rows, own, prefix in layout.keep("cpu queries", lambda: _queries(layout)):
        add(rows, rows, own)
        for part in prefix.tokens.split(_CHUNK, dim=1):
            add(rows, _Index.of(part.numpy()), None)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _batches(layout: Packing) -> list[_Batch]:
    """Instructions and documents, those of about one length and the same prefix length together."""
    blocks = layout.blocks[layout.blocks["kind"] != QUERY]
    size, prefix = blocks["stop"] - blocks["start"], blocks["prefix_stop"] - blocks["prefix_start"]
    order = np.lexsort((blocks["start"], -size, prefix))
    batches, first = [], 0
    for i in range(1, len(order) + 1):
        longest = size[order[first]] if first < len(order) else 0
        if i < len(order):
            room = (i - first + 1) * (longest + prefix[order[first]]) <= _BATCH_KEYS
            if prefix[order[i]] == prefix[order[first]] and size[order[i]] >= _SLACK * longest and room:
                continue
        if first < len(order):
            batches.append(_batch(blocks[order[first:i]], layout.causal))
        first = i
    return batches


def _batch(blocks: np.ndarray, causal: bool) -> _Batch:
    start, first = blocks["start"][:, None], blocks["prefix_start"][:, None]
    size = blocks["stop"] - blocks["start"]
    place = np.arange(size.max())
    own = start + np.minimum(place, size[:, None] - 1)  # (B, L)
    before = first + np.arange(blocks["prefix_stop"][0] - blocks["prefix_start"][0])  # (B, P)
    rows, keys = _Index.of(own), _Index.of(np.concatenate([before, own], axis=1))
    length, prefix = own.shape[1], before.shape[1]
    real = torch.from_numpy(place < size[:, None])
    padded = not bool(real.all())
    mask = None
    if causal:  # padding comes after every real row, so that no real row sees it
        mask = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)[None, None]
    elif padded:
        mask = torch.cat([torch.ones(len(blocks), prefix, dtype=torch.bool), real], dim=1)[:, None, None]
    return _Batch(rows, keys, mask, real if padded else None)


def _queries(layout: Packing) -> list[tuple[_Index, torch.Tensor | None, _Index]]:
    """Per query block: its rows (1, L), the mask on itself, its prefix (1, P)."""
    out = []
    blocks = layout.blocks[layout.blocks["kind"] == QUERY]
    for start, stop, prefix_start, prefix_stop in blocks[SEEN].tolist():
        own = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()[None, None] if layout.causal else None
        rows, prefix = (_Index.of(np.arange(*span)[None]) for span in ((start, stop), (prefix_start, prefix_stop)))
        out.append((rows, own, prefix))
    return out


def _take(x: torch.Tensor, index: _Index, wide: torch.dtype) -> torch.Tensor:
    """Rows of (T, ...) as (*index, ...)."""
    # Not x[index]: that is ten times slower.
    flat = x[index.span] if index.span else x.index_select(0, index.tokens.flatten())
    rows: torch.Tensor = flat.to(wide).unflatten(0, index.tokens.shape)
    return rows


def _put(whole: torch.Tensor, batch: _Batch, part: torch.Tensor) -> None:
    """The counterpart for a batch's rows (B, L, ...); padding is left out."""
    part = part.flatten(0, 1)
    if batch.rows.span:
        whole[batch.rows.span] = part
    elif batch.real is None:
        whole.index_copy_(0, batch.rows.tokens.flatten(), part)
    else:
        kept = batch.real.flatten().nonzero()[:, 0]
        whole.index_copy_(0, batch.rows.tokens.flatten()[kept], part.index_select(0, kept))


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention (B, L, Hq, D) and its log-sum-exp (B, L, Hq), by the operator behind torch's own on CPUs.

    The query heads that share a key head are rows beside one another where there is no mask, and take turns where there
    is one; so no key is repeated.
    """
    # Not public, but the only fused one that returns the log-sum-exp; tests/kernels compare it with the reference.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    (_, length, hq, _), hkv = q.shape, k.shape[2]
    group = hq // hkv
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if mask is None:
        folded = q.unflatten(2, (hkv, group)).transpose(1, 2).flatten(2, 3)  # (B, Hkv, L * G, D)
        out, lse = (
            x.unflatten(2, (length, group)).transpose(1, 2).flatten(2, 3) for x in fused(folded, k, v, scale=scale)
        )
        return out, lse
    mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    q = q.transpose(1, 2)
    results = [fused(q[:, g::group], k, v, attn_mask=mask, scale=scale) for g in range(group)]
    out, lse = (torch.stack([result[i] for result in results], dim=2).flatten(1, 2) for i in range(2))
    return out.transpose(1, 2), lse.transpose(1, 2)
