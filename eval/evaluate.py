"""Evaluate systems on a judged collection: one table, one JSON, one TREC run per system."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..errors import DataError, InputError
from ..files import digest, replace_file
from ..names import SystemName
from ..rerank.base import Reranker
from ..rerank.loading import load_reranker
from ..retrieval.index import Index
from ..retrieval.planning import IndexSettings
from ..search import FirstStage, Searcher
from .compare import compare, interval, largest_changes
from .dataset import Dataset, collection_files
from .metrics import DEFAULT_MEASURES, check_measures, evaluate
from .output import make_folder
from .predictions import write_predictions
from .provenance import dataset_hashes, git_revision, hardware, hash_of, portable_command, portable_name, versions
from .report import write_report
from .rerank_run import known_queries, rerank_run_each, with_positives
from .runs import load_run
from .trec import trec_order, untie, writable, write_run

__all__ = ["Outcome", "evaluate_systems", "open_index", "search_pool"]

logger = logging.getLogger(__name__)

Run = dict[str, dict[str, float]]
"""Score by query id and document id, best first."""

_Answer = tuple[dict[str, float], float]

_QUERIES_AT_ONCE = 32  # searched together
_CHANGES = 5  # queries listed for every two systems
_LONGEST_LABEL = 200  # bytes; a file's name may have 255
_SEED, _RESAMPLES = 0, 9999


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found.

    Args:
        summary: what ``results.json`` holds: ``dataset``, ``split``, ``systems`` (mean by system and measure),
            ``intervals`` (95 % bootstrap interval of the mean by system), ``comparisons`` (of every two systems) and
            ``changes`` (the queries on which every two systems differ most), all three by the first measure, and how
            it was made.
        per_query: value by system, query id and measure.
        runs: scores by system, query id and document id.
    """

    summary: dict[str, Any]
    per_query: dict[str, dict[str, dict[str, float]]]
    runs: dict[str, dict[str, dict[str, float]]]


def evaluate_systems(
    dataset: Dataset,
    systems: Sequence[str],
    out: str | Path,
    *,
    depth: int = 100,
    add_positives: bool = False,
    measures: Sequence[str] = DEFAULT_MEASURES,
    runs: Mapping[str, str | Path] | None = None,
    index: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
    pool: Executor | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Outcome:
    """Run each system over all judged queries and measure it.

    Candidates are honest: a relevant document that the first stage did not find is not added, unless that is asked
    for. First stages other than given runs search an index that is built under ``out`` once, and used again if it
    serves; otherwise it is built anew, with a warning. Where only BM25 searches, nothing is embedded. Systems that
    share a first stage share its candidates, and what is read of them.

    Args:
        dataset: what to search and to measure against.
        systems: names for `sightline.names.SystemName.parse`.
        out: a folder for ``results.json``, ``per_query.json``, ``report.html``, ``results.csv``, ``table.tex``, one
            ``SYSTEM.trec`` each, and ``index/``. A run with ids that TREC's format cannot hold (a tab or a line break
            in them) is written as ``SYSTEM.json`` in MTEB's format instead. Either can be given as a run again.
        depth: candidates that a first stage hands on, and documents that are measured.
        add_positives: let rerankers also read the relevant documents that the first stage did not find; results then
            say so. First stages alone stay as they are. The texts are read anew, whatever the index keeps.
        measures: names that ir_measures knows.
        runs: given first stages: name to file of a run, see `sightline.eval.runs`.
        index: an existing index of the collection to search; None for one under ``out``.
        settings: of the index under ``out``, for `Index.create`; token states are fp16 unless it says otherwise.
        command: what was typed, to be kept with the results; absolute paths are kept by their last part only, here
            and in the names of systems.
        pool: of processes among which queries are shared out, see `search_pool`; None to answer all here.
        progress: called with the current step and how many documents or queries of it are done.

    Returns:
        What was also written to ``out``.

    Raises:
        InputError: if a system, measure, setting, depth or ``out`` cannot be used, or the index is of another
            collection.
        SightlineError: see `Index.build`, `rerank_run`.
    """
    runs = dict(runs or {})
    if not systems:
        raise InputError("name at least one system")
    if depth < 1:
        raise InputError(f"depth must be at least 1, not {depth}")
    plans = _plans(systems, runs)
    measures = tuple(dict.fromkeys(measures))
    check_measures(measures)
    rerankers = {second: load_reranker(second) for _, second in plans.values() if second}
    given = {name: load_run(path, dataset.split) for name, path in runs.items()}
    tell = progress or (lambda step, done: None)
    out = make_folder(out)
    opened = None
    if index is not None or any(first not in given for first, _ in plans.values()):
        searching = [plan for plan in plans.values() if plan[0] not in given]
        opened = open_index(dataset, index, out / "index", settings or {}, searching, partial(tell, "index"))
    found: dict[str, tuple[Run, float]] = {}
    try:
        searched = {
            name: (cast(FirstStage, first), second) for name, (first, second) in plans.items() if first not in given
        }
        if opened is not None and searched:
            direct = {name: (first, None if add_positives else second) for name, (first, second) in searched.items()}
            found |= _from_index(dataset, opened, direct, rerankers, depth, tell, pool)
        searched_runs = {first: found[name][0] for name, (first, _) in searched.items()} if add_positives else {}
        for first, run in (given | searched_runs).items():
            chosen = {
                name: rerankers[r] if r else None
                for name, (stage, r) in plans.items()
                if stage == first and (r or stage in given)
            }
            found |= _from_run(dataset, run, chosen, depth, add_positives, partial(tell, first))
        indexed = None if opened is None else _description(opened)
    finally:
        if opened is not None:
            opened.close()
    # What is written gives trec_eval the same figures.
    results = {name: {id: untie(scores) for id, scores in found[name][0].items()} for name in plans}
    means, per_query = {}, {}
    for name, run in results.items():
        order = {id: list(scores) for id, scores in run.items()}
        means[name], per_query[name] = evaluate(dataset.qrels, order, measures)
        _save_run(out, _label(name), run, dataset)
    first_measure = measures[0]
    compared = compare(per_query, first_measure, seed=_SEED, resamples=_RESAMPLES)
    summary: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "queries": len(dataset.queries),
        "depth": depth,
        "measures": list(measures),
        "ignore_identical_ids": True,
        "identical_ids": sum(id in scores for run in results.values() for id, scores in run.items()),
        "positives_added": add_positives,
        "systems": means,
        "milliseconds_per_query": {name: found[name][1] / len(dataset.queries) for name in plans},
        "intervals": {
            name: dataclasses.asdict(
                interval([value[first_measure] for value in values.values()], seed=_SEED, resamples=_RESAMPLES)
            )
            for name, values in per_query.items()
        },
        "comparisons": [dataclasses.asdict(pair) for pair in compared],
        "changes": [
            {
                "a": pair.a,
                "b": pair.b,
                "queries": [
                    {"id": id, "text": dataset.queries[id], "a": a, "b": b}
                    for id, a, b in largest_changes(per_query, pair.a, pair.b, first_measure, _CHANGES)
                ],
            }
            for pair in compared
        ],
        "index": indexed,
        "given_runs": {name: Path(path).name for name, path in runs.items()},
        "command": None if command is None else portable_command(command),
        "seeds": {"bootstrap": _SEED, "randomisation": _SEED, "resamples": _RESAMPLES},
        "hashes": {
            "runs": {name: hash_of(run) for name, run in results.items()},
            "given_runs": {name: digest(Path(path)) for name, path in runs.items()},
            "dataset": dataset_hashes(dataset),
        },
        "hardware": hardware(),
        "versions": versions(),
        "git": git_revision(),
    }
    for file, value in (("results.json", summary), ("per_query.json", per_query)):
        replace_file(out / file, json.dumps(value, indent=2, ensure_ascii=False).encode())
    write_report([out], out)
    return Outcome(summary, per_query, results)


def _label(name: str) -> str:
    """A system's name as a file's name and a run's tag."""
    label = re.sub(r"[^\w.+-]", "_", name)
    return label if len(label.encode()) <= _LONGEST_LABEL else f"{label[:60]}-{hash_of(name)}"


def _save_run(out: Path, label: str, run: Run, dataset: Dataset) -> None:
    """Write a run as TREC's, or as MTEB's predictions if it has ids that TREC's format cannot hold."""
    for former in (out / f"{label}.trec", out / f"{label}.json"):
        former.unlink(missing_ok=True)
    if not any(run.values()):
        logger.warning("%s found nothing for any query", label)
    elif writable(id for query, scores in run.items() if scores for id in (query, *scores)):
        write_run(out / f"{label}.trec", run, label)
    else:
        logger.warning("ids have a tab or a line break, which no TREC run can hold; %s.json has MTEB's format", label)
        write_predictions(out / f"{label}.json", run, label, dataset.split)


def _plans(systems: Sequence[str], runs: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """First stage and reranker by the system's name in the results."""
    plans: dict[str, tuple[str, str | None]] = {}
    for name in dict.fromkeys(systems):
        shown = portable_name(name)
        if shown in plans or _label(shown) in map(_label, plans):
            raise InputError(
                f"two systems would both be called {_label(shown)!r} in the results; rename a layout's file"
            )
        plans[shown] = SystemName.parse(name, runs)
    return plans


def _description(index: Index) -> dict[str, Any]:
    return {
        "counts": index.counts(),
        "settings": index.manifest.settings(),
        "manifest": digest(index.path / "manifest.json"),
    }


def open_index(
    dataset: Dataset,
    index: str | Path | None,
    path: Path,
    settings: Mapping[str, Any],
    systems: Iterable[tuple[str, str | None]],
    progress: Callable[[int], None],
) -> Index:
    """The index of a collection.

    Args:
        dataset: the collection.
        index: an existing index of it; None for the one at ``path``. That one is built if it is not there, and built
            anew, with a warning, if it is of another state of the collection or does not serve the systems.
        path: where that is; ``NAME.source.json`` beside it says of which files it was made.
        settings: of the index at ``path``: fields of `IndexSettings`.
        systems: first stage and reranker of those that will search it. Where all of them are BM25 without a reranker,
            nothing is embedded; where one has a reranker, token states are kept. ``settings`` may say otherwise of
            the token states.
        progress: called with the number of documents that are indexed.

    Returns:
        The index, open.

    Raises:
        InputError: if the index is of another collection, there is no such setting, or the index at ``path`` does not
            serve and was not made by this function.
        SightlineError: see `Index.open` and `Index.build`.
    """
    if index is not None:
        opened = Index.open(index)
        _check_collection(opened, dataset)
        return opened
    wanted = _wanted(settings, list(systems))
    source = path.with_name(f"{path.name}.source.json")
    files = json.dumps(_corpus_hash(dataset)).encode()
    if (path / "manifest.json").exists():
        opened = Index.open(path)
        reason = _misfit(opened, wanted)
        if reason is None and source.exists() and source.read_bytes() != files:
            reason = "the collection has changed since"
        if reason is None:
            _check_collection(opened, dataset)
            if opened.manifest.complete:
                logger.info("using the index at %s", path)
                return opened
        opened.close()
        if reason is not None:
            if not source.exists():
                raise InputError(
                    f"{path}: an index with other settings is there that no evaluation made ({reason}); "
                    "remove it, or choose another --out"
                )
            logger.warning("the index at %s does not serve (%s) and is built anew", path, reason)
            built = Index.build(path, dataset.documents(), progress=progress, overwrite=True, **wanted)
            replace_file(source, files)
            return built
    replace_file(source, files)
    return Index.build(path, dataset.documents(), progress=progress, **wanted)


def _corpus_hash(dataset: Dataset) -> dict[str, str]:
    """Name and hash of the corpus; empty for what is not a folder: a catalogue's collections do not change."""
    try:
        path = collection_files(dataset.folder, dataset.split)["corpus"]
    except DataError:
        return {}
    return {path.name: digest(path)}


def _wanted(settings: Mapping[str, Any], systems: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    """All settings of an index for these systems."""
    defaults = {field.name: field.default for field in dataclasses.fields(IndexSettings)}
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise InputError(f"an index has no setting {unknown[0]!r}; there are {', '.join(defaults)}")
    reranks = any(second for _, second in systems)
    wanted = {**defaults, "token_states": "fp16" if reranks else "none", **settings}
    if not reranks and all(first == "bm25" for first, _ in systems):
        wanted |= {
            "encoder": "none",
            "encoder_options": None,
            "faiss": "Flat",
            "faiss_parameters": "",
            "token_states": "none",
        }
    return wanted


def _check_collection(index: Index, dataset: Dataset) -> None:
    """Refuse, and close, an index of another collection; what comes first in its own is in it, if anything is."""
    first = next(iter(dataset.documents()))
    there = index.document(first.id)
    if len(index) and (there is None or there.contents != first.contents):
        index.close()
        raise InputError(
            f"{index.path}: the index is of another collection: it lacks document {first.id!r} of {dataset.folder}, or "
            "has another text for it"
        )


def _misfit(index: Index, wanted: Mapping[str, Any]) -> str | None:
    """The first setting of an index that keeps it from serving, with its value; None if it serves.

    An index that has more than is needed, embeddings or token states, serves just as well.
    """
    manifest = index.manifest
    wanted = {**wanted, "encoder_options": wanted["encoder_options"] or {}}
    if not isinstance(wanted["encoder"], str):
        wanted["encoder"] = wanted["encoder"].name
    elif Path(wanted["encoder"]).exists():
        wanted["encoder"] = str(Path(wanted["encoder"]).resolve())
    if wanted["max_tokens"] is None:
        wanted["max_tokens"] = min(manifest.encoder.max_length, 256) - 2
    there: dict[str, Any] = {
        "lexical": manifest.lexical.engine,
        "max_tokens": manifest.passages.max_tokens,
        "overlap": manifest.passages.overlap,
    }
    if wanted["encoder"] != "none":
        there |= {
            "encoder": manifest.encoder.name,
            "encoder_options": manifest.encoder.options,
            "faiss": manifest.faiss.factory,
            "faiss_parameters": manifest.faiss.parameters,
        }
    if wanted["token_states"] != "none":
        there["token_states"] = manifest.token_states.kind
    return next(
        (f"{name} is {value!r}, needed is {wanted[name]!r}" for name, value in there.items() if wanted[name] != value),
        None,
    )


def _from_run(
    dataset: Dataset,
    run: Run,
    systems: Mapping[str, Reranker | None],
    depth: int,
    add_positives: bool,
    progress: Callable[[int], None],
) -> dict[str, tuple[Run, float]]:
    """By system, its run and its milliseconds."""
    chosen = {name: reranker for name, reranker in systems.items() if reranker is not None}
    out: dict[str, tuple[Run, float]] = {}
    if len(chosen) < len(systems):
        best = {id: trec_order(run[id])[:depth] for id in known_queries(dataset, run)}
        if missing := len(dataset.queries) - len(best):
            logger.warning("a given run lacks %d of %d judged queries; they count as 0", missing, len(dataset.queries))
        cut = {id: {document: run[id][document] for document in documents} for id, documents in best.items()}
        out = dict.fromkeys(systems.keys() - chosen.keys(), (cut, 0.0))
    if chosen:
        if add_positives:
            run = with_positives(dataset, run, depth)
            depth = max(map(len, run.values()), default=depth)
        out |= zip(chosen, rerank_run_each(dataset, run, list(chosen.values()), depth, progress), strict=True)
    return out


def _from_index(
    dataset: Dataset,
    index: Index,
    systems: Mapping[str, tuple[FirstStage, str | None]],
    rerankers: Mapping[str, Reranker],
    depth: int,
    progress: Callable[[str, int], None],
    pool: Executor | None,
) -> dict[str, tuple[Run, float]]:
    """By system, its run and its milliseconds."""
    ids = list(dataset.queries)
    parts = [ids[start : start + _QUERIES_AT_ONCE] for start in range(0, len(ids), _QUERIES_AT_ONCE)]
    texts = [[dataset.queries[id] for id in part] for part in parts]
    plans = list(systems.values())
    if pool is None:
        answer = partial(_answer, Searcher(index, None, candidates=depth), _ready(plans, rerankers))
        answered: Iterable[list[list[_Answer]]] = map(answer, texts)
    else:
        answered = pool.map(partial(_answer_elsewhere, str(index.path), tuple(plans), depth), texts)
    runs: dict[str, Run] = {name: {} for name in systems}
    spent: dict[str, float] = defaultdict(float)
    done = 0
    for part, found in zip(parts, answered, strict=True):
        for id, answers in zip(part, found, strict=True):
            for name, (scores, milliseconds) in zip(systems, answers, strict=True):
                runs[name][id] = scores
                spent[name] += milliseconds
        done += len(part)
        progress("searching", done)
    return {name: (run, spent[name]) for name, run in runs.items()}


def _ready(
    plans: Sequence[tuple[FirstStage, str | None]], rerankers: Mapping[str, Reranker]
) -> list[tuple[FirstStage, Reranker | None]]:
    return [(stage, rerankers[second] if second else None) for stage, second in plans]


def _answer(
    searcher: Searcher, systems: Sequence[tuple[FirstStage, Reranker | None]], texts: Sequence[str]
) -> list[list[_Answer]]:
    """For each text, each system's scores by document id, and milliseconds."""
    return [
        [({hit.id: hit.score for hit in result.hits}, sum(result.milliseconds.values())) for result in results]
        for results in searcher.search_each(texts, systems, k=searcher.candidates)
    ]


def _answer_elsewhere(
    path: str, plans: tuple[tuple[FirstStage, str | None], ...], depth: int, texts: Sequence[str]
) -> list[list[_Answer]]:
    """`_answer` in a process of the pool."""
    return _answer(*_opened(path, plans, depth), texts)


@functools.lru_cache(maxsize=1)
def _opened(
    path: str, plans: tuple[tuple[FirstStage, str | None], ...], depth: int
) -> tuple[Searcher, list[tuple[FirstStage, Reranker | None]]]:
    # Whoever shares out the queries has checked the index.
    rerankers = {second: load_reranker(second) for _, second in plans if second}
    return Searcher(Index.open(path, verify=False), None, candidates=depth), _ready(plans, rerankers)


@contextlib.contextmanager
def search_pool(jobs: int) -> Iterator[Executor | None]:
    """Processes for `evaluate_systems`; None for one job.

    The cores are shared out among them: the products of a short list gain little from a second thread, so queries side
    by side are faster than one after the other.

    Args:
        jobs: how many.

    Raises:
        InputError: if ``jobs`` is below 1.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    if jobs == 1:
        yield None
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads as they stand
    with ProcessPoolExecutor(jobs, context, initializer=_share_cores, initargs=(max(1, cores // jobs),)) as pool:
        yield pool


def _share_cores(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
