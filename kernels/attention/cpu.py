"""The fast path on CPUs: blocks of about one length together, in one batched call with one small mask.

A batch holds copies of each block's keys behind copies of its prefix; blocks are padded to the longest of their batch
(at most an eighth). Query blocks, whose prefix is the whole context, and long causal blocks are computed some rows at
a time, in parts that share no key and are merged by their log-sum-exp: so only the edge of the mask is computed under
one, and what lies behind it not at all. Half precisions are computed in float32: without AMX or AVX512-BF16, CPUs
multiply bfloat16 several times slower. Where there is one of them, gradients of bfloat16 are products in bfloat16.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..packing import QUERY, SEEN, Packing

__all__ = ["backward", "forward"]

_SLACK = 0.875  # of the longest in a batch: shorter blocks begin another batch
_BATCH_KEYS = 2**15  # keys copied for one batch, at most (one block may have more)
_LONG = 512  # tokens above which a causal block is computed some rows at a time
_STRIP = 256  # of so many rows
_ROWS = 128  # tokens of a tile of the backward pass
_LOGITS = 2**19  # logits of such a tile, of all heads together: 2 MiB


class _Index(NamedTuple):
    """Rows of a packed tensor, of any shape."""

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

    rows: _Index  # (B, L), rows of q; padding repeats the last token
    keys: _Index  # (B, P + L)
    mask: torch.Tensor | None  # bool, broadcasts to (B, L, P + L); None where every row sees every key
    real: torch.Tensor | None  # bool (B, L), False for padding; None where there is none


class _Part(NamedTuple):
    """Keys that some rows see."""

    keys: slice
    mask: torch.Tensor | None  # bool (R, K); None where every row sees every key


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Packing, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.block_attention`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.empty(q.shape, dtype=wide)
    lse = torch.empty(q.shape[:2], dtype=wide)

    for batch in layout.keep("cpu batches", _batches):
        q_, k_, v_ = (_take(x, at, wide) for x, at in ((q, batch.rows), (k, batch.keys), (v, batch.keys)))
        results = _attend(q_, k_, v_, batch.mask, scale)
        for whole, part in zip((out, lse), results, strict=True):
            _put(whole, batch, part)
    for rows, parts in layout.keep("cpu strips", _strips):
        of_rows = q[None, rows].to(wide)
        of_parts = (_attend(of_rows, k[None, at].to(wide), v[None, at].to(wide), mask, scale) for at, mask in parts)
        o, s = next(of_parts)
        for part, part_s in of_parts:
            both = torch.logaddexp(s, part_s)
            o = o * (s - both).exp()[..., None] + part * (part_s - both).exp()[..., None]
            s = both
        out[rows], lse[rows] = o[0], s[0]
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
    """Gradients by q, k and v; probabilities are computed again from ``lse`` (FlashAttention-2, section 3.1.2).

    The context is cut into tiles of queries by keys whose logits stay in the processor's cache; nearly all of them are
    slices, so that nothing is gathered or scattered. A tile's heads stand as in `_attend`: the query heads that share a
    key head are rows beside one another.
    """
    wide, hkv = lse.dtype, k.shape[1]
    group = q.shape[1] // hkv
    # Logits are always in float32; the other four products are, where bfloat16 is fast, in bfloat16.
    fast = q.dtype if q.dtype == torch.bfloat16 and _fast_bfloat16() else wide

    def fold(x: torch.Tensor) -> torch.Tensor:
        """(T, Hq, D) -> (Hkv, T * G, D)."""
        folded: torch.Tensor = x.unflatten(1, (hkv, -1)).transpose(0, 1).flatten(1, 2)
        return folded

    # The softmax's inner product, less what the log-sum-exp's own gradient adds to every logit.
    delta = fold(((out.to(wide) * d_out.to(wide)).sum(dim=-1) - d_lse)[..., None])  # (Hkv, T * G, 1)
    lse_, q_, k_, do_, v_ = fold(lse[..., None]), fold(q), fold(k), fold(d_out.to(fast)), fold(v.to(fast))
    q_wide, k_wide, q_, k_ = q_.to(wide) * scale, k_.to(wide), q_.to(fast), k_.to(fast)
    d_q, d_k, d_v = (torch.zeros(x.shape, dtype=wide) for x in (q_, k_, v_))
    bmm = torch.bmm  # not @, which copies slices of a batch
    for rows, keys, mask in layout.keep(("cpu tiles", hkv * group), lambda layout: _tiles(layout, hkv * group)):
        folded = slice(rows.start * group, rows.stop * group)
        p = bmm(q_wide[:, folded], k_wide[:, keys].mT).sub_(lse_[:, folded]).exp_()  # (Hkv, R * G, K)
        if mask is not None:
            p.unflatten(1, (-1, group)).mul_(mask[:, None])  # faster than to fill it
        ds = torch.sub(bmm(do_[:, folded], v_[:, keys].mT), delta[:, folded]).mul_(p).to(fast)
        d_q[:, folded] += bmm(ds, k_[:, keys])
        d_k[:, keys] += bmm(ds.mT, q_[:, folded])
        d_v[:, keys] += bmm(p.to(fast).mT, do_[:, folded])
    d_q = (d_q * scale).unflatten(1, (-1, group)).transpose(0, 1).flatten(1, 2)
    d_k *= scale
    return d_q.to(q.dtype), d_k.transpose(0, 1).to(k.dtype), d_v.transpose(0, 1).to(v.dtype)


def _tiles(layout: Packing, heads: int) -> list[tuple[slice, slice, torch.Tensor | None]]:
    """Rows, keys and the mask between them, as `_Part` has it: each pair that sees one another is in one tile."""
    out: list[tuple[slice, slice, torch.Tensor | None]] = []

    def meet(rows: range, keys: range) -> None:
        """Rows that see all the keys but for the window."""
        for some in _cut(rows, _ROWS):
            step = max(1, _LOGITS // (heads * (some.stop - some.start)))
            for seen, mask in _near(layout, some, slice(keys.start, keys.stop)):
                if mask is not None:
                    out.append((some, seen, mask))
                else:
                    out.extend((some, part, None) for part in _cut(range(seen.start, seen.stop), step))

    def themselves(start: int, sizes: Sequence[int]) -> None:
        """Neighbours each of which sees itself."""
        if sizes:
            span = slice(start, start + sum(sizes))
            out.append((span, span, _own(layout, span, sizes)))

    blocks = layout.blocks[SEEN].tolist()
    for prefix, some in itertools.groupby(blocks, key=lambda block: block[2:]):
        readers = list(some)
        meet(range(readers[0][0], readers[-1][1]), range(*prefix))
    together: list[int] = []  # sizes of short blocks that share a tile
    for start, stop, *_ in blocks:
        if sum(together) + stop - start > _ROWS:
            themselves(start - sum(together), together)
            together = []
        if stop - start <= _ROWS:
            together.append(stop - start)
        elif layout.causal:
            for rows in _cut(range(start, stop), _ROWS):
                meet(range(rows.start, rows.stop), range(start, rows.start))
                themselves(rows.start, [rows.stop - rows.start])
        else:
            meet(range(start, stop), range(start, stop))
    themselves(layout.tokens - sum(together), together)
    return out


def _strips(layout: Packing) -> list[tuple[slice, list[_Part]]]:
    """Rows of q of query blocks and of long causal blocks, with all that they see; first themselves, whom all see."""
    out = []
    for start, stop, prefix_start, prefix_stop, kind in layout.queried[[*SEEN, "kind"]].tolist():
        if not _by_strips(layout, kind, stop - start):
            continue
        for rows in _cut(range(start, stop), _STRIP if layout.causal else stop - start):
            before = [slice(prefix_start, prefix_stop), slice(start, rows.start)]
            if prefix_stop == start:
                before = [slice(prefix_start, rows.start)]
            own = _Part(rows, _own(layout, rows, [rows.stop - rows.start]))
            parts = [own, *(part for keys in before for part in _near(layout, rows, keys))]
            out.append((slice(rows.start - layout.first, rows.stop - layout.first), parts))
    return out


def _by_strips(layout: Packing, kind: np.ndarray | int, size: np.ndarray | int) -> np.ndarray:
    return np.equal(kind, QUERY) | (layout.causal & np.greater(size, _LONG))


def _cut(span: range, size: int) -> list[slice]:
    return [slice(start, min(start + size, span.stop)) for start in span[::size]]


def _own(layout: Packing, span: slice, sizes: Sequence[int]) -> torch.Tensor | None:
    """The mask of neighbouring blocks on themselves."""
    seen = np.zeros((sum(sizes), sum(sizes)), dtype=bool)
    start = 0
    for size in sizes:
        seen[start : start + size, start : start + size] = True
        start += size
    if layout.causal:
        rows = np.arange(span.start, span.stop)
        seen = np.tril(seen) & layout.near(rows[:, None], rows)
    return _mask(layout, seen)


def _near(layout: Packing, rows: slice, keys: slice) -> list[_Part]:
    """Of earlier keys those that the window lets rows see; what all rows see in as large parts as there are."""
    if layout.window is None or keys.stop <= keys.start:
        return [_Part(keys, None)] if keys.stop > keys.start else []
    parts: list[_Part] = []
    for some in _cut(range(keys.start, keys.stop), _ROWS):
        near = layout.near(np.arange(rows.start, rows.stop)[:, None], np.arange(some.start, some.stop))
        if not near.any():
            continue
        mask = _mask(layout, near)
        if parts and mask is None and parts[-1].mask is None and parts[-1].keys.stop == some.start:
            parts[-1] = _Part(slice(parts[-1].keys.start, some.stop), None)
        else:
            parts.append(_Part(some, mask))
    return parts


def _mask(layout: Packing, seen: np.ndarray) -> torch.Tensor | None:
    """As a tensor, shared by all parts with the same mask; None where everything is seen."""
    masks: dict[tuple[tuple[int, ...], bytes], torch.Tensor | None] = layout.keep("cpu masks", lambda _: {})
    key = seen.shape, np.packbits(seen).tobytes()
    if key not in masks:
        masks[key] = None if seen.all() else torch.from_numpy(seen)
    return masks[key]


@functools.cache
def _fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by an instruction of its own."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _batches(layout: Packing) -> list[_Batch]:
    """Instructions and documents, those of about one length and the same prefix length together."""
    blocks = layout.queried
    blocks = blocks[~_by_strips(layout, blocks["kind"], blocks["stop"] - blocks["start"])]
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
            batches.append(_batch(blocks[order[first:i]], layout))
        first = i
    return batches


def _batch(blocks: np.ndarray, layout: Packing) -> _Batch:
    start, first = blocks["start"][:, None], blocks["prefix_start"][:, None]
    size = blocks["stop"] - blocks["start"]
    place = np.arange(size.max())
    own = start + np.minimum(place, size[:, None] - 1)  # (B, L)
    before = first + np.arange(blocks["prefix_stop"][0] - blocks["prefix_start"][0])  # (B, P)
    behind = np.concatenate([before, own], axis=1)  # (B, P + L)
    real = torch.from_numpy(place < size[:, None])
    padded = not bool(real.all())
    mask = None
    if layout.causal:  # padding comes after every real row, so that no real row sees it
        seen = layout.near(own[:, :, None], behind[:, None])  # (B, L, P + L)
        seen = seen[:1] if (seen == seen[:1]).all() else seen
        mask = torch.from_numpy(seen & np.tri(own.shape[1], behind.shape[1], before.shape[1], dtype=bool))
    elif padded:
        mask = torch.cat([torch.ones(before.shape, dtype=torch.bool), real], dim=1)[:, None]
    return _Batch(_Index.of(own - layout.first), _Index.of(behind), mask, real if padded else None)


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
    bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    bias = bias if bias.ndim == 2 else bias[:, None]
    q = q.transpose(1, 2)
    results = [fused(q[:, g::group], k, v, attn_mask=bias, scale=scale) for g in range(group)]
    out, lse = (torch.stack([result[i] for result in results], dim=2).flatten(1, 2) for i in range(2))
    lse = lse.transpose(1, 2)  # the operator says 0 of rows that see nothing
    return out.transpose(1, 2), lse.masked_fill(~mask.any(dim=-1)[..., None], -torch.inf)
