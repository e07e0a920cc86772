"""Whether a decoder ranks the same in bfloat16 on a GPU as in float32 on the CPU.

    python -m sightline.recipes.precision --out precision.json

The lists are questions about the Python standard library, each with a passage that answers it and nine others.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from scipy.stats import kendalltau

from ..benchmarks.timing import command_line, machine
from ..cli.console import print_table
from ..documents import Document
from ..errors import InputError
from ..eval.dataset import Dataset
from ..eval.loading import load_dataset
from ..rerank.base import Reranker
from ..rerank.loading import load_reranker
from .pydocs.corpus import write_collection

__all__ = ["compare", "lists_of"]

app = typer.Typer(add_completion=False)


def lists_of(dataset: Dataset, count: int, size: int = 10, seed: int = 0) -> list[tuple[str, list[Document]]]:
    """Questions with the first document that answers each, at a random place among others.

    Args:
        dataset: a judged collection.
        count: how many lists.
        size: documents in a list.
        seed: of the draw.

    Raises:
        InputError: if the collection has too few documents or answered questions.
    """
    draw, documents = random.Random(seed), {document.id: document for document in dataset.documents()}
    lists: list[tuple[str, list[Document]]] = []
    for id, query in dataset.queries.items():
        answers = [name for name, grade in dataset.qrels.get(id, {}).items() if grade > 0 and name in documents]
        others = sorted(documents.keys() - set(answers))
        if answers and len(others) >= size - 1 and len(lists) < count:
            chosen = [answers[0], *draw.sample(others, size - 1)]
            draw.shuffle(chosen)
            lists.append((query, [documents[name] for name in chosen]))
    if len(lists) < count:
        raise InputError(f"the collection gives {len(lists)} lists of {size} documents, not {count}")
    return lists


def compare(exact: Reranker, other: Reranker, lists: list[tuple[str, list[Document]]]) -> dict[str, Any]:
    """How far the scores and orders of two rerankers differ.

    Args:
        exact: the one to compare with.
        other: the other one.
        lists: queries, and the documents of each.

    Returns:
        Kendall's tau (mean and least), the largest difference of a score as a share of its list's range, and
        the share of lists with the same best.
    """
    taus, differences, same = [], [], []
    for query, documents in lists:
        first, second = (_scores(reranker, query, documents) for reranker in (exact, other))
        taus.append(float(kendalltau(first, second).statistic))
        differences.append(float(np.abs(first - second).max() / max(np.ptp(first), 1e-30)))
        same.append(bool(first.argmax() == second.argmax()))
    return {
        "lists": len(lists),
        "tau": float(np.mean(taus)),
        "least_tau": min(taus),
        "largest_difference": max(differences),
        "same_best": float(np.mean(same)),
    }


def _scores(reranker: Reranker, query: str, documents: list[Document]) -> np.ndarray:
    """A score for each document, in their order."""
    scores = {ranked.document.id: ranked.score for ranked in reranker.rank(query, documents)}
    return np.array([scores[document.id] for document in documents])


@app.command()
def main(
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    reranker: Annotated[str, typer.Option(help="A decoder, as --rerank takes it.")] = "smollm2",
    lists: Annotated[int, typer.Option(help="How many lists.", min=1)] = 20,
    device: Annotated[str, typer.Option(help="Where bfloat16 is computed.")] = "cuda",
) -> None:
    """Rank the same lists in float32 on the CPU and in bfloat16, and say how far they differ."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen = lists_of(load_dataset(write_collection(scratch)), lists)
    exact = load_reranker(reranker, device="cpu", dtype=torch.float32)
    half = load_reranker(reranker, device=device, dtype=torch.bfloat16)
    figures = compare(exact, half, chosen)
    table = Table("", reranker)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}")
    print_table(table)
    if out:
        about = {"command": command_line(), "versions": machine(device), "reranker": reranker}
        out.write_text(json.dumps(about | figures, indent=1) + "\n")


if __name__ == "__main__":
    app()
