"""Low-rank adapters in a folder of their own, as peft writes them: found, and merged into the base model's weights.

A LoRA adapter (Hu et al., 2021) changes a linear map's weight W to ``W + (alpha / r) * B @ A``. Merged, it costs
nothing when the model runs, and peft need not be installed.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, ModelError
from ..names import folder_of
from ..parsing import load_json

__all__ = ["base_of", "merge_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# What changes the weights in another way than W + (alpha / r) B A, by its name in the configuration.
_OTHER_KINDS = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save")


def base_of(name: str) -> str | None:
    """Return the model that an adapter's folder is for; None if the name is not that of such a folder.

    Args:
        name: the name of a decoder, as `load_decoder` takes it.

    Raises:
        ModelError: if the adapter's configuration cannot be read or names no base model.
    """
    path = folder_of(name) / CONFIG
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises at long names
        return None
    base = _config(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{path}: names no base model; base_model_name_or_path must be the name of one")
    return base.removeprefix("hf:")


def merge_adapter(model: Any, name: str) -> None:
    """Add a LoRA adapter to the weights of its base model, in place.

    Args:
        model: the base model, with or without its head. If it has fewer layers than the adapter, the others are left
            out.
        name: the folder of the adapter, or the name of one that ships with Sightline.

    Raises:
        ModelError: if this is not a LoRA adapter that can be merged, does not fit the model, or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = folder_of(name)
    config, weights = _config(folder / CONFIG), folder / WEIGHTS
    if config.get("peft_type") != "LORA" or any(config.get(kind) for kind in _OTHER_KINDS):
        kinds = [kind for kind in _OTHER_KINDS if config.get(kind)] or [str(config.get("peft_type"))]
        raise ModelError(
            f"{folder}: only a plain LoRA adapter can be merged, and this is not one ({kinds[0]}); merge it by peft "
            "into a model of its own, and name that"
        )
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: cannot be read: {error}") from error
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if (found := _KEY.fullmatch(key)) is None:
            raise ModelError(f"{weights}: {key!r} is not a weight of a LoRA adapter")
        factors.setdefault(found["module"], {})[found["factor"]] = tensor
    modules = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    layers, prefix = int(model.config.num_hidden_layers), f"{model.base_model_prefix}."
    for name, pair in factors.items():
        layer = _LAYER.search(name)
        if layer is not None and int(layer[1]) >= layers:  # above the signal layer nothing is loaded
            continue
        # Adapters are named as in the whole model; the model may be loaded without its head.
        module = modules.get(name) or modules.get(name.removeprefix(prefix))
        if module is None or pair.keys() != {"A", "B"}:
            raise ModelError(
                f"{weights}: does not fit the base model: {name!r} is not a linear map of it, or lacks a factor"
            )
        rank = len(pair["A"])
        scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
        delta = scale * (pair["B"].double() @ pair["A"].double())
        if delta.shape != module.weight.shape:
            raise ModelError(
                f"{weights}: does not fit the base model: {name!r} is {tuple(delta.shape)}, the model's "
                f"{tuple(module.weight.shape)}"
            )
        weight = module.weight
        if weight.is_meta:
            raise ModelError(f"{folder}: no adapter can be merged into weights that device_map put on the disk")
        with torch.no_grad():
            weight.copy_(weight.double() + delta.to(weight.device))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = load_json(path)
    except DataError as error:
        raise ModelError(str(error)) from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: holds no configuration of an adapter")
    return config
