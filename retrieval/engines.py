"""Choose the engine that searches vectors: FAISS if it is installed, else torch, which can do ``Flat``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import MissingExtraError
from .faiss_index import FaissIndex, faiss_device, import_faiss
from .torch_index import TorchIndex
from .vector_index import VectorIndex

__all__ = ["flat_engine", "open_vector_index"]


def open_vector_index(vectors: np.ndarray, factory: str, parameters: str, structure: Path | None = None) -> VectorIndex:
    """Open the engine of an index: FAISS if it is installed, else torch for ``Flat``.

    Args:
        vectors: the embeddings, float32 (rows, dim), usually memory-mapped.
        factory: a FAISS factory string; ``Flat`` is exact search.
        parameters: FAISS search parameters; "" for the defaults.
        structure: the file that `faiss_index.build_structure` wrote over the first rows; None if there is none.

    Raises:
        MissingExtraError: if FAISS is needed and is not installed.
        BrokenExtraError: if FAISS is installed, and cannot be imported.
        IndexCorruptError: if FAISS cannot read the structure.
    """
    try:
        return FaissIndex(vectors, structure, factory, parameters)
    except MissingExtraError:
        if factory != "Flat":
            raise
    return TorchIndex(vectors)


def flat_engine() -> tuple[str, str]:
    """Return the version and the device of the engine that searches ``Flat`` here, as the manifest records them."""
    try:
        return import_faiss().__version__, faiss_device()
    except MissingExtraError:
        import torch

        return f"torch {torch.__version__}", "cpu"
