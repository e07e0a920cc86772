"""Text files: lines and whole texts, decoded, with bounds on what is held in memory."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError, InputError
from ..compression import open_binary, position
from .options import Reading

__all__ = ["MAX_BYTES", "check_encoding", "decode", "numbered_lines", "whole_bytes", "whole_text"]

MAX_BYTES = 64 << 20  # of a line, or of a file that is read as a whole

_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TOLD_EVERY = 256


def check_encoding(name: str) -> None:
    """Refuse what is no encoding of text.

    Raises:
        InputError: if Python does not know the encoding.
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)
    except (LookupError, ValueError):
        raise InputError(f"unknown encoding {name!r}; known ones are utf-8, utf-16, cp1252, latin-1, ...") from None


def _encoding(start: bytes, asked: str | None) -> str:
    if asked is not None:
        return codecs.lookup(asked).name
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def numbered_lines(path: Path, reading: Reading) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file as UTF-8 (which has yet to be checked), without the byte order mark.

    Raises:
        DataError: if the file cannot be read, a line is too long, or the encoding that was asked for is wrong.
    """
    number, summary = 0, reading.summary
    try:
        with open_binary(path) as file:
            summary.unit, summary.done, summary.total = "bytes", 0, path.stat().st_size
            encoding = _encoding(file.peek(4), reading.encoding)
            for number, line in enumerate(_utf8_lines(file, encoding), 1):
                if len(line) > MAX_BYTES:
                    raise DataError(f"the line has more than {MAX_BYTES >> 20} MiB", path=path, line=number)
                if number % _TOLD_EVERY == 0:
                    summary.done = position(file)
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            summary.done = summary.total
    except UnicodeError as error:
        raise DataError(f"not {encoding}: {error}", path=path, line=number + 1) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error}", path=path, line=number + 1) from error


def _utf8_lines(file: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    if encoding in {"utf-8", "utf-8-sig"}:
        while line := file.readline(MAX_BYTES + 1):
            yield line
        return
    # Bytes of line breaks are no line breaks in every encoding, so the file is decoded before it is cut into lines.
    text = io.TextIOWrapper(file, encoding=encoding, newline="\n")
    while decoded := text.readline(MAX_BYTES + 1):
        yield decoded.encode()


def decode(raw: bytes, path: Path, line: int) -> str:
    """The text of UTF-8 bytes that begin at ``line``.

    Raises:
        DataError: if they are not UTF-8; it names the byte.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = error.start - before.rfind(b"\n")
        reason = f"not UTF-8: byte {column} of the line is 0x{raw[error.start]:02x}; name the encoding if it is another"
        raise DataError(f"{reason} (--encoding cp1252, ...)", path=path, line=line + before.count(b"\n")) from None


def whole_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file, uncompressed.

    Raises:
        DataError: if it cannot be read, or is larger than ``limit``.
    """
    try:
        with open_binary(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error}", path=path) from error
    if len(data) > limit:
        raise DataError(
            f"larger than {limit >> 20} MiB: too large for a file that is read as a whole; split it, or use JSON Lines",
            path=path,
        )
    return data


def whole_text(path: Path, asked: str | None, limit: int = MAX_BYTES) -> str:
    """The text of a file, without the byte order mark, its line breaks as they are.

    Raises:
        DataError: if it cannot be read, is larger than ``limit``, not in its encoding, or not text.
    """
    data = whole_bytes(path, limit)
    encoding = _encoding(data[:4], asked)
    if encoding in {"utf-8", "utf-8-sig"}:
        text = decode(data.removeprefix(codecs.BOM_UTF8), path, 1)
    else:
        try:
            text = data.decode(encoding).removeprefix("\ufeff")
        except UnicodeError as error:
            raise DataError(f"not {encoding}: {error}", path=path) from error
    if "\0" in text:
        raise DataError("not text: it has a NUL character", path=path)
    return text
