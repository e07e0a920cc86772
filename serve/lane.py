"""A lane of work: threads, a bounded queue in front of them, and callers who wait without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..errors import SightlineError
from ..models.batching import interruptible

__all__ = ["ClosedError", "Lane", "QueueFullError", "TimeLimitError"]

Work = TypeVar("Work")
Result = TypeVar("Result")


class QueueFullError(SightlineError):
    """The queue is full.

    Args:
        message: a sentence that says what is full.
        retry_after: the number of whole seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(SightlineError):
    """The server is stopping."""


class TimeLimitError(SightlineError):
    """The work took longer than allowed."""


class _AbandonedError(SightlineError):
    """Nobody waits for this work any more."""


@dataclass(slots=True, eq=False)
class _Job(Generic[Work, Result]):
    work: Work
    weight: int
    alone: bool = False
    future: Future[Result] = field(default_factory=Future)
    gone: bool = False
    # The caller's, so that what is logged and traced belongs to its request.
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


class Lane(Generic[Work, Result]):
    """Starts work in the order in which it arrives, in one thread or several. Some of it runs alone.

    Work that runs alone starts when all earlier work has ended, and later work starts only after it: so a write needs
    no lock against reads.

    Work runs in its caller's context (`contextvars`). Pieces that are handed over together run in the context of the
    first.

    Work whose caller is gone is dropped from the queue. Work that has started stops before its next forward pass
    (`interruptible`); if it makes no such passes, it runs to its end.

    Args:
        name: the name of the threads.
        handle: a function that does one or more pieces of work, and returns a result or an exception for each, in
            order.
        capacity: the number of pieces of work that may wait.
        budget: the greatest sum of the weights of pieces that are handed over together.
        threads: the number of threads that call ``handle``.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Sequence[Work]], Sequence[Result | Exception]],
        *,
        capacity: int,
        budget: int = 0,
        threads: int = 1,
    ) -> None:
        self.name = name
        self._handle = handle
        self._capacity = capacity
        self._budget = budget
        self._queue: deque[_Job[Work, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.1  # a running mean of what a job takes
        self._working = 0
        self._alone = False  # whether what is worked on runs alone
        names = [f"sightline-{name}-{number}" for number in range(threads)]
        self._threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    async def do(self, work: Work, *, seconds: float, weight: int = 1, alone: bool = False) -> Result:
        """Wait in the queue and for the work. If the caller is cancelled, the work is given up.

        Args:
            work: a piece of work that ``handle`` accepts.
            seconds: the number of seconds to wait, in the queue and for the work.
            weight: the part of the budget that the work takes.
            alone: whether the work must not run beside other work of this lane. A write must not.

        Raises:
            QueueFullError: if there is no room in the queue.
            ClosedError: after `close`.
            TimeLimitError: if there is no result after that many seconds.
        """
        job = self._put(_Job(work, weight, alone))
        result = asyncio.wrap_future(job.future)
        try:
            # Unlike `wait_for`, this cannot mistake a TimeoutError that the work raised for its own.
            done, _ = await asyncio.wait({result}, timeout=seconds)
            if not done:
                raise TimeLimitError(
                    f"not done after {seconds:g} s; ask for less, or try again when the server is less busy"
                )
            return result.result()
        finally:
            result.cancel()
            self._drop(job)

    def waiting(self) -> int:
        """The number of pieces of work in the queue."""
        return len(self._queue)

    def alive(self) -> bool:
        """Whether the threads are working."""
        return all(thread.is_alive() for thread in self._threads) and not self._closed

    def close(self, seconds: float = 10.0) -> None:
        """Refuse new work, drop the queue, and give the work in progress some seconds to stop."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                if job.future.set_running_or_notify_cancel():  # its caller may have left just now
                    job.future.set_exception(ClosedError("the server is stopping"))
            self._queue.clear()
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _put(self, job: _Job[Work, Result]) -> _Job[Work, Result]:
        with self._changed:
            if self._closed:
                raise ClosedError("the server is stopping")
            if len(self._queue) >= self._capacity:
                wait = max(1, math.ceil(len(self._queue) * self._seconds / len(self._threads)))
                raise QueueFullError(f"{len(self._queue)} requests are waiting already; try again in {wait} s", wait)
            self._queue.append(job)
            self._changed.notify()
        return job

    def _drop(self, job: _Job[Work, Result]) -> None:
        with self._changed:
            job.gone = True
            if job in self._queue:
                self._queue.remove(job)
                self._changed.notify_all()  # it may have been what the next one waited behind

    def _may_begin(self) -> bool:
        """Whether the first in the queue may run beside what runs now."""
        return bool(self._queue) and not self._alone and not (self._queue[0].alone and self._working)

    def _take(self) -> list[_Job[Work, Result]]:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._may_begin())
            jobs: list[_Job[Work, Result]] = []
            weight = 0
            while self._joins(jobs[0], weight) if jobs else self._may_begin():
                job = self._queue.popleft()
                if job.future.set_running_or_notify_cancel():
                    jobs.append(job)
                    weight += job.weight
            self._working += len(jobs)
            self._alone = any(job.alone for job in jobs)
            return jobs

    def _joins(self, first: _Job[Work, Result], weight: int) -> bool:
        """Whether the first in the queue is done together with what was taken before it."""
        if not self._queue or first.alone or self._queue[0].alone:
            return False
        return weight + self._queue[0].weight <= self._budget

    def _ended(self, jobs: Sequence[_Job[Work, Result]]) -> None:
        with self._changed:
            self._working -= len(jobs)
            self._alone = False
            self._changed.notify_all()

    def _do(self, jobs: Sequence[_Job[Work, Result]]) -> Sequence[Result | Exception]:
        with interruptible(functools.partial(_check, jobs)):
            return self._handle([job.work for job in jobs])

    def _run(self) -> None:
        while True:
            jobs = self._take()
            if not jobs:
                if self._closed:
                    return
                continue
            started = time.monotonic()
            results: Sequence[Result | BaseException]
            try:
                results = jobs[0].context.run(self._do, jobs)
            # Whatever goes wrong goes to the callers, and must not end the thread.
            except BaseException as error:
                results = [error] * len(jobs)
            for job, result in zip(jobs, results, strict=True):
                if isinstance(result, BaseException):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)
            self._ended(jobs)
            self._seconds += 0.2 * ((time.monotonic() - started) / len(jobs) - self._seconds)
            del jobs, results  # a waiting thread must not keep the last request in memory


def _check(jobs: Sequence[_Job[Work, Result]]) -> None:
    if all(job.gone for job in jobs):
        raise _AbandonedError("nobody waits for this any more")
