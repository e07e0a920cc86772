"""Which device and which number format a model computes with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["choose_device", "native_dtype", "processors"]


def choose_device(asked: str | torch.device | None) -> torch.device:
    """The device to compute on.

    Args:
        asked: a torch device; None for CUDA where there is one, else CPU.

    Raises:
        InputError: if it cannot be used.

    Example:
        >>> choose_device("cpu").type
        'cpu'
    """
    import torch

    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # a build without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(f"the device {str(asked)!r} cannot be used here: {reason}") from error
    return device


def native_dtype(device: str | torch.device | None) -> str:
    """``bfloat16`` if a device multiplies matrices of it in hardware, else ``float32``: emulation would be slow.

    Args:
        device: see `choose_device`.
    """
    import torch

    device = choose_device(device)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def processors() -> int:
    """The processors that this process may use.

    Example:
        >>> processors() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
