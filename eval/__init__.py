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

Collections and runs: `Dataset`, `load_dataset`, `load_run`, `save_run`, `rerank_run`.
Systems: `evaluate`, `evaluate_systems` (into a folder), `evaluate_collections`, `search_pool` (several processes).
Results: `Results`, `Summary`, `Provenance`, `load_results`, `write_report`.
Measures and tests: `measure_rankings`, `compare`, `interval`, `Comparison`, `Interval`.
Cost and bias: `measure_cost`, `bench_systems`, `measure_bias`, `load_positions`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bias import load_positions, measure_bias
    from .cost import bench_systems, measure_cost
    from .dataset import Dataset, load_dataset
    from .experiment import evaluate, evaluate_systems
    from .matrix import evaluate_collections
    from .metrics import measure_rankings
    from .pool import search_pool
    from .provenance import Provenance
    from .report import write_report
    from .reranking import rerank_run
    from .results import Results, load_results
    from .runs import load_run, save_run
    from .significance import Comparison, Interval, compare, interval
    from .summary import Summary

_WHERE = {
    "Comparison": "significance",
    "Dataset": "dataset",
    "Interval": "significance",
    "Provenance": "provenance",
    "Results": "results",
    "Summary": "summary",
    "bench_systems": "cost",
    "compare": "significance",
    "evaluate": "experiment",
    "evaluate_collections": "matrix",
    "evaluate_systems": "experiment",
    "interval": "significance",
    "load_dataset": "dataset",
    "load_positions": "bias",
    "load_results": "results",
    "load_run": "runs",
    "measure_bias": "bias",
    "measure_cost": "cost",
    "measure_rankings": "metrics",
    "rerank_run": "reranking",
    "save_run": "runs",
    "search_pool": "pool",
    "write_report": "report",
}

__all__ = [
    "Comparison",
    "Dataset",
    "Interval",
    "Provenance",
    "Results",
    "Summary",
    "bench_systems",
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
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
