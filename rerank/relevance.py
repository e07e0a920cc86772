"""A score as clients of rerank services expect it: between 0 and 1 where the readout is an attention share."""

from __future__ import annotations

import math

from .base import Reranker
from .results import NOTHING

__all__ = ["relevance"]


def relevance(reranker: Reranker, score: float) -> float:
    """A score of this reranker on a scale that RAG clients can take: higher is better, and the order is the ranking's.

    For a readout by ``log_mass`` it is ``exp(score)``: the geometric mean, over the query's tokens, of the share of
    attention that the document got among all documents of its list, between 0 and 1. A ``learnt`` readout adds to that
    logarithm, and is taken through a sigmoid, which is near the exponential where shares are small. Other readouts keep
    their score: a ``mass`` is such a share already (the arithmetic mean), a ``maxsim`` a cosine. It is relative to its
    list, as the score is: the same document gets less among better ones, so no threshold means the same for two lists.

    Args:
        reranker: the reranker that gave the score.
        score: the score of a `Ranked` document.

    Example:
        >>> from sightline import load_reranker
        >>> reranker = load_reranker("minilm")
        >>> ranking = reranker.rank("what do cats do", ["Cats purr.", "Iron rusts."])
        >>> [round(relevance(reranker, item.score), 2) for item in ranking]
        [0.9, 0.0]
    """
    if score == NOTHING:  # nothing was read of the document
        return 0.0
    if reranker.readout == "learnt":
        return 1 / (1 + math.exp(min(-score, 700.0)))  # e^700 is nearly the largest number there is
    return math.exp(min(score, 0.0)) if reranker.readout == "log_mass" else score
