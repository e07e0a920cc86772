"""Loads decoder models: from the hub, a folder, a GGUF file, or an adapter, with transformers' own code alone."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, MissingExtraError, ModelError, SightlineError
from ..names import SHIPPED, folder_of, layout_names, looks_local
from ..wording import quoted
from .adapter import base_of, merge_adapter
from .decoder import ATTENTION, Decoder, register_attention, shorten
from .devices import choose_device, native_dtype
from .gguf import find_gguf, gguf_config, gguf_options, read_once
from .linears import pack_linears
from .notices import without_notices
from .trained import commit_of, hash_of_files

__all__ = ["load_config", "load_decoder", "load_tensors", "load_weights", "revision_of"]


def load_config(name: str, revision: str | None = None) -> Any:
    """Load the configuration of a model, or of its text part if it has several parts.

    Args:
        name: the name of the model, as `load_decoder` takes it.
        revision: the branch, tag or commit of a model on the hub.

    Raises:
        ModelError: if there is no configuration, or the model needs other code than transformers' own.
        MissingExtraError: if the configuration is in a GGUF file, and gguf or accelerate is not installed.
    """
    from transformers import AutoConfig

    if (base := base_of(name)) is not None:
        return load_config(base, revision)
    if name in SHIPPED or name in layout_names():
        raise ModelError(f"{name!r} is a reranker that ships with Sightline, not a decoder model; name one on the hub")
    if (file := find_gguf(name, revision)) is not None:
        return _loading(name, lambda: gguf_config(file)).get_text_config()
    if looks_local(name) and not os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises at long names
        reason = "it is not a folder" if os.path.exists(name) else "no such folder"  # noqa: PTH110
        raise ModelError(f"cannot load {quoted(name)}: {reason}")
    return _loading(name, lambda: AutoConfig.from_pretrained(name, revision=revision)).get_text_config()


def load_decoder(
    name: str,
    *,
    signal_layer: int | None = None,
    outputs: Sequence[str] | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization_config: Any = None,
    compile: bool = False,
) -> Decoder:
    """Load a decoder: up to its signal layer without its head, or whole with a few rows of its head.

    Code that comes with a model is never run (``trust_remote_code`` stays off).

    Args:
        name: a name on the hub, a folder, or a GGUF file as `find_gguf` takes it, such as ``smollm2``. The weights of a
            GGUF file are dequantized. A folder may also hold a LoRA adapter, which is merged into its base model.
        signal_layer: the last layer to load. If None, all layers.
        outputs: the tokens whose logits are wanted; an empty list for hidden states alone. With either, all layers run.
        revision: the branch, tag or commit to load. If None, the newest.
        dtype: the number format to compute in, such as ``bfloat16``. If None, bfloat16; on CPUs float32, unless the
            weights are bfloat16 or quantized and the processor multiplies bfloat16 itself (`native_dtype`).
        device: the torch device to compute on. If None, a GPU if torch sees one, else the CPU.
        device_map: the devices for the parts of the model, as transformers takes them (needs accelerate), in the place
            of ``device``.
        quantization_config: a quantization as transformers takes it, such as a ``BitsAndBytesConfig`` or
            ``TorchAoConfig``.
        compile: whether `torch.compile` fuses the operations of a layer, for GPUs; see `Decoder.compile`.

    Raises:
        ModelError: if the model cannot be loaded or is not a decoder that Sightline can run, or an output is not one of
            its tokens.
        MissingExtraError: if you give ``device_map`` and accelerate is not installed, or a GGUF file and gguf is not
            installed.
        InputError: if ``dtype`` is not the name of a floating-point type, or you ask to quantize a GGUF file.
    """
    layer_count = None if signal_layer is None else signal_layer + 1
    if dtype is None and device_map is None and choose_device(device).type == "cpu" and _coarse(name, revision):
        dtype = native_dtype("cpu")
    options = {"device": device, "device_map": device_map, "quantization_config": quantization_config}
    model, tokenizer = load_weights(
        name, layers=layer_count, head=bool(outputs), revision=revision, dtype=dtype, **options
    )
    if device_map is None and quantization_config is None and not compile:
        pack_linears(model.base_model)
    decoder = Decoder(model, tokenizer, name, revision_of(name, model.config, revision), outputs)
    if compile:
        decoder.compile()
    return decoder


def _coarse(name: str, revision: str | None) -> bool:
    """Whether a model's weights are no finer than bfloat16."""
    name = base_of(name) or name
    return find_gguf(name, revision) is not None or load_config(name, revision).dtype == torch.bfloat16


def load_weights(
    name: str,
    *,
    layers: int | None = None,
    head: bool = False,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization_config: Any = None,
) -> tuple[Any, Any]:
    """Load a transformers model that uses Sightline's attention, and its tokenizer.

    Args:
        name: the name of the model, as `load_decoder` takes it.
        layers: the number of layers to load, from the first. If None, all of them.
        head: whether to load the head that predicts tokens, too.
        revision: the branch, tag or commit to load. If None, the newest.
        dtype: the number format to compute in. If None, float32 on CPUs and bfloat16 elsewhere.
        device: the torch device to compute on.
        device_map: the devices for the parts of the model; see `load_decoder`.
        quantization_config: a quantization as transformers takes it; see `load_decoder`.

    Returns:
        The model, with or without its head, and the tokenizer.

    Raises:
        ModelError: if the model cannot be loaded, lacks weights, or has fewer layers.
        SightlineError: see `load_decoder`.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    if (base := base_of(name)) is not None:
        if quantization_config is not None:
            raise InputError(f"{name!r} is an adapter, which is merged; leave quantization_config out")
        options: dict[str, Any] = {"revision": revision, "dtype": dtype, "device": device, "device_map": device_map}
        model, tokenizer = load_weights(base, layers=layers, head=head, **options)
        merge_adapter(model, name)
        return model, tokenizer
    register_attention()
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("accelerate", "decoders")
    device = choose_device(device)
    dtype = _dtype_named(dtype) if isinstance(dtype, str) else dtype
    on_cpu = device.type == "cpu" if device_map is None else not torch.cuda.is_available()
    file = find_gguf(name, revision)
    if file is not None and quantization_config is not None:
        raise InputError(f"{name!r} is a GGUF file: its weights are dequantized, so leave quantization_config out")
    config = load_config(name, revision)
    layer_count = config.num_hidden_layers
    layers = layer_count if layers is None else layers
    if not 1 <= layers <= layer_count:
        raise ModelError(f"{name!r} has layers 0 to {layer_count - 1}, so none with the number {layers - 1}")
    shorten(config, layers)
    source, where = (name, {"revision": revision}) if file is None else gguf_options(file)
    options = {"config": config, "attn_implementation": ATTENTION, "output_loading_info": True, **where}
    options["dtype"] = dtype or (torch.float32 if on_cpu else torch.bfloat16)
    if device_map is not None:
        options["device_map"] = device_map
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    kind = AutoModelForCausalLM if head else AutoModel
    with contextlib.nullcontext() if file is None else read_once(file, layers):
        model, report = _loading(name, lambda: kind.from_pretrained(source, **options))
    if missing := sorted(report["missing_keys"]):  # transformers would make them up
        raise ModelError(f"cannot load {name!r}: {len(missing)} of its weights are missing, such as {missing[0]!r}")
    # AutoTokenizer would parse a GGUF file again, for a class that has no part in it: the file says how to tokenize.
    reader = AutoTokenizer if file is None else PreTrainedTokenizerFast
    tokenizer = _loading(name, lambda: reader.from_pretrained(source, **where))
    # What was dequantized is not saved by transformers as long as it names a quantizer.
    for owner, attribute in () if file is None else ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    if device_map is None and quantization_config is None:
        model = model.to(device)
    return model, tokenizer


def load_tensors(name: str, tensors: Sequence[str], revision: str | None = None) -> list[torch.Tensor]:
    """Load weights of a model by their names in its safetensors files, such as those of a head that transformers lacks.

    Args:
        name: the folder of the model, or its name on the hub. For an adapter's folder, the base model's weights are
            loaded.
        tensors: the names of the weights.
        revision: the branch, tag or commit to load. If None, the newest. A folder has none.

    Raises:
        ModelError: if the model has no safetensors files or no such weight.
    """
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    name = base_of(name) or name
    revision = None if Path(name).is_dir() else revision

    def find(file: str) -> str | None:
        try:
            return cached_file(name, file, revision=revision)
        except OSError:
            return None

    index = find("model.safetensors.index.json")
    files: dict[str, str] = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"] if index else {}
    out = []
    for tensor in tensors:
        path = find(files.get(tensor, "model.safetensors"))
        if path is None:
            raise ModelError(f"cannot load {tensor!r} of {name!r}: it has no model.safetensors")
        with safe_open(path, "pt") as weights:
            if tensor not in weights.keys():  # noqa: SIM118 - no mapping
                raise ModelError(f"{name!r} has no weight {tensor!r}; the layout is for another model")
            out.append(weights.get_tensor(tensor))
    return out


def _dtype_named(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"{name!r} is not a dtype to compute with; take float32, bfloat16 or float16")
    return dtype


def revision_of(name: str, config: Any, asked: str | None = None) -> str:
    """Return the revision of a model's weights: the hub's commit, or for files a hash of both ends of each.

    Args:
        name: the name of the model, as `load_decoder` takes it.
        config: the model's configuration, as `load_config` returns it.
        asked: the revision that was asked for, which is returned if the hub tells no commit.

    Returns:
        A commit, 16 hexadecimal digits of a hash, or "".
    """
    if (file := find_gguf(name, asked)) is not None:
        paths = [file]
    elif os.path.isdir(folder := folder_of(name)):  # noqa: PTH112 - Path.is_dir raises at long names
        paths = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    else:
        return commit_of(config) or asked or ""
    base = base_of(name)
    return hash_of_files(paths, "" if base is None else revision_of(base, config, asked))


def _loading(name: str, load: Callable[[], Any]) -> Any:
    try:
        with without_notices():  # the layers above the signal layer are left out
            return load()
    except SightlineError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"cannot load {name!r}: its weights are a pickle that torch refuses, because it could run code or is "
            "damaged; get or convert them as model.safetensors"
        ) from error
    except Exception as error:  # the hub's, the files', torch's: each has its own, such as one for pickles
        message = " ".join(str(error).split())
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ModelError(f"cannot load {name!r}: {kind}{message[:500]}") from error
