"""block_lse, row_lse and mass: against their formulas in float64, and against what block_attention says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.kernels import Context, Packing, block_attention, block_lse, mass, row_lse
from sightline.kernels.packing import DOCUMENT

from .shapes import CONTEXTS, TINY, WINDOWS, layout_of, tensors, tolerance, windowed

BACKENDS = ["reference", "cpu", "triton"]
WITH_QUERIES = [name for name, contexts in CONTEXTS.items() if any(c.queries for c in contexts)]


def by_formula(q_signal, k, layout, scale):
    """From the definition, in float64, with nothing shared with the code: a dense product, and slices of it."""
    group = q_signal.shape[1] // k.shape[1]
    logits = torch.einsum("rhd,khd->rhk", q_signal.double(), k.double().repeat_interleave(group, 1)) * scale
    out = torch.full((*q_signal.shape[:2], layout.documents), -torch.inf, dtype=torch.float64)
    bounds, at = [], 0
    for documents, queries, instruction in layout.contexts:
        bounds.append((at, at := at + instruction + sum(documents) + sum(queries)))
    for context, index, start, stop in layout.spans(DOCUMENT):
        rows = [i for i, token in enumerate(layout.signal.tolist()) if bounds[context][0] <= token < bounds[context][1]]
        out[rows, :, index] = (logits[rows, :, start:stop].exp().sum(dim=2)).log()
    return out


def finite_close(a, b, **tolerances):
    assert torch.equal(a.isneginf(), b.isneginf())
    torch.testing.assert_close(a.double().nan_to_num(neginf=0), b.double().nan_to_num(neginf=0), **tolerances)


@pytest.mark.parametrize("name", WITH_QUERIES)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_awkward_layouts(name, causal, backend, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of(CONTEXTS[name], causal, on)
    q, k, v = tensors(layout, device=on)
    rows = q[layout.signal]
    lse = block_lse(rows, k, layout, scale=0.3, backend=backend)
    assert lse.dtype == torch.float32 and lse.shape == (len(layout.signal), 4, layout.documents)
    finite_close(lse.cpu(), by_formula(rows.cpu(), k.cpu(), layout, 0.3), rtol=1e-5, atol=1e-5)

    _, normaliser = block_attention(q.cpu(), k.cpu(), v.cpu(), layout.to("cpu"), scale=0.3, backend="reference")
    expected = normaliser[layout.signal.cpu()]
    torch.testing.assert_close(
        row_lse(rows, k, layout, scale=0.3, backend=backend).cpu(), expected, rtol=1e-5, atol=1e-5
    )
    reusing = row_lse(rows, k, layout, scale=0.3, lse=lse, backend=backend)
    torch.testing.assert_close(reusing.cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "window", "restart"), [x for x in WINDOWS if x[0] in WITH_QUERIES])
@pytest.mark.parametrize("backend", BACKENDS)
def test_windows(name, window, restart, backend, device):
    """Each row over what it sees of a document: -inf, and no gradient, where that is nothing."""
    on = device if backend == "triton" else "cpu"
    layout = windowed(name, window, restart, on)
    q, k, _ = tensors(layout, kv_heads=1)
    seen = layout.mask().cpu()[layout.signal.cpu()]
    group = q.shape[1] // k.shape[1]
    wide = [x.detach().double().requires_grad_() for x in (q[layout.signal.cpu()], k)]
    logits = torch.einsum("rhd,khd->rhk", wide[0], wide[1].repeat_interleave(group, 1)) * 0.3
    p = logits.exp() * seen[:, None]
    expected = torch.zeros(*p.shape[:2], layout.documents, dtype=torch.float64)
    for context, index, start, stop in layout.spans(DOCUMENT):
        rows = torch.from_numpy(layout.signal_contexts == context)
        expected[rows, :, index] = p[rows, :, start:stop].sum(dim=2)
    leaves = [x.detach().to(on, k.dtype).requires_grad_() for x in wide]
    lse = block_lse(*leaves, layout, scale=0.3, backend=backend)
    row = row_lse(*leaves, layout, scale=0.3, lse=lse, backend=backend)
    assert torch.equal(lse.isneginf().cpu(), expected == 0)
    torch.testing.assert_close(lse.exp().double().cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(row.exp().double().cpu(), p.sum(dim=2), rtol=1e-5, atol=1e-5)
    weight = torch.arange(lse.numel(), dtype=torch.float64).reshape(lse.shape).cos()
    wanted = torch.autograd.grad((expected * weight).sum() + p.sum(), wide)
    got = torch.autograd.grad((lse.exp() * weight.to(lse)).sum() + row.exp().sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double().cpu(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_500_tiny_documents(backend, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of(TINY, device=on)
    q, k, _ = tensors(layout, kv_heads=1, device=on)
    lse = block_lse(q[layout.signal], k, layout, scale=0.3, backend=backend).cpu()
    finite_close(lse, by_formula(q[layout.signal].cpu(), k.cpu(), layout, 0.3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mass(lse).sum(dim=2), torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [20, 64, 128])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_logits_stay_float32(dtype, dim, backend, device):
    """Inputs may be halves; what is computed from them is not: the error is that of float32."""
    on = device if backend == "triton" else "cpu"
    layout = layout_of([Context([65, 1, 20], [3], 4)], device=on)
    q, k, _ = tensors(layout, dtype=dtype, dim=dim, spread=3.0, device=on)
    lse = block_lse(q[layout.signal], k, layout, scale=0.3, backend=backend).cpu()
    finite_close(lse, by_formula(q[layout.signal].cpu(), k.cpu(), layout, 0.3), rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("group", [1, 3, 4, 8, 20])
@pytest.mark.parametrize("chosen", [1, 2, 40])
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_signal_rows_and_groups(group, chosen, backend, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of([Context([9, 30], [20, 20], 7), Context([4, 5, 6], [50])], device=on)
    layout = layout.with_signal([*range(46, 86, 40 // chosen), layout.tokens - 1])
    q, k, _ = tensors(layout, group=group, kv_heads=1, device=on)
    lse = block_lse(q[layout.signal], k, layout, scale=0.3, backend=backend).cpu()
    finite_close(lse, by_formula(q[layout.signal].cpu(), k.cpu(), layout, 0.3), rtol=1e-5, atol=1e-5)


def loss_of(lse, row):
    """Something that every part of the results has a share in."""
    weight = torch.arange(lse.numel(), dtype=torch.float64, device=lse.device).reshape(lse.shape).cos()
    return (
        (mass(lse) * weight).sum() + (mass(lse, "all_keys", normaliser=row) * weight.sin()).sum() + row.double().sum()
    )


@pytest.mark.parametrize("name", ["around a tile", "several queries", "several contexts", "empty documents"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradients(name, causal, dtype, backend, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of(CONTEXTS[name], causal, on)
    grads = {}
    for which, where in (("reference", "cpu"), (backend, on)):
        here = layout.to(where)
        q, k, _ = tensors(layout, dtype=dtype, kv_heads=1)
        wide = torch.float64 if which == "reference" else dtype
        q, k = (x.detach().to(where, wide).requires_grad_() for x in (q[layout.signal.cpu()], k))
        lse = block_lse(q, k, here, scale=0.3, backend=which)
        row = row_lse(q, k, here, scale=0.3, backend=which)
        grads[which] = [x.double().cpu() for x in torch.autograd.grad(loss_of(lse, row), (q, k))]
    for expected, got in zip(grads["reference"], grads[backend], strict=True):
        torch.testing.assert_close(got, expected, **tolerance(dtype))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_gradients_by_finite_differences(backend):
    layout = Packing([Context([3, 0, 2], [2, 1], 2), Context([0], [1])])
    q, k, _ = (x.double() for x in tensors(layout, dim=3))
    leaves = [q[layout.signal].clone().requires_grad_(), k.clone().requires_grad_()]

    def masses(q, k):
        row = row_lse(q, k, layout, scale=0.7, backend=backend)
        lse = block_lse(q, k, layout, scale=0.7, backend=backend)
        return mass(lse), mass(lse, "all_keys", normaliser=row), row

    assert torch.autograd.gradcheck(masses, leaves)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 5), st.booleans(),
    st.sampled_from(["reference", "cpu"]), st.floats(0.01, 30),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_masses_sum_to_one(sizes, query, instruction, causal, backend, scale):
    layout = Packing([Context(sizes, [query], instruction)], causal=causal)
    q, k, v = (x.double() for x in tensors(layout))
    lse = block_lse(q[layout.signal], k, layout, scale=scale, backend=backend)
    shares = mass(lse)
    ones = torch.full((query, 4), 1.0 if sum(sizes) else 0.0, dtype=torch.float64)
    torch.testing.assert_close(shares.sum(dim=2), ones)
    assert (shares[..., [i for i, size in enumerate(sizes) if not size]] == 0).all()

    # Over all keys: with what goes to instruction and query, from the dense softmax, it is the whole.
    _, normaliser = block_attention(q, k, v, layout, scale=scale, backend="reference")
    all_keys = mass(lse, "all_keys", normaliser=normaliser[layout.signal])
    logits = torch.einsum("rhd,khd->rhk", q[layout.signal], k.repeat_interleave(2, 1)) * scale
    dense = logits.masked_fill(~layout.mask()[layout.signal][:, None], -torch.inf).softmax(dim=2)
    outside = dense[..., :instruction].sum(dim=2) + dense[..., layout.tokens - query :].sum(dim=2)
    torch.testing.assert_close(all_keys.sum(dim=2) + outside, torch.ones(query, 4, dtype=torch.float64))
    for _, index, start, stop in layout.spans(DOCUMENT):
        torch.testing.assert_close(all_keys[..., index], dense[..., start:stop].sum(dim=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_document_ignores_its_neighbours_to_the_last_bit(dtype, backend, device):
    """Permuted, or split over lists, documents keep every bit of their numbers, and of their mass."""
    on = device if backend == "triton" else "cpu"
    sizes, order = [5, 70, 1, 33, 64], [3, 0, 4, 2, 1]
    generator = torch.Generator().manual_seed(3)
    documents = [torch.randn(size, 2, 16, generator=generator).to(on, dtype) for size in sizes]
    rows = torch.randn(3, 4, 16, generator=generator).to(on, dtype)
    end = torch.zeros(3, 2, 16, device=on, dtype=dtype)

    def lse_of(chosen):
        layout = layout_of([Context([sizes[i] for i in chosen], [3])], device=on)
        keys = torch.cat([*(documents[i] for i in chosen), end])
        return block_lse(rows, keys, layout, scale=0.25, backend=backend)

    together = lse_of(range(5))
    assert torch.equal(lse_of(order), together[..., order])
    assert torch.equal(torch.cat([lse_of([0, 1]), lse_of([2, 3, 4])], dim=2), together)
    assert torch.equal(mass(lse_of(order)), mass(together)[..., order])


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_memory_beyond_the_context_is_never_met(backend, device):
    on = device if backend == "triton" else "cpu"
    layout = layout_of(CONTEXTS["around a tile"], device=on)
    q, k, _ = tensors(layout, dim=20, device=on)
    room = torch.full((k.shape[0] + 300, 4, 32), math.nan, device=on)
    room[100:-200, 1:-1, 4:-8] = k
    expected = block_lse(q[layout.signal], k, layout, scale=0.25, backend=backend)
    got = block_lse(q[layout.signal], room[100:-200, 1:-1, 4:-8], layout, scale=0.25, backend=backend)
    assert torch.equal(got, expected)


def test_mass_of_nothing():
    assert mass(torch.full((2, 1, 3), -torch.inf)).tolist() == [[[0.0] * 3]] * 2
    assert mass(torch.empty(2, 1, 0)).shape == (2, 1, 0)
    lse = torch.tensor([[[0.0, -torch.inf]], [[-torch.inf, -torch.inf]]], requires_grad=True)
    (grad,) = torch.autograd.grad(mass(lse)[0, 0, 0], lse)
    assert grad.isfinite().all()


def test_mass_is_right_where_exponentials_overflow():
    lse = torch.tensor([[[5000.0, 4999.0, -5000.0]]])
    torch.testing.assert_close(mass(lse), torch.tensor([[[math.e / (math.e + 1), 1 / (math.e + 1), 0.0]]]))


def test_mass_says_what_it_lacks():
    lse = torch.zeros(2, 3, 4)
    with pytest.raises(InputError, match="needs normaliser"):
        mass(lse, "all_keys")
    with pytest.raises(InputError, match="does not take normaliser"):
        mass(lse, normaliser=torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"normaliser has shape \(3, 2\)"):
        mass(lse, "all_keys", normaliser=torch.zeros(3, 2))
    with pytest.raises(InputError, match="'documents' or 'all_keys'"):
        mass(lse, "rows")


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_must_be_the_signal_tokens(backend):
    layout = Packing([Context([3, 4], [2], 1)])
    _, k, _ = tensors(layout)
    with pytest.raises(InputError, match="q has 3 rows, but the layout covers 2 signal tokens"):
        block_lse(torch.zeros(3, 4, 16), k, layout, scale=1, backend=backend)
    with pytest.raises(InputError, match="k has 9 rows, but the layout covers 10 tokens"):
        block_lse(torch.zeros(2, 4, 16), k[:9], layout, scale=1, backend=backend)
    assert block_lse(torch.zeros(0, 4, 16), k, layout.with_signal([]), scale=1, backend=backend).shape == (0, 4, 2)
