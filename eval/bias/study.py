"""All biases of several systems on one collection, in one ``bias.json`` and one ``report.html``."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from ...errors import InputError
from ...names import SystemName
from ...rerank.base import Reranker
from ...rerank.loading import load_reranker
from ...retrieval.stores import Store
from ...search import CandidateList, FirstStage, Searcher
from ..biases import VERSION, Bias, parse_bias
from ..candidates import GivenLists, searched_lists
from ..collection_index import open_index
from ..experiment import evaluate_systems
from ..metrics import check_measures
from ..output import make_folder
from ..provenance import portable_name, provenance
from ..report import write_report
from ..results import Results, results_of_bias
from ..runs import load_run
from .documents import measure_documents
from .order import measure_order
from .position import measure_position
from .positions import PositionDataset

__all__ = ["KINDS", "measure_bias"]

logger = logging.getLogger(__name__)

KINDS = ("order", "position", "documents")

_TWINS = 500  # queries with near-duplicates: enough for their intervals, and reading them takes the longest


def measure_bias(
    dataset: PositionDataset,
    systems: Sequence[str],
    out: str | Path,
    *,
    kinds: Sequence[str] = KINDS,
    measure: str = "nDCG@10",
    candidates: int = 100,
    list_length: int = 30,
    permutations: int = 10,
    slots: int = 5,
    seed: int = 0,
    runs: Mapping[str, str | Path] | None = None,
    index: str | Path | None = None,
    command: Sequence[str] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Bias:
    """Measure the biases of systems.

    Every query is searched once for ``position``, whatever the bins, and every list of ``order`` and ``documents`` is
    retrieved and read once, however often it is ranked. Near-duplicates are made for 500 queries, drawn by the seed. A
    relevant document that the first stage did not find is not added.

    Args:
        dataset: the collection; for ``position``, one with the places of answers.
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them. The order of the candidates is
            measured only for those with a reranker.
        out: the folder for ``bias.json`` and ``report.html``, for ``index/``, and for ``position`` also for what
            `evaluate_systems` writes.
        kinds: the kinds of bias to measure, out of `KINDS`.
        measure: the measure of quality, as ir_measures names it: ``nDCG@10``, or ``Success@1``, which is accuracy.
        candidates: the number of candidates of each query for ``position``.
        list_length: the number of documents in each list for ``order`` and ``documents``.
        permutations: the number of random orders of each list.
        slots: the number of places of the list at which a relevant document is put.
        seed: the seed of permutations, exchanged ids and intervals.
        runs: first stages of your own: the file of a TREC run by name.
        index: an existing index of the collection. If None, one under ``out``, with token states.
        command: the command line, which is stored with the results, without the folders of absolute paths.
        progress: a function that is called with the current step and the number of its queries that are done.

    Returns:
        What is also written to ``bias.json``: one entry for each system in ``order`` (see `OrderBias`), ``position``
        (see `PositionBias`; for each axis) and ``documents`` (see `DocumentBias`).

    Raises:
        InputError: if an argument cannot be used, or the collection lacks what a kind of bias needs.
        SightlineError: see `evaluate_systems`.
    """
    runs, tell = dict(runs or {}), progress or (lambda step, done: None)
    plans = {name: SystemName.parse(name, runs) for name in dict.fromkeys(systems)}
    _check(dataset, plans, kinds, list_length)
    check_measures([measure])
    out = make_folder(out)
    ranks = bool({"order", "documents"} & set(kinds))  # position leaves the loading to `evaluate_systems`
    rerankers = {second: load_reranker(second) for _, second in plans.values() if second and ranks}
    quality: Results | None = None
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    if "position" in kinds:
        placed = dataset.only(dataset.spans.keys())
        quality = evaluate_systems(
            placed,
            list(plans),
            out,
            candidates=candidates,
            measures=[measure],
            runs=runs,
            index=index,
            command=command,
            progress=progress,
        )
        for name, per_query in quality.per_query.items():
            values = {id: by_measure[measure] for id, by_measure in per_query.items()}
            axes = measure_position(name, measure, values, dataset.spans, seed=seed)
            rows["position"] += [axis.as_dict() for axis in axes]
    if ranks:
        for name, reranker, lists in _lists(dataset, plans, rerankers, runs, list_length, index, out, kinds, tell):
            shown = portable_name(name)
            if reranker is not None and "order" in kinds:
                order = measure_order(
                    shown, reranker, _counted(lists, partial(tell, f"{name}: order")), dataset.qrels,
                    measure=measure, permutations=permutations, slots=slots, seed=seed,
                )  # fmt: skip
                rows["order"].append(order.as_dict())
            if "documents" in kinds:
                counted = _counted(lists, partial(tell, f"{name}: documents"))
                twins = set(random.Random(seed).sample([id for id, _ in lists], min(_TWINS, len(lists))))
                documents = measure_documents(shown, reranker, counted, dataset.qrels, twins_of=twins, seed=seed)
                rows["documents"].append(documents.as_dict())
    bias = parse_bias(
        {
            "version": VERSION,
            "dataset": dataset.name,
            "split": dataset.split,
            "queries": len(dataset.queries),
            "candidates": candidates,
            "list_length": list_length,
            "seed": seed,
            "measure": measure,
            **rows,
            **provenance(dataset, command, {"bias": seed}).as_json(),
        }
    )
    bias.save(out)
    write_report([results_of_bias(bias, dataset.name) if quality is None else replace(quality, bias=bias)], out)
    return bias


def _lists(
    dataset: PositionDataset,
    plans: Mapping[str, SystemName],
    rerankers: Mapping[str, Reranker],
    runs: Mapping[str, str | Path],
    list_length: int,
    index: str | Path | None,
    out: Path,
    kinds: Sequence[str],
    tell: Callable[[str, int], None],
) -> Iterator[tuple[str, Reranker | None, list[tuple[str, CandidateList]]]]:
    """Each system's name, its reranker, and what its first stage hands on for each query."""
    with contextlib.ExitStack() as opened:
        searched: Store | None = None
        searching = [plan for plan in plans.values() if plan.first not in runs]
        if searching or index is not None:
            path = out / "index"
            searched = opened.enter_context(open_index(dataset, index, path, {}, searching, partial(tell, "index")))
        for name, (first, second) in plans.items():
            reranker = rerankers[second] if second else None
            if reranker is None and "documents" not in kinds:
                continue
            if first in runs:
                given = GivenLists(dataset, load_run(runs[first], dataset.split), list_length, searched)
                words = reranker is not None and reranker.uses_bm25
                lists = given.lists(None if reranker is None else reranker.window, bm25=words)
            else:
                assert searched is not None
                stage = cast(FirstStage, first)
                searcher = Searcher(searched, reranker, first_stage=stage, candidates=list_length)
                lists = searched_lists(searcher, dataset.queries)
            yield name, reranker, list(_counted(lists, partial(tell, f"{name}: candidates")))


def _check(dataset: PositionDataset, plans: Mapping[str, SystemName], kinds: Sequence[str], list_length: int) -> None:
    """Refuse at once what would fail only after hours of searching."""
    if not plans or not kinds:
        raise InputError("name at least one system and one kind of bias")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise InputError(f"no bias {unknown[0]!r}; there are {', '.join(KINDS)}")
    if list_length < 2:
        raise InputError(f"list_length must be at least 2, not {list_length}: a list of one has no order")
    if "position" in kinds and not dataset.spans:
        raise InputError(
            f"{dataset.name} does not say where in their documents answers stand (it has no spans.tsv); leave out the "
            "kind 'position'"
        )
    if "order" in kinds and not any(second for _, second in plans.values()):
        raise InputError("the order of the candidates concerns rerankers; name a system FIRST+RERANKER")


def _counted(
    lists: Iterator[tuple[str, CandidateList]] | list[tuple[str, CandidateList]], progress: Callable[[int], None]
) -> Iterator[tuple[str, CandidateList]]:
    for number, entry in enumerate(lists, start=1):
        yield entry
        progress(number)
