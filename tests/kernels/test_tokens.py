"""Attention per token and largest logits against dense formulas in float64."""

import pytest
import torch

from sightline.errors import InputError
from sightline.kernels import Context, Packing, block_lse, block_max, mass, row_lse, token_mass
from sightline.kernels.lse import tokens

CONTEXTS = [
    Context([3, 0, 5, 1], [4, 2], 2),
    Context([7], [1], 0),
    Context([0, 2], [3], 1),
    Context([], [2], 3),
]


def case(hq=4, hkv=2, d=8, dtype=torch.float32, causal=True):
    torch.manual_seed(0)
    layout = Packing(CONTEXTS, causal=causal)
    q, k = (torch.randn(layout.tokens, h, d, dtype=dtype) for h in (hq, hkv))
    rows = layout.signal[[0, 2, 4, 5, 6, 8, 10]]
    return q[rows], k, layout.with_signal(rows)


def logits_of(q, k, scale):
    return torch.einsum("rhd,khd->rhk", q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)) * scale


def document_tokens(layout, context):
    spans = [(a, b) for c, _, a, b in layout.spans(1) if c == context]
    return [i for a, b in spans for i in range(a, b)]


@pytest.mark.parametrize("normalisation", ["documents", "all_keys"])
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("heads", [None, [2, 0]])
@pytest.mark.parametrize("chunk", [4096, 3])
def test_token_mass_is_the_softmax_row_by_row(normalisation, reduce, heads, chunk, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    q, k, layout = case()
    lse = block_lse(q, k, layout, scale=0.3)
    normaliser = row_lse(q, k, layout, scale=0.3) if normalisation == "all_keys" else torch.logsumexp(lse, 2)
    index = None if heads is None else torch.tensor(heads)
    masses = token_mass(q, k, layout, normaliser, scale=0.3, heads=index, reduce=reduce)
    logits = logits_of(q, k, 0.3)
    blocks = [int(b) for b in dict.fromkeys(layout.signal_blocks.tolist())]
    assert len(masses) == len(blocks)

    for part, block in zip(masses, blocks, strict=True):
        rows = [i for i, b in enumerate(layout.signal_blocks) if b == block]
        places = document_tokens(layout, int(layout.blocks["context"][block]))
        expected = (logits[rows] - normaliser[rows].double()[..., None]).exp()[..., places].mean(0)
        expected = expected if heads is None else expected[heads]
        expected = expected.sum(0) if reduce else expected
        assert part.shape == expected.shape
        torch.testing.assert_close(part.double(), expected, atol=1e-6, rtol=1e-5)


def test_token_masses_add_up_to_document_masses():
    q, k, layout = case()
    lse = block_lse(q, k, layout, scale=0.3)
    shares = mass(lse)
    masses = token_mass(q, k, layout, torch.logsumexp(lse, 2), scale=0.3, reduce=False)
    rows = [i for i, b in enumerate(layout.signal_blocks) if b == layout.signal_blocks[0]]
    parts = masses[0].split([3, 0, 5, 1], dim=1)
    for document, part in enumerate(parts):
        torch.testing.assert_close(part.sum(1), shares[rows, :, document].mean(0))


@pytest.mark.parametrize("chunk", [4096, 2])
def test_block_max_is_the_largest_logit_and_nothing_where_there_is_none(chunk, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    q, k, layout = case(hq=6, hkv=3)
    largest = block_max(q, k, layout, scale=0.3)
    logits = logits_of(q, k, 0.3)
    contexts = layout.signal_contexts
    for row, context in enumerate(contexts.tolist()):
        spans = {index: (a, b) for c, index, a, b in layout.spans(1) if c == context}
        for document in range(layout.documents):
            if document in spans:
                a, b = spans[document]
                torch.testing.assert_close(
                    largest[row, :, document].double(), logits[row, :, a:b].amax(1), atol=1e-5, rtol=0
                )
            else:
                assert (largest[row, :, document] == -torch.inf).all()


def test_a_window_hides_tokens():
    q, k, layout = case()
    narrow = layout.with_window(6)
    seen = narrow.mask()[narrow.signal]
    logits = logits_of(q, k, 0.3).masked_fill(~seen[:, None], -torch.inf)
    normaliser = row_lse(q, k, narrow, scale=0.3)
    masses = token_mass(q, k, narrow, normaliser, scale=0.3, reduce=False)
    rows = [i for i, b in enumerate(narrow.signal_blocks) if b == narrow.signal_blocks[0]]
    places = document_tokens(narrow, int(narrow.blocks["context"][narrow.signal_blocks[0]]))
    assert not seen[rows][:, places].all()
    expected = (logits[rows] - normaliser[rows].double()[..., None]).exp()[..., places].mean(0)
    torch.testing.assert_close(masses[0].double(), expected, atol=1e-6, rtol=1e-5)
    largest = block_max(q, k, narrow, scale=0.3)
    for context, index, start, stop in narrow.spans(1):
        for row in (narrow.signal_contexts == context).nonzero()[0]:
            wanted = logits[row, :, start:stop].amax(1).float()
            torch.testing.assert_close(largest[row, :, index], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("window", "dtype"), [(None, torch.float32), (6, torch.float32), (None, torch.bfloat16)])
def test_the_kernels_say_what_torch_says(window, dtype, device):
    q, k, layout = (x.to(device) for x in case(hq=6, hkv=2, d=20, dtype=dtype))
    layout = layout.with_window(window)
    largest = block_max(q, k, layout, scale=0.3, backend="triton")
    torch.testing.assert_close(largest.cpu(), block_max(q.cpu(), k.cpu(), layout.to("cpu"), scale=0.3, backend="cpu"))
    row = row_lse(q, k, layout, scale=0.3).double()
    for heads, reduce in ((None, True), ([4, 0, 1], True), ([4, 0, 1], False)):
        index = None if heads is None else torch.tensor(heads, device=device)
        got = token_mass(q, k, layout, row, scale=0.3, heads=index, reduce=reduce, backend="triton")
        index = None if index is None else index.cpu()
        wanted = token_mass(
            q.cpu(), k.cpu(), layout.to("cpu"), row.cpu(), scale=0.3, heads=index, reduce=reduce, backend="cpu"
        )
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a.cpu(), b)


def test_more_rows_and_keys_than_a_tile_has(device):
    layout = Packing([Context([40, 50], [20, 3], 4)]).to(device)
    q, k = (torch.randn(layout.tokens, heads, 8, device=device) for heads in (2, 1))
    rows = q[layout.signal]
    row = row_lse(rows, k, layout, scale=0.3)
    got = token_mass(rows, k, layout, row, scale=0.3, backend="triton")
    wanted = token_mass(rows.cpu(), k.cpu(), layout.to("cpu"), row.cpu(), scale=0.3, backend="cpu")
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b)


def test_gradients_are_torchs_on_every_backend(device):
    q, k, layout = (x.to(device) for x in case())
    results = []
    for backend in ("triton", "cpu" if device == "cpu" else "reference"):
        leaves = [x.detach().clone().requires_grad_() for x in (q, k)]
        row = torch.logsumexp(block_lse(*leaves, layout, scale=0.3), 2)
        loss = block_max(*leaves, layout, scale=0.3, backend=backend).exp().sum()
        loss = loss + sum(x.square().sum() for x in token_mass(*leaves, layout, row, scale=0.3, backend=backend))
        results.append(torch.autograd.grad(loss, leaves))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_precision_is_computed_in_single():
    q, k, layout = case(dtype=torch.bfloat16)
    largest = block_max(q, k, layout, scale=0.3)
    torch.testing.assert_close(largest, block_max(q.float(), k.float(), layout, scale=0.3))


def test_wrong_tensors_are_refused():
    q, k, layout = case()
    calls = (
        lambda q, k: token_mass(q, k, layout, q[..., 0], scale=1.0),
        lambda q, k: block_max(q, k, layout, scale=1.0),
    )
    for call in calls:
        with pytest.raises(InputError, match="rows"):
            call(q[:-1], k)
        with pytest.raises(InputError, match="dimensions"):
            call(q, k[..., :4].contiguous())
