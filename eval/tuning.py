"""Choose how a block reader's token states become scores: readout, scale and fusion weights, on dev collections.

Not every encoder's token states rank well, so each choice is compared with what the embedding alone gives. Documents
are read once; a trial is arithmetic on a few numbers per candidate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ..errors import InputError
from ..files import replace_file
from ..models.loading import absolute_name
from ..models.reader import BlockReader
from ..names import READERS, FirstStage, RerankerName
from ..rerank.layout import FusionWeights, Layout, ReadoutSpec, load_layout
from ..rerank.loading import load_reranker
from ..rerank.readout import document_scores
from ..rerank.signals import Signals, fused_scores, read_signals
from ..retrieval.bm25 import background_bm25
from ..search import CandidateList, Searcher
from .collection_index import open_index
from .dataset import Dataset
from .metrics import measure_rankings
from .output import make_folder
from .results import file_label
from .significance import Interval, bootstrap_means, interval, percentile_interval

__all__ = [
    "MEASURE",
    "SCALES",
    "Trial",
    "Tuned",
    "TunedCollection",
    "document_order",
    "read_candidates",
    "save_layout",
    "trials",
    "tune_reader",
    "weights_grid",
]

MEASURE = "nDCG@10"
SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)
_EVIDENCE_SCALE = 20.0  # of MaxSim, whose order no scale changes
_EVERY_SIGNAL = FusionWeights(log_mass=1.0, maxsim=1.0, cosine=1.0, bm25=1.0, length=1.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """A combination of settings that is tried.

    Args:
        readout: ``mass``, ``log_mass``, ``maxsim`` or ``fused``.
        scale: the factor on cosines before their softmax.
        weights: the weights of ``fused``; None for the others.
    """

    readout: str
    scale: float
    weights: FusionWeights | None = None

    def __str__(self) -> str:
        if self.weights is None:
            return self.readout if self.readout == "maxsim" else f"{self.readout}, scale {self.scale:g}"
        terms = {name: getattr(self.weights, name) for name in FusionWeights.__slots__}
        parts = " ".join(f"{name}={weight:g}" for name, weight in terms.items() if weight)
        return f"fused, scale {self.scale:g}, {parts}"


@dataclass(frozen=True, slots=True)
class TunedCollection:
    """The nDCG@10 on one dev collection.

    Args:
        queries: the number of judged queries.
        dense: the nDCG@10 of the embedding alone.
        first_stage: the nDCG@10 of the first stage alone.
        chosen: the nDCG@10 of the choice that was made on all collections.
        held_out: the nDCG@10 of a choice that was made without these queries.
    """

    queries: int
    dense: Interval
    first_stage: Interval
    chosen: Interval
    held_out: Interval


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choice of `tune_reader`.

    Args:
        layout: the choice, as a layout that names its reader.
        trial: the choice, as the settings that were tried.
        means: the mean nDCG@10 over collections of every trial.
        collections: the results on each collection, by its name.
        baseline: what reading must beat: ``dense`` or the first stage, whichever has the better mean.
        gain: the mean difference to the baseline over collections, with an interval over queries. Each choice was made
            without the queries that it is measured on.
    """

    layout: Layout
    trial: Trial
    means: Mapping[Trial, float]
    collections: Mapping[str, TunedCollection]
    baseline: str
    gain: Interval

    @property
    def better(self) -> bool:
        """Whether reading beats the baseline: whether the interval of the gain is above zero."""
        return self.gain.low > 0


def weights_grid(scale: float) -> Iterator[FusionWeights]:
    """The fusion weights that are tried at a scale.

    The sum's own scale does not matter, so log mass keeps weight one. A log mass grows with the scale as MaxSim and
    cosine do, so their weights, and that of BM25, grow with it.

    Example:
        >>> FusionWeights(log_mass=1.0, cosine=10.0, bm25=0.125) in set(weights_grid(20.0))
        True
    """
    yield FusionWeights(maxsim=scale)
    for cosine, bm25, length in itertools.product((0, 1 / 4, 1 / 2, 1), (0, 1 / 320, 1 / 160, 1 / 80), (0.0, -0.25)):
        yield FusionWeights(log_mass=1.0, cosine=cosine * scale, bm25=bm25 * scale, length=length)
    yield FusionWeights(maxsim=scale, cosine=scale / 2, bm25=scale / 160)
    yield FusionWeights(cosine=scale / 2, bm25=scale / 400)


def trials(scales: Sequence[float] = SCALES) -> list[Trial]:
    """Everything that is tried.

    Example:
        >>> len(trials()), trials()[0]
        (186, Trial(readout='maxsim', scale=20.0, weights=None))
    """
    simple = [Trial(readout, scale) for readout in ("log_mass", "mass") for scale in scales]
    fused = [Trial("fused", scale, weights) for scale in scales for weights in weights_grid(scale)]
    return [Trial("maxsim", _EVIDENCE_SCALE), *simple, *fused]


def read_candidates(candidates: CandidateList, reader: BlockReader, scale: float) -> tuple[torch.Tensor, Signals]:
    """What a reader's kept token states say of candidates.

    Args:
        candidates: a list with kept states.
        reader: the reader that made the states.
        scale: the factor on cosines.

    Returns:
        The attention mass, float64 (N,), and every other signal. A passage without tokens has none of either, and its
        scores are those of the worst.
    """
    [query] = reader.read_queries([candidates.query])
    assert query.states is not None and candidates.states is not None
    words = candidates.bm25
    if words is None:  # as rerankers score the words of texts whose collection has no BM25
        words = tuple(background_bm25(candidates.query, [block.contents for block in candidates.blocks]))
    keys = [states.keys for states in candidates.states if states is not None]
    with torch.inference_mode():
        rows = torch.from_numpy(query.states)
        reading, signals = read_signals(rows, keys, words, _EVERY_SIGNAL, scale=scale)
        return document_scores(reading, ReadoutSpec(readout="mass", scale=scale)), signals


def document_order(candidates: CandidateList, scores: np.ndarray) -> list[str]:
    """Return the ids of the documents by the best of their passages, best first.

    Args:
        candidates: a list of N passages.
        scores: float (N,), the score of each passage.
    """
    order = np.argsort(-scores, kind="stable")
    return list(dict.fromkeys(candidates.passages[place].document.id for place in order))


def tune_reader(
    reader: str,
    datasets: Sequence[Dataset],
    *,
    name: str = "tuned",
    encoder: str | None = None,
    first_stage: FirstStage = "hybrid",
    candidates: int = 100,
    settings: Mapping[str, Any] | None = None,
    work: str | Path | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Tuned:
    """Choose readout, scale and fusion weights for a block reader.

    The choice maximises the sum of two numbers over the dev collections: the mean difference to the baseline, and the
    worst. The reported gain is held out: on each collection, it is that of the choice made on the others; with one
    collection, it is measured on each half of its queries for the choice made on the other half.

    Args:
        reader: the name of the reader: ``minilm``, ``encoder:MODEL`` or ``late-interaction:MODEL``.
        datasets: dev collections with different names. Do not use collections that you evaluate on.
        name: the name of the layout.
        encoder: the encoder that embeds the collections. If None, the reader itself, or ``minilm`` for a
            late-interaction model.
        first_stage: the first stage that finds the candidates: ``bm25``, ``sparse``, ``dense`` or ``hybrid``.
        candidates: the number of candidates of each query.
        settings: further fields of `IndexSettings` for the indexes.
        work: the folder in which the indexes are built, and found again the next time. If None, a temporary one.
        progress: a function that is called with the current step and the number of its queries that are done.

    Raises:
        InputError: if ``reader`` is not a block reader, or an argument cannot be used.
        SightlineError: see `load_reranker` and `evaluate`.

    Example:
        >>> from sightline import Document
        >>> from sightline.eval import Dataset, tune_reader
        >>> documents = [Document("cat", "The cat purrs."), Document("dog", "The dog barks.")]
        >>> dataset = Dataset.in_memory(documents, {"q1": "purr", "q2": "bark"}, {"q1": {"cat": 1}, "q2": {"dog": 1}})
        >>> tuned = tune_reader("minilm", [dataset])
        >>> tuned.better, tuned.gain.mean  # the embedding alone finds both
        (False, 0.0)
    """
    parsed = RerankerName.parse(reader)
    if (reader != "minilm" and parsed.kind not in READERS) or parsed.layout:
        raise InputError(
            f"a reader is minilm, encoder:MODEL or late-interaction:MODEL, without a #LAYOUT, not {reader!r}"
        )
    if candidates < 1:
        raise InputError(f"candidates must be at least 1, not {candidates}")
    names = [dataset.name for dataset in datasets]
    if not names or len(set(names)) < len(names):
        raise InputError(f"name dev collections with different names, not {', '.join(names) or 'none'}")
    reader = absolute_name(reader)
    embeds = encoder or ("minilm" if parsed.kind == "late-interaction" else reader.removeprefix("encoder:"))
    reranker = load_reranker("minilm" if reader == "minilm" else f"{reader}#minilm")  # one that uses BM25
    assert reranker.reader is not None
    kept = {"encoder": embeds, "reader": None if embeds == reader.removeprefix("encoder:") else reader}
    tell, everything = progress or (lambda step, done: None), trials()
    measured: dict[str, _Measured] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if work is None else make_folder(work)
        for dataset in datasets:
            here, system = make_folder(folder / file_label(dataset.name)), (first_stage, reader)
            step = partial(tell, f"{dataset.name}: index")
            with open_index(dataset, None, here / "index", {**(settings or {}), **kept}, [system], step) as index:
                searcher = Searcher(index, reranker, first_stage=first_stage, candidates=candidates)
                step = partial(tell, f"{dataset.name}: search")
                measured[dataset.name] = _measure(dataset, searcher, everything, step)
    return _chosen(name, reader, everything, measured, first_stage)


def save_layout(layout: Layout, file: str | Path) -> None:
    """Write a layout as YAML that `load_layout` reads; what was in the file is replaced."""
    replace_file(Path(file), yaml.safe_dump(layout.as_dict(), sort_keys=False, allow_unicode=True).encode())


@dataclass(frozen=True, slots=True)
class _Measured:
    """nDCG@10 of the Q queries of a collection: of dense and the first stage, (Q, 2), and of the trials, (Q, T)."""

    baselines: np.ndarray
    trials: np.ndarray

    def part(self, queries: np.ndarray) -> _Measured:
        return _Measured(self.baselines[queries], self.trials[queries])


def _measure(
    dataset: Dataset, searcher: Searcher, everything: Sequence[Trial], progress: Callable[[int], None]
) -> _Measured:
    reader, stage = searcher.reranker, searcher.first_stage
    assert reader is not None and reader.reader is not None
    alone: tuple[FirstStage, FirstStage] = ("dense", stage)
    rankings: list[dict[str, list[str]]] = [{} for _ in range(len(alone) + len(everything))]
    for done, (id, text) in enumerate(dataset.queries.items(), start=1):
        [found] = searcher.candidates_each([text], dict.fromkeys(alone), [reader])
        for place, name in enumerate(alone):
            rankings[place][id] = found[name].ids
        scores = _trial_scores(found[stage], reader.reader, everything)
        for place, values in enumerate(scores, start=len(alone)):
            rankings[place][id] = document_order(found[stage], values)
        progress(done)
    measured = [measure_rankings(dataset.qrels, ranking, [MEASURE])[1] for ranking in rankings]
    columns = np.array([[by_query[id][MEASURE] for by_query in measured] for id in measured[0]])
    return _Measured(columns[:, : len(alone)], columns[:, len(alone) :])


def _trial_scores(candidates: CandidateList, reader: BlockReader, everything: Sequence[Trial]) -> list[np.ndarray]:
    """The scores of the passages by every trial."""
    if not candidates.passages:
        return [np.empty(0)] * len(everything)
    read = {
        scale: read_candidates(candidates, reader, scale)
        for scale in dict.fromkeys(trial.scale for trial in everything)
    }
    scores = []
    for trial in everything:
        mass, signals = read[trial.scale]
        if trial.weights is not None:
            scores.append(fused_scores(signals, trial.weights).numpy())
        else:
            scores.append((mass if trial.readout == "mass" else getattr(signals, trial.readout)).numpy())
    return scores


def _chosen(
    name: str, reader: str, everything: Sequence[Trial], measured: Mapping[str, _Measured], first_stage: str
) -> Tuned:
    parts = list(measured.values())
    base = _baseline(parts)
    best = _best(parts, base)
    held_out = _held_out(parts, base)
    gains = [values - part.baselines[:, base] for values, part in zip(held_out, parts, strict=True)]
    # Queries are drawn within each collection, and collections count alike.
    resampled = [bootstrap_means(gain[:, None], seed=seed)[:, 0] for seed, gain in enumerate(gains)]
    gain = percentile_interval(float(np.mean([gain.mean() for gain in gains])), np.mean(resampled, axis=0))
    trial = everything[best]
    changes: dict[str, Any] = {} if reader == "minilm" else {"reader": reader, "max_block_tokens": 0}
    if trial.weights is not None:
        changes["weights"] = dataclasses.asdict(trial.weights)
    layout = load_layout("minilm-log-mass", name=name, readout=trial.readout, scale=trial.scale, **changes)
    means = np.mean([part.trials.mean(axis=0) for part in parts], axis=0)
    collections = {
        collection: TunedCollection(
            queries=len(part.baselines),
            dense=interval(part.baselines[:, 0]),
            first_stage=interval(part.baselines[:, 1]),
            chosen=interval(part.trials[:, best]),
            held_out=interval(values),
        )
        for (collection, part), values in zip(measured.items(), held_out, strict=True)
    }
    by_trial = dict(zip(everything, means.tolist(), strict=True))
    return Tuned(layout, trial, by_trial, collections, ("dense", first_stage)[base], gain)


def _baseline(parts: Sequence[_Measured]) -> int:
    """Which of the baselines is better on the mean over collections."""
    return int(np.argmax(np.mean([part.baselines.mean(axis=0) for part in parts], axis=0)))


def _best(parts: Sequence[_Measured], base: int) -> int:
    """The trial with the best sum of the mean and the worst difference to a baseline; the simplest of equals."""
    differences = np.array([part.trials.mean(axis=0) - part.baselines[:, base].mean() for part in parts])
    return int(np.argmax((differences.mean(axis=0) + differences.min(axis=0)).round(9)))


def _held_out(parts: Sequence[_Measured], base: int) -> list[np.ndarray]:
    """For each collection, the value of each query by a choice that was made without it."""
    if len(parts) > 1:
        return [part.trials[:, _best([other for other in parts if other is not part], base)] for part in parts]
    [part] = parts
    values, halves = np.zeros(len(part.trials)), np.arange(len(part.trials)) % 2
    for half in (0, 1):
        own, other = np.flatnonzero(halves == half), np.flatnonzero(halves != half)
        chosen = _best([part.part(other)], base) if len(other) else 0
        values[own] = part.trials[own, chosen]
    return [values]
