"""How many threads a computation on the CPU takes.

Torch shares every larger product among its threads, and each waits for the slowest. Where another process has one of
the processors, the slowest waits for that process, hundreds of times in a pass: a list that took 3 seconds on one
thread was seen to take 69 on two. So a pass takes no more threads than there are idle processors when it begins.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

__all__ = ["all_threads", "idle_threads", "one_thread"]

_PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Of which the least counts: what is busy for a moment only is none. They come without a pause, in which a busy machine
# would give the processor away.
_SAMPLES = 3

_lock = threading.Lock()
_open: dict[int, tuple[int, int]] = {}  # by thread: how many it may take, how many it takes now
_local = threading.local()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let the calling thread compute alone: for many products too small to share.

    On one thread they take a few milliseconds in all, whereas on several each of some hundred waits for the slowest
    thread, and on a busy machine that was seen to take a hundred times as long.
    """
    with _threads(lambda limit: 1):
        yield


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """Let the calling thread take as many threads as torch would, even within `idle_threads`.

    Compiled code needs a number that stays the same: for another one, `torch.compile` compiles everything again.
    """
    with _threads(lambda limit: limit):
        yield


@contextlib.contextmanager
def idle_threads() -> Iterator[None]:
    """Let the calling thread take as many threads as there are idle processors, and at least one.

    It never takes more than torch would, so what ``torch.set_num_threads`` said is the limit. ``OMP_NUM_THREADS`` or
    ``MKL_NUM_THREADS`` pin the number. How many processors are busy is read from ``/proc``, so on other systems than
    Linux nothing changes. Processes of lower priority count like any other.

    Several threads may do so at once: those that others take here are not idle. It can be nested, for long work: the
    inner one looks anew.

    Example:
        >>> limit = torch.get_num_threads()
        >>> with idle_threads():
        ...     inside = torch.get_num_threads()
        >>> 1 <= inside <= limit == torch.get_num_threads()
        True
    """
    if any(os.environ.get(name) for name in _PINNED):
        yield
        return
    with _threads(_idle):
        yield


@contextlib.contextmanager
def _threads(choose: Callable[[int], int]) -> Iterator[None]:
    """Compute on as many threads as ``choose`` makes of the limit, then on as many as before."""
    me, outermost = threading.get_ident(), not hasattr(_local, "limit")
    with _lock:
        before = torch.get_num_threads()
        if outermost:
            if not hasattr(_local, "known"):
                # Torch hands the last number that any thread has set to new threads, and another's may be for a while.
                before = max([before, *(limit for limit, _ in _open.values())])
                _local.known = True
            _local.limit = before
    count = choose(_local.limit)
    with _lock:
        outer = _open.get(me)
        _open[me] = _local.limit, count
        _set(count)
    try:
        yield
    finally:
        with _lock:
            _set(before)
            if outer is None:
                del _open[me]
            else:
                _open[me] = outer
        if outermost:
            del _local.limit


def _set(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _idle(limit: int) -> int:
    """Of so many threads those for which there is a processor."""
    least = processors = os.cpu_count() or limit
    for _ in range(_SAMPLES if limit > 1 else 0):
        busy = _running() - 1  # less this thread
        if busy > processors - limit:
            # Torch's own threads count as running for some milliseconds while they wait for work.
            with _lock:
                shared = sum(count for thread, (_, count) in _open.items() if thread != threading.get_ident())
            busy = max(busy + 1 - _running_here(), 0) + shared
        least = min(least, busy)
        if processors - least >= limit:
            return limit
    return max(1, min(limit, processors - least))


def _running() -> int:
    """Threads on the whole machine that run or could run at once; 0 where nobody says."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    return 0


def _running_here() -> int:
    """Those of them that belong to this process."""
    count = 0
    with contextlib.suppress(OSError):
        for task in os.scandir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it has ended
                state = Path(task.path, "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                count += state.split()[0] == "R"
    return count
