"""The order of what was scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from ..documents import Document
from ..errors import RankingError
from .requests import Candidate, has_id

__all__ = ["below", "first_of_each_id", "order_by_score", "standardised"]


def below(scores: np.ndarray, places: Sequence[int], first: np.ndarray) -> np.ndarray:
    """Combine scores of a list of which some documents were scored again. The others stand below, in their order.

    Args:
        scores: float64 (M,), the new scores of those documents.
        places: the M places of those documents in the list.
        first: float64 (N,), the former scores of all documents.

    Returns:
        The scores of all documents, float64 (N,).

    Example:
        >>> below(np.array([7.0, 5.0]), [0, 2], np.array([0.0, 3.0, 0.0, 1.0])).tolist()
        [7.0, 4.0, 5.0, 2.0]
    """
    out, rest = np.zeros(len(first)), np.setdiff1d(np.arange(len(first)), places)
    out[places] = scores
    if len(rest):
        out[rest] = first[rest] - first[rest].max() + scores.min() - 1.0
    return out


def standardised(scores: np.ndarray) -> np.ndarray:
    """A list's scores (N,) with mean 0 and standard deviation 1; all 0 if they are equal.

    Example:
        >>> standardised(np.array([3.0, 1.0])).tolist()
        [1.0, -1.0]
    """
    spread = float(scores.std())
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros(len(scores))


def order_by_score(
    blocks: Sequence[Document],
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    unread: Collection[int] = (),
) -> tuple[list[int], list[str]]:
    """Return the places of the documents, best first. Ties are broken in an order that does not depend on the input's.

    Args:
        blocks: the documents of the list.
        candidates: the same documents as they were given. An id that was made of the place in the list must not decide
            a tie.
        scores: the score of each document.
        unread: the places of the documents in which there was nothing to read. They come last, whatever their score.

    Returns:
        (places, warnings).

    Raises:
        RankingError: if a score is not finite.
    """
    if not all(value == value and abs(value) != float("inf") for value in scores):
        raise RankingError("a score is NaN or infinite; what the model read is damaged: read the documents again")
    unread = set(unread)
    # Id and text of those that share a score; of the others nobody asks, and to join title and text takes its time.
    times = Counter(scores)
    names = {
        i: (block.id if has_id(candidate) else "", block.contents)
        for i, (block, candidate, score) in enumerate(zip(blocks, candidates, scores, strict=True))
        if times[score] > 1
    }
    order = sorted(range(len(blocks)), key=lambda i: (i in unread, -scores[i], names.get(i, ("", ""))))
    read = [i for i in order if i not in unread]
    texts = {(scores[i], names[i][1]) for i in read if i in names}
    warnings = []
    if len(read) > 1 and len({scores[i] for i in read}) == 1:
        warnings.append(
            f"all {len(read)} documents got the same score: the model sees no difference between them; "
            "ordered by id, then by text"
        )
    elif tied := len(texts) - len({score for score, _ in texts}):
        what = "1 document is tied with another" if tied == 1 else f"{tied} documents are tied with others"
        warnings.append(f"{what} of different text; ordered by id, then by text")
    if unread:
        what = "1 document has" if len(unread) == 1 else f"{len(unread)} documents have"
        warnings.append(f"{what} no text to read; ranked last")
    return order, warnings


def first_of_each_id(order: Sequence[int], blocks: Sequence[Document]) -> list[int]:
    """The best passage of each document, where passages share its id."""
    best: dict[str, int] = {}
    for i in order:
        best.setdefault(blocks[i].id, i)
    return list(best.values())
