"""How many kernels a GPU would have to compile for lists of many shapes, and that no list changes another's tiles.

Nothing is compiled: Triton is asked how it would tell the calls apart.
"""

import itertools
from collections import defaultdict

import pytest
import torch

from sightline.kernels import Context, Pages

from .shapes import layout_of

pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from sightline.kernels import packed
from sightline.kernels.attention import tiles
from sightline.kernels.attention import triton as attention
from sightline.kernels.lse import triton as lse

HOPPER = GPUTarget("cuda", 90, 32)
# Triton treats 1, multiples of 16 and other numbers each in its own way: counts of all kinds, of documents, of rows and
# of tokens.
LISTS = [
    Context([4] * 1, [1], 0),
    Context([4] * 2, [2], 1),
    Context([4] * 16, [5], 16),
    Context([3] * 17, [16], 21),
    Context([4] * 96, [3, 9], 0),
    Context([1] * 100, [40], 16),
    Context([16] * 7, [9], 7),
]


class Recorder:
    """Stands in for a kernel: keeps by what a compiled kernel would be looked up, and runs nothing."""

    def __init__(self, kernel, calls):
        function = kernel
        if not isinstance(kernel, JITFunction):
            names = ("do_not_specialize", "do_not_specialize_on_alignment")
            function = JITFunction(kernel.fn, **{name: kernel.kwargs[name] for name in names})
        self.bind = create_function_from_signature(function.signature, function.params, make_backend(HOPPER))
        self.calls = calls

    def __getitem__(self, grid):
        def call(*args, **kwargs):
            _, kinds, options = self.bind(*args, **kwargs)
            assert grid[0] < 2**31
            self.calls.add((str(kinds), str(options)))

        return call


@pytest.fixture
def compiled(monkeypatch):
    """For each kernel the variants that a GPU would compile."""
    variants = defaultdict(set)
    monkeypatch.setattr(packed, "interpreted", lambda: False)
    monkeypatch.setattr(attention, "arch", lambda device: "sm90")
    for module in (attention, lse):
        for name, kernel in list(vars(module).items()):
            if hasattr(kernel, "arg_names") and kernel.fn.__module__ == module.__name__ and name != "_tile":
                where = f"{module.__name__.split('.')[-2]}{name}"
                monkeypatch.setattr(module, name, Recorder(kernel, variants[where]))
    return variants


@pytest.mark.parametrize(("group", "dim"), [(4, 128), (2, 128), (1, 32)], ids=["mistral", "qwen3", "minilm"])
def test_lists_of_every_shape_share_their_kernels(group, dim, compiled, monkeypatch):
    """A request that brings another number of documents must not wait for a compiler."""
    monkeypatch.setattr(tiles, "_LEAST_FAR", 16)  # so that tiles of short lists are split, too
    torch.use_deterministic_algorithms(False)  # nothing is computed, so no memory need be filled
    whole = torch.empty(512, 2 * (group + 2), dim, dtype=torch.bfloat16)
    for context in LISTS:
        layout = layout_of([context])
        q, k, v = whole[: layout.tokens].split([2 * group, 2, 2], dim=1)
        first = context.instruction + sum(context.documents)
        for behind in (layout, layout.behind(first)):
            attention.forward(q[behind.first :], k, v, behind, 0.1)
        counts = (context.instruction, *context.documents, sum(context.queries))
        pages = Pages([torch.empty(3, count, 2, dim, dtype=torch.bfloat16) for count in counts])
        attention.forward(q[first:], pages.slot(0), pages.slot(2), layout.behind(first), 0.1)
        out, row = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[:2])
        attention.backward(out, row, q, k, v, out, row, layout, 0.1)
        for part in ("documents", "rest"):
            rows = q[layout.signal]
            found = lse.forward(rows, k, layout, 0.1, part)
            lse.backward(found, rows, k, found, layout, 0.1, part)
            lse.forward(rows, pages.slot(0), layout, 0.1, part)
        for keys, heads in itertools.product((k, pages.slot(0)), (None, torch.tensor([0]), torch.arange(2))):
            lse.largest(rows, keys, layout, 0.1)
            for reduce in (heads is None or len(heads) > 1, False):
                lse.token_mass(rows, keys, layout, torch.empty(rows.shape[:2]), 0.1, heads, reduce)
    # Parts are combined of outputs, of gradients by queries, and by keys. Documents and the rest have two masks, and
    # largest logits are a third kernel; masses are summed over heads, or not. All but gradients may read pages.
    several = {"attention_combine": 3, "lse_backward_q": 2, "lse_backward_k": 2}
    several |= {"attention_forward": 2, "lse_forward": 6, "lse_token_mass": 4}
    if group == 1:  # gradients by queries and by keys are combined alike
        several["attention_combine"] = 2
    assert {name: len(calls) for name, calls in compiled.items()} == {name: several.get(name, 1) for name in compiled}


def test_another_list_of_the_pass_changes_no_tile(compiled):
    """What a tile holds decides which instruction multiplies, and so the last bit of what comes out."""
    torch.use_deterministic_algorithms(False)
    alone, other = Context([30, 5], [2], 3), Context([8], [40], 3)
    for contexts in ([alone], [alone, other], [Context([5] * 100, [1], 3), alone]):
        layout = layout_of(contexts)
        q, k, v = torch.empty(layout.tokens, 24, 128, dtype=torch.bfloat16).split([16, 4, 4], dim=1)
        lse.forward(q[layout.signal], k, layout, 0.1, "documents")
        attention.forward(q, k, v, layout, 0.1)
    assert {name: len(calls) for name, calls in compiled.items() if calls} == {"lse_forward": 1, "attention_forward": 1}
    [(kinds, _)] = compiled["lse_forward"]
    assert "('constexpr', 64)" in kinds  # 16 tokens of a group of four
    assert [lse._tile(torch.bfloat16, 128, group).rows for group in (1, 2, 3, 4, 8, 71)] == [16, 32, 64, 64, 64, 128]
