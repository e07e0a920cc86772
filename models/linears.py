"""Linear layers for inference on CPUs, by the faster of the two libraries that torch brings.

torch sends float32 products to MKL, which does not use AVX-512 on some processors that have it; oneDNN does. Which is
faster is measured once in a process, in a few milliseconds, and never guessed from the processor's name. oneDNN also
takes weights that are packed beforehand, which makes products of few rows faster in every number format.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["Activation", "PackedLinear", "inference_linear", "linear_library", "onednn_works", "pack_linears"]

Activation = Literal["none", "gelu"]

# A layer of MiniLM in small: enough rows to fill vectors and caches, and done in a millisecond.
_ROWS, _IN, _OUT = 128, 384, 1536
_ROUNDS = 10
# Less is not worth another library's rounding, and a choice that wavers would be worse than a slow one.
_WORTHWHILE = 0.9


@functools.cache
def linear_library(dtype: torch.dtype = torch.float32) -> Literal["onednn", "torch"]:
    """Return what multiplies here: ``onednn`` if it is right and faster than torch's choice, else ``torch``.

    Args:
        dtype: the number format of weights and inputs.

    Example:
        >>> linear_library() in ("onednn", "torch")
        True
    """
    if not onednn_works(dtype):
        return "torch"
    weight, x = _example(dtype)
    with torch.inference_mode():
        packed = _packed(weight)
        onednn, plain = _fastest(lambda: _onednn(x, packed, None, "none"), lambda: nn.functional.linear(x, weight))
    return "onednn" if onednn < _WORTHWHILE * plain else "torch"


def onednn_works(dtype: torch.dtype) -> bool:
    """Tell whether this torch has oneDNN's packed product for a number format, and the product is right.

    Args:
        dtype: the number format of weights and inputs.
    """
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, x = _example(dtype)
    with torch.inference_mode():
        try:
            got = _onednn(x, _packed(weight), None, "none")
        except (AttributeError, NotImplementedError, RuntimeError):  # a build without these operators
            return False
        exact = x.double() @ weight.double().T
        # sqrt(384) times what one product of the format may be off, with room for a sum of some length
        return bool(((got.double() - exact).abs() <= 64 * torch.finfo(dtype).eps * _IN**0.5).all())


def _example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and an input to try."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(_OUT, _IN, generator=generator).to(dtype)
    return weight, torch.randn(_ROWS, _IN, generator=generator).to(dtype)


class PackedLinear(nn.Module):
    """A linear layer whose weight is packed for oneDNN; for inference alone.

    Args:
        weight: the weight (outputs, inputs), float32 or bfloat16.
        bias: the bias (outputs,), or None.
        activation: the function that is applied to the result: ``none``, or ``gelu`` (Hendrycks and Gimpel, 2016, with
            erf).

    Example:
        >>> layer = PackedLinear(torch.eye(2), torch.ones(2))
        >>> layer(torch.tensor([[3.0, 4.0]])).tolist()
        [[4.0, 5.0]]
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: Activation = "none") -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.activation = activation
        self.packed = _packed(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs), in the number format of the weight."""
        return _onednn(x, self.packed, self.bias, self.activation)


def inference_linear(
    weight: torch.Tensor, bias: torch.Tensor | None = None, activation: Activation = "none"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make a linear layer by the faster library; see `PackedLinear` and `linear_library`.

    Example:
        >>> inference_linear(torch.eye(2), torch.ones(2))(torch.tensor([[3.0, 4.0]])).tolist()
        [[4.0, 5.0]]
    """
    if weight.device.type == "cpu" and linear_library(weight.dtype) == "onednn":
        return PackedLinear(weight, bias, activation)
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if activation == "gelu":
        return lambda x: nn.functional.gelu(nn.functional.linear(x, weight, bias))
    return lambda x: nn.functional.linear(x, weight, bias)


def pack_linears(model: nn.Module) -> nn.Module:
    """Replace the linear layers of a model by `PackedLinear`, if oneDNN is the faster library for them.

    Args:
        model: the model. Layers that are not on the CPU, have another number format, are quantized, or are of a class
            derived from ``nn.Linear`` stay as they are.

    Returns:
        The same model. It can no longer be trained.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and type(child.weight.data) is torch.Tensor:
                layer = inference_linear(child.weight, child.bias)
                if isinstance(layer, PackedLinear):
                    setattr(module, name, layer)
    return model


def _packed(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _onednn(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, activation: Activation) -> torch.Tensor:
    algorithm = "none" if activation == "gelu" else ""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], algorithm)
    return product


def _fastest(*calls: Callable[[], Any]) -> list[float]:
    """The shortest time of each, taking turns; of this thread's processor, since others may be waiting for theirs."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, times in zip(calls, spent, strict=True):
            started = time.thread_time()
            call()
            times.append(time.thread_time() - started)
    return [min(times) for times in spent]
