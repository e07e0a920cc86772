"""Cascades: one reranker for the whole list, and another one for the top of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..documents import Document
from ..errors import InputError
from ..models.cache import DocumentCache
from ..names import CascadeName
from .base import Request, Reranker, Scored, among
from .ranking import below, standardised

__all__ = ["CascadeReranker"]


class CascadeReranker(Reranker):
    """Ranks by one reranker, then ranks the best documents again by a second one, which may be slow.

    Documents that the second reranker does not see stand below those that it sees, in the order of the first. Of
    passages that share an id, only the best goes on, so ``top`` counts documents. Scores are relative to the list,
    since those below the top are shifted there.

    Args:
        first: the reranker of the whole list. Kept token states go to it.
        second: the reranker of the top. Evidence and mass are those of this reranker, if it has them.
        top: the number of documents that the second reranker ranks, at least 2.
        weight: the weight of the second reranker's score in a sum: it is standardised over the top to mean 0 and
            standard deviation 1, multiplied by the weight and added to the first's score. If None, the second's score
            orders the top alone.
        name: the name that you asked for. If None, the name that `sightline.names.CascadeName` makes of the other
            arguments.

    Raises:
        InputError: if ``top`` is below 2, or ``weight`` is not above 0.

    Example:
        >>> from sightline.rerank import load_reranker
        >>> cascade = CascadeReranker(load_reranker("minilm-maxsim"), load_reranker("minilm"), top=2)
        >>> cascade.name
        'minilm-maxsim>minilm@2'
        >>> ranking = cascade.rank("who purrs", ["Iron rusts.", "Cats purr.", "A cat is an animal."])
        >>> ranking[0].document.text, ranking[2].mass
        ('Cats purr.', 0.0)
    """

    def __init__(
        self,
        first: Reranker,
        second: Reranker,
        top: int = 20,
        *,
        weight: float | None = None,
        name: str | None = None,
    ) -> None:
        if isinstance(top, bool) or not isinstance(top, int) or top < 2:
            raise InputError(f"top is how many documents the second reranker orders, at least 2, not {top!r}")
        if weight is not None and not 0 < weight < np.inf:
            raise InputError(f"weight must be above 0, or None for the second reranker's order, not {weight!r}")
        self.first, self.second, self.top, self.weight = first, second, top, weight
        self.name = name or str(CascadeName(first.name, second.name, top, weight))
        self.layout, self.model, self.revision = second.layout, second.model, second.revision
        self.readout, self.has_evidence = second.readout, second.has_evidence
        self.reader, self.window, self.uses_bm25 = first.reader, first.window, first.uses_bm25
        self.concurrent = first.concurrent and second.concurrent
        self.cache = first.cache or second.cache

    def keep_documents(self, cache: DocumentCache | None) -> None:
        """Let both rerankers keep what they read."""
        self.first.keep_documents(cache)
        self.second.keep_documents(cache)
        self.cache = self.first.cache or self.second.cache

    def _readable(self, document: Document) -> bool:
        return self.first._readable(document) and self.second._readable(document)

    def _score(self, lists: Sequence[Request]) -> list[Scored]:
        firsts = self.first._score([dataclasses.replace(request, evidence=False) for request in lists])
        tops = [self._top(request, scored) for request, scored in zip(lists, firsts, strict=True)]
        shorter = [
            Request(
                request.query,
                [request.documents[i] for i in places],
                [None] * len(places),
                request.evidence,
                None if request.bm25 is None else [request.bm25[i] for i in places],
            )
            for request, places in zip(lists, tops, strict=True)
        ]
        seconds = self.second._score(shorter)
        return [self._joined(*parts) for parts in zip(firsts, seconds, tops, strict=True)]

    def _top(self, request: Request, scored: Scored) -> list[int]:
        """Places of what the second reranker ranks, in the order in which the list was given."""
        documents = request.documents
        order = sorted(range(len(documents)), key=lambda i: (-scored.scores[i], documents[i].id, documents[i].contents))
        best: dict[str, int] = {}
        for place in order:
            best.setdefault(documents[place].id, place)
        return sorted(list(best.values())[: self.top])

    def _joined(self, first: Scored, second: Scored, top: list[int]) -> Scored:
        count, scores = len(first.scores), second.scores
        if self.weight is not None and top:
            scores = first.scores[top] + self.weight * standardised(scores)
        truncated = list(first.truncated or [0] * count)
        for place, cut in zip(top, second.truncated or [0] * len(top), strict=True):
            truncated[place] = cut
        note = f"of {count} documents the {len(top)} best by {self.first.name} were ranked by {self.second.name}"
        return dataclasses.replace(
            among(second, top, count),
            scores=below(scores, top, first.scores),
            truncated=truncated,
            unread={top[i] for i in second.unread} | set(first.unread),
            warnings=(*first.warnings, *second.warnings, *([note] if len(top) < count else [])),
        )
