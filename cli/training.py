"""``sightline mine`` and ``train``."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError, InputError
from ..parsing import parse_yaml
from ..training.config import Mining, Objective, Sampling, TrainingConfig
from ..wording import did_you_mean
from .console import console, errors, given_runs, print_line, progress_bar, visible, write_json
from .options import (
    EncoderOption,
    IndexOption,
    JsonOption,
    MaxQueriesOption,
    PerQueryOption,
    RunsOption,
    SplitOption,
    SystemOption,
)
from .running import check_path
from .settings import SettingsOptions, takes_settings

if TYPE_CHECKING:
    from ..training.examples import Source
    from ..training.mining import MinedCounts
    from ..training.summary import TrainingSummary
    from ..training.trainer import Progress

__all__ = ["register"]

_DATA, _MODEL, _OPTIMISATION, _SAVING = "Data", "Model", "Optimisation", "Measuring and saving"
_NEGATIVES = "Negatives"
_MINING = SettingsOptions(kind=Mining, panel=_NEGATIVES, left_out=("kind",))
_CONFIG = SettingsOptions(
    kind=TrainingConfig,
    panel=_OPTIMISATION,
    panels={"alpha": _MODEL, "evaluate_every": _SAVING, "patience": _SAVING, "save_every": _SAVING},
    names={"learning_rate": ("--learning-rate", "--lr")},
    shown={"learning_rate": "1e-3 for minilm with a frozen encoder, else 1e-4"},
)
_SAMPLING = SettingsOptions(kind=Sampling, panel=_DATA, left_out=("weights",))
_OBJECTIVE = SettingsOptions(kind=Objective, panel="Loss", shown={"temperature": "1 for minilm, 0.05 for hf:MODEL"})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "mine",
        rich_help_panel="Train",
        epilog="Example: sightline mine data/nq_train --split train --system dense+minilm --out nq_hard.jsonl",
    )(mine)
    app.command(
        "train",
        rich_help_panel="Train",
        epilog="Example: sightline train minilm data/nq_train data/medquad@0.5 --dev data/nq_train --out trained "
        "--steps 500",
    )(train)
    app.command("push", rich_help_panel="Train", epilog="Example: sightline push trained me/my-reranker --private")(
        push
    )


@takes_settings(_MINING)
def mine(
    folder: Annotated[Path, typer.Argument(help="A BEIR folder, or ir:ID, mteb:TASK, nano:NAME.")],
    system: SystemOption,
    out: Annotated[
        Path, typer.Option(help="JSONL file to write, with the fields query, pos, neg, pos_scores and neg_scores.")
    ],
    split: SplitOption = "train",
    max_queries: MaxQueriesOption = None,
    run: RunsOption = None,
    index: IndexOption = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for the index and results, which are used again. By default beside --out."),
    ] = None,
    candidates: PerQueryOption = 100,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Take --margin as a difference of scores.", rich_help_panel=_NEGATIVES)
    ] = False,
    no_margin: Annotated[
        bool,
        typer.Option(
            "--no-margin", help="Keep every candidate that is not judged relevant.", rich_help_panel=_NEGATIVES
        ),
    ] = False,
    encoder: EncoderOption = "minilm",
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Mine hard negatives: documents that a system ranks high and that are probably not relevant."""
    from ..eval.loading import load_dataset
    from ..training.examples import write_examples
    from ..training.mining import mine_run, run_system

    if no_margin:
        settings["margin"] = None
    mining = _MINING.build(settings, kind="absolute" if absolute else "relative")
    dataset = load_dataset(folder, split, max_queries=max_queries)
    with progress_bar("mining") as tell:
        ranked = run_system(
            dataset,
            system,
            work or out.with_suffix(".mining"),
            candidates=candidates,
            runs=given_runs(run),
            index=index,
            settings={"encoder": encoder},
            command=["sightline", *sys.argv[1:]],
            progress=tell,
        )
    examples, counts = mine_run(dataset, ranked, mining)
    write_examples(out, examples)
    if json:
        write_json({"out": str(out), **dataclasses.asdict(counts)})
        return
    print_line(f"{out}: {_mined(counts)}")


def _mined(counts: MinedCounts) -> str:
    """What was kept, what was left out, and why."""
    left_out = (
        (counts.without_positive, "questions without a relevant document that has a text"),
        (counts.without_score, "questions for which the system found no relevant document to compare scores with"),
        (counts.without_negative, "questions that had no candidate left"),
        (counts.too_high, "candidates that score nearly as high as a relevant document, and may be relevant"),
        (counts.same_text, "candidates with the text of a relevant document"),
    )
    reasons = [f"{count} {what}" for count, what in left_out if count]
    kept = f"{counts.lists} lists with {counts.negatives} negatives"
    return f"{kept}; left out: {'; '.join(reasons)}" if reasons else f"{kept}; nothing was left out"


@takes_settings(_CONFIG, _SAMPLING, _OBJECTIVE)
def train(
    model: Annotated[
        str,
        typer.Argument(
            help="What to train: minilm; a readout of encoder:MODEL or late-interaction:MODEL; or a decoder, smollm2 "
            "or hf:MODEL."
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Training data: FOLDER:SPLIT@WEIGHT or lists.jsonl@WEIGHT. By default the split is train and the "
            "weight 1.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the weights and the model card. An interrupted run in it continues.")
    ],
    dev: Annotated[
        list[str] | None,
        typer.Option(
            "--dev",
            rich_help_panel=_DATA,
            help="Collection to measure on: FOLDER:SPLIT. The default split is dev. You can give several.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            rich_help_panel=_DATA,
            help="NAME=FILE adds a run's candidates to those of a source. You can give several.",
        ),
    ] = None,
    dev_run: Annotated[
        list[str] | None,
        typer.Option(
            "--dev-run",
            rich_help_panel=_DATA,
            help="NAME=FILE gives candidates to measure on, in the place of bm25.SPLIT.tsv.",
        ),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", rich_help_panel=_DATA, help="NAME=TEXT states the licence of a source in the model card."
        ),
    ] = None,
    min_grade: Annotated[
        int, typer.Option(rich_help_panel=_DATA, help="Lowest grade that counts as relevant.", min=1)
    ] = 1,
    candidates: Annotated[
        int,
        typer.Option(
            rich_help_panel=_DATA,
            help="Number of candidates of each first stage from which negatives are drawn.",
            min=1,
        ),
    ] = 100,
    dev_queries: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_DATA,
            help="Number of queries of each --dev to measure on, the first ones. By default all.",
            min=1,
        ),
    ] = None,
    dev_candidates: Annotated[
        int,
        typer.Option(rich_help_panel=_DATA, help="Number of candidates of each --dev query that are reranked.", min=1),
    ] = 100,
    layout: Annotated[
        str | None, typer.Option(rich_help_panel=_MODEL, help="Layout that a decoder learns, such as blockrank.")
    ] = None,
    lora: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_MODEL,
            help="Rank of the LoRA adapters to train. Without it, all weights of a decoder are trained.",
            min=1,
        ),
    ] = None,
    next_token: Annotated[
        bool,
        typer.Option("--next-token", rich_help_panel=_MODEL, help="Let a decoder also learn to write the answer."),
    ] = False,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            rich_help_panel=_MODEL,
            help="Save memory of a decoder by computing activations twice.",
        ),
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            rich_help_panel=_MODEL,
            help="NAME=VALUE sets any other option of the learner; VALUE is read as YAML.",
        ),
    ] = None,
    json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a reranker on questions with relevant and other documents.

    An interrupted run continues when you give the same command again.
    """
    from ..training import check_learner, load_learner
    from ..training.card import Origin, describe_data
    from ..training.dev import load_dev_sets
    from ..training.examples import load_sources
    from ..training.trainer import train as run_training

    check_learner(model)
    sources, dev_sources = _sources(data, "train"), _sources(dev, "dev")
    runs, dev_runs = _pairs(run, "--run"), _pairs(dev_run, "--dev-run")
    config, objective = _CONFIG.build(settings), _OBJECTIVE.build(settings)
    sampling = _SAMPLING.build(settings, weights={source.name: source.weight for source in sources})
    options = {name: _option(name, value) for name, value in _pairs(option, "--option")}
    named = {"layout": layout, "lora": lora, "next_token": next_token, "gradient_checkpointing": gradient_checkpointing}
    options |= {name: value for name, value in named.items() if value}
    measured = load_dev_sets(dev_sources, dev_runs, candidates=dev_candidates, max_queries=dev_queries)
    examples = load_sources(
        sources, runs, min_grade=min_grade, candidates=candidates, needs_negatives=not sampling.in_batch
    )
    learner = load_learner(model, **options)
    if not errors.is_terminal:  # no bar is seen there: lines are
        logging.getLogger("sightline.training").setLevel(logging.INFO)
    with progress_bar("training") as tell:
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
            progress=_shown(tell),
        )
    _report(summary, out, json)


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that sightline train wrote.")],
    repository: Annotated[
        str, typer.Argument(help="Repository on the Hugging Face hub, OWNER/NAME, which is made if it does not exist.")
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch to write to, which is made if it does not exist.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    json: JsonOption = False,
) -> None:
    """Upload a trained reranker to the Hugging Face hub; hf:OWNER/NAME loads it.

    The hub's own login is used: the environment variable HF_TOKEN, or what "hf auth login" stored.
    """
    from ..rerank.hub import push_to_hub

    commit = push_to_hub(folder, repository, revision=revision, private=private or None)
    write_json({"commit": commit}) if json else print_line(commit)


def _sources(texts: list[str] | None, split: str) -> list[Source]:
    """The sources that arguments name.

    Raises:
        DataError: if one of them does not exist.
    """
    from ..training.examples import Source

    sources = [Source.parse(text, split) for text in texts or []]
    for source in sources:
        path = Path(source.path)
        check_path(path, "DATA")
        if not source.in_catalogue and not path.exists():
            near = did_you_mean(path.name, [neighbour.name for neighbour in path.parent.glob("*")])
            raise DataError(f"no such {'file' if source.is_file else 'folder'}{near}", path=path)
    return sources


def _shown(tell: Callable[..., None]) -> Callable[[Progress], None]:
    """A function that shows how far a run has come, with the quality that was measured last."""
    last: dict[str, float] = {}

    def show(now: Progress) -> None:
        last.update(now.dev)
        quality = f", nDCG@10 {last['mean']:.4f}" if last else ""
        tell("training", now.step, total=now.steps, detail=f"loss {now.loss:.4f}{quality}")

    return show


def _report(summary: TrainingSummary, out: Path, json: bool) -> None:
    if json:
        write_json(summary.as_dict())
        return
    if summary.dev:
        console.print(_gains(summary))
    print_line(f"{out}: weights of step {summary.kept_step} of {summary.steps}; the card is {out / 'README.md'}", "dim")


def _pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` options, in their order; a name may come several times."""
    pairs = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{option} {text!r} is not NAME=VALUE")
        pairs.append((name, value))
    return pairs


def _option(name: str, value: str) -> Any:
    try:
        return parse_yaml(value)
    except DataError as error:
        raise InputError(f"--option {name}: {error.reason}") from None


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
