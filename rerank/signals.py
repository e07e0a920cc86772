"""Several signals of one document, added up: the readout ``fused``.

Attention alone, cosine alone and words alone are each best somewhere. Their sum, with few weights that the layout
holds, is better than its parts (Fusion-in-T5, Yu et al., 2023, fuses features in a reranker to the same end). Every
signal depends on the query and on one document, so the sum does, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from ..kernels import Keys
from .readout import Reading, log_attention, order_free_mean, read_states
from .results import NOTHING

if TYPE_CHECKING:
    from .layout import FusionWeights

__all__ = ["Signals", "fused_scores", "read_signals"]


@dataclass(frozen=True, slots=True)
class Signals:
    """What a query and each of N documents have in common, signal by signal. All are float64 (N,).

    Args:
        log_mass: the mean over the query's tokens of the log-sum-exp of their scaled cosines with the document's
            tokens.
        maxsim: the mean over the query's tokens of the largest cosine (ColBERT; Khattab and Zaharia, SIGIR 2020).
        cosine: the mean cosine of the document's tokens with the mean token state of the query.
        bm25: the BM25 score, by the statistics of an index or by those that ship with Sightline.
        length: the natural logarithm of the document's number of tokens.
    """

    log_mass: torch.Tensor
    maxsim: torch.Tensor
    cosine: torch.Tensor
    bm25: torch.Tensor
    length: torch.Tensor


def read_signals(
    rows: torch.Tensor, keys: Sequence[Keys], bm25: Sequence[float], weights: FusionWeights, *, scale: float
) -> tuple[Reading, Signals]:
    """Read documents whose token states are at hand. MaxSim is zero unless it has a weight.

    Args:
        rows: float32 (S, D), the states of the query's tokens.
        keys: the token states of N documents, each (T_n, D), with T_n above 0.
        bm25: the BM25 scores of the N documents.
        weights: the weights of the signals.
        scale: the factor on products before their log-sum-exp.

    Example:
        >>> from sightline.rerank.layout import FusionWeights
        >>> weights = FusionWeights(log_mass=1.0, cosine=1.0)
        >>> _, signals = read_signals(torch.eye(2), [torch.eye(2)], [0.0], weights, scale=1.0)
        >>> round(signals.cosine.item(), 3), signals.maxsim.item()
        (0.707, 0.0)
    """
    reading = read_states(rows, keys, scale=scale, largest=weights.maxsim != 0)
    assert reading.products is not None
    means = reading.products.mean()
    largest = torch.zeros_like(means) if reading.largest is None else reading.largest[:, 0]
    signals = Signals(
        log_mass=order_free_mean(log_attention(reading)[:, 0]),
        maxsim=order_free_mean(largest.double()),
        # The rows' mean products, over the length of the mean row: its cosine, since the keys are unit vectors.
        cosine=order_free_mean(means.double()) / rows.double().mean(dim=0).norm().clamp_min(1e-12),
        bm25=torch.tensor(bm25, dtype=torch.float64),
        length=torch.tensor(reading.lengths, dtype=torch.float64).log(),
    )
    return reading, signals


def fused_scores(signals: Signals, weights: FusionWeights) -> torch.Tensor:
    """Return the weighted sum of the signals: float64 (N,). Signals without weight are left out."""
    terms = [
        getattr(weights, field.name) * getattr(signals, field.name)
        for field in fields(signals)
        if getattr(weights, field.name)
    ]
    # Added one by one: a matrix product would round differently at different places of the list.
    return torch.stack(terms).cumsum(dim=0)[-1].clamp_min(NOTHING)
