"""The fast path on CPUs: blocks of about one length together, in one batched call with one small mask.

A batch holds copies of each block's keys behind copies of its prefix; blocks are padded to the longest of their batch
(at most an eighth). Query blocks, whose prefix is the whole context, are computed in two parts that share no key
and are merged by their log-sum-exp. Half precisions are computed in float32: without AMX or AVX512-BF16, CPUs multiply
bfloat16 several times slower. Where there is one of them, gradients of bfloat16 are products in bfloat16.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import torch

from ..packing import QUERY, SEEN, Packing

__all__ = ["backward", "forward"]

_SLACK = 0.875  # of the longest in a batch: shorter blocks begin another batch
_BATCH_KEYS = 2**15  # keys copied for one batch, at most (one block may have more)
_ROWS = 128  # tokens of a tile of the backward pass
_LOGITS = 2**19  # logits of such a tile, of all heads together: 2 MiB


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


class _Tile(NamedTuple):
    """Queries and keys that meet in the backward pass."""

    rows: slice
    keys: slice
    mask: torch.Tensor | None  # float32 (R, K), 1 where a row sees a key, else 0; None where every row sees every key


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
    for rows, keys, mask in layout.keep(("cpu tiles", hkv * group), lambda: _tiles(layout, hkv * group)):
        folded = slice(rows.start * group, rows.stop * group)
        p = bmm(q_wide[:, folded], k_wide[:, keys].mT).sub_(lse_[:, folded]).exp_()  # (Hkv, R * G, K)
        if mask is not None:
            p.unflatten(1, (-1, group)).mul_(mask[:, None])
        ds = torch.sub(bmm(do_[:, folded], v_[:, keys].mT), delta[:, folded]).mul_(p).to(fast)
        d_q[:, folded] += bmm(ds, k_[:, keys])
        d_k[:, keys] += bmm(ds.mT, q_[:, folded])
        d_v[:, keys] += bmm(p.to(fast).mT, do_[:, folded])
    d_q = (d_q * scale).unflatten(1, (-1, group)).transpose(0, 1).flatten(1, 2)
    d_k *= scale
    return d_q.to(q.dtype), d_k.transpose(0, 1).to(k.dtype), d_v.transpose(0, 1).to(v.dtype)


def _tiles(layout: Packing, heads: int) -> list[_Tile]:
    """Each pair of a query and a key that it sees is in one tile."""
    out: list[_Tile] = []
    masks: dict[tuple[int, ...], torch.Tensor | None] = {}

    def whole(rows: range, keys: range) -> None:
        """All these rows see all these keys."""
        for row in rows[::_ROWS]:
            some = slice(row, min(row + _ROWS, rows.stop))
            step = max(1, _LOGITS // (heads * (some.stop - some.start)))
            out.extend(_Tile(some, slice(key, min(key + step, keys.stop)), None) for key in keys[::step])

    def own(start: int, sizes: tuple[int, ...]) -> None:
        """Each of these neighbours sees itself."""
        if sizes not in masks:
            mask = torch.block_diag(*(torch.ones(size, size) for size in sizes))
            masks[sizes] = mask.tril() if layout.causal else mask if len(sizes) > 1 else None
        span = slice(start, start + sum(sizes))
        out.append(_Tile(span, span, masks[sizes]))

    blocks = layout.blocks[SEEN].tolist()
    for prefix, some in itertools.groupby(blocks, key=lambda block: block[2:]):
        readers = list(some)
        whole(range(readers[0][0], readers[-1][1]), range(*prefix))
    together: list[int] = []  # sizes of short blocks that share a tile
    for start, stop, *_ in blocks:
        if together and sum(together) + stop - start > _ROWS:
            own(start - sum(together), tuple(together))
            together = []
        if stop - start <= _ROWS:
            together.append(stop - start)
        elif layout.causal:
            for row in range(start, stop, _ROWS):
                end = min(row + _ROWS, stop)
                whole(range(row, end), range(start, row))
                own(row, (end - row,))
        else:
            whole(range(start, stop), range(start, stop))
    if together:
        own(layout.tokens - sum(together), tuple(together))
    return out


@functools.cache
def _fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 by an instruction of its own."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
