"""From attention to scores: what the signal tokens pay to each block, and the readouts over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..kernels import Keys, states_lse, states_max
from .results import NOTHING

if TYPE_CHECKING:
    import torch

    from .layout import Layout

__all__ = ["AttentionSignal", "Reading", "Signal", "by_document", "joint_log_shares"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a signal saw.

    Args:
        scores: float64 (N,), higher is better; only comparable within this list.
        shares: float64 (S, N), each signal token's attention on each document; rows sum to one.
        normaliser: float64 (S,), log-sum-exp over all tokens of all documents.
        rows: float32 (S, D), what asked: the signal tokens' states, or what was learnt to make of them.
    """

    scores: torch.Tensor
    shares: torch.Tensor
    normaliser: torch.Tensor
    rows: torch.Tensor


class Signal(Protocol):
    """A scorer over one list. It must be order-free: permuting the documents permutes its results, to the last bit."""

    def __call__(self, q: torch.Tensor, keys: Sequence[Keys], layout: Layout) -> Reading:
        """Score N documents.

        Args:
            q: float32 (S, D), states of the signal tokens.
            keys: N documents' token states, each (T_n, D).
            layout: says the readout and its scale.
        """
        ...


class AttentionSignal:
    """Softmax attention of the signal tokens, jointly over all tokens of all documents, and its three readouts."""

    def __call__(self, q: torch.Tensor, keys: Sequence[Keys], layout: Layout) -> Reading:
        """See `Signal`."""
        log_shares, normaliser = joint_log_shares(states_lse(q, keys, scale=layout.scale))
        shares = log_shares.exp()
        if layout.readout == "mass":
            scores = by_document(shares)
        elif layout.readout == "log_mass":
            scores = by_document(log_shares)
        else:
            scores = by_document(states_max(q, keys).double().clamp_min(NOTHING))
        return Reading(scores, shares, normaliser, q)


def joint_log_shares(lse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each document's log-sum-exp (S, N): the logarithms of its shares, float64 (S, N), and the normaliser (S,)."""
    import torch

    lse = lse.double()
    # Summed in sorted order, the normaliser is the same to the last bit whatever the order of the documents.
    normaliser = torch.logsumexp(lse.sort(dim=1).values, dim=1)
    return (lse - normaliser[:, None]).clamp_min(NOTHING), normaliser


def by_document(values: torch.Tensor) -> torch.Tensor:
    """Mean over the signal tokens: (S, N) to (N,), each document's the same to the last bit at whatever place.

    A mean over the first axis would not be: beyond 16 columns, torch sums those that are left over in another order.
    """
    return values.T.contiguous().mean(dim=1)
