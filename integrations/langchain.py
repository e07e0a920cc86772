"""LangChain: a retriever over an index, and a document compressor that reranks the documents of any retriever.

Needs ``pip install 'sightline-search[langchain]'``, which is langchain-core only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import importing

with importing("langchain_core", extra="langchain"):
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field, PrivateAttr

from ..documents import Grain, Unit
from ..rerank.base import Reranker
from ..rerank.evidence import asked_evidence
from ..rerank.placement import Order, arrange
from ..rerank.results import relevance_or_score
from ..search import Searcher, SearchResult
from .snippets import Made, as_searcher, candidate, keeping, pruned, snippets

__all__ = ["SightlineRerank", "SightlineRetriever"]


class SightlineRetriever(BaseRetriever):
    """Searches an index; ``ainvoke`` leaves the event loop free.

    ``metadata["relevance_score"]`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.

    Args:
        searcher: a `sightline.Searcher`, or the path of an index.
        k: the largest number of documents to return.
        where: a metadata filter; see `sightline.Searcher.search`.
        unit: ``passage`` returns the passages that scored best, ``document`` whole documents.
        evidence: whether to mark what got the attention, in ``metadata["evidence"]``, with offsets in ``page_content``.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the documents: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the documents to return, which may be none. Needs a reranker
            with a relevance, such as the default.

    A call can have its own ``k``, ``where`` and ``min_score``, which replace these, as in ``retriever.invoke(query,
    k=3)``.

    Example:
        >>> retriever = SightlineRetriever(searcher="manuals.index", k=5, order="basin")  # doctest: +SKIP
        >>> retriever.invoke("how do I reset it")  # doctest: +SKIP
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    searcher: Searcher | str | Path = Field(repr=False, exclude=True)
    k: int = 5
    where: Mapping[str, Any] | None = None
    unit: Unit = "passage"
    evidence: Grain | None = None
    prune: float | None = None
    order: Order = "relevance"
    min_score: float | None = None
    _opened: Made[Searcher] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the index, if a path was given."""
        asked_evidence(self.evidence, self.prune)
        self._opened = Made(as_searcher)
        self._opened.of(self.searcher)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
    ) -> list[Document]:
        options = self._options(k, where, min_score)
        return self._documents(self._opened.of(self.searcher).search(query, **options))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
    ) -> list[Document]:
        options = self._options(k, where, min_score)
        return self._documents(await self._opened.of(self.searcher).asearch(query, **options))

    def _options(self, k: int | None, where: Mapping[str, Any] | None, min_score: float | None) -> dict[str, Any]:
        return {
            "k": self.k if k is None else k,
            "where": self.where if where is None else where,
            "evidence": asked_evidence(self.evidence, self.prune),
            "unit": self.unit,
            "min_score": self.min_score if min_score is None else min_score,
        }

    def _documents(self, result: SearchResult) -> list[Document]:
        return [
            Document(
                id=snippet.id,
                page_content=snippet.text,
                metadata={**snippet.metadata, "relevance_score": snippet.score},
            )
            for snippet in snippets(result, self.unit, self.order, self.prune)
        ]


class SightlineRerank(BaseDocumentCompressor):
    """Reranks the documents of any retriever, and returns copies.

    ``metadata["relevance_score"]`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.
    ``acompress_documents`` runs in a worker thread and leaves the event loop free.

    Args:
        reranker: the name of a reranker, as `sightline.load_reranker` takes it, or a `sightline.Reranker`.
        top_n: the number of documents to return, at least 1. If None, or more than there are, all of them.
        title_field: the metadata field that is read before the text, if a document has it.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the documents: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the documents to return, which may be none. Needs a reranker
            with a relevance, such as the default.
        cache_mb: megabytes of memory for what was read of documents, so that they are not read again; 0 for none. It
            applies to a reranker that is given by name, and all adapters of a process share it.
        cache_folder: a folder that also keeps what was read, for other processes and later runs, up to 4 GB.

    Example:
        >>> documents = [Document("Dogs bark."), Document("Cats purr.", id="c")]
        >>> [best] = SightlineRerank(top_n=1).compress_documents(documents, "what sound do cats make")
        >>> best.id, "relevance_score" in best.metadata, "relevance_score" in documents[1].metadata
        ('c', True, False)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Any = "minilm"
    top_n: int | None = 5
    title_field: str = "title"
    prune: float | None = None
    order: Order = "relevance"
    min_score: float | None = None
    cache_mb: int = 256
    cache_folder: str | Path | None = None
    _loaded: Made[Reranker] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the reranker, if a name was given."""
        asked_evidence(None, self.prune)
        self._loaded = Made(functools.partial(keeping, cache_mb=self.cache_mb, cache_folder=self.cache_folder))
        self._loaded.of(self.reranker).check_min_score(self.min_score)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rerank documents.

        Raises:
            InputError: if the query cannot be used. A document without ``page_content`` and title is ranked last.
        """
        candidates = [candidate(d.id, d.page_content, d.metadata.get(self.title_field)) for d in documents]
        ranking = self._loaded.of(self.reranker).rank(
            query, candidates, self.top_n, min_score=self.min_score, evidence=asked_evidence(None, self.prune)
        )
        return [
            documents[item.index].model_copy(
                update={
                    "page_content": pruned(documents[item.index].page_content, item, self.prune),
                    "metadata": {**documents[item.index].metadata, "relevance_score": relevance_or_score(item)},
                }
            )
            for item in arrange(ranking, self.order)
        ]
