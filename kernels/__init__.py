"""Attention read block by block, on tensors only: the naive reference and the fast paths, behind one dispatch.

Nothing here imports the rest of Sightline at import time: with the repository root as working directory, Hugging Face
code that probes for its own optional package ``kernels`` finds this one first.

Keys may be fp32, fp16, or int8 with one scale per row (``QuantizedKeys``); arithmetic and results are fp32.
Every document is reduced by itself, so its numbers do not depend, to the last bit, on its place in the list, on its
neighbours, or on how a list is split over calls.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from . import cpu, reference
from .keys import Keys, QuantizedKeys

__all__ = ["Keys", "QuantizedKeys", "backend", "block_lse", "block_max", "token_attention"]

_BACKENDS = {"reference": reference, "cpu": cpu}


def backend() -> str:
    """Name of the backend that calls go to: ``SIGHTLINE_BACKEND`` if set, else the fastest that runs here.

    Raises:
        BackendError: if ``SIGHTLINE_BACKEND`` names one that cannot run here.
    """
    name = os.environ.get("SIGHTLINE_BACKEND", "cpu")
    if name not in _BACKENDS:
        from ..errors import BackendError

        raise BackendError(
            f"SIGHTLINE_BACKEND={name!r} cannot run: there is {' and '.join(_BACKENDS)}; unset it or name one"
        )
    return name


def block_lse(q: torch.Tensor, keys: Sequence[Keys], *, scale: float) -> torch.Tensor:
    """Log-sum-exp of the scaled attention logits, per query row and document.

    Args:
        q: float32 (S, D), the signal rows.
        keys: N documents' keys, each (T_n, D); T_n may be 0.
        scale: factor on the dot products (for unit vectors, the inverse temperature).

    Returns:
        float32 (S, N), natural logarithm: ``log sum_j exp(scale * q_i . k_j)`` over the document's tokens j; -inf for
        a document without tokens.

    Example:
        >>> q = torch.eye(2)
        >>> block_lse(q, [torch.eye(2), torch.zeros(0, 2)], scale=1.0)[:, 1].tolist()
        [-inf, -inf]
    """
    op = _BACKENDS[backend()].block_lse
    return op(q, keys, scale) if keys else q.new_empty(len(q), 0)


def block_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """Largest dot product of each query row with a document's tokens (MaxSim before its sum; ColBERT, 2020, eq. 3).

    Args:
        q: float32 (S, D).
        keys: N documents' keys, each (T_n, D).

    Returns:
        float32 (S, N); -inf for a document without tokens.
    """
    op = _BACKENDS[backend()].block_max
    return op(q, keys) if keys else q.new_empty(len(q), 0)


def token_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Attention mass on each token of one document, averaged over the signal rows.

    Args:
        q: float32 (S, D).
        keys: one document's keys (T, D).
        normaliser: float32 (S,), log-sum-exp of each row over all keys that compete (all documents).
        scale: as given to `block_lse`.

    Returns:
        float32 (T,): ``mean_i exp(scale * q_i . k_j - normaliser_i)``; it sums to the document's attention mass.
    """
    return _BACKENDS[backend()].token_attention(q, keys, normaliser, scale)
