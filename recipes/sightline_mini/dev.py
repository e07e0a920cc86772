"""The collections that everything trained here is chosen on, and what rerankers are worth on them.

    SIGHTLINE_DATA=path/to/collections python -m sightline.recipes.sightline_mini.dev OUT minilm-log-mass sightline-mini

Every reranker ranks the same candidates, and is compared with the first, collection by collection, query by query.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...errors import InputError
from ...eval.dataset import Dataset
from ...eval.loading import load_dataset
from ...eval.runs import first_stage_run
from ...rerank.base import Reranker
from ...rerank.loading import load_reranker
from ...training.dev import MEASURE, DevSet, PerQuery, gains, mean_of_collections, measure

__all__ = ["compare_on_dev", "data_folder", "dev_sets"]

_DEV = {
    "nq_train": "dev",
    "medquad": "dev",
    "fairytaleqa": "dev",
    "mlquestions": "dev",
    "bioasq": "dev",
    "policyqa": "dev",
    "checkthat2020": "dev",
    "multihop_small": "test",
    "wikiqa": "train",
    "trec_dl21": "test",
}
"""Collections and splits to choose on; nothing is learnt from the last seven."""
_JUDGED_CANDIDATES = ("multihop_small", "wikiqa")  # each question comes with its own


def data_folder(named: Path | None = None) -> Path:
    """The folder of the judged collections: the one named here, or the one that ``SIGHTLINE_DATA`` names.

    Raises:
        InputError: if neither does.
    """
    folder = named or os.environ.get("SIGHTLINE_DATA")
    if not folder:
        raise InputError("name the folder of the judged collections: --data, or SIGHTLINE_DATA")
    return Path(folder)


def dev_sets(data: Path, queries: int = 100, candidates: int = 50) -> list[DevSet]:
    """The collections to choose on, each with its first ``queries`` questions and ``candidates`` candidates."""
    sets = []
    for name, split in _DEV.items():
        qrels = data / name / "qrels.full.trec" if name == "trec_dl21" else None
        dataset = load_dataset(data / name, split, qrels=qrels, max_queries=queries)
        sets.append(DevSet(dataset, _candidates(dataset), candidates))
    return sets


def _candidates(dataset: Dataset) -> Mapping[str, Mapping[str, float]]:
    if dataset.name in _JUDGED_CANDIDATES:
        run: Mapping[str, Mapping[str, float]] = {
            query: dict.fromkeys(dataset.qrels[query], 0.0) for query in dataset.queries
        }
    elif dataset.name == "trec_dl21":
        run = first_stage_run(dataset, dataset.folder / "run.bm25.trec")
    else:
        run = first_stage_run(dataset)
    return {query: run[query] for query in dataset.queries if query in run}


def compare_on_dev(rerankers: Mapping[str, Reranker], dev: Sequence[DevSet]) -> dict[str, Any]:
    """nDCG@10 of rerankers, each beside the first.

    Returns:
        For each reranker its ``mean``, which is the mean of the collections' means, and ``dev``: for each collection
        the ``value`` with a 95 % bootstrap interval and, for all but the first reranker, the ``difference`` from the
        first and ``p`` of a paired randomisation test.
    """
    per_query: dict[str, PerQuery] = dict(zip(rerankers, measure(list(rerankers.values()), dev), strict=True))
    first = next(iter(per_query))
    out: dict[str, Any] = {}
    for name, values in per_query.items():
        out[name] = {"mean": mean_of_collections(values), "dev": {}}
        for collection, gain in gains(per_query[first], values).items():
            row = {"queries": gain.queries, "value": asdict(gain.after)}
            if name != first:
                row |= {"difference": asdict(gain.difference), "p": gain.p}
            out[name]["dev"][collection] = row
    return out


def main() -> None:
    """Measure, write ``dev.json`` and print a table."""
    parser = argparse.ArgumentParser(description="Rerankers on the collections to choose on.")
    parser.add_argument("out", type=Path)
    parser.add_argument("rerankers", nargs="+", help="names or folders; the others are compared with the first")
    parser.add_argument("--data", type=Path, help="folder of the collections; else SIGHTLINE_DATA")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--dtype", default="bfloat16", help="the number format to read texts in, as in training")
    args = parser.parse_args()
    dev = dev_sets(data_folder(args.data), args.queries, args.candidates)
    results = compare_on_dev({name: load_reranker(name, dtype=args.dtype) for name in args.rerankers}, dev)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "dev.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = Table(MEASURE, *results)
    for dev_set in dev:
        cells = [row["dev"][dev_set.name] for row in results.values()]
        table.add_row(dev_set.name, *(_cell(cell) for cell in cells))
    table.add_row("mean", *(f"{row['mean']:.4f}" for row in results.values()))
    console = Console(file=sys.stdout)
    console.width = max(console.width, 120)
    console.print(table)


def _cell(row: Mapping[str, Any]) -> str:
    value = f"{row['value']['mean']:.4f}"
    return f"{value} {row['difference']['mean']:+.4f} (p {row['p']:.3f})" if "p" in row else value


if __name__ == "__main__":
    main()
