"""MTEB 2: the pipeline as a search model, for retrieval and for reranking tasks.

Needs ``pip install 'sightline-search[mteb]'``. MTEB feeds rerankers pair by pair; this implements its
``SearchProtocol`` instead, so that a candidate list is read whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..extras import importing

with importing("mteb", extra="mteb"):
    from mteb.models.model_meta import ModelMeta

from .. import __version__
from ..errors import InputError
from ..eval.catalogues import mteb_queries, plain_documents
from ..eval.dataset import Dataset
from ..eval.reranking import rerank_run
from ..eval.trec import untie
from ..names import LexicalName
from ..rerank.base import Reranker
from ..rerank.loading import as_reranker
from ..retrieval.index import Index
from ..search import FirstStage, Searcher

__all__ = ["SightlineSearch"]


class SightlineSearch:
    """A model for ``mteb.evaluate`` that implements its ``SearchProtocol``.

    A retrieval task's corpus is indexed in a temporary folder and searched. A reranking task's lists go to the reranker
    whole; a long document gets the score of its best passage. Tied scores are lowered by a rounding, so that MTEB
    measures the order that was found.

    Args:
        reranker: the name of a reranker, as `sightline.load_reranker` takes it, a `sightline.Reranker`, or None for
            first stages alone.
        first_stage: the first stage for retrieval tasks; see `sightline.Searcher`. By default hybrid, unless
            ``settings`` leave out embeddings or words.
        candidates: the number of documents that are reranked. Retrieval tasks get no more than these, and without a
            reranker as many as they ask for.
        settings: the settings of the index, for `Index.create`, such as ``{"encoder": "intfloat/e5-small-v2"}``.

    Example:
        >>> import mteb  # doctest: +SKIP
        >>> mteb.evaluate(SightlineSearch(), mteb.get_task("NanoSciFactRetrieval"))  # doctest: +SKIP
    """

    def __init__(
        self,
        reranker: str | Reranker | None = "minilm",
        *,
        first_stage: FirstStage | None = None,
        candidates: int = 100,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.reranker = None if reranker is None else as_reranker(reranker)
        self.candidates, self.settings = candidates, dict(settings or {})
        self.first_stage: FirstStage = first_stage or _first_stage(self.settings)
        self._corpus: Any = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The model's name, such as ``sightline/hybrid+minilm``, with Sightline's version as its revision."""
        name = f"{self.first_stage}+{self.reranker.name}" if self.reranker is not None else self.first_stage
        return ModelMeta.create_empty({"name": f"sightline/{name}", "revision": __version__})

    def index(self, corpus: Any, **options: Any) -> None:
        """Keep a task's corpus. `search` reads it, when it is known whether there are lists to rerank.

        Args:
            corpus: rows with ``id``, ``text`` and maybe ``title``.
            options: further arguments of MTEB, which have no effect.
        """
        self._corpus = corpus

    def search(
        self, queries: Any, *, top_k: int, top_ranked: Mapping[str, list[str]] | None = None, **options: Any
    ) -> dict[str, dict[str, float]]:
        """Search the corpus, or rerank lists of it.

        Args:
            queries: rows with ``id``, ``text`` and maybe ``instruction``.
            top_k: the number of documents for each query.
            top_ranked: the list of document ids by query id. If None, the corpus is searched.
            options: further arguments of MTEB, which have no effect.

        Returns:
            The scores by document id for each query id. A query without a list has none.

        Raises:
            InputError: if there is no corpus yet, a query or a document is not a text, or there are lists but no
                reranker.
            DataError: if a list has a document that is not in the corpus.
        """
        if self._corpus is None:
            raise InputError("there is no corpus yet; call index first")
        corpus, self._corpus = self._corpus, None
        texts = mteb_queries(queries)
        dataset = Dataset("mteb", "", Path("mteb"), texts, {}, lambda: plain_documents(corpus))
        if top_ranked is None:
            scores = self._search(dataset, top_k)
        elif self.reranker is None:
            raise InputError("a reranking task needs a reranker")
        else:
            lists = {
                id: {document: -float(rank) for rank, document in enumerate(top_ranked[id])}
                for id in texts
                if top_ranked.get(id)
            }
            candidates = max(map(len, lists.values()), default=1)
            scores = rerank_run(dataset, lists, self.reranker, candidates) if lists else {}
        return {id: dict(list(untie(scores.get(id, {})).items())[:top_k]) for id in texts}

    def _search(self, dataset: Dataset, top_k: int) -> dict[str, dict[str, float]]:
        settings = {"token_states": "none" if self.reranker is None else "fp16"} | self.settings
        candidates = top_k if self.reranker is None else self.candidates
        with (
            tempfile.TemporaryDirectory(prefix="sightline-") as folder,
            Index.build(Path(folder) / "index", dataset.documents(), **settings) as index,
        ):
            searcher = Searcher(index, self.reranker, first_stage=self.first_stage, candidates=candidates)
            results = searcher.search_batch(list(dataset.queries.values()), top_k)
        return {
            id: {hit.id: hit.score for hit in result.hits} for id, result in zip(dataset.queries, results, strict=True)
        }


def _first_stage(settings: Mapping[str, Any]) -> FirstStage:
    """The default first stage of an index with these settings."""
    words = LexicalName.parse(settings.get("lexical", "fts5")).stage
    if settings.get("encoder") == "none":
        return words or "hybrid"
    return "dense" if words is None else "hybrid"
