"""The errors that Sightline raises on purpose.

A message says what was wrong, where (file and line, id, field), and what to do about it. Catch ``SightlineError`` to
catch them all.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BrokenExtraError",
    "DataError",
    "IndexCorruptError",
    "IndexLockedError",
    "IndexMismatchError",
    "IndexStoreError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "RankingError",
    "RemoteError",
    "SightlineError",
    "TrainingError",
    "UnknownNameError",
    "WorkerError",
]


class SightlineError(Exception):
    """The base class of all errors that Sightline raises on purpose."""


class InputError(SightlineError, ValueError):
    """An argument, a configuration value or a command-line option cannot be used."""


class UnknownNameError(InputError):
    """There is nothing with the name that you gave. The message lists the names that exist."""


class DataError(SightlineError, ValueError):
    """A line, record or file of your data cannot be used.

    Args:
        reason: a sentence that says what is wrong and what to do about it.
        path: the file, if there is one.
        line: the number of the line or record, counted from 1, if there is one.

    Example:
        >>> str(DataError("field 'text' is empty", path="corpus.jsonl", line=7))
        "corpus.jsonl:7: field 'text' is empty"
    """

    def __init__(self, reason: str, *, path: object = None, line: int | None = None) -> None:
        self.reason, self.path, self.line = reason, path, line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + reason)


class IndexStoreError(SightlineError):
    """An index cannot be read or written: it is not there, has another format, the disk is full, or similar."""


class IndexCorruptError(IndexStoreError):
    """A file of an index does not hold the bytes that were written to it. The message names the file."""


class IndexMismatchError(IndexStoreError):
    """An index was opened with another encoder or configuration than the one it was built with."""


class IndexLockedError(IndexStoreError):
    """Another process is writing to the index."""


class ModelError(SightlineError):
    """A model cannot be found, is not the one you asked for, or cannot do what you asked of it."""


class RemoteError(ModelError):
    """A rerank API refused a request, cannot be reached, or gave an answer that cannot be used."""


class RankingError(SightlineError):
    """A ranking would be meaningless, for example because scores are NaN."""


class TrainingError(SightlineError):
    """A training run cannot continue: its loss is not finite, or its saved state cannot be used."""


class WorkerError(SightlineError):
    """The worker processes of a build died repeatedly with the same documents."""


class BackendError(SightlineError):
    """The backend that you asked for, of kernels or of a reader, cannot run here. The message says why."""


class MissingExtraError(SightlineError, ImportError):
    """An optional dependency is not installed.

    Args:
        module: the name of the module that could not be imported.
        extra: the extra of Sightline that installs the module.
    """

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module!r} is not installed; install it with: pip install 'sightline-search[{extra}]'")
        self.module, self.extra = module, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Pickled by what it was made of, as it comes from a worker process."""
        return MissingExtraError, (self.module, self.extra)


class BrokenExtraError(SightlineError, ImportError):
    """An optional dependency is installed, but cannot be imported. The message says why.

    Args:
        modules: the names of the modules that were to be imported, for the message.
        extra: the extra of Sightline that installs them.
        cause: the error of the import, or what it says.
    """

    def __init__(self, modules: str, extra: str, cause: Exception | str) -> None:
        if isinstance(cause, Exception):
            cause = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        super().__init__(
            f"{modules} cannot be imported, although it is installed ({cause}); 'pip check' names packages whose "
            f"versions do not fit together, and pip install --upgrade 'sightline-search[{extra}]' installs versions "
            "that do"
        )
        self.modules, self.extra, self.cause = modules, extra, cause

    def __reduce__(self) -> tuple[type[BrokenExtraError], tuple[str, str, str]]:
        """Pickled by what it was made of, as it comes from a worker process."""
        return BrokenExtraError, (self.modules, self.extra, self.cause)
