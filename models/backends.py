"""Reading by another library than torch: a network that gives token states, converted and checked against itself.

OpenVINO takes the module as torch traces it; ONNX Runtime takes the ONNX file that torch exports of it. Nothing is
written to disk: a network of the default model's size is converted in about two seconds.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from ..errors import BackendError, BrokenExtraError, MissingExtraError
from ..extras import importing
from .devices import Backend
from .notices import without_notices

__all__ = ["ConvertedNetwork"]

# What rounding may do to a number of a state of unit length; measured: .000003. bfloat16 gives .001.
_TOLERANCE = 1e-4
_INPUTS, _OUTPUT = ("input_ids", "attention_mask"), "states"
_OPSET = 17

# Sessions of the process that this one was forked from. Closing one would wait for threads that are not there.
_PARENTS: list[_Session] = []

_Inputs = tuple[torch.Tensor, torch.Tensor]


class ConvertedNetwork(nn.Module):
    """A transformer whose last hidden states another library computes, on a CPU and in float32, for inference alone.

    Several threads may call it at once. It computes on as many threads as torch had when it was converted. It does not
    follow when the weights are trained, and a forked process, in which the library's threads are gone, converts anew.

    Args:
        network: the model as transformers loads it, on a CPU and in float32.
        backend: the library that computes, ``onnx`` or ``openvino``.
        ids: the token ids of a few texts of different lengths, on which the states are compared with torch's.
        pad: the id that fills up shorter texts.

    Raises:
        MissingExtraError: if the library is not installed.
        BackendError: if the library cannot convert or run this network, or a state of unit length differs by more than
            .0001.
    """

    def __init__(self, network: Any, backend: Backend, ids: Sequence[Sequence[int]], pad: int) -> None:
        super().__init__()
        self.network, self.backend, self._ids, self._pad = network, backend, list(ids), pad
        self._session, self._process = self._convert(), os.getpid()
        self._check()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles convert anew."""
        return ConvertedNetwork, (self.network, self.backend, self._ids, self._pad)

    @property
    def config(self) -> Any:
        """The transformer's configuration."""
        return self.network.config

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
    ) -> BaseModelOutput:
        """Compute the last hidden states.

        Args:
            input_ids: the token ids, int64 (B, L).
            attention_mask: int64 (B, L): 1 for the tokens of a text, which stand together, and 0 for padding.
            return_dict: an argument of transformers that has no effect here.

        Returns:
            ``last_hidden_state``, float32 (B, L, D).
        """
        if self._process != os.getpid():
            _PARENTS.append(self._session)
            self._session, self._process = self._convert(), os.getpid()
        states = self._session.run(input_ids.numpy(), attention_mask.numpy())
        return BaseModelOutput(last_hidden_state=torch.from_numpy(states))

    def _convert(self) -> _Session:
        ids, mask = _padded(self._ids, self._pad)
        try:
            with warnings.catch_warnings(), without_notices(), torch.no_grad():
                warnings.simplefilter("ignore")  # torch tells what tracing takes as given; `_check` finds out
                return _SESSIONS[self.backend](_States(self.network).eval(), (ids, mask))
        except (MissingExtraError, BrokenExtraError):
            raise
        except Exception as error:  # each library has its own, and torch's exporter others
            raise self._unable(
                f"cannot convert it ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
            ) from error

    def _check(self) -> None:
        """Compare a batch and a text alone with torch."""
        for texts in (self._ids, self._ids[-1:]):
            ids, mask = _padded(texts, self._pad)
            own = mask.bool()
            with torch.inference_mode():
                expected = self.network(input_ids=ids, attention_mask=mask).last_hidden_state[own]
                try:
                    got = self(ids, mask).last_hidden_state[own]
                except Exception as error:
                    raise self._unable(f"cannot run it ({' '.join(str(error).split())[:300]})") from error
            worst = float(((got - expected) / expected.norm(dim=-1, keepdim=True)).abs().max())
            if not worst <= _TOLERANCE:
                raise self._unable(f"gives other states (a number of one differs by {worst:.2g})")

    def _unable(self, what: str) -> BackendError:
        kind = type(self.network).__name__
        return BackendError(
            f"the backend {self.backend!r} cannot be used for this model, a {kind}: it {what}; use the backend 'torch'"
        )


class _States(nn.Module):
    """The network as a function of two tensors that gives one."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
        return states


class _Session(Protocol):
    """A converted network that is ready to run."""

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Two int64 (B, L) to float32 (B, L, D), which nobody else holds."""
        ...


class _OpenVino:
    def __init__(self, module: nn.Module, example: _Inputs) -> None:
        with importing("openvino", extra="openvino"):
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        # What openvino.convert_model does, without its telemetry.
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(module, example_input=dict(zip(_INPUTS, example, strict=True)))
        model = frontend.convert(frontend.load(decoder))
        options = {
            "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 by itself where the processor has it
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the processors are not ours alone
        }
        self._compiled = openvino.Core().compile_model(model, "CPU", options)
        self._of_thread = threading.local()

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        request = getattr(self._of_thread, "request", None)
        if request is None:  # one serves one thread
            request = self._of_thread.request = self._compiled.create_infer_request()
        states: np.ndarray = request.infer([ids, mask])[0]
        return states


class _OnnxRuntime:
    def __init__(self, module: nn.Module, example: _Inputs) -> None:
        with importing("onnx", "onnxruntime", extra="onnx"):
            import onnx  # noqa: F401 - torch's exporter needs it
            import onnxruntime

        file: Any = io.BytesIO()  # torch's types know paths alone
        sizes = {0: "texts", 1: "tokens"}
        # The exporter over torch.export needs another package, onnxscript, for the same file.
        torch.onnx.export(
            module,
            example,
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(_INPUTS),
            output_names=[_OUTPUT],
            dynamic_axes=dict.fromkeys((*_INPUTS, _OUTPUT), sizes),
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        states: np.ndarray = self._session.run(None, dict(zip(_INPUTS, (ids, mask), strict=True)))[0]
        return states


_SESSIONS: dict[str, Callable[[nn.Module, _Inputs], _Session]] = {"onnx": _OnnxRuntime, "openvino": _OpenVino}


def _padded(texts: Sequence[Sequence[int]], pad: int) -> _Inputs:
    """Ids and mask, int64 (B, L) each, filled up on the right."""
    ids = torch.full((len(texts), max(map(len, texts))), pad)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return ids, mask
