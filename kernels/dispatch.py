"""Choose a backend: the one place where that happens.

``SIGHTLINE_BACKEND`` or the argument ``backend`` overrides the choice; what cannot run is an error that says why.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Literal, NamedTuple, get_args

import torch

from .errors import backend_error

__all__ = ["Backend", "Choice", "choose"]

logger = logging.getLogger(__name__)

Backend = Literal["reference", "cpu", "triton"]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class Choice(NamedTuple):
    """A backend, and why it was chosen."""

    backend: Backend
    why: str


def choose(
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    head_dim: int = 64,
    *,
    backend: str | None = None,
) -> Choice:
    """Choose the backend for a kernel call with such tensors.

    Args:
        device: the device of the tensors.
        dtype: the dtype of the tensors. ``reference`` and ``cpu`` also accept float64, for checks.
        head_dim: D, from 1 to 256. On ``triton``, 32, 64, 128 and 256 waste nothing; others are padded inside the
            kernel to the next power of two (80 and 96 to 128).
        backend: the name of a backend. If None, ``SIGHTLINE_BACKEND``, else the fastest that runs.

    Raises:
        BackendError: if the backend that you ask for cannot run. The message says why.

    Example:
        >>> choose("cpu", backend="reference")
        Choice(backend='reference', why='asked for')
    """
    name, source = (backend, "asked for") if backend else (os.environ.get("SIGHTLINE_BACKEND"), "SIGHTLINE_BACKEND")
    device = torch.device(device)
    if name:
        if name not in get_args(Backend):
            raise backend_error(
                f"there is no backend {name!r} ({source}); choose one of {', '.join(get_args(Backend))}"
            )
        if reason := _cannot(name, device, dtype, head_dim):
            raise backend_error(f"backend {name!r} ({source}) cannot run: {reason}")
        return Choice(name, source)  # type: ignore[arg-type]
    fast: Backend = "cpu" if device.type == "cpu" else "triton"
    if reason := _cannot(fast, device, dtype, head_dim):
        _say_once(f"the {fast} kernels cannot run: {reason}; the slow reference is used")
        return Choice("reference", f"{fast} cannot run: {reason}")
    return Choice(fast, f"fastest on {device.type}")


def _cannot(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a backend cannot run, or None if it can."""
    if backend == "reference":
        return None
    if backend == "cpu":
        return None if device.type == "cpu" else f"the tensors are on {device}, not on the CPU"
    if dtype not in _FLOATS:
        return f"it computes in float32, float16 and bfloat16, not in {dtype}"
    if head_dim > 256:
        return f"it takes heads of up to 256 dimensions, not {head_dim}"
    if not _has_triton():
        return "the package 'triton' is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type == "cpu" and not interpreted:
        return "the tensors are on the CPU, where Triton runs only in its interpreter (TRITON_INTERPRET=1, for tests)"
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    if device.type not in ("cpu", "cuda"):
        return f"Triton does not run on {device.type}"
    return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _say_once(message: str) -> None:
    logger.warning("%s", message)
