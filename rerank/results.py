"""The results of rerankers."""

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
        document: the document that was ranked.
        index: its place in the list that you gave, from 0.
        score: the score; higher is better. For rerankers with `Reranker.list_free` it depends only on the query and the
            document; for others, scores of different lists cannot be compared.
        relevance: the calibrated probability that the document is relevant, from 0 to 1; None if the reranker has no
            calibration.
        mass: the share of the query's attention that the document got, averaged over signal tokens; over a list it sums
            to 1. None for rerankers that do not score by attention.
        truncated: the number of tokens at its end that the model did not read; 0 for a reranker that cannot tell
            (`Reranker.window`).
        evidence: the spans that got attention, with their mass; None unless you asked for evidence.
        token_mass: the attention mass that each signal token pays, in the order of `Ranking.query_tokens`.
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
        """Return the sentences of the document's text that hold a share of the attention on it; see `prune`.

        Raises:
            InputError: if you ranked without ``evidence``, or the share is not above 0 and at most 1.
        """
        return prune(self.document.text, self.evidence, share).text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking(Sequence[Ranked]):
    """A ranked list, best first: a sequence of `Ranked`, cut to ``top_n`` and ``min_score`` if you asked for that.

    Args:
        query: the text of the query.
        items: the documents, best first.
        total: the number of documents that were ranked, those below ``min_score`` included.
        query_tokens: the signal tokens, as strings.
        truncated: the number of ranked documents that were not read to their end; 0 if the reranker cannot tell.
        reranker: the name of the reranker, as you asked for it.
        layout: the name of its layout, or its kind if it has none, such as ``cross-encoder``.
        model: the name of the model.
        revision: the revision of the model's weights.
        dtype: the number format that the token states were computed in; float16 or int8 if they were kept in it; "" if
            it is not known.
        backend: the backend of the kernels.
        seconds: the wall time in seconds.
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
    """Return the one number that clients and libraries expect: the relevance, or the score if there is no relevance.

    Both rise together, so the order is the same. All items of a list have a relevance, or none has.

    Args:
        item: a `Ranked` document, or a hit of a search.
    """
    return item.score if item.relevance is None else item.relevance
