"""Decoder models in GGUF files, the format of llama.cpp: which file a name means, and how transformers loads it.

transformers reads the configuration, the weights and the tokenizer from the one file, and dequantizes all weights
(extra ``gguf``). Nothing is written to the disk, so every load dequantizes again.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..extras import importing
from ..wording import quoted
from .smollm2 import find_smollm2

if TYPE_CHECKING:
    import gguf

__all__ = ["find_gguf", "gguf_config", "gguf_options", "read_once"]

_EXTRA = "gguf"
_KNOWN: Mapping[str, Callable[[], Path]] = {"smollm2": find_smollm2}
_OF_THE_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>.+)")
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_LAYER = re.compile(r"blk\.(\d+)\.")
_JOIN = "join them: llama-gguf-split --merge FIRST-PART JOINED.gguf"
_REPLACING = threading.RLock()


def find_gguf(name: str, revision: str | None = None) -> Path | None:
    """Find the GGUF file that a decoder's name stands for, and download it from the hub if necessary.

    Args:
        name: ``smollm2``; the path of a file that ends in ``.gguf``; or ``REPOSITORY:FILE.gguf``, a file on the hub.
        revision: the branch, tag or commit of the repository.

    Returns:
        The path of the file; None if the name stands for a folder or a repository instead.

    Raises:
        ModelError: if there is no such file, here or in the repository, or it is one part of several.

    Example:
        >>> find_gguf("Qwen/Qwen3-0.6B") is None
        True
    """
    if name in _KNOWN:
        return _KNOWN[name]()
    if not name.lower().endswith(".gguf"):
        return None
    local = Path(name).expanduser()
    if os.path.isfile(local):  # noqa: PTH113 - Path.is_file raises at long names
        return _whole(local, name)
    # A repository of the hub is OWNER/NAME, so C:\FILE and C:/FILE are none.
    if (parts := _OF_THE_HUB.fullmatch(name)) is None:
        raise ModelError(f"cannot load {quoted(name)}: no such file; one on the hub is written REPOSITORY:FILE.gguf")
    _whole(Path(parts["file"]), name)
    return _download(parts["repo"], parts["file"], revision)


def _whole(path: Path, name: str) -> Path:
    if part := _PART.search(path.name):
        raise ModelError(
            f"cannot load {quoted(name)}: it is part {int(part[1])} of {int(part[2])}, and transformers loads whole "
            f"files only; {_JOIN}"
        )
    return path


def _download(repository: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError as error:
        reason = "it is not in the hub cache, and the hub cannot be reached"
        raise ModelError(f"cannot load '{repository}:{file}': {reason}") from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"cannot load '{repository}:{file}': the repository has no such file; names differ in upper and lower "
            "case, and files in folders are written FOLDER/FILE.gguf"
        ) from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:500]
        raise ModelError(f"cannot load '{repository}:{file}': {reason}") from error


def gguf_options(file: Path) -> tuple[str, dict[str, Any]]:
    """Return how transformers is told to load a file: the model's name, and arguments of ``from_pretrained``."""
    return str(file.parent), {"gguf_file": file.name}


def gguf_config(file: Path) -> Any:
    """Load the configuration that transformers derives from a file.

    Raises:
        MissingExtraError: if gguf is not installed, or accelerate, with which transformers loads the weights.
        ModelError: if the file cannot be read, or holds no language model with a tokenizer.
    """
    return copy.deepcopy(_opened(file)[0])


@contextlib.contextmanager
def read_once(file: Path, layers: int) -> Iterator[None]:
    """Let transformers load the weights of a file within the block without parsing it again.

    By itself, transformers parses the file three times, for configuration, weights and tokenizer, and builds the table
    of tensor names anew for every module of the model. So the two functions of the package gguf that it calls for this
    are replaced by others with the same results. If another release of transformers calls others, loading is slow
    again.

    Args:
        file: the path of the file.
        layers: the number of layers that are wanted, from the first. transformers would dequantize the others and drop
            them.
    """
    reader = copy.copy(_opened(file)[1])
    reader.tensors = [tensor for tensor in reader.tensors if _layer(tensor.name) < layers]
    with _read_as(reader):
        yield


def _opened(file: Path) -> tuple[Any, gguf.GGUFReader]:
    with importing("gguf", "accelerate", extra=_EXTRA):
        import accelerate  # noqa: F401 - transformers needs it
        import gguf  # noqa: F401
    state = file.stat()
    return _open(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _open(file: Path, size: int, modified: int) -> tuple[Any, gguf.GGUFReader]:
    """The configuration of a file, and its reader without the vocabulary, once for each version of the file."""
    from transformers import AutoConfig

    reader = _parse(file)
    _check(file, reader)
    folder, options = gguf_options(file)
    with _read_as(reader):
        config = AutoConfig.from_pretrained(folder, **options)
    for name in [name for name in reader.fields if name.startswith("tokenizer.")]:
        del reader.fields[name]  # several arrays for each token
    return config, reader


def _parse(file: Path) -> gguf.GGUFReader:
    import gguf

    with file.open("rb") as start:
        if start.read(4) != b"GGUF":
            raise ModelError(f"cannot load {str(file)!r}: it is not a GGUF file, which begins with the letters GGUF")
    with _REPLACING:  # no other thread has its reader in the place of the class

        class Reader(gguf.GGUFReader):
            @property
            def data(self) -> Any:
                return self._plain

            @data.setter
            def data(self, mapped: Any) -> None:
                self._plain = mapped.view(np.ndarray)  # the same memory; a memmap is several times slower to slice

    try:
        return Reader(file)
    except Exception as error:  # numpy's, Python's: whatever a length or a type that is wrong leads to
        raise ModelError(
            f"cannot load {str(file)!r}: the file is cut off or damaged, or newer than the installed package gguf "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); download it again"
        ) from error


def _check(file: Path, reader: gguf.GGUFReader) -> None:
    """Refuse what is no language model, before transformers fails at it with a message that says less."""

    def field(key: str) -> Any:
        found = reader.get_field(key)
        return None if found is None else found.contents()

    architecture, kind, parts = field("general.architecture"), field("general.type"), field("split.count")
    if parts is not None and int(parts) > 1:
        raise ModelError(f"cannot load {str(file)!r}: it is one of {int(parts)} parts; {_JOIN}")
    if kind not in (None, "model") or architecture in (None, "clip", "imatrix"):
        raise ModelError(
            f"cannot load {str(file)!r}: it holds no language model, but {quoted(kind or architecture)}, such as the "
            "image encoder of one (mmproj) or an adapter; name the file of the language model"
        )
    if "tokenizer.ggml.model" not in reader.fields or "tokenizer.ggml.tokens" not in reader.fields:
        raise ModelError(
            f"cannot load {str(file)!r}: there is no tokenizer in it; convert the model with its tokenizer"
        )


@contextlib.contextmanager
def _read_as(reader: gguf.GGUFReader) -> Iterator[None]:
    """Within the block whoever opens a GGUF file gets this reader."""
    import gguf

    with _REPLACING:
        replaced: list[tuple[Any, str, Any]] = [
            (gguf, "GGUFReader", lambda *args, **kwargs: reader),
            (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        ]
        with contextlib.suppress(ImportError):  # transformers' switch for progress bars does not reach this one
            loader = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
            replaced.append((loader, "tqdm", functools.partial(loader.tqdm, disable=True)))
        own = [(module, name, getattr(module, name)) for module, name, _ in replaced]
        try:
            for module, name, stand_in in replaced:
                setattr(module, name, stand_in)
            yield
        finally:
            for module, name, function in own:
                setattr(module, name, function)


def _layer(tensor: str) -> int:
    """The layer of a tensor, -1 for what is of no layer."""
    found = _LAYER.match(tensor)
    return int(found[1]) if found else -1
