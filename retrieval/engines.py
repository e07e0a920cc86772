"""Which engine searches vectors: FAISS where it is installed, and torch for ``Flat`` where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import MissingExtraError
from .faiss_index import FaissIndex, faiss_device, import_faiss
from .torch_index import TorchIndex
from .vector_index import VectorIndex

__all__ = ["flat_engine", "open_vector_index"]


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
    try:
        return FaissIndex(vectors, structure, factory, parameters)
    except MissingExtraError:
        if factory != "Flat":
            raise
    return TorchIndex(vectors)


def flat_engine() -> tuple[str, str]:
    """What searches ``Flat`` here, as the manifest records it: its version, and the device it runs on."""
    try:
        return import_faiss().__version__, faiss_device()
    except MissingExtraError:
        import torch

        return f"torch {torch.__version__}", "cpu"
