"""``sightline mine`` and ``train``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError, InputError
from ..parsing import parse_yaml
from .console import JsonOption, console, errors, given_runs, progress_bar, visible, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "mine",
        epilog="Example: sightline mine data/nq_train --split train --system dense+minilm --out nq_hard.jsonl",
    )(mine)
    app.command(
        "train",
        epilog="Example: sightline train minilm data/nq_train data/medquad@0.5 --dev data/nq_train --out trained "
        "--steps 500",
    )(train)


def mine(
    folder: Annotated[Path, typer.Argument(help="BEIR folder, or ir:ID, mteb:TASK, nano:NAME.")],
    system: Annotated[
        str, typer.Option(help="bm25, dense, hybrid, given (the folder's bm25.SPLIT.tsv) or a --run's name; +RERANKER.")
    ],
    out: Annotated[Path, typer.Option(help="JSONL of lists to write: query, pos, neg, pos_scores, neg_scores.")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "train",
    run: Annotated[
        list[str] | None, typer.Option("--run", help="A given first stage: NAME=FILE, see rerank --out.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Search this index instead of making one under --work.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for index and results, used again; None: beside --out, .mining.")
    ] = None,
    depth: Annotated[int, typer.Option(help="Candidates per query.", min=1)] = 100,
    negatives: Annotated[int, typer.Option(help="Most negatives of a list, the hardest ones.", min=1)] = 50,
    skip: Annotated[int, typer.Option(help="Ranks at the top that are left out.", min=0)] = 0,
    margin: Annotated[
        float, typer.Option(help="Negatives score below this part of the lowest positive's; --absolute: less by this.")
    ] = 0.95,
    absolute: Annotated[bool, typer.Option("--absolute", help="The margin is a difference of scores.")] = False,
    no_margin: Annotated[bool, typer.Option("--no-margin", help="Keep whatever is not judged relevant.")] = False,
    min_grade: Annotated[int, typer.Option(help="Of positives.", min=1)] = 1,
    max_queries: Annotated[int | None, typer.Option(help="Only the first so many queries.", min=1)] = None,
    encoder: Annotated[str, typer.Option(help="Bi-encoder for dense and hybrid.")] = "minilm",
    json: JsonOption = False,
) -> None:
    """Mine hard negatives from any system, with its scores, leaving out what is probably relevant."""
    from ..eval.dataset import load_dataset
    from ..training.examples import write_examples
    from ..training.mining import Mining, mine_run, run_system

    wanted = Mining(
        negatives=negatives,
        skip=skip,
        margin=None if no_margin else margin,
        kind="absolute" if absolute else "relative",
        min_grade=min_grade,
    )
    dataset = load_dataset(folder, split, max_queries=max_queries)
    with progress_bar("mining") as tell:
        found = run_system(
            dataset,
            system,
            work or out.with_suffix(".mining"),
            depth=depth,
            runs=given_runs(run),
            index=index,
            settings={"encoder": encoder},
            command=["sightline", *sys.argv[1:]],
            progress=tell,
        )
    examples, counts = mine_run(dataset, found, wanted)
    write_examples(out, examples)
    if json:
        write_json({"out": str(out), **dataclasses.asdict(counts)})
        return
    told = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in dataclasses.asdict(counts).items())
    console.print(visible(f"{out}: {told}"), markup=False, highlight=False, soft_wrap=True)


def train(
    model: Annotated[str, typer.Argument(help="minilm, or hf:MODEL for a decoder.")],
    data: Annotated[
        list[str],
        typer.Argument(metavar="DATA...", help="FOLDER:SPLIT@WEIGHT or lists.jsonl@WEIGHT; train and 1 if left out."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the weights and their card; a run in it is taken up again.")],
    dev: Annotated[
        list[str] | None,
        typer.Option("--dev", help="FOLDER:SPLIT to measure on, dev if left out; several count alike."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="NAME=FILE: more candidates of a source, beside its bm25.SPLIT.tsv; several."),
    ] = None,
    dev_run: Annotated[
        list[str] | None, typer.Option("--dev-run", help="NAME=FILE: candidates to measure on, for bm25.SPLIT.tsv.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option("--licence", help="NAME=TEXT: licence of a source, for the model card.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Of decoders, such as blockrank.")] = None,
    lora: Annotated[int | None, typer.Option(help="Of decoders: rank of the adapters; none trains all.", min=1)] = None,
    next_token: Annotated[
        bool, typer.Option("--next-token", help="Of decoders: learn to write the answer, too.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Of decoders: compute again instead of remembering.")
    ] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE: any other of the model's; VALUE as in YAML.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates; or --epochs.", min=1)] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    lists: Annotated[int, typer.Option(help="Lists in a batch.", min=1)] = 8,
    accumulation: Annotated[int, typer.Option(help="Batches in an update.", min=1)] = 1,
    documents: Annotated[str, typer.Option(help="Documents in a list, LOW-HIGH.")] = "10-200",
    in_batch: Annotated[float, typer.Option(help="Share of negatives that are other lists' documents.")] = 0.0,
    drop_titles: Annotated[float, typer.Option(help="Probability that a list has no titles.")] = 0.0,
    shuffle_sentences: Annotated[
        float, typer.Option(help="Probability that a document's sentences are shuffled.")
    ] = 0.0,
    min_grade: Annotated[int, typer.Option(help="Of positives.", min=1)] = 1,
    depth: Annotated[
        int, typer.Option(help="Candidates of each first stage that negatives are drawn from.", min=1)
    ] = 100,
    temperature: Annotated[float, typer.Option(help="Of the scores in the loss.")] = 0.05,
    learn_temperature: Annotated[bool, typer.Option("--learn-temperature", help="Train it, too.")] = False,
    positives: Annotated[str, typer.Option(help="Of several: joint, or each against the negatives.")] = "joint",
    auxiliary_weight: Annotated[float, typer.Option(help="Of what is on scores, beside the next-token loss.")] = 0.1,
    contrastive_weight: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 1.0,
    distillation_weight: Annotated[float, typer.Option(help="Of the divergence from the lists' scores.")] = 0.0,
    teacher_temperature: Annotated[float, typer.Option(help="Of the lists' scores.")] = 1.0,
    anchor_weight: Annotated[float, typer.Option(help="Of the mean squared distance from the start.")] = 0.0,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="The highest.")] = 1e-4,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which it rises.")] = 0.05,
    schedule: Annotated[str, typer.Option(help="After that: cosine or constant.")] = "cosine",
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 leaves it.")] = 1.0,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16 (mixed).")] = "float32",
    alpha: Annotated[float, typer.Option(help="How far to go from the start to what was learnt (WiSE-FT).")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.", min=0)] = 0,
    evaluate_every: Annotated[
        int, typer.Option(help="Steps between measurements on --dev; 0: ends only.", min=0)
    ] = 100,
    patience: Annotated[int, typer.Option(help="Measurements without gain after which it stops; 0: none.", min=0)] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between states to go on from.", min=1)] = 100,
    dev_queries: Annotated[int | None, typer.Option(help="Of each --dev, the first so many.", min=1)] = None,
    dev_depth: Annotated[int, typer.Option(help="Candidates per query of --dev.", min=1)] = 100,
    json: JsonOption = False,
) -> None:
    """Train a reranker to attend to what answers; the same command goes on where it was interrupted."""
    from ..training import load_learner
    from ..training.card import Origin, describe_data
    from ..training.config import TrainingConfig
    from ..training.dev import load_dev_sets
    from ..training.examples import Source, load_sources
    from ..training.lists import Sampling
    from ..training.loss import Objective
    from ..training.trainer import Progress
    from ..training.trainer import train as run_training

    config = TrainingConfig(
        steps=steps,
        epochs=epochs,
        lists=lists,
        accumulation=accumulation,
        learning_rate=learning_rate,
        warmup=warmup,
        schedule=cast(Any, schedule),
        weight_decay=weight_decay,
        clip=clip,
        precision=cast(Any, precision),
        seed=seed,
        evaluate_every=evaluate_every,
        patience=patience,
        save_every=save_every,
        alpha=alpha,
    )
    objective = Objective(
        temperature=temperature,
        learn_temperature=learn_temperature,
        positives=cast(Any, positives),
        auxiliary_weight=auxiliary_weight,
        contrastive_weight=contrastive_weight,
        distillation_weight=distillation_weight,
        teacher_temperature=teacher_temperature,
        anchor_weight=anchor_weight,
    )
    sources = [Source.parse(text) for text in data]
    sampling = Sampling(
        documents=_range(documents),
        in_batch=in_batch,
        drop_titles=drop_titles,
        shuffle_sentences=shuffle_sentences,
        weights={source.name: source.weight for source in sources},
    )
    options = {name: _option(name, value) for name, value in _pairs(option, "--option")}
    options |= {name: value for name, value in (("layout", layout), ("lora", lora)) if value is not None}
    flags = (("next_token", next_token), ("gradient_checkpointing", gradient_checkpointing))
    options |= {name: True for name, asked in flags if asked}
    measured = load_dev_sets(
        [Source.parse(text, "dev") for text in dev or []],
        _pairs(dev_run, "--dev-run"),
        depth=dev_depth,
        max_queries=dev_queries,
    )
    examples = load_sources(sources, _pairs(run, "--run"), min_grade=min_grade, depth=depth)
    learner = load_learner(model, **options)
    if not errors.is_terminal:  # no bar is seen there: lines are
        logging.getLogger("sightline.training").setLevel(logging.INFO)
    with progress_bar("training") as tell:
        last: dict[str, float] = {}

        def show(now: Progress) -> None:
            last.update(now.dev)
            found = f", nDCG@10 {last['mean']:.4f}" if last else ""
            tell(f"training, {now.steps} steps, loss {now.loss:.4f}{found}", now.step)

        summary = run_training(
            learner,
            examples,
            out,
            config=config,
            sampling=sampling,
            objective=objective,
            dev=measured,
            origin=Origin(
                base=model.removeprefix("hf:"),
                options=options,
                data=describe_data(sources, examples, dict(_pairs(licence, "--licence"))),
                command=["sightline", *sys.argv[1:]],
            ),
            progress=show,
        )
    if json:
        write_json(summary)
        return
    if summary["dev"]:
        console.print(_gains(summary))
    told = f"{out}: weights of step {summary['kept_step']} of {summary['steps']}; the card is {out / 'README.md'}"
    console.print(visible(told), style="dim", markup=False, highlight=False, soft_wrap=True)


def _pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` options, in their order; a name may come several times."""
    found = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text!r} is not NAME=VALUE")
        found.append((name, value))
    return found


def _option(name: str, value: str) -> Any:
    try:
        return parse_yaml(value)
    except DataError as error:
        raise InputError(f"--option {name}: {error.reason}") from None


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise InputError(f"--documents {text!r} is not LOW-HIGH, such as 10-200") from None


def _gains(summary: dict[str, Any]) -> Table:
    table = Table(title=Text(visible(f"{summary['learner']}: nDCG@10 on dev")))
    table.add_column("", no_wrap=True)
    for name in ("queries", "before", "after", "difference", "95 %", "p"):
        table.add_column(name, justify="right")
    for name, row in summary["dev"].items():
        by = row["difference"]
        table.add_row(
            Text(visible(name)),
            str(row["queries"]),
            f"{row['before']['mean']:.4f}",
            f"{row['after']['mean']:.4f}",
            f"{by['mean']:+.4f}",
            f"{by['low']:+.3f} {by['high']:+.3f}",
            f"{row['p']:.4f}",
        )
    return table
