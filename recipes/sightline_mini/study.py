"""The study behind ``sightline-mini``: what to train of the default model, and how little; on dev splits only.

    SIGHTLINE_DATA=path/to/collections python -m sightline.recipes.sightline_mini.study OUT

Every row is a run of its own in a folder of OUT, and is not run again if it is there. Rows with a frozen encoder share
what has been read. Those that train the encoder see few lists: minutes on a CPU are not what such training needs, and
the table says how many lists it were. All are measured on the same questions: a third of them, with half of the
candidates, once made a gain of what was a loss.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ...documents import Document
from ...models.minilm import MiniLM
from ...models.reader import BlockReader
from ...rerank.base import Reranker
from ...rerank.loading import load_reranker
from ...training.card import Origin
from ...training.config import Mining, Objective, Sampling, TrainingConfig
from ...training.dev import DevSet
from ...training.examples import Example, text_key
from ...training.late_interaction import LateInteractionLearner, RememberingReader
from ...training.summary import TrainingSummary
from ...training.trainer import train
from .dev import data_folder, dev_sets
from .recipe import CONFIG, OBJECTIVE, SAMPLING, examples

__all__ = ["VARIANTS", "Variant", "study", "with_dense"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table.

    Args:
        name: the name of the row and its folder.
        what: what is trained, in words.
        options: options of `LateInteractionLearner`.
        config: changes to the recipe's ``CONFIG``.
        sampling: changes to the recipe's ``SAMPLING``.
        objective: changes to the recipe's ``OBJECTIVE``.
        teacher: the row whose reranker scores the lists; "" for none.
        dense: whether negatives are also those that the bi-encoder finds.
    """

    name: str
    what: str
    options: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    teacher: str = ""
    dense: bool = False

    @property
    def frozen(self) -> bool:
        """Whether states of documents are read once for all rows."""
        encoder: str = self.options.get("encoder", "frozen")
        return encoder == "frozen"


_FEW: dict[str, Any] = {"epochs": None, "steps": 40, "lists": 8, "weight_decay": 0.0, "precision": "bfloat16"}
_SHORT: dict[str, Any] = {"documents": (8, 12)}

VARIANTS = (
    Variant("weights", "(a) learnt token weights", {"parts": ["weights"]}),
    Variant("projection", "(b) learnt projection, temperature and key bias", {"parts": ["projection"]}),
    Variant("heads", "(c) three heads of attention, read by a small network", {"parts": ["heads"]}),
    Variant("weights-heads", "(a, c)", {"parts": ["weights", "heads"]}),
    Variant("read", "(d) the query block reads the candidates first", {"parts": ["read"]}),
    Variant("weights-heads-read", "(a, c, d)", {"parts": ["weights", "heads", "read"]}),
    Variant("all", "(a, b, c, d)", {"parts": ["weights", "projection", "heads", "read"]}),
    Variant(
        "wise",
        "(a, b, c, d), half-way from the start (WiSE-FT)",
        {"parts": ["weights", "projection", "heads", "read"]},
        config={"alpha": 0.5},
    ),
    Variant(
        "perturbed",
        "(a, c), a third of lists without titles, of documents with shuffled sentences",
        {"parts": ["weights", "heads"]},
        sampling={"drop_titles": 0.33, "shuffle_sentences": 0.33},
    ),
    Variant("own", "(a, c), negatives of BM25 alone", {"parts": ["weights", "heads"]}, sampling={"in_batch": 0.0}),
    Variant("short", "(a, c), lists of 5 to 12", {"parts": ["weights", "heads"]}, sampling={"documents": (5, 12)}),
    Variant("long", "(a, c), lists of 10 to 200", {"parts": ["weights", "heads"]}, sampling={"documents": (10, 200)}),
    Variant("stages", "(a, c), negatives of BM25 and of dense", {"parts": ["weights", "heads"]}, dense=True),
    Variant(
        "full",
        "all of the encoder, at a low rate",
        {"parts": [], "encoder": "full"},
        config={**_FEW, "learning_rate": 2e-5},
        sampling=_SHORT,
    ),
    Variant(
        "full-anchored",
        "the same, held to the start (L2) and half-way from it (WiSE-FT)",
        {"parts": [], "encoder": "full"},
        config={**_FEW, "learning_rate": 2e-5, "alpha": 0.5},
        sampling=_SHORT,
        objective={"anchor_weight": 1e4},
    ),
    Variant(
        "lora",
        "adapters in the encoder (LoRA)",
        {"parts": [], "encoder": "lora"},
        config={**_FEW, "learning_rate": 3e-4},
        sampling=_SHORT,
    ),
    Variant(
        "prefix",
        "(e) documents see the query, LoRA",
        {"parts": [], "encoder": "lora", "prefix": True},
        config={**_FEW, "learning_rate": 1e-3},
        sampling=_SHORT,
    ),
    Variant(
        "distilled",
        "(a, c), taught by (e)",
        {"parts": ["weights", "heads"]},
        config={"epochs": 2},
        objective={"distillation_weight": 1.0},
        teacher="prefix",
    ),
)


def study(
    data: Path, out: Path, only: Sequence[str] = (), *, queries: int = 40, questions: int = 200
) -> dict[str, Any]:
    """Train and measure every row.

    Args:
        data: the folder of the collections.
        out: the folder for the rows' folders.
        only: the names of the rows to run; empty for all.
        queries: how many questions of each dev collection are measured on, the first ones.
        questions: how many questions of each collection are learnt from, the first ones.

    Returns:
        For each row its mean nDCG@10 before and after, what changed by collection, and what it cost.
    """
    known: dict[str, int] = {}
    drawn: list[Example] = []
    for example in examples(data, candidates=30)[1]:
        known[example.source] = known.get(example.source, 0) + 1
        if known[example.source] <= questions:
            drawn.append(example)
    dev = dev_sets(data, queries, 30)
    reader = RememberingReader(MiniLM(dtype="bfloat16"), tokens=8_000_000)
    rows: dict[str, Any] = {}
    for variant in VARIANTS:
        if only and variant.name not in only:
            continue
        folder = out / variant.name
        if not (folder / "training.json").is_file():
            lists = drawn
            if variant.teacher:
                lists = _taught(drawn[:: max(1, len(drawn) // 150)], load_reranker(str(out / variant.teacher)))
            if variant.dense:
                lists = with_dense(drawn, reader)
            _train(variant, folder, lists, dev, reader)
        rows[variant.name] = {"what": variant.what} | _row(TrainingSummary.load(folder))
        logger.info("%s: %s", variant.name, {k: v for k, v in rows[variant.name].items() if k != "dev"})
    return rows


def _train(
    variant: Variant, folder: Path, lists: Sequence[Example], dev: Sequence[DevSet], reader: RememberingReader
) -> None:
    options = variant.options | {"name": variant.name, "precision": "bfloat16"}
    learner = LateInteractionLearner(**options, reader=reader if variant.frozen else None)
    config: TrainingConfig = replace(CONFIG, **({"alpha": 1.0} | variant.config))
    # All sources weigh the same: the study is about what to train, and the recipe's weights are for all questions.
    sampling: Sampling = replace(SAMPLING, **({"documents": (5, 30), "weights": {}} | variant.sampling))
    objective: Objective = replace(OBJECTIVE, **variant.objective)
    origin = Origin(base="sentence-transformers/all-MiniLM-L6-v2", options=options)
    train(learner, lists, folder, config=config, sampling=sampling, objective=objective, dev=dev, origin=origin)


def _taught(lists: Sequence[Example], teacher: Reranker, candidates: int = 20) -> list[Example]:
    """Examples with a reranker's scores of their positives and of the first candidates, and of no others."""
    out = []
    for example in lists:
        pools = tuple(pool[:candidates] for pool in example.pools)
        short = replace(example, pools=pools)
        ranking = teacher.rank(example.query, list(_documents(short).values()))
        out.append(replace(short, teacher={text_key(item.document): item.score for item in ranking}))
    return out


def with_dense(lists: Sequence[Example], reader: BlockReader, candidates: int = 30) -> list[Example]:
    """Examples with a second pool: what the bi-encoder finds among the candidates of a collection's questions."""
    out, mining = [], Mining(negatives=candidates)
    for source in dict.fromkeys(example.source for example in lists):
        own = [example for example in lists if example.source == source]
        texts = {key: document for example in own for key, document in _documents(example).items()}
        keys, documents = list(texts), list(texts.values())
        chunks = [[d.contents for d in documents[i : i + 256]] for i in range(0, len(documents), 256)]
        vectors = np.concatenate([reader.read(chunk).pooled for chunk in chunks])
        queries = np.concatenate([read.pooled for read in reader.read_queries([example.query for example in own])])
        for example, scores in zip(own, queries @ vectors.T, strict=True):
            answers = set(map(text_key, (*example.positives, *example.excluded)))
            ceiling = mining.ceiling(min(float(scores[keys.index(text_key(d))]) for d in example.positives))
            best = (i for i in np.argsort(-scores) if keys[i] not in answers and scores[i] < ceiling)
            pool = tuple(documents[i] for i in islice(best, mining.negatives))
            out.append(replace(example, pools=(*example.pools, pool)))
    return out


def _documents(example: Example) -> dict[int, Document]:
    """The example's positives and the candidates of its pools, by `text_key`."""
    return {text_key(d): d for d in (*example.positives, *(d for pool in example.pools for d in pool))}


def _row(summary: TrainingSummary) -> dict[str, Any]:
    settings, history = summary.settings, summary.history
    return {
        "before": history[0].mean,
        "after": history[-1].mean,
        "lists": summary.steps * settings["lists"] * settings["accumulation"],
        "seconds": round(summary.seconds),
        "dev": {name: history[-1].dev[name] - history[0].dev[name] for name in summary.dev},
    }


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description="What to train of the default model, on dev splits.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[], choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--data", type=Path, help="folder of the collections; else SIGHTLINE_DATA")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    rows = study(data_folder(args.data), args.out, args.only, queries=args.queries, questions=args.questions)
    (args.out / "study.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    names = [name.split("/")[0] for name in next(iter(rows.values()))["dev"]]
    table = Table("trained", "lists", "before", "after", *names)
    for row in rows.values():
        changes = (f"{value:+.3f}" for value in row["dev"].values())
        table.add_row(row["what"], str(row["lists"]), f"{row['before']:.4f}", f"{row['after']:.4f}", *changes)
    console = Console(file=sys.stdout)
    console.width = max(console.width, 220)
    console.print(table)


if __name__ == "__main__":
    main()
