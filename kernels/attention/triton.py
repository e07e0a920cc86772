"""The fast path on GPUs: one Triton kernel forward, two backward, and one that combines partial results.

A tile holds ``rows`` packed rows: the G query heads that share a key head stand one after another for each token, so
that a small model's few heads still fill the matrix unit and no key is loaded G times. One loop walks both spans
of a tile (see `tiles`): their key blocks are numbered through, which keeps the software pipeline full across the seam.
Softmax is online, in base 2 and float32 (FlashAttention-2, 2023); no atomics, so results are the same every time.

Loads stop at the span's end, so that what stands in memory beyond it, even NaN, is never met.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..packed import (
    LN2,
    LOG2E,
    LOWEST,
    box,
    load,
    load_box,
    load_paged,
    load_run,
    padded_dim,
    places_of,
    positions_of,
    store,
    upcast,
    wants_boxes,
)
from ..packing import Packing
from ..paged import Paged
from ..tuning import Tile, arch, tuned
from .tiles import key_tiles, row_tiles

__all__ = ["backward", "forward"]

_COMBINED_ROWS = 16


@triton.jit
def _tile(TILES, number):
    """A row of `tiles.Work`: start and stop of the tile itself, of its own span and of its far one; slot; first row."""
    tile = TILES + number * 8
    start, stop = tl.load(tile), tl.load(tile + 1)
    own_start, own_stop = tl.load(tile + 2), tl.load(tile + 3)
    far_start, far_stop = tl.load(tile + 4), tl.load(tile + 5)
    slot, first = tl.load(tile + 6), tl.load(tile + 7)
    return start, stop, own_start, own_stop, far_start, far_stop, slot, first


@triton.jit
def _forward(
    Q, K, V, OUT, LSE, PART, PART_LSE, TILES, POSITIONS, KEY_PLACES, VALUE_PLACES, scale,
    q_token, q_head, k_token, k_head, v_token, v_head, o_token, o_head, key_heads, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    key_head = tl.program_id(0) % key_heads
    hk = key_head.to(tl.int64)
    start, stop, own_start, own_stop, far_start, far_stop, slot, first = _tile(TILES, tl.program_id(0) // key_heads)

    rows = tl.arange(0, ROWS)
    token, head = start + rows // G, hk * G + rows % G
    alive = (rows < (ROWS // G) * G) & (token < stop)
    row = first + rows // G  # of q, the output and its log-sum-exp
    q = load(Q, row, head * q_head, q_token, alive, D, BD, UPCAST)  # (ROWS, BD)
    if WINDOW:  # of the positions up to here, a row sees nothing
        oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window

    m = tl.full([ROWS], LOWEST, tl.float32)
    l = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BD], tl.float32)
    far_blocks = tl.cdiv(far_stop - far_start, KEYS)
    own_shift = own_start - far_blocks * KEYS
    if not TMA:
        keys_of_head, values_of_head = K + hk * k_head, V + hk * v_head
    for j in range(0, far_blocks + tl.cdiv(own_stop - own_start, KEYS)):
        is_far = j < far_blocks
        first_key = tl.where(is_far, far_start, own_shift) + j * KEYS
        left = tl.where(is_far, far_stop, own_stop) - first_key  # keys of the span from here on
        keys, last = tl.arange(0, KEYS), left - 1  # the last key of these that a row sees
        if TMA:
            k = load_box(K, first_key, key_head, KEYS, D, UPCAST)
        elif KEY_PLACES is not None:
            k = load_paged(keys_of_head, KEY_PLACES, first_key, k_token, left, KEYS, D, BD, UPCAST)
        else:
            k = load_run(keys_of_head, first_key, k_token, left, KEYS, D, BD, UPCAST)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        if CAUSAL:
            last = tl.minimum(token - first_key, last)[:, None]
        if WINDOW:
            near = tl.load(POSITIONS + first_key + keys, mask=keys < left, other=0)[None, :] > oldest[:, None]
            s = tl.where(near & (keys[None, :] <= last), s, float("-inf"))
        # Most tiles need no mask: all their keys are there, and none stands behind the first row's token.
        elif (left < KEYS) | (CAUSAL and start - first_key < KEYS - 1):
            s = tl.where(keys[None, :] <= last, s, float("-inf"))
        # The scale is positive: it may be applied behind the maximum, in the multiply-add before the exponential.
        m_new = tl.maximum(m, tl.max(s, 1) * scale)
        p = tl.exp2(s * scale - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        l = l * shrink + tl.sum(p, 1)
        if TMA:
            v = load_box(V, first_key, key_head, KEYS, D, UPCAST)
            if left < KEYS:  # a weight of zero does not take a NaN away
                v = tl.where(keys[:, None] < left, v, 0.0)
        elif VALUE_PLACES is not None:
            v = load_paged(values_of_head, VALUE_PLACES, first_key, v_token, left, KEYS, D, BD, UPCAST)
        else:
            v = load_run(values_of_head, first_key, v_token, left, KEYS, D, BD, UPCAST)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = m_new
    l = tl.where(l == 0, 1.0, l)  # of a part that the window left no key
    acc = acc / l[:, None]
    lse2 = m + tl.log2(l)
    if slot == 0:
        store(OUT, row, head * o_head, o_token, alive, acc, D, BD)
        tl.store(LSE + row.to(tl.int64) * (key_heads * G) + head, lse2 * LN2, mask=alive)
    else:
        at = ((slot - 1) * key_heads + hk) * ROWS + rows
        store(PART, at, 0, BD, rows < ROWS, acc, BD, BD)
        tl.store(PART_LSE + at, lse2)


@triton.jit
def _combine(
    PART, PART_LSE, OUT, LSE, SPLITS, o_token, o_head, key_heads,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Partial results of a split tile into one: weighted by their log-sum-exp, or added up (gradients)."""
    chunks: tl.constexpr = ROWS // CHUNK
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    split = SPLITS + (tl.program_id(0) // key_heads // chunks) * 4
    start, stop, first, slots = tl.load(split), tl.load(split + 1), tl.load(split + 2), tl.load(split + 3)
    rows = (tl.program_id(0) // key_heads) % chunks * CHUNK + tl.arange(0, CHUNK)
    row, head = start + rows // G, hk * G + rows % G
    alive = (rows < (ROWS // G) * G) & (row < stop)
    m = tl.full([CHUNK], LOWEST, tl.float32)
    l = tl.zeros([CHUNK], tl.float32)
    acc = tl.zeros([CHUNK, BD], tl.float32)
    for slot in tl.range(first, first + slots, num_stages=4):
        at = (slot * key_heads + hk) * ROWS + rows
        part = load(PART, at, 0, BD, alive, BD, BD, False)
        if SOFTMAX:
            lse2 = tl.load(PART_LSE + at, mask=alive, other=0.0)
            m_new = tl.maximum(m, lse2)
            shrink, weight = tl.exp2(m - m_new), tl.exp2(lse2 - m_new)
            acc = acc * shrink[:, None] + part * weight[:, None]
            l = l * shrink + weight
            m = m_new
        else:
            acc += part
    if SOFTMAX:
        l = tl.where(l == 0, 1.0, l)  # of a row of zeros in the table
        acc = acc / l[:, None]
        tl.store(LSE + row.to(tl.int64) * (key_heads * G) + head, (m + tl.log2(l)) * LN2, mask=alive)
    store(OUT, row, head * o_head, o_token, alive, acc, D, BD)


@triton.jit(do_not_specialize=["tokens"])
def _delta(
    OUT, D_OUT, D_LSE, DELTA, tokens, o_token, o_head, d_token, d_head, dl_token, dl_head, heads,
    D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Inner product of the output and its gradient, less the gradient of the log-sum-exp: float32 (T, Hq)."""
    token = tl.program_id(0) // heads * ROWS + tl.arange(0, ROWS)
    head = (tl.program_id(0) % heads).to(tl.int64)
    alive = token < tokens
    out = load(OUT, token, head * o_head, o_token, alive, D, BD, True)
    d_out = load(D_OUT, token, head * d_head, d_token, alive, D, BD, True)
    d_lse = tl.load(D_LSE + token.to(tl.int64) * dl_token + head * dl_head, mask=alive, other=0.0)
    tl.store(DELTA + token.to(tl.int64) * heads + head, tl.sum(out * d_out, 1) - d_lse, mask=alive)


@triton.jit
def _backward_q(
    Q, K, V, D_OUT, LSE, DELTA, D_Q, PART, TILES, POSITIONS, scale, scale2,
    q_token, q_head, k_token, k_head, v_token, v_head, d_token, d_head, dq_token, dq_head, key_heads, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    start, stop, own_start, own_stop, far_start, far_stop, slot, _ = _tile(TILES, tl.program_id(0) // key_heads)

    rows = tl.arange(0, ROWS)
    token, head = start + rows // G, hk * G + rows % G
    alive = (rows < (ROWS // G) * G) & (token < stop)
    q = load(Q, token, head * q_head, q_token, alive, D, BD, UPCAST)
    d_out = load(D_OUT, token, head * d_head, d_token, alive, D, BD, UPCAST)
    at = token.to(tl.int64) * (key_heads * G) + head
    lse2 = tl.load(LSE + at, mask=alive, other=0.0) * LOG2E
    delta = tl.load(DELTA + at, mask=alive, other=0.0)
    if WINDOW:
        oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window

    acc = tl.zeros([ROWS, BD], tl.float32)
    far_blocks = tl.cdiv(far_stop - far_start, KEYS)
    for j in range(0, far_blocks + tl.cdiv(own_stop - own_start, KEYS)):
        is_far = j < far_blocks
        key = tl.where(is_far, far_start + j * KEYS, own_start + (j - far_blocks) * KEYS) + tl.arange(0, KEYS)
        there = key < tl.where(is_far, far_stop, own_stop)
        k = load(K, key, hk * k_head, k_token, there, D, BD, UPCAST)
        v = load(V, key, hk * v_head, v_token, there, D, BD, UPCAST)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
        seen = there[None, :] & alive[:, None]
        if CAUSAL:
            seen = seen & (key[None, :] <= token[:, None])
        if WINDOW:
            seen = seen & (tl.load(POSITIONS + key, mask=there, other=0)[None, :] > oldest[:, None])
        p = tl.exp2(tl.where(seen, s - lse2[:, None], LOWEST))
        d_p = tl.dot(d_out, tl.trans(v), input_precision="ieee")
        d_s = p * (d_p - delta[:, None])
        acc = tl.dot(d_s.to(k.dtype), k, acc, input_precision="ieee")
    acc *= scale
    if slot == 0:
        store(D_Q, token, head * dq_head, dq_token, alive, acc, D, BD)
    else:
        store(PART, ((slot - 1) * key_heads + hk) * ROWS + rows, 0, BD, rows < ROWS, acc, BD, BD)


@triton.jit
def _backward_kv(
    Q, K, V, D_OUT, LSE, DELTA, D_K, D_V, PART_K, PART_V, TILES, POSITIONS, scale, scale2,
    q_token, q_head, k_token, k_head, v_token, v_head, d_token, d_head, dk_token, dk_head, key_heads, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile of keys against every query that sees it; all G heads of the group add to the same gradient."""
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    start, stop, own_start, own_stop, far_start, far_stop, slot, _ = _tile(TILES, tl.program_id(0) // key_heads)

    keys = tl.arange(0, KEYS)
    key = start + keys
    there = key < stop
    k = load(K, key, hk * k_head, k_token, there, D, BD, UPCAST)
    v = load(V, key, hk * v_head, v_token, there, D, BD, UPCAST)
    if WINDOW:
        position = tl.load(POSITIONS + key, mask=there, other=0)

    tokens: tl.constexpr = ROWS // G
    rows = tl.arange(0, ROWS)
    head = hk * G + rows % G
    acc_k = tl.zeros([KEYS, BD], tl.float32)
    acc_v = tl.zeros([KEYS, BD], tl.float32)
    far_blocks = tl.cdiv(far_stop - far_start, tokens)
    for j in range(0, far_blocks + tl.cdiv(own_stop - own_start, tokens)):
        is_far = j < far_blocks
        token = tl.where(is_far, far_start + j * tokens, own_start + (j - far_blocks) * tokens) + rows // G
        alive = (rows < tokens * G) & (token < tl.where(is_far, far_stop, own_stop))
        q = load(Q, token, head * q_head, q_token, alive, D, BD, UPCAST)
        d_out = load(D_OUT, token, head * d_head, d_token, alive, D, BD, UPCAST)
        at = token.to(tl.int64) * (key_heads * G) + head
        lse2 = tl.load(LSE + at, mask=alive, other=0.0) * LOG2E
        delta = tl.load(DELTA + at, mask=alive, other=0.0)
        s = tl.dot(k, tl.trans(q), input_precision="ieee") * scale2  # (KEYS, ROWS)
        seen = there[:, None] & alive[None, :]
        if CAUSAL:
            seen = seen & (key[:, None] <= token[None, :])
        if WINDOW:
            oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window
            seen = seen & (position[:, None] > oldest[None, :])
        p = tl.exp2(tl.where(seen, s - lse2[None, :], LOWEST))
        acc_v = tl.dot(p.to(d_out.dtype), d_out, acc_v, input_precision="ieee")
        d_p = tl.dot(v, tl.trans(d_out), input_precision="ieee")
        d_s = p * (d_p - delta[None, :])
        acc_k = tl.dot(d_s.to(q.dtype), q, acc_k, input_precision="ieee")
    acc_k *= scale
    if slot == 0:
        store(D_K, key, hk * dk_head, dk_token, there, acc_k, D, BD)
        store(D_V, key, hk * dk_head, dk_token, there, acc_v, D, BD)
    else:
        at = ((slot - 1) * key_heads + hk) * KEYS + keys
        store(PART_K, at, 0, BD, keys < KEYS, acc_k, BD, BD)
        store(PART_V, at, 0, BD, keys < KEYS, acc_v, BD, BD)


class _Tiles(NamedTuple):
    """Tile sizes of the three kernels."""

    forward: Tile
    backward_q: Tile
    backward_kv: Tile


def _tiles(device: torch.device, dtype: torch.dtype, dim: int, group: int) -> _Tiles:
    """The static table: what fits without spilling, by architecture, width of an element and padded head dimension.

    On sm90 the forward tiles are the fastest of those that were tried on an H100, or within 3 % of them: with 500
    documents of 20 to 400 tokens, groups of 1, 2 and 4 heads, and 64 and 128 dimensions. Elsewhere nothing was timed:
    tiles are chosen by what compiles without spilling registers.
    """
    if dtype == torch.float32:  # exact products run outside the matrix units, on small tiles
        return _Tiles(*3 * (Tile(16, 32, 8, 1),))
    if dim == 256:
        return _Tiles(Tile(64, 32, 8, 2), Tile(32, 32, 4, 1), Tile(32, 32, 8, 1))
    backward = (Tile(64, 64, 4, 2), Tile(64, 64, 8, 2) if dim == 128 else Tile(64, 64, 4, 1))
    if arch(device) == "sm90" and dim >= 64:
        if group == 1:
            return _Tiles(Tile(64, 64, 4, 3 if dim == 128 else 2), *backward)
        # With 128 registers, two programs share a multiprocessor: one loads while the other multiplies.
        return _Tiles(Tile(128, 64, 8, 2, 128) if dim == 128 else Tile(128, 64, 4, 3), *backward)
    rows = 128 if group >= 4 else 64  # fewer tokens in a tile waste less of it on the ends of short documents
    if dim == 128:
        deep = rows == 128 and arch(device) in ("sm100", "sm80")
        return _Tiles(Tile(rows, 64, rows // 16, 3 if deep else 2), *backward)
    return _Tiles(Tile(rows, 64, 4, 3 if dim == 64 else 2), *backward)


def _over_pages(tile: Tile) -> Tile:
    """The same tile for keys in pages: one more stage of the pipeline, which loads places ahead of the rows there."""
    return tile._replace(stages=tile.stages + (tile.stages > 1))


_FORWARD_CANDIDATES = (
    Tile(128, 64, 8, 2, 128),
    Tile(128, 32, 8, 3, 128),
    Tile(128, 64, 4, 3),
    Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 3),
)


def forward(
    q: torch.Tensor, k: torch.Tensor | Paged, v: torch.Tensor | Paged, layout: Packing, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sightline.kernels.block_attention`."""
    (_, hq, d), hkv = q.shape, k.shape[1]
    group, dim = hq // hkv, padded_dim(d)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    if layout.spare:  # another layout may have fewer rows, and a NaN in the others spoils what a model takes over all
        out.zero_()
    positions, windowed = positions_of(layout), layout.window is not None
    if scale <= 0:  # the kernel takes the maximum before it scales
        q, scale = q * (-1.0 if scale else 0.0), abs(scale) or 1.0

    (of_keys, key_places), (of_values, value_places) = places_of(k), places_of(v)
    tma = key_places is None and value_places is None and wants_boxes(of_keys, of_values)

    def run(tile: Tile) -> None:
        tile = tile.holding(group)
        work = row_tiles(layout, tile.rows // group, hkv)
        part, part_lse = _slots(work.slots, hkv, tile.rows, dim, q.device)
        keys, values = (box(x, tile.keys) if tma else x for x in (of_keys, of_values))
        _forward[(len(work.tiles) * hkv,)](
            q, keys, values, out, lse, part, part_lse, work.tiles, positions, key_places, value_places,
            scale * LOG2E.value,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], hkv, layout.window or 0,
            G=group, D=d, BD=dim, ROWS=tile.rows, KEYS=tile.keys, CAUSAL=layout.causal, WINDOW=windowed,
            UPCAST=upcast(q), TMA=tma, num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
        )  # fmt: skip
        if work.slots:
            _combine[(len(work.splits) * hkv * (tile.rows // _COMBINED_ROWS),)](
                part, part_lse, out, lse, work.splits, *out.stride()[:2], hkv,
                G=group, D=d, BD=dim, ROWS=tile.rows, CHUNK=_COMBINED_ROWS, SOFTMAX=True,
            )  # fmt: skip

    static, name = _tiles(q.device, q.dtype, dim, group).forward, "attention forward"
    if key_places is not None:
        static, name = _over_pages(static), "attention forward over pages"
    run(tuned(name, static, _FORWARD_CANDIDATES, q, group, layout.causal, run))
    return out, lse


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
    (tokens, hq, d), hkv = q.shape, k.shape[1]
    group, dim = hq // hkv, padded_dim(d)
    if d > 1 and d_out.stride(2) != 1:  # autograd may hand over an expanded gradient
        d_out = d_out.contiguous()
    delta = torch.empty_like(lse)
    _delta[(triton.cdiv(tokens, 32) * hq,)](
        out, d_out, d_lse, delta, tokens, *out.stride()[:2], *d_out.stride()[:2], *d_lse.stride(), hq,
        D=d, BD=dim, ROWS=32,
    )  # fmt: skip
    d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    d_k, d_v = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    positions, windowed = positions_of(layout), layout.window is not None
    _, by_row, by_key = _tiles(q.device, q.dtype, dim, group)
    strides = *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *d_out.stride()[:2]
    scale2 = scale * LOG2E.value

    by_row = by_row.holding(group)
    work = row_tiles(layout, by_row.rows // group, hkv)
    part, none = _slots(work.slots, hkv, by_row.rows, dim, q.device)
    _backward_q[(len(work.tiles) * hkv,)](
        q, k, v, d_out, lse, delta, d_q, part, work.tiles, positions, scale, scale2, *strides, *d_q.stride()[:2], hkv,
        layout.window or 0,
        G=group, D=d, BD=dim, ROWS=by_row.rows, KEYS=by_row.keys, CAUSAL=layout.causal, WINDOW=windowed,
        UPCAST=upcast(q),
        num_warps=by_row.warps, num_stages=by_row.stages,
    )  # fmt: skip
    if work.slots:
        _combine[(len(work.splits) * hkv * (by_row.rows // _COMBINED_ROWS),)](
            part, none, d_q, none, work.splits, *d_q.stride()[:2], hkv,
            G=group, D=d, BD=dim, ROWS=by_row.rows, CHUNK=_COMBINED_ROWS, SOFTMAX=False,
        )  # fmt: skip

    by_key = by_key.holding(group)
    work = key_tiles(layout, by_key.keys, hkv)
    part_k, none = _slots(work.slots, hkv, by_key.keys, dim, q.device)
    part_v, _ = _slots(work.slots, hkv, by_key.keys, dim, q.device)
    _backward_kv[(len(work.tiles) * hkv,)](
        q, k, v, d_out, lse, delta, d_k, d_v, part_k, part_v, work.tiles, positions, scale, scale2,
        *strides, *d_k.stride()[:2], hkv, layout.window or 0,
        G=group, D=d, BD=dim, ROWS=by_key.rows, KEYS=by_key.keys, CAUSAL=layout.causal, WINDOW=windowed,
        UPCAST=upcast(q),
        num_warps=by_key.warps, num_stages=by_key.stages,
    )  # fmt: skip
    if work.slots:
        for part, whole in ((part_k, d_k), (part_v, d_v)):
            _combine[(len(work.splits) * hkv * (by_key.keys // _COMBINED_ROWS),)](
                part, none, whole, none, work.splits, *whole.stride()[:2], hkv,
                G=1, D=d, BD=dim, ROWS=by_key.keys, CHUNK=_COMBINED_ROWS, SOFTMAX=False,
            )  # fmt: skip
    return d_q, d_k, d_v


def _slots(slots: int, hkv: int, rows: int, dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Room for partial results: (slots, Hkv, rows, D) and their log-sum-exps."""
    return (
        torch.empty(slots, hkv, rows, dim, dtype=torch.float32, device=device),
        torch.empty(slots, hkv, rows, dtype=torch.float32, device=device),
    )
