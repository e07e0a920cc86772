"""``sightline bias``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .console import given_runs, names, print_line, print_table, progress_bar, visible, write_json
from .options import (
    CANDIDATES,
    COLLECTION,
    MEASURING,
    IndexOption,
    JsonOption,
    QrelsOption,
    RunsOption,
    SplitOption,
    SystemsOption,
)

if TYPE_CHECKING:
    from ..eval.biases import DocumentRow, OrderRow, PositionRow, Psi

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "bias",
        rich_help_panel="Evaluate",
        epilog="Example: sightline bias data/squad_dev --systems dense,dense+minilm --out results/squad_bias",
    )(bias)


def bias(
    folder: Annotated[
        Path, typer.Argument(help="A BEIR folder (with spans.tsv for positions), a PosIR folder, or SQuAD.")
    ],
    systems: SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for report.html, bias.json, what eval writes, and the index.")],
    kind: Annotated[
        str,
        typer.Option(
            help="Kinds of bias, comma-separated: order (of candidates), position (of evidence), documents; or all."
        ),
    ] = "all",
    split: SplitOption = "test",
    qrels: QrelsOption = None,
    max_queries: Annotated[
        int | None,
        typer.Option(help="Use only this many queries, drawn by --seed.", min=1, rich_help_panel=COLLECTION),
    ] = None,
    run: RunsOption = None,
    index: IndexOption = None,
    candidates: Annotated[
        int, typer.Option(help="Number of candidates of each query, for position.", min=1, rich_help_panel=CANDIDATES)
    ] = 100,
    list_length: Annotated[
        int,
        typer.Option(
            help="Number of documents in each list, for order and documents.", min=2, rich_help_panel=CANDIDATES
        ),
    ] = 30,
    measure: Annotated[
        str,
        typer.Option(
            help="The measure of quality, as ir_measures names it. Success@1 is accuracy.", rich_help_panel=MEASURING
        ),
    ] = "nDCG@10",
    permutations: Annotated[
        int, typer.Option(help="Number of random orders of each list.", min=2, rich_help_panel=MEASURING)
    ] = 10,
    seed: Annotated[
        int, typer.Option(help="Seed of samples, permutations and intervals.", min=0, rich_help_panel=MEASURING)
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Measure how results depend on the order of candidates, the place of the evidence, and properties of documents."""
    from ..eval.bias import KINDS, load_positions, measure_bias

    kinds = KINDS if kind == "all" else names(kind)
    dataset = load_positions(folder, split, qrels=qrels)
    if max_queries is not None:
        dataset = dataset.sampled(max_queries, seed)
    with progress_bar("measuring") as tell:
        results = measure_bias(
            dataset,
            names(systems),
            out,
            kinds=kinds,
            measure=measure,
            candidates=candidates,
            list_length=list_length,
            permutations=permutations,
            seed=seed,
            runs=given_runs(run),
            index=index,
            command=["sightline", *sys.argv[1:]],
            progress=tell,
        )
    if json:
        write_json(results.as_json())
        return
    title = f"{results.dataset}, {results.split}: {results.queries} queries"
    tables = _order(results.order, title), _positions(results.position, title), _documents(results.documents, title)
    for table in filter(None, tables):
        print_table(table)
    print_line(f"curves, bins and intervals: {out / 'report.html'}; figures: {out / 'bias.json'}", "dim")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(visible(title)))
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(Text(visible(name)), justify="right")
    return table


def _order(rows: Sequence[OrderRow], title: str) -> Table | None:
    if not rows:
        return None
    about = f"{title}; order of the candidates, {rows[0].permutations} permutations"
    table = _table(about, [row.system for row in rows])
    for label, cells in (
        ("lists", [str(row.queries) for row in rows]),
        ("Kendall's tau", [_cell(row.tau) for row in rows]),
        ("preference instability (PPI)", [_cell(row.ppi) for row in rows]),
        ("preference inconsistency (GPI)", [_cell(row.gpi) for row in rows]),
        ("rank variance", [_cell(row.rank_variance) for row in rows]),
        (f"{rows[0].measure}, mean", [_cell(row.ndcg.mean) for row in rows]),
        ("worst and best order", [f"{_cell(row.ndcg.min)} {_cell(row.ndcg.max)}" for row in rows]),
        ("ends minus middle", [_cell(row.ends_minus_middle) for row in rows]),
        ("PSI over slots", [_psi(row.slot_psi) for row in rows]),
    ):
        table.add_row(label, *cells)
    return table


def _positions(rows: Sequence[PositionRow], title: str) -> Table | None:
    """A row for each axis, length and system: the mean, PSI, and the bins that are worst and best."""
    if not rows:
        return None
    table = _table(f"{title}; {rows[0].measure} by the answer's position", ["mean of bins", "PSI", "worst", "best"])
    for row in rows:
        axis = {"start": "first character", "relative": "relative position"}[row.axis]
        about = f"{row.system}, {axis}{'' if row.length == 'all' else f', {row.length} tokens'}"
        means = [(bin.mean, bin.label) for bin in row.bins if bin.mean is not None]
        ends = (
            f"{label}: {_cell(mean)}" for mean, label in (pick(means, key=lambda item: item[0]) for pick in (min, max))
        )
        table.add_row(Text(visible(about)), _cell(row.mean), _psi(row.psi), *ends)
    return table


def _documents(rows: Sequence[DocumentRow], title: str) -> Table | None:
    if not rows:
        return None
    table = _table(f"{title}; length, copies, twins, ids", [row.system for row in rows])
    for label, name in (
        ("short relevant above longest other", "gold_above_longest"),
        ("tau of length and rank", "length_tau"),
        ("fall by one copy", "copy_gold_rank_change"),
        ("changed by exchanged ids", "ids_exchanged_changed"),
    ):
        table.add_row(label, *(_cell(row.facts.get(name)) for row in rows))
    table.add_row("PSI over lengths", *(_psi(row.psi) for row in rows))
    return table


def _cell(value: Any) -> str:
    """A number, or a mean with its interval."""
    from ..eval.significance import Interval

    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return _between(value["mean"], value["low"], value["high"])
    if isinstance(value, Interval):
        return _between(value.mean, value.low, value.high)
    if isinstance(value, int):
        return str(value)
    return "0" if value == 0 else f"{value:.4f}" if abs(value) >= 5e-5 else f"{value:.1e}"


def _between(middle: float | None, low: float | None, high: float | None) -> str:
    return f"{_cell(middle)} ({_cell(low)} {_cell(high)})"


def _psi(psi: Psi | None) -> str:
    if psi is None or psi.value is None or psi.p is None:
        return "undefined"
    return f"{_between(psi.value, psi.low, psi.high)} p {psi.p:.4f}"
