"""Read documents from files and Python iterables, one at a time, and name the bad ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ...documents import Document
from ...errors import DataError, InputError
from ..compression import uncompressed_name
from .folder import SUFFIXES, parse_folder, parse_text
from .json_files import parse_json_file, parse_json_lines
from .lines import check_encoding
from .options import ID_FIELDS, Fields, Reading, Records
from .parquet import parse_parquet
from .summary import LoadSummary
from .tables import parse_csv, parse_tsv
from .values import identity, plain, plain_text

__all__ = ["LoadSummary", "as_documents", "guess_format", "load_documents"]

_log = logging.getLogger(__name__)

_COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")
_CORPORA = (
    *(f"corpus.jsonl{suffix}" for suffix in _COMPRESSED),
    "corpus.parquet",
    *(f"{name}.tsv{suffix}" for name in ("corpus", "collection") for suffix in _COMPRESSED),
)


def load_documents(
    source: str | os.PathLike[str] | Iterable[Document | Mapping[str, Any]],
    *,
    format: str | None = None,
    id_field: str | None = None,
    title_field: str | None = None,
    text_field: str | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    csv_types: str = "json",
    follow_links: bool = False,
    strict: bool = False,
    on_bad: Callable[[DataError], None] | None = None,
    summary: LoadSummary | None = None,
) -> Iterator[Document]:
    """Read documents one at a time. In memory are kept only 16 bytes for each id, to find duplicates.

    **Formats.** The name of the path decides the format. All files but Parquet may be compressed (``.gz``, ``.bz2``,
    ``.xz``; ``.zst`` needs the extra ``readers``).

    * ``beir``: a folder with ``corpus.jsonl`` (or ``corpus.parquet``, ``corpus.tsv``, or MS MARCO's
      ``collection.tsv``).
    * ``jsonl`` (``.jsonl``, ``.ndjson``): a JSON object per line; blank lines are skipped.
    * ``json`` (``.json``): an array of objects, at most 256 MiB, or else JSON Lines.
    * ``csv``: quoted as RFC 4180 says. The delimiter is the one of comma, semicolon, tab and ``|`` that finds the
      fields in the header.
    * ``tsv``: cells between tabs; a quote is a character like any other.
    * ``parquet`` (needs the extra ``readers``).
    * ``folder``: each file below a folder is a document; see below.
    * ``text``: a single file of the kinds that folders hold.

    **Encoding.** Text is UTF-8, or what its byte order mark says (UTF-8, UTF-16, UTF-32), or ``encoding``. A line, and
    a file that is read as a whole, may have at most 64 MiB. Only regular files are read.

    **Tables** have a header, unless ``columns`` names the columns, or the table has no header and looks like MS MARCO's
    (id and text, or id, URL, title and text, where the id is a number or begins with ``D`` or ``msmarco_``). If every
    cell of a metadata column that is not empty is a JSON number (without leading zeros or signs, or thousands
    separators), the column holds numbers; if every one is ``true`` or ``false`` in any case, it holds booleans. The
    file is read twice to find out. Ids, titles and texts stay strings, and with ``csv_types="text"`` so do all columns.
    Empty cells are absent.

    **Folders.** Files are read in sorted order, those of a folder before those of its subfolders: plain text (``.txt``,
    ``.text``), Markdown (``.md``, ``.markdown``, ``.mdx``, ``.mkd``, ``.mdown``, ``.qmd``, ``.rmd``), ``.rst``,
    ``.org``, ``.adoc``, ``.asciidoc``, ``.tex``, notebooks (``.ipynb``: cells, not outputs), and with the extra
    ``readers`` HTML (``.html``, ``.htm``, ``.xhtml``), PDF and Word (``.docx``). The id is the path below the folder.
    The title is that of the front matter (YAML between ``---``, TOML between ``+++``) or of the page, or the first
    heading, or else the file's name. The metadata are ``path``, ``suffix``, ``modified`` (a date, in UTC) and the other
    fields of the front matter, which take precedence. These are left out and counted in ``summary``: files of other
    kinds, empty and unreadable files, hidden files and folders (whose names begin with a dot), ``__pycache__``,
    ``node_modules``, virtual environments, and links out of the folder and to folders.

    **Values.** Fields other than id, title and text become metadata; a field ``metadata`` that holds an object is
    merged into it. None, NaN, NaT and pandas' NA count as absent (in a list, as null). Scalars and arrays of numpy
    become Python values; Decimal and Fraction become numbers; durations become seconds; dates and times become ISO 8601
    strings; UUIDs, paths and IP addresses become strings; members of an Enum become their values; sets become sorted
    lists; bytes become text if they are UTF-8, or else Base64; maps of Parquet become objects, or lists of pairs if
    their keys are not strings. Other types are refused by name. An id may be an integer or a whole float, which becomes
    a string; it may have blanks and slashes, but no line breaks or tabs. A text that is null is empty; a record that
    has no field for the text is bad.

    Args:
        source: a path, or any iterable of documents or mappings.
        format: one of the formats above, for paths only. If None, it is guessed.
        id_field: the name of the id's field. If None, the first of ``_id``, ``id``, ``docno`` and ``docid`` that
            exists.
        title_field: the name of the title's field. If None, ``title`` if it exists.
        text_field: the name of the text's field. If None, the first of ``text``, ``contents`` and ``body`` that exists.
        encoding: the encoding of text files, any that Python knows, such as ``"cp1252"``.
        delimiter: the character between the cells of CSV and TSV.
        columns: the names of the columns of a table without a header.
        csv_types: ``"json"`` recognises numbers and booleans in CSV and TSV as described above; ``"text"`` keeps
            strings.
        follow_links: whether to follow symbolic links that lead out of the folder, or to folders. Loops do no harm.
        strict: whether to raise an error also for the first file of a folder that cannot be read. If False, folders are
            read without that file, and bad records of other formats raise an error.
        on_bad: a function that is called with the error of each bad record or file, which is then skipped, whatever the
            format.
        summary: an object that is told how far the reading has come, and what was left out of a folder. If None, a
            warning about what was left out is logged.

    Returns:
        An iterator over the documents, in the order of the source.

    Raises:
        InputError: if the arguments do not fit together.
        DataError: if a record is bad; the error names the file and the line (the number of the record for Parquet, JSON
            arrays and iterables). Whatever ``on_bad`` is, also if a file is missing, broken, or holds no usable
            document.
        MissingExtraError: if the format needs a library that is not installed.

    Example:
        >>> bad = []
        >>> records = [{"id": 7, "text": "Cats purr.", "lang": "en"}, {"id": 8, "text": 5}]
        >>> list(load_documents(records, on_bad=bad.append))
        [Document(id='7', text='Cats purr.', title='', metadata={'lang': 'en'})]
        >>> print(bad[0])
        <iterable>:2: field 'text' must be a string, not an int
    """
    fields, warn = Fields(id_field, title_field, text_field), summary is None
    summary = LoadSummary() if summary is None else summary
    report = on_bad or _raise
    if not isinstance(source, str | os.PathLike):
        if format is not None:
            raise InputError(f"format={format!r} is for paths, not for a Python {type(source).__name__}")
        if isinstance(source, Mapping | Document | bytes) or not isinstance(source, Iterable):
            raise InputError(f"source must be a path or an iterable of documents, not a {type(source).__name__}")
        if hasattr(source, "to_dict"):  # iterating over a frame of pandas gives the names of its columns
            raise InputError(f"source is a {type(source).__name__}; give its rows: frame.to_dict('records')")
        records: Records = (("<iterable>", number, record) for number, record in enumerate(source, 1))
        return _documents(records, Reading(fields, report=report, summary=summary), None, warn)
    path = Path(source)
    if strict and on_bad is not None:
        raise InputError("strict stops at the first bad file, on_bad continues without it; give one of them")
    _check_exists(path)
    format = format or guess_format(path)
    if format not in _FORMATS:
        raise InputError(f"unknown format {format!r}; there are: {', '.join(_FORMATS)}")
    if format in {"folder", "text"} and fields != Fields():
        raise InputError("the files of a folder have no fields; leave out id_field, title_field and text_field")
    _check_table(delimiter, columns, csv_types)
    if encoding is not None:
        check_encoding(encoding)
    if format == "folder" and not strict:
        report = _leaves_out(path, summary, on_bad)
    reading = Reading(fields, encoding, delimiter, columns, csv_types, follow_links, strict, report, summary)
    return _documents(_FORMATS[format](path, reading), reading, path, warn)


def as_documents(documents: Iterable[Document | Mapping[str, Any] | str]) -> Iterator[Document]:
    """Make documents of documents, mappings and texts.

    Args:
        documents: a stream of `Document` objects, mappings with the fields of `load_documents`, or texts. Texts, and
            mappings without an id, get their place as id, from "0".

    Returns:
        The documents, one at a time.

    Raises:
        InputError: if one of them, or ``documents`` itself, is something else.
    """
    if isinstance(documents, str | bytes | Mapping | Document) or not isinstance(documents, Iterable):
        raise InputError(f"documents must be a list or another iterable, not a single {type(documents).__name__}")
    if hasattr(documents, "to_dict"):
        raise InputError(f"documents are a {type(documents).__name__}; give its rows: frame.to_dict('records')")
    for place, record in enumerate(documents):
        if isinstance(record, Document):
            yield record
        elif isinstance(record, str):
            yield Document(str(place), record)
        elif isinstance(record, Mapping):
            named = record if record.keys() & set(ID_FIELDS) else {"id": str(place), **record}
            yield from load_documents([named])
        else:
            raise InputError(f"document {place}: must be a Document, a mapping or a text, not {type(record).__name__}")


def _raise(error: DataError) -> None:
    raise error


def _leaves_out(
    root: Path, summary: LoadSummary, on_bad: Callable[[DataError], None] | None
) -> Callable[[DataError], None]:
    """Counts a bad file of a folder, by the kind of its error."""

    def report(error: DataError) -> None:
        name = Path(str(error.path))
        shown = name.relative_to(root).as_posix() if name.is_relative_to(root) else name.as_posix()
        summary.leave_out(error.reason.partition(":")[0], ascii(shown)[1:-1] if not shown.isprintable() else shown)
        if on_bad is not None:
            on_bad(error)

    return report


def _check_exists(path: Path) -> None:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("no such file or folder", path=path) from None
    except (OSError, ValueError) as error:  # such as a name that is too long, or has a NUL
        raise DataError(f"cannot be read: {error}", path=path) from None


def _check_table(delimiter: str | None, columns: Sequence[str] | None, csv_types: str) -> None:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise InputError(f"delimiter must be one character, and no quote or line break, not {delimiter!r}")
    if columns is not None and isinstance(columns, str):
        raise InputError(f"columns must be a list of names, not the string {columns!r}")
    if csv_types not in {"json", "text"}:
        raise InputError(f"csv_types must be 'json' or 'text', not {csv_types!r}")


def guess_format(path: Path) -> str:
    """Guess the format of a path from its name, or from what is in the folder.

    Raises:
        DataError: if there is no such file or folder.
        InputError: if the name does not tell the format.
    """
    _check_exists(path)
    if path.is_dir():
        return "beir" if _corpus(path) else "folder"
    suffix = Path(uncompressed_name(path)).suffix.lower()
    if suffix in SUFFIXES:
        return "text"
    format = "jsonl" if suffix == ".ndjson" else "tsv" if suffix == ".tab" else suffix.removeprefix(".")
    if format not in {"json", "jsonl", "csv", "tsv", "parquet"}:
        raise InputError(
            f"cannot guess the format of {path.name!r}; give the format (--format), one of: {', '.join(_FORMATS)}"
        )
    return format


# ---- Records into documents


def _documents(records: Records, reading: Reading, path: Path | None, warn: bool) -> Iterator[Document]:
    seen: set[bytes] = set()
    for where, line, record in records:
        try:
            document = _document(record, reading.fields)
            key = blake2b(document.id.encode(), digest_size=16).digest()
            if key in seen:
                raise DataError(f"another document already has the id {document.id!r}")
        except (DataError, InputError) as error:
            reason = error.reason if isinstance(error, DataError) else str(error)
            reading.report(DataError(reason, path=where, line=line))
        except RecursionError:
            reading.report(DataError("metadata is nested too deeply", path=where, line=line))
        else:
            seen.add(key)
            yield document
    left_out = str(reading.summary)
    if path is not None and not seen:
        raise DataError("no usable document in it" + (f"; {left_out}" if left_out else ""), path=path)
    if left_out and warn:
        _log.warning("%s: %s", path, left_out)


def _document(record: Any, fields: Fields) -> Document:
    if isinstance(record, Document):
        return replace(record, id=identity(record.id, "id"), metadata=plain(record.metadata, "metadata"))
    if not isinstance(record, Mapping):
        raise DataError(f"a document must be an object with fields, not a {type(record).__name__}")
    id_field, title_field, text_field = fields.find(record)
    text, title = plain_text(record[text_field], text_field), ""
    if title_field:
        title = plain_text(record[title_field], title_field)
    metadata = {name: value for name, value in record.items() if name not in {id_field, title_field, text_field}}
    nested = metadata.get("metadata")
    if isinstance(nested, Mapping):
        del metadata["metadata"]
        if clash := sorted(metadata.keys() & nested.keys()):
            raise DataError(f"field {clash[0]!r} is both in the record and in its metadata")
        metadata |= nested
    return Document(identity(record[id_field], id_field), text, title, plain(metadata, "metadata"))


# ---- Formats


def _corpus(folder: Path) -> Path | None:
    return next((folder / name for name in _CORPORA if (folder / name).exists()), None)


def _parse_beir(path: Path, reading: Reading) -> Records:
    corpus = _corpus(path)
    if corpus is None:
        raise DataError("not a BEIR folder: it has no corpus.jsonl", path=path)
    return _FORMATS[guess_format(corpus)](corpus, reading)


_FORMATS: dict[str, Callable[[Path, Reading], Records]] = {
    "beir": _parse_beir,
    "jsonl": parse_json_lines,
    "json": parse_json_file,
    "csv": parse_csv,
    "tsv": parse_tsv,
    "parquet": parse_parquet,
    "folder": parse_folder,
    "text": parse_text,
}
