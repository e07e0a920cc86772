"""The seam for vector indexes."""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["VectorIndex"]


class VectorIndex(Protocol):
    """What a vector index must do: nearest rows by inner product. Rows count from 0 in the order they were added."""

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Best rows for each query.

        Args:
            queries: float32 (Q, dim).
            k: rows per query, >= 1.
            allowed: bool (rows,), which rows may be returned; None for all.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first, ties by row; K is ``k``, or all rows if that is less;
            where fewer were found, the tail is -1 and -inf. Scores are exact inner products.
        """
        ...
