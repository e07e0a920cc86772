"""Documents out of files and Python iterables, one at a time, and the bad ones named."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from hashlib import blake2b
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..documents import Document
from ..errors import DataError, InputError, MissingExtraError

__all__ = ["ID_FIELDS", "read_documents"]

ID_FIELDS = ("_id", "id", "docno", "docid")

_log = logging.getLogger(__name__)

_Report = Callable[[DataError], None]
_Records = Iterator[tuple[object, int | None, Any]]  # where it is from: path and line; what was found there
_Rows = Iterator[tuple[int, list[str] | DataError]]  # line and cells of a table, or why there are none

_MARKDOWN = {".md", ".markdown"}
_HTML = {".html", ".htm"}
_TEXT = {".txt", ".rst", *_MARKDOWN, *_HTML}
_PARQUET_ROWS = 256
_BLOCKS = (
    "address article aside blockquote dd details div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr li main nav ol p pre section summary table td th tr ul"
).split()


def read_documents(
    source: str | os.PathLike[str] | Iterable[Document | Mapping[str, Any]],
    *,
    format: str | None = None,
    id_field: str | None = None,
    title_field: str | None = None,
    text_field: str | None = None,
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[Document]:
    """Read documents one at a time; of those already read, only 16 bytes per id are kept, to find duplicates.

    Formats, guessed from the path's name (text formats may be gzipped, ``.gz``; all must be UTF-8):

    * ``beir``: a folder with ``corpus.jsonl``.
    * ``jsonl``: a JSON object per line; blank lines are skipped.
    * ``csv``: with a header; quoted as RFC 4180 says. Cells are strings.
    * ``tsv``: with a header; a quote is a character like any other.
    * ``parquet``: needs the extra ``readers``.
    * ``folder``: text, Markdown and HTML files (the latter need the extra ``readers``), sorted, those of a
      folder before those of its subfolders. The id is the path below the folder, the title the first Markdown heading,
      the HTML title, or else the file's name.

    Fields that are not id, title or text become metadata; a field ``metadata`` that is itself an object is merged
    into it. Metadata values must be JSON-like; dates and times are turned into ISO 8601 strings.

    Args:
        source: a path, or any iterable of documents or of mappings.
        format: one of the above; None guesses. Only for paths.
        id_field: the id's field; by default the first there is of ``_id``, ``id``, ``docno``, ``docid``. Integers are
            turned into strings.
        title_field: the title's field; by default ``title``, where there is one.
        text_field: the text's field; by default the first there is of ``text``, ``contents``, ``body``.
        on_bad: called with the error of each bad record, which is then skipped. Without it the first one raises.

    Returns:
        An iterator over the documents, in the order of the source.

    Raises:
        InputError: if the arguments do not fit together.
        DataError: if a record is bad (a ``DataError`` names file and line; the record's number for parquet and
            iterables). Always, whatever ``on_bad``, if a file is missing, broken, or holds no usable document.
        MissingExtraError: if the format needs a library that is not installed.

    Example:
        >>> bad = []
        >>> records = [{"id": 7, "text": "Cats purr.", "lang": "en"}, {"id": 8, "text": ""}]
        >>> list(read_documents(records, on_bad=bad.append))
        [Document(id='7', text='Cats purr.', title='', metadata={'lang': 'en'})]
        >>> print(bad[0])
        <iterable>:2: document '8': field 'text' is empty
    """
    fields, report = _Fields(id_field, title_field, text_field), on_bad or _raise
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.exists():
            raise DataError("no such file or folder", path=path)
        format = format or _guess(path)
        if format not in _FORMATS:
            raise InputError(f"unknown format {format!r}; there are: {', '.join(_FORMATS)}")
        if format == "folder" and fields != _Fields():
            raise InputError("the files of a folder have no fields; leave out id_field, title_field and text_field")
        return _documents(path, _FORMATS[format](path, fields, report), fields, report)
    if format is not None:
        raise InputError(f"format={format!r} is for paths, not for a Python {type(source).__name__}")
    if isinstance(source, Mapping | Document | bytes) or not isinstance(source, Iterable):
        raise InputError(f"source must be a path or an iterable of documents, not a {type(source).__name__}")
    return _documents(None, (("<iterable>", n, record) for n, record in enumerate(source, 1)), fields, report)


def _raise(error: DataError) -> None:
    raise error


def _guess(path: Path) -> str:
    if path.is_dir():
        return "beir" if any((path / name).exists() for name in _CORPORA) else "folder"
    suffix = Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower().removeprefix(".")
    suffix = "jsonl" if suffix == "ndjson" else suffix
    if suffix not in {"jsonl", "csv", "tsv", "parquet"}:
        raise InputError(f"cannot guess the format of {path.name!r}; set format to one of: {', '.join(_FORMATS)}")
    return suffix


# ---- Records into documents


@dataclass(frozen=True, slots=True)
class _Fields:
    """The names the caller gave, and how to find the others."""

    id: str | None = None
    title: str | None = None
    text: str | None = None

    def find(self, names: Iterable[str]) -> tuple[str, str | None, str]:
        """Names of the id, title (None: there is none) and text fields among those there are."""
        names = list(names)
        return (
            _find(names, self.id, *ID_FIELDS),
            None if self.title is None and "title" not in names else _find(names, self.title, "title"),
            _find(names, self.text, "text", "contents", "body"),
        )


def _find(names: list[str], asked: str | None, *defaults: str) -> str:
    wanted = defaults if asked is None else (asked,)
    for name in wanted:
        if name in names:
            return name
    raise DataError(f"no field {' or '.join(map(repr, wanted))}; there are: {', '.join(map(repr, names)) or 'none'}")


def _documents(path: Path | None, records: _Records, fields: _Fields, report: _Report) -> Iterator[Document]:
    seen: set[bytes] = set()
    for where, line, record in records:
        try:
            document = _document(record, fields)
            key = blake2b(document.id.encode(), digest_size=16).digest()
            if key in seen:
                raise DataError(f"another document already has the id {document.id!r}")
        except (DataError, InputError) as error:
            reason = error.reason if isinstance(error, DataError) else str(error)
            report(DataError(reason, path=where, line=line))
        except RecursionError:
            report(DataError("metadata is nested too deeply", path=where, line=line))
        else:
            seen.add(key)
            yield document
    if path is not None and not seen:
        raise DataError("no usable document in it", path=path)


def _document(record: Any, fields: _Fields) -> Document:
    if isinstance(record, Document):
        return replace(record, metadata=_plain(record.metadata, "metadata"))
    if not isinstance(record, Mapping):
        raise DataError(f"a document must be an object with fields, not a {type(record).__name__}")
    id_field, title_field, text_field = fields.find(record)
    identity, text, title = record[id_field], record[text_field], record[title_field] if title_field else ""
    if isinstance(identity, Integral) and not isinstance(identity, bool):
        identity = str(int(identity))
    metadata = {name: value for name, value in record.items() if name not in {id_field, title_field, text_field}}
    nested = metadata.get("metadata")
    if isinstance(nested, Mapping):
        del metadata["metadata"]
        if clash := sorted(metadata.keys() & nested.keys()):
            raise DataError(f"field {clash[0]!r} is both in the record and in its metadata")
        metadata |= nested
    return Document(identity, text, "" if title is None else title, _plain(metadata, "metadata"))


def _plain(value: Any, name: str) -> Any:
    """The value as JSON can hold it; ``name`` is the field for the error message."""
    if isinstance(value, str):
        if "\0" in value:
            raise DataError(f"field {name!r} has a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"field {name!r} has half of a surrogate pair (U+{ord(value[error.start]):04X})") from None
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise DataError(f"field {name!r} has a key that is not a string: {strange[0]!r}")
        return {_plain(key, name): _plain(inner, key if name == "metadata" else name) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, name) for inner in value]
    shown = value if isinstance(value, Real) else f"a {type(value).__name__}"
    raise DataError(f"field {name!r} has {shown}, which is not a JSON value")


# ---- Text files


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file, unzipped, without the byte order mark."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", path=path, line=number + 1) from error


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = error.start - before.rfind(b"\n")
        reason = f"not UTF-8: byte {column} of the line is 0x{raw[error.start]:02x}"
        raise DataError(reason, path=path, line=line + before.count(b"\n")) from None


def _jsonl(path: Path, fields: _Fields, report: _Report) -> _Records:
    for line, raw in _lines(path):
        if not raw.strip():
            continue
        try:
            yield path, line, json.loads(_decode(raw, path, line), object_pairs_hook=_unique, parse_constant=_refuse)
        except DataError as error:
            report(DataError(error.reason, path=path, line=line))
        except json.JSONDecodeError as error:
            report(DataError(f"not JSON: {error.msg} at column {error.colno}", path=path, line=line))
        except (ValueError, RecursionError) as error:
            report(DataError(f"not JSON that can be read: {error}", path=path, line=line))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise DataError("not JSON that can be read: an object has the same field twice")
    return record


def _refuse(constant: str) -> Any:
    raise DataError(f"not JSON: {constant}")


_CORPORA = ("corpus.jsonl", "corpus.jsonl.gz")


def _beir(path: Path, fields: _Fields, report: _Report) -> _Records:
    for name in _CORPORA:
        if (path / name).exists():
            return _jsonl(path / name, fields, report)
    raise DataError("not a BEIR folder: it has no corpus.jsonl", path=path)


# ---- Tables


def _table(path: Path, rows: _Rows, fields: _Fields, report: _Report) -> _Records:
    line, names = next(rows, (1, DataError("no usable document in it: the file is empty", path=path, line=1)))
    if isinstance(names, DataError):
        raise names
    _check_names(path, line, names, fields)
    for line, cells in rows:
        if isinstance(cells, DataError):
            report(cells)
        elif len(cells) != len(names):
            report(DataError(f"the row has {len(cells)} cells, the header {len(names)}", path=path, line=line))
        else:
            yield path, line, dict(zip(names, cells, strict=True))


def _check_names(path: Path, line: int | None, names: Sequence[str], fields: _Fields) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two columns have the name {min(twice)!r}", path=path, line=line)
    try:
        fields.find(names)
    except DataError as error:
        raise DataError(error.reason, path=path, line=line) from None


def _tsv(path: Path, fields: _Fields, report: _Report) -> _Records:
    return _table(path, _tsv_rows(path), fields, report)


def _tsv_rows(path: Path) -> _Rows:
    for line, raw in _lines(path):
        if raw.strip(b" \r\n"):
            try:
                yield line, _decode(raw, path, line).rstrip("\r\n").split("\t")
            except DataError as error:
                yield line, error


def _csv(path: Path, fields: _Fields, report: _Report) -> _Records:
    return _table(path, _csv_rows(path), fields, report)


def _csv_rows(path: Path) -> _Rows:
    undecoded: list[DataError] = []  # errors of the row that the reader is at
    text = ""

    def decoded() -> Iterator[str]:
        nonlocal text
        for line, raw in _lines(path):
            try:
                text = _decode(raw, path, line)
            except DataError as error:
                undecoded.append(error)
                text = raw.decode(errors="replace")  # has the same quotes; its row is not used
            yield text

    reader = csv.reader(decoded(), strict=True)
    while True:
        line, cells = reader.line_num + 1, None
        undecoded.clear()
        try:
            cells = next(reader, None)
            if cells is None:
                return
        except csv.Error as error:
            bad = DataError(f"not CSV: {error}", path=path, line=line)
            # Behind a quote that is still open, rows cannot be told from the inside of a cell.
            if reader.line_num > line or (text.count('"') % 2 and text.endswith("\n")):
                raise DataError(f"{bad.reason}, and the next row cannot be found", path=path, line=line) from error
            yield line, bad
            continue
        if undecoded:
            yield line, undecoded[0]
        elif cells:
            yield line, cells


def _parquet(path: Path, fields: _Fields, report: _Report) -> _Records:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "readers") from None
    number = 0
    try:
        with parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            _check_names(path, None, file.schema_arrow.names, fields)
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in range(batch.num_rows):
                    number += 1
                    try:
                        record = batch.slice(row, 1).to_pylist()[0]
                    except (
                        ValueError,
                        OverflowError,
                    ) as error:  # text that is not UTF-8, dates that Python does not have
                        report(DataError(f"cannot be read: {error}", path=path, line=number))
                    else:
                        yield path, number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a parquet file that can be read: {error}", path=path, line=number + 1) from error


# ---- Folders


def _folder(path: Path, fields: _Fields, report: _Report) -> _Records:
    if not path.is_dir():
        raise DataError("not a folder", path=path)
    ignored = 0
    for file in _walk(path):
        suffix = file.suffix.lower()
        if suffix not in _TEXT:
            ignored += 1
            continue
        try:
            text = _decode(file.read_bytes().removeprefix(codecs.BOM_UTF8), file, 1)
            title, text = (
                _html(text, file) if suffix in _HTML else (_heading(text) if suffix in _MARKDOWN else "", text)
            )
        except DataError as error:
            report(error)
        except OSError as error:
            report(DataError(f"cannot be read: {error}", path=file))
        else:
            yield file, None, {"id": file.relative_to(path).as_posix(), "title": title or file.name, "text": text}
    if ignored:
        _log.info("%s: ignored %d files that are not text, Markdown or HTML", path, ignored)


def _walk(path: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"cannot be listed: {error}", path=error.filename) from error

    for folder, below, names in os.walk(path, onerror=fail):
        below.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _heading(text: str) -> str:
    """The first heading of a Markdown text, "" if it has none."""
    fenced, before = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            if found := re.match(r" {0,3}#{1,6}[ \t]+(.*)", line):
                return re.sub(r"(^|[ \t])#+$", "", found[1].strip()).strip()
            if before and re.fullmatch(r"=+[ \t]*", line):
                return before
            before = line.strip()
    return ""


def _html(markup: str, path: Path) -> tuple[str, str]:
    """Title and text of a page; a blank line between its blocks, as between paragraphs of plain text."""
    try:
        import bs4
        from bs4.builder import ParserRejectedMarkup
    except ImportError:
        raise MissingExtraError("bs4", "readers") from None
    try:
        page = bs4.BeautifulSoup(markup, "html.parser")
    except (ParserRejectedMarkup, RecursionError) as error:
        raise DataError(f"not HTML that can be read: {error}", path=path) from error
    title = " ".join(page.title.get_text().split()) if page.title else ""
    for tag in page.find_all(["script", "style", "template", "title"]):
        tag.decompose()
    for node in page.find_all(string=True):
        if type(node) is bs4.NavigableString and not node.find_parent("pre"):
            node.replace_with(re.sub(r"\s+", " ", node))
    for tag in page.find_all("br"):
        tag.replace_with("\n")
    for tag in page.find_all(_BLOCKS):
        tag.insert_before("\n\n")
        tag.insert_after("\n\n")
    lines = (line.rstrip() for line in page.get_text().splitlines())
    return title, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


_FORMATS: dict[str, Callable[[Path, _Fields, _Report], _Records]] = {
    "beir": _beir,
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
    "folder": _folder,
}
