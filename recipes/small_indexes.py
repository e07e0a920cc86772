"""How well relevance is calibrated in indexes of few passages, with and without the help of background statistics.

    python -m sightline.recipes.small_indexes data/cacm data/cisi data/med data/time

Each index holds a few documents that are relevant for one query, and others drawn at random. That query and two others
are asked. BM25 is a part of the default's score; see `sightline.retrieval.bm25.blended_bm25`.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import print_table
from ..documents import Document
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..files import replace_file
from ..models.cache import DocumentCache
from ..rerank.base import Reranker
from ..rerank.loading import load_reranker
from ..rerank.results import Ranking
from ..retrieval.bm25 import blended_bm25
from ..retrieval.index import Index

__all__ = ["compare", "drawn"]

_INDEXES = {5: 16, 20: 16, 100: 5, 300: 2}  # documents in an index, and such indexes of each collection
_RELEVANT = 6  # at most one document of so many is drawn because it is relevant
_QUERIES = 3
_LEAST = 1e-4  # probability: a logarithm has no zero

app = typer.Typer(add_completion=False)


def drawn(dataset: Dataset, size: int, count: int, seed: int = 0) -> Iterator[tuple[list[Document], list[str]]]:
    """Draw the documents of small indexes, and queries for each.

    Args:
        dataset: a judged collection.
        size: the number of documents in an index.
        count: the number of indexes.
        seed: the seed of the draw.

    Yields:
        The documents, and the ids of the queries: the first one has relevant documents among them.
    """
    draw, documents = random.Random(seed), {document.id: document for document in dataset.documents()}
    relevant = {
        query: [id for id, grade in dataset.qrels.get(query, {}).items() if grade > 0 and id in documents]
        for query in dataset.queries
    }
    answered = [query for query, ids in relevant.items() if ids]
    for _ in range(count):
        first, *others = draw.sample(answered, _QUERIES)
        chosen = draw.sample(relevant[first], min(len(relevant[first]), max(1, size // _RELEVANT)))
        rest = [id for id in draw.sample(list(documents), min(len(documents), 2 * size)) if id not in relevant[first]]
        yield [documents[id] for id in (*chosen, *rest[: size - len(chosen)])], [first, *others]


def compare(dataset: Dataset, reranker: Reranker, size: int, count: int) -> dict[str, dict[str, float]]:
    """Rank small indexes with both kinds of BM25 scores.

    Args:
        dataset: a judged collection.
        reranker: a reranker with a relevance that uses BM25.
        size: the number of documents in an index.
        count: the number of indexes.

    Returns:
        For the scores of the ``index`` alone and the ``blended`` ones: ``log_loss`` of the relevance of all documents,
        its mean over the ``relevant`` ones, and nDCG at 10 of the queries that have relevant documents.
    """
    qrels: dict[str, dict[str, int]] = {}
    rankings: dict[str, dict[str, Ranking]] = {"index": {}, "blended": {}}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (documents, queries) in enumerate(drawn(dataset, size, count)):
            texts = [document.contents for document in documents]
            with Index.build(Path(scratch) / str(number), documents, max_tokens=0) as index:
                rows = [one.row for document in documents for one in index.passages_of([document.id])]
                scores = {id: index.bm25(dataset.queries[id], rows).tolist() for id in queries}
            for id, own in scores.items():
                query, name = dataset.queries[id], f"{number} {id}"
                qrels[name] = {document.id: dataset.qrels[id].get(document.id, 0) for document in documents}
                blended = blended_bm25(query, texts, own, size)
                rankings["index"][name] = reranker.rank(query, documents, bm25=own)
                rankings["blended"][name] = reranker.rank(query, documents, bm25=blended)
    return {kind: _figures(ranked, qrels) for kind, ranked in rankings.items()}


def _figures(ranked: Mapping[str, Ranking], qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    probabilities: dict[bool, list[float]] = {True: [], False: []}
    for name, ranking in ranked.items():
        for item in ranking:
            assert item.relevance is not None
            probabilities[qrels[name][item.document.id] > 0].append(min(max(item.relevance, _LEAST), 1 - _LEAST))
    right = [*probabilities[True], *(1 - p for p in probabilities[False])]
    answered = {name: grades for name, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    ids = {name: [item.document.id for item in ranking] for name, ranking in ranked.items()}
    mean, _ = measure_rankings(answered, ids, ["nDCG@10"], ignore_identical_ids=False)
    return {"log_loss": -float(np.log(right).mean()), "relevant": float(np.mean(probabilities[True]))} | mean


@app.command()
def main(
    collections: Annotated[list[str], typer.Argument(help="Folders of judged collections.")],
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """Measure the default's relevance in indexes of few passages."""
    reranker = load_reranker("minilm", cache=DocumentCache(host_bytes=1 << 30))
    datasets = {name: load_dataset(name) for name in collections}
    table = Table("passages", "BM25 scores", "log loss", "relevance of relevant documents", "nDCG@10")
    means: dict[str, Any] = {}
    for size, count in _INDEXES.items():
        each = [compare(dataset, reranker, size, count) for dataset in datasets.values()]
        for kind in ("index", "blended"):
            mean = {name: float(np.mean([one[kind][name] for one in each])) for name in each[0][kind]}
            means.setdefault(str(size), {})[kind] = mean
            table.add_row(str(size), kind, *(f"{value:.3f}" for value in mean.values()))
    print_table(table)
    if out:
        report = {"command": command_line(), "mean": means}
        replace_file(out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    app()
