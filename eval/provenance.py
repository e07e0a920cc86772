"""What a result rests on: the command, the machine, the versions, and hashes of everything that went in and came out.

Nothing here names a place on the machine: a report travels, its author's folders do not.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import xxhash

from .. import __version__
from ..errors import DataError
from ..files import digest
from .dataset import Dataset, collection_files

__all__ = [
    "DatasetHashes",
    "Fact",
    "Hashes",
    "Provenance",
    "dataset_hashes",
    "git_revision",
    "hardware",
    "hash_of",
    "portable_command",
    "portable_name",
    "provenance",
    "versions",
]

Fact = str | int | float | None

_LIBRARIES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "ir-measures",
    "numpy",
    "scipy",
)
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class DatasetHashes:
    """Hashes of a collection: ``queries`` and ``qrels`` as used, and its files by path (XXH3-128 of their bytes)."""

    queries: str
    qrels: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes of what went in and came out.

    Args:
        dataset: the hashes of the collection.
        runs: the hash of each system's run, see `hash_of`; None where no runs were made.
        given_runs: XXH3-128 of the files of given runs. None if there are none.
    """

    dataset: DatasetHashes
    runs: dict[str, str] | None = None
    given_runs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How results were made.

    Args:
        command: the command line, made portable by `portable_command`.
        seeds: the seeds of everything random.
        hashes: the hashes of what went in and came out.
        hardware: the machine; see `hardware`.
        versions: the versions of Python and the libraries; see `versions`.
        git: the commit of the code; see `git_revision`.
    """

    command: str | None = None
    seeds: dict[str, Fact] = dataclasses.field(default_factory=dict)
    hashes: Hashes | None = None
    hardware: dict[str, Fact] = dataclasses.field(default_factory=dict)
    versions: dict[str, Fact] = dataclasses.field(default_factory=dict)
    git: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the part of ``results.json`` and ``bias.json`` that it fills.

        Hashes that do not apply are left out.
        """
        fields = dataclasses.asdict(self)
        if self.hashes is not None:
            fields["hashes"] = {name: value for name, value in fields["hashes"].items() if value is not None}
        return fields


def provenance(
    dataset: Dataset,
    command: Sequence[str] | None,
    seeds: Mapping[str, Fact],
    runs: Mapping[str, str] | None = None,
    given_runs: Mapping[str, str] | None = None,
) -> Provenance:
    """How the results that are about to be written were made, here and now.

    Args:
        dataset: the collection that was searched and measured on.
        command: the command line that was run.
        seeds: the seeds of everything random.
        runs: hashes of the systems' runs.
        given_runs: hashes of the files of given runs.
    """
    return Provenance(
        command=None if command is None else portable_command(command),
        seeds=dict(seeds),
        hashes=Hashes(
            dataset_hashes(dataset),
            None if runs is None else dict(runs),
            None if given_runs is None else dict(given_runs),
        ),
        hardware=hardware(),
        versions={**versions()},
        git=git_revision(),
    )


def portable_name(text: str) -> str:
    """A name or path without the folders of an absolute path, also behind ``=``, ``,``, ``+``, ``:`` or ``#``.

    Example:
        >>> portable_name("given=/home/ann/run.trec"), portable_name("dense+/tmp/hot.yaml"), portable_name("data/nq")
        ('given=run.trec', 'dense+hot.yaml', 'data/nq')
    """
    parts = re.split(r"([=,+:#])", text)
    return "".join(PurePath(part).name if re.match(r"~|/[^/]", part) else part for part in parts)


def portable_command(arguments: Sequence[str]) -> str:
    """A command line for a shell: the program by its name alone, and arguments by `portable_name`.

    Example:
        >>> portable_command(["/opt/bin/sightline", "eval", "/data/nq", "--out", "my results"])
        "sightline eval nq --out 'my results'"
    """
    program, *rest = arguments
    return shlex.join([PurePath(program).name, *map(portable_name, rest)])


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that results depend on."""
    installed = {"python": platform.python_version(), "sightline": __version__}
    for name in _LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def hardware() -> dict[str, Fact]:
    """This machine: architecture, system, CPU model, cores of this process, threads of torch, memory, GPU.

    ``float32_products`` is the library of the products on its CPU, see `sightline.models.linears.linear_library`. What
    cannot be found out is None.
    """
    import torch

    from ..models.linears import linear_library

    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "float32_products": linear_library(),
        "memory_bytes": memory,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or None


def hash_of(value: Any) -> str:
    """XXH3-128 of a value as JSON with sorted keys: equal contents give equal hashes, wherever they came from."""
    return xxhash.xxh3_128_hexdigest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def dataset_hashes(dataset: Dataset) -> DatasetHashes:
    """Hashes of a collection, see `hash_of`; there are no files where it is not a folder in BEIR's layout."""
    try:
        files = collection_files(dataset.folder, dataset.split)
    except DataError:
        files = {}  # not a folder in BEIR's layout
    return DatasetHashes(
        queries=hash_of(dataset.queries),
        qrels=hash_of(dataset.qrels),
        files={path.relative_to(dataset.folder).as_posix(): digest(path) for path in files.values()},
    )


@functools.cache
def git_revision() -> str | None:
    """The commit that the code was taken from, with ``+changes`` if files differ; None for an installed copy."""
    if not (_PACKAGE / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
