"""Runs in files of several formats. The ending of the name tells which.

| ending | |
|---|---|
| ``.json`` | predictions of MTEB, see `sightline.eval.predictions` |
| ``.jsonl`` | requests of rank_llm, see `sightline.eval.rank_llm` |
| ``.tsv`` | MS MARCO's ``query document rank``, as Pyserini writes it with ``--output-format msmarco`` |
| any other | TREC's six columns, as Pyserini and everybody writes them |

A file that is read may be compressed (``.gz``, ``.zst``, ...). When read, the last two are told apart by their number
of columns, whatever the name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError
from .dataset import Dataset
from .predictions import parse_predictions, write_predictions
from .rank_llm import parse_requests, write_requests
from .trec import parse_run, plain_suffix, write_run

__all__ = ["first_stage_run", "load_run", "save_run"]


def load_run(path: str | os.PathLike[str], split: str | None = None) -> dict[str, dict[str, float]]:
    """Read a run.

    Args:
        path: the path of the file.
        split: the split to read from a file that has several, as only MTEB's predictions have.

    Returns:
        The score by query id and document id, best first.

    Raises:
        DataError: see `parse_run`, `parse_predictions` and `parse_requests`.
    """
    suffix = plain_suffix(path)
    if suffix == ".json":
        return parse_predictions(path, split)
    if suffix == ".jsonl":
        return parse_requests(path)[1]
    return parse_run(path)


def save_run(path: str | os.PathLike[str], run: Mapping[str, Mapping[str, float]], name: str, dataset: Dataset) -> None:
    """Write a run.

    Args:
        path: the path of the file. Its ending decides the format.
        run: the score by query id and document id.
        name: the name of the system that made the run: the tag of a TREC run, with blanks replaced, or the model in
            MTEB's predictions.
        dataset: the collection that has the texts, which go into requests of rank_llm, and the split, which goes into
            predictions.

    Raises:
        InputError: see `write_run`, `write_predictions` and `write_requests`.
        DataError: see the same three functions.
    """
    suffix = Path(path).suffix
    if suffix == ".json":
        write_predictions(path, run, name, dataset.split)
    elif suffix == ".jsonl":
        write_requests(path, dataset, run)
    else:
        write_run(path, run, re.sub(r"\s", "_", name), "msmarco" if suffix == ".tsv" else "trec")


def first_stage_run(dataset: Dataset, run: str | Path | None = None) -> dict[str, dict[str, float]]:
    """Read the candidates of each query from a TREC run, or from ``bm25.<split>.tsv`` in the data set's folder.

    Raises:
        DataError: if there is neither, or it is malformed.
    """
    if run is not None:
        return parse_run(run)
    path = dataset.folder / f"bm25.{dataset.split}.tsv"
    if not path.is_file():
        raise DataError("there are no candidates here; give a run (--run FILE.trec)", path=path)
    out: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        query, _, rest = line.partition("\t")
        ids = rest.split()
        if not query or (not ids and number > 1):
            raise DataError("a line must have a query id, a tab, and candidates' ids", path=path, line=number)
        out[query] = {id: float(len(ids) - place) for place, id in enumerate(ids)}
    return out
