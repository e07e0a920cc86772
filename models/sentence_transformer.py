"""Any sentence-transformers model as a bi-encoder, fed in length-sorted batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ModelError
from .batching import token_budget_batches, tokens_at_once
from .devices import choose_device
from .tokenizers import token_offsets

__all__ = ["SentenceTransformerEncoder"]


class SentenceTransformerEncoder:
    """A sentence-transformers model, with its query and document prompts, as an `Encoder`.

    Embeddings are normalised when the model's similarity is cosine, and left as they are when it is the dot product.

    Args:
        name: a hub name or a folder.
        truncate_dim: keep only the first dimensions (Matryoshka models).
        device: a torch device, or None for CUDA where there is one, else CPU.
        dtype: ``"float32"``, ``"float16"`` or ``"bfloat16"``; None for bfloat16 on a GPU that has it, float16 on one
            that does not, float32 on CPU.
        revision: pin a hub revision.
        token_budget: tokens in a batch, padding included; None for `sightline.models.batching.tokens_at_once`.

    Raises:
        InputError: if the device cannot be used.
        ModelError: if the model cannot be loaded, or its similarity is neither cosine nor dot product.

    Example:
        >>> encoder = SentenceTransformerEncoder("intfloat/e5-small-v2", dtype="float32")  # doctest: +SKIP
    """

    def __init__(
        self,
        name: str,
        *,
        truncate_dim: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        token_budget: int | None = None,
    ) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        place = choose_device(device)
        if dtype is None:
            on_gpu = "bfloat16" if place.type == "cuda" and torch.cuda.is_bf16_supported() else "float16"
            dtype = on_gpu if place.type == "cuda" else "float32"
        try:
            self._model: Any = SentenceTransformer(
                name,
                device=str(place),
                truncate_dim=truncate_dim,
                revision=revision,
                model_kwargs={"dtype": getattr(torch, dtype)},
            )
        except (OSError, ValueError, AttributeError, RuntimeError, KeyError) as error:
            raise ModelError(f"cannot load the encoder {name!r}: {error}") from error
        similarity = self._model.similarity_fn_name
        if similarity not in ("cosine", "dot"):
            raise ModelError(f"{name}: its similarity is {similarity!r}; an index needs 'cosine' or 'dot'")
        self._normalise = similarity == "cosine"
        self.name = name
        self.revision = revision or ""
        dim: Any = truncate_dim or self._model.get_embedding_dimension()
        self.dim = int(dim)
        length: int | None = self._model.get_max_seq_length()
        self.max_length = length or 512
        self._budget = token_budget or tokens_at_once(place)
        prompt = (self._model.prompts or {}).get("document") or ""
        # A document prompt takes room that a passage cannot have.
        self.max_length -= len(self.token_offsets(prompt)) if prompt else 0

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of the text, special tokens left out."""
        return token_offsets(self._model.tokenizer, text)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Embed queries with the model's query prompt: float32 (N, dim)."""
        return self._encode(self._model.encode_query, texts)

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Embed documents with the model's document prompt: float32 (N, dim)."""
        return self._encode(self._model.encode_document, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> np.ndarray:
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        if not texts:
            return out
        lengths = [len(ids) for ids in self._model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
        for batch in token_budget_batches([min(n, self.max_length) for n in lengths], self._budget):
            out[batch] = encode(
                [texts[i] for i in batch],
                batch_size=len(batch),
                normalize_embeddings=self._normalise,
                show_progress_bar=False,
                convert_to_numpy=True,
            ).astype(np.float32)
        return out
