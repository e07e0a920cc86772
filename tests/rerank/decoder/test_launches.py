"""What a pass asks of a GPU beside the model: how many kernels a layer that is read launches, and whether it waits.

Counted on tensors without data: a copy to the host, which makes a GPU's queue run dry, is an error there.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.kernels import Context, Packing, dispatch
from sightline.rerank.decoder import forward
from sightline.rerank.layout import load_layout

triton_lse = pytest.importorskip("sightline.kernels.lse.triton", reason="triton is not installed", exc_type=ImportError)

_NOT_LAUNCHED = ("aten::empty", "aten::detach", "aten::new_empty")  # they only allocate, or rename


class Launches(TorchDispatchMode):
    """Counts torch's kernels, and copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.kernels, self.moved = Counter(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        is_view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        if not is_view and not name.startswith(_NOT_LAUNCHED):
            self.kernels[name] += 1
        devices = {x.device.type for x in (*args, out) if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            self.moved.append(name)
        return out


@pytest.fixture
def launched(monkeypatch):
    """Launches of the Triton kernels by name; none runs."""
    counts = Counter()

    class Counted:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *args, **kwargs: counts.update([self.name])

    for name in ("_forward", "_token_mass"):
        monkeypatch.setattr(triton_lse, name, Counted(name))
    monkeypatch.setattr(dispatch, "_cannot", lambda *args: None)
    monkeypatch.delenv("SIGHTLINE_BACKEND", raising=False)
    return counts


def per_layer(launched, layout, documents, heads, *, tokens):
    """Launches of torch and of Triton in the second layer of a pass; what is made once has been made by then."""
    packing = Packing([Context([3] * documents, [4], 5)]).with_signal([3 * documents + 6, 3 * documents + 8])
    scope = forward.Wanted(layout, {0: heads, 1: heads}, tokens=tokens)
    readings = forward._Readings(scope, packing, [list(range(documents))])
    moved = packing.to("meta")
    q, k = (torch.empty(n, h, 16, device="meta", dtype=torch.bfloat16) for n, h in ((2, 8), (packing.tokens, 2)))
    with torch.inference_mode():
        readings.add(0, q, k, 0.25, None, moved)
        launched.clear()
        with Launches() as counted:
            readings.add(1, q, k, 0.25, None, moved)
    assert not counted.moved, "copies between host and device make a layer wait"
    return sum(counted.kernels.values()), dict(launched)


@pytest.mark.parametrize("heads", [None, (5, 2)])
def test_a_layer_that_is_read_launches_as_much_for_500_documents_as_for_5(heads, launched):
    changes = {"calibration": "none", "outliers": None, "length": "sum"}
    maxsim = load_layout("icr-block", readout="maxsim", **changes)
    mass = load_layout("icr-block", calibration="none", outliers=None)
    for layout, tokens, kernels in (
        (maxsim, False, {"_forward": 2 + (maxsim.readout.normalisation == "all_keys")}),
        (mass, True, {"_forward": 1 + (mass.readout.normalisation == "all_keys"), "_token_mass": 1}),
    ):
        few, many = (per_layer(launched, layout, n, heads, tokens=tokens) for n in (5, 500))
        assert few == many
        assert many[1] == kernels
        assert many[0] <= 10, "torch's own: normalisers, and the choice of heads"


@pytest.mark.parametrize("stride", [1, 10])
def test_documents_to_be_kept_are_copied_once_each(stride):
    layers, documents = 6, [7, 30, 1, 12]
    context = Context(documents, (), 5)
    positions = forward.positions_of(context, load_layout("icr-block"))
    call = forward._DocumentPass(context, positions, "exact", stride, layers)
    keys, values = torch.randn(2, layers, 55, 2, 4).unbind()
    with torch.inference_mode(), Launches() as counted:
        for layer in range(layers - 1):
            call._keep("keys", keys[layer])
            call._keep("values", values[layer])
        call._keep("keys", keys[-1])
        written = sum(counted.kernels.values())
        blocks = call.blocks()
        copied = sum(counted.kernels.values()) - written
    assert written == 2 * (2 * layers - 1), "one for the instruction and one for the documents"
    assert copied <= (1 if stride == 1 else 2) * len(documents)
    start = 5
    for block, length in zip(blocks[1:], documents, strict=True):
        places = [start + place for place in forward.strided(length, stride)]
        assert len(block.keys) == layers and len(block.values) == layers - 1
        assert all(torch.equal(a, b[places]) for a, b in zip(block.keys, keys, strict=True))
        assert all(torch.equal(a, b[places]) for a, b in zip(block.values, values[:-1], strict=True))
        assert block.keys[0].untyped_storage().nbytes() == len(places) * 8 * 4 * (2 * layers - 1)
        start += length
    assert all(torch.equal(a, b[:5]) for a, b in zip(blocks[0].keys, keys, strict=True))


def test_kept_documents_are_joined_by_two_copies_however_many_they_are():
    own = torch.randn(4, 2, 8)
    for count in (3, 300):
        kept = [torch.randn(1 + i % 5, 2, 8) for i in range(count)]
        with torch.inference_mode(), Launches() as counted:
            joined = forward.joined(kept, own)
        assert torch.equal(joined, torch.cat([*kept, own]))
        assert counted.kernels == {"aten::cat": 1, "aten::copy_": 1}
