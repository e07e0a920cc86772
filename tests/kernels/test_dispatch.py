"""The choice of a backend, and that it is honest."""

import logging

import pytest
import torch

from sightline.errors import BackendError
from sightline.kernels import Context, Packing, block_attention, choose, dispatch


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("SIGHTLINE_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_the_fastest_that_runs():
    assert choose("cpu") == ("cpu", "fastest on cpu")
    assert choose("cpu", torch.bfloat16, 80).backend == "cpu"


def test_overrides(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    assert choose("cpu") == ("reference", "SIGHTLINE_BACKEND")
    assert choose("cpu", backend="cpu") == ("cpu", "asked for"), "the argument comes before the environment"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cpu", torch.float32, 64, "cuda"), "no backend 'cuda'.*reference, cpu, triton"),
        (("cpu", torch.float32, 64, "triton"), "on the CPU, where Triton runs only in its interpreter"),
        (("meta", torch.float32, 64, "cpu"), "tensors are on meta"),
        (("meta", torch.float32, 64, "triton"), "does not run on meta"),
        (("cuda", torch.float64, 64, "triton"), "not in torch.float64"),
        (("cuda", torch.float32, 512, "triton"), "up to 256 dimensions, not 512"),
    ],
)
def test_what_cannot_run_says_why(arguments, says):
    *rest, backend = arguments
    with pytest.raises(BackendError, match=says):
        choose(*rest, backend=backend)


def test_a_missing_triton_is_said_and_replaced_by_the_reference(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: False)
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        choice = choose("cuda", torch.bfloat16, 64)
    assert choice.backend == "reference" and "not installed" in choice.why
    assert "slow reference" in caplog.text
    with pytest.raises(BackendError, match="'triton' is not installed"):
        choose("cuda", torch.bfloat16, 64, backend="triton")


def test_calls_go_where_they_are_told(monkeypatch):
    layout = Packing([Context([3], [1])])
    q = k = v = torch.zeros(4, 1, 8)
    monkeypatch.setenv("SIGHTLINE_BACKEND", "triton")
    with pytest.raises(BackendError, match="SIGHTLINE_BACKEND"):
        block_attention(q, k, v, layout, scale=1)
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    called = []
    monkeypatch.setattr(dispatch, "logger", None)
    from sightline.kernels.attention import reference

    monkeypatch.setattr(reference, "block_attention", lambda *args: called.append(args))
    block_attention(q, k, v, layout, scale=1)
    assert len(called) == 1
