"""BM25 for texts that are in no index, by word statistics that ship with Sightline.

An index knows how rare a word is among its own documents. A list of texts does not, and statistics of the list itself
would make a document's score depend on its neighbours. So the statistics are those of a background collection: 24,000
passages of encyclopedic, medical, legal and technical English (`sightline.recipes.word_statistics` counts them). They
also help out in indexes of few passages, see `blended_bm25`.
"""

from __future__ import annotations

import functools
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import resources

from .analysis import document_terms
from .fts5 import Fts5Index, query_words

__all__ = [
    "SMALL",
    "WordStatistics",
    "background_bm25",
    "background_statistics",
    "blended_bm25",
    "indexed_terms",
    "inverse_frequency",
    "saturated",
    "stems_of",
]

_FILE = resources.files("sightline.data") / "word_statistics.tsv"
_K1, _B = 1.2, 0.75  # as in FTS5, so that scores with and without an index are of one kind
_LEAST = 1e-6
SMALL = 400
"""The number of passages below which the word statistics of an index are not enough; see `blended_bm25`."""


@dataclass(frozen=True, slots=True)
class WordStatistics:
    """What BM25 needs to know about a collection.

    Args:
        documents: the number of documents.
        length: the mean number of terms of a document.
        frequencies: the number of documents that contain each stem. Missing stems count as rare.
        rare: the number of documents assumed for a missing stem.
    """

    documents: int
    length: float
    frequencies: Mapping[str, int]
    rare: float

    def weight(self, stem: str) -> float:
        """Return the inverse document frequency of a stem, as FTS5 computes it."""
        count = self.frequencies.get(stem, self.rare)
        return inverse_frequency(self.documents, count)


def inverse_frequency(documents: int, count: float) -> float:
    """Return the weight of a term, as FTS5 computes it.

    Args:
        documents: the number of documents in the collection.
        count: the number of documents that contain the term.
    """
    return max(math.log((documents - count + 0.5) / (count + 0.5)), _LEAST)


def saturated(count: int, length: int, mean: float) -> float:
    """Return what a term adds to a document's score, as a multiple of the term's weight.

    Args:
        count: the number of times that the term occurs in the document.
        length: the number of terms in the document.
        mean: the mean number of terms in the collection's documents.
    """
    return count * (_K1 + 1) / (count + _K1 * (1 - _B + _B * length / mean))


@functools.cache
def background_statistics() -> WordStatistics:
    """Load the word statistics that ship with Sightline."""
    head, *lines = _FILE.read_text(encoding="utf-8").splitlines()
    documents, length, rare = head.split("\t")
    pairs = (line.split("\t") for line in lines)
    return WordStatistics(int(documents), float(length), {stem: int(count) for stem, count in pairs}, float(rare))


def background_bm25(query: str, texts: Sequence[str], statistics: WordStatistics | None = None) -> list[float]:
    """Score texts with BM25, each by itself (Robertson et al., 1994).

    Args:
        query: the text of the query.
        texts: the N texts to score.
        statistics: the statistics that say how rare a word is. If None, those of the background collection.

    Returns:
        N scores; 0 for a text that has no word of the query.

    Example:
        >>> [round(score, 1) for score in background_bm25("do cats purr", ["The cat purrs.", "Dogs bark."])]
        [22.3, 0.0]
    """
    statistics = statistics or background_statistics()
    words = query_words(query)
    stems = stems_of([word for word, _ in words])
    counts = _counts([(stem, begins) for stem, (_, begins) in zip(stems, words, strict=True)], texts)
    weights = [statistics.weight(stem) for stem in stems]
    scores = []
    for place, text in enumerate(texts):
        length = len(document_terms(text))
        found = [count.get(place, 0) for count in counts]
        terms = (
            weight * saturated(n, length, statistics.length) for weight, n in zip(weights, found, strict=True) if n
        )
        scores.append(math.fsum(terms))
    return scores


def blended_bm25(query: str, texts: Sequence[str], scores: Sequence[float], passages: int) -> list[float]:
    """Blend the BM25 scores of a small index with those by the statistics of the background collection.

    No word is rare among a few passages, so scores would be lower than in a larger index, and so would what is computed
    from them. The share of the index's own scores grows with its passages, up to `SMALL`; from there on they stay
    as they are.

    Args:
        query: the text of the query.
        texts: the N texts that were scored.
        scores: their N scores by the statistics of the index.
        passages: the number of passages of the index, or any number from `SMALL` on.

    Returns:
        N scores.

    Example:
        >>> [round(score, 1) for score in blended_bm25("do cats purr", ["The cat purrs.", "Dogs bark."], [2.0, 0], 100)]
        [17.3, 0.0]
    """
    own = min(1.0, passages / SMALL)
    if own == 1:
        return list(scores)
    by_background = background_bm25(query, texts)
    return [own * score + (1 - own) * other for score, other in zip(scores, by_background, strict=True)]


def stems_of(words: Sequence[str]) -> list[str]:
    """Return the stem of each word by SQLite's stemmer, which indexes use.

    Args:
        words: terms as `sightline.retrieval.fts5.query_words` returns them.
    """
    with closing(indexed_terms(words)) as connection:
        # The word itself is its first term: of letters in pairs, the last one follows alone.
        return [stem for (stem,) in connection.execute("SELECT term FROM terms WHERE offset = 0 ORDER BY doc")]


def _counts(stems: Sequence[tuple[str, bool]], texts: Sequence[str]) -> list[dict[int, int]]:
    """How often each stem stands in the texts, by their place; with True, all terms that begin with it count."""
    with closing(indexed_terms(texts)) as connection:
        return [
            dict(
                connection.execute(
                    "SELECT doc, count(*) FROM terms WHERE term >= ? AND term <= ? GROUP BY doc",
                    [stem, stem + "\U0010ffff" if begins else stem],
                ).fetchall()
            )
            for stem, begins in stems
        ]


def indexed_terms(texts: Sequence[str]) -> sqlite3.Connection:
    """Make a database with a table ``terms(doc, term, offset)``: each term of the texts, as FTS5 keeps it.

    Close it after use.

    Args:
        texts: N texts, numbered from 0.
    """
    connection = sqlite3.connect(":memory:")
    Fts5Index(connection).add(range(len(texts)), texts)
    connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab('lexical', 'instance')")
    return connection
