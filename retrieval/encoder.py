"""The seam for bi-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..minilm import TokenStates

__all__ = ["Encoder", "TokenReader", "load_encoder"]


class Encoder(Protocol):
    """What a bi-encoder must do. Relevance is the inner product of a query's and a document's embedding.

    Attributes:
        name: how a user asks for it, also in ``--encoder``.
        revision: pins the exact weights where that is known, else "".
        dim: length of an embedding.
        max_length: tokens it reads of a text, special tokens included.
    """

    name: str
    revision: str
    dim: int
    max_length: int

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embed N queries: float32 (N, dim)."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Embed N documents: float32 (N, dim)."""
        ...

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of a text, special tokens and truncation left out; for splitting."""
        ...


class TokenReader(Protocol):
    """A model whose token states an index can keep beside the embeddings."""

    name: str
    revision: str
    dim: int
    max_length: int

    def read(self, texts: Sequence[str], *, states: bool = True) -> TokenStates:
        """Read each text alone; see `sightline.minilm.MiniLM.read`."""
        ...


def load_encoder(name: str = "minilm", **options: Any) -> Encoder:
    """Load a bi-encoder by name: ``minilm`` (the embedded default), or any sentence-transformers name or path.

    Args:
        name: what to load.
        options: passed to `SentenceTransformerEncoder` (``truncate_dim``, ``device``, ``dtype``, ``revision``, ...) or
            `load_minilm` (``max_length``, ``device``).

    Raises:
        InputError: if the embedded default is given an option that it does not have.
        ModelError: if there is no such model, or it cannot serve as a bi-encoder.
    """
    if name == "minilm":
        from ..minilm import load_minilm

        unknown = sorted(set(options) - {"max_length", "device"})
        if unknown:
            raise InputError(f"the encoder 'minilm' has no option {unknown[0]!r}; it has max_length and device")
        return load_minilm(**options)
    from .sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(name, **options)
