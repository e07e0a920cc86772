"""What every reranker does around its scores: check the request, and order what was scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ..documents import Document, encodable
from ..errors import InputError, RankingError
from .reranker import Candidate, as_documents

__all__ = ["check_request", "first_of_each_id", "order_by_score"]


def check_request(
    query: str,
    documents: Sequence[Candidate],
    top_n: int | None = None,
    evidence: Literal["sentence", "token"] | None = None,
) -> list[Document]:
    """The documents of a request that can be served; see `Reranker.rank`.

    Raises:
        InputError: naming what is wrong.
    """
    if not isinstance(query, str):
        raise InputError(f"the query must be a string, not {type(query).__name__}")
    if not encodable(query):
        raise InputError(f"the query {query!r} has a lone surrogate; clean it")
    if top_n is not None and top_n < 1:
        raise InputError(f"top_n must be at least 1, not {top_n}")
    if evidence not in (None, "sentence", "token"):
        raise InputError(f"evidence is by 'sentence' or by 'token', not {evidence!r}")
    return as_documents(documents)


def order_by_score(
    blocks: Sequence[Document], given: Sequence[Candidate], scores: Sequence[float]
) -> tuple[list[int], list[str]]:
    """Places of the documents, best first; ties in an order that has nothing to do with the input's.

    Args:
        blocks: the documents.
        given: the same as they were given: an id that is but a place in the list must not decide between ties.
        scores: of each.

    Returns:
        (places, warnings).

    Raises:
        RankingError: if a score is not finite, or there is no signal at all.
    """
    if not all(value == value and abs(value) != float("inf") for value in scores):
        raise RankingError("a score is NaN or infinite; what the model read is damaged: read the documents again")
    names = [block.id if _has_id(one) else "" for block, one in zip(blocks, given, strict=True)]
    order = sorted(range(len(blocks)), key=lambda i: (-scores[i], names[i], blocks[i].contents))
    distinct = {(value, block.contents) for value, block in zip(scores, blocks, strict=True)}
    tied = len(distinct) - len(set(scores))
    if tied and len(set(scores)) == 1:
        raise RankingError(f"all {len(blocks)} documents got the same score; there is no signal to rank by")
    return order, [f"{tied} documents of different text are tied with others; ordered by id"] if tied else []


def first_of_each_id(order: Sequence[int], blocks: Sequence[Document]) -> list[int]:
    """The best passage of each document, where passages share its id."""
    best: dict[str, int] = {}
    for i in order:
        best.setdefault(blocks[i].id, i)
    return list(best.values())


def _has_id(candidate: Candidate) -> bool:
    return isinstance(candidate, Document) or (isinstance(candidate, Mapping) and "id" in candidate)
