"""The interface of models that learn: what the training loop must know about one."""

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
        query: the text of the question.
        documents: the N documents, in the order in which a layout lays them out.
        positive: which of them answer it. At least one does, and at least one does not.
        teacher: the scores of the documents by a stronger model, NaN where it gave none. None if it gave none at all.
        source: the name of the collection that the list came from.
    """

    query: str
    documents: tuple[Document, ...]
    positive: tuple[bool, ...]
    teacher: tuple[float, ...] | None = None
    source: str = ""


class Output(NamedTuple):
    """The result of a learner for a batch of lists, differentiable.

    Args:
        scores: for each list, float32 (N,), the scores that the loss compares, as the reranker ranks by them.
        next_token: float32 (), the mean loss over the tokens of the answers, for learners that write them; else None.
    """

    scores: list[torch.Tensor]
    next_token: torch.Tensor | None = None


class Learner(Protocol):
    """The interface of a model that can be trained. Whatever is not among its parameters is frozen.

    Random numbers in it (dropout, ids) come from torch's default generators, which the loop seeds for each step, so
    that a resumed run repeats what an uninterrupted one would have done.

    Attributes:
        name: the name of what is being trained, for logs and the model card.
        temperature: the number that divides its scores in the loss, unless you give another: 1 for logarithms, 0.05 for
            shares of attention. If it is too low, the loss is 0 from the start and nothing is learned.
        learning_rate: the highest learning rate, unless you give another.
    """

    name: str
    temperature: float
    learning_rate: float

    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """Return what is trained, by name. Every call returns the same objects."""
        ...

    def __call__(self, lists: Sequence[TrainingList]) -> Output:
        """Score a batch of lists with gradients. No list influences another."""
        ...

    def reranker(self) -> Reranker:
        """Return a reranker that ranks with what has been learned so far, exactly as the saved model will."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and ``layout.yaml`` into an existing folder, so that it loads by its path."""
        ...
