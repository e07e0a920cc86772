"""Processes that answer queries side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from ..errors import InputError
from ..models.devices import processors

__all__ = ["search_pool"]


@contextlib.contextmanager
def search_pool(jobs: int) -> Iterator[Executor | None]:
    """Start processes for `sightline.eval.evaluate`; None for one job.

    The processes share the cores. The products of a short list gain little from a second thread, so queries that are
    answered side by side take less time than one after the other.

    Args:
        jobs: the number of processes.

    Raises:
        InputError: if ``jobs`` is below 1.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    if jobs == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads as they stand
    with ProcessPoolExecutor(jobs, context, initializer=_share_cores, initargs=(max(1, processors() // jobs),)) as pool:
        yield pool


def _share_cores(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
