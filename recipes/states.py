"""The study behind small token states: what each form of them costs in nDCG, and saves in bytes, on dev splits.

    python -m sightline.recipes.states data/cacm:test data/med:test data/nq_train:dev --work results/states

Each collection is indexed with fp16 states, which are then kept in each form, as an index would keep them. Beside the
forms that an index has, two that it has not are tried: the mean of every two neighbouring states (token pooling; Clavié
et al., 2024), and the principal components that hold most of the states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from ..benchmarks.timing import command_line
from ..cli.console import console, print_table
from ..eval.collection_index import open_index
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..eval.output import make_folder
from ..kernels import Keys
from ..kernels.states.keys import to_float
from ..models.reader import DocumentStates
from ..retrieval.index import Index
from ..retrieval.token_states import SPANS, states_form
from ..retrieval.writing import BATCH_PASSAGES
from ..search import CandidateList, Searcher

__all__ = ["first_states", "forms", "open_states", "study"]

_MEASURE = "nDCG@10"
_Keep = Callable[[np.ndarray], Keys]


def forms(first: np.ndarray) -> dict[str, tuple[float, _Keep]]:
    """Ways to keep states: by name, bytes a token with its place in the text, and what comes back of a passage's.

    Args:
        first: float32 (T, D), the states of a collection's first passages, from which the forms that learn do so.
    """
    ways: dict[str, tuple[float, _Keep]] = {}
    for kind in ("fp16", "int8", "int4", "pq96", "pq48", "pq32"):
        size, keep = _kept(kind, first)
        ways[kind] = size + SPANS.itemsize, keep
        if kind in ("int4", "pq48"):
            ways[f"{kind}, in pairs"] = (size + SPANS.itemsize) / 2, partial(_in_pairs, keep)
    _, axes = np.linalg.eigh(first.T @ first)
    for dim in (192, 96):
        main = axes[:, -dim:]
        size, keep = _kept("int8", first @ main)
        ways[f"{dim} components"] = size + SPANS.itemsize, partial(_of_components, keep, main)
    return ways


def _kept(kind: str, first: np.ndarray) -> tuple[int, _Keep]:
    form = states_form(kind, first.shape[1])
    table = None if form.codes is None else form.learn(first)

    def keep(states: np.ndarray) -> Keys:
        return form.decode(form.encode(states, table), [(0, len(states))], table)[0]

    return form.dtype.itemsize, keep


def _in_pairs(keep: _Keep, states: np.ndarray) -> Keys:
    """Of every two neighbours the unit vector along their sum."""
    sums = np.add.reduceat(states, np.arange(0, len(states), 2), axis=0) if len(states) else states
    return keep(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))


def _of_components(keep: _Keep, main: np.ndarray, states: np.ndarray) -> Keys:
    """The part of states in a subspace; its products with a query are those of both in the subspace's coordinates."""
    return torch.from_numpy(to_float(keep(states @ main)).numpy() @ main.T)


def study(
    collections: Annotated[list[str], typer.Argument(help="FOLDER:SPLIT, of dev splits only.")],
    work: Annotated[Path, typer.Option(help="Folder for the indexes, one folder each, which are used again.")],
    queries: Annotated[int, typer.Option(help="Queries per collection, the first ones.")] = 40,
    candidates: Annotated[int, typer.Option(help="Candidates of hybrid per query.")] = 60,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Print, for each form, bytes per passage, mean nDCG@10, the mean difference to fp16, and the largest loss."""
    console.print(command_line(), markup=False, highlight=False, soft_wrap=True)
    quality: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    names = []
    for collection in collections:
        folder, _, split = collection.rpartition(":")
        dataset = load_dataset(folder, split, max_queries=queries)
        with open_states(dataset, work / dataset.name) as index:
            lists = _lists(index, dataset, candidates)
            whole = (index.path / "states.fp16").stat().st_size
            tokens = whole / states_form("fp16", index.manifest.encoder.dim).dtype.itemsize / index.counts()["passages"]
            for name, (size, keep) in forms(first_states(index)).items():
                quality.setdefault(name, []).append(_quality(dataset, index, lists, keep))
                sizes.setdefault(name, []).append(size * tokens)
        names.append(dataset.name)
    figures = {
        name: {
            "bytes per passage": float(np.mean(sizes[name])),
            "mean": float(np.mean(values)),
            "difference": float(np.mean(np.subtract(values, quality["fp16"]))),
            "largest loss": float(np.max(np.subtract(quality["fp16"], values))),
        }
        for name, values in quality.items()
    }
    table = Table("form", "bytes per passage", *names, "mean", "difference", "largest loss")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['bytes per passage']:,.0f}",
            *(f"{value:.3f}" for value in quality[name]),
            f"{row['mean']:.4f}",
            f"{row['difference']:+.4f}",
            f"{row['largest loss']:.4f}",
        )
    if out is not None:
        out.write_text(json.dumps(figures, indent=2))
    print_table(table)


def open_states(dataset: Dataset, folder: Path) -> Index:
    """The index of a collection with half-precision token states of the default model, built unless it is there.

    Args:
        dataset: the collection.
        folder: where its folder ``index`` is.
    """
    opened = open_index(dataset, None, make_folder(folder) / "index", {}, [("hybrid", "minilm")], lambda _: None)
    assert isinstance(opened, Index)  # it was built in a folder
    return opened


def _lists(index: Index, dataset: Dataset, candidates: int) -> dict[str, CandidateList]:
    found = Searcher(index, "minilm", candidates=candidates).candidates(list(dataset.queries.values()))
    return dict(zip(dataset.queries, found, strict=True))


def first_states(index: Index) -> np.ndarray:
    """The token states of the passages that the first batch of a build would have had: float32 (T, D)."""
    keys = index.token_keys(index.passages(range(min(BATCH_PASSAGES, index.counts()["passages"]))))
    assert keys is not None
    return torch.cat([to_float(key) for key in keys]).numpy()


def _quality(dataset: Dataset, index: Index, lists: Mapping[str, CandidateList], keep: _Keep) -> float:
    searcher = Searcher(index, "minilm")
    assert searcher.reranker is not None and searcher.reranker.reader is not None
    rankings = {}
    for id, found in lists.items():
        states = []
        for kept in found.states or ():
            assert kept is not None
            states.append(DocumentStates(keep(to_float(kept.keys).numpy()), kept.truncated))
        ranked = searcher.rank(found.with_states(searcher.reranker.reader, states), searcher.reranker, 10)
        rankings[id] = [hit.document.id for hit in ranked.hits]
    return measure_rankings(dataset.qrels, rankings, [_MEASURE])[0][_MEASURE]


if __name__ == "__main__":
    typer.run(study)
