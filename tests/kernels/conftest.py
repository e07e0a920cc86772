"""Where there is no CUDA device, Triton's kernels run in its interpreter, on CPU tensors."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported: it decides then


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN (or the largest integer), so that what is read before it is written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device():
    """Where the Triton kernels run."""
    return "cuda" if torch.cuda.is_available() else "cpu"
