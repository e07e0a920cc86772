"""The seam for lexical indexes: BM25 and learned sparse vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["LexicalIndex"]


class LexicalIndex(Protocol):
    """What a lexical index must do. Rows are the integers by which the owner knows its passages.

    `sightline.retrieval.fts5.Fts5Index` is the embedded one, `sightline.retrieval.tantivy_index.TantivyIndex` that for
    large collections, and `sightline.retrieval.pyserini_index.PyseriniIndex` runs Anserini's Lucene in a process of its
    own. `sightline.retrieval.sparse_index.SparseIndex` keeps learned sparse vectors in the place of BM25.
    `sightline.retrieval.words` keeps them in step with an index.
    """

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row. Rows must be new."""

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget these rows; ``texts`` are the very texts they were added with."""

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Best ``k`` rows for a query.

        Args:
            query: plain text; no character of it is syntax.
            k: how many rows at most, >= 1.
            allowed: int64 rows that may be returned, or None for all.

        Returns:
            (rows, scores): int64 and float64 arrays of one length <= k, best first, higher is better, ties by row.
            Rows without any query term are never returned.
        """
        ...

    def close(self) -> None:
        """Release files and processes."""
