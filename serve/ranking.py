"""Turn lists in requests into rankings.

Documents are cut to the length that is read, and several requests are read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..documents import Document
from ..errors import InputError, SightlineError
from ..rerank.base import Reranker
from ..rerank.results import Ranking

__all__ = ["RankedList", "RankingWork", "rank_all"]


@dataclass(frozen=True, slots=True)
class RankingWork:
    """The list of one request.

    Args:
        query: the text of the query.
        documents: the title and the text of each document.
        top_n: the number of documents to return. If None, all of them.
        max_tokens: the number of tokens to read of a document, at most. If None, as many as fit the model's window.
        max_pair_tokens: the number of tokens to read of the query and a document together, at most. If None, there is
            no such limit.
        refuse_long: whether to refuse a document that would not be read to its end.
        evidence: the parts to mark as evidence, by sentence or by token. If None, none.
        min_score: the least relevance, from 0 to 1, of a document that is returned. If None, there is no such limit.
    """

    query: str
    documents: Sequence[tuple[str, str]]
    top_n: int | None = None
    max_tokens: int | None = None
    max_pair_tokens: int | None = None
    refuse_long: bool = False
    evidence: Literal["sentence", "token"] | None = None
    min_score: float | None = None


@dataclass(frozen=True, slots=True)
class RankedList:
    """The answer to one request.

    Args:
        ranking: the ranking of all documents, or of the first ``top_n``.
        tokens: the number of tokens of the query and the documents that were read; 0 if the reranker cannot tell
            (`Reranker.window`).
        truncated: the number of documents that were not read to their end; 0 if the reranker cannot tell.
    """

    ranking: Ranking
    tokens: int
    truncated: int


def rank_all(reranker: Reranker, lists: Sequence[RankingWork]) -> list[RankedList | Exception]:
    """Rank the lists of several requests. No list, and no error of one, influences another.

    Lists with the same ``min_score`` and evidence are read together, which fills the model's batches if the lists are
    short.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, work in enumerate(lists):
        # How many are returned matters for evidence only, which is marked in these.
        asked = (work.min_score, work.evidence, work.top_n if work.evidence else None)
        groups.setdefault(asked, []).append(place)
    answers: dict[int, RankedList | Exception] = {}
    for places in groups.values():
        answers |= zip(places, _rank_group(reranker, [lists[place] for place in places]), strict=True)
    return [answers[place] for place in range(len(lists))]


def _rank_group(reranker: Reranker, lists: Sequence[RankingWork]) -> list[RankedList | Exception]:
    """Rank lists that ask for the same."""
    if len(lists) > 1:
        first = lists[0]
        try:
            cut = [_cut(reranker, work) for work in lists]
            rankings = reranker.rank_batch(
                [(work.query, c.documents) for work, c in zip(lists, cut, strict=True)],
                first.top_n if first.evidence else None,
                evidence=first.evidence,
                min_score=first.min_score,
            )
            return [RankedList(r, c.tokens + len(r.query_tokens), c.count) for r, c in zip(rankings, cut, strict=True)]
        except SightlineError:  # it concerns one of the lists; ranked alone, each shows whether it is the one
            pass
    return [_rank(reranker, work) for work in lists]


def _rank(reranker: Reranker, work: RankingWork) -> RankedList | Exception:
    try:
        cut = _cut(reranker, work)
        ranking = reranker.rank(work.query, cut.documents, work.top_n, evidence=work.evidence, min_score=work.min_score)
    except SightlineError as error:
        return error
    return RankedList(ranking, cut.tokens + len(ranking.query_tokens), cut.count)


@dataclass(frozen=True, slots=True)
class _Cut:
    documents: list[Mapping[str, Any]]
    tokens: int
    count: int


def _cut(reranker: Reranker, work: RankingWork) -> _Cut:
    """Documents cut to what is read of them, one by one: a long text's tokens take a hundred times its memory."""
    window = reranker.window
    if window is None:
        if work.refuse_long or work.max_tokens is not None or work.max_pair_tokens is not None:
            raise InputError(
                f"the reranker {reranker.name!r} cannot say what it reads of a text, so a request cannot limit it; "
                "leave the limit on tokens out"
            )
        return _Cut([{"title": title, "text": text} for title, text in work.documents], 0, 0)
    room = min(window.room, work.max_tokens or window.room)
    if work.max_pair_tokens is not None:
        room = min(room, work.max_pair_tokens - len(window.token_offsets(work.query)))
        if room < 1:
            raise InputError(f"the query alone has more than {work.max_pair_tokens - 1} tokens; raise the limit")
    documents: list[Mapping[str, Any]] = []
    tokens = count = 0
    for place, (title, text) in enumerate(work.documents):
        contents = Document(str(place), text, title).contents
        offsets = window.token_offsets(contents)
        if len(offsets) > room:
            if work.refuse_long:
                raise InputError(
                    f"text {place} has {len(offsets)} tokens, and only {room} are read; ask for truncation"
                )
            before = len(contents) - len(text) if text else 0
            end = offsets[room - 1][1] - before
            if end <= 0:
                raise InputError(f"document {place}: its title alone has more than the {room} tokens that are read")
            title, text = (title, text[:end]) if text else (title[:end], text)
            count += 1
        tokens += min(len(offsets), room)
        documents.append({"title": title, "text": text})
    return _Cut(documents, tokens, count)
