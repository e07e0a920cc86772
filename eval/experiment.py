"""Evaluate systems on a judged collection, in memory, or into a folder with a report."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ..errors import InputError
from ..files import digest
from .collection_index import index_facts, open_index
from .dataset import Dataset
from .metrics import DEFAULT_MEASURES, check_measures, measure_rankings
from .output import make_folder
from .provenance import hash_of, provenance
from .relevance import relevance_of_systems
from .report import write_report
from .results import Results, Runs, load_bias
from .significance import Comparison, PerQuery, compare, interval, largest_changes
from .summary import Change, Changes, IndexFacts, Summary
from .systems import Answers, GivenRun, System, answer_systems, plan_systems
from .trec import untie

__all__ = ["EvaluateOptions", "evaluate", "evaluate_systems", "save_with_report"]

_CHANGES = 5  # queries listed for every two systems
_SEED, _RESAMPLES = 0, 9999


class EvaluateOptions(TypedDict, total=False):
    """The arguments of `evaluate` that functions which build on it pass on."""

    measures: Sequence[str]
    candidates: int
    add_positives: bool
    runs: Mapping[str, str | Path | GivenRun] | None
    index: str | Path | None
    settings: Mapping[str, Any] | None
    backend: str | None
    command: Sequence[str] | None
    pool: Executor | None
    progress: Callable[[str, int], None] | None


def evaluate(
    systems: Sequence[str] | Mapping[str, System],
    dataset: Dataset,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    candidates: int = 100,
    add_positives: bool = False,
    runs: Mapping[str, str | Path | GivenRun] | None = None,
    index: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str | None = None,
    work: str | Path | None = None,
    command: Sequence[str] | None = None,
    pool: Executor | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Results:
    """Run each system over all judged queries, measure it, and compare every two systems.

    A relevant document that the first stage did not find is not added to the candidates, unless you ask for it. Systems
    that share a first stage share its candidates, and what is read of them.

    Args:
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them; or a mapping from the name in
            the results to a name, a `Searcher`, a run (scores by query id and document id), or a function from a query
            to scores by document id.
        dataset: the collection to search and to measure on.
        measures: the names of measures, as ir_measures knows them. Systems are compared by the first one.
        candidates: the number of candidates that a first stage hands on, and of documents that are measured.
        add_positives: whether rerankers also read the relevant documents that the first stage did not find. Results say
            so. First stages alone stay as they are. The texts are read anew, whatever the index keeps.
        runs: first stages of your own: a run, or its file, by name; see `sightline.eval.load_run`.
        index: an existing index of the collection. If None, one is built if a named system searches. If all of them
            search by BM25, nothing is embedded.
        settings: the fields of `IndexSettings` for an index that is built. Token states are kept as fp16 unless the
            settings say otherwise.
        backend: the library that computes the encoder of the index and the named rerankers that read token states:
            ``torch``, ``onnx`` or ``openvino``; None for torch.
        work: the folder in which the index is built, and found again the next time. If None, a temporary one.
        command: the command line, which is stored with the results, without the folders of absolute paths.
        pool: the processes that share the queries; see `sightline.eval.search_pool`. If None, this process answers all.
        progress: a function that is called with the current step and the number of its documents or queries that are
            done.

    Raises:
        InputError: if a system or an option cannot be used, or the index is of another collection.
        SightlineError: see `Index.build` and `rerank_run`.
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, not {candidates}")
    measures = tuple(dict.fromkeys(measures))
    check_measures(measures)
    plan = plan_systems(systems, runs or {}, dataset.split, backend)
    tell = progress or (lambda step, done: None)
    facts = opened = None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if work is None else make_folder(work)
        if index is not None or plan.searching:
            searching, index_progress = plan.searching.values(), partial(tell, "index")
            opened = open_index(dataset, index, folder / "index", settings or {}, searching, index_progress, backend)
            facts = index_facts(stack.enter_context(opened))
        answers = answer_systems(
            plan, dataset, opened, candidates=candidates, add_positives=add_positives, pool=pool, progress=tell
        )
    answers = {name: answers[name] for name in plan.systems}
    files = {name: Path(run) for name, run in (runs or {}).items() if not isinstance(run, Mapping)}
    results = _Measured(dataset, answers, measures).results(candidates, add_positives, facts, files, command)
    relevance, missing = relevance_of_systems(plan, dataset, answers, seed=_SEED)
    summary = dataclasses.replace(results.summary, relevance=relevance, no_relevance=missing)
    return dataclasses.replace(results, summary=summary)


def evaluate_systems(
    dataset: Dataset, systems: Sequence[str], out: str | Path, **options: Unpack[EvaluateOptions]
) -> Results:
    """Evaluate systems, and write the results and a report into a folder.

    Args:
        dataset: the collection to search and to measure on.
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them.
        out: the folder for what `Results.save` writes, ``report.html``, ``results.csv``, ``table.tex``, and ``index/``,
            which is used again if it serves; otherwise it is built anew, with a warning.
        options: further options of `evaluate`.

    Returns:
        The results that were also written to ``out``.

    Raises:
        InputError: if ``out`` cannot be used. See `evaluate` for everything else.
    """
    return save_with_report(evaluate(systems, dataset, work=out, **options), out)


def save_with_report(results: Results, out: str | Path) -> Results:
    """Save results into a folder, and write their report beside them.

    Args:
        results: the results of one collection.
        out: the folder to write into. If `sightline.eval.measure_bias` wrote into it before, the report shows the
            biases, too.

    Returns:
        The results, with the biases.
    """
    results.save(out)
    if (Path(out) / "bias.json").exists():
        results = dataclasses.replace(results, bias=load_bias(out).bias)
    write_report([results], out)
    return results


class _Measured:
    """The answers of systems, measured and compared."""

    def __init__(self, dataset: Dataset, answers: Mapping[str, Answers], measures: Sequence[str]) -> None:
        self.dataset, self.answers, self.measures = dataset, answers, measures
        # What is written gives trec_eval the same figures.
        self.runs: Runs = {
            name: {id: untie(scores) for id, scores in answer.run.items()} for name, answer in answers.items()
        }
        self.means: dict[str, dict[str, float]] = {}
        self.per_query: dict[str, dict[str, dict[str, float]]] = {}
        for name, run in self.runs.items():
            order = {id: list(scores) for id, scores in run.items()}
            self.means[name], self.per_query[name] = measure_rankings(dataset.qrels, order, measures)

    def results(
        self,
        candidates: int,
        add_positives: bool,
        index: IndexFacts | None,
        files: Mapping[str, Path],
        command: Sequence[str] | None,
    ) -> Results:
        dataset, first = self.dataset, self.measures[0]
        comparisons = compare(self.per_query, first, seed=_SEED, resamples=_RESAMPLES)
        summary = Summary(
            dataset=dataset.name,
            split=dataset.split,
            queries=len(dataset.queries),
            candidates=candidates,
            measures=list(self.measures),
            identical_ids=sum(id in scores for run in self.runs.values() for id, scores in run.items()),
            positives_added=add_positives,
            systems=self.means,
            milliseconds_per_query={
                n: answer.milliseconds / len(dataset.queries) for n, answer in self.answers.items()
            },
            intervals={
                name: interval([value[first] for value in values.values()], seed=_SEED, resamples=_RESAMPLES)
                for name, values in self.per_query.items()
            },
            comparisons=comparisons,
            changes=[_changes(dataset, self.per_query, pair) for pair in comparisons],
            index=index,
            given_runs={name: path.name for name, path in files.items()},
        )
        made = provenance(
            dataset,
            command,
            {"bootstrap": _SEED, "randomisation": _SEED, "resamples": _RESAMPLES},
            {name: hash_of(run) for name, run in self.runs.items()},
            {name: digest(path) for name, path in files.items()},
        )
        return Results(summary, made, self.per_query, self.runs)


def _changes(dataset: Dataset, per_query: PerQuery, pair: Comparison) -> Changes:
    largest = largest_changes(per_query, pair.a, pair.b, pair.measure, _CHANGES)
    return Changes(pair.a, pair.b, [Change(id, dataset.queries[id], a, b) for id, a, b in largest])
