"""What the benchmarks share: timing methods side by side, and saying what was run, and where."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..cli.console import console
from ..eval.provenance import portable_command

__all__ = ["command_line", "machine", "own_kilobytes", "print_report", "seconds_in_turns"]

SECONDS = 1.0
"""How long `seconds_in_turns` times each method at least on a CPU."""


def seconds_in_turns(methods: Mapping[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Median seconds of each method, after a warm-up.

    On a CPU the methods take turns, so that a machine whose speed drifts favours none. On a GPU Triton times them with
    CUDA events, and clears the L2 cache between calls.
    """
    if device == "cuda":
        from triton.testing import do_bench

        return {name: do_bench(op, warmup=50, rep=200, return_mode="median") / 1e3 for name, op in methods.items()}
    times: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        for op in methods.values():
            op()
        while any(sum(taken) < SECONDS or len(taken) < 5 for taken in times.values()):
            for name, op in methods.items():
                started = time.perf_counter()
                op()
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def own_kilobytes(process: int) -> int:
    """Memory that belongs to a process alone, without the pages of mapped files (Linux).

    Args:
        process: its number.
    """
    match = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1])


def machine(device: str = "cpu") -> dict[str, str]:
    """What the figures depend on besides the code: versions, processor, cores and threads, or the GPU."""
    facts = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    facts["cores"] = str(os.cpu_count())
    try:
        import triton

        facts["triton"] = triton.__version__
    except ModuleNotFoundError:
        facts["triton"] = "not installed"
    if device == "cuda":
        return facts | {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return facts | {"device": "CPU", "threads": str(torch.get_num_threads())}


def command_line() -> str:
    """The command that started this process, as one can type it again; paths come without their folders."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    program = sys.argv[0] if main is None else f"-m {main.name}"
    return f"python {program} {portable_command(sys.argv).partition(' ')[2]}".strip()


def print_report(figures: Mapping[str, Any]) -> None:
    """Print figures as JSON, with the command that gave them and what they depend on."""
    console.print_json(json.dumps({"command": command_line(), "versions": machine(), **figures}))
