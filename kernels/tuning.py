"""Tile sizes: a static table by default, timing on request.

``SIGHTLINE_AUTOTUNE=1`` times a few candidates on the first call of each kind and keeps the best. A kind is the
architecture, the head dimension, the group, the dtype, and causal or not: what a model has, and nothing of a list, so
that a list's numbers do not depend on the lists before it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import triton

from .packed import interpreted

__all__ = ["TIMED", "Tile", "arch", "kind", "tuned"]

logger = logging.getLogger(__name__)

_UNFIT = (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError, triton.CompilationError)

TIMED: dict[tuple[object, ...], dict[Tile, float]] = {}
"""Milliseconds of each tile that was tried, the default first, by `kind`; infinite where it does not fit."""


class Tile(NamedTuple):
    """What one program holds, with how many warps and pipeline stages, and how many registers a thread may have.

    None leaves the registers to the compiler. Fewer let several programs share a multiprocessor.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None

    def holding(self, group: int) -> Tile:
        """The same tile, with room for the query heads of one key head at least."""
        return self if self.rows >= group else self._replace(rows=triton.next_power_of_2(group))


def arch(device: torch.device) -> str:
    """Family of GPUs with about the same tile sizes: sm80 (A100), sm86 (100 KiB of shared memory), sm90, sm100."""
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return {(8, 0): "sm80", (9, 0): "sm90"}.get((major, minor), "sm100" if major in (10, 11) else "sm86")


def kind(name: str, q: torch.Tensor, group: int, causal: bool) -> tuple[object, ...]:
    """What a tuned tile is kept for; see the module's docstring."""
    return name, arch(q.device), q.shape[2], group, str(q.dtype), causal


def tuned(
    name: str,
    default: Tile,
    candidates: Sequence[Tile],
    q: torch.Tensor,
    group: int,
    causal: bool,
    run: Callable[[Tile], None],
) -> Tile:
    """The tile to use: the default, or with ``SIGHTLINE_AUTOTUNE=1`` the fastest of it and the candidates.

    Args:
        name: name of the kernel.
        default: the choice of the static table.
        candidates: other tiles to try; those that cannot be compiled for the GPU, or do not fit it, are skipped.
        q: the call's query tensor, for its device, dtype and head dimension.
        group: query heads per key head.
        causal: whether blocks are causal.
        run: runs the kernel with a tile.
    """
    if os.environ.get("SIGHTLINE_AUTOTUNE") != "1" or interpreted() or q.dtype == torch.float32:
        return default
    key = kind(name, q, group, causal)
    if key not in TIMED:
        TIMED[key] = {tile: _time(run, tile) for tile in dict.fromkeys((default, *candidates))}
        logger.info("%s: %s ms", key, TIMED[key])
    return min(TIMED[key], key=TIMED[key].__getitem__)


def _time(run: Callable[[Tile], None], tile: Tile) -> float:
    try:
        median: float = triton.testing.do_bench(lambda: run(tile), warmup=10, rep=50, return_mode="median")
    except _UNFIT:
        return float("inf")
    return median
