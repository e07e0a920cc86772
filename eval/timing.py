"""How long a call takes, and how fast a machine multiplies matrices and copies memory: the limits of what is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["copy_rate", "matmul_rate", "median_seconds"]


def median_seconds(call: Callable[[], Any], times: int, *, device: str = "cpu") -> float:
    """The median time of a call, after one call that is not counted.

    Args:
        call: what to time.
        times: how often to time it.
        device: where it computes; on ``cuda`` the clock stops when the GPU has finished.
    """
    import torch

    finish: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    spent = []
    for _ in range(times):
        finish()
        started = time.perf_counter()
        call()
        finish()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def matmul_rate(
    rows: int = 2048,
    inner: int = 384,
    columns: int = 1536,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    times: int = 30,
) -> float:
    """FLOPs per second of torch's matrix product, a multiplication and an addition being two.

    Args:
        rows: the rows of the first matrix, (rows, inner). The default shapes are those of a feed-forward layer of
            MiniLM.
        inner: what both matrices share.
        columns: the columns of the second matrix, (inner, columns).
        device: ``cpu`` or ``cuda``.
        dtype: the number format of the matrices; None for float32.
        times: the median of so many products counts.
    """
    import torch

    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / median_seconds(lambda: a @ b, times, device=device)


def copy_rate(size: int = 64 << 20, *, device: str = "cpu", times: int = 5) -> float:
    """Bytes per second that are copied from memory to memory; each is read once and written once, and counts once.

    Args:
        size: the number of bytes in a copy, more than the caches hold.
        device: ``cpu`` or ``cuda``.
        times: the median of so many copies counts.
    """
    import torch

    # Pages that were never written to share one page of zeros, which stays in the cache.
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 4 * len(source) / median_seconds(lambda: target.copy_(source), times, device=device)
