"""Read the passages of a build in Ray's workers: several processes of this machine, or of a cluster.

The process that builds takes documents from their source, cuts them into passages and skips those that are stored.
Workers, each with the models loaded once, read the rest, a batch at a time, and return it in order. So the index is the
one that a single process builds, and a killed build continues like any other. If several processes may write to a
store, the workers write themselves.

This uses Ray's actors, not Ray Data: documents come as a stream from any source and are written in its order, and what
is left to read is what the index lacks, whereas Ray Data starts from files that its own tasks read, and keeps its
progress apart from the index. What Ray Data would add is reading one source on several machines, which
`sightline.retrieval.shards` does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import math
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import InputError, WorkerError
from ..extras import importing
from ..models.encoder import Encoder
from ..retrieval.reading import Batch, ReadingPlan, StoredBatch, read_batch

__all__ = ["RayReading"]

logger = logging.getLogger(__name__)

_PENDING = 2  # batches that a worker has: one that it reads, and one that waits
_AHEAD = 4  # batches for each worker, with those that are read and wait for one before them
_DEATHS = 3
_WAIT = 60.0  # seconds without an answer, until the log says so
_FOLDER = "sightline-ray-"
_LONGEST = 20  # characters of the folder for temporary files: Ray's sockets lie below it, and have 107 in all


class RayReading:
    """Reads passages in Ray's workers, for the ``reading`` of `sightline.Index.build` and of a store's ``build``.

    Ray starts with the first batch. If ``RAY_ADDRESS`` is set in the environment, it is a running cluster, whose
    machines have Sightline and the models at the same paths; else Ray runs on this machine until the end.

    A batch whose worker dies goes to a new one. While the process that builds is busy with writing, no more than four
    batches for each worker wait in memory.

    Args:
        workers: the number of processes that read. If None, as many as there are processors (or GPUs, if each takes
            some).
        gpus: the number of GPUs that each worker takes. A fraction, such as 0.5, shares one.

    Raises:
        MissingExtraError: if Ray is not installed.
        InputError: if a number is out of range.

    Example:
        >>> with RayReading(workers=2) as reading:  # doctest: +SKIP
        ...     Index.build("papers.index", load_documents("papers.jsonl"), reading=reading).close()
    """

    def __init__(self, *, workers: int | None = None, gpus: float = 0.0) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"workers must be at least 1, not {workers}")
        if not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus == int(gpus))):
            raise InputError(f"gpus of a worker must be a part of one, or a whole number, not {gpus}")
        with importing("ray", extra="ray"):
            import ray
        self._ray = ray
        self._asked, self._gpus = workers, gpus
        self._own = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        self._own.close()

    def __call__(self, batches: Iterator[Batch], plan: ReadingPlan) -> Iterator[StoredBatch | None]:
        """Read batches, in order.

        Args:
            batches: the batches, as a stream.
            plan: what to read, and with which models.

        Raises:
            WorkerError: if workers die repeatedly with one batch.
            InputError: if Ray cannot be reached, or does not have enough GPUs.
            SightlineError: if reading raised one in a worker, such as a `ModelError`.
        """
        pool: _Pool | None = None
        window: deque[_Task] = deque()
        failed: Exception | None = None

        def take() -> Batch | None:
            nonlocal failed
            try:
                return next(batches, None)
            except Exception as error:  # raised when what came before it is written
                failed = error
                return None

        following = take()
        while following is not None or window:
            if pool is None:
                pool = self._start(plan)
            while following is not None and len(window) < pool.ahead and pool.has_room:
                window.append(pool.submit(following, plan.table()))
                following = take()
            while window and window[0].done:
                yield window.popleft().result
            if window and not (following is not None and len(window) < pool.ahead and pool.has_room):
                pool.wait()
        if failed is not None:
            raise failed

    # -- Ray ---------------------------------------------------------------------------------------------------------

    def _start(self, plan: ReadingPlan) -> _Pool:
        ray = self._ray
        if not ray.is_initialized():
            try:
                self._initialise()
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                where = os.environ.get("RAY_ADDRESS")
                what = f"reached at {where} (RAY_ADDRESS)" if where else "started"
                raise InputError(f"Ray cannot be {what}: {' '.join(str(error).split())[:300]}") from error
        there = ray.cluster_resources()
        processors, gpus = int(there.get("CPU", 1)), float(there.get("GPU", 0))
        if self._gpus > gpus:
            raise InputError(f"each worker is to take {self._gpus:g} GPUs, and Ray has {gpus:g}; leave them out")
        workers = self._asked or max(1, int(gpus / self._gpus) if self._gpus else processors)
        each = max(1, processors // workers)
        actor = ray.remote(_Worker).options(num_cpus=each, num_gpus=self._gpus)
        job = (plan.manifest, plan.index, plan.load, plan.store)
        pool = _Pool(ray, actor, ray.put(job), workers, plan.index)
        self._own.callback(pool.close)
        return pool

    def _initialise(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if os.environ.get("RAY_ADDRESS"):
            self._ray.init(**quiet)
            self._own.callback(self._ray.shutdown)
            return
        folder = self._own.enter_context(_temporary_folder())
        processors = max(len(os.sched_getaffinity(0)), self._asked or 1)
        self._own.callback(self._ray.shutdown)
        self._ray.init(address="local", num_cpus=processors, include_dashboard=False, _temp_dir=str(folder), **quiet)


class _Worker:
    """What runs in a process of its own."""

    def __init__(self, job: tuple[Any, ...]) -> None:
        self._manifest, self._index, self._load, self._store = job
        self._encoder: Encoder | None = None

    def work(self, batch: Batch, table: np.ndarray | None) -> StoredBatch | None:
        """Read a batch, and give all of it but the documents, which the caller has; or write it, and give None."""
        if self._store is not None:
            self._store.write_batch(batch)
            return None
        if self._encoder is None:
            self._encoder = self._load()
        read = read_batch(self._encoder, self._manifest, batch, self._index, table)
        return dataclasses.replace(read, documents=())


@dataclass(slots=True, eq=False)
class _Task:
    batch: Batch
    table: np.ndarray | None
    deaths: int = 0
    done: bool = False
    result: StoredBatch | None = None


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker, and the batches that it has, oldest first."""

    worker: Any
    tasks: dict[Any, _Task] = field(default_factory=dict)


class _Pool:
    """Workers, each with a few batches; one that dies is replaced."""

    def __init__(self, ray: Any, actor: Any, job: Any, workers: int, index: str) -> None:
        self._ray, self._actor, self._job, self._index = ray, actor, job, index
        self._seats = [_Seat(actor.remote(job)) for _ in range(workers)]
        self.ahead = _AHEAD * workers

    @property
    def has_room(self) -> bool:
        return any(len(seat.tasks) < _PENDING for seat in self._seats)

    def submit(self, batch: Batch, table: np.ndarray | None) -> _Task:
        """Give a batch to the worker that has least to do."""
        task = _Task(batch, table)
        self._hand(min(self._seats, key=lambda seat: len(seat.tasks)), task)
        return task

    def _hand(self, seat: _Seat, task: _Task) -> None:
        seat.tasks[seat.worker.work.remote(task.batch, task.table)] = task

    def wait(self) -> None:
        """Wait until at least one batch is read."""
        pending = {ref: seat for seat in self._seats for ref in seat.tasks}
        ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=_WAIT)
        if not ready:
            there = {name: count for name, count in self._ray.cluster_resources().items() if name in ("CPU", "GPU")}
            logger.warning("%s: no worker has answered for %.0f s; Ray has %s", self._index, _WAIT, there)
        for ref in ready:
            seat = pending[ref]
            if ref in seat.tasks:  # not of a worker that was found dead just now
                self._take(seat, ref)

    def _take(self, seat: _Seat, ref: Any) -> None:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(ref)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except errors.RayError as error:
            self._replace(seat, error)
            return
        task = seat.tasks.pop(ref)
        task.done = True
        task.result = None if result is None else dataclasses.replace(result, documents=task.batch)

    def _replace(self, seat: _Seat, error: Exception) -> None:
        """Give the batches of a worker that died to a new one; the first of them is what it was at."""
        tasks = list(seat.tasks.values())
        first = tasks[0]
        first.deaths += 1
        ids = [document.id for document, _ in first.batch]
        what = f"documents {ids[0]!r} to {ids[-1]!r}"
        reason = str(error).strip().partition("\n")[0].rstrip(".")[:200]
        if first.deaths >= _DEATHS:
            raise WorkerError(
                f"{self._index}: {first.deaths} workers died with {what} ({reason}); is memory short? What was written "
                "before is kept: try again with fewer workers, or without --driver ray"
            ) from error
        logger.warning("%s: a worker died with %s, which goes to another (%s)", self._index, what, reason)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(seat.worker)
        seat.worker, seat.tasks = self._actor.remote(self._job), {}
        for task in tasks:
            self._hand(seat, task)

    def close(self) -> None:
        """End the workers."""
        for seat in self._seats:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(seat.worker)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder for Ray's files, which is removed at the end; so are those of processes that were killed."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > _LONGEST:
        parent = Path("/tmp")
    for left in parent.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if not (left / "lock").exists():  # removed once, while processes of Ray's were still writing to it
                if time.time() - left.stat().st_mtime > _WAIT:
                    shutil.rmtree(left, ignore_errors=True)
                continue
            with (left / "lock").open("r+b") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))
    try:
        with (folder / "lock").open("wb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
