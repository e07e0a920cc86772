"""The recipe of ``sightline-135m``: SmolLM2-135M taught to attend to what answers (BlockRank, 2025).

    python -m sightline.recipes.sightline_135m.recipe OUT --data DATA

It mines hard negatives by the default, which indexes the collections (about an hour on two cores), trains low-rank
adapters (six minutes on an H100; on two cores, most of a day), and leaves in ``OUT/adapter`` what ships as
``sightline-135m``. A run that was interrupted goes on from where it was when you give the same command again. The
training data is openly licensed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from ...cli.console import console, progress_bar
from ...eval.dataset import Dataset
from ...eval.loading import load_dataset
from ...files import share_files
from ...rerank.layout import Layout, load_layout
from ...training.card import Origin, describe_data
from ...training.config import Mining, Objective, Sampling, TrainingConfig
from ...training.decoder import DecoderLearner
from ...training.dev import load_dev_sets
from ...training.examples import Example, Source, load_sources, text_key, write_examples
from ...training.mining import mine_run, run_system
from ...training.trainer import train
from ..sightline_mini.recipe import LICENCES

__all__ = ["CONFIG", "MINED", "OBJECTIVE", "SAMPLING", "WEIGHTS", "export", "held_out", "layout", "lists_of", "main"]

MODEL = "smollm2"
SYSTEM = "hybrid+minilm"
MINED = {"nq_train": True, "squad_train_sub": False, "stackexchange_small": True, "pubmedqa": False}
"""Collections whose negatives the default finds. True leaves out what scores above every positive: false negatives."""
WEIGHTS = {
    "nq_train": 1.0,
    "squad_train_sub": 0.8,
    "stackexchange_small": 3.0,
    "pubmedqa": 1.0,
    "fairytaleqa": 0.45,
    "medquad": 0.35,
    "ares_synth": 0.3,
}
"""How often an epoch has each question of a collection."""
_WITHOUT_DEV = ("squad_train_sub", "stackexchange_small", "pubmedqa")
_HELD_OUT = 150
_NEGATIVES = 24  # the hardest of a question

CONFIG = TrainingConfig(
    steps=887,  # as many as six minutes of an H100 had time for
    lists=8,
    learning_rate=6e-4,
    warmup=0.04,
    precision="bfloat16",
    evaluate_every=0,
    save_every=20,
)
SAMPLING = Sampling(documents=(8, 24), drop_titles=0.3, weights=WEIGHTS)
OBJECTIVE = Objective(temperature=1.0, log_scores=True, distillation_weight=0.5, teacher_temperature=1.5)
OPTIONS: dict[str, Any] = {"lora": 16}
_DEV = (
    "cacm:test",
    "checkthat2020:dev",
    "fairytaleqa:dev",
    "mlquestions:dev",
    "bioasq:dev",
    "nq_train:dev",
    "medquad:dev",
    "policyqa:dev",
)


def layout() -> Layout:
    """How the model reads: documents see the query and not one another, and have no ids."""
    return load_layout("blockrank-free", name="sightline-135m", max_block_tokens=256, query_position=1024, layers=19)


def held_out(dataset: Dataset) -> set[str]:
    """Questions of a collection without a dev split, by text, that are kept for measuring."""
    ids = sorted(id for id, grades in dataset.qrels.items() if any(grade > 0 for grade in grades.values()))
    random.Random(7).shuffle(ids)
    return {dataset.queries[id] for id in ids[:_HELD_OUT]}


def lists_of(examples: Iterable[Example], held: set[str], below_positives: bool) -> list[Example]:
    """What is learnt from of mined lists: the hardest negatives, of questions that have at least four.

    Args:
        examples: lists with the default's scores, negatives hardest first.
        held: questions that are left out.
        below_positives: leave out negatives that score above every positive, or as high.
    """
    out = []
    for example in examples:
        if example.query in held:
            continue
        known = [example.teacher[key] for key in map(text_key, example.positives) if key in example.teacher]
        [negatives] = example.pools
        if below_positives and known:
            negatives = tuple(d for d in negatives if example.teacher[text_key(d)] < max(known))
        if len(negatives[:_NEGATIVES]) >= 4:
            out.append(Example(example.query, example.positives, (negatives[:_NEGATIVES],), example.teacher))
    return out


def _mined(data: Path, name: str, work: Path) -> Path:
    """The file of a collection's lists, made if it is not there."""
    file = work / f"{name}.jsonl"
    if not file.is_file():
        dataset = load_dataset(data / name, "train")
        with progress_bar(f"mining {name}") as tell:
            run = run_system(dataset, SYSTEM, work / f"{name}.work", candidates=60, progress=tell)
        mined, _ = mine_run(dataset, run, Mining(negatives=40, margin=None))
        held = held_out(dataset) if name in _WITHOUT_DEV else set()
        write_examples(file, lists_of(mined, held, MINED[name]))
    return file


def export(trained: Path, out: Path) -> None:
    """Write the adapter as it ships: in half precision, for ``smollm2`` by name, with layout, card and record.

    Args:
        trained: the folder that training wrote.
        out: the folder to make.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in weights.items()}
    save_file(half, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = MODEL
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in ("layout.yaml", "README.md", "training.json"):
        (out / name).write_bytes((trained / name).read_bytes())
    share_files(out)


def main(
    out: Annotated[Path, typer.Argument(help="Folder for lists, weights and the adapter.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the collections.", envvar="SIGHTLINE_DATA")],
) -> None:
    """Mine, train, and export."""
    lists = out / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    sources = [
        Source(str(_mined(data, name, lists) if name in MINED else data / name), "train", weight)
        for name, weight in WEIGHTS.items()
    ]
    examples = load_sources(sources, candidates=_NEGATIVES)
    learner = DecoderLearner(MODEL, layout(), **OPTIONS)
    dev = load_dev_sets([Source.parse(str(data / name)) for name in _DEV], candidates=16, max_queries=30)
    origin = Origin(
        base=MODEL,
        options=OPTIONS,
        data=describe_data(sources, examples, LICENCES),
        command=["python", "-m", "sightline.recipes.sightline_135m.recipe", str(out), "--data", str(data)],
    )
    with progress_bar("training") as tell:
        train(
            learner,
            examples,
            out / "trained",
            config=CONFIG,
            sampling=SAMPLING,
            objective=OBJECTIVE,
            dev=dev,
            origin=origin,
            progress=lambda now: tell(f"step {now.step} of {now.steps}", now.step),
        )
    export(out / "trained", out / "adapter")
    console.print(f"{out / 'adapter'} holds the reranker; its path is its name", highlight=False)


if __name__ == "__main__":
    typer.run(main)
