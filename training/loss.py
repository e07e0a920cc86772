"""The losses of training: contrast and preferences within a list, divergence from a teacher, distance from the start.

Scores are never rescaled to a range, list by list: a list in which nothing stands out would then look like one in which
something does. Temperatures are the only scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from .config import Objective
    from .learner import Output, TrainingList

__all__ = ["anchor_loss", "contrastive_loss", "distillation_loss", "list_losses", "preference_loss"]

_SMALLEST_SHARE = 1e-12  # the logarithm of less teaches nothing more


def contrastive_loss(
    scores: torch.Tensor,
    positive: torch.Tensor,
    temperature: float | torch.Tensor,
    positives: Literal["joint", "each"] = "joint",
) -> torch.Tensor:
    """InfoNCE with several positives (van den Oord et al., 2018).

    ``joint``: ``logsumexp(S / t) - logsumexp(S / t over positives)``, as BlockRank's code has it (2025).
    ``each``: the mean over positives p of ``logsumexp(S / t over p and the negatives) - S_p / t``. With one positive
    they are the same.

    Args:
        scores: float (N,), the scores S of the documents.
        positive: bool (N,), which documents are positive, with at least one True and one False.
        temperature: the temperature t of the loss.
        positives: the kind of loss, ``joint`` or ``each``.

    Returns:
        The loss (), at least 0.

    Raises:
        InputError: if there is no positive, or no negative.

    Example:
        >>> import torch
        >>> loss = contrastive_loss(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), temperature=0.05)
        >>> round(float(loss), 4)  # ln 2
        0.6931
    """
    import torch

    _check_kinds(positive)
    logits = scores / temperature
    if positives == "joint":
        return torch.logsumexp(logits, 0) - torch.logsumexp(logits[positive], 0)
    against = torch.logsumexp(logits[~positive], 0)
    return (torch.logaddexp(logits[positive], against) - logits[positive]).mean()


def preference_loss(scores: torch.Tensor, positive: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """RankNet (Burges et al., 2005): the mean of ``log(1 + exp((S_n - S_p) / t))`` over positives p and negatives n.

    Unlike the contrastive loss, it gives each pair that is in the wrong order the same weight, however high a third
    document scores. HeadRank (2026) trains attention by such preferences; its regulariser is not here.

    Args:
        scores: float (N,), the scores S of the documents.
        positive: bool (N,), which documents are positive, with at least one True and one False.
        temperature: the temperature t of the loss.

    Returns:
        The loss (), at least 0.

    Raises:
        InputError: if there is no positive, or no negative.

    Example:
        >>> import torch
        >>> loss = preference_loss(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([True, False, False]), temperature=1.0)
        >>> round(float(loss), 4)  # ln 2
        0.6931
    """
    from torch.nn import functional

    _check_kinds(positive)
    return functional.softplus((scores[~positive] - scores[positive][:, None]) / temperature).mean()


def distillation_loss(
    scores: torch.Tensor, teacher: torch.Tensor, temperature: float | torch.Tensor, teacher_temperature: float = 1.0
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's distribution over a list from the teacher's (Hinton et al., 2015).

    Each has a temperature of its own, for their scores are on scales of their own: attention mass and, say, logits.

    Args:
        scores: float (N,), the scores of the student.
        teacher: float (N,), the scores of the teacher, without gradient. NaN where it has none; both distributions are
            over the other documents.
        temperature: the temperature of the student.
        teacher_temperature: the temperature of the teacher.

    Returns:
        The loss () in nats, at least 0; 0 if the teacher scored fewer than two documents.
    """
    import torch
    from torch.nn import functional

    scored = ~torch.isnan(teacher)
    student = torch.log_softmax(scores[scored] / temperature, 0)
    target = torch.log_softmax(teacher[scored].to(scores.dtype) / teacher_temperature, 0)
    return functional.kl_div(student, target, reduction="sum", log_target=True)


def anchor_loss(parameters: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean over all numbers of the squared distance from where they started (L2-SP, Li et al. 2018).

    Args:
        parameters: the parameters as they stand, by name.
        start: the parameters at the start, with the same names and shapes.

    Returns:
        () float32.
    """
    count = sum(value.numel() for value in parameters.values())
    distances = (
        (value.float() - start[name].to(value.device).float()).square().sum() for name, value in parameters.items()
    )
    return _sum(distances) / count


def list_losses(
    output: Output, lists: Sequence[TrainingList], objective: Objective, temperature: float | torch.Tensor
) -> dict[str, torch.Tensor]:
    """The loss of a batch of lists, and its parts, without the distance from the start.

    Args:
        output: the result of a learner for the lists.
        lists: the lists of the batch.
        objective: the weights of the parts.
        temperature: the temperature of the objective, in its current state if it is learned.

    Returns:
        ``loss`` () and, of those that the objective has, its parts unweighted: ``contrastive``, ``preference``,
        ``distillation`` and ``next_token``, each a mean over lists.

    Raises:
        InputError: if the learner returned other than one score for each document, or logarithms are asked for of
            scores below 0.
    """
    import torch

    for training_list, scores in zip(lists, output.scores, strict=True):
        if scores.shape != (len(training_list.documents),):
            raise InputError(
                f"a list of {len(training_list.documents)} documents got scores of shape {tuple(scores.shape)}"
            )
    parts: dict[str, torch.Tensor] = {}
    pairs = [
        (training_list, _compared(scores.float() if scores.dtype != torch.float64 else scores, objective))
        for training_list, scores in zip(lists, output.scores, strict=True)
    ]
    if objective.contrastive_weight:
        parts["contrastive"] = _sum(
            contrastive_loss(
                scores, torch.tensor(training_list.positive, device=scores.device), temperature, objective.positives
            )
            for training_list, scores in pairs
        ) / len(lists)
    if objective.preference_weight:
        parts["preference"] = _sum(
            preference_loss(scores, torch.tensor(training_list.positive, device=scores.device), temperature)
            for training_list, scores in pairs
        ) / len(lists)
    if objective.distillation_weight:
        parts["distillation"] = _sum(
            distillation_loss(
                scores,
                torch.tensor(training_list.teacher, dtype=scores.dtype, device=scores.device),
                temperature,
                objective.teacher_temperature,
            )
            if training_list.teacher is not None
            else 0.0 * scores.sum()
            for training_list, scores in pairs
        ) / len(lists)
    weights = {
        "contrastive": objective.contrastive_weight,
        "preference": objective.preference_weight,
        "distillation": objective.distillation_weight,
    }
    loss = _sum(weights[name] * value for name, value in parts.items())
    if output.next_token is not None:
        parts["next_token"] = output.next_token.float().mean()
        loss = parts["next_token"].to(loss.device) + objective.auxiliary_weight * loss
    return {"loss": loss, **parts}


def _compared(scores: torch.Tensor, objective: Objective) -> torch.Tensor:
    """What the losses compare: the scores, or their logarithms."""
    if not objective.log_scores:
        return scores
    if bool((scores < 0).any()):
        raise InputError(
            "log_scores is for shares of attention, which are not negative; these scores are. Leave log_scores out, or "
            "train a layout with the readout mass and no calibration"
        )
    return scores.clamp_min(_SMALLEST_SHARE).log()


def _check_kinds(positive: torch.Tensor) -> None:
    if positive.all() or not positive.any():
        raise InputError(f"of {len(positive)} documents {int(positive.sum())} are positive; a list needs both kinds")


def _sum(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of values that may lie on several devices, on that of the first; sum() would not move them."""
    total: torch.Tensor | None = None
    for value in values:
        total = value if total is None else total + value.to(total.device)
    assert total is not None
    return total
