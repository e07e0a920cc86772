"""FAISS as a vector index: any factory string, exact scores, masks, and a tail that is searched exactly.

The raw vectors stay memory-mapped beside the FAISS structure. They serve ``Flat`` (``faiss.knn`` reads them where they
lie), rescore what a lossy structure proposes, answer selective filters exactly, and cover rows that the structure
does not hold yet. See Johnson et al., 2017 (GPU search), and Douze et al., 2024 (the library).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import IndexCorruptError, InputError
from ..extras import importing
from .files import RESTORE
from .vector_index import VectorIndex, best

__all__ = ["FaissIndex", "build_structure", "faiss_device", "import_faiss", "new_structure"]

logger = logging.getLogger(__name__)

# A structure may miss or misorder neighbours: propose more, then keep the best by exact score.
_OVERSAMPLING = 4
# Below this share of allowed rows, scanning just those rows beats over-fetching past the others.
_SELECTIVE = 0.2
_ROWS_AT_ONCE = 65536
# Equal vectors beyond so many are told apart by chance, not by row.
_TIES = 16384
_SEARCH_DEFAULTS = (("IVF", "nprobe=32"), ("HNSW", "efSearch=128"))


def import_faiss() -> Any:
    """Import the ``faiss`` module, whichever package installed it.

    Raises:
        MissingExtraError: if no such package is installed.
        BrokenExtraError: if one is, and cannot be imported.
    """
    with importing("faiss", extra="cpu"):
        import faiss
    return faiss


def faiss_device() -> str:
    """``"cuda"`` when the installed FAISS has GPU support and there is a device, else ``"cpu"``."""
    faiss = import_faiss()
    return "cuda" if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0 else "cpu"


def new_structure(dim: int, factory: str, parameters: str = "") -> Any:
    """Make an empty FAISS index for inner products, which shows whether FAISS knows the settings.

    Raises:
        InputError: if FAISS does not know the factory string or the search parameters.
    """
    faiss = import_faiss()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise InputError(f"FAISS cannot make {factory!r} for dimension {dim}: {_reason(error)}") from error
    _set_parameters(index, factory, parameters)
    return index


def _set_parameters(index: Any, factory: str, parameters: str) -> None:
    parameters = parameters or ",".join(p for kind, p in _SEARCH_DEFAULTS if kind in factory)
    if parameters:
        try:
            import_faiss().ParameterSpace().set_index_parameters(index, parameters)
        except RuntimeError as error:
            raise InputError(
                f"FAISS does not know the search parameters {parameters!r} for {factory!r}: {_reason(error)}"
            ) from error


def _reason(error: RuntimeError) -> str:
    return str(error).splitlines()[-1]


def build_structure(vectors: np.ndarray, factory: str, file: Path, grow: Path | None = None) -> None:
    """Train a FAISS structure on the vectors, add them all, and write it.

    Args:
        vectors: the embeddings, float32 (rows, dim), usually memory-mapped.
        factory: a FAISS factory string, such as ``HNSW32`` or ``IVF64,PQ48x4fs``.
        file: the path to write to.
        grow: the file of an existing structure with the same factory, to which the missing rows are added instead of
            training anew.

    Raises:
        InputError: if FAISS refuses the string, or there are too few vectors to train it.
        OSError: if the file cannot be written.
    """
    faiss = import_faiss()
    rows, dim = vectors.shape
    try:
        index = new_structure(dim, factory) if grow is None else faiss.read_index(str(grow))
        on_gpu = faiss_device() == "cuda" and "HNSW" not in factory
        if on_gpu:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        if not index.is_trained:
            index.train(np.ascontiguousarray(vectors[:: max(1, rows // 1_000_000)]))
        for start in range(index.ntotal, rows, 65536):
            index.add(np.ascontiguousarray(vectors[start : start + 65536]))
    except RuntimeError as error:
        raise InputError(
            f"FAISS cannot build {factory!r} over {rows} vectors of dimension {dim}: {_reason(error)}"
        ) from error
    # Through Python, for FAISS itself overlooks that a disk is full when it closes a file.
    with file.open("wb") as out:
        faiss.write_index(faiss.index_gpu_to_cpu(index) if on_gpu else index, faiss.PyCallbackIOWriter(out.write))
        out.flush()
        os.fsync(out.fileno())


class FaissIndex(VectorIndex):
    """Inner-product search with FAISS over vectors on disk.

    Args:
        vectors: the embeddings, float32 (rows, dim).
        structure: the file that `build_structure` wrote over the first rows of ``vectors``. If None, all rows are
            searched exactly.
        factory: the factory string of ``structure``.
        parameters: FAISS search parameters, such as ``"nprobe=64"``; "" for the defaults.

    Example:
        >>> index = FaissIndex(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.1, 0.9, 0.0]], dtype=np.float32), k=2)[0].tolist()
        [[1, 0]]
    """

    def __init__(
        self, vectors: np.ndarray, structure: Path | None = None, factory: str = "Flat", parameters: str = ""
    ) -> None:
        super().__init__(vectors)
        self._faiss = import_faiss()
        self._structure = None
        self._covered = 0
        self.device = faiss_device()
        self._flat: Any = None
        if structure is not None:
            try:
                index = self._faiss.read_index(str(structure), self._faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError as error:
                raise IndexCorruptError(f"{structure}: FAISS cannot read it: {_reason(error)}; {RESTORE}") from error
            self._covered = index.ntotal
            _set_parameters(index, factory, parameters)
            if self.device == "cuda" and "HNSW" not in factory:
                self._resources = self._faiss.StandardGpuResources()
                index = self._faiss.index_cpu_to_gpu(self._resources, 0, index)
            self._structure = index
        elif self.device == "cuda" and len(vectors):
            self._resources = self._faiss.StandardGpuResources()
            self._flat = self._faiss.GpuIndexFlatIP(self._resources, vectors.shape[1])
            self._flat.add(np.ascontiguousarray(vectors))

    def _search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if allowed is None:
            return best(*self._propose(queries, k), k)
        total, permitted = len(self), int(np.count_nonzero(allowed))
        if permitted > max(k, _SELECTIVE * total):
            fetch = min(k + total - permitted, 2 * k * total // permitted)
            while fetch < total:
                rows, scores = self._propose(queries, fetch)
                keep = (rows >= 0) & allowed[rows]
                if keep.sum(axis=1).min() >= k:
                    return best(np.where(keep, rows, -1), np.where(keep, scores, -np.inf), k)
                fetch *= 2
        return best(*self._scan(queries, k, np.flatnonzero(allowed)), k)

    def _scan(self, queries: np.ndarray, k: int, subset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Search only the rows of ``subset``, exactly."""
        parts = []
        for start in range(0, len(subset), _ROWS_AT_ONCE):
            some = subset[start : start + _ROWS_AT_ONCE]
            places, scores = self._knn(queries, k, np.ascontiguousarray(self.vectors[some]))
            parts.append((some[places], scores))
        return np.concatenate([rows for rows, _ in parts], axis=1), np.concatenate([s for _, s in parts], axis=1)

    def _propose(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """At least ``k`` rows a query where there are as many, unordered, with exact scores; -1 pads."""
        total = len(self)
        if self._structure is None:
            if self._flat is not None:
                scores, rows = self._flat.search(queries, k)
                return rows, scores
            return self._knn(queries, k, self.vectors)
        _, rows = self._structure.search(queries, min(self._covered, _OVERSAMPLING * k))
        # (Q, R, D) @ (Q, D, 1): the structure's own scores may be approximations
        scores = (self.vectors[rows] @ queries[:, :, None])[..., 0]
        scores = np.where(rows >= 0, scores, -np.inf).astype(np.float32)
        if self._covered < total:
            tail_rows, tail_scores = self._knn(queries, k, self.vectors[self._covered :])
            rows = np.concatenate([rows, tail_rows + self._covered], axis=1)
            scores = np.concatenate([scores, tail_scores], axis=1)
        return rows, scores

    def _knn(self, queries: np.ndarray, k: int, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best of ``vectors`` and all that tie with the last of them, of which FAISS would pick any."""
        fetch = min(k + 1, len(vectors))
        while True:
            scores, rows = self._faiss.knn(queries, vectors, fetch, self._faiss.METRIC_INNER_PRODUCT)
            if fetch >= min(len(vectors), max(k + 1, _TIES)) or (scores[:, k - 1] > scores[:, -1]).all():
                return rows, scores
            fetch = min(4 * fetch, len(vectors))
