"""Files that survive a kill: written beside and renamed, or appended to and trusted only up to what was committed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import xxhash

from ..errors import IndexCorruptError, IndexLockedError, IndexStoreError

__all__ = [
    "COMMIT_LOCK",
    "DATABASE",
    "LOCKS",
    "PATIENCE",
    "RESTORE",
    "TURNSTILE",
    "WRITER_LOCK",
    "AppendFile",
    "committing",
    "exchange",
    "loading",
    "locked",
    "populate",
    "storage_errors",
]

WRITER_LOCK, COMMIT_LOCK, TURNSTILE = LOCKS = (".writer.lock", ".commit.lock", ".turnstile.lock")
DATABASE = "documents.sqlite"
PATIENCE = 0.5  # seconds to wait for a writer: who opens an index whose writer was killed holds its lock for a moment
RESTORE = "restore the index from a copy, or build it again"  # what to do about an `IndexCorruptError`
_MADV_POPULATE_READ = 22  # <linux/mman.h>; the mmap module does not name it


@contextlib.contextmanager
def storage_errors(path: Path, kept: str) -> Iterator[None]:
    """Turn a failing disk into an `IndexStoreError` that says where, and what was ``kept``."""
    try:
        yield
    except OSError as error:
        why = "no space left on the device" if error.errno == errno.ENOSPC else str(error)
        raise IndexStoreError(f"{path}: {why}; {kept}") from error


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: float | None = None) -> Iterator[None]:
    """Hold an advisory lock on a file. The system releases it when the process ends, however it ends.

    If another file takes the place of this one while the caller waits, as when an index is replaced, the caller gets
    the lock on the new file.

    Args:
        path: the path of the lock file.
        shared: whether others may hold the lock at the same time.
        wait: the number of seconds to wait for the lock. If None, wait as long as it takes.

    Raises:
        IndexLockedError: if another process holds it after ``wait`` seconds.
        IndexStoreError: if the file cannot be opened, or the file system has no locks.
    """
    with storage_errors(path.parent, "nothing was changed"):
        handle = _locked(path, shared, wait)
    try:
        yield
    finally:
        if handle is not None:
            _unlock(handle)


def _locked(path: Path, shared: bool, wait: float | None) -> int | None:
    """Open and lock a file; None where there is no file to lock, and so no writer."""
    # A reader must not need the right to write: indexes are served from read-only file systems.
    flags = (os.O_RDONLY if shared else os.O_RDWR) | os.O_CREAT
    while True:
        try:
            handle = os.open(path, flags, 0o644)
        except FileNotFoundError as error:
            raise IndexStoreError(f"{path.parent}: the folder was moved or removed meanwhile; try again") from error
        except OSError as error:
            # A writer makes the lock files first. So a copy without them, where none can be made, has no writer.
            if shared and not path.exists() and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                return None
            raise
        there = False
        try:
            _flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
            there = _is_at(handle, path)
            if there:
                return handle
        except BlockingIOError as error:
            raise IndexLockedError(f"{path.parent}: another process is writing to this index; wait for it") from error
        except OSError as error:
            raise IndexStoreError(
                f"{path.parent}: the file system cannot lock {path.name} ({error.strerror}); nothing was changed; "
                "keep the index on a local disk"
            ) from error
        finally:
            if not there:
                _unlock(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _unlock(handle: int) -> None:
    # A forked child shares the open file: closing it here alone would leave the lock with the child.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _flock(handle: int, kind: int, wait: float | None) -> None:
    if wait is None:
        return fcntl.flock(handle, kind)
    end = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def committing(folder: Path) -> Iterator[None]:
    """Keep every reader from loading while the files and the database change together."""
    # Readers pass the turnstile before they lock. While a writer waits it is shut, so that they cannot starve it.
    with locked(folder / TURNSTILE), locked(folder / COMMIT_LOCK):
        yield


@contextlib.contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Keep every writer from committing; see `committing`."""
    with contextlib.ExitStack() as held:
        with locked(folder / TURNSTILE, shared=True):
            held.enter_context(locked(folder / COMMIT_LOCK, shared=True))
        yield


def exchange(one: Path, other: Path) -> None:
    """Let two directories change places, in one step where the system can (Linux, macOS).

    Raises:
        OSError: if they cannot be renamed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):
        here = ctypes.c_int(-100)  # AT_FDCWD
        failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(2))  # RENAME_EXCHANGE
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, ctypes.c_uint(2))  # RENAME_SWAP
    else:
        failed = -1
    if failed:
        aside = one.with_name(one.name + ".aside")
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


def populate(rows: np.ndarray, ranges: Iterable[tuple[int, int]]) -> None:
    """Map ranges of memory-mapped rows at once, if the system can; a page fault for each page costs several times more.

    Only a hint: without it (Linux before 5.14, other systems) the rows are mapped as they are read.
    """
    mapped, size = rows.base, rows.strides[0]
    if not isinstance(mapped, mmap.mmap) or not hasattr(mapped, "madvise"):
        return
    with contextlib.suppress(OSError, ValueError, OverflowError):  # a range outside is refused by whoever reads it
        for start, stop in ranges:
            if stop > start:
                first = start * size // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(_MADV_POPULATE_READ, first, stop * size - first)


class AppendFile:
    """Rows of one dtype, appended in segments. The owner, who commits the row count, decides which rows exist.

    Args:
        path: the path of the file, which is made on the first append.
        dtype: the dtype of a row, whose shape may be part of it.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path = path
        self.dtype = dtype

    def append(self, rows: np.ndarray, committed: int) -> str:
        """Write rows after the first ``committed`` ones, over whatever an interrupted append left; return their digest.

        Raises:
            OSError: if the disk refuses; the committed rows are untouched.
        """
        data = np.ascontiguousarray(rows, dtype=self.dtype.base).tobytes()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(handle, "r+b") as file:
            file.truncate(committed * self.dtype.itemsize)
            file.seek(committed * self.dtype.itemsize)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return xxhash.xxh3_128_hexdigest(data)

    def map(self, rows: int) -> np.ndarray:
        """Memory-map the first ``rows`` rows. Writing to the array does not reach the file.

        Raises:
            IndexCorruptError: if the file is shorter than that.
        """
        shape = (rows, *self.dtype.shape)
        if not rows:
            return np.empty(shape, dtype=self.dtype.base)
        # Copy-on-write rather than read-only, for torch warns on tensors over read-only memory.
        try:
            return np.memmap(self.path, dtype=self.dtype.base, mode="c", shape=shape)
        except PermissionError as error:
            raise IndexStoreError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (ValueError, OverflowError, OSError) as error:
            raise IndexCorruptError(
                f"{self.path}: does not hold the {rows} rows that were committed ({error}); {RESTORE}"
            ) from error
