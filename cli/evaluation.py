"""``sightline rerank``, ``eval``, ``matrix``, ``bench`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from .console import (
    JsonOption,
    LayoutOption,
    RerankOption,
    console,
    given_runs,
    names,
    print_table,
    progress_bar,
    reranker_name,
    visible,
    write_json,
)
from .indexing import Lexical, TokenStates

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command, example in (
        ("rerank", rerank, "sightline rerank --data data/trec_dl19 --run bm25.trec --out minilm.trec --depth 100"),
        ("eval", evaluate, "sightline eval data/scifact --systems bm25,dense,dense+minilm --out results/scifact"),
        ("matrix", matrix, "sightline matrix data --plan plan.yaml --out results/matrix"),
        ("bench", bench, "sightline bench data/scifact --systems bm25,dense+minilm --out results/scifact"),
        ("report", report, "sightline report results/scifact results/nfcorpus --out results"),
    ):
        app.command(name, epilog=f"Example: {example}")(command)


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
    from ..eval.dataset import load_dataset
    from ..eval.output import writable_file
    from ..eval.provenance import portable_name
    from ..eval.rank_llm import read_requests
    from ..eval.rerank_run import rerank_run
    from ..eval.runs import load_run, save_run
    from ..rerank.loading import load_reranker

    if requests is not None and data is None and run is None:
        dataset, given = read_requests(requests)
    elif requests is None and data is not None and run is not None:
        dataset, given = load_dataset(data, split), load_run(run, split)
    else:
        raise InputError("give either --data and --run, or --requests alone")
    writable_file(out)
    name = reranker_name(rerank, layout)
    if name is None:
        raise InputError("--rerank none leaves nothing to do; name a reranker")
    reranker = load_reranker(name)
    with progress_bar("reranking") as tell:
        ranked = rerank_run(dataset, given, reranker, depth, tell)
    save_run(out, ranked, portable_name(reranker.name), dataset)
    if json:
        write_json({"run": str(out), "queries": len(ranked), "reranker": reranker.name, "depth": depth})
    else:
        told = f"{out}: {len(ranked)} queries reranked by {reranker.name}"
        console.print(visible(told), markup=False, highlight=False, soft_wrap=True)


_SystemsOption = Annotated[
    str,
    typer.Option(
        "--systems", help="bm25, dense, hybrid or a --run's name, alone or +RERANKER (also +hf:MODEL#LAYOUT), by comma."
    ),
]
_IndexOption = Annotated[
    Path | None, typer.Option("--index", help="Search this index instead of making one under --out.")
]
_DepthOption = Annotated[int, typer.Option("--depth", help="Candidates per query.", min=1)]
_QueriesOption = Annotated[int | None, typer.Option("--max-queries", help="Only the first so many queries.", min=1)]
_MeasuresOption = Annotated[str, typer.Option("--measures", help="Comma-separated, as ir_measures names them.")]
_JobsOption = Annotated[int, typer.Option("--jobs", help="Processes that answer queries; they share the cores.", min=1)]
_MEASURES = "nDCG@10,RR@10,R@100"


def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="BEIR folder, or ir:ID, mteb:TASK, nano:NAME; several give a matrix."),
    ],
    systems: _SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for the report, results.json, per_query.json, runs and index.")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    qrels: Annotated[Path | None, typer.Option(help="Judgements to use instead, BEIR or TREC format.")] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", help="A given first stage: NAME=FILE, see rerank --out.")
    ] = None,
    index: _IndexOption = None,
    depth: _DepthOption = 100,
    add_positives: Annotated[
        bool,
        typer.Option("--add-positives", help="Rerank relevant documents that were not found, too. Results say so."),
    ] = False,
    max_queries: _QueriesOption = None,
    measures: _MeasuresOption = _MEASURES,
    encoder: Annotated[str, typer.Option(help="Bi-encoder for dense and hybrid.")] = "minilm",
    faiss: Annotated[str, typer.Option(help="FAISS factory string.")] = "Flat",
    lexical: Annotated[Lexical, typer.Option(help="BM25 engine.")] = Lexical.fts5,
    token_states: Annotated[TokenStates, typer.Option(help="Form of the kept token states.")] = TokenStates.fp16,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens per passage; 0 keeps documents whole.")] = None,
    jobs: _JobsOption = 1,
    json: JsonOption = False,
) -> None:
    """Evaluate systems on judged collections: tables, results.json, an HTML report, and a TREC run per system."""
    from ..eval.dataset import load_dataset
    from ..eval.evaluate import evaluate_systems, search_pool
    from ..eval.matrix import Collection, evaluate_collections
    from ..eval.metrics import check_measures, split_measures

    runs = given_runs(run)
    wanted_systems, wanted_measures = names(systems), split_measures(measures)
    check_measures(wanted_measures)
    settings: dict[str, Any] = {"encoder": encoder, "faiss": faiss, "lexical": lexical.value}
    if any("+" in name for name in wanted_systems):
        settings["token_states"] = token_states.value
    if max_tokens is not None:
        settings["max_tokens"] = max_tokens
    options: dict[str, Any] = {
        "depth": depth,
        "add_positives": add_positives,
        "measures": wanted_measures,
        "settings": settings,
        "command": sys.argv,
    }
    if len(folders) > 1:
        if runs or qrels or index:
            raise InputError("--run, --qrels and --index are of one collection; evaluate one, or write a matrix's plan")
        wanted = [Collection(folder, tuple(wanted_systems), split, max_queries=max_queries) for folder in folders]
        with progress_bar("evaluating") as tell:
            summaries = evaluate_collections(wanted, out, jobs=jobs, progress=tell, **options)
        _show_all(summaries, out, json)
        return
    dataset = load_dataset(folders[0], split, qrels=qrels, max_queries=max_queries)
    with progress_bar("evaluating") as tell, search_pool(jobs) as pool:
        outcome = evaluate_systems(
            dataset, wanted_systems, out, runs=runs, index=index, pool=pool, progress=tell, **options
        )
    _show(outcome.summary, out, json)


def matrix(
    data: Annotated[Path, typer.Argument(help="Folder that holds the plan's collections.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, and for each collection's results and index.")],
    plan: Annotated[Path, typer.Option(help="YAML with first_stages, rerankers and collections; see load_matrix.")],
    only: Annotated[str, typer.Option(help="Comma-separated: these collections alone.")] = "",
    max_queries: _QueriesOption = None,
    jobs: _JobsOption = 1,
    depth: _DepthOption = 100,
    measures: _MeasuresOption = _MEASURES,
    json: JsonOption = False,
) -> None:
    """Evaluate every first stage, alone and before every reranker, on every collection of a plan."""
    from ..eval.matrix import evaluate_collections, load_matrix
    from ..eval.metrics import split_measures

    collections = load_matrix(data, plan, only=names(only), max_queries=max_queries)
    options: dict[str, Any] = {"depth": depth, "measures": split_measures(measures), "command": sys.argv}
    with progress_bar("matrix") as tell:
        summaries = evaluate_collections(collections, out, jobs=jobs, progress=tell, **options)
    _show_all(summaries, out, json)


def bench(
    folder: Annotated[Path, typer.Argument(help="BEIR folder.")],
    systems: _SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for the report, results.json, per_query.json, runs and index.")],
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    index: _IndexOption = None,
    depth: _DepthOption = 100,
    max_queries: _QueriesOption = None,
    cost_queries: Annotated[int, typer.Option(help="Queries timed one by one, the first ones.", min=1)] = 200,
    measures: _MeasuresOption = _MEASURES,
    json: JsonOption = False,
) -> None:
    """Measure what systems cost, beside how good they are: latency, memory, bytes, FLOPs, and the Pareto front."""
    from ..eval.cost import bench_systems
    from ..eval.dataset import load_dataset
    from ..eval.metrics import split_measures

    dataset = load_dataset(folder, split, max_queries=max_queries)
    options: dict[str, Any] = {"depth": depth, "measures": split_measures(measures), "command": sys.argv}
    with progress_bar("measuring") as tell:
        outcome = bench_systems(
            dataset, names(systems), out, index=index, cost_queries=cost_queries, progress=tell, **options
        )
    if not json:
        print_table(_costs(outcome.summary))
    _show(outcome.summary, out, json)


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Results, of one collection each.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; without it, the first of the folders.")] = None,
    json: JsonOption = False,
) -> None:
    """Write the report of results: report.html, results.csv and table.tex."""
    from ..eval.report import write_report

    files = write_report(folders, out or folders[0])
    if json:
        write_json({"files": [str(file) for file in files]})
    else:
        _say(f"written: {', '.join(map(str, files))}")


def _say(text: str) -> None:
    console.print(visible(text), style="dim", markup=False, highlight=False, soft_wrap=True)


def _show(summary: Mapping[str, Any], out: Path, json: bool) -> None:
    if json:
        write_json(summary)
        return
    about, said = "{dataset}, {split}: {queries} queries, depth {depth}".format_map(summary), _caveats(summary)
    table = Table(title=Text(visible(about + said)))
    table.add_column("system", no_wrap=True)
    for place, name in enumerate(summary["measures"]):
        table.add_column(name, justify="right")
        if not place:
            table.add_column("95 %", justify="right")
    table.add_column("ms/query", justify="right")
    for name, values in summary["systems"].items():
        between = summary["intervals"][name]
        first, *others = (f"{value:.4f}" for value in values.values())
        bounds = f"{between['low']:.3f} {between['high']:.3f}"
        spent = summary["milliseconds_per_query"][name]
        table.add_row(Text(visible(name)), first, bounds, *others, f"{spent:.1f}")
    print_table(table)
    if summary["comparisons"]:
        print_table(_comparisons(summary["comparisons"], summary["measures"][0], said))
    _say(f"written to {out}")


def _show_all(summaries: Sequence[Mapping[str, Any]], out: Path, json: bool) -> None:
    """Systems by collections, by the first measure."""
    if json:
        write_json(summaries)
        return
    said = "; POSITIVES ADDED to what was reranked" if summaries[0]["positives_added"] else ""
    table = Table(title=Text(visible(summaries[0]["measures"][0] + said)))
    table.add_column("system", no_wrap=True)
    for summary in summaries:
        table.add_column(Text(visible(summary["dataset"])), justify="right")
    for name in dict.fromkeys(name for summary in summaries for name in summary["systems"]):
        means = [summary["intervals"].get(name) for summary in summaries]
        table.add_row(Text(visible(name)), *("" if mean is None else f"{mean['mean']:.4f}" for mean in means))
    print_table(table)
    _say(f"written to {out}; intervals, tests and the rest: {out / 'report.html'}")


def _costs(summary: Mapping[str, Any]) -> Table:
    table = Table(title=Text("cost, query by query; * not beaten in both quality and median time"))
    for place, name in enumerate(
        ("system", "p50 ms", "p90", "p99", "passages/s", "tokens/s", "GFLOP", "limit ms", "MB")
    ):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for name, cost in summary["cost"]["systems"].items():
        limits = [value for value in cost["limit_ms"].values() if value is not None]
        figures = (
            *(f"{cost['latency_ms'][p]:.1f}" for p in ("p50", "p90", "p99")),
            *(
                "" if cost[rate] is None else f"{cost[rate]:.0f}"
                for rate in ("passages_per_second", "tokens_per_second")
            ),
            "" if cost["flops_per_query"] is None else f"{cost['flops_per_query'] / 1e9:.2f}",
            f"{max(limits):.2f}",
            f"{cost['memory']['peak_bytes'] / 1e6:.0f}",
        )
        table.add_row(Text(visible(name + " *" * (name in summary["cost"]["pareto"]))), *figures)
    return table


def _caveats(summary: Mapping[str, Any]) -> str:
    """What every table has to say of its candidates."""
    said = "; POSITIVES ADDED to what was reranked" if summary["positives_added"] else ""
    if summary["identical_ids"]:
        said += f"; {summary['identical_ids']} results with their query's own id ignored"
    return said


def _comparisons(found: Sequence[Mapping[str, Any]], measure: str, said: str) -> Table:
    """Every two systems: how much they differ, new minus base, and whether that could be chance."""
    title = f"differences in {measure}, new minus base; p by randomisation, corrected by Holm{said}"
    table = Table(title=Text(visible(title)))
    table.add_column("", no_wrap=True)
    for name in ("difference", "95 %", "p", "better", "same", "worse"):
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
