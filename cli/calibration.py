"""``sightline calibrate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .console import print_line, print_table, progress_bar, visible, write_json
from .options import FirstStageOption, JsonOption, MaxQueriesOption, PerQueryOption, SplitOption, WorkOption
from .running import equal_datasets

if TYPE_CHECKING:
    from ..eval.relevance import Calibrated

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "calibrate",
        rich_help_panel="Evaluate",
        epilog="Example: sightline calibrate minilm data/nq_train:dev data/cacm:test --out mine.yaml",
    )(calibrate)


def calibrate(
    reranker: Annotated[str, typer.Argument(help="The reranker: any name that --rerank takes.")],
    datasets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET...",
            help="A BEIR folder, or ir:ID, mteb:TASK, nano:NAME. Write DATASET:SPLIT for another split.",
        ),
    ],
    split: SplitOption = "test",
    first_stage: FirstStageOption = "hybrid",
    candidates: PerQueryOption = 100,
    max_queries: MaxQueriesOption = None,
    work: WorkOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Layout file to write (.yaml): the reranker's own layout with the fitted numbers."),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Write the numbers into layout.yaml of the trained folder RERANKER.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fit the two numbers that turn a reranker's scores into relevance, the probability that a document is relevant.

    Every collection has the same weight, and so has every query within it. Candidates that nobody judged count as not
    relevant, so use well-judged collections, and none that you evaluate on.
    """
    from ..eval.relevance import calibrate_reranker, check_layout_file, save_calibration

    target = check_layout_file(reranker, out, save)
    loaded = equal_datasets(datasets, split, max_queries, "DATASET")
    with progress_bar("calibrating") as tell:
        fitted = calibrate_reranker(
            reranker, loaded, first_stage=first_stage or "hybrid", candidates=candidates, work=work, progress=tell
        )
    if target is not None:
        save_calibration(fitted, target)
    if json:
        write_json(_as_json(fitted, target))
        return
    print_table(_table(fitted))
    print_line(f"slope {fitted.relevance.slope:.6g}, offset {fitted.relevance.offset:.6g}")
    if target is not None:
        print_line(f"written to {target}", "dim")


def _as_json(fitted: Calibrated, target: Path | None) -> dict[str, Any]:
    return {
        "reranker": fitted.reranker.name,
        **dataclasses.asdict(fitted.relevance),
        "collections": {name: dataclasses.asdict(one) for name, one in fitted.collections.items()},
        "file": None if target is None else str(target),
    }


def _table(fitted: Calibrated) -> Table:
    title = (
        f"{fitted.reranker.name}: relevance on the collections that it was fitted on; unjudged candidates count as not "
        "relevant"
    )
    table = Table(title=Text(visible(title)))
    table.add_column("collection", no_wrap=True)
    for name in ("queries", "candidates", "relevant", "ECE", "ECE, held out", "AUROC, lists", "AUROC, documents"):
        table.add_column(name, justify="right")
    for name, one in fitted.collections.items():
        quality = one.quality
        areas = (quality.auroc_lists, quality.auroc_documents)
        table.add_row(
            Text(visible(name)),
            str(quality.unanswered),
            str(quality.documents),
            str(quality.relevant),
            f"{quality.calibration_error.mean:.4f}",
            "-" if one.held_out_error is None else f"{one.held_out_error:.4f}",
            *("-" if area is None else f"{area.mean:.4f}" for area in areas),
        )
    return table
