"""The study behind the default's weights: sums of signals on dev splits.

    python -m sightline.recipes.fusion data/cacm:test data/policyqa:dev data/nq_train:dev --work results/fusion

Each collection is indexed whole. The candidates are those of hybrid; a document counts by its best passage.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console
from ..eval.collection_index import open_index
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.output import make_folder
from ..models.reader import BlockReader
from ..rerank.layout import FusionWeights, load_layout
from ..rerank.signals import Signals, fused_scores, read_signals
from ..retrieval.index import Index
from ..search import CandidateList, Searcher

__all__ = ["grid", "study"]

_MEASURE = "nDCG@10"
_EVERY_SIGNAL = FusionWeights(log_mass=1.0, maxsim=1.0, cosine=1.0, bm25=1.0, length=1.0)


def grid() -> Iterator[FusionWeights]:
    """The weights that are tried. The sum's scale does not matter, so log mass keeps weight one."""
    yield FusionWeights(maxsim=20.0)
    for cosine, bm25, length in itertools.product((0.0, 5.0, 10.0, 20.0), (0.0, 0.0625, 0.125, 0.25), (0.0, -0.25)):
        yield FusionWeights(log_mass=1.0, cosine=cosine, bm25=bm25, length=length)
    yield FusionWeights(maxsim=20.0, cosine=10.0, bm25=0.125)
    yield FusionWeights(cosine=10.0, bm25=0.05)


def study(
    collections: Annotated[list[str], typer.Argument(help="FOLDER:SPLIT, of dev splits only.")],
    work: Annotated[Path, typer.Option(help="Folder for the indexes, which are used again.")],
    queries: Annotated[int, typer.Option(help="Queries per collection, the first ones.")] = 100,
    best: Annotated[int, typer.Option(help="How many weights to show, the best ones.")] = 20,
) -> None:
    """Print mean nDCG@10 by weights, and the worst difference to the better of dense and hybrid."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    scale = load_layout("minilm").readout.scale
    means: dict[FusionWeights, list[float]] = {weights: [] for weights in grid()}
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
        read = {id: _signals(each["hybrid"], reranker.reader, scale) for id, each in lists.items()}
        for weights, values in means.items():
            ranked = {id: _ranked(each["hybrid"], read[id], weights) for id, each in lists.items()}
            values.append(_quality(dataset, ranked))
        names.append(dataset.name)
    _show(names, means, alone, best)


def _index(dataset: Dataset, path: Path) -> Index:
    make_folder(path.parent)
    return open_index(dataset, None, path, {}, [("hybrid", "minilm")], lambda _: None)


def _signals(candidates: CandidateList, reader: BlockReader, scale: float) -> Signals:
    [query] = reader.read_queries([candidates.query])
    assert query.states is not None and candidates.states is not None and candidates.bm25 is not None
    keys = [states.keys for states in candidates.states if states is not None]
    with torch.inference_mode():
        _, signals = read_signals(torch.from_numpy(query.states), keys, candidates.bm25, _EVERY_SIGNAL, scale=scale)
    return signals


def _ranked(candidates: CandidateList, signals: Signals, weights: FusionWeights) -> list[str]:
    order = np.argsort(-fused_scores(signals, weights).numpy(), kind="stable")
    return list(dict.fromkeys(candidates.passages[place].document.id for place in order))


def _quality(dataset: Dataset, rankings: Mapping[str, list[str]]) -> float:
    return measure_rankings(dataset.qrels, rankings, [_MEASURE])[0][_MEASURE]


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
