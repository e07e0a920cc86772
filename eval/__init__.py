"""Evaluation: judged collections, runs, measures, tests between systems, and reports.

`evaluate` runs systems on a collection and measures them, in memory:

Example:
    >>> from sightline import Document
    >>> from sightline.eval import Dataset, evaluate
    >>> documents = [Document("cat", "The cat purrs."), Document("dog", "The dog barks.")]
    >>> dataset = Dataset.in_memory(documents, {"q1": "who purrs"}, {"q1": {"cat": 1}})
    >>> results = evaluate(["bm25", "dense+minilm"], dataset, ["nDCG@10", "RR"])
    >>> results.systems["dense+minilm"]
    {'nDCG@10': 1.0, 'RR': 1.0}

`Results.save` and `load_results` keep results in a folder, and `write_report` draws them.

Collections and runs:
    `Dataset` and `load_dataset` (a folder, or a name in a catalogue), `load_run` and `save_run` (in any format),
    `rerank_run` (the same candidates in a better order).
Systems:
    `evaluate` (in memory), `evaluate_systems` (into a folder), `evaluate_collections` (several `Collection`), and
    `search_pool` (processes that share the work of all three).
Results:
    `Results`, which has a `Summary`, the value of each query, the runs, and a `Provenance`; `load_results` and
    `write_report`.
Measures and tests:
    `measure_rankings`, `compare` (every two systems, giving `Comparison`), `interval` (a mean with its bootstrap
    `Interval`).
Relevance:
    `calibrate_reranker` (fits the two numbers that make a reranker's scores probabilities, by `calibrate`);
    `Summary.relevance` has what `evaluate` measured of each system's, as `RelevanceQuality`.
Readers:
    `tune_reader` (chooses readout, scale and fusion weights for a block reader on dev collections, as `Tuned`).
Cost and bias:
    `measure_cost` and `bench_systems` (time, memory and FLOPs, as `Cost`), `measure_bias` (as `Bias`), and
    `load_positions` (collections that say where in a document an answer stands).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facades import lazy_names

if TYPE_CHECKING:
    from .bias import load_positions, measure_bias
    from .biases import Bias
    from .calibration import Judged, calibrate
    from .cost import bench_systems, measure_cost
    from .dataset import Dataset
    from .experiment import evaluate, evaluate_systems
    from .loading import load_dataset
    from .matrix import Collection, evaluate_collections
    from .metrics import measure_rankings
    from .pool import search_pool
    from .provenance import Provenance
    from .relevance import Calibrated, calibrate_reranker
    from .report import write_report
    from .reranking import rerank_run
    from .results import Results, load_results
    from .runs import load_run, save_run
    from .significance import Comparison, Interval, compare, interval
    from .summary import Cost, RelevanceQuality, Summary
    from .tuning import Tuned, tune_reader

_WHERE = {
    "Bias": "biases",
    "Calibrated": "relevance",
    "Collection": "matrix",
    "Comparison": "significance",
    "Cost": "summary",
    "Dataset": "dataset",
    "Interval": "significance",
    "Judged": "calibration",
    "Provenance": "provenance",
    "RelevanceQuality": "summary",
    "Results": "results",
    "Summary": "summary",
    "Tuned": "tuning",
    "bench_systems": "cost",
    "calibrate": "calibration",
    "calibrate_reranker": "relevance",
    "compare": "significance",
    "evaluate": "experiment",
    "evaluate_collections": "matrix",
    "evaluate_systems": "experiment",
    "interval": "significance",
    "load_dataset": "loading",
    "load_positions": "bias",
    "load_results": "results",
    "load_run": "runs",
    "measure_bias": "bias",
    "measure_cost": "cost",
    "measure_rankings": "metrics",
    "rerank_run": "reranking",
    "save_run": "runs",
    "search_pool": "pool",
    "tune_reader": "tuning",
    "write_report": "report",
}

__all__ = [
    "Bias",
    "Calibrated",
    "Collection",
    "Comparison",
    "Cost",
    "Dataset",
    "Interval",
    "Judged",
    "Provenance",
    "RelevanceQuality",
    "Results",
    "Summary",
    "Tuned",
    "bench_systems",
    "calibrate",
    "calibrate_reranker",
    "compare",
    "evaluate",
    "evaluate_collections",
    "evaluate_systems",
    "interval",
    "load_dataset",
    "load_positions",
    "load_results",
    "load_run",
    "measure_bias",
    "measure_cost",
    "measure_rankings",
    "rerank_run",
    "save_run",
    "search_pool",
    "tune_reader",
    "write_report",
]


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
