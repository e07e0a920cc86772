"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import xxhash

__all__ = ["digest", "replace_file", "replacing", "share_files"]

_CHUNK = 1 << 22


def digest(path: Path, start: int = 0, stop: int | None = None) -> str:
    """Hash a file's bytes ``[start, stop)`` with XXH3-128, as hexadecimal digits.

    This guards against accidents, not against attackers.
    """
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        file.seek(start)
        left = (path.stat().st_size if stop is None else stop) - start
        while left > 0:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                break
            hasher.update(chunk)
            left -= len(chunk)
    return hasher.hexdigest()


@contextlib.contextmanager
def replacing(path: Path, *, one_writer: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name beside its place.

    It is moved into place if the block ends well, and removed if not.

    Args:
        path: the path that the file has in the end.
        one_writer: whether nobody else writes this file at the same time. If so, the temporary name is always the same,
            and the next writer overwrites what a killed one left.

    Yields:
        The temporary path to write to.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "run.txt")
        >>> with replacing(path) as beside:
        ...     _ = beside.write_text("q1 d1")
        ...     path.exists()
        False
        >>> path.read_text()
        'q1 d1'
    """
    beside = path.with_name(f"{path.name}.new" if one_writer else f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong before says more
            beside.unlink(missing_ok=True)
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to disk, and rename it into place, as the one writer of the file."""
    with replacing(path, one_writer=True) as beside, beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def share_files(*paths: Path) -> None:
    """Give files, and all files in folders, the permissions of ordinary new files: 0666 less the umask.

    safetensors creates its files for their owner alone, so that a server under another user could not load them.

    Args:
        paths: files or folders that this process has just written.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                file.chmod(0o666 & ~umask)
