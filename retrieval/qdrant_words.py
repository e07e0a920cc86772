"""Words in Qdrant: sparse vectors whose inner product with a query's is the score that an index in a folder gives.

Learned sparse vectors are kept as their model gives them.

For BM25, the vector of a passage holds, for each term, what its count and the length of the passage contribute to the
score. The vector of a query holds how rare the terms are now. Qdrant's own inverse document frequency (the modifier
``idf``) is another formula. It counts deleted passages until a segment is written again, and it counts each shard by
itself. So the store counts the passages that have a term when a query needs it, in an index of the terms. These counts
are right even if several processes write.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import xxhash

from ..models.sparse import SparseVectors
from .analysis import beginnings
from .bm25 import indexed_terms, inverse_frequency, saturated, stems_of
from .fts5 import query_words

__all__ = ["PassageWords", "learned_vectors", "passage_words", "query_vector"]


@dataclass(frozen=True, slots=True)
class PassageWords:
    """The terms of a passage.

    Args:
        counts: the number of times that each term occurs in the passage. Letters that begin terms of scripts without
            spaces are marked by a star.
        length: the number of terms.
    """

    counts: dict[str, int]
    length: int

    def vector(self, mean: float) -> dict[int, float]:
        """Return the sparse vector of the passage for BM25.

        Args:
            mean: the mean number of terms of all passages.
        """
        vector: dict[int, float] = {}
        for term, count in self.counts.items():
            place = _place(term)
            vector[place] = vector.get(place, 0.0) + saturated(count, self.length, mean)
        return vector


def passage_words(texts: Sequence[str]) -> list[PassageWords]:
    """Return the terms of passages, as FTS5 would keep them.

    Args:
        texts: the texts of N passages.

    Example:
        >>> passage_words(["Cats, cats and a dog"])[0].counts
        {'a': 1, 'and': 1, 'cat': 2, 'dog': 1}
    """
    counts: list[Counter[str]] = [Counter() for _ in texts]
    lengths = [0] * len(texts)
    with closing(indexed_terms(texts)) as connection:
        for place, term, count in connection.execute("SELECT doc, term, count(*) FROM terms GROUP BY doc, term"):
            counts[place][term] += count
            lengths[place] += count
            for letter in beginnings(term):
                counts[place][letter + "*"] += count
    return [PassageWords(dict(sorted(count.items())), length) for count, length in zip(counts, lengths, strict=True)]


def learned_vectors(vectors: SparseVectors) -> list[dict[int, float]]:
    """Turn learned sparse vectors into mappings of terms to weights.

    Args:
        vectors: N vectors.

    Example:
        >>> import numpy as np
        >>> learned_vectors(SparseVectors.of(np.array([[0, 2.5, 1], [0, 0, 0]], dtype=np.float32)))
        [{1: 2.5, 2: 1.0}, {}]
    """
    terms, weights = vectors.terms.tolist(), vectors.weights.tolist()
    places = itertools.pairwise(vectors.offsets.tolist())
    return [dict(zip(terms[first:stop], weights[first:stop], strict=True)) for first, stop in places]


def query_vector(query: str, passages: int, frequency: Callable[[str], int]) -> dict[int, float]:
    """Return the sparse vector of a query for BM25.

    Args:
        query: the text of the query.
        passages: the number of passages.
        frequency: a function that returns the number of passages with a term.
    """
    vector: dict[int, float] = {}
    for term in _query_terms(query):
        place = _place(term)
        vector[place] = vector.get(place, 0.0) + inverse_frequency(passages, frequency(term))
    return vector


@functools.lru_cache(maxsize=1024)
def _query_terms(query: str) -> list[str]:
    words = query_words(query)
    stems = stems_of([word for word, _ in words])
    return [stem + "*" * begins for stem, (_, begins) in zip(stems, words, strict=True)]


def _place(term: str) -> int:
    """Return the number of a term, 32 bits of its hash. About 200 of a million terms share it with another term."""
    return xxhash.xxh3_64_intdigest(term.encode()) & 0xFFFFFFFF
