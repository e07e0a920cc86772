"""How far a reranker's relevance can be trusted: whether lists without an answer stand out, and probabilities are true.

Scores with a relevance do not depend on the list, so dropping documents changes nothing for the others: each list is
ranked once, and read twice, as it is and without its relevant documents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import InputError
from ..files import replace_file
from ..names import SHIPPED, RerankerName, SystemName
from ..rerank.base import Reranker
from ..rerank.layout import Layout, RelevanceSpec
from ..rerank.results import NOTHING
from ..search import Searcher
from .calibration import BINS, Judged, Thresholds, auroc, bin_places, calibrate, calibration_error, reliability
from .collection_index import open_index
from .dataset import Dataset
from .output import make_folder, writable_file
from .results import Run, file_label
from .significance import Interval, bootstrap_counts, bootstrap_means, percentile_interval
from .summary import RelevanceQuality, ReliabilityBin
from .systems import Answers, Plan, answer_systems, plan_systems

__all__ = [
    "Calibrated",
    "CalibratedCollection",
    "calibrate_reranker",
    "check_layout_file",
    "measure_relevance",
    "relevance_of_systems",
    "save_calibration",
]

logger = logging.getLogger(__name__)

_RECALL = 0.9
_LEVELS = 1000  # of documents' probabilities, for the interval of their ROC curve, which it changes by less than .001


def measure_relevance(judged: Judged, *, seed: int = 0, resamples: int = 999) -> RelevanceQuality:
    """Measure probabilities against judgements.

    Each query gives two lists, its candidates and the same without the relevant ones. A list has an answer if it has a
    relevant document, and is judged by its highest probability: what `min_score` leaves empty or not. A list without a
    candidate has 0. Intervals are of the paired bootstrap over queries: both lists of a query are drawn together.

    Args:
        judged: the probabilities, from 0 to 1; at least one.
        seed: the seed of the resampling.
        resamples: the number of resamples.

    Raises:
        InputError: if there is no candidate, or a probability is not from 0 to 1.

    Example:
        >>> quality = measure_relevance(Judged.of([[(0.9, True), (0.2, False)], [(0.3, True), (0.4, False)]]))
        >>> quality.auroc_lists.mean, quality.false_accepts.mean, quality.threshold, quality.auroc_documents.mean
        (0.875, 0.5, 0.4, 0.75)
    """
    if not len(judged.values):
        raise InputError("no query has a candidate, so there is no relevance to measure")
    values, relevant, queries = judged.values, judged.relevant, judged.queries
    count = judged.count
    with_all, without = np.zeros(count), np.zeros(count)
    np.maximum.at(with_all, queries, values)
    np.maximum.at(without, queries[~relevant], values[~relevant])
    answered = np.flatnonzero(np.bincount(queries, relevant, minlength=count))
    lists = Thresholds.of((with_all[answered], answered), (without, np.arange(count)), count)
    kinds = [(values[chosen], queries[chosen]) for chosen in (relevant, ~relevant)]
    documents = Thresholds.of(kinds[0], kinds[1], count, _LEVELS)
    areas, shares, by_document = [], [], []
    for counts in bootstrap_counts(count, seed=seed, resamples=resamples, width=8 * count):
        areas.append(lists.auroc(counts))
        shares.append(lists.false_accepts(counts, _RECALL)[0])
        by_document.append(documents.auroc(counts))
    once = np.ones((1, count))
    share, threshold = lists.false_accepts(once, _RECALL)
    area = auroc(kinds[0][0], kinds[1][0])
    return RelevanceQuality(
        answered=len(answered),
        unanswered=count,
        documents=len(values),
        relevant=int(relevant.sum()),
        auroc_lists=_interval(lists.auroc(once), areas),
        false_accepts=_interval(share, shares),
        threshold=float(threshold[0]) if len(answered) else None,
        auroc_documents=None if area is None else _interval(np.array([area]), by_document),
        calibration_error=_calibration_error(judged, seed, resamples),
        reliability=_bins(reliability(values, relevant)),
    )


def _interval(value: np.ndarray, resampled: Sequence[np.ndarray]) -> Interval | None:
    """A value with its percentile interval; resamples without both kinds tell nothing, and are left out."""
    if np.isnan(value[0]):
        return None
    known = np.concatenate(resampled)
    return percentile_interval(value[0], known[~np.isnan(known)])


def _calibration_error(judged: Judged, seed: int, resamples: int) -> Interval:
    """The error with its percentile interval. Noise makes errors larger, so the interval may lie above the value."""
    place = judged.queries * BINS + bin_places(judged.values)
    size = judged.count * BINS
    gaps = np.bincount(place, judged.values - judged.relevant, minlength=size).reshape(-1, BINS)
    lengths = np.bincount(judged.queries)[:, None]
    means = bootstrap_means(np.concatenate([gaps, lengths], axis=1), seed=seed, resamples=resamples)
    value = calibration_error(judged.values, judged.relevant)
    assert value is not None
    return percentile_interval(value, np.abs(means[:, :-1]).sum(axis=1) / means[:, -1])


def _bins(binned: np.ndarray) -> list[ReliabilityBin]:
    return [
        ReliabilityBin(
            number / BINS, (number + 1) / BINS, int(documents), float(total / documents), relevant / documents
        )
        for number, (documents, total, relevant) in enumerate(binned.tolist())
        if documents
    ]


def relevance_of_systems(
    plan: Plan, dataset: Dataset, answers: Mapping[str, Answers], *, seed: int = 0, resamples: int = 999
) -> tuple[dict[str, RelevanceQuality], dict[str, str]]:
    """Measure the relevance of every system that has one.

    Args:
        plan: the systems and their rerankers.
        dataset: the collection that has the judgements. What nobody judged counts as not relevant.
        answers: the documents that each system found.
        seed: the seed of the resampling.
        resamples: the number of resamples.

    Returns:
        What was measured, by system, and for the other systems why they have no relevance.
    """
    measured: dict[str, RelevanceQuality] = {}
    missing: dict[str, str] = {}
    for name, system in plan.systems.items():
        reranker = _reranker_of(system, plan.rerankers)
        if reranker is None:
            missing[name] = "its scores are not a reranker's, and have no calibration"
        elif reason := reranker.why_no_relevance():
            missing[name] = reason
        else:
            scores = _judged(dataset, answers[name].run)
            if not len(scores.values):
                missing[name] = "it found no candidate for any query"
                continue
            probabilities = np.array([reranker.relevance(score) for score in scores.values.tolist()])
            judged = Judged(probabilities, scores.relevant, scores.queries)
            measured[name] = measure_relevance(judged, seed=seed, resamples=resamples)
    return measured, missing


def _reranker_of(system: object, rerankers: Mapping[str, Reranker]) -> Reranker | None:
    if isinstance(system, SystemName):
        return rerankers[system.reranker] if system.reranker else None
    return system.reranker if isinstance(system, Searcher) else None


def _judged(dataset: Dataset, run: Run) -> Judged:
    """Scores beside judgements; a document with the query's own id is left out, as when systems are measured."""
    return Judged.of(
        [
            [(score, dataset.qrels[id].get(document, 0) > 0) for document, score in run[id].items() if document != id]
            for id in dataset.queries
            if id in run
        ]
    )


@dataclass(frozen=True, slots=True)
class CalibratedCollection:
    """What a calibration does on one of the collections that it was fitted on.

    Args:
        quality: the quality with the numbers that were fitted on all collections.
        held_out_error: the expected calibration error with numbers that were fitted on the other collections only. None
            if there are no others.
    """

    quality: RelevanceQuality
    held_out_error: float | None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A fitted calibration.

    Args:
        reranker: the reranker with the calibration.
        relevance: the two fitted numbers.
        collections: the quality on each collection, by its name.
    """

    reranker: Reranker
    relevance: RelevanceSpec
    collections: dict[str, CalibratedCollection]


def calibrate_reranker(
    reranker: str,
    datasets: Sequence[Dataset],
    *,
    first_stage: str = "hybrid",
    candidates: int = 100,
    settings: Mapping[str, Any] | None = None,
    work: str | Path | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Calibrated:
    """Fit the two numbers that turn a reranker's scores into probabilities, on candidates of judged collections.

    Every collection has the same weight, and so has every query within it. Candidates that nobody judged count as not
    relevant. A probability holds for candidates like these: of this first stage, and this many.

    Args:
        reranker: the name of a reranker, as `load_reranker` takes it.
        datasets: judged collections with different names.
        first_stage: the first stage that finds the candidates: ``bm25``, ``sparse``, ``dense`` or ``hybrid``.
        candidates: the number of candidates of each query.
        settings: the fields of `IndexSettings` for the indexes.
        work: the folder in which the indexes are built, and found again the next time. If None, a temporary one.
        progress: a function that is called with the current step and the number of its queries that are done.

    Raises:
        InputError: if scores are relative to their list, there are no judged candidates of both kinds, or an argument
            cannot be used.
        SightlineError: see `evaluate`.

    Example:
        >>> from sightline import Document
        >>> from sightline.eval import Dataset, calibrate_reranker
        >>> documents = [Document("cat", "The cat purrs."), Document("dog", "The dog barks.")]
        >>> dataset = Dataset.in_memory(documents, {"q1": "who purrs"}, {"q1": {"cat": 1}})
        >>> fitted = calibrate_reranker("minilm", [dataset])
        >>> fitted.relevance.slope > 0
        True
    """
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, not {candidates}")
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) < len(names):
        raise InputError(f"name collections with different names, not {', '.join(names) or 'none'}")
    tell = progress or (lambda step, done: None)
    plan = plan_systems([f"{first_stage}+{reranker}"], {}, "")
    ((name, system),) = plan.named.items()
    (loaded,) = plan.rerankers.values()
    if not loaded.list_free:
        raise InputError(
            f"{loaded.name} cannot be calibrated: its scores are relative to their list, so no calibration fits all "
            "lists"
        )
    scores: dict[str, Judged] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if work is None else make_folder(work)
        for dataset in datasets:
            here = make_folder(folder / file_label(dataset.name))
            tell_here = partial(_tell, tell, dataset.name)
            opened = open_index(dataset, None, here / "index", settings or {}, [system], partial(tell_here, "index"))
            with opened:
                answers = answer_systems(
                    plan, dataset, opened, candidates=candidates, add_positives=False, pool=None, progress=tell_here
                )
            scores[dataset.name] = _read(_judged(dataset, answers[name].run))
    relevance = calibrate(list(scores.values()))
    measured = {}
    for own, judged in scores.items():
        others = [other for name, other in scores.items() if name != own]
        held_out = None if not others else calibration_error(_probabilities(judged, calibrate(others)), judged.relevant)
        by_all = Judged(_probabilities(judged, relevance), judged.relevant, judged.queries)
        measured[own] = CalibratedCollection(measure_relevance(by_all), held_out)
    return Calibrated(loaded, relevance, measured)


def check_layout_file(reranker: str, out: str | Path | None, save: bool) -> Path | None:
    """The file that a calibration goes into, before the work begins.

    Args:
        reranker: the name of the reranker.
        out: the path of a ``.yaml`` file for a new layout. None for none.
        save: whether to change ``layout.yaml`` in the folder that the reranker's name stands for.

    Returns:
        The file; None to write none.

    Raises:
        InputError: if both are asked for, the reranker has no layout, there is no such folder, or the file cannot be
            written to.
    """
    if save and out is not None:
        raise InputError("--out writes a new layout and --save changes that of the folder; give one of them")
    if (save or out is not None) and RerankerName.parse(reranker).kind in ("cross-encoder", "remote"):
        raise InputError(f"{reranker} has no layout that could hold the numbers; write no file")
    if save:
        target = Path(reranker) / "layout.yaml"
        if not target.is_file():
            raise InputError(
                f"{reranker} is not a folder from sightline train, with a layout.yaml; use --out FILE.yaml"
            )
        return target
    if out is None:
        return None
    if Path(out).suffix not in (".yaml", ".yml"):
        raise InputError(f"out is a layout, whose name ends in .yaml, not {out}")
    if reranker in SHIPPED or (Path(reranker) / "layout.yaml").is_file():
        raise InputError(
            f"{reranker} has weights beside its layout, so a layout alone would be incomplete; use --save, on a copy "
            "of the folder if it is not your own"
        )
    return writable_file(out)


def save_calibration(fitted: Calibrated, file: str | Path) -> None:
    """Write the reranker's layout, with the fitted numbers, as YAML that `load_layout` reads.

    Args:
        fitted: the calibration that `calibrate_reranker` returned.
        file: the path of the file. What was in it is replaced.

    Raises:
        InputError: if the reranker has no layout, such as a cross-encoder.
    """
    spec = getattr(fitted.reranker, "spec", None)
    if not isinstance(spec, Layout):
        raise InputError(f"{fitted.reranker.name} has no layout that could hold the numbers; write no file")
    calibrated = dataclasses.replace(spec, relevance=fitted.relevance)
    text = yaml.safe_dump(calibrated.as_dict(), sort_keys=False, allow_unicode=True)
    replace_file(Path(file), text.encode())


def _read(judged: Judged) -> Judged:
    """Without documents in which there was nothing to read: their relevance is 0, whatever is fitted."""
    read = judged.values > NOTHING
    return Judged(judged.values[read], judged.relevant[read], judged.queries[read])


def _probabilities(judged: Judged, relevance: RelevanceSpec) -> np.ndarray:
    return np.array([relevance.probability(score) for score in judged.values.tolist()])


def _tell(tell: Callable[[str, int], None], name: str, step: str, done: int) -> None:
    tell(f"{name}: {step}", done)
