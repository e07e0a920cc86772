"""Load models of sentence-transformers, and refuse those with damaged files or weights left to chance."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import ModelError, SightlineError
from ..names import looks_local
from ..wording import quoted
from .devices import choose_device
from .notices import without_notices

__all__ = ["commit_of", "hash_of_files", "load_trained", "saved_revision"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")
_SAVED = {".safetensors", ".bin", ".json", ".txt", ".model", ".metadata"}
_ENDS = 1 << 20  # bytes hashed at either end of a file


def load_trained(
    kind: type,
    name: str,
    probe: Callable[[Any], Any],
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: Any = None,
    **options: Any,
) -> Any:
    """Load a model of sentence-transformers whose files hold all of its weights that matter.

    Weights that are missing would be drawn at random, with a line in the log, and results of such a model would mean
    nothing. The function notices, since two loadings then give different results.

    Args:
        kind: a class of sentence-transformers.
        name: the folder of the model, or its name on the hub.
        probe: a function that returns what the model makes of some text, as a tensor.
        revision: the branch, tag or commit to load. If None, the newest.
        dtype: the number format to compute in, such as ``bfloat16``. If None, that of the checkpoint.
        device: the torch device to compute on. If None, CUDA if there is one, else the CPU.
        options: further arguments for the class.

    Raises:
        ModelError: if a file is missing or damaged, weights are missing, or modules do not fit together. The message
            names them.
    """
    import torch

    _check_files(kind, name)
    options |= {"device": str(choose_device(device)), "revision": revision}
    if dtype is not None:
        options["model_kwargs"] = {"dtype": getattr(torch, dtype, dtype)}
    loaded: list[tuple[dict[str, tuple[float, float]], Any]] = []
    model = None
    with torch.random.fork_rng():
        for seed in (0, 1):
            model = None  # so that memory holds one of them
            torch.manual_seed(seed)
            try:
                with without_notices():
                    model = kind(name, **options).eval()
            except pickle.UnpicklingError as error:
                raise ModelError(
                    f"the weights of {name!r} are a pickle that torch refuses, because it could run code or is "
                    "damaged; get or convert them as model.safetensors"
                ) from error
            except Exception as error:  # the hub's, the files', the model's: each has its own
                reason = " ".join(str(error).split())[:500]
                raise ModelError(
                    f"the weights of {name!r} cannot be loaded as {kind.__name__} ({type(error).__name__}: {reason}); "
                    "give the path of a folder that has them, or a name on a hub that can be reached"
                ) from error
            _check_vocabulary(model, name)
            try:
                with torch.inference_mode():
                    result = probe(model)
            except SightlineError:
                raise
            except (RuntimeError, ValueError, KeyError, IndexError) as error:
                raise ModelError(
                    f"the modules of {name!r} do not fit together ({' '.join(str(error).split())[:300]}); "
                    f"{', '.join(_shapes(model))}: copy the model's folder again, or correct its config.json files"
                ) from error
            loaded.append((_sums(model), result))
    (sums, result), (again_sums, again) = loaded
    if not (torch.isfinite(result).all() and torch.isfinite(again).all()):
        wrong = [weight for weight, values in sums.items() if not all(map(math.isfinite, values))]
        raise ModelError(
            f"{name!r} gives numbers that are not finite"
            + (f", since {', '.join(wrong)} of its weights has such; copy its files again" if wrong else "")
        )
    if not torch.equal(result, again):
        fresh = [weight for weight, value in sums.items() if value != again_sums[weight]]
        raise ModelError(
            f"{name!r} is not a trained {kind.__name__}: {', '.join(fresh)} is not among its weights and would be "
            "random"
        )
    return model


def commit_of(loaded: Any) -> str | None:
    """Return the hub's commit that a model or a configuration was loaded from; None if it came from a folder.

    Args:
        loaded: a configuration of transformers, or a model that has one or whose modules have.
    """
    modules = loaded.modules() if hasattr(loaded, "modules") else ()
    for config in (loaded, *(getattr(module, "config", None) for module in modules)):
        if (commit := getattr(config, "_commit_hash", None)) is not None:
            return str(commit)
    return None


def saved_revision(name: str, loaded: Any, asked: str | None) -> str:
    """Return the revision of a saved model: a hash of the files of a folder, or the hub's commit.

    Args:
        name: the folder of the model, or its name on the hub.
        loaded: the model, as it was loaded.
        asked: the revision that was asked for, which is returned if the hub told no commit.
    """
    if os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises at long names
        folder = Path(name)
        return hash_of_files(path for path in folder.rglob("*") if path.suffix in _SAVED and path.is_file())
    return commit_of(loaded) or asked or ""


def hash_of_files(paths: Iterable[Path], start: str = "") -> str:
    """Hash the names, sizes and both ends of files, as 16 hexadecimal digits.

    Args:
        paths: the files, hashed in the order of their paths.
        start: a text that is hashed before them.
    """
    hasher = hashlib.sha256(start.encode())
    for path in sorted(paths):
        size = path.stat().st_size
        hasher.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as opened:
            hasher.update(opened.read(_ENDS))
            opened.seek(max(0, size - _ENDS))
            hasher.update(opened.read())
    return hasher.hexdigest()[:16]


def _sums(model: Any) -> dict[str, tuple[float, float]]:
    """By name of a weight, two numbers that tell it from a random one."""
    return {
        name: (float(weight.double().sum()), float(weight.double().abs().sum()))
        for name, weight in model.state_dict().items()
    }


def _check_vocabulary(model: Any, name: str) -> None:
    """Refuse a tokenizer whose ids are beyond the model's embeddings: the tokenizer of another model."""
    network = next((part.auto_model for part in model if hasattr(part, "auto_model")), None)
    rows = getattr(network.get_input_embeddings(), "num_embeddings", None) if network is not None else None
    ids = getattr(model.tokenizer, "vocab_size", 0)
    if rows is not None and ids > rows:
        raise ModelError(
            f"{name!r} has a tokenizer of {ids:,} tokens and embeddings of {rows:,}: they are of different models; "
            "copy its files again"
        )


def _shapes(model: Any) -> list[str]:
    """What each module of a model takes and gives, where it says so."""
    return [
        f"module {place} ({type(module).__name__}) takes {module.in_features} numbers and gives {module.out_features}"
        if hasattr(module, "in_features")
        else f"module {place} is a {type(module).__name__}"
        for place, module in model.named_children()
    ]


def _check_files(kind: type, name: str) -> None:
    """Refuse a folder in which a file is missing or damaged, naming it; names on the hub pass."""
    folder = Path(name)
    if not os.path.isdir(name):  # noqa: PTH112 - Path.is_dir raises at long names
        if looks_local(name):
            raise ModelError(
                f"the weights of {name!r} cannot be loaded as {kind.__name__}: no such folder; give the path of a "
                "folder that has them, or a name on the hub"
            )
        return
    modules = folder / "modules.json"
    files = sorted([*folder.glob("*"), *folder.glob("*/*")])  # not deeper: the name may be that of a whole disk
    if not modules.is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"the weights of {name!r} cannot be loaded as {kind.__name__}: no modules.json or config.json there; give "
            "the folder of a model, or a name on the hub"
        )
    if not any(path.name in _TOKENIZERS or path.suffix == ".model" for path in files):
        # transformers would make one up, which knows no word
        raise ModelError(
            f"{folder}: no tokenizer there, {', '.join(_TOKENIZERS)} or *.model; copy the model's folder again"
        )
    for path in files:
        if path.suffix == ".json":
            _json(path)
    if not modules.is_file():
        return
    listed = _json(modules)
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and {"path", "type"} <= set(one) for one in listed
    ):
        raise ModelError(
            f"{modules}: not a list of modules, each with a path and a type; copy the model's folder again"
        )
    for module in listed:
        if not str(module["type"]).endswith(".Dense"):
            continue
        part = folder / str(module["path"])
        if not (part / "config.json").is_file():
            raise ModelError(
                f"{modules}: names the projection {module['path']!r}, but {part / 'config.json'} is missing"
            )
        activation = (_json(part / "config.json") or {}).get("activation_function", "torch.")
        if not str(activation).startswith("torch."):  # sentence-transformers would take another in its place
            raise ModelError(
                f"{part / 'config.json'}: the activation_function {quoted(activation)} is not one of torch's, "
                "and code that comes with a model is never run; choose a model without it"
            )
        weights = next((part / file for file in _WEIGHTS if (part / file).is_file()), None)
        if weights is None:
            raise ModelError(
                f"{part}: the projection's weights are missing, {' or '.join(_WEIGHTS)}; copy the model's folder again"
            )
        if weights.suffix == ".safetensors":
            _check_projection(part / "config.json", weights)


def _check_projection(config: Path, weights: Path) -> None:
    """Refuse a projection whose weight has another shape than its configuration says."""
    from safetensors import SafetensorError, safe_open

    said = _json(config)
    try:
        with safe_open(weights, "pt") as opened:
            shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: cannot be read as weights ({error}); copy the model's folder again") from error
    expected = [said.get("out_features"), said.get("in_features")] if isinstance(said, dict) else None
    if shapes.get("linear.weight") != expected:
        raise ModelError(
            f"{weights}: the projection 'linear.weight' has the shape {shapes.get('linear.weight')}, but {config} says "
            f"{expected} (out_features, in_features); copy the model's folder again"
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not valid JSON ({quoted(str(error))}); copy the model's folder again") from error
