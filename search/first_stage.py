"""First stages: which passages of an index a query finds, by embeddings, by token states, by words, or by several."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..documents import Unit
from ..names import FUSED_STAGES, WORD_STAGES, FirstStage
from ..retrieval.fusion import reciprocal_rank, weighted_sum

if TYPE_CHECKING:
    from ..retrieval.store import Ranked
    from ..retrieval.stores import Store

__all__ = ["DENSE_WEIGHT", "Found", "retrieve"]

# Of dense (and multivector, in equal parts) in the sum that hybrids fuse by; chosen on the dev collections, by the mean
# and by the worst.
DENSE_WEIGHT = 0.7

_Find = Callable[[int], "Ranked"]
_Search = Callable[[Sequence[str], int], "list[Ranked]"]


@dataclass(slots=True)
class Found:
    """What a first stage found for one query.

    Hybrids list the passages of the best document first; others list the best passage first.

    Args:
        rows: the rows of the passages in the index.
        documents: the number of the document that each passage belongs to.
        scores: the score of each passage; in hybrids, the score of its document.
        milliseconds: the time that it took to find them.
    """

    rows: list[int]
    documents: list[int]
    scores: list[float]
    milliseconds: float = 0.0

    def by_document(self) -> dict[int, float]:
        """Return each document's best score, best document first."""
        best: dict[int, float] = {}
        for document, score in zip(self.documents, self.scores, strict=True):
            best.setdefault(document, score)
        return best

    def first(self, k: int, unit: Unit) -> Found:
        """Return the first ``k`` passages, or the best passage of each of the first ``k`` documents."""
        if unit == "passage":
            return Found(self.rows[:k], self.documents[:k], self.scores[:k], self.milliseconds)
        places: dict[int, int] = {}
        for place, document in enumerate(self.documents):
            places.setdefault(document, place)
        kept = list(places.values())[:k]
        return Found(
            [self.rows[i] for i in kept],
            [self.documents[i] for i in kept],
            [self.scores[i] for i in kept],
            self.milliseconds,
        )


def retrieve(
    index: Store,
    queries: Sequence[str],
    stages: Collection[FirstStage],
    candidates: int,
    *,
    how: Literal["rrf"] | float = DENSE_WEIGHT,
    where: Mapping[str, Any] | None = None,
) -> dict[FirstStage, list[Found]]:
    """Find candidates by several first stages. What more than one of them needs is searched once.

    ``hybrid`` fuses dense search with the words of the index; ``hybrid-multivector`` also fuses what its token states
    find. If an index has no embeddings, ``hybrid-multivector`` leaves dense search out.

    Args:
        index: the index to search.
        queries: Q texts, which the encoder reads together.
        stages: the names of the first stages.
        candidates: the number of documents that each stage finds, with all their passages that were among those found.
        how: the way that hybrids fuse scores; see `sightline.Searcher`.
        where: a metadata filter; see `sightline.Searcher.search`.

    Returns:
        For each first stage, and for those that it fuses, Q `Found`.

    Raises:
        InputError: if a stage needs embeddings, token states or words that the index does not have.
    """
    lexical = index.manifest.lexical.name
    for stage in stages:
        lexical.check(stage, str(index.path))
    words: FirstStage = lexical.stage or "bm25"
    fused = {stage: _parts(index, stage) for stage in stages if stage in FUSED_STAGES}
    depth, searches = _depth(index, candidates), _searches(index, words, where)
    needed = {part for parts in fused.values() for part in (*parts, words)}
    needed |= {words if stage in WORD_STAGES else stage for stage in stages if stage not in fused}
    first: dict[FirstStage, Callable[[], list[Ranked]]]
    first = {stage: partial(search, queries, depth) for stage, search in searches.items() if stage in needed}
    if "dense" in needed and not {"dense", words} & set(stages):
        # Only their fusion is asked for, so that nobody needs the time of each, and one request can do both.
        both = functools.cache(partial(index.search_both, queries, depth, where))
        first |= {"dense": lambda: both()[0], words: lambda: both()[1]}
    by_stage: dict[FirstStage, list[Found]] = {}
    for stage, search in first.items():
        find = partial(_widened, index, search, depth, candidates, queries, searches[stage])
        by_stage[stage] = _timed(len(queries), find)
    for stage, names in fused.items():
        lists = list(zip(*(by_stage[name] for name in names), by_stage[words], strict=True))
        by_stage[stage] = _timed(len(queries), partial(_all_fused, lists, candidates, how))
        for found, parts in zip(by_stage[stage], lists, strict=True):
            found.milliseconds += sum(part.milliseconds for part in parts)
    return by_stage


def _parts(index: Store, stage: FirstStage) -> list[FirstStage]:
    """What a hybrid fuses with the words of an index."""
    parts = FUSED_STAGES[stage]
    embedded = index.manifest.encoder.dim or len(parts) == 1  # without them, hybrid is refused where dense is
    return [part for part in parts if embedded or part != "dense"]


def _searches(index: Store, words: FirstStage, where: Mapping[str, Any] | None) -> dict[FirstStage, _Search]:
    """The search of each first stage that fuses nothing."""

    def by_vectors(search: Callable[..., Ranked], queries: Sequence[str], k: int) -> list[Ranked]:
        return list(zip(*search(queries, k, where), strict=True))

    return {
        "dense": partial(by_vectors, index.search_dense),
        "multivector": partial(by_vectors, index.search_multivector),
        words: lambda queries, k: [index.search_lexical(query, k, where) for query in queries],
    }


def _widened(
    index: Store,
    first: Callable[[], list[Ranked]],
    depth: int,
    candidates: int,
    queries: Sequence[str],
    again: _Search,
) -> list[Found]:
    """Cut what a search found where there are enough documents, and search deeper where there are not.

    Args:
        index: the index.
        first: gives what the first search found for each query.
        depth: the number of passages that it looked for.
        candidates: the number of documents that are enough.
        queries: the texts of the queries.
        again: the search, for another depth.
    """
    found = first()

    def find(number: int, k: int) -> Ranked:
        rows, scores = found[number] if k <= depth else again([queries[number]], k)[0]
        return rows[:k], scores[:k]

    return [_enough(index, partial(find, number), candidates) for number in range(len(queries))]


def _depth(index: Store, candidates: int) -> int:
    """How many passages are looked for at first: so many that several passages a document cost no second search."""
    return candidates if index.whole_documents else 2 * candidates


def _enough(index: Store, find: _Find, candidates: int) -> Found:
    """Widen a passage search until it holds enough documents, then cut it there."""
    k = candidates
    while True:
        rows, scores = find(k)
        exhausted = len(rows) < k or rows[-1] < 0
        documents = index.document_numbers(rows).tolist()
        if exhausted or len(set(documents) - {0}) >= candidates:
            break
        k *= 2
    out = Found([], [], [])
    seen: set[int] = set()
    for row, document, score in zip(rows.tolist(), documents, scores.tolist(), strict=True):
        if not document:
            continue
        if document not in seen and len(seen) == candidates:
            break
        seen.add(document)
        out.rows.append(row)
        out.documents.append(document)
        out.scores.append(score)
    return out


def _all_fused(lists: Sequence[Sequence[Found]], candidates: int, how: Literal["rrf"] | float) -> list[Found]:
    return [_fused(parts, candidates, how) for parts in lists]


def _fused(parts: Sequence[Found], candidates: int, how: Literal["rrf"] | float) -> Found:
    """Fuse the rankings of documents, words last; a document brings the passages that any stage found."""
    runs = [part.by_document() for part in parts]
    if how == "rrf":
        fused = reciprocal_rank(runs)
    else:  # those that search vectors have equal parts of the weight that is theirs
        fused = weighted_sum(runs, [float(how) / (len(runs) - 1)] * (len(runs) - 1) + [1 - float(how)])
    passages: dict[int, dict[int, None]] = {}
    for stage in parts:
        for row, document in zip(stage.rows, stage.documents, strict=True):
            passages.setdefault(document, {})[row] = None
    out = Found([], [], [])
    for document in list(fused)[:candidates]:
        for row in passages[document]:
            out.rows.append(row)
            out.documents.append(document)
            out.scores.append(fused[document])
    return out


def _timed(queries: int, find: Callable[[], list[Found]]) -> list[Found]:
    """Charge every query its part of the time."""
    started = time.perf_counter()
    results = find()
    each = (time.perf_counter() - started) * 1e3 / max(1, queries)
    for result in results:
        result.milliseconds = each
    return results
