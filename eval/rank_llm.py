"""Requests of rank_llm: queries with their candidates, texts and all, one to a line.

A line is ``{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc": {...}}]}``, best candidate first; so are
the results that rank_llm writes, and the retrieval results of Castorini's other tools.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..documents import Document, encodable
from ..errors import DataError, InputError
from ..files import replace_file
from ..parsing import parse_json
from .dataset import Dataset, candidate_texts
from .trec import check_scores, numbered_lines, trec_order, untie

__all__ = ["parse_requests", "write_requests"]

_TEXTS = ("text", "segment", "contents", "content", "body", "passage")  # as rank_llm looks for them


def parse_requests(path: str | os.PathLike[str]) -> tuple[Dataset, dict[str, dict[str, float]]]:
    r"""Read requests.

    Args:
        path: the path of a JSONL file. The text of a document is the first there is of ``text``, ``segment``,
            ``contents``, ``content``, ``body`` and ``passage``. Its other fields but ``title`` become metadata.

    Returns:
        (the queries and the documents, without judgements; score by document id by query id, best first). The order
        of the list counts, as in rank_llm: scores that contradict it are lowered.

    Raises:
        DataError: if the file cannot be read or is empty, or a line is no request, has an empty list, an id for the
            second time, or another text for a document than a former line.

    Example:
        >>> import pathlib, tempfile
        >>> line = '{"query": {"text": "purr", "qid": 7}, "candidates": [{"docid": "c", "score": 2, "doc": {"text": "Cats."}}]}'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "requests.jsonl")
        ...     _ = path.write_text(line)
        ...     dataset, run = parse_requests(path)
        >>> dataset.queries, run, [document.text for document in dataset.documents()]
        ({'7': 'purr'}, {'7': {'c': 2.0}}, ['Cats.'])
    """  # noqa: E501
    path = Path(path)
    queries: dict[str, str] = {}
    documents: dict[str, Document] = {}
    run: dict[str, dict[str, float]] = {}
    for line, text in numbered_lines(path):
        try:
            query, words, candidates = _request(text)
            if query in queries:
                raise DataError(f"the query id {query!r} occurs twice")
            scores: dict[str, float] = {}
            for place, candidate in enumerate(candidates):
                score, document = _candidate(candidate, place)
                if document.id in scores:
                    raise DataError(f"candidate {place}: the document {document.id!r} occurs twice")
                if documents.setdefault(document.id, document).contents != document.contents:
                    raise DataError(
                        f"candidate {place}: document {document.id!r} has a different text in an earlier request"
                    )
                scores[document.id] = score
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
        queries[query], run[query] = words, untie(scores)
    if not queries:
        raise DataError("holds no request", path=path)
    return Dataset(path.stem, "requests", path, queries, {}, corpus=documents.values), run


def _request(text: str) -> tuple[str, str, list[Any]]:
    record: Any = parse_json(text)
    match record:
        case {"query": {"text": str(words), "qid": str() | int() as query}, "candidates": list(candidates)}:
            pass
        case _:
            raise DataError("not a request; one is {'query': {'text', 'qid'}, 'candidates': [...]}")
    if not str(query).strip() or not words.strip():
        raise DataError("the query's id or text is empty")
    if "\x00" in words or not encodable(words):
        raise DataError("the query's text has a NUL or a lone surrogate; clean it")
    if not candidates:
        raise DataError(f"query {str(query)!r} has no candidates")
    return str(query), words, candidates


def _candidate(candidate: Any, place: int) -> tuple[float, Document]:
    match candidate:
        case {"docid": str() | int() as id, "score": int() | float() as score, "doc": dict(fields)}:
            pass
        case _:
            raise DataError(f"candidate {place} is not one; one is {{'docid', 'score', 'doc': {{...}}}}")
    if isinstance(score, bool) or not math.isfinite(score):
        raise DataError(f"candidate {place}: the score {score} is not a finite number")
    name = next((name for name in _TEXTS if fields.get(name)), None)
    if name is None:
        raise DataError(f"candidate {place}: document {str(id)!r} has no text; one of {', '.join(_TEXTS)} is needed")
    other = {key: value for key, value in fields.items() if key not in (name, "title")}
    try:
        return float(score), Document(str(id), fields[name], fields.get("title") or "", other)
    except InputError as error:
        raise DataError(f"candidate {place}: {error}") from None


def write_requests(path: str | os.PathLike[str], dataset: Dataset, run: Mapping[str, Mapping[str, float]]) -> None:
    """Write requests that `parse_requests` and rank_llm read: a run with its texts, best first.

    A document's fields are its metadata, ``title`` where there is one, and ``text``.

    Args:
        path: the file; one that is there is replaced. Its folder must exist.
        dataset: the collection that has the texts.
        run: scores by query id and document id; a query without documents leaves no line.

    Raises:
        DataError: if a query or a document has no text, or the file cannot be written.
        InputError: if the run has no result, or a score is not finite.
    """
    path = Path(path)
    check_scores(run)
    texts = candidate_texts(dataset, run)
    lines = []
    for query, scores in run.items():
        if not scores:
            continue
        if query not in dataset.queries:
            raise DataError(f"query {query!r} has no text in {dataset.name}", path=dataset.folder)
        candidates = []
        for id in trec_order(scores):
            document = texts[id]
            title = {"title": document.title} if document.title else {}
            fields = {**document.metadata, **title, "text": document.text}
            candidates.append({"docid": id, "score": float(scores[id]), "doc": fields})
        request = {"query": {"text": dataset.queries[query], "qid": query}, "candidates": candidates}
        lines.append(json.dumps(request, ensure_ascii=False) + "\n")
    try:
        replace_file(path, "".join(lines).encode())
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error
