"""Load judged collections by folder or name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import DataError, InputError
from .catalogues import CATALOGUES, in_catalogue
from .dataset import Dataset, collection_files
from .trec import parse_qrels, parse_queries

__all__ = ["load_dataset"]


def load_dataset(
    folder: str | Path, split: str = "test", *, qrels: str | Path | None = None, max_queries: int | None = None
) -> Dataset:
    """Read the queries and judgements of one split.

    Args:
        folder: a folder in the layout of BEIR or MS MARCO (see `collection_files`), or a name in a catalogue: ``ir:ID``
            of ir_datasets, ``mteb:TASK`` (or ``mteb:TASK/SUBSET``), ``nano:NAME`` of NanoBEIR; see
            `sightline.eval.catalogues`.
        split: the name of the split, as in ``qrels/<split>.tsv``, or of a split of the task. An ir_datasets id contains
            its own.
        qrels: a file of judgements to use instead, in BEIR or TREC format. All queries of the split stay.
        max_queries: the number of queries to keep, the first ones in the order of the judgements. If None, all of them.

    Raises:
        DataError: if a file is missing or malformed, a judged query has no text, or ``qrels`` judges no query.
        InputError: if ``max_queries`` is below 1, or a catalogue does not have the name.
        MissingExtraError: if the catalogue's library is not installed.
    """
    if max_queries is not None and max_queries < 1:
        raise InputError(f"max_queries must be at least 1, not {max_queries}")
    if named := in_catalogue(folder):
        whole, judged = CATALOGUES[named[0]](named[1], split), Path(folder)
    else:
        files = collection_files(folder, split)
        judged = files["qrels"]
        whole = Dataset(
            Path(folder).resolve().name, split, Path(folder), parse_queries(files["queries"]), parse_qrels(judged)
        )
    ids = list(whole.qrels)[:max_queries]
    missing = [id for id in ids if id not in whole.queries]
    if missing:
        raise DataError(f"judged query {missing[0]!r} has no text among the queries ({len(missing)} such)", path=judged)
    grades = whole.qrels
    if qrels is not None:
        grades = parse_qrels(qrels)
        if not any(id in grades for id in ids):
            raise DataError(f"judges none of the {len(ids)} queries of {whole.name}, split {whole.split}", path=qrels)
    return replace(whole, queries={id: whole.queries[id] for id in ids}, qrels={id: grades.get(id, {}) for id in ids})
