"""Dot products with int8 keys in integers, so that all documents of a list take one matrix product.

A query row becomes three int8 limbs, which keep 23 bits of it: as many as float32 does. (With two limbs, 15 bits, the
log-sum-exp at scale 20 was up to 1e-4 off.) Sums of int8 products are exact in int32, so neither the order of the
documents nor the split of a list over calls changes a bit.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch

from .keys import QuantizedKeys

__all__ = ["exact_products", "integer_products"]

logger = logging.getLogger(__name__)

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")  # instructions that add int8 products to int32 without saturation
_LIMBS = 3
_STEPS = 254  # of a limb in one of the limb before it: limbs go from -127 to 127


@functools.cache
def exact_products() -> bool:
    """Whether this processor multiplies int8 matrices exactly; looked up and tried out at the first call.

    Without the VNNI instructions, oneDNN's product adds pairs in int16 and saturates, which the trial shows.
    """
    reason = _why_not()
    logger.info("int8 token states are read %s", f"in float32: {reason}" if reason else "by an integer product")
    return not reason


def _why_not() -> str:
    """Why the integer product cannot be used; "" if it can."""
    known = getattr(torch.cpu, "get_capabilities", None)  # absent before torch 2.10
    capabilities = {} if known is None else known()
    if not any(capabilities.get(name) for name in _VNNI):
        return f"the processor has none of {', '.join(_VNNI)}, or this torch does not say"
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    for rows, dim, tokens in ((2, 384, 1), (40, 384, 300), (26, 48, 65)):
        draw = torch.Generator().manual_seed(rows)
        q, keys = (
            torch.randint(2, (count, dim), generator=draw, dtype=torch.int8) * 254 - 127 for count in (rows, tokens)
        )
        q[0], keys[0] = 127, 127  # where saturation shows most
        if not torch.equal(torch._int_mm(q, keys.T).double(), q.double() @ keys.double().T):
            return "its int8 matrix product saturates"
    return ""


def integer_products(q: torch.Tensor, keys: Sequence[QuantizedKeys], out: torch.Tensor) -> None:
    """Dot products of query rows with the tokens of several documents.

    Args:
        q: float32 (S, D), without gradients.
        keys: documents' keys, T tokens in all, T above 0.
        out: float32 (S, T), written over.
    """
    scale = q.double().abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / 127
    rest, limbs = q.double() / scale, []
    for _ in range(_LIMBS):
        limbs.append(rest.round())
        rest = (rest - limbs[-1]) * _STEPS
    sums = torch._int_mm(torch.cat(limbs).to(torch.int8), torch.cat([key.values for key in keys]).T)
    # Every operation below rounds each number by itself. A fused multiply-add would not round alike at all places.
    total, *others = sums.float().split(len(q))
    for limb in others:
        total.mul_(_STEPS).add_(limb)
    total.mul_(torch.cat([key.scales for key in keys]))
    torch.mul(total, (scale / _STEPS ** (_LIMBS - 1)).float(), out=out)
