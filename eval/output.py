"""Where results go: checked before the work, so that hours of it are not lost at the end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..errors import InputError

__all__ = ["make_folder", "writable_file"]


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, if it is not there, and check that files can be written into it.

    Args:
        path: the folder; missing parents are made, too.

    Raises:
        InputError: if the path, or one of its parents, is a file, or it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError):
        file = next((part for part in (path, *path.parents) if part.is_file()), path)
        raise InputError(f"{path}: cannot be a folder for results, since {file} is a file; name another one") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_short(path)}: cannot be written to ({reason}); name another folder") from None
    return path


def writable_file(path: str | os.PathLike[str]) -> Path:
    """Check that a file can be written.

    Args:
        path: the file; its folder must exist.

    Raises:
        InputError: if it is a folder, its folder does not exist or cannot be written to, or its name is too long.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it")
        if not path.parent.is_dir():
            raise InputError(f"{path}: its folder does not exist")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{_short(path)}: cannot be written ({reason})") from None
    return path


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"
