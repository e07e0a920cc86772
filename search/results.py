"""What a search returns."""

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
    """One result.

    Args:
        rank: the place in the result, from 1.
        id: id of the document.
        score: score of the last stage; higher is better. `sightline.rerank.Ranked` says which can be compared between
            results.
        document: the document, whole.
        passage: the part of it that scored best.
        first_rank: rank of the document in the first stage, from 1.
        first_score: score of the document in the first stage.
        relevance: P(relevant), from 0 to 1, calibrated; None without a reranker, or if it has no calibration.
        mass: share of the query's attention that the passage got among all candidates; None without a reranker.
        evidence: spans with their mass, offsets in ``document.text`` (or the title); None unless you asked for them.
        token_mass: attention mass by query token; None without a reranker.
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
        """The sentences of the passage that hold this share of the attention on it; see `sightline.rerank.prune`.

        Raises:
            InputError: if you searched without ``evidence``, or the share is not above 0 and at most 1.
        """
        return prune(self.passage.text, self.evidence, share, start=self.passage.start).text

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the passage's text and place, the document's title and metadata, and any evidence."""
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
        query: the query.
        hits: best first.
        passages: how many passages the reranker read, or the first stage found.
        first_stage: name of the first stage.
        reranker: name of the reranker, or None.
        query_tokens: the signal tokens, in the order of `Hit.token_mass`.
        truncated: how many candidates the reranker did not read to their end.
        warnings: what the reranker warns of.
        milliseconds: wall time by stage: ``retrieve``, ``fetch`` and, with a reranker, ``rerank``.
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
        """For JSON; hits as `Hit.as_dict`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {"hits": [hit.as_dict() for hit in self.hits]}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the hits of a query stand where they stand.

    Args:
        result: the search, with token-unit evidence.
        dense: rank and score of each hit's document by meaning alone, by id. A document that is not among the
            candidates is absent; the mapping is empty if the index has no embeddings.
        bm25: the same by words alone; empty if the index has no BM25.
        sparse: the same by learned sparse vectors alone; empty if the index has none.
        multivector: the same by token states alone; empty if the first stage does not search them.
    """

    result: SearchResult
    dense: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    bm25: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    sparse: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    multivector: Mapping[str, tuple[int, float]] = field(default_factory=dict)
