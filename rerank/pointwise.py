"""Pointwise reranking: each document gets a score that does not depend on the other candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import InputError
from ..models.remote import RemoteScorer
from ..models.scorers import CrossEncoderScorer, Scorer
from .base import Request, Reranker, Scored
from .layout import RelevanceSpec

__all__ = ["SCORERS", "PointwiseReranker"]

SCORERS: Mapping[str, Callable[..., Scorer]] = {
    "cross-encoder": CrossEncoderScorer,
    "remote": RemoteScorer,
}
"""What scores, by the kind of the reranker's name."""


class PointwiseReranker(Reranker):
    """Ranks by a `Scorer`, such as a cross-encoder. Its scores are not attention, so there is no mass and no evidence.

    Args:
        scorer: the model that scores each document.
        kind: the kind of model, such as ``cross-encoder``, which is also the reranker's ``layout``.
        name: the name that you asked for. If None, ``KIND:MODEL``.

    Example:
        >>> from sightline.models.scorers import Scorer
        >>> class Shortest(Scorer):
        ...     name = "shortest"
        ...
        ...     def score(self, query, texts):
        ...         return [-float(len(text)) for text in texts], [0] * len(texts)
        >>> [item.document.text for item in PointwiseReranker(Shortest(), "rule").rank("q", ["long text", "text"])]
        ['text', 'long text']
    """

    def __init__(self, scorer: Scorer, kind: str, name: str | None = None) -> None:
        self.scorer, self.window, self.concurrent = scorer, scorer.window, scorer.concurrent
        self.calibration = RelevanceSpec(slope=1.0, offset=0.0) if scorer.logits else None
        self.layout, self.model, self.revision = kind, scorer.name, scorer.revision
        self.name = name or f"{kind}:{scorer.name}"
        self.list_free = True

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        return [self._scored(request) for request in lists]

    def _scored(self, request: Request) -> Scored:
        if not request.query.strip():
            raise InputError(f"the query must be a text that is not empty, not {request.query!r}")
        # Equal texts get equal scores, to the last bit.
        texts = list(dict.fromkeys(document.contents for document in request.documents))
        values, cut = self.scorer.score(request.query, texts) if texts else ([], None)
        score_of = dict(zip(texts, values, strict=True))
        cut_of = None if cut is None else dict(zip(texts, cut, strict=True))
        return Scored(
            np.array([score_of[document.contents] for document in request.documents], dtype=np.float64),
            truncated=None if cut_of is None else [cut_of[document.contents] for document in request.documents],
            dtype=self.scorer.dtype,
            backend=self.scorer.backend,
        )
