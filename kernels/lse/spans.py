"""Which keys a log-sum-exp is taken over, for which signal rows, and where it goes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..packing import (
    DOCUMENT,
    INSTRUCTION,
    QUERY,
    Packing,
)

__all__ = ["Part", "columns", "key_spans"]

Part = Literal["documents", "rest"]


def columns(layout: Packing, part: Part) -> int:
    """Width of the result: the documents, or instruction and own query block."""
    return layout.documents if part == "documents" else 2


def key_spans(layout: Packing, part: Part) -> np.ndarray:
    """Spans of keys, each reduced by itself.

    Returns:
        int64 (M, 5): key start, key stop, first and last+1 of the signal rows that see them, column of the result.
        In packed order. Spans that no signal row sees are left out. For ``rest`` column 0 is the instruction and column
        1 the row's own query block, of which causal rows see what is not after them.
    """
    return layout.keep(("key spans", part), lambda: _key_spans(layout, part))


def _key_spans(layout: Packing, part: Part) -> np.ndarray:
    blocks, rows = layout.blocks, layout.signal_rows
    kinds = (DOCUMENT,) if part == "documents" else (INSTRUCTION, QUERY)
    chosen = np.isin(blocks[:, 6], kinds)
    spans = blocks[chosen]
    query = spans[:, 6] == QUERY
    contexts = blocks[layout.signal_blocks, 7]  # (R,), increasing
    first = np.where(query, np.searchsorted(rows, spans[:, 0]), np.searchsorted(contexts, spans[:, 7]))
    last = np.where(query, np.searchsorted(rows, spans[:, 1]), np.searchsorted(contexts, spans[:, 7], side="right"))
    column = layout.column[chosen] if part == "documents" else query.astype(np.int64)
    return np.stack([spans[:, 0], spans[:, 1], first, last, column], axis=1)[last > first]
