"""Tile sizes: a static table by default, timing on request.

``SIGHTLINE_AUTOTUNE=1`` times a few candidates on the first call of each kind and keeps the best. A kind is the
architecture, the head dimension, the group, the dtype, causal or not, and the documents' usual length in powers of
two; never the number of tokens or documents, which change with every request.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton

from .packed import interpreted
from .packing import DOCUMENT, Packing

__all__ = ["Tile", "arch", "kind", "tuned"]

logger = logging.getLogger(__name__)

_best: dict[tuple[object, ...], Tile] = {}


class Tile(NamedTuple):
    """What one program holds, and with how many warps and pipeline stages."""

    rows: int
    keys: int
    warps: int
    stages: int

    def holding(self, group: int) -> Tile:
        """The same tile, with room for the query heads of one key head at least."""
        return self if self.rows >= group else self._replace(rows=triton.next_power_of_2(group))


def arch(device: torch.device) -> str:
    """Family of GPUs with about the same tile sizes: sm80 (A100), sm86 (100 KiB of shared memory), sm90, sm100."""
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return {(8, 0): "sm80", (9, 0): "sm90"}.get((major, minor), "sm100" if major in (10, 11) else "sm86")


def kind(name: str, q: torch.Tensor, layout: Packing, group: int) -> tuple[object, ...]:
    """What a tuned tile is kept for; see the module's docstring."""
    sizes = [stop - start for _, _, start, stop in layout.spans(DOCUMENT)]
    bucket = int(np.median(sizes)).bit_length() if sizes else 0
    return name, arch(q.device), q.shape[2], group, str(q.dtype), layout.causal, bucket


def tuned(
    name: str,
    default: Tile,
    candidates: Sequence[Tile],
    q: torch.Tensor,
    layout: Packing,
    group: int,
    run: Callable[[Tile], None],
) -> Tile:
    """The tile to use: the default, or with ``SIGHTLINE_AUTOTUNE=1`` the fastest of it and the candidates.

    Args:
        name: name of the kernel.
        default: from the static table.
        candidates: other tiles to try; those that do not fit the GPU are skipped.
        q: the call's query tensor, for its device, dtype and head dimension.
        layout: the call's layout.
        group: query heads per key head.
        run: runs the kernel with a tile.
    """
    if os.environ.get("SIGHTLINE_AUTOTUNE") != "1" or interpreted() or q.dtype == torch.float32:
        return default
    key = kind(name, q, layout, group)
    if key not in _best:
        times = {tile: _time(run, tile) for tile in dict.fromkeys((default, *candidates))}
        _best[key] = min(times, key=times.__getitem__)
        logger.info("%s: %s of %s ms", key, _best[key], times)
    return _best[key]


def _time(run: Callable[[Tile], None], tile: Tile) -> float:
    try:
        median: float = triton.testing.do_bench(lambda: run(tile), warmup=10, rep=50, return_mode="median")
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    return median
