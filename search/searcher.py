"""The pipeline: retrieve, fuse, rerank, explain."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..documents import Document, Passage, encodable
from ..errors import InputError
from ..models.reader import DocumentStates
from ..rerank.base import Reranker
from ..rerank.loading import as_reranker
from ..rerank.results import Evidence
from ..retrieval import fusion
from ..wording import quoted

if TYPE_CHECKING:
    from ..kernels import Keys
    from ..retrieval.index import Index
    from ..retrieval.store import StoredPassage

__all__ = ["Explanation", "FirstStage", "Hit", "SearchResult", "Searcher"]

FirstStage = Literal["dense", "bm25", "hybrid"]
_FIRST_STAGES = ("dense", "bm25", "hybrid")


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


@dataclass(slots=True)
class _Fetched:
    """Passages by row, with their kept token states if those were asked for, and the time that either took."""

    passages: dict[int, StoredPassage]
    keys: dict[int, Keys] | None
    passages_ms: float
    keys_ms: float


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
        from ..retrieval.index import Index

        if first_stage not in _FIRST_STAGES:
            raise InputError(f"the first stage is 'dense', 'bm25' or 'hybrid', not {first_stage!r}")
        _check_count("candidates", candidates)
        if fusion != "rrf" and not (isinstance(fusion, int | float) and 0 <= fusion <= 1):
            raise InputError(f"fusion is 'rrf' or a weight between 0 and 1, not {fusion!r}")
        self.reranker = None if reranker is None else as_reranker(reranker)
        self.index = index if isinstance(index, Index) else Index.open(index)
        self._asked = reranker
        self.first_stage: FirstStage = first_stage
        self.candidates = candidates
        self._fusion = fusion
        self._kept_states = kept_states

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the index's path, and the reranker's name or the reranker as it was given."""
        make = functools.partial(
            Searcher,
            first_stage=self.first_stage,
            candidates=self.candidates,
            fusion=self._fusion,
            kept_states=self._kept_states,
        )
        return make, (self.index, self._asked)

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
        _check(queries, k)
        if level not in ("document", "passage"):
            raise InputError(f"level is 'document' or 'passage', not {level!r}")
        if evidence is not None and self.reranker is None:
            raise InputError("evidence needs a reranker: it is the reranker's attention")
        if not queries:
            return []
        return self.index.read(lambda: self._search(queries, k, where, evidence, level))

    def _search(
        self,
        queries: Sequence[str],
        k: int,
        where: Mapping[str, Any] | None,
        evidence: Literal["sentence", "token"] | None,
        level: Literal["document", "passage"],
    ) -> list[SearchResult]:
        found = self._first_stages(queries, {self.first_stage}, where)[self.first_stage]
        return [
            self._finish(query, one, k, evidence, level, stage=self.first_stage, reranker=self.reranker)
            for query, one in zip(queries, found, strict=True)
        ]

    def search_each(
        self, queries: Sequence[str], systems: Sequence[tuple[FirstStage, Reranker | None]], k: int = 10
    ) -> list[list[SearchResult]]:
        """Answer several queries by several pipelines: each first stage is run, and each candidate fetched, once.

        For comparisons. Every result equals that of a `Searcher` with this first stage and reranker; of the time to
        fetch, which is shared, each is charged its candidates' part.

        Args:
            queries: Q texts.
            systems: S pairs of a first stage and a reranker, or None for the first stage's own order.
            k: how many documents at most.

        Returns:
            For each query, S results.

        Raises:
            InputError: as `search`.
        """
        _check(queries, k)
        if unknown := [stage for stage, _ in systems if stage not in _FIRST_STAGES]:
            raise InputError(f"the first stage is 'dense', 'bm25' or 'hybrid', not {unknown[0]!r}")
        return self.index.read(lambda: self._search_each(queries, systems, k))

    def _search_each(
        self, queries: Sequence[str], systems: Sequence[tuple[FirstStage, Reranker | None]], k: int
    ) -> list[list[SearchResult]]:
        stages = self._first_stages(queries, {stage for stage, _ in systems}, None) if queries and systems else {}
        rerankers = [reranker for _, reranker in systems if reranker is not None]
        keys = any(self._keeps(reranker) for reranker in rerankers)
        out = []
        for i, query in enumerate(queries):
            rows = dict.fromkeys(row for found in stages.values() for row in found[i].rows)
            fetched = self._fetch(list(rows), keys) if rerankers else None
            out.append(
                [
                    self._finish(query, stages[stage][i], k, stage=stage, reranker=reranker, fetched=fetched)
                    for stage, reranker in systems
                ]
            )
        return out

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
        return self.index.read(lambda: self._explain(query, k, where, level))

    def _explain(
        self, query: str, k: int, where: Mapping[str, Any] | None, level: Literal["document", "passage"]
    ) -> Explanation:
        result = self.search(query, k, where=where, evidence="token" if self.reranker else None, level=level)
        wanted = {hit.id for hit in result.hits}

        def places(stage: FirstStage) -> dict[str, tuple[int, float]]:
            found = self._first_stages([query], {stage}, where)[stage][0]
            first = _by_document(found)
            return {id: (rank, first[id]) for rank, id in enumerate(first, start=1) if id in wanted}

        has_words = self.index.manifest.lexical.engine != "none"
        return Explanation(result, places("dense"), places("bm25") if has_words else {})

    # -- stages ------------------------------------------------------------------------------------------------------

    def _first_stages(
        self, queries: Sequence[str], stages: Collection[FirstStage], where: Mapping[str, Any] | None
    ) -> dict[FirstStage, list[_Candidates]]:
        """Candidates of every query by first stage; hybrid is made of the other two, which run once."""
        found: dict[FirstStage, list[_Candidates]] = {}
        hybrid = "hybrid" in stages
        if hybrid or "dense" in stages:
            found["dense"] = _timed(len(queries), lambda: self._meaning(queries, where))
        if hybrid or "bm25" in stages:
            found["bm25"] = _timed(
                len(queries), lambda: [self._enough(lambda k, q=query: self._words(q, k, where)) for query in queries]
            )
        if hybrid:
            pairs = list(zip(found["dense"], found["bm25"], strict=True))
            found["hybrid"] = _timed(len(queries), lambda: [self._fuse(dense, words) for dense, words in pairs])
            for one, (dense, words) in zip(found["hybrid"], pairs, strict=True):
                one.milliseconds += dense.milliseconds + words.milliseconds
        return found

    def _words(self, query: str, k: int, where: Mapping[str, Any] | None) -> tuple[list[int], list[float]]:
        rows, scores = self.index.search_lexical(query, k, where)
        return rows.tolist(), scores.tolist()

    def _meaning(self, queries: Sequence[str], where: Mapping[str, Any] | None) -> list[_Candidates]:
        width = self.candidates
        rows, scores = self.index.search_dense(queries, width, where)
        first = {query: (r.tolist(), s.tolist()) for query, r, s in zip(queries, rows, scores, strict=True)}

        def more(query: str, k: int) -> tuple[list[int], list[float]]:
            if k == width:
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

    @property
    def uses_kept_states(self) -> bool:
        """Whether the reranker is served from the token states that the index keeps; False: it reads the texts."""
        return self._keeps(self.reranker)

    def _keeps(self, reranker: Reranker | None) -> bool:
        """Whether the index keeps token states of the model that this reranker reads with, and they may be used."""
        kept, reader = self.index.manifest.token_states, reranker.reader if reranker is not None else None
        return (
            self._kept_states
            and reader is not None
            and (kept.revision, kept.max_length) == (reader.revision, reader.max_length)
        )

    def _fetch(self, rows: Sequence[int], keys: bool) -> _Fetched:
        started = time.perf_counter()
        passages = {stored.row: stored for stored in self.index.passages(rows)}
        between = time.perf_counter()
        found = self.index.token_keys(list(passages)) if keys else None
        states = None if found is None else dict(zip(passages, found, strict=True))
        return _Fetched(passages, states, (between - started) * 1e3, (time.perf_counter() - between) * 1e3)

    def _finish(
        self,
        query: str,
        found: _Candidates,
        k: int,
        evidence: Literal["sentence", "token"] | None = None,
        level: Literal["document", "passage"] = "document",
        *,
        stage: FirstStage,
        reranker: Reranker | None,
        fetched: _Fetched | None = None,
    ) -> SearchResult:
        """Rank candidates; those that were not ``fetched``, perhaps with those of other stages, are now."""
        times = {"retrieve": found.milliseconds}
        first = _by_document(found)
        places = {id: rank for rank, id in enumerate(first, start=1)}
        if reranker is None:
            return self._unranked(query, found, first, places, k, level, stage, times, fetched)
        kept = self._keeps(reranker)
        if fetched is None:
            fetched = self._fetch(found.rows, kept)
        part = len(found.rows) / max(1, len(fetched.passages))
        times["fetch"] = (fetched.passages_ms + fetched.keys_ms * kept) * min(1.0, part)
        started = time.perf_counter()
        stored = [fetched.passages[row] for row in found.rows if row in fetched.passages]
        blocks = [Document(p.passage.document.id, p.passage.text, p.passage.document.title) for p in stored]
        states = None
        if kept and fetched.keys is not None:
            states = [DocumentStates(fetched.keys[p.row], p.truncated) for p in stored]
        ranking = reranker.rank(query, blocks, k, evidence=evidence, states=states, best_per_id=level == "document")
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
            stage,
            reranker.name,
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
        stage: FirstStage,
        times: dict[str, float],
        fetched: _Fetched | None,
    ) -> SearchResult:
        """The order of the first stage; only what is shown is fetched."""
        shown: list[int] = []
        seen: set[str] = set()
        for row, id in zip(found.rows, found.ids, strict=True):
            if level == "passage" or id not in seen:
                shown.append(row)
            seen.add(id)
        score = dict(zip(found.rows, found.scores, strict=True))
        if fetched is None:
            fetched = self._fetch(shown[:k], keys=False)
        stored = [fetched.passages[row] for row in shown[:k] if row in fetched.passages]
        hits = tuple(
            Hit(rank, id, score[p.row], p.passage.document, p.passage, places[id], first[id])
            for rank, p in enumerate(stored, start=1)
            for id in [p.passage.document.id]
        )
        times["fetch"] = fetched.passages_ms * min(1.0, len(stored) / max(1, len(fetched.passages)))
        return SearchResult(query, hits, len(found.rows), stage, None, (), 0, (), times)


def _check(queries: Sequence[str], k: int) -> None:
    if isinstance(queries, str):
        raise InputError("a batch is a list of queries; for one, use search")
    for query in queries:
        if not isinstance(query, str):
            raise InputError(f"a query must be a string, not {type(query).__name__}")
        if not query.strip():
            raise InputError("the query is empty")
        if not encodable(query):
            raise InputError(f"the query {query!r} has half a surrogate pair; clean the text")
    _check_count("k", k)


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {quoted(value)}")


def _timed(queries: int, find: Callable[[], list[_Candidates]]) -> list[_Candidates]:
    """Charge every query its part of the time."""
    started = time.perf_counter()
    found = find()
    each = (time.perf_counter() - started) * 1e3 / queries
    for one in found:
        one.milliseconds = each
    return found


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
