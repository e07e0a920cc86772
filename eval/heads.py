"""Judged lists to find retrieval heads on; see `sightline.rerank.detection`."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Mapping

from ..documents import Document
from ..errors import InputError
from .dataset import Dataset, candidate_texts

__all__ = ["detection_lists"]


def detection_lists(
    dataset: Dataset,
    run: Mapping[str, Mapping[str, float]],
    *,
    queries: int = 128,
    candidates: int = 40,
    words: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, list[Document], list[int]]]:
    """Lists of a query's relevant documents among the hardest of the others.

    Relevant documents are put into the list whether the first stage found them or not: heads are looked for, nothing is
    measured. At most a quarter of a list is relevant documents.

    Args:
        dataset: the data set that has the texts and the judgements.
        run: the scores of candidates by query id and document id.
        queries: the number of lists to draw, from the queries that have both kinds of documents.
        candidates: the number of documents in a list.
        words: the number of words of each text that are read. If None, all of them.
        seed: the seed of the random draw.

    Yields:
        A query, its documents, and their grades.

    Raises:
        InputError: if no query has a relevant document and another candidate.
        DataError: if a candidate has no text.
    """
    if candidates < 2 or queries < 1 or (words is not None and words < 1):
        raise InputError("candidates must be at least 2; queries and words must be at least 1")
    chosen: dict[str, list[str]] = {}
    for id, grades in dataset.qrels.items():
        gold = sorted((d for d, grade in grades.items() if grade > 0), key=lambda d: -grades[d])
        ranked = sorted(run.get(id, {}), key=lambda d: -run[id][d])
        others = [document for document in ranked if grades.get(document, 0) <= 0]
        if gold and others:
            gold = gold[: max(1, candidates // 4)]
            chosen[id] = gold + others[: candidates - len(gold)]
    if not chosen:
        raise InputError(f"{dataset.name}: no query has both a relevant document and another candidate")
    picked = random.Random(seed).sample(sorted(chosen), min(queries, len(chosen)))
    texts = candidate_texts(dataset, {id: chosen[id] for id in picked})
    for id in picked:
        grades = dataset.qrels[id]
        documents = [_shortened(texts[d], words) for d in chosen[id]]
        yield dataset.queries[id], documents, [max(0, grades.get(d, 0)) for d in chosen[id]]


def _shortened(document: Document, words: int | None) -> Document:
    """The document, but for what comes after so many words of its text."""
    parts = [] if words is None else list(itertools.islice(re.finditer(r"\S+", document.text), words))
    return dataclasses.replace(document, text=document.text[: parts[-1].end()]) if parts else document
