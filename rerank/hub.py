"""Trained rerankers on the Hugging Face hub: what `sightline train` wrote is uploaded and loaded as one folder.

Both use the hub's own cache, login (``HF_TOKEN`` or ``hf auth login``) and switches. With ``HF_HUB_OFFLINE=1``, or
without a network, what was downloaded before is loaded from the cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError
from ..wording import quoted

__all__ = ["download", "push_to_hub"]

_LAYOUT = "layout.yaml"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def push_to_hub(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    message: str | None = None,
) -> str:
    """Upload the folder of a trained reranker; ``load_reranker("hf:REPOSITORY")`` loads it again.

    Args:
        folder: the folder that ``sightline train`` or `LateInteractionReranker.save_pretrained` wrote.
        repository: the repository, as OWNER/NAME. It is made if it does not exist.
        revision: the branch, which is made if it does not exist. If None, the main branch.
        private: whether a repository that is made here is private. If None, the owner's default.
        message: the message of the commit. If None, one that names the layout.

    Returns:
        The address of the commit.

    Raises:
        InputError: if the folder holds no layout, or ``repository`` is not OWNER/NAME.
        ModelError: if the hub refuses or cannot be reached.

    Example:
        >>> push_to_hub("trained/mine", "me/my-reranker", private=True)  # doctest: +SKIP
        'https://huggingface.co/me/my-reranker/commit/...'
    """
    from huggingface_hub import HfApi

    from .layout import load_layout

    folder = Path(folder)
    if not (folder / _LAYOUT).is_file():
        raise InputError(f"{folder}: there is no {_LAYOUT}, which sightline train writes; name the folder that has one")
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"a repository on the hub is written OWNER/NAME, not {quoted(repository)}")
    message = message or f"Sightline reranker, layout {load_layout(folder / _LAYOUT).name}"
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        # A run's own state lets it go on, and is several times as large as what it learnt.
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            ignore_patterns=["*.pt", ".*", "*.log"],
        )
    except _errors() as error:
        raise ModelError(f"cannot write {repository!r} on the hub: {_reason(error)}") from error
    return str(commit.commit_url)


def download(repository: str, revision: str | None = None) -> Path | None:
    """Download a repository that `push_to_hub` wrote, and return its folder; None if there is no such repository.

    Args:
        repository: the repository, as OWNER/NAME.
        revision: the branch, tag or commit to load. If None, the newest.

    Raises:
        ModelError: if the repository has a layout, but the rest of it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    if not _REPOSITORY.fullmatch(repository):
        return None
    layout, model = (
        isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
        for file in (_LAYOUT, "config.json")
    )
    if model and not layout:
        return None  # a model that was loaded before, and had none; the hub need not be asked
    try:
        hf_hub_download(repository, _LAYOUT, revision=revision)
    except _errors():  # whoever loads the model says what is wrong with it
        return None
    try:
        return Path(snapshot_download(repository, revision=revision))
    except _errors() as error:
        raise ModelError(f"cannot load {repository!r} from the hub: {_reason(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    import httpx  # what huggingface_hub asks by; a lost connection comes through as its error
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return OSError, ValueError, HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError


def _reason(error: Any) -> str:
    return " ".join(str(error).split())[:500]
