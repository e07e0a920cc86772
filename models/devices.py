"""Choose the device, the number format and the library that a model computes with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import InputError
from ..wording import did_you_mean, quoted

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "choose_backend", "choose_device", "native_dtype", "processors"]

Backend = Literal["torch", "onnx", "openvino"]
"""What computes the token states of a block reader: torch, ONNX Runtime or OpenVINO."""


def choose_backend(asked: str | None, device: str | torch.device | None, dtype: str | None) -> Backend:
    """Choose the library that computes.

    Args:
        asked: the name of the library. If None, torch.
        device: the torch device that was asked for, or None.
        dtype: the number format that was asked for, or None.

    Raises:
        InputError: if there is no such backend, or it does not compute on this device or in this format.

    Example:
        >>> choose_backend(None, "cuda", "bfloat16"), choose_backend("openvino", None, None)
        ('torch', 'openvino')
    """
    names = get_args(Backend)
    for name in names:
        if name == (asked or "torch"):
            if name != "torch" and (str(device or "cpu") != "cpu" or (dtype or "float32") != "float32"):
                raise InputError(
                    f"the backend {name!r} reads on the device 'cpu' in float32, and {str(device or 'cpu')!r} in "
                    f"{dtype or 'float32'} was asked for; leave device and dtype out, or take the backend 'torch'"
                )
            chosen: Backend = name
            return chosen
    raise InputError(
        f"the backend must be one of {', '.join(map(repr, names))}, not "
        f"{quoted(asked)}{did_you_mean(str(asked), names)}"
    )


def choose_device(asked: str | torch.device | None) -> torch.device:
    """Choose the device to compute on.

    Args:
        asked: a torch device. If None, CUDA if there is one, else the CPU.

    Raises:
        InputError: if the device cannot be used.

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
    """Return ``bfloat16`` if a device multiplies matrices of it in hardware, else ``float32``, since emulation is slow.

    Args:
        device: the torch device; see `choose_device`.
    """
    import torch

    device = choose_device(device)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def processors() -> int:
    """Return the number of processors that this process may use.

    Example:
        >>> processors() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
