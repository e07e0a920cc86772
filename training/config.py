"""The settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long, how fast, and how carefully.

    Args:
        steps: updates; or
        epochs: passes over the examples, as `ListSampler.epoch` counts them. One of the two.
        lists: in a batch, that is, read at once.
        accumulation: batches whose gradients make one update. 2 of 4 lists give what 1 of 8 gives, but for rounding.
        learning_rate: the highest; None takes `Learner.learning_rate`.
        warmup: share of the steps over which the rate rises to it.
        schedule: after that, ``cosine`` to 0 or ``constant``.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019).
        clip: largest norm of the gradient; 0 leaves it.
        precision: ``float32``; ``bfloat16`` or ``float16``: what autocast computes so; parameters stay what they are.
        seed: of all that is random.
        evaluate_every: steps between measurements on dev; 0 measures before and after only.
        patience: stop after so many measurements without a better one; 0 goes on to the end.
        save_every: steps between states that a run goes on from; they are also written with each measurement.
        alpha: how far the weights go from the start to what was learnt: ``start + alpha * (learnt - start)`` (WiSE-FT;
            Wortsman et al., CVPR 2022). Of low-rank adapters each factor goes so far, and their product less.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> TrainingConfig(steps=10, learning_rate=1e-3, warmup=0.0, schedule="constant").rate(3, 10)
        0.001
    """

    steps: int | None = None
    epochs: float | None = None
    lists: int = 8
    accumulation: int = 1
    learning_rate: float | None = None
    warmup: float = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0
    evaluate_every: int = 100
    patience: int = 0
    save_every: int = 100
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("say how long to train: give either steps or epochs")
        bounds: dict[str, tuple[float, float]] = {
            "steps": (1, 2**31),
            "lists": (1, 2**16),
            "accumulation": (1, 2**16),
            "weight_decay": (0, math.inf),
            "clip": (0, math.inf),
            "warmup": (0, 1),
            "seed": (0, 2**32 - 1),
            "evaluate_every": (0, math.inf),
            "patience": (0, math.inf),
            "save_every": (1, math.inf),
            "alpha": (0, 1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must be from {low:g} to {high:g}, not {value}")
        for name in ("learning_rate", "epochs"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be above 0, not {value}")
        for name, known in (("schedule", ("cosine", "constant")), ("precision", ("float32", "bfloat16", "float16"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: from 0.
            steps: how many there are.

        Raises:
            InputError: if ``learning_rate`` is None.
        """
        if self.learning_rate is None:
            raise InputError("the learning rate is the learner's; give a learning_rate to have one here")
        rising = round(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
