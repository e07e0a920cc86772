"""Which keys a log-sum-exp is taken over, for which signal rows, and where it goes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..packing import DOCUMENT, INSTRUCTION, QUERY, Packing

__all__ = ["Part", "columns", "document_spans", "key_spans", "signal_spans"]

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
    return layout.keep(("key spans", part), lambda layout: _key_spans(layout, part))


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


def document_spans(layout: Packing) -> dict[int, tuple[int, int]]:
    """Per context: first and last+1 token of its documents, which stand together."""
    spans: dict[int, tuple[int, int]] = {}
    for context, _, start, stop in layout.spans(DOCUMENT):
        spans[context] = (spans.get(context, (start, stop))[0], stop)
    return spans


def signal_spans(layout: Packing) -> list[tuple[int, int, int]]:
    """Per query block that has signal rows: first and last+1 of them, and its context."""
    out: list[tuple[int, int, int]] = []
    for i, context in enumerate(layout.signal_contexts.tolist()):
        if out and layout.signal_blocks[i - 1] == layout.signal_blocks[i]:
            out[-1] = (out[-1][0], i + 1, context)
        else:
            out.append((i, i + 1, context))
    return out
