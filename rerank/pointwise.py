"""Pointwise reranking: each document gets a score that does not depend on the other candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..models.scorers import Scorer
from .base import Request, Reranker, Scored
from .layout import RelevanceSpec

__all__ = ["PointwiseReranker"]


class PointwiseReranker(Reranker):
    """Ranks by a `Scorer`, such as a cross-encoder. Its scores are not attention, so there is no mass and no evidence.

    Args:
        scorer: the model.
        kind: what it is, such as ``cross-encoder``; this is its ``layout``.
        name: the name that was asked for; None for ``KIND:MODEL``.
        relevance: from scores to P(relevant); None if that is not known.

    Example:
        >>> class Shortest:
        ...     name, revision, dtype, window = "shortest", "", "float32", None
        ...
        ...     def score(self, query, texts):
        ...         return [-float(len(text)) for text in texts], [0] * len(texts)
        >>> [item.document.text for item in PointwiseReranker(Shortest(), "rule").rank("q", ["long text", "text"])]
        ['text', 'long text']
    """

    def __init__(
        self, scorer: Scorer, kind: str, name: str | None = None, relevance: RelevanceSpec | None = None
    ) -> None:
        self.scorer, self.calibration = scorer, relevance
        self.layout, self.model, self.revision = kind, scorer.name, scorer.revision
        self.name = name or f"{kind}:{scorer.name}"
        self.window = scorer.window
        self.list_free = True

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        return [self._scored(request) for request in lists]

    def _scored(self, request: Request) -> Scored:
        if not request.query.strip():
            raise InputError(f"the query must be a text that is not empty, not {request.query!r}")
        # Equal texts get equal scores, to the last bit.
        texts = list(dict.fromkeys(document.contents for document in request.documents))
        values, cut = self.scorer.score(request.query, texts) if texts else ([], [])
        by_text = dict(zip(texts, zip(values, cut, strict=True), strict=True))
        return Scored(
            np.array([by_text[document.contents][0] for document in request.documents], dtype=np.float64),
            truncated=[by_text[document.contents][1] for document in request.documents],
            dtype=self.scorer.dtype,
            backend="sentence-transformers",
        )
