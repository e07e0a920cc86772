"""Documents' keys and values, kept for later queries: in device memory, then in host memory, then on disk."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...errors import InputError
from ...files import replacing, share_files
from .kept import Form, KeptBlock

__all__ = ["DocumentCache", "block_key"]

logger = logging.getLogger(__name__)


class DocumentCache:
    """Keeps what was read of documents, the most recently used ones within a budget of bytes for each place.

    What does not fit on the device moves to the host, what does not fit there to the disk, what does not fit there is
    forgotten, and read again when it is needed. Nothing is recomputed or rounded by a move: a hit gives the same bytes.
    Documents are rounded once, if ``form`` says so, before anything is read of them.

    Args:
        device_bytes: bytes kept where the model is.
        host_bytes: bytes kept in host memory. On a CPU the two are one memory, and their budgets add up.
        disk_bytes: bytes kept in files under ``folder``, also for other processes and later ones.
        folder: must be given with ``disk_bytes``; made if missing.
        form: ``exact`` keeps keys and values as they are computed, ``fp16`` in half precision, ``int8`` in a byte each
            with a scale per token and head.

    Attributes:
        hits: how many blocks were found.
        misses: how many were not.

    Raises:
        InputError: if a budget is negative, there is one for the disk and no folder, or no such form.

    Example:
        >>> cache = DocumentCache(host_bytes=1 << 30)
        >>> cache.get("a block that nobody read") is None, cache.misses
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
            raise InputError(f"form is one of {', '.join(map(repr, get_args(Form)))}, not {form!r}")
        if disk_bytes and folder is None:
            raise InputError("to keep documents on disk, name the folder")
        self.form = form
        self.hits = self.misses = 0
        self._memory = [_Tier(device_bytes), _Tier(host_bytes, "cpu")]
        self._disk = _Disk(Path(folder), disk_bytes) if folder is not None and disk_bytes else None

    def get(self, key: str, device: torch.device | str = "cpu") -> KeptBlock | None:
        """What is kept under a key, wherever it is, moved to the device; None if nothing is."""
        near, far = self._memory
        block = near.get(key)
        if block is None:
            block = far.get(key) or (None if self._disk is None else self._disk.get(key))
            if block is not None:
                block = block.to(device)
                self.put(key, block)
        self.hits += block is not None
        self.misses += block is None
        return block

    def put(self, key: str, block: KeptBlock) -> None:
        """Keep a block as near as there is room; older ones give way."""
        near, far = self._memory
        for name, older in near.put(key, block):
            # What is on the host or on disk already is not copied there again.
            for gone, oldest in far.put(name, older) if name not in far else ():
                if self._disk is not None:
                    self._disk.put(gone, oldest)

    def bytes(self) -> dict[str, int]:
        """What is kept, by place: ``device``, ``host``, ``disk``."""
        names = zip(("device", "host"), self._memory, strict=True)
        return {name: tier.used for name, tier in names} | {"disk": 0 if self._disk is None else self._disk.used()}


def block_key(model: str, context: Sequence[int], tokens: Sequence[int]) -> str:
    """The name of a block: a hash of everything that its keys and values follow from.

    Args:
        model: name, revision, dtype and signal layer of the model.
        context: tokens before the block that it sees.
        tokens: the tokens of the block.
    """
    return hashlib.sha256(repr((model, tuple(context), tuple(tokens))).encode()).hexdigest()


class _Tier:
    """Blocks in memory, least recently used first."""

    def __init__(self, budget: int, device: str | None = None) -> None:
        self.budget, self.device, self.used = budget, device, 0
        self._blocks: OrderedDict[str, KeptBlock] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._blocks

    def get(self, key: str) -> KeptBlock | None:
        if key in self._blocks:
            self._blocks.move_to_end(key)
        return self._blocks.get(key)

    def put(self, key: str, block: KeptBlock) -> list[tuple[str, KeptBlock]]:
        """Keep it; returns what had to go, which is the block itself if it is larger than the budget."""
        if block.bytes > self.budget:
            return [(key, block)]
        if key in self._blocks:
            self.used -= self._blocks.pop(key).bytes
        self._blocks[key] = block if self.device is None else block.to(self.device)
        self.used += block.bytes
        gone = []
        while self.used > self.budget:
            name, oldest = self._blocks.popitem(last=False)
            self.used -= oldest.bytes
            gone.append((name, oldest))
        return gone


class _Disk:
    """Blocks in safetensors files; the time of last use is the file's modification time."""

    def __init__(self, folder: Path, budget: int) -> None:
        self.folder, self.budget = folder, budget
        folder.mkdir(parents=True, exist_ok=True)
        self._used = self.used()  # other processes' files are counted when room is made

    def get(self, key: str) -> KeptBlock | None:
        path = self._path(key)
        try:
            tensors = load_file(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be read (%s); the document is read again", path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        keys, values = ([tensors[name] for name in sorted(tensors) if name.startswith(kind)] for kind in ("k", "v"))
        return KeptBlock(tuple(keys), tuple(values))

    def put(self, key: str, block: KeptBlock) -> None:
        path = self._path(key)
        if block.bytes > self.budget or path.exists():
            return
        tensors = {
            f"{kind}{i:04}": x for kind in "kv" for i, x in enumerate(block.keys if kind == "k" else block.values)
        }
        tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as beside:  # a reader never sees half of a file
                save_file(tensors, beside)
                share_files(beside)
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be written (%s); the document is not kept on disk", path, error)
            return
        self._used += block.bytes
        if self._used > self.budget:
            self._make_room()

    def used(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._used <= self.budget:
                break
            path.unlink(missing_ok=True)
            self._used -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        files = []
        for path in self.folder.glob("??/*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process made room
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        return files

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
