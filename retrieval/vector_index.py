"""The interface of vector indexes: the contract of a search."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ..errors import InputError

__all__ = ["VectorIndex", "best"]

_QUERIES_AT_ONCE = 64  # bounds what an engine gathers: for rescoring, and for filters


class VectorIndex(ABC):
    """The interface of a vector index: nearest rows by inner product. Rows count from 0 in the order they were added.

    An engine implements `_search`. The contract around it is implemented here, so engines differ only in speed.

    Args:
        vectors: the embeddings, float32 (rows, dim), usually memory-mapped.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows for each query.

        Args:
            queries: the embeddings of the queries, float32 (Q, dim).
            k: the number of rows to find for each query, at least 1.
            allowed: bool (rows,), which rows may be returned. If None, all of them.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first, ties by row. K is ``k``, or the number of all rows if
            that is less. Where fewer were found, the tail is -1 and -inf. Scores are exact inner products.

        Raises:
            InputError: if the queries have another dimension, NaN or infinity, or ``k`` is below 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise InputError(f"queries must be (Q, {self.vectors.shape[1]}), not {queries.shape}")
        if not np.isfinite(queries).all():
            raise InputError("the encoder gave NaN or infinity for a query")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        k = min(k, len(self))
        permitted = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not permitted or not len(queries):
            return np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
        if permitted == len(self):
            allowed = None
        parts = [
            self._search(queries[start : start + _QUERIES_AT_ONCE], k, allowed)
            for start in range(0, len(queries), _QUERIES_AT_ONCE)
        ]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, for at most 64 finite queries, ``k`` of at most all rows, and a mask with 1 to rows - 1 rows."""


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort by score descending, then row; cut or pad to ``k`` columns.

    Args:
        rows: integers (Q, N), padded with -1.
        scores: (Q, N), -inf where ``rows`` is -1.
        k: the number of columns to keep.

    Returns:
        (rows, scores): int64 and float32 (Q, k).
    """
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    missing = k - rows.shape[1]
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return rows.astype(np.int64), scores.astype(np.float32)
