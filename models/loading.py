"""Block readers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .reader import TrainableReader

__all__ = ["load_reader"]


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
