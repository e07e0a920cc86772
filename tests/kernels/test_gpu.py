"""The Triton kernels on a GPU, in the precisions that it is for."""

import pytest
import torch

from sightline.kernels import Context, Packing, Pages, block_attention, block_lse, choose, mass, row_lse

from .shapes import CONTEXTS, TINY, layout_of, tensors
from .test_attention import check
from .test_lse import WITH_QUERIES, by_formula, finite_close
from .test_paged import results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("name", [*CONTEXTS, "500 tiny"])
def test_attention_and_its_gradients(name, causal, dtype):
    layout = layout_of(TINY if name == "500 tiny" else CONTEXTS[name], causal, "cuda")
    check(layout, "triton", dtype, device="cuda")


# Every group and every dimension, and each tile that the table has for sm90; a GPU compiles five kernels for each.
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("group", "dim"),
    [(1, 16), (2, 32), (1, 64), (3, 64), (4, 64), (7, 80), (8, 96), (1, 128), (2, 128), (4, 128), (17, 128), (1, 256)],
)
def test_groups_and_head_dimensions(group, dim, dtype):
    layout = layout_of([Context([200, 40, 129], [33], 70)], device="cuda")
    check(layout, "triton", dtype, group=group, dim=dim, device="cuda")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", WITH_QUERIES)
def test_log_sum_exps(name, dtype):
    layout = layout_of(CONTEXTS[name], device="cuda")
    q, k, v = tensors(layout, dtype=dtype, dim=64, device="cuda")
    rows = q[layout.signal]
    lse = block_lse(rows, k, layout, scale=0.3)
    finite_close(lse.cpu(), by_formula(rows.cpu(), k.cpu(), layout, 0.3), rtol=1e-6, atol=2e-5)
    _, normaliser = block_attention(q, k, v, layout, scale=0.3)
    torch.testing.assert_close(
        row_lse(rows, k, layout, scale=0.3, lse=lse), normaliser[layout.signal], rtol=1e-5, atol=1e-4
    )
    assert mass(lse).isfinite().all()


def test_a_list_as_long_as_they_come():
    """100,000 tokens in bfloat16: split tiles, many programs; a sample of rows against float64."""
    layout = Packing([Context([200] * 500, [64], 128)], device="cuda")
    q, k, v = tensors(layout, kv_heads=8, group=4, dim=128, dtype=torch.bfloat16, device="cuda")
    scale = 128**-0.5
    out, lse = block_attention(q, k, v, layout, scale=scale)
    again, _ = block_attention(q, k, v, layout, scale=scale)
    assert torch.equal(out, again)
    mask = torch.zeros(2, layout.tokens, dtype=torch.bool, device="cuda")
    rows = [128 + 200 * 250 + 77, layout.tokens - 30]
    mask[0, :128] = mask[0, 128 + 200 * 250 : rows[0] + 1] = mask[1, : rows[1] + 1] = True
    keys, values = (x.double().repeat_interleave(4, dim=1) for x in (k, v))
    logits = torch.einsum("qhd,khd->hqk", q[rows].double(), keys) * scale
    logits = logits.masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(lse[rows].double(), logits.logsumexp(dim=2).T, rtol=1e-5, atol=1e-5)
    expected = torch.einsum("hqk,khd->qhd", logits.softmax(dim=2), values)
    torch.testing.assert_close(out[rows].double(), expected, rtol=0.03, atol=0.003)


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(("group", "dim"), [(1, 64), (2, 128), (4, 128)])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_kept_documents_are_read_where_they_lie(dtype, group, dim, window):
    """100,000 tokens of 500 tensors of all ages, between which memory was freed, against one tensor, to the bit."""
    lengths = torch.randint(20, 400, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    layout = Packing([Context(lengths, [64], 128)], device="cuda", window=window)
    parts, gone = [], []
    for count in (128, *lengths, 64):
        gone.append(torch.empty(count * 997, device="cuda"))
        parts.append(torch.randn(3, count, 8, dim, device="cuda", dtype=dtype))
    del gone
    first, pages = 128 + sum(lengths), Pages(parts)
    q = torch.randn(layout.tokens, 8 * group, dim, device="cuda", dtype=dtype)
    k, v = pages.slot(2), pages.slot(1)
    for got, wanted in zip(
        results(q, k, v, layout, first, "triton"),
        results(q, k.gathered(), v.gathered(), layout, first, "triton"),
        strict=True,
    ):
        assert torch.equal(got, wanted), (got.double() - wanted.double()).abs().max()


def test_the_backend_is_triton():
    assert choose("cuda", torch.bfloat16, 128) == ("triton", "fastest on cuda")
