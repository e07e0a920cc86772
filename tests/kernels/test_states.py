"""Kept states against the float64 reference, on awkward shapes."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline import kernels
from sightline.errors import BackendError
from sightline.kernels import QuantizedKeys
from sightline.kernels.states import cpu, integer, reference
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
@pytest.mark.parametrize("rows", [1, 13])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int8 in float32", "mixed"])
@pytest.mark.parametrize("scale", [20.0, 500.0])
def test_cpu_matches_reference(lengths, rows, kind, scale, monkeypatch):
    if kind == "int8 in float32":
        monkeypatch.setattr(cpu, "exact_products", lambda: False)
    q = unit(rows, 48, seed=1)
    kinds = ["int8", "fp32", "int8", "int8", "fp16"] if kind == "mixed" else [kind.split()[0]]
    keys = [as_kind(unit(n, 48, seed=2 + i), kinds[i % len(kinds)]) for i, n in enumerate(lengths)]
    products, right = cpu.products(q, keys), reference.products(q, keys)
    expected = right.lse(scale)
    torch.testing.assert_close(products.lse(scale), expected, rtol=1e-5, atol=1e-4 if scale > 20 else 2e-5)
    torch.testing.assert_close(products.max(), right.max(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(products.mean(), right.mean(), rtol=1e-5, atol=1e-6)
    total = torch.logsumexp(expected, dim=1)
    for place, (key, length) in enumerate(zip(keys[:5], lengths, strict=False)):
        got = products.attention(place, total, scale)
        assert got.shape == (length,)
        torch.testing.assert_close(got, right.attention(place, total, scale), rtol=1e-3, atol=1e-6)
        assert torch.equal(got, kernels.states_attention(q, key, total, scale=scale))


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
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_documents_result_ignores_its_neighbours_to_the_last_bit(kind, data):
    lengths = data.draw(st.lists(st.integers(0, 70), min_size=1, max_size=12))
    rows, dim = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([16, 33, 384]))
    q, pool = unit(rows, dim), as_kind(unit(sum(lengths) + 1, dim, seed=7), kind)
    ends = np.cumsum(lengths).tolist()

    def part(start, stop):  # views, as of a mapped file
        if kind == "int8":
            return QuantizedKeys(pool.values[start:stop], pool.scales[start:stop])
        return pool[start:stop]

    def read(keys):
        products = kernels.states_products(q, keys)
        total = torch.full((rows,), 3.0)
        return (
            torch.cat([products.lse(20.0), products.mean(), products.max()]),
            [products.attention(place, total, 20.0) for place in range(len(keys))],
        )

    keys = [part(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    together, attention = read(keys)
    order = data.draw(st.permutations(range(len(keys))))
    permuted, moved = read([keys[i] for i in order])
    assert torch.equal(permuted, together[:, order])
    assert all(torch.equal(moved[place], attention[i]) for place, i in enumerate(order))
    cut = data.draw(st.integers(0, len(keys)))
    (left, _), (right, _) = read(keys[:cut]), read(keys[cut:])
    assert torch.equal(torch.cat([left, right], dim=1), together)
    fresh = [as_kind(unit(5, dim, seed=9), "fp32")]
    mixed, _ = read([*fresh, *(key for key in keys for key in (key, *fresh))])
    assert torch.equal(mixed[:, 1::2], together)


def test_long_lists_are_read_by_several_products_to_the_same_bits(monkeypatch):
    q, keys = unit(4, 32), [as_kind(unit(n, 32, seed=n), "int8") for n in (30, 1, 0, 50, 200, 7)]
    whole = kernels.states_lse(q, keys, scale=20.0)
    monkeypatch.setattr(cpu, "_TOKENS_AT_ONCE", 60)
    assert torch.equal(kernels.states_lse(q, keys, scale=20.0), whole)


@pytest.mark.parametrize("rows", [1, 13])
def test_an_integer_product_is_as_exact_as_float32(rows):
    if not integer.exact_products():
        pytest.skip("no exact int8 products on this machine")
    q = unit(rows, 384, seed=1)
    q[:, 7] *= 6  # a dimension that stands out, as MiniLM has
    q = torch.nn.functional.normalize(q, dim=1)
    keys = [as_kind(unit(n, 384, seed=2 + n), "int8") for n in (1, 2, 40, 254)]
    out = torch.empty(rows, 297)
    integer.integer_products(q, keys, out)
    exact = q.double() @ torch.cat([to_float(key) for key in keys]).double().T
    assert (out - exact).abs().max() < 2e-7
    assert (cpu.products(q, keys).lse(20.0) - reference.products(q, keys).lse(20.0)).abs().max() < 2e-5


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_damage_is_not_hidden_by_integers(damage):
    key = as_kind(unit(3, 16), "int8")
    q = unit(2, 16)
    q[1, 3] = damage
    assert not cpu.products(q, [key]).lse(20.0)[1].isfinite()
    key.scales[1] = math.nan
    assert cpu.products(unit(2, 16), [key]).lse(20.0).isnan().all()


def test_gradients_flow_to_queries_and_to_keys():
    q, key = unit(3, 16).requires_grad_(), unit(5, 16, seed=1).requires_grad_()
    keys = [as_kind(unit(4, 16, seed=2), "int8"), key]
    products = kernels.states_products(q, keys)
    torch.testing.assert_close(products.lse(20.0), reference.products(q, keys).lse(20.0))
    (products.lse(20.0).sum() + products.max().sum() + products.mean().sum()).backward()
    assert q.grad.abs().sum() > 0 and key.grad.abs().sum() > 0


GUARD = """
import torch
from sightline.kernels.states import integer
keys = torch.full((70, 384), -127, dtype=torch.int8)
q = torch.full((8, 384), 127, dtype=torch.int8)
right = torch.equal(torch._int_mm(q, keys.T).double(), q.double() @ keys.double().T)
print(integer.exact_products(), right)
"""


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_integers_are_used_only_where_they_are_exact(isa):
    run = subprocess.run(
        [sys.executable, "-c", GUARD], env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    used, right = run.stdout.split()
    assert used == "False" or right == "True"


def test_no_integers_where_the_processor_does_not_have_them_or_its_product_saturates(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert "the processor has none of" in integer._why_not()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx_vnni": True}, raising=False)

    def saturating(q, keys):  # as AVX2 does it: unsigned by signed bytes, pairs added in int16
        shifted = (q.int() + 128).reshape(len(q), -1, 2, 1)
        pairs = (shifted * keys.reshape(-1, 2, keys.shape[1]).int()).sum(dim=2)
        return pairs.clamp(-32768, 32767).sum(dim=1, dtype=torch.int32) - 128 * keys.sum(dim=0, dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert integer._why_not() == "its int8 matrix product saturates"
    monkeypatch.setattr(torch, "_int_mm", lambda q, keys: (q.double() @ keys.double()).int())
    assert torch.backends.mkldnn.is_available() is (integer._why_not() == "")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_documents(backend, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", backend)
    products = kernels.states_products(unit(3, 8), [])
    assert [part.shape for part in (products.lse(1.0), products.mean(), products.max())] == [(3, 0)] * 3


def test_backend_is_honest(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "triton")
    with pytest.raises(BackendError, match="triton"):
        kernels.states_lse(unit(3, 8), [], scale=1.0)
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    assert kernels.states_backend() == "reference"
