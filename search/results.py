"""The results of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..documents import Document, Passage
from ..rerank.evidence import Evidence, prune

__all__ = ["Explanation", "Hit", "SearchResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result of a search.

    Args:
        rank: the place in the result, counted from 1.
        id: the id of the document.
        score: the score of the last stage; higher is better. `sightline.rerank.Ranked` says which scores can be
            compared between results.
        document: the document, whole.
        passage: the passage of the document that scored best.
        first_rank: the rank of the document in the first stage, counted from 1.
        first_score: the score of the document in the first stage.
        relevance: the calibrated probability that the document is relevant, from 0 to 1; None without a reranker, or if
            the reranker has no calibration.
        mass: the share of the query's attention that the passage got among all candidates; None without a reranker.
        evidence: the spans that got attention, with their mass. Offsets count in ``document.text`` or in the title.
            None unless you asked for evidence.
        token_mass: the attention mass that each token of the query pays; None without a reranker.
    """

    rank: int
    id: str
    score: float
    document: Document
    passage: Passage
    first_rank: int
    first_score: float
    relevance: float | None = None
    mass: float | None = None
    evidence: tuple[Evidence, ...] | None = None
    token_mass: tuple[float, ...] | None = None

    def pruned_text(self, share: float = 0.8) -> str:
        """Return the sentences of the passage that hold a share of the attention on it; see `sightline.rerank.prune`.

        Raises:
            InputError: if you searched without ``evidence``, or the share is not above 0 and at most 1.
        """
        return prune(self.passage.text, self.evidence, share, start=self.passage.start).text

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-like values: the passage's text and place, the document's title and metadata, any evidence."""
        fields = {
            "rank": self.rank,
            "id": self.id,
            "score": self.score,
            "relevance": self.relevance,
            "title": self.document.title,
            "text": self.passage.text,
            "start": self.passage.start,
            "end": self.passage.end,
            "metadata": dict(self.document.metadata),
            "first_rank": self.first_rank,
            "first_score": self.first_score,
            "mass": self.mass,
            "token_mass": self.token_mass,
        }
        if self.evidence is not None:
            fields["evidence"] = [dataclasses.asdict(span) for span in self.evidence]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The answer to one query.

    Args:
        query: the text of the query.
        hits: the hits, best first.
        passages: the number of passages that the reranker read, or that the first stage found if there is no reranker.
        first_stage: the name of the first stage.
        reranker: the name of the reranker, or None.
        query_tokens: the tokens of the query whose attention counts, in the order of `Hit.token_mass`.
        truncated: the number of candidates that the reranker did not read to their end.
        warnings: the warnings of the reranker.
        milliseconds: the wall time of each step: ``retrieve``, ``fetch`` and, with a reranker, ``rerank``.
    """

    query: str
    hits: tuple[Hit, ...]
    passages: int
    first_stage: str
    reranker: str | None
    query_tokens: tuple[str, ...]
    truncated: int
    warnings: tuple[str, ...]
    milliseconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON-like values; hits as `Hit.as_dict` returns them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"hits": [hit.as_dict() for hit in self.hits]}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where each stage of a search put its hits.

    Args:
        result: the result of the search, with evidence by token.
        dense: the rank and score by embeddings alone of each hit's document, by id. Documents that are not among the
            candidates are absent. Empty if the index has no embeddings.
        bm25: the rank and score by words alone, in the same form. Empty if the index has no BM25.
        sparse: the rank and score by learned sparse vectors alone, in the same form. Empty if the index has none.
        multivector: the rank and score by token states alone, in the same form. Empty if the first stage does not
            search them.
    """

    result: SearchResult
    dense: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    bm25: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    sparse: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    multivector: Mapping[str, tuple[int, float]] = field(default_factory=dict)
