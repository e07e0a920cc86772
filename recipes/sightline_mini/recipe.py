"""The recipe of ``sightline-mini``: which part of the default model learns, and from what.

    SIGHTLINE_DATA=path/to/collections python -m sightline.recipes.sightline_mini.recipe OUT

The encoder stays frozen; signal tokens learn how much each counts, and a network of one hidden layer how to read three
heads of their attention. The training data is openly licensed; the collections measured on only chose the recipe (see
`study`).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...training.card import Origin, describe_data
from ...training.config import Objective, Sampling, TrainingConfig
from ...training.examples import Example, Source, load_sources
from ...training.late_interaction import LateInteractionLearner
from ...training.trainer import train
from .dev import data_folder, dev_sets

__all__ = ["CONFIG", "LICENCES", "OBJECTIVE", "SAMPLING", "examples", "main"]

_WEIGHTS = {
    "nq_train": 0.6,
    "squad_train_sub": 0.6,
    "medquad": 0.18,
    "fairytaleqa": 0.3,
    "pubmedqa": 1.0,
    "stackexchange_small": 1.0,
    "ares_synth": 0.35,
}
"""Collections, and how often an epoch has each of their questions."""
LICENCES = {
    "nq_train": "CC BY-SA 3.0",
    "squad_train_sub": "CC BY-SA 4.0",
    "medquad": "CC BY 4.0",
    "fairytaleqa": "Apache-2.0",
    "pubmedqa": "MIT",
    "stackexchange_small": "CC BY-SA 3.0",
    "ares_synth": "Apache-2.0; passages CC BY-SA and of news, queries synthetic",
}

# Half-way from the start (WiSE-FT): all the way gains more on dev, and loses significantly on TREC DL21.
CONFIG = TrainingConfig(epochs=1, lists=16, learning_rate=1e-3, weight_decay=0.01, evaluate_every=0, alpha=0.5)
SAMPLING = Sampling(documents=(5, 50), in_batch=0.15, weights=_WEIGHTS)
OBJECTIVE = Objective(temperature=1.0)


def examples(data: Path, candidates: int = 50) -> tuple[list[Source], list[Example]]:
    """The training data: questions with their positives, and ``candidates`` candidates of BM25."""
    sources = [Source(str(data / name), "train", weight) for name, weight in _WEIGHTS.items()]
    return sources, load_sources(sources, candidates=candidates)


def main() -> None:
    """Train, and write the weights and their card."""
    parser = argparse.ArgumentParser(description="Train sightline-mini.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the collections; else SIGHTLINE_DATA")
    parser.add_argument("--epochs", type=float, default=CONFIG.epochs)
    parser.add_argument(
        "--queries", type=int, default=100, help="how many questions of each dev collection are measured on"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sightline.training").setLevel(logging.INFO)
    data = data_folder(args.data)
    sources, lists = examples(data)
    options: dict[str, Any] = {"parts": ["weights", "heads"], "precision": "bfloat16", "name": "sightline-mini"}
    options["remember"] = 12_000_000  # all of them: 9 GB
    summary = train(
        LateInteractionLearner(**options),
        lists,
        args.out,
        config=replace(CONFIG, epochs=args.epochs, seed=args.seed),
        sampling=SAMPLING,
        objective=OBJECTIVE,
        dev=dev_sets(data, args.queries),
        origin=Origin(
            base="sentence-transformers/all-MiniLM-L6-v2",
            options=options,
            data=describe_data(sources, lists, LICENCES),
            command=["python", "-m", "sightline.recipes.sightline_mini.recipe", *sys.argv[1:]],
        ),
    )
    sys.stdout.write(json.dumps(summary.as_dict()["dev"], indent=2) + "\n")


if __name__ == "__main__":
    main()
