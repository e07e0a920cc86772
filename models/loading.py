"""Load block readers and bi-encoders by name."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ModelError

if TYPE_CHECKING:
    from .network_reader import NetworkReader
    from .sentence_transformer import SentenceTransformerEncoder

__all__ = ["absolute_name", "load_reader", "load_text_model"]

_PLAIN = ("minilm", "none")  # not folders, even where there is one of that name

_OPTIONS = {
    "minilm": ("max_length", "device", "dtype", "backend"),
    "late-interaction": ("max_length", "device", "dtype", "backend", "revision"),
    "encoder": ("max_length", "device", "dtype", "backend", "revision", "truncate_dim", "token_budget"),
}


def load_reader(name: str = "minilm", **options: Any) -> NetworkReader:
    """Load a block reader by name.

    If you ask for the same reader again, you get the same object, so that one forward pass of a query serves the
    bi-encoder and the reranker.

    Args:
        name: ``minilm``, the embedded default; ``late-interaction:MODEL``, a model of PyLate, ColBERT or
            sentence-transformers' MultiVectorEncoder; ``encoder:MODEL``, or MODEL alone, a bi-encoder of
            sentence-transformers. MODEL is a folder or a name on the hub.
        options: ``max_length``, ``device``, ``dtype`` and ``backend``, which is ``torch``, ``onnx`` or ``openvino``
            (these two need the extras of the same names, and compute on a CPU in float32). ``late-interaction:`` and
            ``encoder:`` also take ``revision``, and the latter ``truncate_dim`` and ``token_budget``. None stands for
            the default.

    Raises:
        InputError: if the name contains no model, the reader does not have an option, or there is no such backend.
        MissingExtraError: if the backend is not installed.
        BackendError: if the backend gives other states than torch. They are compared when the model is loaded.
        ModelError: if there is no such model, its weights cannot be loaded, or it has no token states.

    Example:
        >>> load_reader().name
        'minilm'
    """
    from .network_reader import NetworkReader

    loaded = load_text_model(name, **options)
    if not isinstance(loaded, NetworkReader):
        raise ModelError(f"{name!r} has embeddings, and no token states: {loaded.reason}")
    return loaded


def load_text_model(name: str, **options: Any) -> NetworkReader | SentenceTransformerEncoder:
    """Load what `load_reader` loads, or a bi-encoder without token states. See `load_reader` for the arguments.

    Raises:
        InputError: see `load_reader`.
        ModelError: see `load_reader`.
    """
    kind, colon, model = name.partition(":")
    if name == "minilm":
        kind = model = name
    elif not colon or kind not in _OPTIONS:
        kind, model = "encoder", name
    if not model or (kind == "minilm" and colon):
        raise InputError(f"{name!r} names no model; add its name on the hub or its folder: {kind}:PATH")
    if unknown := sorted(set(options) - set(_OPTIONS[kind])):
        raise InputError(f"the reader {name!r} has no option {unknown[0]!r}; it has {', '.join(_OPTIONS[kind])}")
    given = {option: value for option, value in options.items() if value is not None}
    if given.get("backend") == "torch":
        del given["backend"]
    if kind == "minilm":
        from .minilm import load_minilm

        return load_minilm(**given)
    if os.path.isdir(model):  # noqa: PTH112 - Path.is_dir raises at long names
        model = os.path.realpath(model)  # another working directory means another model
    return _load(kind, model, tuple(sorted(given.items())))


def absolute_name(name: str) -> str:
    """Make the path in the name of a reader or encoder absolute.

    Example:
        >>> absolute_name("minilm"), absolute_name("late-interaction:/models/./mine")
        ('minilm', 'late-interaction:/models/./mine')
    """
    kind, colon, _ = name.partition(":")
    prefix = kind + colon if colon and kind in _OPTIONS else ""
    path = name.removeprefix(prefix)
    return prefix + os.path.realpath(path) if prefix + path not in _PLAIN and os.path.exists(path) else name  # noqa: PTH110


@functools.lru_cache(maxsize=4)
def _load(kind: str, model: str, given: tuple[tuple[str, Any], ...]) -> NetworkReader | SentenceTransformerEncoder:
    from .sentence_transformer import LateInteractionReader, load_sentence_transformer

    make = LateInteractionReader if kind == "late-interaction" else load_sentence_transformer
    return make(model, **dict(given))
