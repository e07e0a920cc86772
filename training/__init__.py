"""Learning to attend: lists to learn from, the loss on attention mass, and the loop that minimises it."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..wording import did_you_mean, listed, quoted

if TYPE_CHECKING:
    from .learner import Learner

__all__ = ["check_learner", "load_learner"]

_DECODER = "hf:"


def check_learner(name: str) -> None:
    """Refuse what cannot be trained, before anything is loaded.

    Args:
        name: as for `load_learner`.

    Raises:
        InputError: if it is neither ``minilm`` nor ``hf:`` and a model.

    Example:
        >>> check_learner("minlm")
        Traceback (most recent call last):
        sightline.errors.InputError: nothing called 'minlm' can be trained; ...did you mean 'minilm'?
    """
    if name == _DECODER:
        raise InputError("hf: names no model; add a name or a folder, as in hf:Qwen/Qwen3-0.6B")
    if name != "minilm" and not name.startswith(_DECODER):
        near = did_you_mean(name, ["minilm", "hf:"])
        raise InputError(f"nothing called {quoted(name)} can be trained; there are 'minilm' and 'hf:MODEL'{near}")


def load_learner(name: str = "minilm", /, **options: Any) -> Learner:
    """What to train.

    Args:
        name: ``minilm``, the embedded default, or ``hf:`` and the name or folder of a decoder model.
        options: those of `sightline.training.late_interaction.LateInteractionLearner` or
            `sightline.training.decoder.DecoderLearner`.

    Raises:
        InputError: if there is no such learner, or an option is not one of its.
        ModelError: if the model cannot be loaded.
        MissingExtraError: if LoRA is asked for and peft is not installed.

    Example:
        >>> load_learner("hf:Qwen/Qwen3-0.6B", layout="blockrank", lora=16)  # doctest: +SKIP
    """
    check_learner(name)
    given: tuple[str, ...] = ()
    if name == "minilm":
        made = importlib.import_module(".late_interaction", __package__).LateInteractionLearner
    else:
        made, given = importlib.import_module(".decoder", __package__).DecoderLearner, (name.removeprefix("hf:"),)
    parameters = dict(list(inspect.signature(made).parameters.items())[len(given) :])
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not open_ended and (strange := sorted(set(options) - set(parameters))):
        raise InputError(
            f"{name} has no option {quoted(strange[0])}; there are {listed(parameters)}"
            f"{did_you_mean(strange[0], parameters)}"
        )
    learner: Learner = made(*given, **options)
    return learner
