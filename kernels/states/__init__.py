"""Attention over kept token states: the signal rows of one query, and a list of documents with a tensor each.

The states of a document may be memory-mapped, fp16, or int8 with one scale per row (`QuantizedKeys`); results are fp32.
Every document is reduced by itself, so its numbers do not depend, to the last bit, on its place in the list, on its
neighbours, or on how a list is split over calls. Gradients flow to queries and to keys that are tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..dispatch import choose
from ..errors import backend_error
from . import cpu, reference
from .keys import Keys, Products, QuantizedKeys, quantized

__all__ = [
    "Keys",
    "Products",
    "QuantizedKeys",
    "quantized",
    "states_attention",
    "states_backend",
    "states_lse",
    "states_max",
    "states_products",
]


def states_backend() -> str:
    """Return the name of the backend of these functions: ``SIGHTLINE_BACKEND`` if set, else ``cpu``.

    ``cpu`` is plain torch written for CPUs; it also runs where the tensors are elsewhere.

    Raises:
        BackendError: if ``SIGHTLINE_BACKEND`` names one that cannot run, or that has no such functions (``triton``).
    """
    name = choose("cpu").backend
    if name == "triton":
        raise backend_error(
            "SIGHTLINE_BACKEND='triton': kept token states are read by the backends 'cpu' and 'reference' only; "
            "unset it, or name one of them"
        )
    return name


def states_products(q: torch.Tensor, keys: Sequence[Keys]) -> Products:
    """Compute dot products of query rows with documents' tokens, once for everything that is made of them.

    On a processor that multiplies int8 matrices exactly, `QuantizedKeys` are read by one integer product; see
    `sightline.kernels.states.integer`.

    Args:
        q: float32 (S, D), the signal rows.
        keys: the keys of N documents, each (T_n, D). N and T_n may be 0.

    Returns:
        `Products`, which take 4 bytes for each row and token.

    Example:
        >>> products = states_products(torch.eye(2), [torch.eye(2), torch.zeros(0, 2)])
        >>> products.mean().tolist(), products.max()[:, 0].tolist()
        ([[0.5, 0.0], [0.5, 0.0]], [1.0, 1.0])
    """
    made: Products = {"reference": reference, "cpu": cpu}[states_backend()].products(q, keys)
    return made


def states_lse(q: torch.Tensor, keys: Sequence[Keys], *, scale: float) -> torch.Tensor:
    """Compute log-sum-exp of the scaled attention logits, per query row and document.

    Args:
        q: float32 (S, D), the signal rows.
        keys: the keys of N documents, each (T_n, D). T_n may be 0.
        scale: the factor on the dot products (for unit vectors, the inverse temperature).

    Returns:
        float32 (S, N), natural logarithm: ``log sum_j exp(scale * q_i . k_j)`` over the document's tokens j; -inf for
        a document without tokens.

    Example:
        >>> q = torch.eye(2)
        >>> states_lse(q, [torch.eye(2), torch.zeros(0, 2)], scale=1.0)[:, 1].tolist()
        [-inf, -inf]
    """
    return states_products(q, keys).lse(scale)


def states_max(q: torch.Tensor, keys: Sequence[Keys]) -> torch.Tensor:
    """Compute the largest dot product of each query row with a document's tokens (MaxSim before its sum).

    Args:
        q: float32 (S, D), the signal rows.
        keys: the keys of N documents, each (T_n, D).

    Returns:
        float32 (S, N); -inf for a document without tokens.
    """
    return states_products(q, keys).max()


def states_attention(q: torch.Tensor, keys: Keys, normaliser: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Compute attention mass on each token of one document, averaged over the signal rows.

    Args:
        q: float32 (S, D), the signal rows.
        keys: the keys (T, D) of one document.
        normaliser: float32 (S,), the log-sum-exp of each row over all keys that compete (all documents).
        scale: the scale that was given to `states_lse`.

    Returns:
        float32 (T,): ``mean_i exp(scale * q_i . k_j - normaliser_i)``; it sums to the document's attention mass.
    """
    return states_products(q, [keys]).attention(0, normaliser, scale)
