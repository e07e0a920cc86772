"""Kept states against the float64 reference, on awkward shapes."""

import math

import pytest
import torch

from sightline import kernels
from sightline.errors import BackendError
from sightline.kernels import QuantizedKeys
from sightline.kernels.states import cpu, reference
from sightline.kernels.states.keys import to_float

LENGTHS = [[1], [1, 1, 1], [0, 3, 0], [7, 255, 256, 257, 1], [2] * 500]


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def as_kind(key, kind):
    if kind == "fp16":
        return key.half()
    if kind == "int8":
        scales = key.abs().amax(dim=1).clamp_min(1e-12) / 127
        return QuantizedKeys((key / scales[:, None]).round().to(torch.int8), scales)
    return key


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch):
    """Memory that is read before it is written shows up as NaN."""
    real = torch.empty

    def poisoned(*args, **kwargs):
        out = real(*args, **kwargs)
        return out.fill_(math.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("scale", [1.0, 20.0, 500.0])
def test_cpu_matches_reference(lengths, rows, kind, scale):
    q = unit(rows, 48, seed=1)
    keys = [as_kind(unit(n, 48, seed=2 + i), kind) for i, n in enumerate(lengths)]
    expected = reference.states_lse(q, keys, scale)
    torch.testing.assert_close(cpu.states_lse(q, keys, scale), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(cpu.states_max(q, keys), reference.states_max(q, keys), rtol=1e-5, atol=1e-6)
    total = torch.logsumexp(expected, dim=1)
    for key, length in zip(keys, lengths, strict=True):
        got = cpu.states_attention(q, key, total, scale)
        assert got.shape == (length,)
        torch.testing.assert_close(got, reference.states_attention(q, key, total, scale), rtol=1e-3, atol=1e-6)


def test_masses_sum_to_one_over_documents_and_over_tokens():
    q, keys = unit(5, 32), [unit(n, 32, seed=n) for n in (3, 40, 1, 200)]
    lse = kernels.states_lse(q, keys, scale=20.0)
    total = torch.logsumexp(lse, dim=1)
    mass = (lse - total[:, None]).exp().mean(dim=0)
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)
    for n, key in enumerate(keys):
        tokens = kernels.states_attention(q, key, total, scale=20.0)
        assert tokens.sum().item() == pytest.approx(mass[n].item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_documents_result_ignores_its_neighbours_to_the_last_bit(kind):
    q = unit(9, 384)
    keys = [as_kind(unit(n, 384, seed=n), kind) for n in (3, 40, 1, 200, 77, 254, 8)]
    together = kernels.states_lse(q, keys, scale=20.0)
    order = [4, 0, 6, 2, 1, 5, 3]
    assert torch.equal(kernels.states_lse(q, [keys[i] for i in order], scale=20.0), together[:, order])
    alone = torch.cat([kernels.states_lse(q, [key], scale=20.0) for key in keys], dim=1)
    assert torch.equal(alone, together)
    assert torch.equal(kernels.states_max(q, keys + keys)[:, :7], kernels.states_max(q, keys + keys)[:, 7:])


def test_no_documents():
    assert kernels.states_lse(unit(3, 8), [], scale=1.0).shape == (3, 0)


def test_backend_is_honest(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton"):
        kernels.states_lse(unit(3, 8), [], scale=1.0)
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    assert kernels.states_backend() == "reference"


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_means_match_the_reference_and_come_with_the_same_lse(lengths, kind):
    q, keys = unit(5, 48, seed=1), [as_kind(unit(n, 48, seed=2 + i), kind) for i, n in enumerate(lengths)]
    lse, means = cpu.states_lse_mean(q, keys, 20.0)
    assert torch.equal(lse, cpu.states_lse(q, keys, 20.0))
    expected_lse, expected = reference.states_lse_mean(q, keys, 20.0)
    assert torch.equal(expected_lse, reference.states_lse(q, keys, 20.0))
    torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-6)
    for place, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        by_hand = (q.double() @ to_float(key).double().T).mean(dim=1) if length else torch.zeros(5).double()
        torch.testing.assert_close(means[:, place].double(), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_documents_mean_ignores_its_neighbours_to_the_last_bit(kind):
    q = unit(9, 384)
    keys = [as_kind(unit(n, 384, seed=n), kind) for n in (3, 40, 1, 200, 77, 254, 8)]
    _, together = kernels.states_lse_mean(q, keys, scale=20.0)
    order = [4, 0, 6, 2, 1, 5, 3]
    assert torch.equal(kernels.states_lse_mean(q, [keys[i] for i in order], scale=20.0)[1], together[:, order])
    alone = torch.cat([kernels.states_lse_mean(q, [key], scale=20.0)[1] for key in keys], dim=1)
    assert torch.equal(alone, together)


def test_no_documents_have_no_means():
    assert [part.shape for part in kernels.states_lse_mean(unit(3, 8), [], scale=1.0)] == [(3, 0), (3, 0)]
