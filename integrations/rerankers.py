"""A drop-in for the ``Reranker`` of the `rerankers <https://github.com/AnswerDotAI/rerankers>`_ library.

Needs ``pip install 'sightline-search[rerankers]'``. Results are objects of that library, so that the code that
reads them need not change.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

try:
    from rerankers import Document
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ModuleNotFoundError as error:
    from ..errors import MissingExtraError

    raise MissingExtraError("rerankers", "rerankers") from error

from ..errors import InputError
from ..rerank import reranker as rerank

__all__ = ["Reranker"]


class Reranker(BaseRanker):
    """Ranks like ``rerankers.Reranker(...)``; ``rank_async`` runs in a worker thread and leaves the event loop free.

    Args:
        reranker: a name for `sightline.load_reranker`, or a `sightline.Reranker`.

    Example:
        >>> results = Reranker().rank("what sound do cats make", ["Dogs bark.", "Cats purr."], doc_ids=["d", "c"])
        >>> results.top_k(1)[0].doc_id, results[0].rank
        ('c', 1)
    """

    ranking_type = "listwise"

    def __init__(self, reranker: str | rerank.Reranker = "minilm") -> None:
        self._reranker = rerank.load_reranker(reranker) if isinstance(reranker, str) else reranker

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Rank one list.

        Args:
            query: a text.
            docs: texts, or documents of the rerankers library, which are copied.
            doc_ids: one for each; None keeps those of the documents, or counts from 0.
            metadata: one for each; None keeps that of the documents.

        Raises:
            InputError: if the query or a document cannot be used, or the lists differ in length.
        """
        documents = [docs] if isinstance(docs, str | Document) else list(docs)
        for name, given in (("doc_ids", doc_ids), ("metadata", metadata)):
            if given is not None and len(given) != len(documents):
                raise InputError(f"{len(documents)} docs came with {len(given)} {name}; give one for each")
        copies = []
        for place, document in enumerate(documents):
            one = copy.copy(document) if isinstance(document, Document) else Document(document)
            if one.document_type != "text":
                raise InputError(f"document {place} is of type {one.document_type!r}; only text can be ranked")
            if doc_ids is not None:
                one.doc_id = doc_ids[place]
            elif one.doc_id is None:
                one.doc_id = place
            one.metadata = dict(one.metadata if metadata is None else metadata[place])
            copies.append(one)
        ranking = self._reranker.rank(query, [one.text for one in copies])
        results = [Result(copies[item.index], item.score, rank) for rank, item in enumerate(ranking, start=1)]
        return RankedResults(results, query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        """Not to be had.

        Raises:
            InputError: always.
        """
        raise InputError("a score is relative to its list, so a document alone has none; rank the list it stands in")
