"""The study behind the default's weights: sums of signals on dev splits.

    python -m sightline.recipes.fusion data/cacm:test data/policyqa:dev data/nq_train:dev --work results/fusion

Each collection is indexed whole. The candidates are those of hybrid; a document counts by its best passage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console
from ..eval.collection_index import open_index
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.output import make_folder
from ..eval.tuning import MEASURE, document_order, read_candidates, weights_grid
from ..rerank.layout import FusionWeights, load_layout
from ..rerank.signals import fused_scores
from ..retrieval.stores import Store
from ..search import Searcher

__all__ = ["study"]


def study(
    collections: Annotated[list[str], typer.Argument(help="FOLDER:SPLIT, of dev splits only.")],
    work: Annotated[Path, typer.Option(help="Folder for the indexes, which are used again.")],
    queries: Annotated[int, typer.Option(help="Queries per collection, the first ones.")] = 100,
    best: Annotated[int, typer.Option(help="How many weights to show, the best ones.")] = 20,
) -> None:
    """Print mean nDCG@10 by weights, and the worst difference to the better of dense and hybrid."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    scale = load_layout("minilm").readout.scale
    means: dict[FusionWeights, list[float]] = {weights: [] for weights in weights_grid(scale)}
    alone: list[dict[str, float]] = []
    names = []
    for collection in collections:
        folder, _, split = collection.rpartition(":")
        dataset = load_dataset(folder, split, max_queries=queries)
        searcher = Searcher(_index(dataset, work / dataset.name), "minilm")
        reranker = searcher.reranker
        assert reranker is not None and reranker.reader is not None
        texts = list(dataset.queries.values())
        found = searcher.candidates_each(texts, ["dense", "hybrid"], [reranker])
        lists = dict(zip(dataset.queries, found, strict=True))
        alone.append(
            {
                stage: _quality(dataset, {id: each[stage].ids for id, each in lists.items()})
                for stage in ("dense", "hybrid")
            }
        )
        read = {id: read_candidates(each["hybrid"], reranker.reader, scale)[1] for id, each in lists.items()}
        for weights, values in means.items():
            ranked = {
                id: document_order(each["hybrid"], fused_scores(read[id], weights).numpy())
                for id, each in lists.items()
            }
            values.append(_quality(dataset, ranked))
        names.append(dataset.name)
    _show(names, means, alone, best)


def _index(dataset: Dataset, path: Path) -> Store:
    make_folder(path.parent)
    return open_index(dataset, None, path, {}, [("hybrid", "minilm")], lambda _: None)


def _quality(dataset: Dataset, rankings: Mapping[str, list[str]]) -> float:
    return measure_rankings(dataset.qrels, rankings, [MEASURE])[0][MEASURE]


def _show(
    names: list[str], means: Mapping[FusionWeights, list[float]], alone: list[dict[str, float]], best: int
) -> None:
    for stage in ("dense", "hybrid"):
        values = [each[stage] for each in alone]
        console.print(f"{stage}: mean {np.mean(values):.4f}", highlight=False)
    table = Table(*(field.name for field in fields(FusionWeights)), "mean", "worst difference", "where")
    for weights, values in sorted(means.items(), key=lambda item: -float(np.mean(item[1])))[:best]:
        losses = [value - max(each.values()) for value, each in zip(values, alone, strict=True)]
        worst = int(np.argmin(losses))
        table.add_row(
            *(f"{weight:g}" for weight in astuple(weights)),
            f"{np.mean(values):.4f}",
            f"{losses[worst]:+.4f}",
            names[worst],
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(study)
