"""``sightline tune``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from .console import print_line, print_table, progress_bar, visible, write_json
from .options import (
    CANDIDATES,
    FirstStageOption,
    JsonOption,
    MaxQueriesOption,
    PerQueryOption,
    SplitOption,
    WorkOption,
)
from .running import equal_datasets

if TYPE_CHECKING:
    from ..eval.tuning import Tuned

__all__ = ["register"]

_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "tune",
        rich_help_panel="Evaluate",
        epilog="Example: sightline tune encoder:MODEL --dev data/nq_train:dev --dev data/cacm --out mine.yaml",
    )(tune)


def tune(
    reader: Annotated[
        str, typer.Argument(help="Block reader to tune: encoder:MODEL, late-interaction:MODEL, or minilm.")
    ],
    dev: Annotated[
        list[str],
        typer.Option(
            "--dev",
            metavar="DATASET",
            help="Dev collection: a BEIR folder, or ir:ID, mteb:TASK, nano:NAME. Write DATASET:SPLIT for another "
            "split. Give several, and none that you evaluate on.",
        ),
    ],
    split: SplitOption = "test",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder that embeds the collections.",
            show_default="the reader; minilm for late-interaction:MODEL",
            rich_help_panel=CANDIDATES,
        ),
    ] = None,
    first_stage: FirstStageOption = "hybrid",
    candidates: PerQueryOption = 100,
    max_queries: MaxQueriesOption = None,
    work: WorkOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Layout file to write (.yaml), which --rerank takes. Its name is the file's.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Choose readout, scale and fusion weights for a model's token states, and tell whether reading them helps.

    Not every encoder's token states rank well. The gain over the better of the embedding and the first stage alone is
    measured on queries that the choice did not see, and every collection has the same weight.
    """
    from ..eval.output import writable_file
    from ..eval.tuning import save_layout, tune_reader

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise InputError(f"out is a layout, whose name ends in .yaml, not {out}")
    target = None if out is None else writable_file(out)
    loaded = equal_datasets(dev, split, max_queries, "--dev")
    with progress_bar("tuning") as tell:
        tuned = tune_reader(
            reader,
            loaded,
            name="tuned" if out is None else "-".join(out.stem.split()),
            encoder=encoder,
            first_stage=first_stage or "hybrid",
            candidates=candidates,
            work=work,
            progress=tell,
        )
    if target is not None:
        save_layout(tuned.layout, target)
    if json:
        write_json(_as_json(tuned, target))
        return
    print_table(_table(tuned))
    best = sorted(tuned.means.items(), key=lambda item: -item[1])[:_SHOWN]
    print_line("best means: " + "; ".join(f"{value:.4f} {trial}" for trial, value in best), "dim")
    print_line(f"chosen: {tuned.trial}")
    gain, baseline = tuned.gain, "the embedding" if tuned.baseline == "dense" else tuned.baseline
    print_line(
        f"{'yes' if tuned.better else 'no'}: reading the token states gives {gain.mean:+.4f} nDCG@10 over {baseline} "
        f"alone, on queries that the choice did not see (95 % interval {gain.low:+.4f} to {gain.high:+.4f})"
    )
    if not tuned.better:
        print_line(f"search with --rerank none, or try another reader; nothing shows that this one beats {baseline}")
    if target is not None:
        print_line(f"written to {target}", "dim")


def _as_json(tuned: Tuned, target: Path | None) -> dict[str, Any]:
    return {
        "reader": tuned.layout.reader,
        "layout": tuned.layout.as_dict(),
        "better": tuned.better,
        "baseline": tuned.baseline,
        "gain": dataclasses.asdict(tuned.gain),
        "collections": {name: dataclasses.asdict(one) for name, one in tuned.collections.items()},
        "trials": {str(trial): mean for trial, mean in tuned.means.items()},
        "file": None if target is None else str(target),
    }


def _table(tuned: Tuned) -> Table:
    table = Table(title=Text(visible(f"{tuned.layout.reader}: nDCG@10 on the collections that it was tuned on")))
    table.add_column("collection", no_wrap=True)
    for name in ("queries", "dense", "first stage", "chosen", "chosen without it"):
        table.add_column(name, justify="right")
    for name, one in tuned.collections.items():
        means = (one.dense, one.first_stage, one.chosen, one.held_out)
        table.add_row(Text(visible(name)), str(one.queries), *(f"{value.mean:.4f}" for value in means))
    return table
