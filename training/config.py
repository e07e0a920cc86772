"""The settings of mining and of a training run; `sightline mine` and `sightline train` take each as an option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..errors import InputError
from ..settings import Range, check_settings

__all__ = ["COLDEST", "Mining", "Objective", "Sampling", "TrainingConfig"]

COLDEST = 0.01
"""The lowest temperature that is learnt, as in CLIP (Radford et al., 2021, section 2.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How long, how fast and how carefully a run trains.

    Args:
        steps: Number of updates to make; give this or epochs.
        epochs: Number of passes over the data; give this or steps. `ListSampler.epoch` counts them.
        lists: Number of lists in a batch, which are read at once.
        accumulation: Number of batches that make one update. 2 of 4 lists give what 1 of 8 gives, except for rounding.
        learning_rate: Highest learning rate of the run. None takes `Learner.learning_rate`.
        warmup: Share of the steps over which the learning rate rises.
        schedule: Course of the learning rate after that: down to 0 along a cosine, or constant.
        weight_decay: Weight decay of AdamW (Loshchilov and Hutter, 2019).
        clip: Norm to which gradients are clipped; 0 does not clip.
        precision: Number format to compute in, also for measurements on dev. Half precision is mixed: the parameters
            keep their own format.
        seed: Seed of everything random in the run.
        evaluate_every: Steps between measurements on dev; 0 measures only at the start and the end.
        patience: Number of measurements without gain after which the run stops; 0 never stops early.
        save_every: Steps between saved states, from which an interrupted run continues. Each measurement also saves
            one.
        alpha: Part of the way from the initial weights to the learned ones that is kept (WiSE-FT; Wortsman et al., CVPR
            2022). The weights are ``initial + alpha * (learned - initial)``. Each factor of a low-rank adapter moves
            this far, so their product moves less.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> TrainingConfig(steps=10, learning_rate=1e-3, warmup=0.0, schedule="constant").rate(3, 10)
        0.001
    """

    steps: Annotated[int | None, Range(1, 2**31)] = None
    epochs: Annotated[float | None, Range(above=0)] = None
    lists: Annotated[int, Range(1, 2**16)] = 8
    accumulation: Annotated[int, Range(1, 2**16)] = 1
    learning_rate: Annotated[float | None, Range(above=0)] = None
    warmup: Annotated[float, Range(0, 1)] = 0.05
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, Range(0)] = 0.0
    clip: Annotated[float, Range(0)] = 1.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    evaluate_every: Annotated[int, Range(0)] = 100
    patience: Annotated[int, Range(0)] = 0
    save_every: Annotated[int, Range(1)] = 100
    alpha: Annotated[float, Range(0, 1)] = 1.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise InputError("say how long to train: give either steps or epochs")
        check_settings(self)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: the number of the step, from 0.
            steps: the number of all steps.

        Raises:
            InputError: if ``learning_rate`` is None.
        """
        if self.learning_rate is None:
            raise InputError(
                "learning_rate is None, so each learner uses its own; give a learning_rate to have one here"
            )
        rising = round(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How lists are drawn.

    Args:
        documents: Fewest and most documents of a list. The number is drawn anew for each list; a list has fewer if its
            question, and with ``in_batch`` the other lists, do not have as many.
        in_batch: Share of the negatives that are taken from the other lists of a step. Above 0, they also fill up lists
            that have too few of their own.
        drop_titles: Probability that a list's documents lose their titles, as in collections without titles.
        shuffle_sentences: Probability that the sentences of a document are shuffled, so that the place of an answer
            tells nothing.
        weights: The number of times that an epoch contains each example of a source, by the source's name; 1 if a
            source is not named.

    Raises:
        InputError: if a value is out of range.
    """

    documents: tuple[int, int] = (10, 200)
    in_batch: Annotated[float, Range(0, 1)] = 0.0
    drop_titles: Annotated[float, Range(0, 1)] = 0.0
    shuffle_sentences: Annotated[float, Range(0, 1)] = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fewest, most = self.documents
        if not 2 <= fewest <= most:
            raise InputError(f"documents must be LOW-HIGH with 2 <= LOW <= HIGH, not {fewest}-{most}")
        check_settings(self)
        for source, weight in self.weights.items():
            if weight not in Range(above=0):
                raise InputError(f"the weight of {source!r} must be above 0, not {weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss: ``next_token + auxiliary_weight * (contrastive + preference + distillation)`` (BlockRank, 2025).

    A learner that writes no answers has only the losses in the parentheses, each by its weight. The distance from the
    initial weights is added in either case.

    Args:
        temperature: Number that divides the scores in the loss; with too low a value the loss is 0 and nothing is
            learned. None takes `Learner.temperature`, which suits the learner's scores.
        learn_temperature: Train the temperature too.
        log_scores: Compare the logarithms of the scores, which must be shares of attention. With temperature 1, the
            contrastive loss is then minus the logarithm of the share that the relevant documents get (a pointer's loss;
            CompRank, 2026), which keeps teaching when all shares are small.
        positives: Count several relevant documents together (joint), or each by itself against the others (each;
            QRRanker, 2026).
        auxiliary_weight: Weight of the ranking loss beside the next-token loss, if there is one.
        contrastive_weight: Weight of the contrastive loss.
        preference_weight: Weight of the loss over pairs of a relevant and another document (as HeadRank, 2026, learns
            from preferences).
        distillation_weight: Weight of the distillation loss, which learns the scores that the lists carry.
        teacher_temperature: Number that divides the scores that the lists carry.
        anchor_weight: Weight of the penalty on moving away from the initial weights. It is their mean squared distance
            (L2-SP; Li, Grandvalet and Davoine, ICML 2018).

    Raises:
        InputError: if a value is out of range.
    """

    temperature: Annotated[float | None, Range(above=0)] = None
    learn_temperature: bool = False
    log_scores: bool = False
    positives: Literal["joint", "each"] = "joint"
    auxiliary_weight: Annotated[float, Range(0)] = 0.1
    contrastive_weight: Annotated[float, Range(0)] = 1.0
    preference_weight: Annotated[float, Range(0)] = 0.0
    distillation_weight: Annotated[float, Range(0)] = 0.0
    teacher_temperature: Annotated[float, Range(above=0)] = 1.0
    anchor_weight: Annotated[float, Range(0)] = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.learn_temperature and self.temperature is not None and self.temperature < COLDEST:
            raise InputError(f"a temperature that is learnt must start at {COLDEST} or more, not {self.temperature}")
        if not self.contrastive_weight and not self.preference_weight and not self.distillation_weight:
            raise InputError(
                "contrastive_weight, preference_weight and distillation_weight are 0: there is nothing to learn from"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """Which candidates become negatives.

    A candidate that scores nearly as high as a positive is probably one that nobody judged (NV-Retriever; Moreira et
    al., 2024, who call the relative margin TopK-PercPos and the absolute one TopK-MarginPos).

    Args:
        negatives: Largest number of negatives in a list, the hardest ones.
        skip: Number of ranks at the top of the system's ranking to leave out, whatever they score.
        margin: Distance that negatives keep from the lowest positive's score: they score below this fraction of it, or
            with an absolute margin lower by this much. A relative margin also works for negative scores, such as
            logarithms: with .95, negatives score lower by at least .05 of the positive's size. None keeps all.
        kind: Whether the margin is relative or absolute.
        min_grade: Lowest grade that counts as relevant. Lower grades above 0 are not negatives either.

    Raises:
        InputError: if a value is out of range.

    Example:
        >>> Mining(margin=0.95).ceiling(10.0), Mining(margin=0.95).ceiling(-10.0), Mining(margin=None).ceiling(1.0)
        (9.5, -10.5, inf)
    """

    negatives: Annotated[int, Range(1)] = 50
    skip: Annotated[int, Range(0)] = 0
    margin: Annotated[float | None, Range(0)] = 0.95
    kind: Literal["relative", "absolute"] = "relative"
    min_grade: Annotated[int, Range(1)] = 1

    def __post_init__(self) -> None:
        check_settings(self)
        if self.kind == "relative" and self.margin is not None and self.margin >= 1:
            raise InputError(f"a relative margin must be below 1, not {self.margin}")

    def ceiling(self, positive: float) -> float:
        """Return the score that negatives must be below, given the positive's score; at most that score."""
        if self.margin is None:
            return math.inf
        return positive - ((1 - self.margin) * abs(positive) if self.kind == "relative" else self.margin)
