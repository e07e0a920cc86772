"""BM25 by Tantivy, for large collections: a search skips the postings that cannot matter.

FTS5 scores each passage that has a word of the query. Tantivy keeps the highest score of every block of postings and
passes over the blocks that cannot reach the best ones (block-max WAND; Ding and Suel, SIGIR 2011), so that the time of
a search hardly grows with the collection. It needs the extra ``sightline-search[tantivy]``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import IndexCorruptError, IndexLockedError, IndexStoreError, InputError
from ..extras import importing
from ..files import share_files
from .analysis import document_terms
from .fts5 import query_words

__all__ = ["TantivyIndex"]

# The field's name stands for what terms look like, as in `sightline.retrieval.fts5`.
_ROW, _TERMS, _ANALYZER = "row", "terms_1", "english_stems"
_FEW = 10_000  # allowed rows: so few are looked up, and of more, what they do not allow is passed over
_EXPANSIONS = 100  # terms that begin with a letter that is searched alone
_REBUILD = "build the index again"


class TantivyIndex:
    """A lexical index (see `sightline.retrieval.lexical_index.LexicalIndex`) in a folder of its own.

    Terms are those of `sightline.retrieval.analysis` under Snowball's English stemmer. BM25 has k1 = 1.2 and b = 0.75
    (Robertson et al., 1994), with lengths kept in a byte. Each `add` and each `delete` is on disk when it returns; one
    that is interrupted leaves no trace. Deleted passages count in the frequencies of words until Tantivy merges the
    files that they are in. Several processes may search while one writes; a search sees what was written before it.
    Tantivy makes lock files in the folder even to read, so you need the right to write there to search.

    Args:
        directory: the folder of the index.
        create: whether to make a new index, in a folder that is missing or empty, if there is none.

    Raises:
        MissingExtraError: if Tantivy is not installed.
        IndexCorruptError: if there is no index of this kind in the folder, or files of it are missing or broken.
        IndexStoreError: if no lock file can be made in the folder.

    Example:
        >>> import tempfile
        >>> index = TantivyIndex(tempfile.mkdtemp(), create=True)
        >>> index.add([0, 1], ["Cats purr.", "Dogs bark."])
        >>> index.search("do dogs bark?", k=5)[0].tolist()
        [1]
    """

    def __init__(self, directory: str | Path, *, create: bool = False) -> None:
        self._path = Path(directory)
        self._tantivy = _import()
        self._writing = threading.Lock()
        with self._reading():
            if create and not (self._path / "meta.json").exists():
                self._path.mkdir(parents=True, exist_ok=True)
                self._index = self._tantivy.Index(self._new_schema(), str(self._path))
                share_files(self._path)
            else:
                self._index = self._tantivy.Index.open(str(self._path))
        self._schema = self._index.schema
        builder = self._tantivy.TextAnalyzerBuilder(self._tantivy.Tokenizer.whitespace())
        self._analyzer = builder.filter(self._tantivy.Filter.stemmer("english")).build()
        self._index.register_tokenizer(_ANALYZER, self._analyzer)
        self._index.config_reader(reload_policy="manual")
        self._searcher()

    def rows(self) -> list[int]:
        """List all rows in the index, ascending.

        Raises:
            IndexCorruptError: if a file cannot be read.
        """
        searcher, order = self._searcher(), self._tantivy.Order.Asc
        with self._reading():
            every = self._tantivy.Query.all_query()
            found = searcher.search(every, max(1, searcher.num_docs), count=False, order_by_field=_ROW, order=order)
        return [int(row) for row, _ in found.hits]

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row; see `LexicalIndex.add`. It is on disk when the call returns.

        Raises:
            InputError: if there are not as many texts as rows.
            IndexLockedError: if another process is writing.
        """
        if len(rows) != len(texts):
            raise InputError(f"{len(rows)} rows but {len(texts)} texts")
        with self._change() as writer:
            for row, text in zip(rows, texts, strict=True):
                document = self._tantivy.Document()
                document.add_unsigned(_ROW, int(row))
                document.add_text(_TERMS, " ".join(document_terms(text)))
                writer.add_document(document)

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget rows; see `LexicalIndex.delete`. This engine does not need ``texts``.

        Raises:
            IndexLockedError: if another process is writing.
        """
        with self._change() as writer:
            writer.delete_documents_by_query(self._any_of(rows))

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best rows for a query; see `LexicalIndex.search`.

        Raises:
            InputError: if ``k`` is below 1.
            IndexCorruptError: if a file cannot be read.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        searcher = self._searcher()
        with self._reading():
            asked = self._query(searcher, query)
            if allowed is not None and len(allowed) <= _FEW:
                asked = self._among(asked, allowed)
                allowed = None
            limit = k + 1
            while True:
                rows, scores = self._top(searcher, asked, limit)
                exhausted = len(rows) < limit
                # Of passages that score as the last one does, others may have been left out.
                whole = np.ones(len(rows), bool) if exhausted else scores > scores[-1]
                kept = whole if allowed is None else whole & np.isin(rows, allowed)
                if exhausted or kept.sum() >= k:
                    break
                limit *= 8
        rows, scores = rows[kept], scores[kept]
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]

    def close(self) -> None:
        """Do nothing: Tantivy releases its files with the last reference to the index."""

    def _searcher(self) -> Any:
        """A view of what was written last, by whatever process."""
        with self._reading():
            self._index.reload()
            return self._index.searcher()

    def _query(self, searcher: Any, text: str) -> Any:
        query, should = self._tantivy.Query, self._tantivy.Occur.Should
        terms: dict[str, None] = {}
        for word, begins in query_words(text):
            if begins:
                found = searcher.terms_with_prefix(_TERMS, word, limit=_EXPANSIONS)
                terms |= dict.fromkeys(term for term, _ in found)
            else:
                terms |= dict.fromkeys(self._analyzer.analyze(word))
        return query.boolean_query([(should, query.term_query(self._schema, _TERMS, term, "freq")) for term in terms])

    def _among(self, asked: Any, rows: np.ndarray) -> Any:
        query, must = self._tantivy.Query, self._tantivy.Occur.Must
        return query.boolean_query([(must, asked), (must, query.const_score_query(self._any_of(rows), 0.0))])

    def _any_of(self, rows: Sequence[int] | np.ndarray) -> Any:
        return self._tantivy.Query.term_set_query(self._schema, _ROW, [int(row) for row in rows])

    def _top(self, searcher: Any, asked: Any, limit: int) -> tuple[np.ndarray, np.ndarray]:
        hits = searcher.search(asked, limit, count=False).hits
        rows = searcher.fast_field_values(_ROW, [address for _, address in hits])
        return np.array(rows, dtype=np.int64), np.array([score for score, _ in hits], dtype=np.float64)

    @contextlib.contextmanager
    def _change(self) -> Iterator[Any]:
        """A writer, whose work is committed if nothing goes wrong; else it leaves no trace."""
        with self._writing, self._reading():
            # Of one thread, so that passages keep the order in which they were added.
            writer = self._index.writer(num_threads=1)
            try:
                yield writer
                writer.commit()
            except BaseException:
                writer.rollback()
                raise
            finally:
                writer.wait_merging_threads()
                share_files(self._path)

    def _new_schema(self) -> Any:
        builder = self._tantivy.SchemaBuilder()
        builder.add_unsigned_field(_ROW, stored=False, indexed=True, fast=True)
        builder.add_text_field(_TERMS, stored=False, tokenizer_name=_ANALYZER, index_option="freq")
        return builder.build()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn Tantivy's errors, which are all of one class, into ours."""
        try:
            yield
        except ValueError as error:
            if "LockBusy" in str(error):
                raise IndexLockedError(f"{self._path}: another process is writing; try again when it is done") from None
            if "acquire Lockfile" in str(error):
                raise IndexStoreError(
                    f"{self._path}: Tantivy has no read-only mode: it makes a lock file to read an index, and cannot "
                    "here; give this user the right to write in the folder, copy the index to another place, or build "
                    "it with --lexical fts5, which only reads"
                ) from error
            raise IndexCorruptError(f"{self._path}: Tantivy cannot read this index ({error}); {_REBUILD}") from error


def _import() -> Any:
    with importing("tantivy", extra="tantivy"):
        import tantivy
    return tantivy
