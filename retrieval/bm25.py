"""BM25 for texts that are in no index, by word statistics that ship with Sightline.

An index knows how rare a word is among its own documents. A list of texts does not, and statistics of the list itself
would make a document's score depend on its neighbours. So the statistics are those of a background collection: 24,000
passages of encyclopedic, medical, legal and technical English (`sightline.recipes.word_statistics` counts them).
"""

from __future__ import annotations

import functools
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from .analysis import document_terms
from .fts5 import Fts5Index, query_words

__all__ = ["WordStatistics", "background_bm25", "background_statistics"]

_FILE = resources.files("sightline.data") / "word_statistics.tsv"
_K1, _B = 1.2, 0.75  # as in FTS5, so that scores with and without an index are of one kind
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class WordStatistics:
    """What BM25 needs to know of a collection.

    Args:
        documents: how many there are.
        length: their mean number of terms.
        frequencies: in how many each stem occurs; those that are missing count as rare.
        rare: the number for stems that are missing.
    """

    documents: int
    length: float
    frequencies: Mapping[str, int]
    rare: float

    def weight(self, stem: str) -> float:
        """Inverse document frequency, as FTS5 computes it."""
        count = self.frequencies.get(stem, self.rare)
        return max(math.log((self.documents - count + 0.5) / (count + 0.5)), _LEAST)


@functools.cache
def background_statistics() -> WordStatistics:
    """The statistics that ship with Sightline."""
    head, *lines = _FILE.read_text(encoding="utf-8").splitlines()
    documents, length, rare = head.split("\t")
    pairs = (line.split("\t") for line in lines)
    return WordStatistics(int(documents), float(length), {stem: int(count) for stem, count in pairs}, float(rare))


def background_bm25(query: str, texts: Sequence[str], statistics: WordStatistics | None = None) -> list[float]:
    """BM25 of texts, each by itself (Robertson et al., 1994).

    Args:
        query: a text.
        texts: N texts.
        statistics: of the collection that says how rare a word is; None for the background collection.

    Returns:
        N scores, 0 where a text has no word of the query.

    Example:
        >>> [round(score, 1) for score in background_bm25("do cats purr", ["The cat purrs.", "Dogs bark."])]
        [21.9, 0.0]
    """
    statistics = statistics or background_statistics()
    words = [word for word, _ in query_words(query)]
    stems, counts = _counted(words, texts)
    weights = {stem: statistics.weight(stem) for stem in stems}
    scores = []
    for text, found in zip(texts, counts, strict=True):
        length = _K1 * (1 - _B + _B * len(document_terms(text)) / statistics.length)
        scores.append(math.fsum(weights[stem] * n * (_K1 + 1) / (n + length) for stem, n in found.items()))
    return scores


def _counted(words: Sequence[str], texts: Sequence[str]) -> tuple[list[str], list[Counter[str]]]:
    """The stems of words, and how often each stands in each text. SQLite's stemmer is the one that the index uses."""
    connection = sqlite3.connect(":memory:")
    try:
        table = Fts5Index(connection)
        table.add(range(len(texts)), texts)
        table.add([len(texts)], [" ".join(words)])
        connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab('lexical', 'instance')")
        stems = [stem for (stem,) in connection.execute("SELECT DISTINCT term FROM terms WHERE doc = ?", [len(texts)])]
        counts: list[Counter[str]] = [Counter() for _ in texts]
        for stem in stems:
            found = connection.execute(
                "SELECT doc, count(*) FROM terms WHERE term = ? AND doc < ? GROUP BY doc", [stem, len(texts)]
            )
            for place, count in found:
                counts[place][stem] = count
        return stems, counts
    finally:
        connection.close()
