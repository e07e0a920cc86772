"""Evaluate systems on a judged collection: one table, one JSON, one TREC run per system."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import logging
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from ..errors import InputError
from ..retrieval.files import replace_file
from ..retrieval.index import Index
from ..search import FirstStage, Searcher
from .baselines import load_reranker
from .compare import compare, interval
from .dataset import Dataset
from .metrics import DEFAULT_MEASURES, evaluate
from .rerank_run import known_queries, rerank_run, with_positives
from .runs import load_run
from .trec import trec_order, untie, write_run

__all__ = ["Outcome", "evaluate_systems", "parse_system"]

logger = logging.getLogger(__name__)

_FIRST_STAGES = ("bm25", "dense", "hybrid")
_LIBRARIES = ("sightline", "torch", "transformers", "sentence-transformers", "faiss-cpu", "ir-measures", "numpy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found.

    Args:
        summary: what ``results.json`` holds: ``dataset``, ``split``, ``systems`` (mean by system and measure),
            ``intervals`` (95 % bootstrap interval of the mean by system) and ``comparisons`` (of every two systems),
            both by the first measure, and how it was made.
        per_query: value by system, query id and measure.
        runs: scores by system, query id and document id.
    """

    summary: dict[str, Any]
    per_query: dict[str, dict[str, dict[str, float]]]
    runs: dict[str, dict[str, dict[str, float]]]


def parse_system(name: str, runs: Mapping[str, Any] | None = None) -> tuple[str, str | None]:
    """Split a system's name into first stage and reranker: ``dense+minilm`` is ``("dense", "minilm")``.

    Raises:
        InputError: if the first stage is neither ``bm25``, ``dense``, ``hybrid`` nor one of ``runs``.
    """
    first, _, second = name.partition("+")
    stages = [*(runs or {}), *_FIRST_STAGES]
    if first not in stages or name.endswith("+"):
        raise InputError(f"no system {name!r}; name FIRST or FIRST+RERANKER with FIRST one of {', '.join(stages)}")
    return first, second or None


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
    progress: Callable[[str, int], None] | None = None,
) -> Outcome:
    """Run each system over all judged queries and measure it.

    Candidates are honest: a relevant document that the first stage did not find is not added, unless that is asked
    for. First stages other than given runs search an index that is built under ``out`` once, and used again if its
    settings are the same.

    Args:
        dataset: what to search and to measure against.
        systems: names for `parse_system`.
        out: a folder for ``results.json``, ``per_query.json``, one ``SYSTEM.trec`` each, and ``index/``.
        depth: candidates that a first stage hands on, and documents that are measured.
        add_positives: let rerankers also read the relevant documents that the first stage did not find; results then
            say so. First stages alone stay as they are. The texts are read anew, whatever the index keeps.
        measures: names that ir_measures knows.
        runs: given first stages: name to file of a run, see `sightline.eval.runs`.
        index: an existing index of the collection to search; None for one under ``out``.
        settings: of the index under ``out``, for `Index.create`; token states are fp16 unless it says otherwise.
        progress: called with the current step and how many documents or queries of it are done.

    Returns:
        What was also written to ``out``.

    Raises:
        InputError: if a system, measure, setting or depth cannot be used, or the index is of another collection.
        SightlineError: see `Index.build`, `rerank_run`.
    """
    out = Path(out)
    runs = dict(runs or {})
    if not systems:
        raise InputError("name at least one system")
    if depth < 1:
        raise InputError(f"depth must be at least 1, not {depth}")
    plans = {name: parse_system(name, runs) for name in systems}
    evaluate({"q": {"d": 1}}, {"q": ["d"]}, measures)
    rerankers = {second: load_reranker(second) for _, second in plans.values() if second}
    given = {name: load_run(path, dataset.split) for name, path in runs.items()}
    tell = progress or (lambda step, done: None)
    out.mkdir(parents=True, exist_ok=True)
    opened = None
    if index is not None:
        opened = Index.open(index)
        _check_collection(opened, dataset)
    elif any(first not in given for first, _ in plans.values()):
        opened = _index(dataset, out / "index", settings or {}, bool(rerankers), partial(tell, "index"))
    summary: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "queries": len(dataset.queries),
        "depth": depth,
        "ignore_identical_ids": True,
        "identical_ids": 0,
        "positives_added": add_positives,
        "systems": {},
        "milliseconds_per_query": {},
        "index": None if opened is None else {"counts": opened.counts(), "settings": opened.manifest.settings()},
        "given_runs": {name: Path(path).name for name, path in runs.items()},
        "versions": _versions(),
    }
    per_query, results = {}, {}
    try:
        for name, (first, second) in plans.items():
            started = time.perf_counter()
            reranker = rerankers[second] if second else None
            if first in given:
                run = _from_run(dataset, given[first], reranker, depth, add_positives, partial(tell, name))
            else:
                assert opened is not None
                direct = None if add_positives else reranker
                searcher = Searcher(opened, direct, first_stage=cast(FirstStage, first), candidates=depth)
                run = _from_index(dataset, searcher, depth, partial(tell, name))
                if reranker is not direct:
                    run = _from_run(dataset, run, reranker, depth, add_positives, partial(tell, name))
            seconds = time.perf_counter() - started
            run = {id: untie(scores) for id, scores in run.items()}  # what is written gives trec_eval the same figures
            order = {id: list(scores) for id, scores in run.items()}
            summary["systems"][name], per_query[name] = evaluate(dataset.qrels, order, measures)
            summary["identical_ids"] += sum(id in found for id, found in run.items())
            summary["milliseconds_per_query"][name] = seconds * 1e3 / len(dataset.queries)
            label = re.sub(r"[^\w.+-]", "_", name)  # a layout's path is neither a file's name nor a tag
            write_run(out / f"{label}.trec", run, label)
            results[name] = run
    finally:
        if opened is not None:
            opened.close()
    first_measure = measures[0]
    summary["intervals"] = {
        name: dataclasses.asdict(interval([found[first_measure] for found in values.values()]))
        for name, values in per_query.items()
    }
    summary["comparisons"] = [dataclasses.asdict(found) for found in compare(per_query, first_measure)]
    for file, value in (("results.json", summary), ("per_query.json", per_query)):
        replace_file(out / file, json.dumps(value, indent=2, ensure_ascii=False).encode())
    return Outcome(summary, per_query, results)


def _index(
    dataset: Dataset, path: Path, settings: Mapping[str, Any], keep_states: bool, progress: Callable[[int], None]
) -> Index:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Index.create).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    unknown = sorted(set(settings) - set(defaults))
    if unknown:
        raise InputError(f"an index has no setting {unknown[0]!r}; there are {', '.join(defaults)}")
    wanted = {**defaults, "token_states": "fp16" if keep_states else "none", **settings}
    if (path / "manifest.json").exists():
        index = Index.open(path)
        _check_collection(index, dataset)
        if index.manifest.complete and not _differs(index, wanted):
            logger.info("using the index at %s", path)
            return index
        index.close()
        if index.manifest.complete:
            raise InputError(f"{path}: an index with other settings is there; remove it, or choose another --out")
    return Index.build(path, dataset.documents(), progress=progress, **wanted)


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


def _differs(index: Index, wanted: Mapping[str, Any]) -> bool:
    manifest = index.manifest
    wanted = {**wanted, "encoder_options": wanted["encoder_options"] or {}}
    if not isinstance(wanted["encoder"], str):
        wanted["encoder"] = wanted["encoder"].name
    if wanted["max_tokens"] is None:
        wanted["max_tokens"] = min(manifest.encoder["max_length"], 256) - 2
    there: dict[str, Any] = {
        "encoder": manifest.encoder["name"],
        "encoder_options": manifest.encoder["options"],
        "faiss": manifest.faiss["factory"],
        "faiss_parameters": manifest.faiss["parameters"],
        "lexical": manifest.lexical["engine"],
        "max_tokens": manifest.passages["max_tokens"],
        "overlap": manifest.passages["overlap"],
    }
    # An index that keeps states serves systems that do not ask for them just as well.
    states = wanted["token_states"] in ("none", manifest.token_states["kind"])
    return not states or any(there[name] != value for name, value in wanted.items() if name != "token_states")


def _from_run(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    reranker: Any,
    depth: int,
    add_positives: bool,
    progress: Callable[[int], None],
) -> dict[str, dict[str, float]]:
    if reranker is not None:
        if add_positives:
            run = with_positives(dataset, run, depth)
            depth = max(map(len, run.values()), default=depth)
        return rerank_run(dataset, run, reranker, depth, progress)
    best = {id: trec_order(run[id])[:depth] for id in known_queries(dataset, run)}
    if missing := len(dataset.queries) - len(best):
        logger.warning("a given run lacks %d of %d judged queries; they count as 0", missing, len(dataset.queries))
    return {id: {document: run[id][document] for document in documents} for id, documents in best.items()}


def _from_index(
    dataset: Dataset, searcher: Searcher, depth: int, progress: Callable[[int], None]
) -> dict[str, dict[str, float]]:
    ids = list(dataset.queries)
    out = {}
    for start in range(0, len(ids), 32):
        part = ids[start : start + 32]
        found = searcher.search_batch([dataset.queries[id] for id in part], k=depth)
        for id, result in zip(part, found, strict=True):
            out[id] = {hit.id: hit.score for hit in result.hits}
        progress(len(out))
    return out


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
