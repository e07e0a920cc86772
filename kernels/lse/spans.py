"""Which keys a log-sum-exp is taken over, for which signal rows, and where it goes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..packing import DOCUMENT, INSTRUCTION, QUERY, Packing

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
    chosen = blocks[np.isin(blocks["kind"], kinds)]
    start, stop, context, query = chosen["start"], chosen["stop"], chosen["context"], chosen["kind"] == QUERY
    contexts = layout.signal_contexts
    first = np.where(query, np.searchsorted(rows, start), np.searchsorted(contexts, context))
    last = np.where(query, np.searchsorted(rows, stop), np.searchsorted(contexts, context, side="right"))
    column = chosen["index"] if part == "documents" else query.astype(np.int64)
    return np.stack([start, stop, first, last, column], axis=1)[last > first]
