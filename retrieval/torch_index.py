"""Exact search with torch, for ``Flat`` if FAISS is not installed."""

from __future__ import annotations

import functools

import numpy as np

from .vector_index import VectorIndex, best

__all__ = ["TorchIndex"]

_ROWS_AT_ONCE = 16384
# Matrix products round in an order that depends on where a row lies, so the scores of equal vectors may differ in their
# last bits. All rows this near to the k-th best, in units of the largest possible score, are scored again one by one.
_ROUNDING = 1e-5


class TorchIndex(VectorIndex):
    """Inner-product search over all vectors, a chunk of rows in memory at a time.

    Args:
        vectors: the embeddings, float32 (rows, dim), usually memory-mapped.

    Example:
        >>> index = TorchIndex(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.1, 0.9, 0.0]], dtype=np.float32), k=2)[0].tolist()
        [[1, 0]]
    """

    @functools.cached_property
    def _longest(self) -> float:
        """Length of the longest vector."""
        chunks = (self.vectors[start : start + _ROWS_AT_ONCE] for start in range(0, len(self), _ROWS_AT_ONCE))
        return max(float(np.linalg.norm(chunk, axis=1).max()) for chunk in chunks)

    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        among = None if allowed is None else np.flatnonzero(allowed)
        nearest = best(np.empty((len(queries), 0), dtype=np.int64), np.empty((len(queries), 0)), k)
        for start in range(0, len(self) if among is None else len(among), _ROWS_AT_ONCE):
            chunk = slice(start, start + _ROWS_AT_ONCE)
            vectors = self.vectors[chunk if among is None else among[chunk]]
            places, scores = _nearest(queries, vectors, k, self._longest)
            rows = places + start if among is None else among[chunk][places]
            rows[np.isneginf(scores)] = -1
            nearest = best(np.hstack([nearest[0], rows]), np.hstack([nearest[1], scores]), k)
        return nearest


def _nearest(queries: np.ndarray, vectors: np.ndarray, k: int, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best of some vectors for each query: places and scores (Q, up to k), padded with -inf."""
    import torch

    k = min(k, len(vectors))
    rough = torch.from_numpy(queries) @ torch.from_numpy(np.ascontiguousarray(vectors)).T
    last = torch.topk(rough, k, dim=1).values[:, -1:].numpy()
    near = rough.numpy() >= last - _ROUNDING * longest * np.linalg.norm(queries, axis=1, keepdims=True)
    places, scores = np.zeros((len(queries), k), dtype=np.int64), np.full((len(queries), k), -np.inf, dtype=np.float32)
    for number, query in enumerate(queries.astype(np.float64)):
        candidates = np.flatnonzero(near[number])
        exact = (vectors[candidates] * query).sum(axis=1).astype(np.float32)
        order = np.argsort(-exact, kind="stable")[:k]
        places[number, : len(order)], scores[number, : len(order)] = candidates[order], exact[order]
    return places, scores
