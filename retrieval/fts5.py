"""BM25 inside the document store by SQLite's FTS5, so that words and documents commit in one transaction.

FTS5 scores with BM25 (Robertson et al., 1994) at its fixed k1 = 1.2, b = 0.75, over Porter stems of the terms that
`sightline.retrieval.analysis` makes of documents and queries alike. Query terms are joined by OR; Lucene's 33 English
stop words are dropped from a query that has other terms, which changes almost no ranking (their weight is near zero)
and halves the time.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import IndexStoreError
from .analysis import document_terms, query_terms

__all__ = ["Fts5Index", "query_words"]

_STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with".split()
)
# The column's name stands for what terms look like: a change of `analysis` must rename it, so that tables of the former
# terms are noticed. To this tokenizer every character that is not ASCII is part of a term.
_TABLE = "CREATE VIRTUAL TABLE lexical USING fts5(terms_1, content='', tokenize='porter ascii')"
# FTS5 walks every term's list at once; no real query comes near this.
_MAX_TERMS = 1024


class Fts5Index:
    """A contentless FTS5 table in a connection that its owner opens, commits and closes; implements `LexicalIndex`.

    Args:
        connection: the connection to the database that has the table, or in which it is made.
        lock: a lock that is held while the connection is used, for connections that several threads share.

    Raises:
        IndexStoreError: if the table holds other terms than this version makes.

    Example:
        >>> index = Fts5Index(sqlite3.connect(":memory:"))
        >>> index.add([0, 1], ["cats purr", "dogs bark"])
        >>> index.search("do dogs bark?", k=5)[0].tolist()
        [1]
    """

    def __init__(self, connection: sqlite3.Connection, lock: threading.RLock | None = None) -> None:
        self._db = connection
        self._lock = lock or threading.RLock()
        existing = self._db.execute("SELECT sql FROM sqlite_master WHERE name = 'lexical'").fetchone()
        if existing is None:
            self._db.execute(_TABLE)
        elif existing[0] != _TABLE:
            raise IndexStoreError(
                "another version of Sightline made the BM25 part of this index; build the index again"
            )

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """See `LexicalIndex.add`; in the owner's transaction."""
        self._db.executemany("INSERT INTO lexical(rowid, terms_1) VALUES (?, ?)", _analysed(rows, texts))

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """See `LexicalIndex.delete`; in the owner's transaction."""
        self._db.executemany(
            "INSERT INTO lexical(lexical, rowid, terms_1) VALUES ('delete', ?, ?)", _analysed(rows, texts)
        )

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `LexicalIndex.search`."""
        terms = query_words(query)
        hits: list[tuple[int, float]] = []
        if terms:
            match = " OR ".join(f'"{term}"{" *" * begins}' for term, begins in terms)
            # The plus keeps SQLite from asking FTS5 for each row by itself: one walk over all matches is far faster.
            only = "" if allowed is None else "AND +rowid IN (SELECT value FROM json_each(?))"
            values = [match] if allowed is None else [match, json.dumps(allowed.tolist())]
            with self._lock:
                hits = self._db.execute(
                    f"SELECT rowid, -rank FROM lexical WHERE lexical MATCH ? {only} ORDER BY rank, rowid LIMIT ?",
                    [*values, k],
                ).fetchall()
        return np.array([r for r, _ in hits], dtype=np.int64), np.array([s for _, s in hits], dtype=np.float64)

    def close(self) -> None:
        """Do nothing: the connection belongs to the owner."""


def query_words(query: str) -> list[tuple[str, bool]]:
    """Return the terms that a query searches with: `query_terms` without stop words, unless there is nothing else."""
    words = query_terms(query)
    return ([(word, begins) for word, begins in words if word not in _STOP_WORDS] or words)[:_MAX_TERMS]


def _analysed(rows: Sequence[int], texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    return ((row, " ".join(document_terms(text))) for row, text in zip(rows, texts, strict=True))
