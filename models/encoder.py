"""The interface of bi-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .loading import load_reader, load_text_model

__all__ = ["Encoder", "load_encoder"]


class Encoder(Protocol):
    """The interface of a bi-encoder. Relevance is the inner product of the embeddings of a query and a document.

    Attributes:
        name: the name by which you ask for it, also in ``--encoder``.
        revision: the revision of the exact weights; "" if it is not known.
        dim: the length of an embedding.
        max_length: the number of tokens that it reads of a text, special tokens included.
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
        """Return the character span of every token of a whole text, without special tokens; used to split texts."""
        ...


class _NoEncoder:
    """Stands in for an encoder where nothing is embedded: documents are cut as for the embedded default."""

    name, revision, dim, max_length = "none", "", 0, 256

    def __init__(self, backend: str | None) -> None:
        self.backend = backend  # of the reader whose token states an index may keep all the same

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros((len(texts), 0), dtype=np.float32)

    encode_documents = encode_queries

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        return load_reader().token_offsets(text)


def load_encoder(name: str = "minilm", **options: Any) -> Encoder:
    """Load a bi-encoder by name.

    ``minilm`` is the embedded default. ``none`` embeds nothing, for an index that is searched by words alone. Any other
    name is the name or path of a sentence-transformers model; with ``late-interaction:`` before it, the embedding is
    the mean of a late-interaction model's token vectors. Most encoders are block readers, too: see `load_reader`.

    Args:
        name: the name of the encoder.
        options: the options of the encoder; see `load_reader`.

    Raises:
        InputError: if the encoder does not have an option that you give.
        ModelError: if there is no such model, or it cannot serve as a bi-encoder.
    """
    if name == "none":
        return _NoEncoder(options.get("backend"))
    return load_text_model(name, **options)
