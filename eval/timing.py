"""How long a call takes, and how fast a machine multiplies matrices and copies memory: the limits of what is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

__all__ = ["MatmulRate", "copy_rate", "matmul_rate", "median_seconds"]


def median_seconds(call: Callable[[], Any], times: int, *, device: str = "cpu") -> float:
    """The median time of a call, after one call that is not counted.

    Args:
        call: the function to time.
        times: the number of times to time it.
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


class MatmulRate(NamedTuple):
    """How fast matrices are multiplied.

    Args:
        flops: FLOPs per second, a multiplication and an addition being two.
        by: the library and the number format that reached it, such as ``oneDNN bfloat16``.
    """

    flops: float
    by: str


def matmul_rate(
    rows: int = 2048,
    inner: int = 384,
    columns: int = 1536,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    times: int = 30,
) -> MatmulRate:
    """The rate of the fastest matrix product: the limit that other figures are held against.

    Args:
        rows: the rows of the first matrix, (rows, inner). The default shapes are those of a feed-forward layer of
            MiniLM.
        inner: the dimension that both matrices share.
        columns: the columns of the second matrix, (inner, columns).
        device: the device to measure. On ``cpu``, the product that torch chooses is timed, and oneDNN's with packed
            weights; on ``cuda``, only the first.
        dtype: the number format of the matrices; None for float32, and on CPUs that multiply it also for bfloat16.
        times: the median of so many products counts.
    """
    import torch

    from ..models.devices import native_dtype

    formats = [dtype or torch.float32]
    if dtype is None and device == "cpu" and native_dtype("cpu") == "bfloat16":
        formats.append(torch.bfloat16)
    rates = []
    for number in formats:
        a = torch.randn(rows, inner, device=device).to(number)
        b = torch.randn(inner, columns, device=device).to(number)
        for library, call in _products(a, b):
            seconds = median_seconds(call, times, device=device)
            name = f"{library} {str(number).removeprefix('torch.')}"
            rates.append(MatmulRate(2 * rows * inner * columns / seconds, name))
    return max(rates)


def _products(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The libraries that multiply here, each with a product to time."""
    import torch

    from ..models.linears import PackedLinear, onednn_works

    yield "torch", lambda: a @ b
    if a.device.type == "cpu" and onednn_works(a.dtype):
        with torch.inference_mode():
            layer = PackedLinear(b.T)

        def packed() -> Any:
            with torch.inference_mode():
                return layer(a)

        yield "oneDNN", packed


def copy_rate(size: int = 64 << 20, *, device: str = "cpu", times: int = 5) -> float:
    """Bytes per second that are copied from memory to memory; each is read once and written once, and counts once.

    Args:
        size: the number of bytes in a copy, more than the caches hold.
        device: the device to measure, ``cpu`` or ``cuda``.
        times: the median of so many copies counts.
    """
    import torch

    # Pages that were never written to share one page of zeros, which stays in the cache.
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    return 4 * len(source) / median_seconds(lambda: target.copy_(source), times, device=device)
