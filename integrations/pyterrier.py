"""PyTerrier: a retriever over an index, and a reranker for whatever was retrieved, as steps of its pipelines.

Needs ``pip install 'sightline-search[pyterrier]'``, and no Java.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import pandas as pd
    import pyterrier as pt
except ModuleNotFoundError as error:
    from ..errors import MissingExtraError

    raise MissingExtraError("pyterrier", "pyterrier") from error

from ..errors import InputError
from ..eval.trec import untie
from ..rerank.reranker import Reranker, load_reranker
from ..search import Searcher
from .snippets import candidate

__all__ = ["SightlineReranker", "SightlineRetriever"]

_RESULTS = ["docno", "score", "rank"]
_SCHEMATIC = {"help_url": ""}  # or PyTerrier, to draw a pipeline, would ask its own site for a page about this


class SightlineRetriever(pt.Transformer):
    """Searches an index: queries in, whole documents out.

    Args:
        searcher: a `sightline.Searcher`, or the path of an index.
        k: how many documents per query at most.
        text: also give the documents' texts, as ``title`` and ``text``.

    Example:
        >>> retriever = SightlineRetriever("manuals.index", k=5)  # doctest: +SKIP
        >>> retriever.search("how do I reset it")  # doctest: +SKIP
    """

    schematic = _SCHEMATIC

    def __init__(self, searcher: Searcher | str | Path, k: int = 100, *, text: bool = False) -> None:
        self.searcher = searcher if isinstance(searcher, Searcher) else Searcher(searcher)
        self.k, self.text = k, text

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search.

        Args:
            inp: with columns ``qid`` and ``query``; others are kept.

        Returns:
            Columns ``docno``, ``score`` and ``rank`` (from 0) added, and the texts where asked for; best first.
        """
        pt.validate.query_frame(inp, extra_columns=["query"], context=self)
        added = [*_RESULTS, *(["title", "text"] if self.text else [])]
        rows: list[list[Any]] = []
        results = self.searcher.search_batch(inp["query"].tolist(), self.k)
        for values, result in zip(inp.itertuples(index=False, name=None), results, strict=True):
            documents = {hit.id: hit.document for hit in result.hits}
            scores = untie({hit.id: hit.score for hit in result.hits})
            for rank, (id, score) in enumerate(scores.items()):
                texts = [documents[id].title, documents[id].text] if self.text else []
                rows.append([*values, id, score, rank, *texts])
        return _frame(rows, [*inp.columns, *added])

    def __repr__(self) -> str:
        return "SightlineRetriever()"


class SightlineReranker(pt.Transformer):
    """Reranks results with their texts; each query's list is read whole.

    Args:
        reranker: a name for `sightline.load_reranker`, or a `sightline.Reranker`.
        text_field: column with the text.
        title_field: column that is read before the text, where there is one.

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
        self.reranker = load_reranker(reranker) if isinstance(reranker, str) else reranker
        self.text_field, self.title_field = text_field, title_field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rerank.

        Args:
            inp: with columns ``qid``, ``query``, ``docno`` and the text's; others are kept.

        Returns:
            The same rows, best first within each query, with a new ``score`` and ``rank`` (from 0).

        Raises:
            InputError: if a query or a text cannot be used, or a query has a document twice.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        columns = list(inp.columns) + [name for name in _RESULTS if name not in inp.columns]
        score, rank = columns.index("score"), columns.index("rank")
        rows: list[list[Any]] = []
        for qid, part in inp.groupby("qid", sort=False):
            if part["docno"].duplicated().any():
                raise InputError(f"query {qid!r} has a document twice")
            if part["query"].nunique() > 1:
                raise InputError(f"query {qid!r} has several texts")
            titles = part[self.title_field] if self.title_field in part else [""] * len(part)
            given = [
                candidate(id, text, title)
                for id, text, title in zip(part["docno"], part[self.text_field], titles, strict=True)
            ]
            ranking = self.reranker.rank(part["query"].iloc[0], given)
            scores = list(untie({item.document.id: item.score for item in ranking}).values())
            values = list(part.itertuples(index=False, name=None))
            for place, item in enumerate(ranking):
                row = list(values[item.index]) + [None] * (len(columns) - len(inp.columns))
                row[score], row[rank] = scores[place], place
                rows.append(row)
        return _frame(rows, columns)

    def __repr__(self) -> str:
        return "SightlineReranker()"


def _frame(rows: list[list[Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"score": "float64", "rank": "int64"})
