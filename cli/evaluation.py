"""``sightline rerank`` and ``sightline eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from .console import JsonOption, LayoutOption, RerankOption, console, progress_bar, reranker_name, visible, write_json
from .indexing import Lexical, TokenStates

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "rerank", epilog="Example: sightline rerank --data data/trec_dl19 --run bm25.trec --out minilm.trec --depth 100"
    )(rerank)
    app.command(
        "eval", epilog="Example: sightline eval data/scifact --systems bm25,dense,dense+minilm --out results/scifact"
    )(evaluate)


def rerank(
    out: Annotated[Path, typer.Option(help="Run to write: TREC, or .tsv MS MARCO, .json MTEB, .jsonl rank_llm.")],
    data: Annotated[
        Path | None, typer.Option(help="BEIR folder, or ir:ID, mteb:TASK, nano:NAME, with the texts.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run to rerank, in any of --out's formats.")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="Instead of both: requests of rank_llm, .jsonl, texts and all.")
    ] = None,
    rerank: RerankOption = "minilm",
    layout: LayoutOption = None,
    depth: Annotated[int, typer.Option(help="Candidates per query.", min=1)] = 100,
    split: Annotated[str, typer.Option(help="Split whose queries are reranked.")] = "test",
    json: JsonOption = False,
) -> None:
    """Rerank a run."""
    from ..eval.baselines import load_reranker
    from ..eval.dataset import load_dataset
    from ..eval.rank_llm import read_requests
    from ..eval.rerank_run import rerank_run
    from ..eval.runs import load_run, save_run

    if requests is not None and data is None and run is None:
        dataset, given = read_requests(requests)
    elif requests is None and data is not None and run is not None:
        dataset, given = load_dataset(data, split), load_run(run, split)
    else:
        raise InputError("give either --data and --run, or --requests alone")
    name = reranker_name(rerank, layout)
    if name is None:
        raise InputError("--rerank none leaves nothing to do; name a reranker")
    reranker = load_reranker(name)
    with progress_bar("reranking") as tell:
        ranked = rerank_run(dataset, given, reranker, depth, tell)
    save_run(out, ranked, reranker.name, dataset)
    if json:
        write_json({"run": str(out), "queries": len(ranked), "reranker": reranker.name, "depth": depth})
    else:
        told = f"{out}: {len(ranked)} queries reranked by {reranker.name}"
        console.print(visible(told), markup=False, highlight=False, soft_wrap=True)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="BEIR folder, or ir:ID, mteb:TASK, nano:NAME.")],
    systems: Annotated[
        str,
        typer.Option(
            help="bm25, dense, hybrid or a --run's name, alone or +RERANKER (also +hf:MODEL#LAYOUT), by comma."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json, per_query.json, the runs and the index.")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    qrels: Annotated[Path | None, typer.Option(help="Judgements to use instead, BEIR or TREC format.")] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", help="A given first stage: NAME=FILE, see rerank --out.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Search this index instead of making one under --out.")] = None,
    depth: Annotated[int, typer.Option(help="Candidates per query.", min=1)] = 100,
    add_positives: Annotated[
        bool,
        typer.Option("--add-positives", help="Rerank relevant documents that were not found, too. Results say so."),
    ] = False,
    max_queries: Annotated[int | None, typer.Option(help="Only the first so many queries.", min=1)] = None,
    measures: Annotated[str, typer.Option(help="Comma-separated, as ir_measures names them.")] = "nDCG@10,RR@10,R@100",
    encoder: Annotated[str, typer.Option(help="Bi-encoder for dense and hybrid.")] = "minilm",
    faiss: Annotated[str, typer.Option(help="FAISS factory string.")] = "Flat",
    lexical: Annotated[Lexical, typer.Option(help="BM25 engine.")] = Lexical.fts5,
    token_states: Annotated[TokenStates, typer.Option(help="Form of the kept token states.")] = TokenStates.fp16,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens per passage; 0 keeps documents whole.")] = None,
    json: JsonOption = False,
) -> None:
    """Evaluate systems on a judged collection: a table, results.json, and a TREC run per system."""
    from ..eval.dataset import load_dataset
    from ..eval.evaluate import evaluate_systems
    from ..eval.metrics import split_measures

    runs = {}
    for given in run or []:
        name, found, file = given.partition("=")
        if not found or not name or "+" in name:
            raise InputError(f"--run {given!r} is not NAME=FILE")
        runs[name] = file
    names = [name.strip() for name in systems.split(",") if name.strip()]
    wanted = split_measures(measures)
    dataset = load_dataset(folder, split, qrels=qrels, max_queries=max_queries)
    settings = {"encoder": encoder, "faiss": faiss, "lexical": lexical.value}
    if any("+" in name for name in names):
        settings["token_states"] = token_states.value
    with progress_bar("evaluating") as tell:
        outcome = evaluate_systems(
            dataset,
            names,
            out,
            depth=depth,
            add_positives=add_positives,
            measures=wanted,
            runs=runs,
            index=index,
            settings=settings if max_tokens is None else {**settings, "max_tokens": max_tokens},
            progress=tell,
        )
    if json:
        write_json(outcome.summary)
        return
    title = f"{dataset.name}, {dataset.split}: {len(dataset.queries)} queries, depth {depth}"
    said = _caveats(outcome.summary)
    table = Table(title=Text(visible(title + said)))
    table.add_column("system")
    for name in wanted:
        table.add_column(name, justify="right")
        if name == wanted[0]:
            table.add_column("95 %", justify="right")
    table.add_column("ms/query", justify="right")
    for name in names:
        values = outcome.summary["systems"][name]
        spent = outcome.summary["milliseconds_per_query"][name]
        between = outcome.summary["intervals"][name]
        first, *others = (f"{values[measure]:.4f}" for measure in wanted)
        bounds = f"{between['low']:.3f} {between['high']:.3f}"
        table.add_row(Text(visible(name)), first, bounds, *others, f"{spent:.1f}")
    console.print(table)
    if outcome.summary["comparisons"]:
        console.print(_comparisons(outcome.summary["comparisons"], wanted[0], said))
    console.print(visible(f"written to {out}"), style="dim", markup=False, highlight=False, soft_wrap=True)


def _caveats(summary: Mapping[str, Any]) -> str:
    """What every table has to say of its candidates."""
    said = "; POSITIVES ADDED to what was reranked" if summary["positives_added"] else ""
    if summary["identical_ids"]:
        said += f"; {summary['identical_ids']} results with their query's own id ignored"
    return said


def _comparisons(found: Sequence[Mapping[str, Any]], measure: str, said: str) -> Table:
    """Every two systems: how much they differ, and whether that could be chance."""
    table = Table(title=Text(visible(f"differences in {measure}; p by randomisation, corrected by Holm{said}")))
    table.add_column("", no_wrap=True)
    for name in ("difference", "95 %", "p", "+", "=", "-"):
        table.add_column(name, justify="right")
    for pair in found:
        by = pair["difference"]
        table.add_row(
            Text(visible(f"{pair['a']} - {pair['b']}")),
            f"{by['mean']:+.4f}",
            f"{by['low']:+.3f} {by['high']:+.3f}",
            f"{pair['p_holm']:.4f}",
            *(str(pair[name]) for name in ("wins", "ties", "losses")),
        )
    return table
