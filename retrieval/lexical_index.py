"""The interface of lexical indexes: BM25 and learned sparse vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

__all__ = ["LexicalIndex"]


class LexicalIndex(Protocol):
    """The interface of a lexical index. Rows are the integers by which its owner knows passages.

    `sightline.retrieval.fts5.Fts5Index` is the embedded engine, `sightline.retrieval.tantivy_index.TantivyIndex` is for
    large collections, and `sightline.retrieval.pyserini_index.PyseriniIndex` runs Anserini's Lucene in a process of its
    own. `sightline.retrieval.sparse_index.SparseIndex` keeps learned sparse vectors in the place of BM25.
    `sightline.retrieval.words` keeps them in step with an index.
    """

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row. Rows must be new."""

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget these rows. ``texts`` are the texts that they were added with."""

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best ``k`` rows for a query.

        Args:
            query: plain text. None of its characters has a special meaning.
            k: the largest number of rows to find, at least 1.
            allowed: the rows that may be returned, int64. If None, all of them.

        Returns:
            (rows, scores): int64 and float64 arrays of one length <= k, best first, higher is better, ties by row. Rows
            that have none of the query's terms are never returned.
        """
        ...

    def close(self) -> None:
        """Release files and processes."""
