"""``sightline rerank``, ``eval``, ``matrix``, ``bench`` and ``report``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import InputError
from .console import (
    given_runs,
    names,
    print_line,
    print_table,
    progress_bar,
    visible,
    write_json,
)
from .options import (
    CANDIDATES,
    COLLECTION,
    MEASURING,
    BackendOption,
    EncoderOption,
    FaissOption,
    IndexOption,
    JobsOption,
    JsonOption,
    LexicalOption,
    MaxQueriesOption,
    MaxTokensOption,
    MeasuresOption,
    MinScoreOption,
    PerQueryOption,
    QrelsOption,
    ReaderOption,
    RerankOption,
    RunsOption,
    SplitOption,
    SystemsOption,
    TokenStatesOption,
    reranker_or_none,
)

if TYPE_CHECKING:
    from ..eval.results import Results
    from ..eval.significance import Comparison, Interval
    from ..eval.summary import Cost, Summary

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command, example in (
        ("rerank", rerank, "sightline rerank --data data/trec_dl19 --run bm25.trec --out minilm.trec --candidates 100"),
        ("eval", evaluate, "sightline eval data/scifact --systems bm25,dense,dense+minilm --out results/scifact"),
        ("matrix", matrix, "sightline matrix data --plan plan.yaml --out results/matrix"),
        ("bench", bench, "sightline bench data/scifact --systems bm25,dense+minilm --out results/scifact"),
        ("report", report, "sightline report results/scifact results/nfcorpus --out results"),
    ):
        app.command(name, rich_help_panel="Evaluate", epilog=f"Example: {example}")(command)


def rerank(
    out: Annotated[
        Path,
        typer.Option(
            help="Run to write. The ending decides the format: .tsv MS MARCO, .json MTEB, .jsonl rank_llm, else TREC."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Collection with the texts: a BEIR folder, or ir:ID, mteb:TASK, nano:NAME.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run to rerank, in any format that --out has.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="Requests of rank_llm (.jsonl), which have run and texts, in the place of --run and --data."),
    ] = None,
    rerank: RerankOption = "minilm",
    backend: BackendOption = None,
    candidates: PerQueryOption = 100,
    min_score: MinScoreOption = None,
    index: Annotated[
        Path | None,
        typer.Option(
            help="Index of the collection, whose word statistics BM25 uses if the reranker needs it.",
            rich_help_panel=CANDIDATES,
        ),
    ] = None,
    split: SplitOption = "test",
    json: JsonOption = False,
) -> None:
    """Rerank a run."""
    from ..eval.loading import load_dataset
    from ..eval.output import writable_file
    from ..eval.provenance import portable_name
    from ..eval.rank_llm import parse_requests
    from ..eval.reranking import rerank_run
    from ..eval.runs import load_run, save_run
    from ..rerank.loading import load_reranker
    from ..retrieval.stores import open_store

    if requests is not None and data is None and run is None:
        dataset, first_stage = parse_requests(requests)
    elif requests is None and data is not None and run is not None:
        dataset, first_stage = load_dataset(data, split), load_run(run, split)
    else:
        raise InputError("give either --data and --run, or --requests alone")
    writable_file(out)
    name = reranker_or_none(rerank)
    if name is None:
        raise InputError("--rerank none leaves nothing to do; name a reranker")
    reranker = load_reranker(name) if backend is None else load_reranker(name, backend=backend)
    reranker.check_min_score(min_score)
    with contextlib.nullcontext() if index is None else open_store(index) as opened, progress_bar("reranking") as tell:
        ranked = rerank_run(dataset, first_stage, reranker, candidates, tell, opened)
    if min_score is not None:
        ranked = {
            query: {id: score for id, score in scores.items() if (reranker.relevance(score) or 0.0) >= min_score}
            for query, scores in ranked.items()
        }
        if not any(ranked.values()):
            raise InputError(
                f"nothing scored above min_score {min_score:g} for any query, so there is no run to write; lower it"
            )
    save_run(out, ranked, portable_name(reranker.name), dataset)
    empty = sum(not scores for scores in ranked.values())
    if json:
        counts = {"queries": len(ranked), "queries_without_documents": empty}
        write_json({"run": str(out), **counts, "reranker": reranker.name, "candidates": candidates})
    else:
        print_line(f"{out}: {len(ranked)} queries reranked by {reranker.name}")
        if empty:
            print_line(f"note: for {empty} of them nothing scored above min_score {min_score:g}", "yellow")


_MEASURES = "nDCG@10,RR@10,R@100"
_POSITIVES_ADDED = "; POSITIVES ADDED to what was reranked"


def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="A BEIR folder, or ir:ID, mteb:TASK, nano:NAME. Several make a matrix."
        ),
    ],
    systems: SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for the report, results.json, per_query.json, runs and index.")],
    split: SplitOption = "test",
    qrels: QrelsOption = None,
    max_queries: MaxQueriesOption = None,
    run: RunsOption = None,
    index: IndexOption = None,
    candidates: PerQueryOption = 100,
    add_positives: Annotated[
        bool,
        typer.Option(
            "--add-positives",
            help="Also rerank relevant documents that the first stage did not find. Results say so.",
            rich_help_panel=CANDIDATES,
        ),
    ] = False,
    measures: MeasuresOption = _MEASURES,
    encoder: EncoderOption = "minilm",
    backend: BackendOption = None,
    faiss: FaissOption = "Flat",
    lexical: LexicalOption = "fts5",
    reader: ReaderOption = None,
    token_states: TokenStatesOption = "fp16",
    max_tokens: MaxTokensOption = None,
    jobs: JobsOption = 1,
    json: JsonOption = False,
) -> None:
    """Evaluate systems on judged collections: tables, results.json, an HTML report, and a TREC run per system."""
    from ..eval.experiment import evaluate_systems
    from ..eval.loading import load_dataset
    from ..eval.matrix import Collection, evaluate_collections
    from ..eval.metrics import check_measures, split_measures
    from ..eval.pool import search_pool

    runs = given_runs(run)
    system_names, measure_names = names(systems), split_measures(measures)
    check_measures(measure_names)
    settings: dict[str, Any] = {"encoder": encoder, "faiss": faiss, "lexical": lexical}
    if any("+" in name for name in system_names):
        settings |= {"token_states": token_states, "reader": reader}
    if max_tokens is not None:
        settings["max_tokens"] = max_tokens
    options: dict[str, Any] = {
        "candidates": candidates,
        "add_positives": add_positives,
        "measures": measure_names,
        "settings": settings,
        "backend": backend,
        "command": sys.argv,
    }
    if len(folders) > 1:
        if runs or qrels or index:
            raise InputError(
                "--run, --qrels and --index are for one collection; evaluate one, or write a matrix's plan"
            )
        collections = [Collection(folder, tuple(system_names), split, max_queries=max_queries) for folder in folders]
        with progress_bar("evaluating") as tell:
            all_results = evaluate_collections(collections, out, jobs=jobs, progress=tell, **options)
        _show_all(all_results, out, json)
        return
    dataset = load_dataset(folders[0], split, qrels=qrels, max_queries=max_queries)
    with progress_bar("evaluating") as tell, search_pool(jobs) as pool:
        results = evaluate_systems(
            dataset, system_names, out, runs=runs, index=index, pool=pool, progress=tell, **options
        )
    _show(results, out, json)


def matrix(
    data: Annotated[Path, typer.Argument(help="Folder that holds the plan's collections.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, and for each collection's results and index.")],
    plan: Annotated[
        Path, typer.Option(help="YAML file with first_stages, rerankers and collections; see load_matrix.")
    ],
    only: Annotated[
        str,
        typer.Option(
            help="Names of the collections to evaluate, comma-separated; all by default.", rich_help_panel=COLLECTION
        ),
    ] = "",
    reranker: Annotated[
        list[str] | None, typer.Option(help="A reranker in addition to those of the plan. You can give several.")
    ] = None,
    max_queries: MaxQueriesOption = None,
    jobs: JobsOption = 1,
    candidates: PerQueryOption = 100,
    measures: MeasuresOption = _MEASURES,
    json: JsonOption = False,
) -> None:
    """Evaluate every first stage, alone and before every reranker, on every collection of a plan."""
    from ..eval.matrix import evaluate_collections, load_matrix
    from ..eval.metrics import split_measures

    collections = load_matrix(data, plan, only=names(only), rerankers=reranker or (), max_queries=max_queries)
    options: dict[str, Any] = {"candidates": candidates, "measures": split_measures(measures), "command": sys.argv}
    with progress_bar("matrix") as tell:
        results = evaluate_collections(collections, out, jobs=jobs, progress=tell, **options)
    _show_all(results, out, json)


def bench(
    folder: Annotated[Path, typer.Argument(help="A BEIR folder, or ir:ID, mteb:TASK, nano:NAME.")],
    systems: SystemsOption,
    out: Annotated[Path, typer.Option(help="Folder for the report, results.json, per_query.json, runs and index.")],
    split: SplitOption = "test",
    max_queries: MaxQueriesOption = None,
    index: IndexOption = None,
    backend: BackendOption = None,
    candidates: PerQueryOption = 100,
    cost_queries: Annotated[
        int,
        typer.Option(
            help="Number of queries that are timed one by one, the first ones.", min=1, rich_help_panel=MEASURING
        ),
    ] = 200,
    measures: MeasuresOption = _MEASURES,
    json: JsonOption = False,
) -> None:
    """Measure what systems cost as well as how good they are: latency, memory, bytes, FLOPs, and the Pareto front."""
    from ..eval.cost import bench_systems
    from ..eval.loading import load_dataset
    from ..eval.metrics import split_measures

    dataset = load_dataset(folder, split, max_queries=max_queries)
    options: dict[str, Any] = {"candidates": candidates, "measures": split_measures(measures), "command": sys.argv}
    with progress_bar("measuring") as tell:
        results = bench_systems(
            dataset,
            names(systems),
            out,
            index=index,
            backend=backend,
            cost_queries=cost_queries,
            progress=tell,
            **options,
        )
    if not json and results.summary.cost is not None:
        print_table(_costs(results.summary.cost))
    _show(results, out, json)


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of results, each of one collection.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write to. By default the first of the folders.")] = None,
    json: JsonOption = False,
) -> None:
    """Write the report of results: report.html, results.csv and table.tex."""
    from ..eval.report import write_report
    from ..eval.results import load_results

    files = write_report([load_results(folder, runs=False) for folder in folders], out or folders[0])
    if json:
        write_json({"files": [str(file) for file in files]})
    else:
        print_line(f"written: {', '.join(map(str, files))}", "dim")


def _show(results: Results, out: Path, json: bool) -> None:
    if json:
        write_json(results.as_json())
        return
    summary, said = results.summary, _caveats(results.summary)
    about = f"{summary.dataset}, {summary.split}: {summary.queries} queries, {summary.candidates}"
    table = Table(title=Text(visible(about + said)))
    table.add_column("system", no_wrap=True)
    for place, name in enumerate(summary.measures):
        table.add_column(name, justify="right")
        if not place:
            table.add_column("95 %", justify="right")
    table.add_column("ms/query", justify="right")
    for name, values in summary.systems.items():
        between = summary.intervals[name]
        first, *rest = (f"{value:.4f}" for value in values.values())
        bounds = f"{between.low:.3f} {between.high:.3f}"
        spent = summary.milliseconds_per_query[name]
        table.add_row(Text(visible(name)), first, bounds, *rest, f"{spent:.1f}")
    print_table(table)
    if summary.comparisons:
        print_table(_comparisons(summary.comparisons, results.measure, said))
    if summary.relevance:
        print_table(_relevance(summary, said))
    print_line(f"written to {out}", "dim")


def _show_all(results: Sequence[Results], out: Path, json: bool) -> None:
    """Systems by collections, by the first measure."""
    if json:
        write_json([result.as_json() for result in results])
        return
    said = _POSITIVES_ADDED if results[0].summary.positives_added else ""
    table = Table(title=Text(visible(results[0].measure + said)))
    table.add_column("system", no_wrap=True)
    for result in results:
        table.add_column(Text(visible(result.summary.dataset)), justify="right")
    for name in dict.fromkeys(name for result in results for name in result.systems):
        means = [result.summary.intervals.get(name) for result in results]
        table.add_row(Text(visible(name)), *("" if mean is None else f"{mean.mean:.4f}" for mean in means))
    print_table(table)
    if len(results) > 1:
        print_table(_overall(results))
    print_line(f"written to {out}; intervals, tests and the rest: {out / 'report.html'}", "dim")


def _overall(results: Sequence[Results]) -> Table:
    """The mean over the collections, and the best system against the others."""
    from ..eval.overall import overall

    found = overall(results)
    count = len(found.collections)
    table = Table(title=Text(visible(f"{found.measure}, mean of {count} collections; {found.best} against the others")))
    for place, name in enumerate(("system", "mean (95 %)", "gain of the best", "smallest gain")):
        table.add_column(name, justify="right" if place else "left", no_wrap=not place)
    for name, mean in found.means.items():
        pair = found.against.get(name)
        gains = (
            ("", "")
            if pair is None
            else (_in_words(pair.difference), f"{_in_words(pair.worst_difference)} {pair.worst}")
        )
        table.add_row(Text(visible(name)), _in_words(mean), *(Text(visible(gain)) for gain in gains))
    return table


def _in_words(value: Interval) -> str:
    return f"{value.mean:.4f} ({value.low:.4f} to {value.high:.4f})"


def _costs(cost: Cost) -> Table:
    said = f"; limits by the products of {cost.machine.gemm}" if cost.machine.gemm else ""
    said += f"; read by {cost.backend}"
    table = Table(title=Text(f"cost, query by query; * not beaten in both quality and median time{said}"))
    remote = any(system.network_bytes is not None for system in cost.systems.values())
    columns = ("system", "p50 ms", "p90", "p99", "passages/s", "tokens/s", "GFLOP", "limit ms", "MB")
    for place, name in enumerate((*columns, *(("requests", "kB received") if remote else ()))):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for name, system in cost.systems.items():
        limits = [value for value in (system.limit_ms.flops, system.limit_ms.bytes) if value is not None]
        figures = (
            *(f"{value:.1f}" for value in (system.latency_ms.p50, system.latency_ms.p90, system.latency_ms.p99)),
            *("" if rate is None else f"{rate:.0f}" for rate in (system.passages_per_second, system.tokens_per_second)),
            "" if system.flops_per_query is None else f"{system.flops_per_query / 1e9:.2f}",
            f"{max(limits):.2f}",
            f"{system.memory.peak_bytes / 1e6:.0f}",
            "" if system.network_requests is None else f"{system.network_requests:.1f}",
            "" if system.network_bytes is None else f"{system.network_bytes / 1e3:.0f}",
        )
        table.add_row(Text(visible(name + " *" * (name in cost.pareto))), *figures[: None if remote else -2])
    return table


def _caveats(summary: Summary) -> str:
    """What every table must say about its candidates."""
    said = _POSITIVES_ADDED if summary.positives_added else ""
    if summary.identical_ids:
        said += f"; {summary.identical_ids} results with their query's own id ignored"
    return said


def _relevance(summary: Summary, said: str) -> Table:
    """How far the relevance of each system can be trusted, or why there is none."""
    title = f"relevance; a list has an answer if it has a relevant document, unjudged ones count as not relevant{said}"
    table = Table(title=Text(visible(title)))
    table.add_column("system", no_wrap=True)
    for name in (
        *("AUROC, lists", "95 %", "false accepts at 90 % recall", "95 %"),
        *("AUROC, documents", "95 %", "ECE, 15 bins", "95 %"),
    ):
        table.add_column(name, justify="right")
    table.add_column("")
    for name in summary.systems:
        if quality := summary.relevance.get(name):
            measured = (
                quality.auroc_lists,
                quality.false_accepts,
                quality.auroc_documents,
                quality.calibration_error,
            )
            cells = [cell for value in measured for cell in _with_interval(value)]
            table.add_row(Text(visible(name)), *cells, "")
        else:
            reason = Text(visible(summary.no_relevance.get(name, "")))
            table.add_row(Text(visible(name)), *[""] * (len(table.columns) - 2), reason)
    return table


def _with_interval(value: Interval | None) -> tuple[str, str]:
    return ("-", "") if value is None else (f"{value.mean:.4f}", f"{value.low:.3f} {value.high:.3f}")


def _comparisons(comparisons: Sequence[Comparison], measure: str, said: str) -> Table:
    """Every two systems: how much they differ, new minus base, and whether that could be chance."""
    title = f"differences in {measure}, new minus base; p by randomisation, corrected by Holm{said}"
    table = Table(title=Text(visible(title)))
    table.add_column("", no_wrap=True)
    for name in ("difference", "95 %", "p", "better", "same", "worse"):
        table.add_column(name, justify="right")
    for pair in comparisons:
        by = pair.difference
        table.add_row(
            Text(visible(f"{pair.a} - {pair.b}")),
            f"{by.mean:+.4f}",
            f"{by.low:+.3f} {by.high:+.3f}",
            f"{pair.p_holm:.4f}",
            *map(str, (pair.wins, pair.ties, pair.losses)),
        )
    return table
