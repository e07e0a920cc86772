"""``sightline bias``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .console import console, given_runs, names, print_table, progress_bar, visible, write_json
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

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "bias",
        rich_help_panel="Evaluate",
        epilog="Example: sightline bias data/squad_dev --systems dense,dense+minilm --out results/squad_bias",
    )(bias)


def bias(
    folder: Annotated[Path, typer.Argument(help="BEIR folder (with spans.tsv for positions), PosIR folder, or SQuAD.")],
    systems: SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for report.html, bias.json, what eval writes, and the index.")],
    kind: Annotated[
        str, typer.Option(help="Comma-separated: order (of candidates), position (of evidence), documents; or all.")
    ] = "all",
    split: SplitOption = "test",
    qrels: QrelsOption = None,
    max_queries: Annotated[
        int | None,
        typer.Option(help="Only so many queries, drawn by --seed.", min=1, rich_help_panel=COLLECTION),
    ] = None,
    run: RunsOption = None,
    index: IndexOption = None,
    depth: Annotated[
        int, typer.Option(help="Candidates per query, for position.", min=1, rich_help_panel=CANDIDATES)
    ] = 100,
    candidates: Annotated[
        int, typer.Option(help="Documents per list, for order and documents.", min=2, rich_help_panel=CANDIDATES)
    ] = 30,
    measure: Annotated[
        str, typer.Option(help="As ir_measures names it; Success@1 is accuracy.", rich_help_panel=MEASURING)
    ] = "nDCG@10",
    permutations: Annotated[
        int, typer.Option(help="Random orders of each list.", min=2, rich_help_panel=MEASURING)
    ] = 10,
    seed: Annotated[
        int, typer.Option(help="Seed of samples, permutations and intervals.", min=0, rich_help_panel=MEASURING)
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Measure how results depend on the order of candidates, the place of the evidence, and other accidents."""
    from ..eval.bias import KINDS, load_positions, measure_bias

    kinds = KINDS if kind == "all" else names(kind)
    dataset = load_positions(folder, split, qrels=qrels)
    if max_queries is not None:
        dataset = dataset.sampled(max_queries, seed)
    with progress_bar("measuring") as tell:
        found = measure_bias(
            dataset,
            names(systems),
            out,
            kinds=kinds,
            measure=measure,
            depth=depth,
            candidates=candidates,
            permutations=permutations,
            seed=seed,
            runs=given_runs(run),
            index=index,
            command=["sightline", *sys.argv[1:]],
            progress=tell,
        )
    if json:
        write_json(found)
        return
    title = f"{found['dataset']}, {found['split']}: {found['queries']} queries"
    for table in (_order(found["order"], title), _positions(found["position"], title), _documents(found, title)):
        if table is not None:
            print_table(table)
    told = f"curves, bins and intervals: {out / 'report.html'}; figures: {out / 'bias.json'}"
    console.print(visible(told), style="dim", markup=False, highlight=False, soft_wrap=True)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=Text(visible(title)))
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(Text(visible(name)), justify="right")
    return table


def _order(entries: Sequence[Mapping[str, Any]], title: str) -> Table | None:
    if not entries:
        return None
    first = entries[0]
    about = f"{title}; order of the candidates, {first['permutations']} permutations"
    table = _table(about, [e["system"] for e in entries])
    measure = first["measure"]
    rows: dict[str, Any] = {
        "lists": lambda e: str(e["queries"]),
        "Kendall's tau": lambda e: _cell(e["tau"]),
        "rank variance": lambda e: _cell(e["rank_variance"]),
        f"{measure}, mean": lambda e: _cell(e["ndcg"]["mean"]),
        "worst and best order": lambda e: f"{_cell(e['ndcg']['min'])} {_cell(e['ndcg']['max'])}",
        "ends minus middle": lambda e: _cell(e["ends_minus_middle"]),
        "PSI over slots": lambda e: _psi(e["slot_psi"]),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(e) for e in entries))
    return table


def _positions(entries: Sequence[Mapping[str, Any]], title: str) -> Table | None:
    """A row for each axis, length and system: the mean, PSI, and the bins that are worst and best."""
    if not entries:
        return None
    table = _table(
        f"{title}; {entries[0]['measure']} by the answer's position", ["mean of bins", "PSI", "worst", "best"]
    )
    for e in entries:
        axis = {"start": "first character", "relative": "relative position"}[e["axis"]]
        about = f"{e['system']}, {axis}{'' if e['length'] == 'all' else ', ' + e['length'] + ' tokens'}"
        worst, best = (pick(e["bins"], key=lambda one: one["mean"]) for pick in (min, max))
        ends = (f"{one['label']}: {_cell(one['mean'])}" for one in (worst, best))
        table.add_row(Text(visible(about)), _cell(e["mean"]), _psi(e["psi"]), *ends)
    return table


def _documents(found: Mapping[str, Any], title: str) -> Table | None:
    entries = found["documents"]
    if not entries:
        return None
    table = _table(f"{title}; length, copies, twins, ids", [e["system"] for e in entries])
    rows = {
        "short relevant above longest other": "gold_above_longest",
        "tau of length and rank": "length_tau",
        "fall by one copy": "copy_gold_rank_change",
        "changed by exchanged ids": "ids_exchanged_changed",
    }
    for label, name in rows.items():
        table.add_row(label, *(_cell(e.get(name)) for e in entries))
    table.add_row("PSI over lengths", *(_psi(e["psi"]) for e in entries))
    return table


def _cell(value: Any) -> str:
    """A number, or a mean with its interval."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return f"{_cell(value['mean'])} ({_cell(value['low'])} {_cell(value['high'])})"
    if isinstance(value, int):
        return str(value)
    return "0" if value == 0 else f"{value:.4f}" if abs(value) >= 5e-5 else f"{value:.1e}"


def _psi(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "undefined"
    return f"{_cell({**value, 'mean': value['value']})} p {value['p']:.4f}"
