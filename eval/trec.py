"""The files of a retrieval evaluation: queries, judgements (qrels) and runs.

Where scores are equal, trec_eval decides: `trec_order` is its order, and `untie` makes another order plain to it.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import DataError, InputError
from ..parsing import parse_json

__all__ = ["read_lines", "read_qrels", "read_queries", "read_run", "trec_order", "untie", "write_run"]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RANK = re.compile(r"[1-9][0-9]{0,8}")
_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_BLANK = re.compile(r"[ \t\n\r\v\f]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_Value = TypeVar("_Value")


def read_queries(path: str | os.PathLike[str]) -> dict[str, str]:
    r"""Read queries: ``queries.jsonl`` as BEIR has it, or a TSV of ``qid<TAB>text`` without a header.

    Args:
        path: a file whose name ends in ``.jsonl`` (fields ``_id`` or ``id``, and ``text``; others are not read), or
            any other name for TSV.

    Returns:
        Query text by query id, in the file's order.

    Raises:
        DataError: if the file cannot be read or is empty, or a line is bad or has an id for the second time.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "queries.tsv")
        ...     _ = path.write_text("q1\twhy do cats purr\n")
        ...     read_queries(path)
        {'q1': 'why do cats purr'}
    """
    path = Path(path)
    queries: dict[str, str] = {}
    parse = _json_query if path.suffix == ".jsonl" else _tsv_query
    for line, text in read_lines(path):
        try:
            query, words = parse(text)
            _check_text(query, words)
            if not query.strip() or not words.strip():
                raise DataError("the query's id or text is empty")
            if query in queries:
                raise DataError(f"the query id {query!r} is there for the second time")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
        queries[query] = words
    return _filled(queries, path, "query")


def _json_query(text: str) -> tuple[str, str]:
    record: Any = parse_json(text)
    if not isinstance(record, dict):
        raise DataError(f"a query must be a JSON object, not a {type(record).__name__}")
    query, words = record.get("_id", record.get("id")), record.get("text")
    if isinstance(query, int) and not isinstance(query, bool):
        query = str(query)
    if not isinstance(query, str) or not isinstance(words, str):
        raise DataError(f"a query needs '_id' and 'text', both strings; there are: {', '.join(map(repr, record))}")
    return query, words


def _tsv_query(text: str) -> tuple[str, str]:
    query, *words = text.rstrip("\r\n").split("\t")
    if len(words) != 1:
        raise DataError(f"a query line must have 2 columns, id and text, with a tab between; it has {len(words) + 1}")
    return query, words[0]


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    r"""Read judgements: BEIR's TSV (header ``query-id corpus-id score``) or TREC's four columns.

    Args:
        path: the file; its first line tells the two apart.

    Returns:
        Grade by document id by query id, in the file's order. Grades may be 0 (judged, not relevant) or negative.

    Raises:
        DataError: if the file cannot be read or is empty, or a line is bad or contradicts a former one. The same
            judgement twice is no error.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "qrels.txt")
        ...     _ = path.write_text("q1 0 d1 2\nq1 0 d2 0\n")
        ...     read_qrels(path)
        {'q1': {'d1': 2, 'd2': 0}}
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    beir = None
    for line, text in read_lines(path):
        if beir is None and (beir := text.rstrip("\r\n").split("\t") == _BEIR_HEADER):
            continue
        try:
            if beir:
                query, document, grade = _columns(text.rstrip("\r\n").split("\t"), "query-id, corpus-id, score")
            else:
                query, _, document, grade = _columns(_split(text), "query, iteration, document, grade")
            if not _INTEGER.fullmatch(grade) or len(grade) > 9:
                raise DataError(f"the grade {grade[:40]!r} is not an integer of at most 9 characters")
            if qrels.setdefault(query, {}).setdefault(document, int(grade)) != int(grade):
                before = qrels[query][document]
                raise DataError(f"query {query!r}, document {document!r}: grade {grade} here, {before} before")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
    return _filled(qrels, path, "judgement")


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    r"""Read a run: TREC's ``query Q0 document rank score tag``, or MS MARCO's ``query document rank``.

    The scores alone make the ranking, as in trec_eval: the columns Q0, rank and tag are not read. Where there are
    only ranks, the score is ``1 / rank``, as Pyserini has it.

    Args:
        path: the file, whose first line tells the two apart; ids may have any character but ASCII whitespace.

    Returns:
        Score by document id by query id; the queries in the file's order, the documents in that of `trec_order`.

    Raises:
        DataError: if the file cannot be read or is empty, a line does not have six columns (or three), a score is not
            a finite number or a rank not a positive integer, or a query has a document or an MS MARCO rank for the
            second time.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "run.trec")
        ...     write_run(path, {"q1": {"d1": 0.5, "d2": 2}}, "mine")
        ...     print(path.read_text(), read_run(path), sep="")
        q1 Q0 d2 1 2.0 mine
        q1 Q0 d1 2 0.5 mine
        {'q1': {'d2': 2.0, 'd1': 0.5}}
    """
    path = Path(path)
    run: dict[str, dict[str, float]] = {}
    taken: set[tuple[str, str]] = set()
    msmarco = None
    for line, text in read_lines(path):
        columns = _split(text)
        if msmarco is None:
            msmarco = len(columns) == 3
        try:
            if msmarco:
                query, document, rank = _columns(columns, "query, document, rank")
                if not _RANK.fullmatch(rank):
                    raise DataError(f"the rank {rank[:40]!r} is not a positive integer of at most 9 digits")
                if (query, rank) in taken:
                    raise DataError(f"query {query!r} has the rank {rank} for the second time")
                taken.add((query, rank))
                value = 1 / int(rank)
            else:
                query, _, document, _, score, _ = _columns(columns, "query, Q0, document, rank, score, tag")
                if not _NUMBER.fullmatch(score) or not math.isfinite(float(score)):
                    raise DataError(f"the score {score[:40]!r} is not a finite number")
                value = float(score)
            if document in run.setdefault(query, {}):
                raise DataError(f"query {query!r} has the document {document!r} for the second time")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
        run[query][document] = value
    return {
        query: {document: scores[document] for document in trec_order(scores)}
        for query, scores in _filled(run, path, "result").items()
    }


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Document ids best first, as trec_eval orders them: by score in single precision, equal ones by id, descending.

    Args:
        scores: by document id.

    Example:
        >>> trec_order({"a": 1.0, "c": 0.5, "b": 1.0 + 1e-12})
        ['b', 'a', 'c']
    """
    with np.errstate(over="ignore"):
        singles = np.fromiter(scores.values(), dtype=np.float32, count=len(scores)).tolist()
    # UTF-8, which trec_eval compares, has the order of code points, which Python compares.
    return [document for _, document in sorted(zip(singles, scores, strict=True), reverse=True)]


def untie(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores for which `trec_order` is the order of the mapping.

    Who measures a written run with trec_eval then gets the figures of the order that was shown. A score that would
    not do becomes the next lower single-precision number; Anserini lowers tied scores likewise.

    Args:
        scores: by document id, best first.

    Example:
        >>> untie({"a": 1.0, "b": 1.0, "c": 0.5})
        {'a': 1.0, 'b': 0.9999999403953552, 'c': 0.5}
    """
    out: dict[str, float] = {}
    last, above = None, ""
    for document, score in scores.items():
        with np.errstate(over="ignore"):
            single = np.float32(score)
        if last is None or single < last or (single == last and document < above):
            out[document] = score
        else:
            single = np.nextafter(last, np.float32(-np.inf))
            out[document] = float(single)
        last, above = single, document
    return out


def write_run(
    path: str | os.PathLike[str],
    run: Mapping[str, Mapping[str, float]],
    tag: str,
    format: Literal["trec", "msmarco"] = "trec",
) -> None:
    r"""Write a run that `read_run` reads back equal: in the order of `trec_order`, ranks from 1.

    The file is written beside its place and then renamed: a reader never sees half of one.

    Args:
        path: the file; one that is there is replaced. Its folder must exist.
        run: score by document id by query id; a query without documents leaves no line.
        tag: names the run; no whitespace.
        format: ``trec``, or ``msmarco`` for ``query document rank`` with tabs between, which has no scores.

    Raises:
        InputError: if there is no such format, the run has no result, a score is not finite, or an id or the tag is
            empty or has whitespace.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(pathlib.Path(folder, "run.trec"), {"q1": {"d1": 0.25}}, "mine")
        ...     pathlib.Path(folder, "run.trec").read_text()
        'q1 Q0 d1 1 0.25 mine\n'
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    if format not in ("trec", "msmarco"):
        raise InputError(f"a run's format is 'trec' or 'msmarco', not {format!r}")
    if not any(run.values()):
        raise InputError("the run has no result to write")
    _check_column(tag, "tag")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_run_lines(run, tag, format))
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error
    finally:
        if beside.exists():
            beside.unlink()


def _run_lines(run: Mapping[str, Mapping[str, float]], tag: str, format: str) -> Iterator[str]:
    for query, scores in run.items():
        _check_column(query, "query id")
        for document, score in scores.items():
            _check_column(document, "document id")
            if not math.isfinite(score):
                raise InputError(f"query {query!r}, document {document!r}: the score {score} is not finite")
        for rank, document in enumerate(trec_order(scores), 1):
            if format == "msmarco":
                yield f"{query}\t{document}\t{rank}\n"
            else:
                yield f"{query} Q0 {document} {rank} {float(scores[document])!r} {tag}\n"


def _check_column(value: str, what: str) -> None:
    if value.startswith("\ufeff"):
        raise InputError(f"the {what} {value!r} begins with a byte order mark, which readers of a file drop")
    if not value or _BLANK.search(value):
        raise InputError(f"the {what} {value!r} is empty or has whitespace, which a TREC file cannot hold")
    try:
        _check_text(value)
    except DataError as error:
        raise InputError(f"the {what} {value!r}: {error}") from None


def _check_text(*values: str) -> None:
    if any(_UNSTORABLE.search(value) for value in values):
        raise DataError("there is a NUL character or half of a surrogate pair in it")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, from 1, that are not blank.

    Raises:
        DataError: if the file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for line, raw in enumerate(file, 1):
                raw = raw.removeprefix(codecs.BOM_UTF8) if line == 1 else raw
                try:
                    text = raw.decode()
                except UnicodeDecodeError as error:
                    reason = f"not UTF-8: byte {error.start + 1} of the line is 0x{raw[error.start]:02x}"
                    raise DataError(reason, path=path, line=line) from None
                if text.strip(" \r\n"):
                    yield line, text
    except OSError as error:
        raise DataError(f"cannot be read: {error}", path=path) from error


def _split(text: str) -> list[str]:
    # Only ASCII whitespace, as in C: str.split() would also cut ids at, say, a no-break space.
    return [column for column in _BLANK.split(text) if column]


def _columns(columns: list[str], names: str) -> list[str]:
    wanted = names.count(",") + 1
    if len(columns) != wanted or not all(columns):
        raise DataError(f"a line must have {wanted} columns ({names}), none empty; it has {len(columns)}")
    _check_text(*columns)
    return columns


def _filled(table: dict[str, _Value], path: Path, what: str) -> dict[str, _Value]:
    if not table:
        raise DataError(f"holds no {what}", path=path)
    return table
