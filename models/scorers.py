"""The interface of models that score one text at a time, and cross-encoders.

| name | |
|---|---|
| ``cross-encoder:MODEL`` | query and document read together, pair by pair (Nogueira and Cho, 2019) |

MODEL is a folder, or a name on the hub. Every text is read anew for each query. `sightline.models.remote` has another
scorer, which asks a rerank API.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..errors import ModelError
from ..wording import listed
from .reader import Window
from .tokenizers import token_offsets
from .trained import load_trained, saved_revision

__all__ = ["CrossEncoderScorer", "Scorer"]

_QUERY_SHARE = 4  # a quarter of a cross-encoder's room is left to the query, at most
_LONGEST_QUERY = 64


class Scorer(ABC):
    """A model whose score of a text does not depend on other texts.

    Attributes:
        name: the name of the model.
        revision: the revision of its weights; "" if it is not known.
        dtype: the number format that it computes in; "" if it is not known.
        backend: the library that computes.
        window: an object that tells how much of a text the model reads; None if it cannot tell.
        logits: whether a sigmoid of its score is the probability that the text is relevant.
        concurrent: whether several threads may use it at once.
    """

    name: str
    revision: str = ""
    dtype: str = "float32"
    backend: str = ""
    window: Window | None = None
    logits: bool = False
    concurrent: bool = False

    @abstractmethod
    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int] | None]:
        """Score each text, and count its tokens that were not read; None if the model cannot tell."""


class CrossEncoderScorer(Scorer):
    """Scores texts with a cross-encoder, which reads each pair of query and text.

    Args:
        name: the folder of the model, or its name on the hub.
        revision: the branch, tag or commit to load. If None, the newest.
        dtype: the number format to compute in, such as ``bfloat16``. If None, that of the checkpoint.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.

    Raises:
        ModelError: if the model cannot be loaded, is not trained, or has more than one label.
    """

    backend = "sentence-transformers"
    logits = True

    def __init__(self, name: str, *, revision: str | None = None, dtype: str | None = None, device: Any = None) -> None:
        from sentence_transformers import CrossEncoder

        self.name = name
        self.model = load_trained(CrossEncoder, name, _of_a_pair, revision=revision, dtype=dtype, device=device)
        self.revision = saved_revision(name, self.model, revision)
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.window = self
        if self.model.num_labels != 1:
            labels = listed(map(str, getattr(self.model.config, "id2label", {}).values()), most=5)
            raise ModelError(
                f"{name!r} has {self.model.num_labels} labels ({labels}), and nothing says which of them is the "
                "relevance; choose a cross-encoder with one label"
            )

    @property
    def room(self) -> int:
        """The largest number of tokens of a text that are read, beside a query of ordinary length."""
        room = (self.model.max_seq_length or 512) - int(self.model.tokenizer.num_special_tokens_to_add(pair=True))
        return max(1, room - min(_LONGEST_QUERY, room // _QUERY_SHARE))

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of every token of the whole text, without special tokens."""
        return token_offsets(self.model.tokenizer, text)

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """Score each text with a logit; see `Scorer.score`.

        In single precision, a sigmoid would make certain scores equal.
        """
        import torch

        from ..kernels.threads import idle_threads

        pairs = [(query, text) for text in texts]
        with idle_threads():
            values = self.model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        tokens = self.model.tokenizer([query] * len(texts), list(texts), truncation=False, verbose=False)["input_ids"]
        return [float(value) for value in values], _cut(tokens, self.model.max_seq_length)


def _of_a_pair(model: Any) -> Any:
    import torch

    pairs = [("what do cats do", "Cats purr.")]
    return model.predict(pairs, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False)


def _cut(tokens: Sequence[Sequence[int]], limit: int | None) -> list[int]:
    return [0 if limit is None else max(0, len(ids) - limit) for ids in tokens]
