"""Folders of files, and single files, that are one document each."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...documents import encodable
from ...errors import BrokenExtraError, DataError, MissingExtraError
from ..compression import uncompressed_name
from .html import parse_html
from .lines import whole_text
from .markup import front_matter, heading, parse_notebook
from .office import parse_docx, parse_pdf
from .options import Reading, Records
from .values import BREAK

__all__ = ["SUFFIXES", "parse_folder", "parse_text"]

_MARKDOWN = {".md", ".markdown", ".mdx", ".mkd", ".mdown", ".qmd", ".rmd"}
_HTML = {".html", ".htm", ".xhtml"}
_WITH_TITLES = {".rst", ".org", ".adoc", ".asciidoc", ".tex"}
_PLAIN = {".txt", ".text"}
SUFFIXES = frozenset({*_PLAIN, *_MARKDOWN, *_WITH_TITLES, *_HTML, ".ipynb", ".pdf", ".docx"})

_LINKED = "behind a symbolic link (--follow-links follows it)"
_UNREAD_FOLDERS = {"__pycache__", "node_modules"}


def parse_folder(path: Path, reading: Reading) -> Records:
    """The files below a folder, each a record; those left out are counted in the summary."""
    if not path.is_dir():
        raise DataError("not a folder", path=path)
    summary = reading.summary
    files = [file for file in _walk(path, reading) if _is_read(file, path, reading)]
    summary.unit, summary.done, summary.total = "files", 0, len(files)
    for file in files:
        name = file.relative_to(path).as_posix()
        try:
            record = _record(file, name, reading)
        except MissingExtraError as error:
            if reading.strict:
                raise
            summary.leave_out(f"{_suffix(file)} (install the extra {error.extra})")
        except BrokenExtraError as error:
            if reading.strict:
                raise
            summary.leave_out(f"{_suffix(file)} ({error})")
        except DataError as error:
            reading.report(error)
        else:
            if record is None:
                summary.leave_out("empty", name)
            else:
                yield file, None, record
        summary.done += 1


def parse_text(path: Path, reading: Reading) -> Records:
    """A single file as one record."""
    if path.is_dir():
        raise DataError("a folder, not a file; its format is 'folder'", path=path)
    record = _record(path, path.name, reading)
    if record is None:
        raise DataError("the file is empty", path=path)
    yield path, None, record


def _record(file: Path, name: str, reading: Reading) -> dict[str, Any] | None:
    """The file's document; None if there is neither a text nor a title in it."""
    if not encodable(name):
        raise DataError("the name is not UTF-8; rename the file", path=file)
    if BREAK.search(name):
        raise DataError("the name has a line break or a tab, which an id cannot have; rename the file", path=file)
    title, text, fields = _read(file, _suffix(file), reading.encoding)
    title = title or str(fields.get("title") or "")
    if not (title.strip() or text.strip()):
        return None
    changed = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    metadata = {"path": name, "suffix": _suffix(file), "modified": changed}
    metadata |= {field: value for field, value in fields.items() if field != "title"}
    return {"id": name, "title": title if title.strip() else file.name, "text": text, "metadata": metadata}


def _read(file: Path, suffix: str, encoding: str | None) -> tuple[str, str, dict[str, Any]]:
    """Title (``""`` if it has none), text and front matter of a file."""
    if suffix == ".pdf":
        return *parse_pdf(file), {}
    if suffix == ".docx":
        return *parse_docx(file), {}
    text = whole_text(file, encoding)
    if suffix in _HTML:
        return *parse_html(text, file), {}
    if suffix == ".ipynb":
        return *parse_notebook(text, file), {}
    fields: dict[str, Any] = {}
    if suffix in _MARKDOWN | _WITH_TITLES:
        fields, text = front_matter(text, file)
        if not fields.get("title"):
            return heading(text, suffix), text, fields
    return "", text, fields


def _suffix(file: Path) -> str:
    return Path(uncompressed_name(file)).suffix.lower()


# ---- Which files


def _is_read(file: Path, root: Path, reading: Reading) -> bool:
    """Whether a file is to be read; if not, it is counted."""
    summary, name, suffix = reading.summary, file.relative_to(root).as_posix(), _suffix(file)
    if file.name.startswith("."):
        summary.leave_out("hidden", name)
        return False
    try:
        if file.is_symlink() and not reading.follow_links and not file.resolve().is_relative_to(root.resolve()):
            summary.leave_out(_LINKED, name)
            return False
        if not stat.S_ISREG(file.stat().st_mode):
            summary.leave_out("not a regular file", name)
            return False
    except (OSError, RuntimeError) as error:
        summary.leave_out("broken link" if file.is_symlink() else f"cannot be read: {error}", name)
        return False
    if suffix not in SUFFIXES:
        shown = suffix if encodable(suffix) and suffix else "without a suffix"
        summary.leave_out(f"{shown} (not a format that is read)")
        return False
    return True


def _walk(path: Path, reading: Reading) -> Iterator[Path]:
    """Files, sorted, those of a folder before those of its subfolders; each folder once, whatever links to it."""
    summary, seen = reading.summary, set()

    def fail(error: OSError) -> None:
        reading.report(DataError(f"cannot be listed: {error.strerror}", path=error.filename))

    for folder, below, names in os.walk(path, onerror=fail, followlinks=reading.follow_links):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in sorted(below):
            inner = Path(folder, name)
            if reason := _left_out(inner, reading):
                below.remove(name)
                summary.leave_out(reason, inner.relative_to(path).as_posix() + "/")
        below.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _left_out(folder: Path, reading: Reading) -> str:
    """Why a folder is not read, ``""`` if it is."""
    if folder.name.startswith("."):
        return "hidden"
    if folder.name in _UNREAD_FOLDERS or (folder / "pyvenv.cfg").exists():
        return "installed code"
    if folder.is_symlink() and not reading.follow_links:
        return _LINKED
    return ""
