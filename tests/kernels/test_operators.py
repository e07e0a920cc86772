"""The kernels in code that torch.compile traces: one graph, the same numbers, and no new graph for another list."""

import pytest
import torch

from sightline.errors import BackendError, InputError
from sightline.kernels import Context, Packing, block_attention, block_lse, block_max, mass, operators, row_lse
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
    for documents in ([9, 30, 4], [2, 3], [7, 8, 9, 10], [1, 1, 1, 1, 1, 1, 1]):
        layout = Packing([Context(documents, [3], 5)])
        q, k, v = tensors(layout)
        assert all(map(torch.equal, compiled(q, k, v, layout), read(q, k, v, layout)))
        rows = q[layout.signal]
        assert torch.equal(largest(rows, k, layout, scale=0.5), block_max(rows, k, layout, scale=0.5))
    assert len(graphs) <= 2, "the first list's, and one for all others"


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
