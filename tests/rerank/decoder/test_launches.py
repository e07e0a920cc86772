"""What a pass asks of a GPU beside the model: how many kernels a layer that is read launches, and whether it waits.

Counted on tensors without data: a copy to the host, which makes a GPU's queue run dry, is an error there.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.kernels import Context, Packing, dispatch
from sightline.rerank.decoder import forward
from sightline.rerank.decoder.kept import KeptBlock, joined
from sightline.rerank.layout import load_layout

triton_lse = pytest.importorskip("sightline.kernels.lse.triton", reason="triton is not installed", exc_type=ImportError)
from sightline.kernels.attention import triton as triton_attention

_NOT_LAUNCHED = ("aten::empty", "aten::detach", "aten::new_empty")  # they only allocate, or rename


class Counted:
    """Stands in for a Triton kernel, and counts its launches."""

    def __init__(self, name, counts):
        self.name, self.counts = name, counts

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.counts.update([self.name])


class Launches(TorchDispatchMode):
    """Counts torch's kernels, and copies from one device to another; and says how many numbers the largest wrote."""

    def __init__(self):
        super().__init__()
        self.kernels, self.moved, self.largest = Counter(), [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        is_view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        if not is_view and not name.startswith(_NOT_LAUNCHED):
            self.kernels[name] += 1
            self.largest = max(self.largest, out.numel() if isinstance(out, torch.Tensor) else 0)
        devices = {x.device.type for x in (*args, out) if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            self.moved.append(name)
        return out


@pytest.fixture
def launched(monkeypatch):
    """Launches of the Triton kernels by name; none runs."""
    counts = Counter()
    for name in ("_forward", "_token_mass"):
        monkeypatch.setattr(triton_lse, name, Counted(name, counts))
    monkeypatch.setattr(dispatch, "_cannot", lambda *args: None)
    monkeypatch.delenv("SIGHTLINE_BACKEND", raising=False)
    return counts


def per_layer(launched, layout, documents, heads, *, tokens):
    """Launches of torch and of Triton in the second layer of a pass; what is made once has been made by then."""
    packing = Packing([Context([3] * documents, [4], 5)]).with_signal([3 * documents + 6, 3 * documents + 8])
    scope = forward.Wanted(layout, {0: heads, 1: heads}, tokens=tokens)
    readings = forward.Readings(scope, packing, [list(range(documents))])
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
def test_documents_to_be_kept_are_written_once_into_memory_of_their_own(stride):
    layers, documents = 6, [7, 30, 1, 12]
    context = Context(documents, (), 5)
    positions = forward.positions_of(context, load_layout("icr-block"))
    call = forward._DocumentPass(context, positions, "exact", stride, layers)
    slots = torch.randn(2 * layers - 1, 55, 2, 4)
    with torch.inference_mode(), Launches() as counted:
        for slot, x in enumerate(slots):
            call._keep(slot, x)
        blocks = call.blocks()
    writes = {"aten::copy_": len(slots), "aten::_foreach_copy_": len(slots)}  # of the instruction, of the documents
    assert counted.kernels == writes | ({"aten::index_select": len(slots)} if stride > 1 else {})
    start = 5
    for block, length in zip(blocks[1:], documents, strict=True):
        places = [start + place for place in forward.strided(length, stride)]
        assert torch.equal(block.whole, slots[:, places])
        assert block.whole.untyped_storage().nbytes() == len(places) * 8 * 4 * len(slots)
        start += length
    assert torch.equal(blocks[0].whole, slots[:, :5])


def test_layers_of_several_shapes_are_kept_apart():
    context = Context([3, 4], (), 2)
    call = forward._DocumentPass(context, np.arange(9), "exact", 1, 2)
    slots = [torch.randn(9, 2, dim) for dim in (4, 8, 4)]
    for slot in (0, 2, 1):
        call._keep(slot, slots[slot])
    for block, start, stop in zip(call.blocks(), (0, 2, 5), (2, 5, 9), strict=True):
        assert block.whole is None and block.tokens == stop - start
        assert all(torch.equal(a, b[start:stop]) for a, b in zip(block.slots, slots, strict=True))
        assert sum(x.untyped_storage().nbytes() for x in block.tensors) == (stop - start) * 2 * 16 * 4


@pytest.mark.parametrize("documents", [5, 200])
def test_a_layer_behind_kept_documents_moves_the_keys_of_its_own_tokens_only(documents, launched, monkeypatch):
    """Whatever is kept is read where it lies: by the two kernels of attention, and by those of the reading."""
    monkeypatch.setenv("SIGHTLINE_BACKEND", "triton")
    monkeypatch.setattr(triton_attention, "_forward", Counted("attention", launched))
    monkeypatch.setattr(triton_attention, "_combine", Counted("combine", launched))
    layout = load_layout("icr-block", calibration="none", outliers=None)
    packing = [Context([3] * documents, [4], 5)]
    positions = forward.positions_of(packing[0], layout)
    signal = [3 * documents + 6, 3 * documents + 8]
    layouts = forward.Layouts(packing, False, signal, positions, first=3 * documents + 5)
    readings = forward.Readings(forward.Wanted(layout, {1: None, 2: None}), layouts.signal, [range(documents)])
    kept = [KeptBlock((torch.empty(5, n, 2, 16),)) for n in (5, *[3] * documents)]
    call = forward.ListPass(layouts, readings, kept)
    q, k, v = (torch.empty(4, heads, 16) for heads in (8, 2, 2))
    with torch.inference_mode():
        call.attend(0, q, k, v, 0.25, None)  # what is made once has been made by then
        launched.clear()
        with Launches() as counted:
            call.attend(1, q, k, v, 0.25, None)
            call.signal(2, q[2:], k, 0.25, None)
    assert counted.kernels["aten::copy_"] == 3, "the keys of two layers and the values of one"
    assert counted.largest < packing[0].documents[0] * documents * k[0].numel(), "kept keys were copied"
    assert launched == {"attention": 1, "_forward": 3} | ({"combine": 1} if documents > 5 else {})


def test_kept_documents_are_joined_by_two_copies_however_many_they_are():
    own = torch.randn(4, 2, 8)
    for count in (3, 300):
        kept = [torch.randn(1 + i % 5, 2, 8) for i in range(count)]
        with torch.inference_mode(), Launches() as counted:
            whole = joined(kept, own)
        assert torch.equal(whole, torch.cat([*kept, own]))
        assert counted.kernels == {"aten::cat": 1, "aten::copy_": 1}
