"""From what the signal tokens saw to one score per document: pure functions of a `Reading`, whichever model made it.

Everything here is order-free: permuting the documents permutes the results, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from ..kernels import Keys, Products, states_products
from ..kernels.states.keys import stored_values
from .results import NOTHING

if TYPE_CHECKING:
    from .layout import ReadoutSpec

__all__ = [
    "Reading",
    "document_scores",
    "head_scores",
    "joint_normaliser",
    "log_attention",
    "log_shares",
    "order_free_mean",
    "read_states",
    "row_shares",
]


@dataclass(frozen=True, slots=True)
class Reading:
    """What S signal tokens saw of N documents, by H heads. Logarithms are natural.

    Args:
        lse: float (S, H, N), the log-sum-exp of each signal token over each document's logits; -inf for a document
            without tokens.
        normaliser: float64 (S, H), the log-sum-exp over all keys that compete.
        lengths: the number of tokens of each document.
        largest: float (S, H, N), the largest logits; for token states, whose logits are scaled cosines, the largest
            cosines. None unless the readout asks for them.
        tokens: float (K,) or (H, K), the attention on each of the K tokens of the documents, averaged over the signal
            tokens, and over the heads unless they are kept apart. None unless it was asked for.
        null_tokens: the same attention as the null query pays it. None unless scores are calibrated.
        products: the dot products with token states that were read, for the attention on each token. None for decoders.
    """

    lse: torch.Tensor
    normaliser: torch.Tensor
    lengths: tuple[int, ...]
    largest: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    null_tokens: torch.Tensor | None = None
    products: Products | None = field(default=None, kw_only=True)


def read_states(rows: torch.Tensor, keys: Sequence[Keys], *, scale: float, largest: bool = False) -> Reading:
    """Read documents whose token states are at hand, by softmax attention over all tokens of all of them.

    Args:
        rows: float32 (S, D), the states of the signal tokens.
        keys: the token states of N documents, each (T_n, D).
        scale: the factor on the products of states.
        largest: whether to read the largest products, too.

    Returns:
        A `Reading` of one head.

    Example:
        >>> reading = read_states(torch.eye(2), [torch.eye(2), torch.zeros(0, 2)], scale=1.0)
        >>> reading.lse.shape, reading.lengths
        (torch.Size([2, 1, 2]), (2, 0))
    """
    products = states_products(rows, keys)
    lse = products.lse(scale)[:, None]
    lengths = tuple(stored_values(key).shape[0] for key in keys)
    most = products.max()[:, None] if largest else None
    return Reading(lse, joint_normaliser(lse), lengths, most, products=products)


def joint_normaliser(lse: torch.Tensor) -> torch.Tensor:
    """Log-sum-exp over all tokens of all documents, from that over each document: (..., N) to float64 (...)."""
    # Summed in sorted order, it is the same to the last bit whatever the order of the documents.
    return torch.logsumexp(lse.double().sort(dim=-1).values, dim=-1)


def document_scores(reading: Reading, spec: ReadoutSpec) -> torch.Tensor:
    """Scores of the documents.

    Args:
        reading: the reading of one list, with the tokens of both queries if it is calibrated.
        spec: how to score. Its readout is not ``learnt``, for which see `LearntReadout.scores`.

    Returns:
        float64 (N,), higher is better. A document without tokens gets less than any that has some.
    """
    return order_free_mean(head_scores(reading, spec))


def head_scores(reading: Reading, spec: ReadoutSpec) -> torch.Tensor:
    """The scores by each head alone, float64 (H, N); `sightline heads` looks for retrieving heads in them.

    If scores are calibrated, H is 1 unless the reading keeps heads apart.
    """
    if spec.calibration != "none":
        return _calibrated(reading, spec)
    if spec.readout == "maxsim":
        assert reading.largest is not None
        return order_free_mean(reading.largest.double().clamp_min(NOTHING))
    if spec.readout == "mass":
        return order_free_mean(log_shares(reading, spec.length, spec.normalisation).exp())
    return order_free_mean(log_attention(reading, spec.length))


def row_shares(reading: Reading, spec: ReadoutSpec) -> torch.Tensor:
    """Attention by signal token, a mean over heads, as shares among the documents: float64 (S, N).

    Rows sum to one, whatever the normalisation.
    """
    shares = order_free_mean(log_shares(reading, spec.length, spec.normalisation).exp(), dim=1)
    if spec.normalisation == "documents":
        return shares
    total = shares.sort(dim=1).values.sum(dim=1, keepdim=True)
    return shares / torch.where(total == 0, 1, total)


def log_shares(
    reading: Reading,
    length: Literal["sum", "mean"] = "sum",
    normalisation: Literal["documents", "all_keys"] = "documents",
) -> torch.Tensor:
    """Logarithm of the attention of each signal token and head on each document: float64 (S, H, N).

    Args:
        reading: the reading of one list.
        length: how a block's length counts; see `ReadoutSpec`.
        normalisation: the keys that ``reading.normaliser`` covers.
    """
    lse, normaliser = log_attention(reading, length), reading.normaliser
    if length == "mean" and normalisation == "documents":
        normaliser = joint_normaliser(lse)
    return (lse - normaliser[..., None]).clamp_min(NOTHING)


def log_attention(reading: Reading, length: Literal["sum", "mean"] = "sum") -> torch.Tensor:
    """Logarithm of the attention of each signal token and head on each document before it is shared out: (S, H, N).

    It differs from `log_shares` by a term that all documents of a list have in common, the normaliser. Without it, what
    a document gets does not depend on the others.

    Args:
        reading: the reading of one list.
        length: how a block's length counts; see `ReadoutSpec`.

    Returns:
        float64 (S, H, N), at least `NOTHING`.
    """
    lse = reading.lse.double()
    if length == "mean":
        lse = lse - torch.tensor(reading.lengths, dtype=torch.float64).clamp_min(1).log()
    return lse.clamp_min(NOTHING)


def order_free_mean(values: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """Mean over signal tokens or heads, (..., N) without that axis, each document's to the last bit at any place.

    Torch's own mean over an axis that is not the last is not so: beyond 16 columns, it sums those that are left over in
    another order.
    """
    return values.movedim(dim, -1).contiguous().mean(dim=-1)


def _calibrated(reading: Reading, spec: ReadoutSpec) -> torch.Tensor:
    """Attention less that of the null query, summed over each document's tokens but outliers (ICR, section 3.2)."""
    assert reading.tokens is not None and reading.null_tokens is not None
    excess = torch.atleast_2d(reading.tokens.double() - reading.null_tokens.double())  # (H, K)
    scores = []
    for part in excess.split(reading.lengths, dim=1):
        kept = torch.ones_like(part, dtype=torch.bool)
        if spec.outliers is not None and part.shape[1] > 1:  # one token has no spread, and is kept
            kept = part >= part.mean(dim=1, keepdim=True) - spec.outliers * part.std(dim=1, keepdim=True)
        total = torch.where(kept, part, 0).sum(dim=1)
        scores.append(total / kept.sum(dim=1).clamp_min(1) if spec.length == "mean" else total)
    return torch.stack(scores, dim=1) if scores else excess.new_zeros(len(excess), 0)
