"""From what the signal tokens saw to one score per document: pure functions of a `Reading` and a layout."""

from __future__ import annotations

import math

import torch

from ..layout import Layout
from .forward import Reading

__all__ = ["document_scores", "head_scores", "row_shares"]

# The logarithm of a share that underflows: below any other.
_NOTHING = -10_000.0


def document_scores(reading: Reading, layout: Layout) -> torch.Tensor:
    """Scores of the documents.

    Args:
        reading: of one list; with tokens if the layout calibrates, heads not kept apart.
        layout: says how.

    Returns:
        float64 (N,), higher is better. A document without tokens gets less than any that has some.
    """
    if layout.calibration != "none":
        assert reading.tokens is not None
        return _calibrated(reading.tokens[0], reading.tokens[1], reading.lengths, layout)
    if layout.readout == "maxsim":
        assert reading.largest is not None
        own = reading.largest[reading.block == 0].double()
        return own.clamp_min(_NOTHING).mean(dim=(0, 1))
    return _from_log_shares(_log_shares(reading, layout), layout).mean(dim=0)


def head_scores(reading: Reading, layout: Layout) -> torch.Tensor:
    """The same by each head alone, float64 (H, N): what `sightline heads` looks for its heads in."""
    if layout.calibration != "none":
        assert reading.tokens is not None
        pairs = zip(reading.tokens[0], reading.tokens[1], strict=True)
        return torch.stack([_calibrated(own, null, reading.lengths, layout) for own, null in pairs])
    if layout.readout == "maxsim":
        assert reading.largest is not None
        return reading.largest[reading.block == 0].double().clamp_min(_NOTHING).mean(dim=0)
    return _from_log_shares(_log_shares(reading, layout), layout)


def row_shares(reading: Reading, layout: Layout) -> torch.Tensor:
    """Attention by signal token of the query, mean over heads, as shares among the documents: float64 (R, N).

    Rows sum to one, whatever the normalisation of the layout.
    """
    shares = _log_shares(reading, layout).exp().mean(dim=1)
    total = shares.sort(dim=1).values.sum(dim=1, keepdim=True)
    return shares / torch.where(total == 0, 1, total)


def _log_shares(reading: Reading, layout: Layout) -> torch.Tensor:
    """Natural logarithm of the query rows' attention on each document, float64 (R, H, N)."""
    own = reading.block == 0
    log2 = reading.lse2[own].double()
    total2 = reading.total2[own]
    if layout.length == "mean":
        log2 = log2 - torch.tensor(reading.lengths, dtype=torch.float64).clamp_min(1).log2()
        if layout.normalisation == "documents":
            total2 = torch.logsumexp(log2.sort(dim=-1).values * math.log(2), dim=-1) / math.log(2)
    return ((log2 - total2[..., None]) * math.log(2)).clamp_min(_NOTHING)


def _from_log_shares(log_shares: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Over the signal rows: (R, H, N) to (H, N)."""
    return (log_shares.exp() if layout.readout == "mass" else log_shares).mean(dim=0)


def _calibrated(own: torch.Tensor, null: torch.Tensor, lengths: tuple[int, ...], layout: Layout) -> torch.Tensor:
    """Attention less that of the null query, summed over a document's tokens that are no outliers (ICR, section 3.2).

    A document of one token has no spread; its token is kept.
    """
    scores = []
    for part in (own.double() - null.double()).split(lengths):
        if layout.outliers is not None and len(part) > 1:
            part = part[part >= part.mean() - layout.outliers * part.std()]
        scores.append(part.mean() if layout.length == "mean" and len(part) else part.sum())
    return torch.stack(scores) if scores else own.new_zeros(0, dtype=torch.float64)
