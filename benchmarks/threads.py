"""How long a ranking takes on one thread, on all, and on idle processors only; quiet, and beside busy processes.

python -m sightline.benchmarks.threads                                    (minilm)
python -m sightline.benchmarks.threads --reranker minilm --reranker hf:MODEL#icr-block
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer

from ..rerank.base import Reranker
from ..rerank.loading import load_reranker
from .timing import print_report

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_WORDS = "cats purr when they are content and iron rusts in the rain while dogs bark at strangers on long walks".split()
_LISTS = {"4 x 20 words": (4, 20), "20 x 100 words": (20, 100)}
_PIN = "OMP_NUM_THREADS"  # read anew before each pass; see `idle_threads`


@contextlib.contextmanager
def _beside(busy: int) -> Iterator[None]:
    """So many processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _policy(name: str, threads: int) -> Iterator[None]:
    """``one`` thread, ``all`` threads whatever else runs, or ``idle`` processors only."""
    torch.set_num_threads(1 if name == "one" else threads)
    if name != "idle":
        os.environ[_PIN] = str(torch.get_num_threads())
    try:
        yield
    finally:
        os.environ.pop(_PIN, None)
        torch.set_num_threads(threads)


def _times(ranker: Reranker, documents: list[str], threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of wall time by policy; they take turns, so that a machine whose load changes favours none."""
    taken: dict[str, list[float]] = {"one": [], "all": [], "idle": []}
    for _ in range(repeats):
        for name, times in taken.items():
            with _policy(name, threads):
                started = time.perf_counter()
                ranker.rank("what do cats do when they are content", documents)
                times.append(1e3 * (time.perf_counter() - started))
    return {
        name: {"median": round(statistics.median(times), 1), "worst": round(max(times), 1)}
        for name, times in taken.items()
    }


@app.command()
def main(
    reranker: Annotated[list[str] | None, typer.Option(help="A reranker's name; you may give several.")] = None,
    busy: Annotated[int, typer.Option(help="Busy processes beside, in the second half.", min=1)] = 1,
    repeats: Annotated[int, typer.Option(help="How often each is timed.", min=1)] = 7,
) -> None:
    """Time short and ordinary lists on one thread, on all, and on idle processors, with and without busy neighbours."""
    os.environ.pop(_PIN, None)
    threads = torch.get_num_threads()
    if threads == 1:
        raise typer.BadParameter(f"torch has one thread only; unset {_PIN}")
    rows: list[dict[str, Any]] = []
    for name in reranker or ["minilm"]:
        ranker = load_reranker(name)
        for neighbours in (0, busy):
            with _beside(neighbours):
                for what, (count, words) in _LISTS.items():
                    texts = [
                        " ".join(_WORDS[(i + j * (i + 1)) % len(_WORDS)] for j in range(words)) for i in range(count)
                    ]
                    ranker.rank("what do cats do", texts)
                    times = _times(ranker, texts, threads, repeats)
                    rows.append({"reranker": ranker.name, "busy": neighbours, "list": what, "ms": times})
    print_report({"threads": threads, "figures": rows})


if __name__ == "__main__":
    app()
