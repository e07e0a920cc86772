"""How many threads a kernel on the CPU takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let the calling thread compute alone: for many products too small to share.

    On one thread they take a few milliseconds in all, whereas on several each of some hundred waits for the slowest
    thread, and on a busy machine that was seen to take a hundred times as long. Torch keeps this setting per thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
