"""The pipeline: retrieve, fuse, rerank, explain."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .documents import Document, Passage, encodable
from .errors import InputError
from .rerank.reranker import DocumentStates, Evidence, Reranker, load_reranker
from .retrieval import fusion

if TYPE_CHECKING:
    from .retrieval.index import Index

__all__ = ["Explanation", "FirstStage", "Hit", "SearchResult", "Searcher"]

FirstStage = Literal["dense", "bm25", "hybrid"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One result.

    Args:
        rank: from 1.
        id: the document's.
        score: of the last stage; higher is better, comparable within this result only.
        document: the document, whole.
        passage: the part of it that scored best.
        first_rank: its document's rank in the first stage, from 1.
        first_score: its document's score in the first stage.
        mass: share of the query's attention that the passage got among all candidates; None without a reranker.
        evidence: spans with their mass, offsets in ``document.text`` (or the title); None unless asked for.
        token_mass: attention mass by query token; None without a reranker.
    """

    rank: int
    id: str
    score: float
    document: Document
    passage: Passage
    first_rank: int
    first_score: float
    mass: float | None = None
    evidence: tuple[Evidence, ...] | None = None
    token_mass: tuple[float, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the passage's text and place, the document's title and metadata, evidence where asked for."""
        found = {
            "rank": self.rank,
            "id": self.id,
            "score": self.score,
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
            found["evidence"] = [dataclasses.asdict(span) for span in self.evidence]
        return found


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Args:
        query: the query.
        hits: best first.
        candidates: how many passages the reranker read, or the first stage found.
        first_stage: its name.
        reranker: its layout's name, or None.
        query_tokens: the signal tokens, in the order of `Hit.token_mass`.
        truncated: candidates that the reranker did not read to their end.
        warnings: of the reranker.
        milliseconds: wall time by stage: ``retrieve``, ``fetch``, ``rerank``.
    """

    query: str
    hits: tuple[Hit, ...]
    candidates: int
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
        result: the search, with token-level evidence.
        dense: rank and score of each hit's document by meaning alone, by id; absent where not among the candidates.
        bm25: the same by words alone; empty if the index has no lexical part.
    """

    result: SearchResult
    dense: Mapping[str, tuple[int, float]]
    bm25: Mapping[str, tuple[int, float]]


@dataclass(slots=True)
class _Candidates:
    """Passage rows of a first stage, best first, their documents, and the time it took to find them."""

    rows: list[int]
    scores: list[float]
    ids: list[str]
    milliseconds: float


class Searcher:
    """Searches an index in two steps: candidates, then attention over all of them.

    Args:
        index: an `Index`, or the path of one.
        reranker: a name for `load_reranker`, a `Reranker`, or None for the order of the first stage.
        first_stage: ``dense`` (by meaning), ``bm25`` (by words) or ``hybrid`` (both, fused).
        candidates: how many documents the first stage hands on; each with all its passages that were found.
        fusion: for ``hybrid``: ``"rrf"``, or the weight of dense between 0 and 1 in a sum of min-max scores.
        kept_states: let the reranker use the token states that the index keeps, if they are its model's; False reads
            the texts anew.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> searcher = Searcher("wiki.index")  # doctest: +SKIP
        >>> for hit in searcher.search("who wrote the first compiler", k=3, evidence="sentence").hits:  # doctest: +SKIP
        ...     print(hit.rank, hit.id, hit.evidence[0].text)
    """

    def __init__(
        self,
        index: Index | str | Path,
        reranker: str | Reranker | None = "minilm",
        *,
        first_stage: FirstStage = "dense",
        candidates: int = 100,
        fusion: Literal["rrf"] | float = "rrf",
        kept_states: bool = True,
    ) -> None:
        from .retrieval.index import Index

        if first_stage not in ("dense", "bm25", "hybrid"):
            raise InputError(f"the first stage is 'dense', 'bm25' or 'hybrid', not {first_stage!r}")
        if candidates < 1:
            raise InputError(f"candidates must be at least 1, not {candidates}")
        if fusion != "rrf" and not (isinstance(fusion, int | float) and 0 <= fusion <= 1):
            raise InputError(f"fusion is 'rrf' or a weight between 0 and 1, not {fusion!r}")
        self.index = index if isinstance(index, Index) else Index.open(index)
        self.reranker = load_reranker(reranker) if isinstance(reranker, str) else reranker
        self.first_stage: FirstStage = first_stage
        self.candidates = candidates
        self._fusion = fusion
        kept, model = self.index.manifest.token_states, getattr(self.reranker, "model", None)
        self._kept_states = (
            kept_states
            and model is not None
            and (kept.get("revision"), kept.get("max_length"))
            == (getattr(model, "revision", None), getattr(model, "max_length", None))
        )

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        evidence: Literal["sentence", "token"] | None = None,
        level: Literal["document", "passage"] = "document",
    ) -> SearchResult:
        """Answer one query.

        Args:
            query: a text.
            k: how many hits at most.
            where: metadata filter, such as ``{"lang": "en", "year": {">=": 2000}}``.
            evidence: mark what got the attention in the hits, by sentence or by token; needs a reranker.
            level: ``document`` gives each document once, by its best passage; ``passage`` gives passages.

        Raises:
            InputError: if an argument is out of range, or the query has nothing to search with.
        """
        return self.search_batch([query], k, where=where, evidence=evidence, level=level)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        evidence: Literal["sentence", "token"] | None = None,
        level: Literal["document", "passage"] = "document",
    ) -> list[SearchResult]:
        """Answer several queries; the bi-encoder reads them together, everything else is per query. See `search`."""
        if isinstance(queries, str):
            raise InputError("search_batch takes a list of queries; for one, use search")
        for query in queries:
            if not isinstance(query, str) or not query.strip() or not encodable(query):
                raise InputError(f"a query must be a text with something in it and no lone surrogate, not {query!r}")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        if level not in ("document", "passage"):
            raise InputError(f"level is 'document' or 'passage', not {level!r}")
        if evidence is not None and self.reranker is None:
            raise InputError("evidence needs a reranker: it is the reranker's attention")
        if not queries:
            return []
        found = self._first_stage(queries, self.first_stage, where)
        return [self._finish(query, one, k, evidence, level) for query, one in zip(queries, found, strict=True)]

    async def asearch(self, query: str, k: int = 10, **options: Any) -> SearchResult:
        """`search` in a worker thread, so that the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.search, query, k, **options)

    async def asearch_batch(self, queries: Sequence[str], k: int = 10, **options: Any) -> list[SearchResult]:
        """`search_batch` in a worker thread, so that the event loop goes on meanwhile."""
        return await asyncio.to_thread(self.search_batch, queries, k, **options)

    def explain(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        level: Literal["document", "passage"] = "document",
    ) -> Explanation:
        """Search, and tell where each stage put the hits and which query token attended to them.

        See `search` for the arguments.
        """
        result = self.search(query, k, where=where, evidence="token" if self.reranker else None, level=level)
        wanted = {hit.id for hit in result.hits}

        def places(stage: FirstStage) -> dict[str, tuple[int, float]]:
            found = self._first_stage([query], stage, where)[0]
            first = _by_document(found)
            return {id: (rank, first[id]) for rank, id in enumerate(first, start=1) if id in wanted}

        has_words = self.index.manifest.lexical["engine"] != "none"
        return Explanation(result, places("dense"), places("bm25") if has_words else {})

    # -- stages ------------------------------------------------------------------------------------------------------

    def _first_stage(
        self, queries: Sequence[str], stage: FirstStage, where: Mapping[str, Any] | None
    ) -> list[_Candidates]:
        started = time.perf_counter()
        if stage == "bm25":
            found = [self._enough(lambda k, q=query: self._words(q, k, where)) for query in queries]
        elif stage == "dense":
            found = self._meaning(queries, where)
        else:
            pairs = zip(
                self._first_stage(queries, "dense", where), self._first_stage(queries, "bm25", where), strict=True
            )
            found = [self._fuse(dense, words) for dense, words in pairs]
        each = (time.perf_counter() - started) * 1e3 / len(queries)
        for one in found:
            one.milliseconds = each
        return found

    def _words(self, query: str, k: int, where: Mapping[str, Any] | None) -> tuple[list[int], list[float]]:
        rows, scores = self.index.search_lexical(query, k, where)
        return rows.tolist(), scores.tolist()

    def _meaning(self, queries: Sequence[str], where: Mapping[str, Any] | None) -> list[_Candidates]:
        rows, scores = self.index.search_dense(queries, self.candidates, where)
        first = {query: (r.tolist(), s.tolist()) for query, r, s in zip(queries, rows, scores, strict=True)}

        def more(query: str, k: int) -> tuple[list[int], list[float]]:
            if k == self.candidates:
                return first[query]
            wider, values = self.index.search_dense([query], k, where)
            return wider[0].tolist(), values[0].tolist()

        return [self._enough(lambda k, q=query: more(q, k)) for query in queries]

    def _enough(self, find: Any) -> _Candidates:
        """Widen a passage search until it holds enough documents, then cut it there."""
        k = self.candidates
        while True:
            rows, scores = find(k)
            ids = self.index.document_ids(rows)
            exhausted = len(rows) < k or rows[-1] < 0
            if exhausted or len(set(ids.values())) >= self.candidates:
                break
            k *= 2
        out = _Candidates([], [], [], 0.0)
        seen: set[str] = set()
        for row, score in zip(rows, scores, strict=True):
            if row not in ids:
                continue
            if ids[row] not in seen and len(seen) == self.candidates:
                break
            seen.add(ids[row])
            out.rows.append(row)
            out.scores.append(score)
            out.ids.append(ids[row])
        return out

    def _fuse(self, dense: _Candidates, words: _Candidates) -> _Candidates:
        """Fuse the document rankings; a document brings the passages that either stage found."""
        runs = [_by_document(dense), _by_document(words)]
        fused = (
            fusion.reciprocal_rank(runs)
            if self._fusion == "rrf"
            else fusion.weighted_sum(runs, [float(self._fusion), 1 - float(self._fusion)])
        )
        passages: dict[str, dict[int, None]] = {}
        for stage in (dense, words):
            for row, id in zip(stage.rows, stage.ids, strict=True):
                passages.setdefault(id, {})[row] = None
        out = _Candidates([], [], [], 0.0)
        for id in list(fused)[: self.candidates]:
            for row in passages[id]:
                out.rows.append(row)
                out.scores.append(fused[id])
                out.ids.append(id)
        return out

    def _finish(
        self,
        query: str,
        found: _Candidates,
        k: int,
        evidence: Literal["sentence", "token"] | None,
        level: Literal["document", "passage"],
    ) -> SearchResult:
        times = {"retrieve": found.milliseconds}
        first = _by_document(found)
        places = {id: rank for rank, id in enumerate(first, start=1)}
        if self.reranker is None:
            return self._unranked(query, found, first, places, k, level, times)
        started = time.perf_counter()
        stored = self.index.passages(found.rows)
        keys = self.index.token_keys([p.row for p in stored]) if self._kept_states else None
        times["fetch"] = (time.perf_counter() - started) * 1e3
        started = time.perf_counter()
        blocks = [Document(p.passage.document.id, p.passage.text, p.passage.document.title) for p in stored]
        states = None if keys is None else [DocumentStates(x, p.truncated) for x, p in zip(keys, stored, strict=True)]
        ranking = self.reranker.rank(
            query, blocks, k, evidence=evidence, states=states, best_per_id=level == "document"
        )
        hits = []
        for rank, item in enumerate(ranking, start=1):
            passage = stored[item.index].passage
            marks = None if item.evidence is None else tuple(_shifted(e, passage.start) for e in item.evidence)
            id = item.document.id
            hits.append(
                Hit(
                    rank,
                    id,
                    item.score,
                    passage.document,
                    passage,
                    places[id],
                    first[id],
                    item.mass,
                    marks,
                    item.token_mass,
                )
            )
        times["rerank"] = (time.perf_counter() - started) * 1e3
        return SearchResult(
            query,
            tuple(hits),
            len(blocks),
            self.first_stage,
            self.reranker.name,
            ranking.query_tokens,
            ranking.truncated,
            ranking.warnings,
            times,
        )

    def _unranked(
        self,
        query: str,
        found: _Candidates,
        first: Mapping[str, float],
        places: Mapping[str, int],
        k: int,
        level: Literal["document", "passage"],
        times: dict[str, float],
    ) -> SearchResult:
        """The order of the first stage; only what is shown is fetched."""
        started = time.perf_counter()
        shown: list[int] = []
        seen: set[str] = set()
        for row, id in zip(found.rows, found.ids, strict=True):
            if level == "passage" or id not in seen:
                shown.append(row)
            seen.add(id)
        score = dict(zip(found.rows, found.scores, strict=True))
        stored = self.index.passages(shown[:k])
        hits = tuple(
            Hit(rank, id, score[p.row], p.passage.document, p.passage, places[id], first[id])
            for rank, p in enumerate(stored, start=1)
            for id in [p.passage.document.id]
        )
        times["fetch"] = (time.perf_counter() - started) * 1e3
        return SearchResult(query, hits, len(found.rows), self.first_stage, None, (), 0, (), times)


def _by_document(found: _Candidates) -> dict[str, float]:
    """Each document's best score, best document first."""
    best: dict[str, float] = {}
    for id, score in zip(found.ids, found.scores, strict=True):
        best.setdefault(id, score)
    return best


def _shifted(evidence: Evidence, start: int) -> Evidence:
    """Evidence of a passage as evidence of its document."""
    if evidence.field == "title":
        return evidence
    return dataclasses.replace(evidence, start=evidence.start + start, end=evidence.end + start)
