"""The results of an evaluation, in memory and in a folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DataError
from ..files import replace_file
from ..parsing import as_type, load_json
from .biases import Bias, parse_bias
from .output import make_folder
from .predictions import write_predictions
from .provenance import Provenance, hash_of
from .runs import load_run
from .significance import Comparison, Number, new_and_base, own_first_stage, reversed_comparison
from .summary import Change, Summary
from .trec import writable, write_run

__all__ = ["PerQuery", "Results", "Run", "Runs", "file_label", "load_bias", "load_results", "results_of_bias"]

logger = logging.getLogger(__name__)

Run = dict[str, dict[str, float]]
"""Score by query id and document id, best first."""

Runs = dict[str, Run]
"""Runs by the system's name."""

PerQuery = dict[str, dict[str, dict[str, Number]]]
"""Value by system, query id and measure."""

T = TypeVar("T")
_LONGEST_LABEL = 200  # bytes; a file's name may have 255


@dataclass(frozen=True, slots=True)
class Results:
    """The results of an evaluation on one collection.

    Args:
        summary: the means, intervals and tests of the systems, stored in ``results.json``.
        provenance: how the results were made, stored in ``results.json``, too.
        per_query: the value by system, query id and measure.
        runs: the scores by system, query id and document id, best first. Empty if `load_results` left them out.
        bias: the biases of the systems, if they were measured.

    Example:
        >>> from pathlib import Path
        >>> from sightline.eval import Dataset, evaluate
        >>> dataset = Dataset("toy", "test", Path(), {"q1": "cats", "q2": "dogs"}, {"q1": {"a": 1}, "q2": {"b": 1}})
        >>> results = evaluate({"mine": {"q1": {"a": 2.0, "b": 1.0}, "q2": {"a": 2.0, "b": 1.0}}}, dataset)
        >>> results.systems["mine"]["RR@10"], results.per_query["mine"]["q2"]["RR@10"]
        (0.75, 0.5)
    """

    summary: Summary
    provenance: Provenance
    per_query: PerQuery = field(default_factory=dict)
    runs: Runs = field(default_factory=dict)
    bias: Bias | None = None

    @property
    def systems(self) -> dict[str, dict[str, float]]:
        """The mean by system and measure."""
        return self.summary.systems

    @property
    def measure(self) -> str:
        """The first measure, by which systems are compared. There is none if no system was measured."""
        return next(iter(next(iter(self.summary.systems.values()))))

    @property
    def pairs(self) -> list[Comparison]:
        """The comparisons of reranked systems with their own first stages; all comparisons if there is none."""
        pairs = self.summary.comparisons
        return [pair for pair in pairs if own_first_stage(pair.a) == pair.b] or pairs

    def changes(self, a: str, b: str) -> list[Change]:
        """Return the queries on which two systems differ most."""
        for changes in self.summary.changes:
            if (changes.a, changes.b) == (a, b):
                return changes.queries
            if (changes.b, changes.a) == (a, b):
                return [query.swapped() for query in changes.queries]
        return []

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        return {**self.summary.as_json(), **self.provenance.as_json()}

    def save(self, folder: str | Path) -> None:
        """Write ``results.json``, ``per_query.json``, and a run for each system, for `load_results`.

        A run is written as ``SYSTEM.trec``, or as ``SYSTEM.json`` in MTEB's format if it has ids that TREC's format
        cannot hold (with a tab or a line break). A system that found nothing has no run.

        Args:
            folder: the folder to write into. It is made if it does not exist.

        Raises:
            InputError: if the folder cannot be written to.
        """
        folder = make_folder(folder)
        for name, run in self.runs.items():
            _save_run(folder, file_label(name), run, self.summary.split)
        for file, value in (("results.json", self.as_json()), ("per_query.json", self.per_query)):
            replace_file(folder / file, json.dumps(value, indent=2, ensure_ascii=False).encode())


def load_results(folder: str | Path, *, runs: bool = True) -> Results:
    """Load the results of one collection from a folder.

    Args:
        folder: a folder that `Results.save` or `sightline.eval.bias.measure_bias` filled. If it has only ``bias.json``,
            the summary has no system.
        runs: whether to load the systems' runs, too.

    Raises:
        DataError: if there are no results, a file is not JSON, or a field is missing, of a wrong type, or contradicts
            others. The message names file and field.

    Example:
        >>> import tempfile
        >>> from sightline.eval import Dataset, evaluate
        >>> dataset = Dataset("toy", "test", Path(), {"q1": "cats"}, {"q1": {"a": 1}})
        >>> results = evaluate({"mine": {"q1": {"a": 2.0, "b": 1.0}}}, dataset)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results.save(folder)
        ...     load_results(folder) == results
        True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder of results", path=folder)
    biased = load_bias(folder) if (folder / "bias.json").exists() else None
    if biased is not None and not (folder / "results.json").exists():
        return biased
    body = _load(folder / "results.json", dict[str, Any])
    summary = _typed(body, Summary, folder / "results.json")
    made = _typed(body, Provenance, folder / "results.json")
    per_query = _load(folder / "per_query.json", PerQuery)
    _check(_check_systems, summary, path=folder / "results.json")
    _check(_check_queries, summary, per_query, path=folder / "per_query.json")
    order = list(summary.systems)
    summary = dataclasses.replace(summary, comparisons=[_directed(pair, order) for pair in summary.comparisons])
    loaded = {name: _load_run(folder, name, per_query[name], summary.split) for name in order} if runs else {}
    return Results(summary, made, per_query, loaded, None if biased is None else biased.bias)


def load_bias(folder: str | Path) -> Results:
    """Load the biases of systems on one collection, without their quality; see `load_results`."""
    path = Path(folder) / "bias.json"
    body = _load(path, dict[str, Any])
    try:
        return results_of_bias(parse_bias(body), path.parent.resolve().name)
    except DataError as error:
        raise _again(error, path) from None


def results_of_bias(bias: Bias, name: str) -> Results:
    """Results that hold nothing but biases.

    Args:
        bias: the biases that were measured.
        name: the name of the collection, if the biases do not tell it.
    """
    summary = Summary(
        dataset=name if bias.dataset is None else bias.dataset,
        split=bias.split,
        queries=bias.queries,
        candidates=bias.list_length,
        systems={},
        intervals={},
        comparisons=[],
    )
    return Results(summary, bias.provenance, bias=bias)


def file_label(name: str) -> str:
    """A system's name as a file's name and a run's tag.

    Example:
        >>> file_label("dense+hf:Qwen/Qwen3-0.6B#icr")
        'dense+hf_Qwen_Qwen3-0.6B_icr'
    """
    label = re.sub(r"[^\w.+-]", "_", name)
    return label if len(label.encode()) <= _LONGEST_LABEL else f"{label[:60]}-{hash_of(name)}"


def _save_run(folder: Path, label: str, run: Run, split: str) -> None:
    for former in (folder / f"{label}.trec", folder / f"{label}.json"):
        former.unlink(missing_ok=True)
    if not any(run.values()):
        logger.warning("%s found nothing for any query", label)
    elif writable(id for query, scores in run.items() if scores for id in (query, *scores)):
        write_run(folder / f"{label}.trec", run, label)
    else:
        logger.warning("ids have a tab or a line break, which no TREC run can hold; %s.json has MTEB's format", label)
        write_predictions(folder / f"{label}.json", run, label, split)


def _load_run(folder: Path, name: str, values: Mapping[str, Mapping[str, float]], split: str) -> Run:
    label = file_label(name)
    for path in (folder / f"{label}.trec", folder / f"{label}.json"):
        if path.is_file():
            return load_run(path, split)
    if any(value for by_measure in values.values() for value in by_measure.values()):
        raise DataError(f"the run of the system {name!r} is missing; evaluate again", path=folder / f"{label}.trec")
    return {}


def _directed(pair: Comparison, order: list[str]) -> Comparison:
    """A comparison, new minus base: former versions of Sightline wrote others."""
    first, second = sorted((pair.a, pair.b), key=order.index)
    return pair if (pair.a, pair.b) == new_and_base(first, second) else reversed_comparison(pair)


def _check_systems(summary: Summary) -> None:
    """Every system has the same measures and an interval, and only systems are compared."""
    systems = summary.systems
    if not systems or not all(systems.values()):
        raise DataError("holds no system that was measured")
    measures = list(next(iter(systems.values())))
    for name, means in systems.items():
        if list(means) != measures:
            raise DataError(f"systems.{name} has different measures from the first system")
        if name not in summary.intervals:
            raise DataError(f"intervals lacks the system {name!r}")
    for part, named in (
        ("intervals", summary.intervals),
        ("milliseconds_per_query", summary.milliseconds_per_query),
        ("relevance", summary.relevance),
        ("no_relevance", summary.no_relevance),
    ):
        if unknown := named.keys() - systems.keys():
            raise DataError(f"{part} has the unknown system {min(unknown)!r}")
    compared = [(pair.a, pair.b) for pair in summary.comparisons]
    changed = [(pair.a, pair.b) for pair in summary.changes]
    for part, pairs in (("comparisons", compared), ("changes", changed)):
        for number, (a, b) in enumerate(pairs):
            if not {a, b} <= systems.keys() or a == b:
                raise DataError(f"{part}[{number}] does not compare two of the systems")


def _check_queries(summary: Summary, per_query: PerQuery) -> None:
    """Every system has the same queries, measured by the first measure."""
    measure = next(iter(next(iter(summary.systems.values()))))
    ids: set[str] | None = None
    for name in summary.systems:
        if name not in per_query:
            raise DataError(f"lacks the system {name!r}")
        ids = set(per_query[name]) if ids is None else ids
        if not ids or per_query[name].keys() != ids:
            raise DataError(f"{name} has no queries, or different ones from the first system")
        if lacking := [id for id, values in per_query[name].items() if measure not in values]:
            raise DataError(f"{name}.{lacking[0]} lacks {measure}")


def _check(checks: Any, *values: Any, path: Path) -> None:
    try:
        checks(*values)
    except DataError as error:
        raise _again(error, path) from None


def _load(path: Path, kind: type[T]) -> T:
    if not path.is_file():
        raise DataError("there is no such file; is this a folder of results?", path=path)
    return _typed(load_json(path), kind, path)


def _typed(body: Any, kind: type[T], path: Path) -> T:
    try:
        return as_type(body, kind)
    except DataError as error:
        raise _again(error, path) from None


def _again(error: DataError, path: Path) -> DataError:
    return DataError(f"{error.reason}; evaluate again", path=path)
