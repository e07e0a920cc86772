"""block_attention: the reference against dense attention, the fast paths against the reference, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import BackendError, InputError
from sightline.kernels import Context, Packing, block_attention
from sightline.kernels.attention import cpu, tiles
from sightline.kernels.packing import DOCUMENT, QUERY

from .shapes import CONTEXTS, TINY, WINDOWS, layout_of, tensors, tolerance, windowed

HALVES = [torch.float16, torch.bfloat16]


def dense(q, k, v, layout, scale):
    """Torch's own attention in float64 with the dense mask, and the log-sum-exp from its definition."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.double().transpose(0, 1) for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask(), scale=scale)
    lse = (q @ k.mT * scale).masked_fill(~layout.mask(), -torch.inf).logsumexp(dim=2)
    return out.transpose(0, 1), lse.T


def exact(q, k, v, layout, scale, d_out=None, d_lse=None):
    """The reference in float64: out, lse and, where gradients are given, dq, dk, dv."""
    q, k, v = (x.detach().double().cpu().requires_grad_() for x in (q, k, v))
    out, lse = block_attention(q, k, v, layout.to("cpu"), scale=scale, backend="reference")
    if d_out is None:
        return out, lse
    loss = (out * d_out.double().cpu()).sum() + (lse * d_lse.double().cpu()).sum()
    return out, lse, *torch.autograd.grad(loss, (q, k, v))


def check(layout, backend, dtype, *, group=2, dim=16, device="cpu", gradients=True, kv_heads=2):
    q, k, v = tensors(layout, group=group, dim=dim, dtype=dtype, device=device, kv_heads=kv_heads)
    scale = 1.3 * dim**-0.5
    leaves = [x.detach().clone().requires_grad_() if gradients else x for x in (q, k, v)]
    out, lse = block_attention(*leaves, layout, scale=scale, backend=backend)
    assert out.dtype == dtype and lse.dtype == torch.float32 and out.shape == q.shape and lse.shape == q.shape[:2]
    generator = torch.Generator().manual_seed(1)
    d_out = torch.randn(out.shape, generator=generator).to(dtype).to(device)
    d_lse = torch.randn(lse.shape, generator=generator).to(device)
    expected = exact(q, k, v, layout, scale, d_out, d_lse)
    torch.testing.assert_close(lse.double().cpu(), expected[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.double().cpu(), expected[0], **tolerance(dtype))
    if gradients:
        got = torch.autograd.grad([out, lse], leaves, [d_out, d_lse])
        for name, a, b in zip(("dq", "dk", "dv"), got, expected[2:], strict=True):
            # Sums over many queries: the error is measured against the largest entry.
            error = (a.double().cpu() - b).abs().max() / b.abs().max().clamp_min(1)
            assert error < (32 if dtype == torch.float32 else 8) * torch.finfo(dtype).eps, f"{name}: {error}"


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_reference_is_dense_attention(name, causal):
    layout = layout_of(CONTEXTS[name], causal)
    q, k, v = (x.double() for x in tensors(layout))
    out, lse = block_attention(q, k, v, layout, scale=0.25, backend="reference")
    wanted_out, wanted_lse = dense(q, k, v, layout, 0.25)
    torch.testing.assert_close(out, wanted_out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, wanted_lse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_awkward_layouts(name, causal, backend, device):
    on = "cpu" if backend == "cpu" else device
    heads = 2 if backend == "cpu" else 1  # the interpreter is slow
    check(layout_of(CONTEXTS[name], causal, on), backend, torch.float32, device=on, kv_heads=heads)


@pytest.mark.parametrize(("name", "window", "restart"), WINDOWS)
def test_a_window_in_the_reference_is_dense_attention_with_a_mask(name, window, restart):
    layout = windowed(name, window, restart)
    positions = torch.from_numpy(layout.positions)
    near = positions[None] > positions[:, None] - window
    assert torch.equal(layout.mask(), layout_of(CONTEXTS[name]).mask() & near)
    q, k, v = (x.double() for x in tensors(layout))
    out, lse = block_attention(q, k, v, layout, scale=0.25, backend="reference")
    wanted_out, wanted_lse = dense(q, k, v, layout, 0.25)
    torch.testing.assert_close(out, wanted_out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, wanted_lse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "window", "restart"), WINDOWS)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_windows(name, window, restart, backend, device):
    on = "cpu" if backend == "cpu" else device
    check(windowed(name, window, restart, on), backend, torch.float32, device=on, kv_heads=2 if backend == "cpu" else 1)


@pytest.mark.parametrize(("name", "window", "restart"), [(name, None, False) for name in CONTEXTS] + WINDOWS)
def test_long_blocks_some_rows_at_a_time(name, window, restart, monkeypatch):
    """What is cut into strips and tiles of a few rows gives what it gives whole."""
    for size, value in (("_LONG", 40), ("_STRIP", 16), ("_ROWS", 8)):
        monkeypatch.setattr(cpu, size, value)
    check(windowed(name, window, restart), "cpu", torch.float32)


def test_a_window_of_one_layout_leaves_the_others_alone():
    layout = layout_of(CONTEXTS["ragged"])
    narrow = layout.with_window(9)
    assert narrow is layout.with_window(9) and narrow.window == 9 and layout.window is None
    assert narrow.with_window(None).mask().equal(layout.mask()) and not narrow.mask().equal(layout.mask())
    assert torch.equal(narrow.with_signal([layout.tokens - 1]).mask(), narrow.mask())
    with pytest.raises(InputError, match="a window of 0 tokens hides a token from itself"):
        layout.with_window(0)
    with pytest.raises(InputError, match="needs a causal layout"):
        layout_of(CONTEXTS["ragged"], causal=False, window=9)
    with pytest.raises(InputError, match=r"positions have the shape \(3,\), but there are 2 tokens"):
        layout_of([Context([1], [1])], positions=[0, 1, 2])


@pytest.mark.parametrize(("name", "window"), [("several queries", None), ("around two tiles", None), ("ragged", 70)])
@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_rows_behind_kept_tokens_are_the_same_to_the_last_bit(name, window, backend, device, monkeypatch):
    monkeypatch.setattr(tiles, "_LEAST_FAR", 64)
    layout = windowed(name, window, False, device if backend == "triton" else "cpu")
    first = layout.spans(QUERY)[0][2]
    q, k, v = tensors(layout, kv_heads=1, device=layout.device)
    out, lse = block_attention(q, k, v, layout, scale=0.25, backend=backend)
    behind = layout.behind(first)
    rows, rows_lse = block_attention(q[first:], k, v, behind, scale=0.25, backend=backend)
    assert torch.equal(rows, out[first:]) and torch.equal(rows_lse, lse[first:])
    with pytest.raises(InputError, match=f"the layout covers {layout.tokens - first} tokens"):
        block_attention(q, k, v, behind, scale=0.25, backend=backend)
    with pytest.raises(InputError, match="gradients do not reach tokens that were kept"):
        block_attention(q[first:].requires_grad_(), k, v, behind, scale=0.25, backend=backend)
    with pytest.raises(InputError, match="no block starts at token 1"):
        layout.behind(1)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_500_tiny_documents(backend, device):
    on = "cpu" if backend == "cpu" else device
    check(layout_of(TINY, device=on), backend, torch.float32, device=on, kv_heads=1, gradients=backend == "cpu")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", ["around a tile", "around two tiles", "several contexts"])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_half_precisions(dtype, name, backend, device):
    on = "cpu" if backend == "cpu" else device
    check(layout_of(CONTEXTS[name], device=on), backend, dtype, device=on, kv_heads=1)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 7, 8, 17])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_groups_of_heads(group, backend, device):
    on = "cpu" if backend == "cpu" else device
    layout = layout_of([Context([9, 40], [5], 7)], device=on)
    check(layout, backend, torch.float32, group=group, device=on, kv_heads=2 if group < 8 else 1)


@pytest.mark.parametrize("dim", [1, 8, 32, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_head_dimensions(dim, backend, device):
    on = "cpu" if backend == "cpu" else device
    check(layout_of([Context([9, 40], [5], 7)], device=on), backend, torch.float32, dim=dim, device=on, kv_heads=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "window"), [("several queries", None), ("several contexts", None), ("ragged", None), ("ragged", 70)]
)
def test_split_tiles(name, window, dtype, device, monkeypatch):
    """The ends of a context, cut into many parts, give what they give whole."""
    monkeypatch.setattr(tiles, "_LEAST_FAR", 16)
    layout = windowed(name, window, False, device)
    assert tiles.row_tiles(layout, 8, 1).slots and tiles.key_tiles(layout, 8, 1).slots
    check(layout, "triton", dtype, device=device, kv_heads=1)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_by_finite_differences(backend, causal):
    layout = Packing([Context([3, 0, 2, 5, 5], [2, 3], 2), Context([1], [1])], causal=causal)
    leaves = [x.double().requires_grad_() for x in tensors(layout, dim=3)]
    assert torch.autograd.gradcheck(lambda *x: block_attention(*x, layout, scale=0.6, backend=backend), leaves)


def test_query_blocks_longer_than_a_chunk_of_the_backward_pass(monkeypatch):
    monkeypatch.setattr(cpu, "_ROWS", 7)
    monkeypatch.setattr(cpu, "_LOGITS", 256)
    check(layout_of(CONTEXTS["ragged"]), "cpu", torch.float32)


@pytest.mark.parametrize("fast", [True, False])
def test_gradients_in_bfloat16_with_and_without_its_instructions(fast, monkeypatch):
    monkeypatch.setattr(cpu, "_fast_bfloat16", lambda: fast)
    check(layout_of([Context([60, 9, 300, 12, 130], [40, 20], 30)]), "cpu", torch.bfloat16, group=3, dim=64)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_permuting_documents(backend, device):
    """Documents' rows move with them, on triton to the last bit; the query's rows stay, up to rounding."""
    on = device if backend == "triton" else "cpu"
    sizes, order = [5, 70, 1, 33, 64], [3, 0, 4, 2, 1]
    layout = layout_of([Context(sizes, [6], 4)], device=on)
    moved = layout_of([Context([sizes[i] for i in order], [6], 4)], device=on)
    starts = {index: (start, stop) for _, index, start, stop in layout.spans(DOCUMENT)}
    where = torch.cat(
        [torch.arange(4)] + [torch.arange(*starts[i]) for i in order] + [torch.arange(layout.tokens - 6, layout.tokens)]
    ).to(on)
    q, k, v = tensors(layout, device=on)
    out, lse = block_attention(q, k, v, layout, scale=0.25, backend=backend)
    other, other_lse = block_attention(q[where], k[where], v[where], moved, scale=0.25, backend=backend)
    if backend == "triton":
        assert torch.equal(other[:-6], out[where][:-6]) and torch.equal(other_lse[:-6], lse[where][:-6])
    torch.testing.assert_close(other, out[where], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other_lse, lse[where], rtol=1e-5, atol=1e-6)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(0, 9), st.integers(1, 6), st.booleans(),
    st.sampled_from(["reference", "cpu"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_batching_changes_nothing(sizes, instruction, query, causal, backend):
    """A context gives the same in a batch as alone; so does a document whatever the list it stands in."""
    context = Context(sizes, [query], instruction)
    alone = Packing([context], causal=causal)
    batch = Packing([Context([3, 9], [2], 2), context, Context([20], [1])], causal=causal)
    first = 3 + 9 + 2 + 2
    here = slice(first, first + alone.tokens)
    q, k, v = tensors(batch)
    out, lse = block_attention(q, k, v, batch, scale=0.25, backend=backend)
    part, part_lse = block_attention(q[here], k[here], v[here], alone, scale=0.25, backend=backend)
    torch.testing.assert_close(part, out[here], rtol=1e-5, atol=5e-6)
    torch.testing.assert_close(part_lse, lse[here], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_memory_beyond_the_context_is_never_met(backend, device):
    """NaN before and behind the packed tokens, and between the heads' rows, changes nothing."""
    on = device if backend == "triton" else "cpu"
    layout = layout_of(CONTEXTS["around a tile"], device=on)
    q, k, v = tensors(layout, dim=20, device=on)
    clean = block_attention(q, k, v, layout, scale=0.25, backend=backend)

    def framed(x):
        room = torch.full((x.shape[0] + 200, x.shape[1] + 2, x.shape[2] + 12), math.nan, device=on)
        room[100:-100, 1:-1, 4:-8] = x
        return room[100:-100, 1:-1, 4:-8]

    again = block_attention(framed(q), framed(k), framed(v), layout, scale=0.25, backend=backend)
    assert torch.equal(again[0], clean[0]) and torch.equal(again[1], clean[1])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("spread", [1e-20, 30.0, 1e4])
def test_logits_far_apart(backend, spread, device):
    """From no difference at all to a softmax of one key: finite, and as the reference says."""
    on = device if backend == "triton" else "cpu"
    layout = layout_of(CONTEXTS["ragged"], device=on)
    q, k, v = tensors(layout, spread=spread, device=on)
    v = v / spread
    out, lse = block_attention(q, k, v, layout, scale=0.25, backend=backend)
    wanted_out, wanted_lse = exact(q, k, v, layout, 0.25)
    # The last place of logits this large is what a probability is off by.
    slack = max(1e-5, float(wanted_lse.detach().abs().max()) * 2**-22)
    assert (lse.double().cpu() - wanted_lse).abs().max() < 8 * slack
    assert (out.double().cpu() - wanted_out).abs().max() < 8 * slack


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("scale", [-0.7, 0.0, 1e-30])
def test_scales_that_turn_or_level_the_logits(backend, scale, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of([Context([9, 70], [5], 7)], device=on)
    q, k, v = tensors(layout, device=on, kv_heads=1)
    out, lse = block_attention(q, k, v, layout, scale=scale, backend=backend)
    wanted_out, wanted_lse = exact(q, k, v, layout, scale)
    torch.testing.assert_close(out.double().cpu(), wanted_out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double().cpu(), wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_no_worse_than_torch(backend, device):
    """The error in half precision against float64 is at most torch's own on the same data."""
    on = device if backend == "triton" else "cpu"
    # Triton's interpreter cuts bfloat16 off where hardware rounds it.
    dtype = torch.float16 if backend == "triton" and on == "cpu" else torch.bfloat16
    layout = layout_of(CONTEXTS["around two tiles"], device=on)
    q, k, v = tensors(layout, dtype=dtype, dim=64, device=on, kv_heads=1)
    out, _ = block_attention(q, k, v, layout, scale=0.125, backend=backend)
    expected, _ = exact(q, k, v, layout, 0.125)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=layout.mask(), scale=0.125, enable_gqa=True
    )[0].transpose(0, 1)

    def rms(x):
        return (x.double().cpu() - expected).square().mean().sqrt()

    assert rms(out) <= 1.02 * rms(theirs)


def test_results_repeat_to_the_last_bit(device):
    layout = layout_of(CONTEXTS["several contexts"], device=device)
    leaves = [x.detach().clone().requires_grad_() for x in tensors(layout, device=device, kv_heads=1)]
    runs = []
    for _ in range(2):
        out, lse = block_attention(*leaves, layout, scale=0.25, backend="triton")
        runs.append((out, lse, *torch.autograd.grad(out.sum() + lse.sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


LAYOUT = Packing([Context([3, 4], [2], 1)])


def good(**changed):
    arguments = dict(zip("qkv", (x.contiguous() for x in tensors(LAYOUT)), strict=True)) | {
        "layout": LAYOUT,
        "scale": 1,
    }
    return arguments | changed


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"q": torch.zeros(9, 4, 16)}, "q has 9 rows, but the layout covers 10 tokens"),
        ({"k": torch.zeros(11, 2, 16)}, "k has 11 rows"),
        ({"v": torch.zeros(0, 2, 16)}, "v has 0 rows"),
        ({"q": torch.zeros(10, 64)}, r"q has shape \(10, 64\)"),
        ({"q": torch.zeros(1, 10, 4, 16)}, "q has shape"),
        ({"k": torch.zeros(10, 2, 16).half()}, "k is torch.float16 but q is torch.float32"),
        ({"q": torch.zeros(10, 4, 16, dtype=torch.int64)}, "q is torch.int64"),
        ({"v": torch.zeros(10, 2, 16, device="meta")}, "v is on meta but q is on cpu"),
        ({"k": torch.zeros(10, 2, 8)}, "k has heads of 8 dimensions"),
        ({"k": torch.zeros(10, 16, 2).mT}, "last dimension of k is not contiguous"),
        ({"q": torch.zeros(10, 3, 16)}, "3 query heads cannot share 2 key heads"),
        ({"k": torch.zeros(10, 0, 16), "v": torch.zeros(10, 0, 16)}, "cannot share 0"),
        ({"v": torch.zeros(10, 1, 16)}, r"v has shape \(10, 1, 16\) but k"),
        ({"layout": LAYOUT.to("meta")}, "the layout is on meta but q is on cpu"),
        ({"scale": math.nan}, "scale is nan"),
        ({"scale": None}, "scale is None"),
        ({"q": torch.zeros(10, 4, 257), "k": torch.zeros(10, 2, 257), "v": torch.zeros(10, 2, 257)}, "257 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(changed, says, backend):
    with pytest.raises(InputError, match=says):
        block_attention(**good(**changed), backend=backend)


def test_triton_has_no_float64():
    wide = {name: x.double() for name, x in zip("qkv", tensors(LAYOUT), strict=True)}
    with pytest.raises(BackendError, match="not in torch.float64"):
        block_attention(**good(**wide), backend="triton")
