"""Keys and values in a tensor for each block of text give the bits that they give in one tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.kernels import Context, Pages, block_attention, block_lse, block_max, row_lse, token_mass

from .shapes import layout_of, restarting, tensors

CONTEXT = Context([13, 0, 37, 4], [3, 2], 5)
KEPT = 5 + 13 + 37 + 4


def pages_of(context, slots=3, heads=2, dim=16, dtype=torch.float32, device="cpu"):
    """A tensor for the instruction, for each document, and for all query blocks together."""
    generator = torch.Generator().manual_seed(1)
    counts = (context.instruction, *context.documents, sum(context.queries))
    return Pages([torch.randn(slots, n, heads, dim, generator=generator).to(device, dtype) for n in counts])


def results(q, k, v, layout, first, backend):
    """All that is read in a pass behind kept documents."""
    rows = q[layout.signal]
    row = row_lse(rows, k, layout, scale=0.3, backend=backend)
    return [
        *block_attention(q[first:], k, v, layout.behind(first), scale=0.3, backend=backend),
        block_lse(rows, k, layout, scale=0.3, backend=backend),
        row,
        block_max(rows, k, layout, scale=0.3, backend=backend),
        *token_mass(rows, k, layout, row, scale=0.3, backend=backend),
        *token_mass(rows, k, layout, row, scale=0.3, heads=torch.tensor([1], device=q.device), reduce=False),
    ]


@pytest.mark.parametrize("backend", ["triton", "cpu", "reference"])
@pytest.mark.parametrize(
    ("dtype", "group", "window"),
    [
        (torch.float32, 1, 25),
        (torch.float32, 2, None),
        (torch.bfloat16, 1, None),
        (torch.bfloat16, 2, 25),
        (torch.bfloat16, 4, None),
    ],
    ids=str,
)
def test_pages_give_the_bits_of_one_tensor(dtype, group, window, backend, device):
    if backend == "cpu" and device != "cpu":
        pytest.skip("for tensors on the CPU")
    positions = restarting([CONTEXT]) if window else None
    layout = layout_of([CONTEXT], device=device, positions=positions, window=window)
    q, _, _ = tensors(layout, group=group, dtype=dtype, device=device)
    pages = pages_of(CONTEXT, dtype=dtype, device=device)
    k, v = pages.slot(2), pages.slot(1)
    whole = results(q, k.gathered(), v.gathered(), layout, KEPT, backend)
    assert all(map(torch.equal, results(q, k, v, layout, KEPT, backend), whole))


def test_heads_that_are_padded_and_tensors_that_begin_anywhere(device):
    """Views of one another's memory, with heads of 20 numbers: places are counted in smaller steps."""
    layout = layout_of([Context([5, 3], [2], 4)], device=device)
    q, _, _ = tensors(layout, dim=20, device=device)
    whole = torch.randn(2 * 14 * 2 * 20 + 3, device=device)
    parts, at = [], 3
    for count in (4, 5, 3, 2):
        parts.append(whole[at : at + 80 * count].view(2, count, 2, 20))
        at += 80 * count
    pages = Pages(parts[::-1])
    assert pages.step == 4 and pages.shape == (2, 14, 2, 20)
    k, v = pages.slot(0), pages.slot(1)
    assert torch.equal(k.gathered(), torch.cat([part[0] for part in parts[::-1]]))
    joined = results(q, k.gathered(), v.gathered(), layout, 12, "triton")
    assert all(map(torch.equal, results(q, k, v, layout, 12, "triton"), joined))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.integers(1, 4), st.randoms())
def test_places_are_where_rows_lie(counts, slots, order):
    """Whatever the tensors' order in memory, and whatever lies between them."""
    parts = [torch.randint(1 << 30, (slots, count, 2, 16)) for count in counts]
    order.shuffle(parts)
    pages = Pages(parts)
    start = pages.base.data_ptr()
    wanted = [[x.data_ptr() for part in pages.parts for x in part[slot]] for slot in range(slots)]
    assert (start + pages.places * pages.step * 8).tolist() == wanted
    assert pages.shape == (slots, sum(counts), 2, 16) and len(pages.slot(0)) == sum(counts)


def test_gradients_by_queries_go_through_a_copy(device):
    layout = layout_of([CONTEXT], device=device)
    pages, (q, _, _) = pages_of(CONTEXT, device=device), tensors(layout, device=device)
    got = []
    for k, v in ((pages.slot(0), pages.slot(1)), (pages.slot(0).gathered(), pages.slot(1).gathered())):
        leaf = q.clone().requires_grad_()
        out, _ = block_attention(leaf, k, v, layout, scale=0.3)
        out = out.square().sum() + block_lse(leaf[layout.signal], k, layout, scale=0.3).exp().sum()
        got.append(torch.autograd.grad(out, leaf)[0])
        with pytest.raises(InputError, match="gradients do not reach"):
            block_attention(leaf[KEPT:], k, v, layout.behind(KEPT), scale=0.3)
    assert torch.equal(*got)


def test_wrong_pages_are_refused():
    part = torch.zeros(2, 3, 2, 4)
    for others in ([], [part, part.double()], [part, part[:1]], [part, part[..., :2]], [part[0]], [part.mT]):
        with pytest.raises(InputError, match="pages are contiguous tensors"):
            Pages(others)
    with pytest.raises(InputError, match="without a token"):
        Pages([part[:, :0]])
    layout = layout_of([Context([2], [2])])
    with pytest.raises(InputError, match="k has 3 rows"):
        block_lse(torch.zeros(2, 2, 4), Pages([part]).slot(0), layout, scale=1.0)


def test_places_can_be_rewritten_for_other_pages():
    own = torch.zeros(2, 3, 2, 16)
    room = Pages.reserve(own, 12)
    assert room.shape == (2, 12, 2, 16) and room.places.shape == (2, 12)
    assert torch.equal(room.places, room.places[:, :1].expand(2, 12)), "all stand for the first of its own rows"
    first = Pages([torch.zeros(2, 7, 2, 16), torch.zeros(2, 2, 2, 16), own])
    for pages in (first, Pages([own])):
        room.rewrite(pages)
        assert torch.equal(room.places[:, : pages.shape[1]], pages.places)
    for wrong in (Pages([torch.zeros(2, 10, 2, 16), own]), Pages([own, own.clone()])):
        with pytest.raises(InputError, match="do not go into a table for 12"):
            room.rewrite(wrong)
