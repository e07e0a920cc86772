"""The seam for models that score one text at a time: cross-encoders, and sentence-transformers' late interaction.

| name | |
|---|---|
| ``cross-encoder:MODEL`` | query and document read together, pair by pair (Nogueira and Cho, 2019) |
| ``late-interaction:MODEL`` | MaxSim over token vectors (ColBERT; Khattab and Zaharia, SIGIR 2020) |

MODEL is a folder, or a name on the hub. Both are loaded by sentence-transformers, which also loads what PyLate trained,
and both read every text anew for each query. `sightline.models.remote` has a third, behind a rerank API.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..errors import ModelError
from .devices import choose_device
from .reader import Window
from .tokenizers import token_offsets

__all__ = ["CrossEncoderScorer", "LateInteractionScorer", "Scorer"]

_QUERY_SHARE = 4  # a quarter of a cross-encoder's room is left to the query, at most
_LONGEST_QUERY = 64


class Scorer(ABC):
    """A model whose score of a text does not depend on other texts.

    Attributes:
        name: name of the model.
        revision: revision of its weights, "" if that is not known.
        dtype: what it computes with, "" if that is not known.
        backend: what computes.
        window: how much of a text it reads; None if it cannot tell.
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
        """A score for each text, higher is better, and how many of its tokens were not read; None if it cannot tell."""


class _SentenceTransformersModel(Scorer):
    """What the two have in common; a `Window`, too."""

    backend = "sentence-transformers"

    def __init__(self, kind: Any, name: str, revision: str | None, dtype: str | None, device: Any) -> None:
        self.name = name
        self.model = _trained(kind, name, revision=revision, dtype=dtype, device=device)
        self.revision = str(revision or getattr(self.model.config, "_commit_hash", None) or "")
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        self.window = self

    @property
    @abstractmethod
    def room(self) -> int: ...

    def token_offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span of every token of the whole text, special tokens left out."""
        return token_offsets(self.model.tokenizer, text)

    def _special(self, pair: bool) -> int:
        return int(self.model.tokenizer.num_special_tokens_to_add(pair=pair))


class CrossEncoderScorer(_SentenceTransformersModel):
    """Reads each pair of query and text.

    Args:
        name: a folder, or a name on the hub.
        revision: branch, tag or commit, to pin what is loaded.
        dtype: the number format, such as ``bfloat16``; None for that of the checkpoint.
        device: a torch device; None for CUDA where there is one, else CPU.

    Raises:
        ModelError: if the model cannot be loaded, is not trained, or has more than one label.
    """

    logits = True

    def __init__(self, name: str, *, revision: str | None = None, dtype: str | None = None, device: Any = None) -> None:
        from sentence_transformers import CrossEncoder

        super().__init__(CrossEncoder, name, revision, dtype, device)
        if self.model.num_labels != 1:
            raise ModelError(f"{name} has {self.model.num_labels} labels; a reranker has one, the score")

    @property
    def room(self) -> int:
        """Tokens of a text that are read at most, beside a query of ordinary length."""
        room = (self.model.max_seq_length or 512) - self._special(pair=True)
        return max(1, room - min(_LONGEST_QUERY, room // _QUERY_SHARE))

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """See `Scorer.score`; logits, since a sigmoid in single precision makes ties of what is certain."""
        import torch

        from ..kernels.threads import idle_threads

        pairs = [(query, text) for text in texts]
        with idle_threads():
            values = self.model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        tokens = self.model.tokenizer([query] * len(texts), list(texts), truncation=False, verbose=False)["input_ids"]
        return [float(value) for value in values], _cut(tokens, self.model.max_seq_length)


class LateInteractionScorer(_SentenceTransformersModel):
    """Reads each text alone, and sums the best similarity of each query token.

    Args:
        name: a folder, or a name on the hub.
        revision: branch, tag or commit, to pin what is loaded.
        dtype: the number format, such as ``bfloat16``; None for that of the checkpoint.
        device: a torch device; None for CUDA where there is one, else CPU.

    Raises:
        ModelError: if the model cannot be loaded, or is not trained.
    """

    def __init__(self, name: str, *, revision: str | None = None, dtype: str | None = None, device: Any = None) -> None:
        from sentence_transformers import MultiVectorEncoder

        super().__init__(MultiVectorEncoder, name, revision, dtype, device)

    @property
    def _length(self) -> int | None:
        length: int | None = getattr(self.model[0], "document_length", None) or self.model.max_seq_length
        return length

    @property
    def room(self) -> int:
        """Tokens of a text that are read at most, special tokens left out."""
        return max(1, (self._length or 512) - self._special(pair=False))

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """See `Scorer.score`."""
        questions = self.model.encode_query([query], show_progress_bar=False)
        documents = self.model.encode_document(list(texts), show_progress_bar=False)
        values = self.model.similarity(questions, documents)[0].tolist()
        tokens = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return values, _cut(tokens, self._length)


def _trained(kind: Any, name: str, *, revision: str | None, dtype: str | None, device: Any) -> Any:
    """A model of sentence-transformers, all of whose weights are in its files.

    What is not there is drawn at random, with a line in the log: figures of such a model would mean nothing. It shows
    in that two loadings differ.
    """
    import torch

    options: dict[str, Any] = {"device": str(choose_device(device)), "revision": revision}
    if dtype is not None:
        options["model_kwargs"] = {"dtype": getattr(torch, dtype, dtype)}
    try:
        with torch.random.fork_rng():
            loaded = []
            for seed in (0, 1):
                torch.manual_seed(seed)
                loaded.append(kind(name, **options))
    except Exception as error:  # the hub's, the files', the model's: each has its own
        raise ModelError(
            f"the weights of {name!r} cannot be loaded as {kind.__name__} ({type(error).__name__}: {error}); give the "
            "path of a folder that has them, or a name on a hub that can be reached"
        ) from error
    model, again = loaded
    again_weights = again.state_dict()
    fresh = [name for name, weight in model.state_dict().items() if not torch.equal(weight, again_weights[name])]
    if fresh:
        raise ModelError(
            f"{name!r} is no trained {kind.__name__}: {', '.join(fresh)} is not among its weights and would be random"
        )
    return model.eval()


def _cut(tokens: Sequence[Sequence[int]], limit: int | None) -> list[int]:
    return [0 if limit is None else max(0, len(ids) - limit) for ids in tokens]
