"""The study behind the default layout: readouts and scales on dev splits.

    python -m sightline.recipes.readouts data/nq_train:dev data/medquad:dev data/multihop_small:test

Each collection's first queries are reranked from the top of the embedded BM25, whole documents, cut at 256 tokens.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console
from ..documents import Document
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..models.reader import document_states
from ..rerank import LateInteractionReranker, load_layout
from ..retrieval.fts5 import Fts5Index

__all__ = ["candidate_lists", "study"]

_LAYOUTS = [
    *itertools.product(["mass", "log_mass"], [5.0, 10.0, 15.0, 20.0, 30.0]),
    ("maxsim", 20.0),
]


def candidate_lists(
    documents: Sequence[Document], queries: dict[str, str], candidates: int
) -> dict[str, list[Document]]:
    """The top of BM25 for each query, by query id."""
    words = Fts5Index(sqlite3.connect(":memory:"))
    words.add(range(len(documents)), [document.contents for document in documents])
    return {id: [documents[row] for row in words.search(text, candidates)[0]] for id, text in queries.items()}


def study(
    collections: Annotated[list[str], typer.Argument(help="FOLDER:SPLIT, of dev splits only.")],
    queries: Annotated[int, typer.Option(help="Queries per collection, the first ones.")] = 60,
    candidates: Annotated[int, typer.Option(help="Candidates per query.")] = 40,
    out: Annotated[Path | None, typer.Option(help="JSON file for the means, by readout and scale.")] = None,
) -> None:
    """Print nDCG@10 by readout, scale and collection, and the mean over collections."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    figures: dict[tuple[str, float], list[float]] = {layout: [] for layout in _LAYOUTS}
    names = []
    rerankers = {
        (readout, scale): LateInteractionReranker(load_layout("minilm-log-mass", readout=readout, scale=scale))
        for readout, scale in _LAYOUTS
    }
    model = next(iter(rerankers.values())).reader
    for collection in collections:
        folder, _, split = collection.rpartition(":")
        dataset = load_dataset(folder, split, max_queries=queries)
        lists = candidate_lists(list(dataset.documents()), dataset.queries, candidates)
        distinct = {document.id: document for documents in lists.values() for document in documents}
        texts = [document.contents for document in distinct.values()]
        states = dict(zip(distinct, document_states(model, texts), strict=True))
        for layout, reranker in rerankers.items():
            rankings = {}
            for id, documents in lists.items():
                if documents:
                    kept = [states[document.id] for document in documents]
                    ranking = reranker.rank(dataset.queries[id], documents, states=kept)
                    rankings[id] = [item.document.id for item in ranking]
            figures[layout].append(measure_rankings(dataset.qrels, rankings, ["nDCG@10"])[0]["nDCG@10"])
        names.append(dataset.name)
    table = Table("readout", "scale", *names, "mean")
    for (readout, scale), values in sorted(figures.items(), key=lambda item: -sum(item[1])):
        table.add_row(readout, f"{scale:g}", *(f"{v:.3f}" for v in values), f"{sum(values) / len(values):.4f}")
    if out is not None:
        means = {f"{readout} {scale:g}": sum(v) / len(v) for (readout, scale), v in figures.items()}
        out.write_text(json.dumps(means, indent=2))
    console.width = max(console.width, 18 * (len(names) + 3))  # no figure is cut short on a narrow terminal
    console.print(table)


if __name__ == "__main__":
    typer.run(study)
