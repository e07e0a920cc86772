"""Predictions of MTEB: what ``mteb.evaluate(..., prediction_folder=...)`` writes, and reranks afterwards.

A file is ``{"mteb_model_meta": {...}, SUBSET: {SPLIT: {query id: {document id: score}}}}``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import replace_file
from ..parsing import parse_json
from ..retrieval.compression import open_binary
from .trec import check_scores, trec_order

__all__ = ["parse_predictions", "write_predictions"]

_META = "mteb_model_meta"


def parse_predictions(
    path: str | os.PathLike[str], split: str | None = None, subset: str | None = None
) -> dict[str, dict[str, float]]:
    """Read one split of one subset as a run.

    Args:
        path: the path of the file.
        split: the name of the split to read. If None, the only one.
        subset: the name of the subset to read. If None, the only one.

    Returns:
        Score by document id by query id, the documents in the order of `sightline.eval.trec.trec_order`, which is
        also MTEB's. Queries for which nothing was found are left out.

    Raises:
        DataError: if the file cannot be read, is not of this form, does not have the subset or the split, or has
            several and none was named, or has no result or a score that is not a finite number.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "Toy_predictions.json")
        ...     write_predictions(path, {"q1": {"d1": 0.5, "d2": 0.75}}, "me/minilm")
        ...     parse_predictions(path, "test")
        {'q1': {'d2': 0.75, 'd1': 0.5}}
    """
    path = Path(path)
    try:
        with open_binary(path) as file:
            record: Any = parse_json(file.read())
    except DataError as error:
        raise DataError(error.reason, path=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    if not isinstance(record, dict):
        raise DataError(f"not predictions of MTEB: a JSON {type(record).__name__}", path=path)
    subsets = {name: value for name, value in record.items() if name != _META}
    queries = _part(_part(subsets, subset, "subset", path), split, "split", path)
    run: dict[str, dict[str, float]] = {}
    for query, scores in queries.items():
        if not isinstance(scores, dict):
            raise DataError(f"query {query!r} has no scores by document id", path=path)
        for document, score in scores.items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise DataError(
                    f"query {query!r}, document {document!r}: the score {score!r} is not a finite number", path=path
                )
        if scores:
            run[query] = {document: float(scores[document]) for document in trec_order(scores)}
    if not run:
        raise DataError("holds no result", path=path)
    return run


def _part(parts: Any, name: str | None, what: str, path: Path) -> dict[str, Any]:
    """The named part, or the only one."""
    if not isinstance(parts, dict) or not parts:
        raise DataError(f"not predictions of MTEB: there is no {what}", path=path)
    names = ", ".join(map(repr, parts))
    if name is None and len(parts) > 1:
        raise DataError(f"has several {what}s; name one of {names}", path=path)
    part = next(iter(parts.values())) if name is None else parts.get(name)
    if not isinstance(part, dict):
        raise DataError(f"has no {what} {name!r}; there are: {names}", path=path)
    return part


def write_predictions(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    model: str,
    split: str = "test",
    subset: str = "default",
) -> None:
    """Write a run as predictions that ``task.convert_to_reranking`` of MTEB reads.

    Args:
        path: the file, which MTEB looks for as ``TASK_predictions.json``; one that is there is replaced.
        run: scores by query id and document id.
        model: the name of the model that made the run.
        split: the split of the task.
        subset: the subset of the task.

    Raises:
        InputError: if the run has no result, or a score is not finite.
        DataError: if the file cannot be written.
    """
    path = Path(path)
    check_scores(run)
    ordered = {query: {id: float(scores[id]) for id in trec_order(scores)} for query, scores in run.items()}
    record = {_META: {"model_name": model, "revision": None}, subset: {split: ordered}}
    try:
        replace_file(path, json.dumps(record, ensure_ascii=False).encode())
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error
