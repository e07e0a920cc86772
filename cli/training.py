"""``sightline mine`` and ``train``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError, InputError
from ..parsing import parse_yaml
from ..wording import did_you_mean
from .console import JsonOption, console, errors, given_runs, progress_bar, visible, write_json
from .running import check_path

if TYPE_CHECKING:
    from ..training.examples import Source
    from ..training.mining import MinedCounts
    from ..training.summary import TrainingSummary

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
    out: Annotated[
        Path, typer.Option(help="The JSONL file to write, with the fields query, pos, neg, pos_scores and neg_scores.")
    ],
    split: Annotated[str, typer.Option(help="The split to mine, as in qrels/SPLIT.tsv.")] = "train",
    run: Annotated[
        list[str] | None, typer.Option("--run", help="A given first stage: NAME=FILE, see rerank --out.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Search this index instead of making one under --work.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="The folder for the index and results, which are used again. By default beside --out."),
    ] = None,
    depth: Annotated[int, typer.Option(help="How many candidates each query gets.", min=1)] = 100,
    negatives: Annotated[
        int, typer.Option(help="How many negatives a list keeps at most, the hardest ones.", min=1)
    ] = 50,
    skip: Annotated[int, typer.Option(help="How many ranks at the top to leave out.", min=0)] = 0,
    margin: Annotated[
        float,
        typer.Option(
            help="Negatives score below this fraction of the lowest positive; with --absolute, lower by this."
        ),
    ] = 0.95,
    absolute: Annotated[bool, typer.Option("--absolute", help="Take --margin as a difference of scores.")] = False,
    no_margin: Annotated[
        bool, typer.Option("--no-margin", help="Keep every candidate that is not judged relevant.")
    ] = False,
    min_grade: Annotated[int, typer.Option(help="The lowest grade that counts as relevant.", min=1)] = 1,
    max_queries: Annotated[int | None, typer.Option(help="Only the first so many queries.", min=1)] = None,
    encoder: Annotated[str, typer.Option(help="Bi-encoder for dense and hybrid.")] = "minilm",
    json: JsonOption = False,
) -> None:
    """Mine hard negatives: documents that a system ranks high and that are probably not relevant."""
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
    told = _mined(counts)
    console.print(visible(f"{out}: {told}"), markup=False, highlight=False, soft_wrap=True)


def _mined(counts: MinedCounts) -> str:
    """What was kept, and what was left out for which reason."""
    left_out = (
        (counts.without_positive, "questions without a relevant document that has a text"),
        (counts.without_score, "questions for which the system found no relevant document to compare scores with"),
        (counts.without_negative, "questions that had no candidate left"),
        (counts.too_high, "candidates that score nearly as high as a relevant document, and may be relevant"),
        (counts.same_text, "candidates with the text of a relevant document"),
    )
    told = [f"{count} {what}" for count, what in left_out if count]
    kept = f"{counts.lists} lists with {counts.negatives} negatives"
    return f"{kept}; left out: {'; '.join(told)}" if told else f"{kept}; nothing was left out"


def train(
    model: Annotated[str, typer.Argument(help="What to train: minilm, or hf:MODEL for a decoder.")],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="FOLDER:SPLIT@WEIGHT or lists.jsonl@WEIGHT. By default train and 1.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="The folder for the weights and their model card. An interrupted run in it goes on.")
    ],
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev",
            rich_help_panel="Data",
            help="FOLDER:SPLIT to measure on; by default dev. You may give several.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            rich_help_panel="Data",
            help="NAME=FILE adds a run's candidates to those of a source. You may give several.",
        ),
    ] = None,
    dev_run: Annotated[
        list[str] | None,
        typer.Option(
            "--dev-run",
            rich_help_panel="Data",
            help="NAME=FILE gives candidates to measure on, in place of bm25.SPLIT.tsv.",
        ),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", rich_help_panel="Data", help="NAME=TEXT states the licence of a source in the model card."
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(rich_help_panel="Model", help="The layout that a decoder learns, such as blockrank.")
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Model",
            help="Train LoRA adapters of this rank. Without it, a decoder is trained whole.",
            min=1,
        ),
    ] = None,
    next_token: Annotated[
        bool,
        typer.Option("--next-token", rich_help_panel="Model", help="Let a decoder also learn to write the answer."),
    ] = False,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            rich_help_panel="Model",
            help="Save memory of a decoder by computing activations twice.",
        ),
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            rich_help_panel="Model",
            help="NAME=VALUE sets any other option of the learner; VALUE is read as YAML.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(rich_help_panel="Optimisation", help="How many updates to make; give this or --epochs.", min=1),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Optimisation", help="How many passes over the data to make; give this or --steps."
        ),
    ] = None,
    lists: Annotated[int, typer.Option(rich_help_panel="Optimisation", help="How many lists a batch has.", min=1)] = 8,
    accumulation: Annotated[
        int, typer.Option(rich_help_panel="Optimisation", help="How many batches make one update.", min=1)
    ] = 1,
    documents: Annotated[
        str, typer.Option(rich_help_panel="Data", help="How many documents a list has, LOW-HIGH.")
    ] = "10-200",
    in_batch: Annotated[
        float,
        typer.Option(
            rich_help_panel="Data",
            help="Share of the negatives that are taken from the other lists of a step, from 0 to 1.",
        ),
    ] = 0.0,
    drop_titles: Annotated[
        float, typer.Option(rich_help_panel="Data", help="Probability that a list's documents lose their titles.")
    ] = 0.0,
    shuffle_sentences: Annotated[
        float, typer.Option(rich_help_panel="Data", help="Probability that the sentences of a document are shuffled.")
    ] = 0.0,
    min_grade: Annotated[
        int, typer.Option(rich_help_panel="Data", help="The lowest grade that counts as relevant.", min=1)
    ] = 1,
    depth: Annotated[
        int,
        typer.Option(
            rich_help_panel="Data", help="Candidates of each first stage that negatives are drawn from.", min=1
        ),
    ] = 100,
    temperature: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Loss",
            help="Divides the scores in the loss; too low a value makes the loss 0 and nothing is learnt.",
            show_default="1 for minilm, 0.05 for hf:MODEL",
        ),
    ] = None,
    learn_temperature: Annotated[
        bool, typer.Option("--learn-temperature", rich_help_panel="Loss", help="Train the temperature too.")
    ] = False,
    positives: Annotated[
        str,
        typer.Option(
            rich_help_panel="Loss",
            help="Count several relevant documents together (joint), or each on its own against the others (each).",
        ),
    ] = "joint",
    auxiliary_weight: Annotated[
        float,
        typer.Option(
            rich_help_panel="Loss", help="With --next-token: weight of the ranking loss beside the next-token loss."
        ),
    ] = 0.1,
    contrastive_weight: Annotated[
        float, typer.Option(rich_help_panel="Loss", help="Weight of the contrastive loss.")
    ] = 1.0,
    distillation_weight: Annotated[
        float,
        typer.Option(rich_help_panel="Loss", help="Weight of learning the scores that the lists carry (distillation)."),
    ] = 0.0,
    teacher_temperature: Annotated[
        float, typer.Option(rich_help_panel="Loss", help="Divides the scores that the lists carry.")
    ] = 1.0,
    anchor_weight: Annotated[
        float,
        typer.Option(rich_help_panel="Loss", help="Weight of the penalty on moving away from the initial weights."),
    ] = 0.0,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            rich_help_panel="Optimisation",
            help="The highest learning rate of the run.",
            show_default="1e-3 for minilm with a frozen encoder, else 1e-4",
        ),
    ] = None,
    warmup: Annotated[
        float,
        typer.Option(rich_help_panel="Optimisation", help="Share of the steps over which the learning rate rises."),
    ] = 0.05,
    schedule: Annotated[
        str,
        typer.Option(
            rich_help_panel="Optimisation", help="How the learning rate goes on after that: cosine or constant."
        ),
    ] = "cosine",
    weight_decay: Annotated[float, typer.Option(rich_help_panel="Optimisation", help="Weight decay of AdamW.")] = 0.0,
    clip: Annotated[
        float, typer.Option(rich_help_panel="Optimisation", help="Clip the gradient to this norm; 0 does not clip.")
    ] = 1.0,
    precision: Annotated[
        str,
        typer.Option(
            rich_help_panel="Optimisation",
            help="Number format to compute in: float32, bfloat16 or float16 (mixed precision).",
        ),
    ] = "float32",
    alpha: Annotated[
        float,
        typer.Option(
            rich_help_panel="Model",
            help="How far to move from the initial weights to the learnt ones, from 0 to 1 (WiSE-FT).",
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(rich_help_panel="Optimisation", help="Seed of everything random in the run.", min=0)
    ] = 0,
    evaluate_every: Annotated[
        int,
        typer.Option(
            rich_help_panel="Measuring and saving",
            help="Steps between measurements on --dev; 0 measures at the start and the end only.",
            min=0,
        ),
    ] = 100,
    patience: Annotated[
        int,
        typer.Option(
            rich_help_panel="Measuring and saving",
            help="Stop after so many measurements without gain; 0 never stops early.",
            min=0,
        ),
    ] = 0,
    save_every: Annotated[
        int,
        typer.Option(
            rich_help_panel="Measuring and saving",
            help="Steps between saved states, from which an interrupted run goes on.",
            min=1,
        ),
    ] = 100,
    dev_queries: Annotated[
        int | None,
        typer.Option(rich_help_panel="Data", help="Measure on the first so many queries of each --dev.", min=1),
    ] = None,
    dev_depth: Annotated[
        int, typer.Option(rich_help_panel="Data", help="How many candidates of each --dev query are reranked.", min=1)
    ] = 100,
    json: JsonOption = False,
) -> None:
    """Train a reranker on questions with relevant and other documents.

    An interrupted run goes on when you give the same command again.
    """
    from ..training import check_learner, load_learner
    from ..training.card import Origin, describe_data
    from ..training.config import TrainingConfig
    from ..training.dev import load_dev_sets
    from ..training.examples import Source, load_sources
    from ..training.lists import Sampling
    from ..training.loss import Objective
    from ..training.trainer import Progress
    from ..training.trainer import train as run_training

    check_learner(model)
    sources = [Source.parse(text) for text in data]
    dev_sources = [Source.parse(text, "dev") for text in dev or []]
    for source in (*sources, *dev_sources):
        _check_there(source)
    runs, dev_runs = _pairs(run, "--run"), _pairs(dev_run, "--dev-run")
    for option_name, files in (("--run", runs), ("--dev-run", dev_runs)):
        for _, file in files:
            check_path(Path(file), option_name)
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
        dev_sources,
        dev_runs,
        depth=dev_depth,
        max_queries=dev_queries,
    )
    examples = load_sources(sources, runs, min_grade=min_grade, depth=depth, needs_negatives=not in_batch)
    learner = load_learner(model, **options)
    if not errors.is_terminal:  # no bar is seen there: lines are
        logging.getLogger("sightline.training").setLevel(logging.INFO)
    with progress_bar("training") as tell:
        last: dict[str, float] = {}

        def show(now: Progress) -> None:
            last.update(now.dev)
            found = f", nDCG@10 {last['mean']:.4f}" if last else ""
            tell("training", now.step, total=now.steps, detail=f"loss {now.loss:.4f}{found}")

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
        write_json(summary.as_dict())
        return
    if summary.dev:
        console.print(_gains(summary))
    told = f"{out}: weights of step {summary.kept_step} of {summary.steps}; the card is {out / 'README.md'}"
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


def _check_there(source: Source) -> None:
    path = Path(source.path)
    check_path(path, "DATA")
    if not source.in_catalogue and not path.exists():
        near = did_you_mean(path.name, [one.name for one in path.parent.glob("*")])
        raise DataError(f"no such {'file' if source.is_file else 'folder'}{near}", path=path)


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


def _gains(summary: TrainingSummary) -> Table:
    table = Table(title=Text(visible(f"{summary.learner}: nDCG@10 on dev")))
    table.add_column("", no_wrap=True)
    for name in ("queries", "before", "after", "difference", "95 %", "p"):
        table.add_column(name, justify="right")
    for name, gain in summary.dev.items():
        by = gain.difference
        table.add_row(
            Text(visible(name)),
            str(gain.queries),
            f"{gain.before.mean:.4f}",
            f"{gain.after.mean:.4f}",
            f"{by.mean:+.4f}",
            f"{by.low:+.3f} {by.high:+.3f}",
            f"{gain.p:.4f}",
        )
    return table
