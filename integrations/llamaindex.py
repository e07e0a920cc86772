"""LlamaIndex: a retriever over an index, and a node postprocessor that reranks the nodes of any retriever.

Needs ``pip install 'sightline-search[llamaindex]'``, which is llama-index-core only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..extras import importing

with importing("llama_index.core", extra="llamaindex"):
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import (
        BaseNode,
        MetadataMode,
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )

from ..documents import Grain, Unit
from ..errors import InputError
from ..rerank.base import Reranker
from ..rerank.evidence import asked_evidence
from ..rerank.placement import Order, arrange
from ..rerank.results import Ranked, relevance_or_score
from ..search import Searcher, SearchResult
from .snippets import Made, Snippet, as_searcher, candidate, keeping, pruned, snippets

__all__ = ["SightlineRerank", "SightlineRetriever"]

_dispatcher = get_dispatcher(__name__)


class SightlineRetriever(BaseRetriever):
    """Searches an index; ``aretrieve`` leaves the event loop free.

    ``NodeWithScore.score`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.
    A node's source (``ref_doc_id``) is the document, also where the node is a passage of it.

    Args:
        searcher: a `sightline.Searcher`, or the path of an index.
        similarity_top_k: the largest number of nodes to return.
        where: a metadata filter; see `sightline.Searcher.search`.
        unit: ``passage`` returns the passages that scored best, ``document`` whole documents.
        evidence: whether to mark what got the attention, in ``metadata["evidence"]``, with offsets in the node's text.
            Embedding models and prompts do not see it.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the nodes: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the nodes to return, which may be none. Needs a reranker with a
            relevance, such as the default.
        callback_manager: the callback manager of LlamaIndex.

    Example:
        >>> retriever = SightlineRetriever("manuals.index", similarity_top_k=5, order="basin")  # doctest: +SKIP
        >>> retriever.retrieve("how do I reset it")  # doctest: +SKIP
    """

    def __init__(
        self,
        searcher: Searcher | str | Path,
        similarity_top_k: int = 5,
        *,
        where: Mapping[str, Any] | None = None,
        unit: Unit = "passage",
        evidence: Grain | None = None,
        prune: float | None = None,
        order: Order = "relevance",
        min_score: float | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self._searcher = as_searcher(searcher)
        self._unit, self._prune, self._order = unit, prune, order
        self._options: dict[str, Any] = {
            "k": similarity_top_k,
            "where": where,
            "evidence": asked_evidence(evidence, prune),
            "unit": unit,
            "min_score": min_score,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(self._searcher.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # The inherited method would call _retrieve on the event loop.
        return self._nodes(await self._searcher.asearch(query_bundle.query_str, **self._options))

    def _nodes(self, result: SearchResult) -> list[NodeWithScore]:
        return [_node(snippet) for snippet in snippets(result, self._unit, self._order, self._prune)]


def _node(snippet: Snippet) -> NodeWithScore:
    unread = [field for field in ("evidence", "document_id") if field in snippet.metadata]
    node = TextNode(
        id_=snippet.id,
        text=snippet.text,
        metadata=snippet.metadata,
        excluded_embed_metadata_keys=unread,
        excluded_llm_metadata_keys=unread,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=snippet.document_id)},
        start_char_idx=snippet.start,
        end_char_idx=snippet.end,
    )
    return NodeWithScore(node=node, score=snippet.score)


class SightlineRerank(BaseNodePostprocessor):
    """Reranks the nodes of any retriever, and returns copies.

    ``NodeWithScore.score`` has the relevance, from 0 to 1, or the score if the reranker has no relevance.
    It reads what LlamaIndex shows to embedding models: text, and metadata that is not excluded from it.
    ``apostprocess_nodes`` runs in a worker thread and leaves the event loop free.

    Args:
        reranker: the name of a reranker, as `sightline.load_reranker` takes it, or a `sightline.Reranker`.
        top_n: the number of nodes to return, at least 1. If None, or more than there are, all of them.
        prune: the share of the attention on each text, above 0 and at most 1, that the kept sentences hold; see
            `sightline.rerank.prune`. If None, texts are kept whole. Needs a reranker that marks evidence.
        order: the order of the nodes: ``relevance``, or ``basin`` for that of `sightline.rerank.arrange`.
        min_score: the lowest relevance, from 0 to 1, of the nodes to return, which may be none. Needs a reranker with a
            relevance, such as the default.
        cache_mb: megabytes of memory for what was read of documents, so that they are not read again; 0 for none. It
            applies to a reranker that is given by name, and all adapters of a process share it.
        cache_folder: a folder that also keeps what was read, for other processes and later runs, up to 4 GB.

    Example:
        >>> nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("Dogs bark.", "Cats purr.")]
        >>> [best] = SightlineRerank(top_n=1).postprocess_nodes(nodes, query_str="what sound do cats make")
        >>> best.text, best.score is not None, nodes[1].score
        ('Cats purr.', True, None)
    """

    reranker: Any = "minilm"
    top_n: int | None = 5
    prune: float | None = None
    order: Order = "relevance"
    min_score: float | None = None
    cache_mb: int = 256
    cache_folder: str | None = None
    _loaded: Made[Reranker] = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the reranker, if a name was given."""
        super().model_post_init(context)
        asked_evidence(None, self.prune)
        self._loaded = Made(functools.partial(keeping, cache_mb=self.cache_mb, cache_folder=self.cache_folder))
        self._loaded.of(self.reranker).check_min_score(self.min_score)

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex saves the class under."""
        return "SightlineRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("reranking needs the query: pass query_str or query_bundle")
        reranker = self._loaded.of(self.reranker)
        _dispatcher.event(
            ReRankStartEvent(
                query=query_bundle,
                nodes=nodes,
                top_n=len(nodes) if self.top_n is None else self.top_n,
                model_name=reranker.name,
            )
        )
        read = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranking = reranker.rank(
            query_bundle.query_str,
            [candidate(node.node_id, text) for node, text in zip(nodes, read, strict=True)],
            self.top_n,
            min_score=self.min_score,
            evidence=asked_evidence(None, self.prune),
        )
        ranked = [
            NodeWithScore(
                node=_copy(nodes[item.index].node, item, read[item.index], self.prune), score=relevance_or_score(item)
            )
            for item in arrange(ranking, self.order)
        ]
        _dispatcher.event(ReRankEndEvent(nodes=ranked))
        return ranked


def _copy(node: BaseNode, item: Ranked, read: str, share: float | None) -> BaseNode:
    """A copy of a node, pruned if there is a share to prune to; the model read its text amid metadata."""
    copied = node.model_copy(update={"metadata": dict(node.metadata)})
    if share is not None:
        text = node.get_content()
        start = read.rfind(text)
        if start < 0:
            raise InputError(
                f"node {node.node_id!r}: its text_template changes the text, so it cannot be pruned; leave prune out"
            )
        copied.set_content(pruned(text, item, share, start))
    return copied
