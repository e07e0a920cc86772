"""Learned sparse encoders: models that weight the terms of a vocabulary for a text.

SPLADE (Formal et al., SIGIR 2021; v2, 2021) takes the weights from a masked language model's head. In inference-free
models (Geng et al., 2024) only documents are read by the network; a query's weights are those of its tokens in a table.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import ModelError
from .batching import token_budget_batches
from .devices import choose_device
from .trained import load_trained, saved_revision

__all__ = ["SparseEncoder", "SparseVectors", "load_sparse_encoder"]

_PROBE = "Cats purr when they are content."
_LONGEST = 512  # tokens read at most by a model that does not say
_FEWEST = 10  # tokens that a tokenizer knows; special ones alone are fewer


class SparseVectors(NamedTuple):
    """N sparse vectors, one after the other (compressed sparse rows).

    Args:
        offsets: int64 (N + 1,), the place where the entries of each vector begin, and the end of the last.
        terms: int32 (entries,), the dimensions that are not zero, ascending within a vector.
        weights: float32 (entries,), the values of these dimensions.

    Example:
        >>> vectors = SparseVectors.of(np.array([[0, 2.5, 1], [0, 0, 0]], dtype=np.float32))
        >>> vectors.offsets.tolist(), vectors.terms.tolist(), vectors.weights.tolist()
        ([0, 2, 2], [1, 2], [2.5, 1.0])
    """

    offsets: np.ndarray
    terms: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, dense: np.ndarray) -> SparseVectors:
        """Make the sparse form of dense vectors, float32 (N, dim)."""
        rows, terms = dense.nonzero()
        offsets = np.zeros(len(dense) + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=len(dense)), out=offsets[1:])
        return cls(offsets, terms.astype(np.int32), dense[rows, terms].astype(np.float32))

    def __len__(self) -> int:
        return len(self.offsets) - 1


class SparseEncoder(Protocol):
    """The interface of a learned sparse encoder.

    Relevance is the inner product of the vectors of a query and a document.

    Attributes:
        name: the folder of the model, or its name on the hub.
        revision: the revision of the exact weights; "" if it is not known.
        dim: the number of terms.
        max_length: the number of tokens that it reads of a document, special tokens included.
    """

    name: str
    revision: str
    dim: int
    max_length: int

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        """Weight the terms of N queries."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        """Weight the terms of N documents."""
        ...


class _SentenceTransformersSparse:
    """A ``SparseEncoder`` of sentence-transformers; threads may share it."""

    def __init__(self, name: str, revision: str | None, device: str | None) -> None:
        from sentence_transformers import SparseEncoder as Model

        self._asked = name, revision, device
        place = choose_device(device)
        self._model = load_trained(Model, name, _both_sides, revision=revision, device=place)
        reads = _readers(self._model)
        for side, module in reads.items():
            known = len(getattr(module, "tokenizer", None) or range(_FEWEST))
            if known < _FEWEST:  # transformers makes one up where its files are missing
                raise ModelError(
                    f"{name}: the tokenizer of its {side} knows {known} tokens; files of it are missing or damaged: "
                    "copy the model's folder again"
                )
        self._one_at_a_time = threading.Lock()  # its tokenizer is no thread's own
        similarity = self._model.similarity_fn_name
        if similarity not in ("dot", "cosine"):
            raise ModelError(f"{name}: its similarity is {similarity!r}; a sparse index needs 'dot' or 'cosine'")
        self._normalise = similarity == "cosine"
        self.name = name
        self.revision = saved_revision(name, self._model, revision)
        self.dim = int(_both_sides(self._model).shape[1])
        length = getattr(reads["documents"], "max_seq_length", None)
        self.max_length = int(length) if length is not None and length < 1_000_000 else _LONGEST
        # The head gives a weight for each token and term, which is what fills the memory.
        self._budget = 2048 if place.type == "cpu" else 16384

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the name."""
        return _load, self._asked

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        """The weights of the terms of N queries, with the model's query prompt."""
        return self._encode(self._model.encode_query, texts)

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        """The weights of the terms of N documents, with the model's document prompt.

        Raises:
            ModelError: if a weight is not finite.
        """
        return self._encode(self._model.encode_document, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> SparseVectors:
        parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        # A text has fewer tokens than characters, but for rare scripts; a bound is enough here.
        for batch in token_budget_batches([min(len(text) + 2, self.max_length) for text in texts], self._budget):
            with self._one_at_a_time:
                read = _dense(encode([texts[i] for i in batch], batch_size=len(batch), **_AS_TENSOR))
            if not np.isfinite(read).all():
                bad = texts[batch[int(np.argmin(np.isfinite(read).all(axis=1)))]]
                raise ModelError(f"{self.name} gave NaN or infinity for a text that begins {bad[:60]!r}")
            if self._normalise:
                read /= np.maximum(np.linalg.norm(read, axis=1, keepdims=True), 1e-12)
            vectors = SparseVectors.of(read)
            for place, i in enumerate(batch):
                own = slice(vectors.offsets[place], vectors.offsets[place + 1])
                parts[i] = vectors.terms[own], vectors.weights[own]
        offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([len(parts[i][0]) for i in range(len(texts))], out=offsets[1:])
        return SparseVectors(
            offsets,
            np.concatenate([np.empty(0, np.int32), *(parts[i][0] for i in range(len(texts)))]),
            np.concatenate([np.empty(0, np.float32), *(parts[i][1] for i in range(len(texts)))]),
        )


_AS_TENSOR = {"convert_to_tensor": True, "convert_to_sparse_tensor": False, "show_progress_bar": False}


def load_sparse_encoder(name: str, *, revision: str | None = None, device: str | None = None) -> SparseEncoder:
    """Load a model that sentence-transformers' ``SparseEncoder`` loads: SPLADE-like, or inference-free.

    If you ask for the same encoder again, you get the same object.

    Args:
        name: the folder of the model, or its name on the hub.
        revision: the branch, tag or commit to load from the hub. If None, the newest.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.

    Raises:
        InputError: if the device cannot be used.
        ModelError: if the model cannot be loaded, is not trained, or has a similarity that is neither dot product nor
            cosine.

    Example:
        >>> encoder = load_sparse_encoder("naver/splade-v3")  # doctest: +SKIP
        >>> encoder.encode_queries(["who barks"]).terms.shape  # doctest: +SKIP
        (17,)
    """
    if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises at long names
        name, revision = os.path.realpath(name), None  # the revision of a folder is a hash of its files
    return _load(name, revision, device)


@functools.lru_cache(maxsize=4)
def _load(name: str, revision: str | None, device: str | None) -> SparseEncoder:
    return _SentenceTransformersSparse(name, revision, device)


def _both_sides(model: Any) -> Any:
    """What a model makes of a text as a query and as a document."""
    import torch

    return torch.cat([encode([_PROBE], **_AS_TENSOR) for encode in (model.encode_query, model.encode_document)])


def _dense(read: Any) -> np.ndarray:
    dense: np.ndarray = read.float().cpu().numpy()
    return dense


def _readers(model: Any) -> dict[str, Any]:
    """The module that reads texts first, by side: one, or those of a Router, which sends the sides different ways."""
    first = model[0]
    routes = getattr(first, "sub_modules", {})
    sides = {"queries": "query", "documents": "document"}
    return {side: routes[route][0] if route in routes else first for side, route in sides.items()}
