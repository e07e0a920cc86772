"""Caches of what was read of documents, for later queries: in device memory, in host memory and on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import xxhash

from ..errors import InputError
from ..files import replacing
from ..settings import Range, check_settings

if TYPE_CHECKING:
    import torch

__all__ = ["CacheSettings", "DocumentCache", "Form", "cache_key", "shared_cache"]

logger = logging.getLogger(__name__)

Form = Literal["exact", "fp16", "int8"]
"""How what was read is kept: as computed, in half precision, or in a byte for each number, with scales."""

_FORMAT = "2"  # of keys and files; another number makes entries of earlier versions unknown
_DIGEST_BYTES = 16
_HEADROOM = 16  # room is made on disk for this fraction of the budget at a time, since it takes a look at every file
_ABANDONED_SECONDS = 3600.0
_ENTRY, _BESIDE = re.compile(r"[0-9a-f]{64}\.read"), re.compile(r"\.[0-9a-f]{64}\.read\.\d+")  # see `replacing`


class DocumentCache:
    """Keeps what was read of documents, the most recently used ones within a budget of bytes for each place.

    What is read goes to the device (or, without a budget there, to the host) and to the disk. What does not fit on the
    device moves to the host. What fits nowhere is forgotten, and read again when it is needed. A move changes nothing:
    a hit gives the same bytes. If ``form`` says so, documents are rounded once, before anything is computed from them.

    One cache can serve several rerankers and threads, and one folder can serve several processes. An entry on disk is
    written as a whole and has a checksum; a damaged one is read anew and replaced. Each process that shares a folder
    may exceed ``disk_bytes`` by a sixteenth before it looks at what the others wrote.

    Args:
        device_bytes: the number of bytes to keep where the model is.
        host_bytes: the number of bytes to keep in host memory. On a CPU this is the same memory as the device's, and
            the two budgets add up.
        disk_bytes: the number of bytes to keep in files under ``folder``, also for other processes and later ones.
        folder: the folder for the files, which is made if it is missing. You must give it with ``disk_bytes``.
        form: the form in which documents are kept: ``exact`` as they are computed, ``fp16`` in half precision, or
            ``int8`` in one byte per number, with a scale per token (for decoders, per token and head).

    Attributes:
        hits: the number of documents that were found.
        misses: the number of documents that were not found.

    Raises:
        InputError: if a budget is negative, there is a budget for the disk but no folder, the folder cannot be made, or
            there is no such form.

    Example:
        >>> cache = DocumentCache(host_bytes=1 << 30)
        >>> cache.get("a document that nobody read") is None, cache.misses
        (True, 1)
    """

    def __init__(
        self,
        device_bytes: int = 0,
        host_bytes: int = 0,
        disk_bytes: int = 0,
        folder: str | os.PathLike[str] | None = None,
        form: Form = "exact",
    ) -> None:
        if min(device_bytes, host_bytes, disk_bytes) < 0:
            raise InputError("a budget of bytes cannot be negative")
        if form not in get_args(Form):
            raise InputError(f"form must be one of {', '.join(map(repr, get_args(Form)))}, not {form!r}")
        if disk_bytes and folder is None:
            raise InputError("to keep documents on disk, name the folder")
        self.form = form
        self.hits = self.misses = 0
        self._arguments = (device_bytes, host_bytes, disk_bytes, folder, form)
        self._lock = threading.Lock()
        self._memory = [_Tier(device_bytes), _Tier(host_bytes, "cpu")]
        self._disk = _Disk(Path(folder), disk_bytes) if folder is not None and disk_bytes else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles keep the budgets and the folder, not what is in memory."""
        return DocumentCache, self._arguments

    def get(self, key: str, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...] | None:
        """Return what is kept under a key, moved to the device; None if nothing is."""
        with self._lock:
            near, far = self._memory
            found, moves = near.get(key), False
            if found is None:
                found, moves = far.get(key), True
        if found is None and self._disk is not None:
            found = self._disk.get(key)
        if found is not None:
            found = tuple(tensor.to(device) for tensor in found)
            if moves:
                self._keep(key, found)
        with self._lock:
            self.hits += found is not None
            self.misses += found is None
        return found

    def put(self, key: str, tensors: tuple[torch.Tensor, ...]) -> None:
        """Keep what was read of a document. What was not used for longest makes room.

        Args:
            key: the name under which to keep it, which stands for everything that the tensors depend on; see
                `cache_key`.
            tensors: the tensors to keep. Nobody may change them afterwards, and they should share no memory with larger
                ones.
        """
        self._keep(key, tensors)
        if self._disk is not None:
            self._disk.put(key, tensors)

    def bytes(self) -> dict[str, int]:
        """Return the number of bytes kept in ``device``, ``host`` and ``disk`` (as far as this process knows)."""
        names = zip(("device", "host"), self._memory, strict=True)
        return {name: tier.used for name, tier in names} | {"disk": 0 if self._disk is None else self._disk.used}

    def _keep(self, key: str, tensors: tuple[torch.Tensor, ...]) -> None:
        """Keep it in memory, as near as there is room."""
        forgotten: list[str] = []
        with self._lock:
            near, far = self._memory
            for name, older in near.put(key, tensors):
                # What is on the host already is not copied there again.
                forgotten += [gone for gone, _ in far.put(name, older)] if name not in far else []
        if self._disk is not None:
            for name in forgotten:
                self._disk.touch(name)  # it was in use until now, though not on disk


def cache_key(*parts: object) -> str:
    """Make the name of a document in a `DocumentCache`: a hash of everything that its reading depends on.

    Args:
        parts: strings, numbers, and tuples of these: the model, its revision and dtype, and the text or its tokens.

    Example:
        >>> cache_key("minilm", "sha256:53aa", "Cats purr.") == cache_key("minilm", "sha256:53aa", "Cats purr. ")
        False
    """
    return hashlib.sha256(repr((_FORMAT, *parts)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What servers and adapters keep of the documents that requests bring.

    Args:
        mb: Megabytes of memory for what was read of the documents in requests; 0 keeps nothing in memory.
        folder: Folder that also keeps what was read, for later runs and other processes.
        folder_mb: Megabytes that the folder may take.

    Raises:
        InputError: if a number is negative.
    """

    mb: Annotated[int, Range(0)] = 256
    folder: Path | None = None
    folder_mb: Annotated[int, Range(1)] = 4096

    def __post_init__(self) -> None:
        check_settings(self)


@functools.cache
def shared_cache(settings: CacheSettings) -> DocumentCache | None:
    """Return the cache for these settings: the same one for equal settings in this process; None if they keep nothing.

    Example:
        >>> shared_cache(CacheSettings(mb=64)) is shared_cache(CacheSettings(mb=64))
        True
    """
    if not settings.mb and settings.folder is None:
        return None
    disk = settings.folder_mb << 20 if settings.folder is not None else 0
    return DocumentCache(host_bytes=settings.mb << 20, disk_bytes=disk, folder=settings.folder)


def _bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Tier:
    """Entries in memory, least recently used first."""

    def __init__(self, budget: int, device: str | None = None) -> None:
        self.budget, self.device, self.used = budget, device, 0
        self._entries: OrderedDict[str, tuple[torch.Tensor, ...]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> tuple[torch.Tensor, ...] | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: str, tensors: tuple[torch.Tensor, ...]) -> list[tuple[str, tuple[torch.Tensor, ...]]]:
        """Keep it; returns what had to go, which is the entry itself if it is larger than the budget."""
        size = _bytes(tensors)
        if size > self.budget:
            return [(key, tensors)]
        if key in self._entries:
            self.used -= _bytes(self._entries.pop(key))
        self._entries[key] = tensors if self.device is None else tuple(tensor.to(self.device) for tensor in tensors)
        self.used += size
        gone = []
        while self.used > self.budget:
            name, oldest = self._entries.popitem(last=False)
            self.used -= _bytes(oldest)
            gone.append((name, oldest))
        return gone


class _Disk:
    """Entries in files: a digest, then safetensors. The time of last use is the file's modification time."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: no folder can be made there ({error.strerror}); name another") from error
        self._written = 0  # since the files of other processes were last counted
        self.used = 0
        self._make_room(0)

    def get(self, key: str) -> tuple[torch.Tensor, ...] | None:
        from safetensors.torch import load

        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s cannot be read (%s); the document is read again", path, error)
            return None
        payload = data[_DIGEST_BYTES:]
        if _digest(key, payload) != data[:_DIGEST_BYTES]:
            logger.warning("%s is damaged; the document is read again", path)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # what is read again takes its place
            return None
        self.touch(key)
        tensors = load(payload)
        return tuple(tensors[name] for name in sorted(tensors))

    def touch(self, key: str) -> None:
        """Say that an entry was in use just now, if it is there."""
        with contextlib.suppress(OSError):
            os.utime(self._path(key))

    def put(self, key: str, tensors: tuple[torch.Tensor, ...]) -> None:
        from safetensors.torch import save

        path = self._path(key)
        if path.exists():
            return self.touch(key)
        # Copies: the format takes no tensors that share memory, as those of one document may.
        copies = [tensor.cpu().contiguous().clone() for tensor in tensors]
        payload = save({f"{place:06}": tensor for place, tensor in enumerate(copies)})
        size = _DIGEST_BYTES + len(payload)
        if size > self.budget:
            return
        with self._lock:  # so that no two threads write the file beside it
            if self.used + size > self.budget or self._written > self.budget // _HEADROOM:
                self._make_room(size)
            try:
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as beside:  # nobody ever sees half of a file
                    beside.write_bytes(_digest(key, payload) + payload)
            except OSError as error:
                logger.warning("%s cannot be written (%s); the document is not kept on disk", path, error)
                return
            self.used += size
            self._written += size

    def _make_room(self, size: int) -> None:
        """Count all files, and remove the ones that were not used for longest if ``size`` bytes more are too many."""
        files = sorted(self._files())
        self.used, self._written = sum(bytes for _, bytes, _ in files), 0
        if self.used + size <= self.budget:
            return
        room = min(self.budget - size, self.budget - self.budget // _HEADROOM)
        for _, bytes, path in files:
            if self.used <= room:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self.used -= bytes

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, bytes and path of every entry. What a killed process left half written is removed."""
        long_ago = time.time() - _ABANDONED_SECONDS
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another process made room
                status = path.stat()
                if _ENTRY.fullmatch(path.name):
                    yield status.st_mtime, status.st_size, path
                elif _BESIDE.fullmatch(path.name) and status.st_mtime < long_ago:
                    path.unlink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.read"


def _digest(key: str, payload: bytes) -> bytes:
    """Guards against accidents, not against an attacker: of the key, too, so that a file is of what it is named for."""
    return xxhash.xxh3_128(key.encode() + payload).digest()
