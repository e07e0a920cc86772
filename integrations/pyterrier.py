"""PyTerrier: a retriever over an index, and a reranker for the results of any retriever, as steps of its pipelines.

Needs ``pip install 'sightline-search[pyterrier]'``, and no Java.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..extras import importing

with importing("pandas", "pyterrier", extra="pyterrier"):
    import pandas as pd
    import pyterrier as pt

from ..errors import InputError
from ..eval.trec import untie
from ..rerank.base import Reranker
from ..rerank.loading import as_reranker
from ..search import Searcher
from .snippets import as_searcher, candidate, is_missing

__all__ = ["SightlineReranker", "SightlineRetriever"]

_RESULTS = ["docno", "score", "rank"]
_SCHEMATIC = {"help_url": ""}  # without it, PyTerrier asks its own site for a help page when it draws a pipeline


class SightlineRetriever(pt.Transformer):
    """Searches an index: queries in, whole documents out.

    Args:
        searcher: a `sightline.Searcher`, or the path of an index.
        k: the largest number of documents for each query.
        text: whether to add the documents' texts, as ``title`` and ``text``.

    Example:
        >>> retriever = SightlineRetriever("manuals.index", k=5)  # doctest: +SKIP
        >>> retriever.search("how do I reset it")  # doctest: +SKIP
    """

    schematic = _SCHEMATIC

    def __init__(self, searcher: Searcher | str | Path, k: int = 100, *, text: bool = False) -> None:
        self.searcher = as_searcher(searcher)
        self.k, self.text = k, text

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search the index.

        Args:
            inp: a frame with the columns ``qid`` and ``query``. Other columns are kept, and a row may lack a qid.

        Returns:
            The frame with the columns ``docno``, ``score`` and ``rank`` (from 0), and the texts if asked for, best
            first. The other columns keep their dtypes.
        """
        pt.validate.query_frame(inp, extra_columns=["query"], context=self)
        rows: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for name in [*_RESULTS, *(["title", "text"] if self.text else [])]}
        results = self.searcher.search_batch(inp["query"].tolist(), self.k)
        for row, result in enumerate(results):
            documents = {hit.id: hit.document for hit in result.hits}
            scores = untie({hit.id: hit.score for hit in result.hits})
            rows += [row] * len(scores)
            columns["docno"] += scores
            columns["score"] += scores.values()
            columns["rank"] += range(len(scores))
            if self.text:
                columns["title"] += [documents[id].title for id in scores]
                columns["text"] += [documents[id].text for id in scores]
        return _frame(inp, rows, columns)

    def __repr__(self) -> str:
        return "SightlineRetriever()"


class SightlineReranker(pt.Transformer):
    """Reranks results with their texts. Each query's list is read as a whole.

    Args:
        reranker: the name of a reranker, as `sightline.load_reranker` takes it, or a `sightline.Reranker`.
        text_field: the column that has the text.
        title_field: the column that is read before the text, if it exists.

    Example:
        >>> results = pd.DataFrame(
        ...     [["q", "who purrs", "d", "Dogs bark."], ["q", "who purrs", "c", "Cats purr."]],
        ...     columns=["qid", "query", "docno", "text"],
        ... )
        >>> SightlineReranker()(results)[["docno", "rank"]].values.tolist()
        [['c', 0], ['d', 1]]
    """

    schematic = _SCHEMATIC

    def __init__(
        self, reranker: str | Reranker = "minilm", *, text_field: str = "text", title_field: str = "title"
    ) -> None:
        self.reranker = as_reranker(reranker)
        self.text_field, self.title_field = text_field, title_field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rerank results.

        Args:
            inp: a frame with the columns ``qid``, ``query``, ``docno`` and that of the text. Other columns are kept.
                Rows without a qid form one list for each text of a query. A document without a text is ranked last.

        Returns:
            The same rows, best first within each query, with a new ``score`` and ``rank`` (from 0). The other columns
            keep their dtypes.

        Raises:
            InputError: if a query or a text cannot be used, or a query has a document twice.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        columns = {name: inp[name].tolist() for name in ("qid", "query", "docno", self.text_field)}
        titles = inp[self.title_field].tolist() if self.title_field in inp else [""] * len(inp)
        lists: dict[tuple[str, Any], list[int]] = {}
        for row, (qid, query) in enumerate(zip(columns["qid"], columns["query"], strict=True)):
            lists.setdefault(("query", query) if is_missing(qid) else ("qid", qid), []).append(row)
        order: list[int] = []
        added: dict[str, list[Any]] = {"score": [], "rank": []}
        for (_, name), rows in lists.items():
            queries = {columns["query"][row] for row in rows}
            if any(map(is_missing, queries)):
                raise InputError(f"query {name!r} has no text")
            if len(queries) > 1:
                raise InputError(f"query {name!r} has several texts")
            docnos = [columns["docno"][row] for row in rows]
            ids = [f"row {row}" if is_missing(docno) else str(docno) for row, docno in zip(rows, docnos, strict=True)]
            if len(set(ids)) < len(ids):
                raise InputError(f"query {name!r} has a document twice")
            candidates = [
                candidate(docno, columns[self.text_field][row], titles[row])
                for row, docno in zip(rows, docnos, strict=True)
            ]
            ranking = self.reranker.rank(queries.pop(), candidates)
            order += [rows[item.index] for item in ranking]
            added["score"] += untie({ids[item.index]: item.score for item in ranking}).values()
            added["rank"] += range(len(ranking))
        return _frame(inp, order, added)

    def __repr__(self) -> str:
        return "SightlineReranker()"


def _frame(inp: pd.DataFrame, rows: list[int], columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The input's rows in this order, with these columns added; the others keep their dtypes."""
    frame = inp.iloc[rows].reset_index(drop=True)
    kinds = {"score": "float64", "rank": "int64"}
    for name, values in columns.items():
        # pandas would not know that an empty column holds texts.
        frame[name] = pd.Series(values, dtype=kinds.get(name, None if values else object))
    return frame
