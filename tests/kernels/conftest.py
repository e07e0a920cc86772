"""What all tests of the kernels share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN (or the largest integer), so that what is read before it is written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device(request):
    """Where the Triton kernels run; skips their tests where Triton is not installed."""
    backend = request.node.callspec.params.get("backend") if hasattr(request.node, "callspec") else None
    if backend in (None, "triton"):
        pytest.importorskip("triton", reason="triton is not installed")
    return "cuda" if torch.cuda.is_available() else "cpu"
