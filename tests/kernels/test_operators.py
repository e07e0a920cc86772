"""The kernels in code that torch.compile traces: one graph, the same numbers, and no new graph for another list."""

import pytest
import torch

from sightline.errors import BackendError, InputError
from sightline.kernels import (
    Context,
    Packing,
    block_attention,
    block_lse,
    block_max,
    mass,
    operators,
    row_lse,
    token_mass,
)
from sightline.kernels.packing import of_handle

from .shapes import tensors

LAYOUT = Packing([Context([9, 30, 4], [3], 5)])


def read(q, k, v, layout):
    """What a layer that is read does: attention, and what its rows pay to the documents."""
    out, lse = block_attention(q * 1.5, k, v, layout, scale=0.25, backend="cpu")
    rows = q[layout.signal]
    blocks = block_lse(rows, k, layout, scale=0.25, backend="cpu")
    row = row_lse(rows, k, layout, scale=0.25, lse=blocks, backend="cpu")
    return out, lse, blocks, mass(blocks, "all_keys", normaliser=row)


def masses(rows, k, layout, row):
    """The attention on tokens, of all heads together and of two of them apart."""
    heads = torch.tensor([3, 0])
    apart = token_mass(rows, k, layout, row, scale=0.5, heads=heads, reduce=False, backend="cpu")
    return [*token_mass(rows, k, layout, row, scale=0.5), *apart]


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_one_graph_with_gradients_and_the_same_bits():
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager")
    results = []
    for function in (read, compiled):
        leaves = [x.detach().clone().requires_grad_() for x in tensors(LAYOUT)]
        found = function(*leaves, LAYOUT)
        results.append([*found, *torch.autograd.grad(sum(x.square().sum() for x in found), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_a_break_and_without_a_graph_for_each_list():
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(read, fullgraph=True, backend=kept)
    largest = torch.compile(block_max, fullgraph=True, backend="eager")
    per_token = torch.compile(masses, fullgraph=True, backend=kept)
    for documents in ([9, 30, 4], [2, 3], [7, 8, 9, 10], [1, 1, 1, 1, 1, 1, 1]):
        layout = Packing([Context(documents, [3], 5)])
        q, k, v = tensors(layout)
        assert all(map(torch.equal, compiled(q, k, v, layout), read(q, k, v, layout)))
        rows = q[layout.signal]
        assert torch.equal(largest(rows, k, layout, scale=0.5), block_max(rows, k, layout, scale=0.5))
        row = row_lse(rows, k, layout, scale=0.5)
        assert all(map(torch.equal, per_token(rows, k, layout, row), masses(rows, k, layout, row)))
    assert len(graphs) <= 4, "of each function the first list's, and one for all others"


def test_attention_on_tokens_has_the_sizes_that_the_layout_says():
    """Two query blocks of a context and one of another, of which one has no signal tokens; and none at all."""
    layout = Packing([Context([4, 0, 2], [3, 2], 1), Context([5], [2]), Context([], [2], 3)])
    compiled = torch.compile(masses, fullgraph=True, backend="aot_eager")
    for rows in ([8, 9, 17, 22], [11], [22], []):
        some = layout.with_signal(rows)
        q, k, _ = tensors(some)
        row = row_lse(q[some.signal], k, some, scale=0.5)
        got, wanted = (run(q[some.signal], k, some, row) for run in (compiled, masses))
        assert len(got) == len(wanted) == 2 * len(some.document_tokens)
        assert all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_what_a_call_is_checked_for_is_checked_when_it_runs():
    q, k, v = tensors(LAYOUT)
    run = operators._OPERATORS.block_attention
    with pytest.raises(InputError, match="k has 3 rows"):
        run(q, k[:3], v, LAYOUT.handle, 0.25, "")
    with pytest.raises(InputError, match="scale is nan"):
        run(q, k, v, LAYOUT.handle, float("nan"), "")
    leaf = q.clone().requires_grad_()
    out, _ = run(leaf, k, v, LAYOUT.handle, 0.25, "reference")
    with pytest.raises(BackendError, match="no gradients of the backend 'reference'"):
        out.sum().backward()


def test_a_layout_lives_as_long_as_it_is_held():
    layout = Packing([Context([3], [1])])
    handle = layout.handle
    assert of_handle(handle) is layout and layout.with_signal([3]).handle != handle
    del layout
    with pytest.raises(InputError, match=f"no layout {handle} any more"):
        of_handle(handle)
