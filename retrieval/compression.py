"""Files, compressed or not, as streams of bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError
from ..extras import importing

__all__ = ["SUFFIXES", "open_binary", "position", "uncompressed_name"]

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

# A kilobyte of zstd holds at most 256 blocks of 128 KiB: so much input at a time bounds the memory of hostile files.
_ZSTD_INPUT = 1 << 10


def open_binary(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading. A compressed file is decompressed.

    Files whose names end in ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` are compressed. Reading a damaged or truncated one
    raises an `OSError`, as reading from a failing disk does, so callers have one kind of error to handle.

    Args:
        path: the path of the file.

    Returns:
        A buffered stream; close it, or use it in a ``with`` statement.

    Raises:
        DataError: if the path is a folder, a named pipe, a device or a socket, which might never end.
        OSError: if the file cannot be opened.
        MissingExtraError: if the file is ``.zst`` and zstandard is not installed.

    Example:
        >>> import gzip, tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.txt.gz")
        >>> _ = path.write_bytes(gzip.compress(b"Cats purr."))
        >>> with open_binary(path) as file:
        ...     file.read()
        b'Cats purr.'
    """
    path = Path(path)
    suffix = path.suffix.lower()
    zstandard = _zstandard() if suffix == ".zst" else None
    # Opening a named pipe waits for its writer, unless one asks not to wait.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DataError("not a regular file, so it cannot be read as one", path=path)
    raw = os.fdopen(number, "rb")
    try:
        if suffix not in SUFFIXES:
            return raw
        inner: Any
        if suffix == ".gz":
            inner = gzip.GzipFile(fileobj=raw)
        elif suffix == ".zst":
            inner = _ZstdSource(raw, zstandard)
        else:
            inner = bz2.BZ2File(raw) if suffix == ".bz2" else lzma.LZMAFile(raw)  # noqa: SIM115
        return io.BufferedReader(_Uncompressed(raw, inner), 1 << 16)
    except BaseException:
        raw.close()
        raise


def position(file: io.BufferedReader) -> int:
    """Return how many bytes of the file on disk a stream of `open_binary` has read; compare it with the file's size."""
    return file.raw.source.tell() if isinstance(file.raw, _Uncompressed) else file.tell()


def uncompressed_name(path: str | os.PathLike[str]) -> str:
    """Return a file's name without the suffix that says how it is compressed.

    Example:
        >>> uncompressed_name("run.TREC.gz")
        'run.TREC'
    """
    path = Path(path)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _zstandard() -> Any:
    with importing("zstandard", extra="readers"):
        import zstandard
    return zstandard


class _Uncompressed(io.RawIOBase):
    """What a decompressor reads, its own kinds of errors turned into `OSError`, and the file closed with it."""

    def __init__(self, file: BinaryIO, inner: Any) -> None:
        self.source, self._inner = file, inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise OSError(f"damaged or cut short: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        self.source.close()
        super().close()


class _ZstdSource:
    """Frames of zstd one after the other; zstandard's own reader takes a cut frame for the end of the file."""

    def __init__(self, file: BinaryIO, zstandard: Any) -> None:
        self._file, self._module = file, zstandard
        self._frame: Any = None
        self._input, self._output = b"", memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._output:
            data = self._input or self._file.read(_ZSTD_INPUT)
            self._input = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame has no end")
                return b""
            if self._frame is None:
                self._frame = self._module.ZstdDecompressor().decompressobj()
            try:
                self._output = memoryview(self._frame.decompress(data))
            except self._module.ZstdError as error:
                raise OSError(f"damaged or cut short: {error}") from error
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        taken, self._output = bytes(self._output[:size]), self._output[size:]
        return taken

    def close(self) -> None:
        """The file is closed by its owner."""
