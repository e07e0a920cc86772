"""The files of a retrieval evaluation: queries, judgements (qrels) and runs.

Where scores are equal, trec_eval decides: `trec_order` is its order, and `untie` makes another order plain to it.
"""

from __future__ import annotations

import codecs
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import DataError, InputError
from ..files import replacing
from ..parsing import parse_json
from ..retrieval.compression import SUFFIXES, open_binary, uncompressed_name

__all__ = [
    "check_scores",
    "numbered_lines",
    "parse_qrels",
    "parse_queries",
    "parse_run",
    "plain_suffix",
    "trec_order",
    "untie",
    "writable",
    "write_run",
]

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RANK = re.compile(r"[1-9][0-9]{0,8}")
_BLANK = re.compile(r"[ \t\n\r\v\f]")
_UNWRITABLE = re.compile(r"[\t\n\r]|^\ufeff")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
# The names that columns have in headers, in small letters and with hyphens.
_QUERY = ("query-id", "queryid", "qid", "query", "topic", "topic-id", "-id", "id")
_DOCUMENT = (
    *("corpus-id", "corpusid", "cid", "doc-id", "docid", "did", "pid", "docno", "document", "document-id", "doc"),
    *("passage-id", "passage", "item-id"),
)
_GRADE = ("score", "relevance", "rel", "label", "grade", "judgement", "judgment", "qrel")
_TEXT = ("text", "query", "query-text", "title", "question")
_Value = TypeVar("_Value")


def plain_suffix(path: str | os.PathLike[str]) -> str:
    """The ending of a file's name in small letters, without that of its compression.

    Example:
        >>> plain_suffix("queries.jsonl.gz"), plain_suffix("run.TSV")
        ('.jsonl', '.tsv')
    """
    return Path(uncompressed_name(path)).suffix.lower()


def parse_queries(path: str | os.PathLike[str]) -> dict[str, str]:
    r"""Read queries: ``queries.jsonl`` as in BEIR, or a TSV file of ``qid<TAB>text`` as in MS MARCO.

    Args:
        path: a file whose name ends in ``.jsonl`` (fields ``_id`` or ``id``, and ``text``; others are ignored), or
            any other name for TSV, with or without a header. It may be compressed (``.gz``, ``.zst``, ...).

    Returns:
        Query text by query id, in the file's order.

    Raises:
        DataError: if the file cannot be read or is empty, or a line is bad or repeats an id.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "queries.tsv")
        ...     _ = path.write_text("q1\twhy do cats purr\n")
        ...     parse_queries(path)
        {'q1': 'why do cats purr'}
    """
    path = Path(path)
    queries: dict[str, str] = {}
    json_lines = plain_suffix(path) in (".jsonl", ".ndjson")
    first = True
    for line, text in numbered_lines(path):
        header, first = first and not json_lines and _is_header(text.rstrip("\r\n").split("\t"), _QUERY, _TEXT), False
        if header:
            continue
        try:
            query, words = _json_query(text) if json_lines else _tsv_query(text)
            _check_text(query, words)
            if not query.strip() or not words.strip():
                raise DataError("the query's id or text is empty")
            if query in queries:
                raise DataError(f"the query id {query!r} occurs twice")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
        queries[query] = words
    return _filled(queries, path, "query")


def _json_query(text: str) -> tuple[str, str]:
    record: Any = parse_json(text)
    if not isinstance(record, dict):
        raise DataError(f"a query must be a JSON object, not a {type(record).__name__}")
    query = next((record[name] for name in ("_id", "id", "query_id", "qid") if name in record), None)
    words = record.get("text", record.get("query"))
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


def parse_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    r"""Read judgements: BEIR's three columns, with or without a header, or TREC's four.

    The columns are separated by tabs or by blanks. Where they are separated by tabs, ids may contain blanks. A header
    may use the usual names of the columns (``query-id``, ``query_id``, ``qid``, ``corpus-id``, ``docid``, ``pid``,
    ``score``, ``relevance``, ...), and then decides their order.

    Args:
        path: the path of the file, whose first line tells the forms apart. It may be compressed (``.gz``, ``.zst``,
            ...).

    Returns:
        Grade by document id by query id, in the file's order. Grades may be 0 (judged, not relevant) or negative.

    Raises:
        DataError: if the file cannot be read or is empty, or a line is bad or contradicts an earlier one. A judgement
            may be repeated. Grades must be whole numbers, which may be written as ``1.0``.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "qrels.txt")
        ...     _ = path.write_text("q1 0 d1 2\nq1 0 d2 0\n")
        ...     parse_qrels(path)
        {'q1': {'d1': 2, 'd2': 0}}
    """
    path = Path(path)
    qrels: dict[str, dict[str, int]] = {}
    places: tuple[int, int, int] | None = None
    names = "query-id, corpus-id, score"
    width = 3
    for line, text in numbered_lines(path):
        try:
            if places is None:
                if header := _qrels_header(text):
                    places, width = header
                    continue
                width, places = (4, (0, 2, 3)) if _width(text, {4: 3, 3: 2}) == 4 else (3, (0, 1, 2))
                names = "query, iteration, document, grade" if width == 4 else names
                if not _NUMBER.fullmatch(_cells(text, width)[-1].strip()):
                    raise DataError(
                        "the first line is neither a judgement nor a header. Judgements have BEIR's three columns, "
                        "under the header query-id, corpus-id, score or without one, or TREC's four: query, iteration, "
                        "document, grade"
                    )
            columns = _columns(_cells(text, width), width, names)
            query, document, grade = (columns[place] for place in places)
            value = _grade(grade)
            if qrels.setdefault(query, {}).setdefault(document, value) != value:
                before = qrels[query][document]
                raise DataError(f"query {query!r}, document {document!r}: grade {value} here, {before} before")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
    return _filled(qrels, path, "judgement")


def _qrels_header(text: str) -> tuple[tuple[int, int, int], int] | None:
    """Where a header says that query, document and grade are, and the number of columns; None if it is no header."""
    for cells in (text.rstrip("\r\n").split("\t"), _split(text)):
        named = [_plain(cell) for cell in cells]
        if len(named) not in (3, 4):
            continue
        places = [
            next((i for i, name in enumerate(named) if name in known), None) for known in (_QUERY, _DOCUMENT, _GRADE)
        ]
        query, document, grade = places
        if query is not None and document is not None and grade is not None:
            return (query, document, grade), len(named)
    return None


def _is_header(cells: Sequence[str], *known: Sequence[str]) -> bool:
    return len(cells) == len(known) and all(_plain(cell) in names for cell, names in zip(cells, known, strict=True))


def _plain(name: str) -> str:
    return name.strip().strip('"').lower().replace("_", "-")


def _grade(text: str) -> int:
    text = text.strip()
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not value.is_integer() or abs(value) > 999_999_999:
        raise DataError(f"the grade {text[:40]!r} is not a whole number of at most 9 digits, which measures need")
    return int(value)


def parse_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    r"""Read a run: TREC's ``query Q0 document rank score tag``, or MS MARCO's ``query document rank``.

    As in trec_eval, the scores alone make the ranking: the columns Q0, rank and tag are ignored. Where there are only
    ranks, the score is ``1 / rank``, as in Pyserini.

    Args:
        path: the path of the file, whose first line tells the two apart. Blanks or tabs separate the columns; with
            tabs, ids may contain blanks. It may be compressed (``.gz``, ``.zst``, ...).

    Returns:
        Score by document id by query id; the queries in the file's order, the documents in that of `trec_order`.

    Raises:
        DataError: if the file cannot be read or is empty, a line does not have six columns (or three), a score is not
            a finite number or a rank not a positive integer, or a query repeats a document or an MS MARCO rank.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "run.trec")
        ...     write_run(path, {"q1": {"d1": 0.5, "d2": 2}}, "mine")
        ...     print(path.read_text(), parse_run(path), sep="")
        q1 Q0 d2 1 2.0 mine
        q1 Q0 d1 2 0.5 mine
        {'q1': {'d2': 2.0, 'd1': 0.5}}
    """
    path = Path(path)
    run: dict[str, dict[str, float]] = {}
    taken: set[tuple[str, int]] = set()
    width = None
    for line, text in numbered_lines(path):
        width = width or _width(text, {6: 4, 3: 2})
        try:
            if width == 3:
                query, document, rank = _columns(_cells(text, 3), 3, "query, document, rank")
                if not _RANK.fullmatch(rank.strip()):
                    raise DataError(f"the rank {rank[:40]!r} is not a positive integer of at most 9 digits")
                if (query, int(rank)) in taken:
                    raise DataError(f"query {query!r} has the rank {rank} twice")
                taken.add((query, int(rank)))
                value = 1 / int(rank)
            else:
                names = "query, Q0, document, rank, score, tag"
                query, _, document, _, score, _ = _columns(_cells(text, 6), 6, names)
                if not _NUMBER.fullmatch(score.strip()) or not math.isfinite(float(score)):
                    raise DataError(f"the score {score[:40]!r} is not a finite number")
                value = float(score)
            if document in run.setdefault(query, {}):
                raise DataError(f"query {query!r} has the document {document!r} twice")
        except DataError as error:
            raise DataError(error.reason, path=path, line=line) from None
        run[query][document] = value
    return {
        query: {document: scores[document] for document in trec_order(scores)}
        for query, scores in _filled(run, path, "result").items()
    }


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Return document ids best first, as trec_eval orders them: by score in single precision, then by id, descending.

    Args:
        scores: the score of each document id.

    Example:
        >>> trec_order({"a": 1.0, "c": 0.5, "b": 1.0 + 1e-12})
        ['b', 'a', 'c']
    """
    with np.errstate(over="ignore"):
        singles = np.fromiter(scores.values(), dtype=np.float32, count=len(scores)).tolist()
    # UTF-8, which trec_eval compares, has the order of code points, which Python compares.
    return [document for _, document in sorted(zip(singles, scores, strict=True), reverse=True)]


def untie(scores: Mapping[str, float]) -> dict[str, float]:
    """Change scores so that `trec_order` is the order of the mapping.

    If a written run is measured with trec_eval, the figures are then those of the order that was shown. A score that
    would not do becomes the next lower single-precision number; Anserini lowers tied scores likewise.

    Args:
        scores: the score of each document id, best first.

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
    r"""Write a run that `parse_run` reads back equal: in the order of `trec_order`, ranks from 1.

    Blanks separate the columns; where an id contains a blank, tabs do, in the whole file. The file is written beside
    its place and then renamed: a reader never sees half of one.

    Args:
        path: the path of the file. An existing one is replaced. Its folder must exist.
        run: the score by query id and document id. A query without documents leaves no line.
        tag: the tag of the run, without whitespace.
        format: ``trec``, or ``msmarco`` for ``query document rank`` with tabs between, which has no scores.

    Raises:
        InputError: if there is no such format, the run has no result, a score is not finite, or an id or the tag is
            empty or has a tab or a line break, or the tag a blank.
        DataError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run(pathlib.Path(folder, "run.trec"), {"q1": {"d1": 0.25}}, "mine")
        ...     pathlib.Path(folder, "run.trec").read_text()
        'q1 Q0 d1 1 0.25 mine\n'
    """
    path = Path(path)
    if format not in ("trec", "msmarco"):
        raise InputError(f"a run's format is 'trec' or 'msmarco', not {format!r}")
    check_scores(run)
    if path.suffix.lower() in SUFFIXES:
        raise InputError(f"{path}: runs are written without compression; leave out {path.suffix}")
    if _BLANK.search(tag):
        raise InputError(f"the tag {tag!r} has whitespace, which a run's tag cannot have")
    _check_column(tag, "tag")
    tabs = any(_BLANK.search(id) for query, scores in run.items() if scores for id in (query, *scores))
    if tabs and format == "trec":
        logger.warning("%s: ids have blanks, so tabs separate the columns; trec_eval does not read such files", path)
    try:
        with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_run_lines(run, tag, format, "\t" if tabs or format == "msmarco" else " "))
    except OSError as error:
        raise DataError(f"cannot be written: {error}", path=path) from error


def _run_lines(run: Mapping[str, Mapping[str, float]], tag: str, format: str, blank: str) -> Iterator[str]:
    for query, scores in run.items():
        _check_column(query, "query id")
        for document in scores:
            _check_column(document, "document id")
        for rank, document in enumerate(trec_order(scores), 1):
            value = repr(float(scores[document]))
            columns = (query, document, rank) if format == "msmarco" else (query, "Q0", document, rank, value, tag)
            yield blank.join(map(str, columns)) + "\n"


def check_scores(run: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse a run that cannot be written in any format.

    Raises:
        InputError: if it has no result, or a score is not finite.
    """
    if not any(run.values()):
        raise InputError("the run has no result to write")
    for query, scores in run.items():
        for document, score in scores.items():
            if not math.isfinite(score):
                raise InputError(f"query {query!r}, document {document!r}: the score {score} is not finite")


def writable(ids: Iterable[str]) -> bool:
    r"""Tell whether `write_run` can write these ids: none has a tab or a line break, or begins with a byte order mark.

    Example:
        >>> writable(["user guide.md", "d1"]), writable(["a\tb"])
        (True, False)
    """
    return not any(_UNWRITABLE.search(id) for id in ids)


def _check_column(value: str, what: str) -> None:
    if not _split(value) or not writable([value]):
        raise InputError(
            f"the {what} {value!r} is empty, has a tab or a line break, or begins with a byte order mark, which a run "
            "in this format cannot hold; a .json file can"
        )
    try:
        _check_text(value)
    except DataError as error:
        raise InputError(f"the {what} {value!r}: {error}") from None


def _check_text(*values: str) -> None:
    if any(_UNSTORABLE.search(value) for value in values):
        raise DataError("there is a NUL character or half of a surrogate pair in it")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, from 1, that are not blank; it may be compressed.

    Raises:
        DataError: if the file cannot be read, or a line is not UTF-8.
    """
    line = 0
    try:
        with open_binary(path) as file:
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


def _width(text: str, layouts: Mapping[int, int]) -> int:
    """How many columns a file has, by its first line.

    Args:
        text: the line.
        layouts: for each possible number of columns, the place of the column that is a number; the usual layout first.
    """
    for cells in (text.rstrip("\r\n").split("\t"), _split(text)):
        for width, number in layouts.items():
            if len(cells) == width and _NUMBER.fullmatch(cells[number].strip()):
                return width
    count = len(_split(text))
    return count if count in layouts else next(iter(layouts))


def _cells(text: str, width: int) -> list[str]:
    """A line's columns: between tabs where there are so many, which lets ids have blanks, or else between blanks."""
    tabbed = text.rstrip("\r\n").split("\t")
    return tabbed if len(tabbed) == width and all(map(_split, tabbed)) else _split(text)


def _split(text: str) -> list[str]:
    # Only ASCII whitespace, as in C: str.split() would also cut ids at, say, a no-break space.
    return [column for column in _BLANK.split(text) if column]


def _columns(columns: list[str], width: int, names: str) -> list[str]:
    if len(columns) != width:
        raise DataError(f"a line must have {width} columns ({names}), none empty; it has {len(columns)}")
    _check_text(*columns)
    return columns


def _filled(table: dict[str, _Value], path: Path, what: str) -> dict[str, _Value]:
    if not table:
        raise DataError(f"holds no {what}", path=path)
    return table
