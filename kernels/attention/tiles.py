"""How a layout is cut into work for a GPU.

A tile is a few tokens of one block and what they meet: two spans of other tokens, *own* (of the same block) and *far*
(its prefix, or seen from the keys' side, its readers). A tile whose far span is long is cut into several, which
write partial results that are then combined: otherwise a query block, sixteen programs each walking 100,000 keys,
would outlast everything else. How it is cut depends on the layout and the heads only, never on the GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..packing import INSTRUCTION, QUERY, Packing

__all__ = ["Work", "key_tiles", "row_tiles"]

# Programs that the split tiles together should give: as many as a large GPU runs at once, two on each of its 132 to 160
# processors. With twice as many, an H100 takes 1.15 to 1.26 times as long: each part is written and read once more.
_PROGRAMS = 256
_LEAST_FAR = 512  # tokens that a part of a split tile walks, at least


class Work(NamedTuple):
    """Tiles, longest first. Rows of zeros, which `Packing.rewrite` puts behind them, mean nothing to do.

    Args:
        tiles: int32 (M, 8), on the layout's device: start, stop, own start, own stop, far start, far stop, the slot for
            the partial result plus 1 (0 if there is none), and the first row among the results.
        slots: the number of partial results; as many as tiles if the layout has room for others.
        splits: int32 (P, 4), on the layout's device: first row and last+1 among the results, first slot, and slots, of
            each tile that was split.
    """

    tiles: torch.Tensor
    slots: int
    splits: torch.Tensor


def row_tiles(layout: Packing, tokens: int, heads: int) -> Work:
    """Tiles of queries, for the output and for dq: own and far are the keys they see.

    Args:
        layout: the layout to cut.
        tokens: the maximum number of tokens in a tile.
        heads: key heads, by which the number of programs is multiplied.
    """
    return layout.keep(("row tiles", tokens, heads), lambda layout: _cut(layout, tokens, heads, by_keys=False))


def key_tiles(layout: Packing, tokens: int, heads: int) -> Work:
    """Tiles of keys, for dk and dv: own and far are the queries that see them."""
    return layout.keep(("key tiles", tokens, heads), lambda layout: _cut(layout, tokens, heads, by_keys=True))


def _cut(layout: Packing, tokens: int, heads: int, *, by_keys: bool) -> Work:
    blocks = layout.blocks if by_keys else layout.queried
    count = -(-(blocks["stop"] - blocks["start"]) // tokens)  # (B,), tiles of each block
    block = np.repeat(blocks, count)
    number = np.arange(len(block)) - np.repeat(np.cumsum(count) - count, count)
    own_start, own_stop = block["start"], block["stop"]
    start = own_start + number * tokens
    stop = np.minimum(start + tokens, own_stop)
    if layout.causal:
        own_start, own_stop = (start, own_stop) if by_keys else (own_start, stop)
    side = "readers" if by_keys else "prefix"
    far_start, far_stop = block[f"{side}_start"], block[f"{side}_stop"]

    # Only the two ends of a context meet all of it: queries see every key, instructions are seen by every query.
    far = far_stop - far_start
    long = (block["kind"] == (INSTRUCTION if by_keys else QUERY)) & (far > _LEAST_FAR)
    parts = np.ones(len(block), dtype=np.int64)
    if long.any():
        pieces = -(-_PROGRAMS // (int(long.sum()) * heads))
        parts[long] = np.minimum(pieces, -(-far[long] // _LEAST_FAR))
    split = parts > 1
    slots = np.where(split, parts, 0)
    first = np.cumsum(slots) - slots
    splits = np.stack([start - layout.first, stop - layout.first, first, parts], axis=1)[split]

    tile = np.repeat(np.arange(len(block)), parts)
    part = np.arange(len(tile)) - np.repeat(np.cumsum(parts) - parts, parts)
    step = -(-far // parts)
    a = far_start[tile] + part * step[tile]
    b = np.minimum(a + step[tile], far_stop[tile])
    last = part == parts[tile] - 1  # the last part walks the tile's own block, too
    table = np.stack(
        [
            start[tile],
            stop[tile],
            own_start[tile],
            np.where(last, own_stop[tile], own_start[tile]),
            np.minimum(a, b),
            b,
            np.where(split[tile], first[tile] + part + 1, 0),
            start[tile] - layout.first,
        ],
        axis=1,
    )
    if layout.window is not None:
        _narrow(table, layout.positions, layout.window, by_keys)
    length = (table[:, 3] - table[:, 2]) + (table[:, 5] - table[:, 4])
    table = table[np.argsort(-(length // 256), kind="stable")]  # coarsely, so that neighbours stay neighbours
    table, splits = (np.pad(x, [(0, layout.spare), (0, 0)]).astype(np.int32) for x in (table, splits))
    tiles, of_splits = (torch.from_numpy(x).to(layout.device) for x in (table, splits))
    return Work(tiles, len(table) if layout.spare else int(slots.sum()), of_splits)


def _narrow(table: np.ndarray, positions: np.ndarray, window: int, by_keys: bool) -> None:
    """Cut both spans of each tile, in place, to what the window leaves between their ends."""
    for row in table:
        mine = positions[row[0] : row[1]]
        for first, last in ((2, 3), (4, 5)):
            others = positions[row[first] : row[last]]
            near = others < mine.max() + window if by_keys else others > mine.min() - window
            left = np.flatnonzero(near)
            ends = (left[0], left[-1] + 1) if len(left) else (0, 0)
            row[first], row[last] = row[first] + ends[0], row[first] + ends[1]
