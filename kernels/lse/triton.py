"""The fast path on GPUs: one program per span of keys, key head and tile of signal rows; K is read once.

The query heads of a key head are packed as rows, as in `sightline.kernels.attention.triton`. No atomics: a document's
numbers come from one program, and gradients by q are added up in a fixed order.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from ..packed import LN2, LOG2E, LOWEST, load, padded_dim, places_of, positions_of, row_of, upcast
from ..packing import Packing
from ..paged import Paged
from ..tuning import Tile
from .spans import Part, columns, document_spans, key_spans, signal_spans

__all__ = ["backward", "forward", "largest", "token_mass"]

_PARTS = 16  # into which the documents of a context are divided for the gradient by q


@triton.jit(do_not_specialize=["width", "row_tiles"])
def _forward(
    Q, K, LSE, SPANS, TOKENS, POSITIONS, PLACES, scale2,
    q_row, q_head, k_token, k_head, key_heads, width, row_tiles, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, LARGEST: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Log-sum-exps of logits in base 2, or the LARGEST logit as it is scaled."""
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    span = SPANS + (tl.program_id(0) // key_heads // row_tiles) * 5
    start, stop, first, last, column = (
        tl.load(span), tl.load(span + 1), tl.load(span + 2), tl.load(span + 3), tl.load(span + 4)
    )  # fmt: skip
    first += tl.program_id(0) // key_heads % row_tiles * (ROWS // G)
    if first >= last:
        return
    rows = tl.arange(0, ROWS)
    row, head = first + rows // G, hk * G + rows % G
    alive = (rows < (ROWS // G) * G) & (row < last)
    q = load(Q, row, head * q_head, q_row, alive, D, BD, UPCAST)
    token = tl.load(TOKENS + row, mask=alive, other=0)
    if WINDOW:  # of the positions up to here, a row sees nothing
        oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window
    m = tl.full([ROWS], LOWEST, tl.float32)
    l = tl.zeros([ROWS], tl.float32)
    for j in range(0, tl.cdiv(stop - start, KEYS)):
        key = start + j * KEYS + tl.arange(0, KEYS)
        there = key < stop
        k = load(K, row_of(PLACES, key, there), hk * k_head, k_token, there, D, BD, UPCAST)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
        seen = there[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= token[:, None])
        if WINDOW:
            seen = seen & (tl.load(POSITIONS + key, mask=there, other=0)[None, :] > oldest[:, None])
        s = tl.where(seen, s, LOWEST)
        m_new = tl.maximum(m, tl.max(s, 1))
        if not LARGEST:
            l = l * tl.exp2(m - m_new) + tl.sum(tl.exp2(s - m_new[:, None]), 1)
        m = m_new
    at = (row.to(tl.int64) * (key_heads * G) + head) * width + column
    value = m if LARGEST else (m + tl.log2(l)) * LN2
    tl.store(LSE + at, tl.where(m > LOWEST, value, float("-inf")), mask=alive)  # -inf: no key of the span seen


@triton.jit(do_not_specialize=["heads", "width"])
def _token_mass(
    Q, K, BASE, HEADS, OUT, TILES, TOKENS, POSITIONS, PLACES, scale2,
    q_row, q_head, k_token, k_head, b_row, b_head, heads, width, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    APART: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """What the signal rows of one query block pay to a tile of keys, over all chosen heads or for one of them APART."""
    first_head = tl.program_id(0) % heads if APART else 0
    last_head = first_head + 1 if APART else heads
    tile = TILES + (tl.program_id(0) // heads if APART else tl.program_id(0)) * 5
    start, stop, first, last, place = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    key = start + tl.arange(0, KEYS)
    there = key < stop
    key_row = row_of(PLACES, key, there)
    if WINDOW:
        position = tl.load(POSITIONS + key, mask=there, other=0)
    acc = tl.zeros([KEYS], tl.float32)
    for i in range(first_head, last_head):
        head = tl.load(HEADS + i).to(tl.int64)
        k = load(K, key_row, head // G * k_head, k_token, there, D, BD, UPCAST)
        for at in range(first, last, ROWS):
            row = at + tl.arange(0, ROWS)
            alive = row < last
            q = load(Q, row, head * q_head, q_row, alive, D, BD, UPCAST)
            base = tl.load(BASE + row.to(tl.int64) * b_row + head * b_head, mask=alive, other=0.0).to(tl.float32)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 - (base * LOG2E)[:, None]
            seen = there[None, :] & alive[:, None]
            if WINDOW:
                token = tl.load(TOKENS + row, mask=alive, other=0)
                oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window
                seen = seen & (position[None, :] > oldest[:, None])
            acc += tl.sum(tl.exp2(tl.where(seen, s, LOWEST)), 0)
    at = OUT + (tl.program_id(0) % heads).to(tl.int64) * width + place if APART else OUT + place
    tl.store(at + tl.arange(0, KEYS), acc / tl.maximum(last - first, 1), mask=there)


@triton.jit(do_not_specialize=["width", "row_tiles", "all_rows"])
def _backward_q(
    Q, K, LSE, D_LSE, PART, SPANS, PARTS, TOKENS, POSITIONS, scale, scale2,
    q_row, q_head, k_token, k_head, key_heads, width, row_tiles, all_rows, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    part = PARTS + (tl.program_id(0) // key_heads // row_tiles) * 5
    first, last, span_first, span_last, slot = (
        tl.load(part), tl.load(part + 1), tl.load(part + 2), tl.load(part + 3), tl.load(part + 4)
    )  # fmt: skip
    first += tl.program_id(0) // key_heads % row_tiles * (ROWS // G)
    if first >= last:
        return
    rows = tl.arange(0, ROWS)
    row, head = first + rows // G, hk * G + rows % G
    alive = (rows < (ROWS // G) * G) & (row < last)
    q = load(Q, row, head * q_head, q_row, alive, D, BD, UPCAST)
    token = tl.load(TOKENS + row, mask=alive, other=0)
    if WINDOW:  # of the positions up to here, a row sees nothing
        oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window
    acc = tl.zeros([ROWS, BD], tl.float32)
    for i in range(span_first, span_last):
        start, stop, column = tl.load(SPANS + i * 5), tl.load(SPANS + i * 5 + 1), tl.load(SPANS + i * 5 + 4)
        at = (row.to(tl.int64) * (key_heads * G) + head) * width + column
        lse2 = tl.load(LSE + at, mask=alive, other=0.0) * LOG2E
        grad = tl.load(D_LSE + at, mask=alive, other=0.0) * scale
        for j in range(0, tl.cdiv(stop - start, KEYS)):
            key = start + j * KEYS + tl.arange(0, KEYS)
            there = key < stop
            k = load(K, key, hk * k_head, k_token, there, D, BD, UPCAST)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
            seen = there[None, :] & alive[:, None]
            if CAUSAL:
                seen = seen & (key[None, :] <= token[:, None])
            if WINDOW:
                seen = seen & (tl.load(POSITIONS + key, mask=there, other=0)[None, :] > oldest[:, None])
            d_s = tl.exp2(tl.where(seen, s - lse2[:, None], LOWEST)) * grad[:, None]
            acc = tl.dot(d_s.to(k.dtype), k, acc, input_precision="ieee")
    dims = tl.arange(0, BD)
    at = ((slot.to(tl.int64) * all_rows + row) * (key_heads * G) + head) * D
    tl.store(PART + at[:, None] + dims[None, :], acc, mask=alive[:, None] & (dims < D)[None, :])


@triton.jit(do_not_specialize=["width"])
def _backward_k(
    Q, K, LSE, D_LSE, D_K, TILES, TOKENS, POSITIONS, scale, scale2,
    q_row, q_head, k_token, k_head, dk_token, dk_head, key_heads, width, window,
    G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    hk = (tl.program_id(0) % key_heads).to(tl.int64)
    tile = TILES + (tl.program_id(0) // key_heads) * 5
    start, stop, first, last, column = (
        tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    )  # fmt: skip
    key = start + tl.arange(0, KEYS)
    there = key < stop
    k = load(K, key, hk * k_head, k_token, there, D, BD, UPCAST)
    if WINDOW:
        position = tl.load(POSITIONS + key, mask=there, other=0)
    per_tile: tl.constexpr = ROWS // G
    rows = tl.arange(0, ROWS)
    head = hk * G + rows % G
    acc = tl.zeros([KEYS, BD], tl.float32)
    for j in range(0, tl.cdiv(last - first, per_tile)):
        row = first + j * per_tile + rows // G
        alive = (rows < per_tile * G) & (row < last)
        q = load(Q, row, head * q_head, q_row, alive, D, BD, UPCAST)
        at = (row.to(tl.int64) * (key_heads * G) + head) * width + column
        lse2 = tl.load(LSE + at, mask=alive, other=0.0) * LOG2E
        grad = tl.load(D_LSE + at, mask=alive, other=0.0) * scale
        s = tl.dot(k, tl.trans(q), input_precision="ieee") * scale2
        seen = there[:, None] & alive[None, :]
        if CAUSAL:
            token = tl.load(TOKENS + row, mask=alive, other=0)
            seen = seen & (key[:, None] <= token[None, :])
        if WINDOW:
            token = tl.load(TOKENS + row, mask=alive, other=0)
            oldest = tl.load(POSITIONS + token, mask=alive, other=0) - window
            seen = seen & (position[:, None] > oldest[None, :])
        d_s = tl.exp2(tl.where(seen, s - lse2[None, :], LOWEST)) * grad[None, :]
        acc = tl.dot(d_s.to(q.dtype), q, acc, input_precision="ieee")
    dims = tl.arange(0, BD)
    at = D_K + (key.to(tl.int64) * dk_token + hk * dk_head)[:, None] + dims[None, :]
    tl.store(at, acc.to(D_K.dtype.element_ty), mask=there[:, None] & (dims < D)[None, :])


def _tile(dtype: torch.dtype, dim: int, group: int) -> Tile:
    """Rows for 16 signal tokens, 64 at most: memory is the limit here, not arithmetic.

    They depend on the model alone. If they followed the number of signal tokens, the GPU would multiply with another
    instruction when another list in the pass has more of them, and a document's numbers would change by a bit.
    """
    if dtype == torch.float32:  # exact products run outside the matrix units, on small tiles
        return Tile(16, 32, 8, 1).holding(group)
    return Tile(
        min(64, triton.next_power_of_2(16 * group)), 64 if dim >= 128 else 128, 4, 3 if dim < 256 else 2
    ).holding(group)


def _mass_tile(dtype: torch.dtype) -> Tile:
    """16 signal tokens of one head against keys that stay where they are while the heads go by."""
    return Tile(16, 32, 8, 1) if dtype == torch.float32 else Tile(16, 64, 4, 2)


def _backward_tile(dtype: torch.dtype, group: int) -> Tile:
    """Gradients hold an accumulator of a head's width, too: less of everything at a time, and no pipeline."""
    return Tile(16, 32, 8 if dtype == torch.float32 else 4, 1).holding(group)


def forward(q_signal: torch.Tensor, k: torch.Tensor | Paged, layout: Packing, scale: float, part: Part) -> torch.Tensor:
    """See `sightline.kernels.block_lse`."""
    return _reduced(q_signal, k, layout, scale * LOG2E.value, part, largest=False)


def largest(q_signal: torch.Tensor, k: torch.Tensor | Paged, layout: Packing, scale: float) -> torch.Tensor:
    """See `sightline.kernels.block_max`; without gradients."""
    return _reduced(q_signal, k, layout, scale, "documents", largest=True)


def _reduced(
    q_signal: torch.Tensor, k: torch.Tensor | Paged, layout: Packing, scale: float, part: Part, *, largest: bool
) -> torch.Tensor:
    (rows, hq, d), hkv = q_signal.shape, k.shape[1]
    group, dim, width = hq // hkv, padded_dim(d), columns(layout, part)
    spans, most, gaps = _spans(layout, part)
    out = torch.empty(rows, hq, width, dtype=torch.float32, device=k.device)
    if gaps:
        out.fill_(-torch.inf)
    if not len(spans):
        return out
    tile = _tile(k.dtype, dim, group)
    row_tiles = triton.cdiv(most, tile.rows // group)
    keys, places = places_of(k)
    _forward[(len(spans) * hkv * row_tiles,)](
        q_signal, keys, out, spans, _tokens(layout), positions_of(layout), places, scale,
        *q_signal.stride()[:2], *k.stride()[:2], hkv, width, row_tiles, layout.window or 0,
        G=group, D=d, BD=dim, ROWS=tile.rows, KEYS=tile.keys, CAUSAL=layout.causal and part == "rest",
        WINDOW=layout.window is not None, LARGEST=largest, UPCAST=upcast(keys),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def token_mass(
    q_signal: torch.Tensor,
    k: torch.Tensor | Paged,
    layout: Packing,
    normaliser: torch.Tensor,
    scale: float,
    heads: torch.Tensor | None,
    reduce: bool,
) -> list[torch.Tensor]:
    """See `sightline.kernels.token_mass`; without gradients."""
    (_, hq, d), hkv = q_signal.shape, k.shape[1]
    tile = _mass_tile(k.dtype)
    tiles = layout.keep(("mass tiles", tile.keys), lambda layout: _mass_tiles(layout, tile.keys))
    chosen = _every_head(layout, hq) if heads is None else heads
    sizes, width = layout.document_tokens, sum(layout.document_tokens)
    out = torch.empty((width,) if reduce else (len(chosen), width), dtype=torch.float32, device=k.device)
    if len(tiles) and len(chosen):
        keys, places = places_of(k)
        _token_mass[(len(tiles) * (1 if reduce else len(chosen)),)](
            q_signal, keys, normaliser, chosen, out, tiles, _tokens(layout), positions_of(layout), places,
            scale * LOG2E.value,
            *q_signal.stride()[:2], *k.stride()[:2], *normaliser.stride(), len(chosen), width, layout.window or 0,
            G=hq // hkv, D=d, BD=padded_dim(d), ROWS=tile.rows, KEYS=tile.keys, APART=not reduce,
            WINDOW=layout.window is not None, UPCAST=upcast(keys), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    elif reduce:
        out.zero_()
    return list(out.split(sizes, dim=-1))


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
    (rows, hq, d), hkv = q_signal.shape, k.shape[1]
    group, dim, width = hq // hkv, padded_dim(d), columns(layout, part)
    d_k = torch.zeros(k.shape, dtype=k.dtype, device=k.device)
    spans, most, _ = _spans(layout, part)
    if not len(spans):
        return torch.zeros_like(q_signal), d_k
    d_lse = d_lse.contiguous()
    tile = _backward_tile(k.dtype, group)
    settings = {
        "G": group, "D": d, "BD": dim, "ROWS": tile.rows, "KEYS": tile.keys,
        "CAUSAL": layout.causal and part == "rest", "WINDOW": layout.window is not None, "UPCAST": upcast(k),
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    scale2, strides = scale * LOG2E.value, (*q_signal.stride()[:2], *k.stride()[:2])

    parts, slots = layout.keep(("lse parts", part), lambda layout: _parts(layout, part))
    d_q = torch.zeros(slots, rows, hq, d, dtype=torch.float32, device=k.device)
    row_tiles = triton.cdiv(most, tile.rows // group)
    _backward_q[(len(parts) * hkv * row_tiles,)](
        q_signal, k, lse, d_lse, d_q, spans, parts, _tokens(layout), positions_of(layout), scale, scale2,
        *strides, hkv, width, row_tiles, rows, layout.window or 0, **settings,
    )  # fmt: skip
    tiles = layout.keep(("lse key tiles", part, tile.keys), lambda layout: _key_tiles(layout, part, tile.keys))
    _backward_k[(len(tiles) * hkv,)](
        q_signal, k, lse, d_lse, d_k, tiles, _tokens(layout), positions_of(layout), scale, scale2,
        *strides, *d_k.stride()[:2], hkv, width, layout.window or 0, **settings,
    )  # fmt: skip
    return d_q.sum(dim=0).to(q_signal.dtype), d_k


def _spans(layout: Packing, part: Part) -> tuple[torch.Tensor, int, bool]:
    """Spans as int32 (M, 5) on the device, the most rows that one has, and whether a row has none in some column."""

    def make(layout: Packing) -> tuple[torch.Tensor, int, bool]:
        spans = key_spans(layout, part)
        rows = spans[:, 3] - spans[:, 2]
        gaps = int(rows.sum()) < len(layout.signal_rows) * columns(layout, part)
        return _as_int32(spans, layout), int(rows.max(initial=0)), gaps

    return layout.keep(("lse spans", part), make)


def _mass_tiles(layout: Packing, keys: int) -> torch.Tensor:
    """int32 (M, 5): key start and stop, first and last+1 row, place in the result."""
    documents, out, place = document_spans(layout), [], 0
    for first, last, context in signal_spans(layout):
        start, stop = documents.get(context, (0, 0))
        at = np.arange(start, stop, keys)
        ends = np.minimum(at + keys, stop)
        out.append(np.stack([at, ends, *np.broadcast_arrays(first, last, at)[:2], place + at - start], axis=1))
        place += stop - start
    tiles = np.concatenate(out) if out else np.empty((0, 5), dtype=np.int64)
    return _as_int32(tiles, layout)


def _every_head(layout: Packing, heads: int) -> torch.Tensor:
    return layout.keep(("heads", heads), lambda layout: torch.arange(heads, device=layout.device))


def _tokens(layout: Packing) -> torch.Tensor:
    return layout.keep("lse tokens", lambda layout: _as_int32(layout.signal_rows, layout))


def _parts(layout: Packing, part: Part) -> tuple[torch.Tensor, int]:
    """int32 (P, 5): first row, last row + 1, first span, last span + 1, slot; and the number of slots.

    Two parts that share rows never share a slot.
    """
    spans = key_spans(layout, part)
    change = np.flatnonzero((np.diff(spans[:, 2:4], axis=0) != 0).any(axis=1)) + 1
    out = []
    for group in np.split(np.arange(len(spans)), change):
        first, last, column = spans[group[0], 2:]
        pieces = min(_PARTS, len(group)) if part == "documents" else 1
        for i, some in enumerate(np.array_split(group, pieces)):
            out.append((first, last, some[0], some[-1] + 1, i if part == "documents" else column))
    return _as_int32(np.array(out), layout), 1 + max(slot for *_, slot in out)


def _key_tiles(layout: Packing, part: Part, keys: int) -> torch.Tensor:
    """int32 (M, 5): as spans, cut into tiles of keys."""
    spans = key_spans(layout, part)
    count = -(-(spans[:, 1] - spans[:, 0]) // keys)
    tiles = np.repeat(spans, count, axis=0)
    number = np.arange(len(tiles)) - np.repeat(np.cumsum(count) - count, count)
    tiles[:, 0] += number * keys
    tiles[:, 1] = np.minimum(tiles[:, 0] + keys, tiles[:, 1])
    return _as_int32(tiles, layout)


def _as_int32(x: np.ndarray, layout: Packing) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.int32)).to(layout.device)
