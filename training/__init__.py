"""Learning to attend: lists to learn from, the loss on attention mass, and the loop that minimises it."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from .learner import Learner

__all__ = ["load_learner"]


def load_learner(name: str = "minilm", /, **options: Any) -> Learner:
    """What to train.

    Args:
        name: ``minilm``, the embedded default, or ``hf:`` and the name or folder of a decoder model.
        options: those of `sightline.training.minilm.MiniLMLearner` or `sightline.training.decoder.DecoderLearner`.

    Raises:
        InputError: if there is no such learner, or an option is not one of its.
        ModelError: if the model cannot be loaded.
        MissingExtraError: if LoRA is asked for and peft is not installed.

    Example:
        >>> load_learner("hf:Qwen/Qwen3-0.6B", layout="blockrank", lora=16)  # doctest: +SKIP
    """
    if name == "hf:":
        raise InputError("hf: names no model; add a name or a folder, as in hf:Qwen/Qwen3-0.6B")
    given: tuple[str, ...] = ()
    if name == "minilm":
        made = importlib.import_module(".minilm", __package__).MiniLMLearner
    elif name.startswith("hf:"):
        made, given = importlib.import_module(".decoder", __package__).DecoderLearner, (name.removeprefix("hf:"),)
    else:
        raise InputError(f"nothing called {name!r} can be trained; there are 'minilm' and 'hf:MODEL'")
    parameters = dict(list(inspect.signature(made).parameters.items())[len(given) :])
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not open_ended and (strange := sorted(set(options) - set(parameters))):
        raise InputError(f"{name} has no option {strange[0]!r}; there are {', '.join(parameters)}")
    learner: Learner = made(*given, **options)
    return learner
