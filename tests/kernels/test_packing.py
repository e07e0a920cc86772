"""The mask as two spans per block, against masks written by hand and against the rule, token by token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.kernels import Context, Packing
from sightline.kernels.attention import tiles
from sightline.kernels.packing import DOCUMENT, QUERY

COUNTS = st.builds(
    Context,
    st.lists(st.integers(0, 7), max_size=5),
    st.lists(st.integers(1, 5), max_size=3),
    st.integers(0, 6),
)
LAYOUTS = st.builds(
    lambda contexts, causal: Packing(contexts, causal=causal),
    st.lists(COUNTS, min_size=1, max_size=3).filter(lambda cs: any(sum(c[0]) + sum(c[1]) + c[2] for c in cs)),
    st.booleans(),
)


def rule(layout):
    """The mask from its definition in the design: who each token is, then pair by pair."""
    who = []
    for number, (documents, queries, instruction) in enumerate(layout.contexts):
        who += [(number, "I", 0)] * instruction
        who += [(number, "D", i) for i, count in enumerate(documents) for _ in range(count)]
        who += [(number, "Q", i) for i, count in enumerate(queries) for _ in range(count)]

    def sees(i, j):
        (a, kind, block), (b, other, other_block) = who[i], who[j]
        if a != b:
            return False
        if (kind, block) == (other, other_block):
            return j <= i or not layout.causal
        return other == "I" if kind == "D" else kind == "Q" and other in "ID"

    return torch.tensor([[sees(i, j) for j in range(len(who))] for i in range(len(who))])


def test_drawing_by_hand():
    layout = Packing([Context([2, 1], [1, 2], 1), Context([1], [1])])
    assert layout.draw().splitlines() == [
        "I 0 |#........",
        "D 1 |##.......",
        "D 2 |###......",
        "D 3 |#..#.....",
        "Q 4 |#####....",
        "Q 5 |####.#...",
        "Q 6 |####.##..",
        "D 7 |.......#.",
        "Q 8 |.......##",
    ]
    both_ways = Packing([Context([2, 1], [2], 2)], causal=False)
    assert both_ways.draw().splitlines() == [
        "I 0 |##.....",
        "I 1 |##.....",
        "D 2 |####...",
        "D 3 |####...",
        "D 4 |##..#..",
        "Q 5 |#######",
        "Q 6 |#######",
    ]


@given(LAYOUTS)
@settings(max_examples=80, deadline=None)
def test_the_mask_follows_the_rule(layout):
    mask = layout.mask()
    assert torch.equal(mask, rule(layout))
    assert layout.pairs == int(mask.sum())
    assert layout.documents == max(len(c.documents) for c in layout.contexts)
    for context, index, start, stop in layout.spans(DOCUMENT):
        assert stop - start == layout.contexts[context].documents[index]


@given(LAYOUTS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=120, deadline=None)
def test_tiles_cover_the_mask_once(layout, tokens, heads, least):
    """Every (query, key) pair of the mask is met by exactly one tile, from either side, however tiles are split."""
    kept = tiles._LEAST_FAR
    tiles._LEAST_FAR = least
    try:
        by_row = tiles.row_tiles(layout, tokens, heads)
        by_key = tiles.key_tiles(layout, tokens, heads)
    finally:
        tiles._LEAST_FAR = kept
    for work, by_keys in ((by_row, False), (by_key, True)):
        met = torch.zeros(layout.tokens, layout.tokens, dtype=torch.int64)
        slots = []
        for start, stop, own, own_stop, far, far_stop, slot, row in work.tiles.tolist():
            assert 0 < stop - start <= tokens and row == start
            for a, b in ((own, own_stop), (far, far_stop)):
                span = met[a:b, start:stop] if by_keys else met[start:stop, a:b]
                span += 1
            slots += [slot - 1] if slot else []
        if layout.causal:  # the diagonal block is cut by the kernel's mask
            met = met.tril()
        assert torch.equal(met, layout.mask().long())
        assert sorted(slots) == list(range(work.slots))
        assert sum(count for *_, count in work.splits.tolist()) == work.slots


def test_signal_tokens():
    layout = Packing([Context([3], [2, 1], 1), Context([1], [2])])
    assert layout.signal.tolist() == [4, 5, 6, 8, 9]
    assert [span[2:] for span in layout.spans(QUERY)] == [(4, 6), (6, 7), (8, 10)]
    chosen = layout.with_signal(torch.tensor([5, 9]))
    assert chosen.signal.tolist() == [5, 9]
    assert layout.signal.tolist() == [4, 5, 6, 8, 9], "the original is left alone"
    assert layout.with_signal([]).signal.shape == (0,)
    for wrong in ([3], [0], [7], [10], [-1], [5, 5], [6, 5], [[5]], [5.0], torch.tensor([5.0]), ["5"]):
        with pytest.raises(InputError, match="signal tokens"):
            layout.with_signal(wrong)


@pytest.mark.parametrize(
    ("contexts", "says"),
    [
        ([], "0 tokens"),
        ([Context([], [], 0)], "0 tokens"),
        ([Context([0, 0])], "0 tokens"),
        ([Context([3, -1])], r"context 0, document 1: -1 tokens"),
        ([Context([3]), Context([3], [2, 0])], r"context 1, query block 1: 0 tokens"),
        ([Context([3], [1], -2)], "instruction 0: -2"),
        ([Context([1.5])], "token counts"),
        ([Context(["3"])], "token counts"),
        ([Context(None)], "token counts"),
        ([Context([2**31])], "takes 1 to"),
        ([7], "token counts"),
    ],
)
def test_counts_that_cannot_be(contexts, says):
    with pytest.raises(InputError, match=says):
        Packing(contexts)


def test_numpy_and_torch_counts_are_counts():
    numpy = pytest.importorskip("numpy")
    layout = Packing([Context(numpy.array([2, 3]), torch.tensor([1]), numpy.int64(4))])
    assert layout.contexts[0] == Context((2, 3), (1,), 4)


def test_a_drawing_is_small():
    with pytest.raises(InputError, match="draw a smaller one"):
        Packing([Context([201])]).draw()


def test_moving_keeps_the_counts():
    layout = Packing([Context([2, 3], [2], 1)]).with_signal([7])
    moved = layout.to("meta")
    assert moved.signal.device.type == "meta" and moved.tokens == layout.tokens
    assert layout.to("cpu") is layout


@pytest.mark.parametrize(("queries", "tokens", "heads"), [(31, 1, 8), (17, 1, 8), (1, 16, 1), (32, 16, 8)])
def test_a_layout_with_room_takes_every_layout_of_fewer_tokens(queries, tokens, heads):
    """However its tiles are cut: fewer of them are cut into more parts."""
    room = Packing([Context([2046, 0], [32], 1)]).behind(2047).reserve(32)
    other = Packing([Context([1500, 40], [queries], 2)]).behind(1542)
    work, theirs = (tiles.row_tiles(layout, tokens, heads) for layout in (room, other))
    room.rewrite(other)
    assert torch.equal(work.tiles[: len(theirs.tiles)], theirs.tiles) and theirs.slots <= work.slots


@given(LAYOUTS, LAYOUTS, st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_tables_can_be_rewritten_for_another_layout(mine, other, tokens):
    """They hold the other's, and zeros behind; where they are too short, that is said."""
    room = mine.reserve(60)
    work, rows = (
        tiles.row_tiles(room, tokens, 2),
        room.keep("rows", lambda layout: torch.from_numpy(layout.blocks["start"])),
    )
    theirs, starts = tiles.row_tiles(other, tokens, 2), torch.from_numpy(other.blocks["start"])
    fits = len(starts) <= len(rows) and theirs.slots <= work.slots
    fits &= len(theirs.tiles) <= len(work.tiles) and len(theirs.splits) <= len(work.splits)
    if not fits:
        with pytest.raises(InputError, match=r"does not go into one of|more than the \d+ of this layout"):
            room.rewrite(other)
        return
    room.rewrite(other)
    for kept, wanted in ((work.tiles, theirs.tiles), (work.splits, theirs.splits), (rows, starts)):
        assert torch.equal(kept[: len(wanted)], wanted) and not kept[len(wanted) :].any()
    assert tiles.row_tiles(room, tokens, 2) is work
