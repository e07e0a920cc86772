"""Rerankers by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ModelError, UnknownNameError
from ..names import SHIPPED, looks_local
from ..wording import did_you_mean, quoted
from .base import Reranker

if TYPE_CHECKING:
    from .layout import Layout

__all__ = ["as_reranker", "load_reranker"]


def as_reranker(reranker: str | os.PathLike[str] | Reranker) -> Reranker:
    """A reranker itself, or the one that `load_reranker` loads by this name.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(reranker, str | os.PathLike):
        return load_reranker(reranker)
    if not callable(getattr(reranker, "rank", None)):
        raise InputError(f"reranker must be a name for load_reranker, or a reranker, not {quoted(reranker)}")
    return reranker


def load_reranker(
    name: str | os.PathLike[str] = "minilm", /, *, layout: Layout | str | None = None, **options: Any
) -> Reranker:
    """Load a reranker.

    Args:
        name: a text, or a path: a layout of the embedded default, ``minilm`` (the default), ``minilm-mass`` or
            ``minilm-maxsim``, or the path of its YAML file; ``sightline-mini``, whose readout is trained; a folder that
            ``sightline train`` wrote; or a decoder model, ``hf:`` and its name on the hub or its folder.
            ``hf:MODEL#LAYOUT`` also names the layout. If you give ``layout``, you may leave the ``hf:`` out.
        layout: for decoder models: ``icr`` (the default, training-free), ``icr-block``, ``blockrank``,
            ``blockrank-cached``, ``qrhead``, ``core``, the path of a YAML file, or a `Layout`.
        options: ``dtype`` and ``device``, see `LateInteractionReranker`; for decoder models those of `DecoderReranker`.
            All others replace fields of the layout, such as ``scale=10.0``.

    Raises:
        UnknownNameError: if there is no such reranker.
        InputError: if there is no such layout, the layout is for another kind of model, or an option is not one.
        ModelError: if the model cannot be loaded, or the layout does not fit it.

    Example:
        >>> load_reranker("hf:Qwen/Qwen3-0.6B", layout="icr", dtype="bfloat16")  # doctest: +SKIP
    """
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        raise InputError(f"a reranker is loaded by its name, not by {type(name).__name__}")
    from .late_interaction import LateInteractionReranker
    from .layout import check_model, load_layout, shipped_layouts

    if name.startswith("hf:"):
        return _load_decoder(name.removeprefix("hf:"), layout, options)
    if name in shipped_layouts() or name.endswith((".yaml", ".yml")):
        if layout is not None:
            check_model(load_layout(layout), "minilm")
            raise InputError(f"{name!r} is a layout itself; leave layout={layout!r} out")
        loading = {key: options.pop(key) for key in ("dtype", "device") if key in options}
        found = load_layout(name, **options)
        check_model(found, "minilm", name)
        return LateInteractionReranker(found, **loading)
    folder = SHIPPED.get(name, Path(name))
    is_folder = bool(name) and os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir raises at long names
    if is_folder and _kind(folder) == "minilm":
        if layout is not None:
            raise InputError(f"{name!r} brings its own layout; leave layout={layout!r} out")
        return LateInteractionReranker.load(folder, **options)
    if is_folder or (name and layout is not None):
        return _load_decoder(name, layout, options)
    raise UnknownNameError(_unknown(name))


def _load_decoder(model: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    import inspect

    from .decoder.reranker import DecoderReranker, saved_layout
    from .layout import load_layout

    own = set(inspect.signature(DecoderReranker).parameters) - {"model", "layout", "loading"}
    own |= {"revision", "dtype", "device", "device_map", "quantization_config"}
    changes = {key: options.pop(key) for key in list(options) if key not in own}
    model, _, named = model.partition("#")
    if not model:
        raise InputError("hf: names no model; add its name on the hub or its folder, as in hf:Qwen/Qwen3-0.6B")
    return DecoderReranker(model, load_layout(layout or named or saved_layout(model), **changes), **options)


def _kind(folder: Path) -> str:
    """The kind of reranker that is in a folder: ``minilm`` or ``decoder``."""
    from .layout import load_layout

    if (folder / "layout.yaml").is_file():
        return load_layout(folder / "layout.yaml").model
    if (folder / "config.json").is_file():
        return "decoder"
    raise ModelError(
        f"{folder}: this folder holds no reranker: there is no layout.yaml, which sightline train writes, and no "
        "config.json of a decoder model"
    )


def _unknown(name: str) -> str:
    """Why no reranker is called so, and what to write instead."""
    from .layout import shipped_layouts

    layouts = shipped_layouts()
    kind, _, rest = name.partition(":")
    model = name.partition("#")[0]
    if kind in ("cross-encoder", "late-interaction") and rest:
        return f"{name!r} can only be measured, by sightline eval; it is not a reranker that can be loaded to rank with"
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises at long names
        return f"{name!r} is a file; give the folder that it is in, or a layout's file that ends in .yaml"
    if looks_local(model):
        return f"{name!r}: no such folder"
    if "/" in model:
        return f"{name!r}: no such folder; if you mean a decoder model of the hub, write 'hf:{name}'"
    if model in layouts:
        return f"{name!r}: {model!r} is a layout itself, and takes none; for a decoder model write hf:MODEL#LAYOUT"
    ours = [*(one for one, model in layouts.items() if model == "minilm"), *SHIPPED]
    decoders = ", ".join(one for one, model in layouts.items() if model == "decoder")
    near = did_you_mean(name, [*ours, *layouts]).removesuffix("?")
    return (
        f"no reranker {quoted(name)}{near}; there are {', '.join(ours)}; a folder "
        f"that sightline train wrote; a .yaml file with a layout; and hf:MODEL or hf:MODEL#LAYOUT for decoder models, "
        f"where LAYOUT is a .yaml file or one of {decoders}"
    )
