"""Train rerankers: lists to learn from, the loss on attention mass, and the loop that minimises it."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..facades import lazy_names
from ..names import DECODERS, READERS, RerankerName
from ..wording import did_you_mean, listed, quoted

if TYPE_CHECKING:
    from .card import Origin, describe_data
    from .config import Mining, Objective, Sampling, TrainingConfig
    from .decoder import DecoderLearner
    from .dev import DevSet, load_dev_sets
    from .examples import Example, Source, load_examples, load_sources, parse_examples, write_examples
    from .late_interaction import LateInteractionLearner
    from .learner import Learner, Output, TrainingList
    from .lists import ListSampler
    from .mining import MinedCounts, mine_run, run_system
    from .summary import Gain, Measurement, TrainingSummary
    from .trainer import Progress, train

_WHERE = {
    "DecoderLearner": "decoder",
    "DevSet": "dev",
    "Example": "examples",
    "Gain": "summary",
    "LateInteractionLearner": "late_interaction",
    "Learner": "learner",
    "ListSampler": "lists",
    "Measurement": "summary",
    "MinedCounts": "mining",
    "Mining": "config",
    "Objective": "config",
    "Origin": "card",
    "Output": "learner",
    "Progress": "trainer",
    "Sampling": "config",
    "Source": "examples",
    "TrainingConfig": "config",
    "TrainingList": "learner",
    "TrainingSummary": "summary",
    "describe_data": "card",
    "load_dev_sets": "dev",
    "load_examples": "examples",
    "load_sources": "examples",
    "mine_run": "mining",
    "parse_examples": "examples",
    "run_system": "mining",
    "train": "trainer",
    "write_examples": "examples",
}

__all__ = [
    "DecoderLearner",
    "DevSet",
    "Example",
    "Gain",
    "LateInteractionLearner",
    "Learner",
    "ListSampler",
    "Measurement",
    "MinedCounts",
    "Mining",
    "Objective",
    "Origin",
    "Output",
    "Progress",
    "Sampling",
    "Source",
    "TrainingConfig",
    "TrainingList",
    "TrainingSummary",
    "check_learner",
    "describe_data",
    "load_dev_sets",
    "load_examples",
    "load_learner",
    "load_sources",
    "mine_run",
    "parse_examples",
    "run_system",
    "train",
    "write_examples",
]

_DECODER = "hf:"


def check_learner(name: str) -> None:
    """Refuse a model that cannot be trained, before anything is loaded.

    Args:
        name: the name of a learner, as `load_learner` takes it.

    Raises:
        InputError: if it is neither ``minilm``, nor another block reader, nor a decoder.

    Example:
        >>> check_learner("minlm")
        Traceback (most recent call last):
        sightline.errors.InputError: nothing called 'minlm' can be trained; ...did you mean 'minilm'?
    """
    if name == _DECODER:
        raise InputError("hf: names no model; add a name or a folder, as in hf:Qwen/Qwen3-0.6B")
    parsed = RerankerName.parse(name)
    if parsed.kind in READERS:
        if parsed.layout:
            raise InputError(f"{quoted(name)}: a readout of its own is trained; leave #{parsed.layout} out")
        return
    if name != "minilm" and name not in DECODERS and not name.startswith(_DECODER):
        near = did_you_mean(name, ["minilm", *DECODERS, "hf:"])
        known = ", ".join(map(repr, ("minilm", *DECODERS, "encoder:MODEL", "late-interaction:MODEL")))
        raise InputError(f"nothing called {quoted(name)} can be trained; there are {known} and 'hf:MODEL'{near}")


def load_learner(name: str = "minilm", /, **options: Any) -> Learner:
    """Load a model to train.

    Args:
        name: ``minilm``, the embedded default; ``encoder:MODEL`` or ``late-interaction:MODEL``, whose token states a
            readout learns to read; ``smollm2``; or ``hf:`` and a decoder, as `load_decoder` takes it.
        options: the options of `sightline.training.late_interaction.LateInteractionLearner` or
            `sightline.training.decoder.DecoderLearner`.

    Raises:
        InputError: if there is no such learner, or it does not have an option.
        ModelError: if the model cannot be loaded.
        MissingExtraError: if you ask for LoRA and peft is not installed.

    Example:
        >>> load_learner("hf:Qwen/Qwen3-0.6B", layout="blockrank", lora=16)  # doctest: +SKIP
    """
    check_learner(name)
    positional: tuple[str, ...] = ()
    if name == "minilm" or RerankerName.parse(name).kind in READERS:
        options = {"model": name} | options
        learner_class = importlib.import_module(".late_interaction", __package__).LateInteractionLearner
    else:
        learner_class = importlib.import_module(".decoder", __package__).DecoderLearner
        positional = (name.removeprefix(_DECODER),)
    parameters = dict(list(inspect.signature(learner_class).parameters.items())[len(positional) :])
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not open_ended and (strange := sorted(set(options) - set(parameters))):
        raise InputError(
            f"{name} has no option {quoted(strange[0])}; there are {listed(parameters)}"
            f"{did_you_mean(strange[0], parameters)}"
        )
    learner: Learner = learner_class(*positional, **options)
    return learner


__getattr__, __dir__ = lazy_names(__name__, _WHERE)
