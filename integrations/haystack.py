"""Haystack 3: a retriever over an index, and a ranker for the documents of any retriever.

Needs ``pip install 'sightline-search[haystack]'``. Haystack loads a saved pipeline with these
components in it only if you tell it to trust them: ``Pipeline.loads(text, allowed_modules=["sightline"])``.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from ..extras import importing

with importing("haystack", extra="haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict

from ..documents import Grain, Unit
from ..errors import InputError
from ..rerank.base import Reranker
from ..rerank.evidence import asked_evidence
from ..rerank.placement import Order, arrange
from ..rerank.results import relevance_or_score
from ..search import FirstStage, Searcher, SearchResult
from .snippets import candidate, is_missing, keeping, pruned, snippets

__all__ = ["SightlineRanker", "SightlineRetriever"]


@component
class SightlineRetriever:
    """Searches an index; ``run_async`` leaves the event loop free.

    ``Document.score`` has the relevance, from 0 to 1, or the score if the reranker has no relevance. If a document is
    only a passage, ``meta["document_id"]`` has the id of the whole document.

    Args:
        index: the path of an index, which is opened by ``warm_up`` or by the first run.
        top_k: the largest number of documents to return.
        filters: a filter in Haystack's form: a comparison with ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` or
            ``not in``, or one ``AND`` of such. A document without the field meets none of them.
        reranker: the name of a reranker; see `sightline.Searcher`. It is saved with a pipeline, as are all that follow.
        first_stage: the name of the first stage; see `sightline.Searcher`. By default hybrid if the index has
            embeddings and words.
        candidates: the number of candidates; see `sightline.Searcher`.
        unit: ``passage`` returns the passages that scored best, ``document`` whole documents.
        evidence: whether to mark what got the attention, in ``meta["evidence"]``, with offsets in ``content``.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the documents: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the documents to return, which may be none. Needs a reranker
            with a relevance, such as the default.

    Example:
        >>> retriever = SightlineRetriever("manuals.index", top_k=5, order="basin")  # doctest: +SKIP
        >>> retriever.run("how do I reset it")["documents"]  # doctest: +SKIP
    """

    def __init__(
        self,
        index: str | Path,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        *,
        reranker: str | None = "minilm",
        first_stage: FirstStage | None = None,
        candidates: int = 100,
        unit: Unit = "passage",
        evidence: Grain | None = None,
        prune: float | None = None,
        order: Order = "relevance",
        min_score: float | None = None,
    ) -> None:
        asked_evidence(evidence, prune)
        self.index, self.top_k, self.filters = str(index), top_k, filters
        self.reranker, self.first_stage, self.candidates = reranker, first_stage, candidates
        self.unit, self.evidence, self.prune, self.order, self.min_score = unit, evidence, prune, order, min_score
        self._searcher: Searcher | None = None

    def warm_up(self) -> None:
        """Open the index and load the models."""
        self._opened()

    async def warm_up_async(self) -> None:
        """Run `warm_up` in a worker thread. Without this method, Haystack would run it on the event loop."""
        await asyncio.to_thread(self.warm_up)

    def _opened(self) -> Searcher:
        if self._searcher is None:
            self._searcher = Searcher(
                self.index, self.reranker, first_stage=self.first_stage, candidates=self.candidates
            )
        return self._searcher

    def close(self) -> None:
        """Close the index."""
        if self._searcher is not None:
            self._searcher.index.close()
            self._searcher = None

    def to_dict(self) -> dict[str, Any]:
        """Return the component's settings, for a saved pipeline."""
        return default_to_dict(
            self,
            index=self.index,
            top_k=self.top_k,
            filters=self.filters,
            reranker=self.reranker,
            first_stage=self.first_stage,
            candidates=self.candidates,
            unit=self.unit,
            evidence=self.evidence,
            prune=self.prune,
            order=self.order,
            min_score=self.min_score,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SightlineRetriever:
        """Make the component of a saved pipeline from its settings."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> dict[str, list[Document]]:
        """Search the index.

        Args:
            query: the text of the query.
            filters: a filter to use in the place of the constructor's.
            top_k: the number of documents to return, in the place of the constructor's.
            min_score: the lowest relevance, in the place of the constructor's.

        Raises:
            InputError: if an argument is out of range, or a filter has a form that cannot be used.
        """
        options = self._options(filters, top_k, min_score)
        return self._documents(self._opened().search(query, **options))

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        min_score: float | None = None,
    ) -> dict[str, list[Document]]:
        """Run `run` in a worker thread, which leaves the event loop free."""
        return await asyncio.to_thread(self.run, query, filters, top_k, min_score)

    def _options(self, filters: dict[str, Any] | None, top_k: int | None, min_score: float | None) -> dict[str, Any]:
        return {
            "k": self.top_k if top_k is None else top_k,
            "where": _where(self.filters if filters is None else filters),
            "evidence": asked_evidence(self.evidence, self.prune),
            "unit": self.unit,
            "min_score": self.min_score if min_score is None else min_score,
        }

    def _documents(self, result: SearchResult) -> dict[str, list[Document]]:
        return {
            "documents": [
                Document(id=snippet.id, content=snippet.text, meta=snippet.metadata, score=snippet.score)
                for snippet in snippets(result, self.unit, self.order, self.prune)
            ]
        }


@component
class SightlineRanker:
    """Reranks documents, and returns copies.

    ``Document.score`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.

    Args:
        reranker: the name of a reranker, as `sightline.load_reranker` takes it, which is loaded by ``warm_up`` or by
            the first run.
        top_k: the number of documents to return, at least 1. If None, or more than there are, all of them.
        meta_fields_to_embed: the metadata fields that are read before the content, if a document has them. If None, the
            title.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the documents: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the documents to return, which may be none. Needs a reranker
            with a relevance, such as the default.
        cache_mb: megabytes of memory for what was read of documents, so that they are not read again; 0 for none. All
            adapters of a process share it.
        cache_folder: a folder that also keeps what was read, for other processes and later runs, up to 4 GB.

    Example:
        >>> documents = [Document(content="Dogs bark."), Document(content="Cats purr.")]
        >>> [best] = SightlineRanker(top_k=1).run("what sound do cats make", documents)["documents"]
        >>> best.content, best.score is not None, documents[1].score
        ('Cats purr.', True, None)
    """

    def __init__(
        self,
        reranker: str = "minilm",
        top_k: int | None = 10,
        *,
        meta_fields_to_embed: list[str] | None = None,
        prune: float | None = None,
        order: Order = "relevance",
        min_score: float | None = None,
        cache_mb: int = 256,
        cache_folder: str | Path | None = None,
    ) -> None:
        asked_evidence(None, prune)
        self.cache_mb, self.cache_folder = cache_mb, None if cache_folder is None else str(cache_folder)
        self.reranker, self.top_k, self.meta_fields_to_embed = reranker, top_k, meta_fields_to_embed
        self.prune, self.order, self.min_score = prune, order, min_score
        self._loaded: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._reranker()

    async def warm_up_async(self) -> None:
        """Run `warm_up` in a worker thread. Without this method, Haystack would run it on the event loop."""
        await asyncio.to_thread(self.warm_up)

    def _reranker(self) -> Reranker:
        if self._loaded is None:
            self._loaded = keeping(self.reranker, self.cache_mb, self.cache_folder)
        return self._loaded

    def to_dict(self) -> dict[str, Any]:
        """Return the component's settings, for a saved pipeline."""
        return default_to_dict(
            self,
            reranker=self.reranker,
            top_k=self.top_k,
            meta_fields_to_embed=self.meta_fields_to_embed,
            prune=self.prune,
            order=self.order,
            min_score=self.min_score,
            cache_mb=self.cache_mb,
            cache_folder=self.cache_folder,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SightlineRanker:
        """Make the component of a saved pipeline from its settings."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None, min_score: float | None = None
    ) -> dict[str, list[Document]]:
        """Rerank documents.

        Args:
            query: the text of the query.
            documents: the documents to rerank, which are not changed.
            top_k: the number of documents to return, in the place of the constructor's.
            min_score: the lowest relevance, in the place of the constructor's.

        Raises:
            InputError: if the query or ``min_score`` cannot be used. A document without content and title is ranked
                last.
        """
        fields = ["title"] if self.meta_fields_to_embed is None else self.meta_fields_to_embed
        known = [[str(d.meta[field]) for field in fields if not is_missing(d.meta.get(field))] for d in documents]
        candidates = [candidate(d.id, d.content, " ".join(meta)) for d, meta in zip(documents, known, strict=True)]
        ranking = self._reranker().rank(
            query,
            candidates,
            self.top_k if top_k is None else top_k,
            min_score=self.min_score if min_score is None else min_score,
            evidence=asked_evidence(None, self.prune),
        )
        return {
            "documents": [
                dataclasses.replace(
                    documents[item.index],
                    content=pruned(documents[item.index].content, item, self.prune),
                    meta=dict(documents[item.index].meta),
                    score=relevance_or_score(item),
                )
                for item in arrange(ranking, self.order)
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None, min_score: float | None = None
    ) -> dict[str, list[Document]]:
        """Run `run` in a worker thread, which leaves the event loop free."""
        return await asyncio.to_thread(self.run, query, documents, top_k, min_score)


_OPERATORS = {"==": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "in": "in", "not in": "not in"}


def _where(filters: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    """Turn filters in Haystack's form into those of `sightline.Searcher.search`."""
    if not filters:
        return None
    match filters:
        case {"operator": "AND", "conditions": [*comparisons]}:
            pass
        case _:
            comparisons = [filters]
    where: dict[str, dict[str, Any]] = {}
    for comparison in comparisons:
        match comparison:
            case {"field": str(field), "operator": str(operator), "value": value} if operator in _OPERATORS:
                tests = where.setdefault(field.removeprefix("meta."), {})
            case _:
                raise InputError(
                    f"filter {comparison!r} cannot be used; give comparisons with {' '.join(_OPERATORS)}, "
                    "or one AND of them"
                )
        if _OPERATORS[operator] in tests:
            raise InputError(f"the filters have {field!r} with {operator} twice; one would be lost")
        tests[_OPERATORS[operator]] = value
    return where
