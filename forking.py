"""Forked workers (multiprocessing's ``fork``, a preloading web server, a data loader) compute on one thread.

A fork copies the memory of a process, but only one of its threads. The thread pools of torch and FAISS (OpenMP) then
count on threads that do not exist, and the first product that is shared among them never ends. On one thread, nothing
is shared.
"""

from __future__ import annotations

import os
import sys

__all__ = ["compute_alone_after_fork"]


def compute_alone_after_fork() -> None:
    """Let forked children of this process compute on one thread from now on.

    Sightline calls this once, when it is imported. Spawn children that are to use more threads.

    Example:
        >>> compute_alone_after_fork()
    """
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=_compute_alone)


def _compute_alone() -> None:
    # A library that the parent has not imported has started no thread.
    for library, name in (("torch", "set_num_threads"), ("faiss", "omp_set_num_threads")):
        limit = getattr(sys.modules.get(library), name, None)
        if limit is not None:
            limit(1)
