"""``sightline bias``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .console import JsonOption, console, given_runs, names, progress_bar, visible, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "bias", epilog="Example: sightline bias data/squad_dev --systems dense,dense+minilm --out results/squad_bias"
    )(bias)


def bias(
    folder: Annotated[Path, typer.Argument(help="BEIR folder (with spans.tsv for positions), PosIR folder, or SQuAD.")],
    systems: Annotated[
        str, typer.Option(help="Comma-separated: bm25, dense, hybrid, or a --run's name, each alone or +RERANKER.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for bias.json, what eval writes, and the index.")],
    kind: Annotated[
        str, typer.Option(help="Comma-separated: order (of candidates), position (of evidence), documents; or all.")
    ] = "all",
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    qrels: Annotated[Path | None, typer.Option(help="Judgements to use instead, BEIR or TREC format.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="A given first stage: NAME=FILE.trec.")] = None,
    index: Annotated[Path | None, typer.Option(help="Search this index instead of making one under --out.")] = None,
    measure: Annotated[str, typer.Option(help="As ir_measures names it; Success@1 is accuracy.")] = "nDCG@10",
    depth: Annotated[int, typer.Option(help="Candidates per query, for position.", min=1)] = 100,
    candidates: Annotated[int, typer.Option(help="Documents per list, for order and documents.", min=2)] = 30,
    permutations: Annotated[int, typer.Option(help="Random orders of each list.", min=2)] = 10,
    max_queries: Annotated[int | None, typer.Option(help="Only so many queries, drawn by --seed.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of samples, permutations and intervals.", min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Measure what answers owe to the order of candidates, the place of the evidence, and other accidents."""
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
    for table in (
        _order(found["order"], title),
        _slots(found["order"], title),
        *_positions(found["position"], title),
        _documents(found["documents"], title),
    ):
        if table is not None:
            console.print(table)
    told = f"written to {out / 'bias.json'}"
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
    table = _table(f"{title}; candidate order, {first['permutations']} permutations", [e["system"] for e in entries])
    measure = first["measure"]
    rows: dict[str, Any] = {
        "lists": lambda e: str(e["queries"]),
        "documents in a list": lambda e: f"{e['documents']:.1f}",
        "Kendall's tau": lambda e: _cell(e["tau"]),
        "tau-PSI": lambda e: _cell(e["tau_psi"]),
        "tau, best against worst first": lambda e: _cell(e["reversal_tau"]),
        "score variance": lambda e: _cell(e["score_variance"]),
        "its share of all": lambda e: _cell(e["score_variance_share"]),
        "rank variance": lambda e: _cell(e["rank_variance"]),
        "of relevant documents": lambda e: _cell(e["gold_rank_variance"]),
        f"{measure}, mean": lambda e: _cell(e["ndcg"]["mean"]),
        "worst and best order": lambda e: f"{_cell(e['ndcg']['min'])} {_cell(e['ndcg']['max'])}",
        "best first": lambda e: _cell(e["arrangements"]["best_first"]),
        "worst first": lambda e: _cell(e["arrangements"]["worst_first"]),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(e) for e in entries))
    return table


def _slots(entries: Sequence[Mapping[str, Any]], title: str) -> Table | None:
    entries = [e for e in entries if e["gold_at"]]
    if not entries:
        return None
    table = _table(f"{title}; {entries[0]['measure']} by slot of a relevant document", [e["system"] for e in entries])
    for rows in zip(*(e["gold_at"] for e in entries), strict=True):
        table.add_row(rows[0]["slot"], *(_cell({**row, "mean": row["value"]}) for row in rows))
    table.add_row("ends less middle", *(_cell(e["ends_minus_middle"]) for e in entries))
    table.add_row("PSI over slots", *(_psi(e["slot_psi"]) for e in entries))
    return table


def _positions(entries: Sequence[Mapping[str, Any]], title: str) -> list[Table]:
    tables = []
    for axis, length in dict.fromkeys((e["axis"], e["length"]) for e in entries):
        some = [e for e in entries if (e["axis"], e["length"]) == (axis, length)]
        by = "character of the answer's start" if axis == "start" else "relative position of the answer"
        of = "" if length == "all" else f", documents of {length} tokens"
        systems = [e["system"] for e in some]
        table = _table(f"{title}; {some[0]['measure']} by {by}{of}", ["queries", *systems])
        for bins in zip(*(e["bins"] for e in some), strict=True):
            table.add_row(bins[0]["label"], str(bins[0]["queries"]), *map(_cell, bins))
        table.add_row("mean of bins", str(some[0]["queries"]), *(_cell(e["mean"]) for e in some))
        table.add_row("PSI", "", *(_psi(e["psi"]) for e in some))
        table.add_row("if position were shuffled", "", *(_cell(e["psi"]["floor"]) for e in some))
        if some[0]["trend"] is not None:
            table.add_row("slope", "", *(_cell(e["trend"]["slope"]) for e in some))
            table.add_row("Spearman", "", *(_cell(e["trend"]["spearman"]) for e in some))
        tables.append(table)
    return tables


def _documents(entries: Sequence[Mapping[str, Any]], title: str) -> Table | None:
    if not entries:
        return None
    table = _table(f"{title}; length, copies, twins, ids", [e["system"] for e in entries])
    for name in dict.fromkeys(name for e in entries for name in e if name != "system"):
        table.add_row(name.replace("_", " "), *(_cell(e.get(name)) for e in entries))
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
