"""``SIGHTLINE_TMA=1``: tiles that the copier loads give the same bits; what it cannot take is loaded as before."""

import math

import pytest
import torch

from sightline.kernels import Context, Packing, block_attention

from .shapes import CONTEXTS, tensors

packed = pytest.importorskip("sightline.kernels.packed", reason="triton is not installed", exc_type=ImportError)


def attend(layout, q, k, v):
    return block_attention(q, k, v, layout, scale=0.25, backend="triton")


@pytest.mark.parametrize(
    ("name", "causal", "dtype"),
    [("several contexts", True, torch.float32), ("around a tile", False, torch.bfloat16)],
)
def test_the_same_to_the_last_bit(name, causal, dtype, device, monkeypatch):
    layout = Packing(CONTEXTS[name], causal=causal, device=device)
    q, k, v = tensors(layout, dtype=dtype, dim=32, device=device)
    expected = attend(layout, q, k, v)
    monkeypatch.setenv("SIGHTLINE_TMA", "1")
    assert packed.wants_boxes(k, v)
    assert all(map(torch.equal, attend(layout, q, k, v), expected))


def test_a_nan_of_a_neighbour_stays_there(device, monkeypatch):
    """A box reaches past its span: into the next document, here of NaN."""
    layout = Packing([Context([70, 30], [], 5)], device=device)
    q, k, v = tensors(layout, dim=32, device=device)
    expected = attend(layout, q, k, v)
    for x in (k, v):
        x[75:] = math.nan
    monkeypatch.setenv("SIGHTLINE_TMA", "1")
    assert packed.wants_boxes(k, v)
    for found, right in zip(attend(layout, q, k, v), expected, strict=True):
        assert torch.equal(found[:75], right[:75]) and found[75:].isnan().all()


def test_what_the_copier_cannot_take_is_loaded_as_before(device, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_TMA", "1")
    aligned = torch.zeros(4, 2, 32, device=device)
    assert packed.wants_boxes(aligned)
    assert not packed.wants_boxes(torch.zeros(4, 2, 24, device=device)), "24 is computed as 32"
    assert not packed.wants_boxes(torch.zeros(4, 2, 33, device=device)[..., 1:]), "rows are 132 bytes apart"
    monkeypatch.delenv("SIGHTLINE_TMA")
    assert not packed.wants_boxes(aligned)
