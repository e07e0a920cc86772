"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

__all__ = ["digest", "replace_file", "share_files"]

_CHUNK = 1 << 22


def digest(path: Path, start: int = 0, stop: int | None = None) -> str:
    """XXH3-128 of a file's bytes ``[start, stop)``, as hex; guards against accidents, not against an attacker."""
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


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, flush it to disk, and rename it into place."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
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
