"""The seam for vector indexes: the contract of a search, and the one function that chooses the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from ..errors import InputError, MissingExtraError

__all__ = ["VectorIndex", "best", "flat_engine", "open_vector_index"]

_QUERIES_AT_ONCE = 64  # bounds what an engine gathers: for rescoring, and for filters


class VectorIndex(ABC):
    """What every vector index does: nearest rows by inner product. Rows count from 0 in the order they were added.

    An engine writes `_search`. The contract around it is here, so that engines differ in speed only.

    Args:
        vectors: float32 (rows, dim), usually memory-mapped.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Best rows for each query.

        Args:
            queries: float32 (Q, dim).
            k: rows per query, >= 1.
            allowed: bool (rows,), which rows may be returned; None for all.

        Returns:
            (rows, scores): int64 and float32 (Q, K), best first, ties by row; K is ``k``, or all rows if that is less;
            where fewer were found, the tail is -1 and -inf. Scores are exact inner products.

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


def open_vector_index(vectors: np.ndarray, factory: str, parameters: str, structure: Path | None = None) -> VectorIndex:
    """The engine for an index: FAISS where it is installed; torch for ``Flat`` where it is not.

    Args:
        vectors: float32 (rows, dim), usually memory-mapped.
        factory: a FAISS factory string; ``Flat`` is exact search.
        parameters: FAISS search parameters.
        structure: what `faiss_index.build_structure` wrote over the first of the rows; None if nothing.

    Raises:
        MissingExtraError: if FAISS is needed and is not installed.
        IndexCorruptError: if FAISS cannot read the structure.
    """
    from .faiss_index import FaissIndex

    try:
        return FaissIndex(vectors, structure, factory, parameters)
    except MissingExtraError:
        if factory != "Flat":
            raise
    from .torch_index import TorchIndex

    return TorchIndex(vectors)


def flat_engine() -> tuple[str, str]:
    """What searches ``Flat`` here, as the manifest records it: its version, and the device it runs on."""
    from .faiss_index import faiss_device, import_faiss

    try:
        return import_faiss().__version__, faiss_device()
    except MissingExtraError:
        import torch

        return f"torch {torch.__version__}", "cpu"


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort by score descending, then row; cut or pad to ``k`` columns.

    Args:
        rows: integers (Q, N); -1 pads.
        scores: (Q, N), -inf where ``rows`` is -1.
        k: columns.

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
