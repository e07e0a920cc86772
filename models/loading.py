"""Block readers by name, and what loading a model of transformers has in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .reader import TrainableReader

__all__ = ["load_reader", "without_notices"]


def load_reader(name: str = "minilm", *, shared: bool = True, **options: Any) -> TrainableReader:
    """Load a block reader by name.

    Args:
        name: ``minilm``, the embedded default.
        shared: return one object to all who ask for the same, so that one forward pass of a query serves the
            bi-encoder and the reranker. False makes an object of your own, to train, or with trained weights.
        options: those of `sightline.models.minilm.load_minilm`; if not shared, of `sightline.models.minilm.MiniLM`.

    Raises:
        InputError: if there is no such reader, or it has no such option.
        ModelError: if its weights cannot be loaded.
    """
    from .minilm import MiniLM, load_minilm

    if name != "minilm":
        raise InputError(f"no block reader {name!r}; there is 'minilm'")
    return load_minilm(**options) if shared else MiniLM(**options)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Within the block transformers shows no progress, and warns of no weights that are left out on purpose."""
    from transformers.utils import logging as notices

    level, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    try:
        yield
    finally:
        notices.set_verbosity(level)
        if bars:
            notices.enable_progress_bar()
