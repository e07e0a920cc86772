"""What rerankers return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from ..documents import Document
from .evidence import Evidence, prune

__all__ = ["NOTHING", "Ranked", "Ranking", "relevance_or_score"]

# The score of a document without tokens: below any score of one that has some, whatever the scale (at most 1000, and
# cosines are at most 2 apart).
NOTHING = -10_000.0


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking.

    Args:
        document: the document.
        index: its place in the list that was ranked.
        score: higher is better. Of rerankers with `Reranker.list_free` it depends on the query and the document only;
            of others it says nothing beside a score of another list.
        relevance: P(relevant), from 0 to 1, calibrated; None if the reranker has no calibration.
        mass: share of the query's attention that the document got, a mean over signal tokens; over a list it sums to 1.
            None for rerankers that do not score by attention.
        truncated: tokens at its end that the model did not read; 0 of a reranker that cannot tell (`Reranker.window`).
        evidence: spans with their mass; None unless you asked for them.
        token_mass: attention mass by signal token, in the order of `Ranking.query_tokens`.
    """

    document: Document
    index: int
    score: float
    relevance: float | None
    mass: float | None
    truncated: int
    evidence: tuple[Evidence, ...] | None
    token_mass: tuple[float, ...]

    def pruned_text(self, share: float = 0.8) -> str:
        """The sentences of the document's text that hold this share of the attention on it; see `prune`.

        Raises:
            InputError: if you ranked without ``evidence``, or the share is not above 0 and at most 1.
        """
        return prune(self.document.text, self.evidence, share).text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Sequence[Ranked]):
    """A ranked list, best first: a sequence of `Ranked`, cut to ``top_n`` and ``min_score`` if you asked for that.

    Args:
        query: the query.
        items: the documents, best first.
        total: how many documents were ranked, those below ``min_score`` included.
        query_tokens: the signal tokens.
        truncated: how many of the ranked documents were not read to their end; 0 if the reranker cannot tell.
        reranker: name of the reranker, as it was asked for.
        layout: name of its layout, or its kind if it has none, such as ``cross-encoder``.
        model: name of the model.
        revision: revision of the model's weights.
        dtype: what the token states were computed with; float16 or int8 if they were kept in it; "" if not known.
        backend: backend of the kernels.
        seconds: wall time.
        warnings: what you should know before you rely on this ranking.
    """

    query: str
    items: tuple[Ranked, ...]
    total: int
    query_tokens: tuple[str, ...]
    truncated: int
    reranker: str
    layout: str
    model: str
    revision: str
    dtype: str
    backend: str
    seconds: float
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Ranked: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Ranked, ...]: ...

    def __getitem__(self, index: int | slice) -> Ranked | tuple[Ranked, ...]:
        return self.items[index]

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.items)


class _HasScore(Protocol):
    @property
    def score(self) -> float: ...

    @property
    def relevance(self) -> float | None: ...


def relevance_or_score(item: _HasScore) -> float:
    """The one number that clients and libraries take: the relevance, or the score where there is no relevance.

    Both rise together, so the order is the same. All items of a list have a relevance, or none has.

    Args:
        item: a `Ranked` document, or a hit of a search.
    """
    return item.score if item.relevance is None else item.relevance
