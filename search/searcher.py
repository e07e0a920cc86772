"""The search pipeline: a first stage finds candidates, and a reranker ranks them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..documents import Grain, Unit, encodable
from ..errors import InputError
from ..models.reader import BlockReader, DecoderReading, DocumentStates, StoredBlock
from ..names import EMBEDDED_STAGES, FIRST_STAGES, MULTIVECTOR_STAGES, FirstStage
from ..rerank.base import Reranker
from ..rerank.evidence import Evidence
from ..rerank.loading import as_reranker
from ..retrieval.bm25 import SMALL, blended_bm25
from ..tracing import span
from ..wording import quoted
from .candidates import CandidateList, identity
from .first_stage import DENSE_WEIGHT, Found, retrieve
from .results import Explanation, Hit, SearchResult

if TYPE_CHECKING:
    from ..rerank.results import Ranked
    from ..retrieval.store import StoredPassage
    from ..retrieval.stores import Store

__all__ = ["Searcher"]

logger = logging.getLogger(__name__)


class Searcher:
    """Search an index in two steps: a first stage finds candidates, and a reranker ranks them.

    `search` does both steps. `candidates` and `rank` do one each: call them to look at the candidates in between, or to
    rank the same candidates by several rerankers.

    Args:
        index: an `Index` or another store, or a name for `sightline.open_store`, such as the path of an index.
        reranker: a name for `load_reranker`, or a `Reranker`. If None, hits are in the order of the first stage.
        first_stage: the way candidates are found: ``dense`` (by embeddings), ``multivector`` (by MaxSim of the token
            states that the index keeps), ``bm25`` (by words), ``sparse`` (by learned sparse vectors, if the index has
            them in place of BM25), ``hybrid`` (dense and words, fused) or ``hybrid-multivector`` (hybrid and
            multivector, fused; without dense if the index has no embeddings). If None, hybrid if the index has
            embeddings and words, else whichever of the two it has.
        candidates: the number of documents that the first stage passes on, each with all of its passages that were
            found.
        fusion: the way that hybrids fuse scores: ``"rrf"`` for reciprocal rank fusion, or a number between 0 and 1, the
            weight of dense (shared equally with multivector, if used) in a sum of min-max scores. The default was
            chosen on development collections, where it beat reciprocal rank fusion.
        kept_states: whether the reranker uses the token states that the index keeps, if its own reader made them, or
            the decoder states, if it reads documents in the same way. If False, it reads the texts.

    Raises:
        InputError: if an argument is out of range.

    Example:
        >>> searcher = Searcher("wiki.index")  # doctest: +SKIP
        >>> for hit in searcher.search("who wrote the first compiler", k=3, evidence="sentence").hits:  # doctest: +SKIP
        ...     print(hit.rank, hit.id, hit.evidence[0].text)
    """

    def __init__(
        self,
        index: Store | str | Path,
        reranker: str | Reranker | None = "minilm",
        *,
        first_stage: FirstStage | None = None,
        candidates: int = 100,
        fusion: Literal["rrf"] | float = DENSE_WEIGHT,
        kept_states: bool = True,
    ) -> None:
        from ..retrieval.stores import open_store

        _check_stages([first_stage] if first_stage else [])
        _check_count("candidates", candidates)
        if fusion != "rrf" and not (isinstance(fusion, int | float) and 0 <= fusion <= 1):
            raise InputError(f"fusion must be 'rrf' or a weight between 0 and 1, not {fusion!r}")
        if not (isinstance(index, str | os.PathLike) or hasattr(index, "manifest")):
            raise InputError(
                f"index must be the path of an index, the name of a store, or an Index, not {quoted(index)}"
            )
        self.reranker = None if reranker is None else as_reranker(reranker)
        self.index: Store = open_store(index) if isinstance(index, str | os.PathLike) else index
        self._reranker_as_given = reranker
        self.first_stage: FirstStage = first_stage or self._stages[-1]
        self._count = candidates
        self._fusion = fusion
        self._kept_states = kept_states
        self._told: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the path of the index, and the reranker's name or the reranker as it was given."""
        make = functools.partial(
            Searcher,
            first_stage=self.first_stage,
            candidates=self._count,
            fusion=self._fusion,
            kept_states=self._kept_states,
        )
        return make, (self.index, self._reranker_as_given)

    @property
    def concurrent(self) -> bool:
        """Whether several threads may search at once, because all models involved allow it."""
        reranks = self.reranker is None or self.reranker.concurrent
        return reranks and (self.first_stage not in EMBEDDED_STAGES or isinstance(self.index.encoder, BlockReader))

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        evidence: Grain | None = None,
        unit: Unit = "document",
        min_score: float | None = None,
    ) -> SearchResult:
        """Answer one query.

        Args:
            query: the text to search for.
            k: the number of hits to return, at most.
            where: a metadata filter, such as ``{"lang": "en", "year": {">=": 2000}}``.
            evidence: whether to mark the parts of each hit that got the attention: by ``sentence`` or by ``token``.
                Needs a reranker. If None, nothing is marked.
            unit: the unit of hits. ``document`` returns each document once, by its best passage; ``passage`` returns
                passages.
            min_score: the least ``relevance``, from 0 to 1, of a hit that is returned; there may be none. Needs a
                reranker with a relevance, such as the default. If None, no hit is left out.

        Raises:
            InputError: if an argument is out of range, or the query contains nothing to search for.
        """
        return self.search_batch([query], k, where=where, evidence=evidence, unit=unit, min_score=min_score)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        evidence: Grain | None = None,
        unit: Unit = "document",
        min_score: float | None = None,
    ) -> list[SearchResult]:
        """Answer several queries. The encoder embeds them together; the rest is done query by query. See `search`."""
        queries = _checked(queries)
        _check_ranking(self.reranker, k, evidence, unit, min_score)
        if not queries:
            return []
        with span("search") as step:
            step.set(queries=len(queries), k=k, unit=unit, filtered=bool(where))
            return self.index.read(lambda: self._search(queries, k, where, evidence, unit, min_score))

    def _search(
        self,
        queries: Sequence[str],
        k: int,
        where: Mapping[str, Any] | None,
        evidence: Grain | None,
        unit: Unit,
        min_score: float | None,
    ) -> list[SearchResult]:
        stage, results = self.first_stage, []
        found = self._retrieve(queries, [stage], where)
        for i, query in enumerate(queries):
            # One list at a time, so that a long batch does not hold all of its texts. Without a reranker, what is not
            # shown is not fetched.
            by_stage = {name: lists[i] for name, lists in found.items()}
            passages = len(by_stage[stage].rows)
            if self.reranker is None:
                by_stage[stage] = by_stage[stage].first(k, unit)
            candidates = self._fetch(query, by_stage, [stage], [self.reranker])[stage]
            result = _ranked(candidates, self.reranker, k, evidence, unit, min_score)
            results.append(dataclasses.replace(result, passages=passages))
        return results

    async def asearch(self, query: str, k: int = 10, **options: Any) -> SearchResult:
        """Run `search` in a worker thread, so that the event loop is free meanwhile."""
        return await asyncio.to_thread(self.search, query, k, **options)

    async def asearch_batch(self, queries: Sequence[str], k: int = 10, **options: Any) -> list[SearchResult]:
        """Run `search_batch` in a worker thread, so that the event loop is free meanwhile."""
        return await asyncio.to_thread(self.search_batch, queries, k, **options)

    def candidates(self, queries: Sequence[str], *, where: Mapping[str, Any] | None = None) -> list[CandidateList]:
        """Find candidates for the reranker: the first step of a search.

        Args:
            queries: the texts of Q queries.
            where: a metadata filter; see `search`.

        Returns:
            Q lists, all from the same state of the index. They include the kept token states that the reranker can use.

        Raises:
            InputError: under the same conditions as `search`.

        Example:
            >>> import tempfile
            >>> from sightline import Document, Index
            >>> documents = [Document("a", "Cats purr when content."), Document("b", "Dogs bark at strangers.")]
            >>> searcher = Searcher(Index.build(tempfile.mkdtemp() + "/index", documents))
            >>> [candidates] = searcher.candidates(["who barks"])
            >>> sorted(candidates.ids), searcher.rank(candidates, k=1).hits[0].id
            (['a', 'b'], 'b')
        """
        stage = self.first_stage
        return [lists[stage] for lists in self.candidates_each(queries, [stage], [self.reranker], where=where)]

    def candidates_each(
        self,
        queries: Sequence[str],
        first_stages: Collection[FirstStage],
        rerankers: Collection[Reranker | None] = (),
        *,
        where: Mapping[str, Any] | None = None,
    ) -> list[dict[FirstStage, CandidateList]]:
        """Find candidates by several first stages, for comparisons.

        Each first stage searches once, hybrid is made from two others, and documents that several of them find are
        fetched once. Each list is charged its share of that time.

        Args:
            queries: the texts of Q queries.
            first_stages: the names of the first stages.
            rerankers: the rerankers that will rank the lists. They decide whether kept token states are fetched.
            where: a metadata filter; see `search`.

        Returns:
            For each query, the lists by first stage.

        Raises:
            InputError: under the same conditions as `search`.
        """
        queries = _checked(queries)
        _check_stages(first_stages)
        if not queries or not first_stages:
            return [{} for _ in queries]
        lists = self.index.read(lambda: self._candidates(queries, first_stages, rerankers, where))
        # Whoever ranks many lists hardly looks at the warnings of each.
        one = next(iter(lists[0].values()))
        for note in (note for reranker in rerankers if reranker for note in _unused(one, reranker)):
            if note not in self._told:
                self._told.add(note)
                logger.warning("%s: %s", self.index.path, note)
        return lists

    def _candidates(
        self,
        queries: Sequence[str],
        first_stages: Collection[FirstStage],
        rerankers: Collection[Reranker | None],
        where: Mapping[str, Any] | None,
    ) -> list[dict[FirstStage, CandidateList]]:
        found = self._retrieve(queries, first_stages, where)
        return [
            self._fetch(query, {name: lists[i] for name, lists in found.items()}, first_stages, rerankers)
            for i, query in enumerate(queries)
        ]

    def rank(
        self,
        candidates: CandidateList,
        reranker: str | Reranker | None = None,
        k: int = 10,
        *,
        evidence: Grain | None = None,
        unit: Unit = "document",
        min_score: float | None = None,
    ) -> SearchResult:
        """Rank candidates: the second step of a search.

        Args:
            candidates: a list from `candidates`, or one of your own.
            reranker: a name for `load_reranker`, or a `Reranker`. If None, the searcher's own.
            k: the number of hits to return, at most.
            evidence: the parts of each hit to mark; see `search`.
            unit: the unit of hits; see `search`.
            min_score: the least relevance of a hit; see `search`.

        Raises:
            InputError: if an argument is out of range.
        """
        chosen = self.reranker if reranker is None else as_reranker(reranker)
        _check_ranking(chosen, k, evidence, unit, min_score)
        return _ranked(candidates, chosen, k, evidence, unit, min_score)

    def explain(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        unit: Unit = "document",
        min_score: float | None = None,
    ) -> Explanation:
        """Search, and show where each stage ranked the hits and which query tokens attended to them.

        The arguments are those of `search`.
        """
        parts = [stage for stage in self._stages if stage != "hybrid"]
        parts += ["multivector"] if self.first_stage in MULTIVECTOR_STAGES else []
        _checked([query])
        stages = {self.first_stage, *parts}
        [lists] = self.index.read(lambda: self._candidates([query], stages, [self.reranker], where))
        evidence: Literal["token"] | None = "token" if self.reranker and self.reranker.has_evidence else None
        result = self.rank(lists[self.first_stage], k=k, evidence=evidence, unit=unit, min_score=min_score)
        places = {
            stage: {hit.id: lists[stage].first[hit.id] for hit in result.hits if hit.id in lists[stage].first}
            for stage in parts
        }
        return Explanation(result, **places)

    @property
    def uses_kept_states(self) -> bool:
        """Whether the reranker uses what the index keeps. If False, it reads the texts."""
        return self._keeps_token_states(self.reranker) or self._keeps_decoder_states(self.reranker)

    @property
    def _stages(self) -> list[FirstStage]:
        """The first stages that the index has, the best last."""
        words = self.index.manifest.lexical.name.stage
        if words is None:
            return ["dense"]
        return [words, "dense", "hybrid"] if self.index.manifest.encoder.dim else [words]

    def _keeps_token_states(self, reranker: Reranker | None) -> bool:
        """Whether the index keeps token states of the reader that this reranker reads with, and they may be used."""
        reader = None if reranker is None else identity(reranker.reader)
        return self._kept_states and reader is not None and reader == self._kept_reader()

    def _keeps_decoder_states(self, reranker: Reranker | None) -> bool:
        """Whether the index keeps decoder states that this reranker can use, and they may be used."""
        kept, own = self._kept_reading(), None if reranker is None else reranker.reading
        return kept is not None and own is not None and not own.misfit(kept)

    def _kept_reading(self) -> DecoderReading | None:
        form = self.index.manifest.decoder_states
        return form.reading if form is not None and self._kept_states else None

    def _kept_reader(self) -> tuple[str, int] | None:
        kept = self.index.manifest.token_states
        if not kept.revision or kept.max_length is None:  # without a revision nobody can tell whose they are
            return None
        return kept.revision, kept.max_length

    # -- the first step ----------------------------------------------------------------------------------------------

    def _retrieve(
        self, queries: Sequence[str], stages: Collection[FirstStage], where: Mapping[str, Any] | None
    ) -> dict[FirstStage, list[Found]]:
        with span("retrieve") as step:
            found = retrieve(self.index, queries, stages, self._count, how=self._fusion, where=where)
            if step.recording:
                lists = [one for stage in stages for one in found[stage]]
                step.set(
                    first_stage=",".join(sorted(stages)),
                    candidates=sum(len(set(one.documents)) for one in lists),
                    passages=sum(len(one.rows) for one in lists),
                )
            return found

    def _fetch(
        self,
        query: str,
        found: Mapping[FirstStage, Found],
        first_stages: Collection[FirstStage],
        rerankers: Collection[Reranker | None],
    ) -> dict[FirstStage, CandidateList]:
        """Candidate lists of one query for some of the stages that searched, out of one question to the database."""
        with span("fetch") as step:
            lists = self._fetched(query, found, first_stages, rerankers)
            if step.recording:
                kept = [one.states or one.decoder_states or () for one in lists.values()]
                step.set(
                    passages=sum(len(one.passages) for one in lists.values()),
                    kept_states=sum(state is not None for states in kept for state in states),
                )
            return lists

    def _fetched(
        self,
        query: str,
        found: Mapping[FirstStage, Found],
        first_stages: Collection[FirstStage],
        rerankers: Collection[Reranker | None],
    ) -> dict[FirstStage, CandidateList]:
        started = time.perf_counter()
        rows = dict.fromkeys(row for stage in first_stages for row in found[stage].rows)
        stored = {passage.row: passage for passage in self.index.passages(list(rows))}
        fetched = time.perf_counter()
        states = self._states(list(stored.values())) if any(map(self._keeps_token_states, rerankers)) else None
        uses_decoder = any(map(self._keeps_decoder_states, rerankers))
        decoder_states = self._decoder_states(list(stored.values())) if uses_decoder else None
        opened = time.perf_counter()
        uses_bm25 = any(reranker is not None and reranker.uses_bm25 for reranker in rerankers)
        bm25 = self._bm25(query, stored, found.get("bm25")) if uses_bm25 and "bm25" in self._stages else None
        milliseconds = {
            "fetch": (fetched - started) * 1e3,
            "states": (opened - fetched) * 1e3,
            "bm25": (time.perf_counter() - opened) * 1e3,
        }
        lists: dict[FirstStage, CandidateList] = {}
        for stage in first_stages:
            shown = [
                (row, score) for row, score in zip(found[stage].rows, found[stage].scores, strict=True) if row in stored
            ]
            part = len(shown) / max(1, len(stored))
            best: dict[str, float] = {}
            for row, score in shown:
                best.setdefault(stored[row].passage.document.id, score)
            lists[stage] = CandidateList(
                query=query,
                passages=tuple(stored[row].passage for row, _ in shown),
                scores=tuple(score for _, score in shown),
                first={id: (rank, score) for rank, (id, score) in enumerate(best.items(), start=1)},
                first_stage=stage,
                states=None if states is None else tuple(states[row] for row, _ in shown),
                reader=None if states is None else self._kept_reader(),
                decoder_states=None if decoder_states is None else tuple(decoder_states[row] for row, _ in shown),
                reading=self._kept_reading(),
                bm25=None if bm25 is None else tuple(bm25[row] for row, _ in shown),
                milliseconds={
                    "retrieve": found[stage].milliseconds,
                    **{step: time_taken * part for step, time_taken in milliseconds.items()},
                },
            )
        return lists

    def _states(self, stored: Sequence[StoredPassage]) -> dict[int, DocumentStates | None]:
        """The kept token states by row."""
        states = self.index.token_states(stored) or [None] * len(stored)
        return {passage.row: kept for passage, kept in zip(stored, states, strict=True)}

    def _decoder_states(self, stored: Sequence[StoredPassage]) -> dict[int, StoredBlock | None]:
        """The kept decoder states by row."""
        blocks = self.index.decoder_states(stored) or [None] * len(stored)
        return {passage.row: block for passage, block in zip(stored, blocks, strict=True)}

    def _bm25(self, query: str, stored: Mapping[int, StoredPassage], words: Found | None) -> dict[int, float]:
        """BM25 scores for rerankers by row; ``words`` has those that the search by words has found already."""
        scores = {} if words is None else dict(zip(words.rows, words.scores, strict=True))
        if others := [row for row in stored if row not in scores]:
            scores.update(zip(others, self.index.bm25(query, others).tolist(), strict=True))
        texts = [one.passage.contents for one in stored.values()]
        own = [scores[row] for row in stored]
        return dict(zip(stored, blended_bm25(query, texts, own, self.index.count_passages(SMALL)), strict=True))


# -- the second step ---------------------------------------------------------------------------------------------------


def _ranked(
    candidates: CandidateList,
    reranker: Reranker | None,
    k: int,
    evidence: Grain | None,
    unit: Unit,
    min_score: float | None,
) -> SearchResult:
    if reranker is None:
        return _in_order(candidates, k, unit)
    started = time.perf_counter()
    states = candidates.states_for(reranker)
    with span("rerank") as step:
        ranking = reranker.rank(
            candidates.query,
            candidates.blocks,
            k,
            evidence=evidence,
            states=states,
            bm25=candidates.bm25,
            best_per_id=unit == "document",
            min_score=min_score,
        )
        step.set(
            reranker=reranker.name,
            passages=len(candidates.passages),
            query_tokens=len(ranking.query_tokens),
            truncated=ranking.truncated,
            evidence=evidence,
        )
    hits = tuple(_hit(candidates, item.index, rank, item.score, item) for rank, item in enumerate(ranking, start=1))
    times = candidates.milliseconds
    return SearchResult(
        query=candidates.query,
        hits=hits,
        passages=len(candidates.passages),
        first_stage=candidates.first_stage,
        reranker=reranker.name,
        query_tokens=ranking.query_tokens,
        truncated=ranking.truncated,
        warnings=(*ranking.warnings, *_unused(candidates, reranker)),
        milliseconds={
            "retrieve": times.get("retrieve", 0.0),
            "fetch": times.get("fetch", 0.0)
            + (0.0 if states is None else times.get("states", 0.0))
            + (times.get("bm25", 0.0) if reranker.uses_bm25 else 0.0),
            "rerank": (time.perf_counter() - started) * 1e3,
        },
    )


def _unused(candidates: CandidateList, reranker: Reranker) -> tuple[str, ...]:
    """The warning that a reranker by a decoder read documents anew, though the index keeps decoder states."""
    reason = candidates.decoder_misfit(reranker)
    if not reason or candidates.reading is None:
        return ()
    kept = candidates.reading.name
    return (f"the documents were read anew, since {reranker.name} cannot use the decoder states of {kept}: {reason}",)


def _in_order(candidates: CandidateList, k: int, unit: Unit) -> SearchResult:
    """The order of the first stage."""
    best: dict[str, int] = {}
    for place, passage in enumerate(candidates.passages):
        best.setdefault(passage.document.id, place)
    shown = list(best.values() if unit == "document" else range(len(candidates.passages)))[:k]
    times = candidates.milliseconds
    return SearchResult(
        query=candidates.query,
        hits=tuple(_hit(candidates, i, rank, candidates.scores[i]) for rank, i in enumerate(shown, start=1)),
        passages=len(candidates.passages),
        first_stage=candidates.first_stage,
        reranker=None,
        query_tokens=(),
        truncated=0,
        warnings=(),
        milliseconds={"retrieve": times.get("retrieve", 0.0), "fetch": times.get("fetch", 0.0)},
    )


def _hit(candidates: CandidateList, place: int, rank: int, score: float, ranked: Ranked | None = None) -> Hit:
    passage = candidates.passages[place]
    id = passage.document.id
    if id not in candidates.first:
        raise InputError(f"document {id!r} has no place in the first stage; make the list with CandidateList.of")
    first_rank, first_score = candidates.first[id]
    marks = None if ranked is None else ranked.evidence
    return Hit(
        rank=rank,
        id=id,
        score=score,
        document=passage.document,
        passage=passage,
        first_rank=first_rank,
        first_score=first_score,
        relevance=None if ranked is None else ranked.relevance,
        mass=None if ranked is None else ranked.mass,
        evidence=None if marks is None else tuple(_shifted(mark, passage.start) for mark in marks),
        token_mass=None if ranked is None or ranked.mass is None else ranked.token_mass,
    )


def _shifted(evidence: Evidence, start: int) -> Evidence:
    """Evidence of a passage as evidence of its document."""
    if evidence.field == "title" or not start:
        return evidence
    return dataclasses.replace(evidence, start=evidence.start + start, end=evidence.end + start)


# -- what is asked -----------------------------------------------------------------------------------------------------


def _check_stages(stages: Collection[str]) -> None:
    if unknown := [stage for stage in stages if stage not in FIRST_STAGES]:
        raise InputError(f"the first stage must be one of {', '.join(map(repr, FIRST_STAGES))}, not {unknown[0]!r}")


def _checked(queries: Iterable[str]) -> list[str]:
    if isinstance(queries, str) or not isinstance(queries, Iterable):
        raise InputError("queries must be a list of queries; for one query, use search, or a list of one")
    queries = list(queries)
    for query in queries:
        if not isinstance(query, str):
            raise InputError(f"a query must be a string, not {type(query).__name__}")
        if not query.strip():
            raise InputError("the query is empty")
        if not encodable(query):
            raise InputError(f"the query {query!r} has half a surrogate pair; clean the text")
    return queries


def _check_ranking(reranker: Reranker | None, k: int, evidence: str | None, unit: str, min_score: float | None) -> None:
    _check_count("k", k)
    if unit not in ("document", "passage"):
        raise InputError(f"unit must be 'document' or 'passage', not {unit!r}")
    if evidence is not None and reranker is None:
        raise InputError("evidence needs a reranker: it is the reranker's attention")
    if reranker is not None:
        reranker.check_min_score(min_score)
    elif min_score is not None:
        raise InputError("min_score needs a reranker: it is compared with the reranker's relevance")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, not {quoted(value)}")
