"""Linear layers by oneDNN or by torch: the same products, chosen by a measurement, never for what they cannot hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sightline.models import linears
from sightline.models.linears import PackedLinear, inference_linear, linear_library, pack_linears

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def library(monkeypatch):
    def choose(name):
        monkeypatch.setattr(linears, "linear_library", lambda dtype: name)

    return choose


@needs_onednn
@settings(deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 90),
    st.booleans(),
    st.sampled_from(["none", "gelu"]),
    st.integers(0, 99),
)
def test_a_packed_layer_gives_the_product_in_float64(rows, inputs, outputs, biased, activation, seed):
    random = np.random.default_rng(seed)
    x, weight, bias = (
        random.normal(size=(rows, inputs)),
        random.normal(size=(outputs, inputs)),
        random.normal(size=outputs),
    )
    expected = torch.from_numpy(x @ weight.T + (bias if biased else 0))
    expected = nn.functional.gelu(expected) if activation == "gelu" else expected
    layer = PackedLinear(
        torch.from_numpy(weight).float(), torch.from_numpy(bias).float() if biased else None, activation
    )
    with torch.inference_mode():
        got = layer(torch.from_numpy(x).float())
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_a_row_does_not_depend_on_the_rows_beside_it():
    torch.manual_seed(0)
    layer, x = PackedLinear(torch.randn(96, 64)), torch.randn(700, 64)
    with torch.inference_mode():
        whole = layer(x)
        for rows in (2, 3, 17, 64, 333):
            assert torch.equal(layer(x[:rows].clone()), whole[:rows])


@pytest.mark.parametrize("name", ["onednn", "torch"])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_both_libraries_give_the_same_layer(library, name, activation):
    if name == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    library(name)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(8, 5), torch.randn(8), torch.randn(3, 5)
    layer = inference_linear(weight, bias, activation)
    assert isinstance(layer, PackedLinear) == (name == "onednn")
    expected = x @ weight.T + bias
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), nn.functional.gelu(expected) if activation == "gelu" else expected)


@needs_onednn
def test_only_plain_layers_in_known_formats_are_replaced(library):
    class Special(nn.Linear):
        pass

    library("onednn")
    model = nn.Sequential(nn.Linear(4, 3), nn.ModuleDict({"inner": nn.Linear(3, 3, bias=False)}), Special(3, 3))
    model.append(nn.Linear(3, 2, device="meta"))
    x = torch.randn(2, 4)
    expected = model[1]["inner"](model[0](x))
    assert pack_linears(model) is model
    kinds = [type(part) for part in (model[0], model[1]["inner"], model[2], model[3])]
    assert kinds == [PackedLinear, PackedLinear, Special, nn.Linear]
    with torch.inference_mode():
        torch.testing.assert_close(model[1]["inner"](model[0](x)), expected)
    assert (model[0].out_features, model[0].in_features) == (3, 4)


@pytest.mark.parametrize("case", ["absent", "wrong", "no operator", "slow", "fast", "strange format"])
def test_onednn_is_taken_only_where_it_is_right_and_faster(monkeypatch, case):
    dtype, times = torch.float32, [1.0, 2.0]
    if case == "absent":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    if case == "wrong":
        real = linears._onednn
        monkeypatch.setattr(linears, "_onednn", lambda *args: real(*args) + 0.1)
    if case == "no operator":

        def missing(weight):
            raise NotImplementedError("no such operator on this processor")

        monkeypatch.setattr(linears, "_packed", missing)
    if case == "slow":
        times = [0.95, 1.0]
    if case == "strange format":
        dtype = torch.float16
    monkeypatch.setattr(linears, "_fastest", lambda *calls: times)
    assert linear_library.__wrapped__(dtype) == ("onednn" if case == "fast" else "torch")
