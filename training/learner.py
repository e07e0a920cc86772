"""The seam for models that learn: what the training loop must know of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from ..documents import Document
    from ..rerank.base import Reranker

__all__ = ["Learner", "Output", "TrainingList"]


@dataclass(frozen=True, slots=True)
class TrainingList:
    """One question with documents, some of which answer it.

    Args:
        query: the question.
        documents: N documents, in the order in which a layout lays them out.
        positive: which of them answer it; at least one does and one does not.
        teacher: a stronger model's scores of the documents, NaN where it has none; None if it has none at all.
        source: the collection that it came from.
    """

    query: str
    documents: tuple[Document, ...]
    positive: tuple[bool, ...]
    teacher: tuple[float, ...] | None = None
    source: str = ""


class Output(NamedTuple):
    """What a learner computed of a batch of lists, differentiable.

    Args:
        scores: for each list, float32 (N,): what the loss compares, as the reranker ranks by it.
        next_token: float32 (), the mean loss over the tokens of the answers, for learners that write them, else None.
    """

    scores: list[torch.Tensor]
    next_token: torch.Tensor | None = None


class Learner(Protocol):
    """What must be there to train a reranker. Whatever is not among its parameters is frozen.

    What is random in it (dropout, ids) comes from torch's default generators, which the loop seeds for each step, so
    that a resumed run repeats what an uninterrupted one would have done.

    Attributes:
        name: the name of what is being trained, for logs and the model card.
        temperature: the number by which its scores are divided in the loss, unless another is asked for: 1 for
            logarithms, 0.05 for shares of attention. With one that is too low, the loss is 0 from the start and nothing
            is learnt.
        learning_rate: the highest learning rate, unless another is asked for.
    """

    name: str
    temperature: float
    learning_rate: float

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """What is trained, by name; the same objects at every call."""
        ...

    def __call__(self, lists: Sequence[TrainingList]) -> Output:
        """Score a batch of lists with gradients. No list influences another."""
        ...

    def reranker(self) -> Reranker:
        """Ranks with what has been learnt so far, exactly as the saved model will."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and ``layout.yaml`` into an existing folder, so that it loads by its path."""
        ...
