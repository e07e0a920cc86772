"""Where ranked passages stand in a generator's context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.rerank import arrange


@given(st.integers(0, 200))
def test_basin_order(count):
    """The further from the nearer end, the less relevant: the definition, not the construction."""
    ranked = list(range(count))
    placed = arrange(ranked, "basin")
    assert sorted(placed) == ranked == list(range(count))
    depth = [min(place, count - 1 - place) for place in range(count)]
    by_relevance = sorted(range(count), key=lambda place: placed[place])
    assert [depth[place] for place in by_relevance] == sorted(depth)
    assert not count or placed[0] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_basin_order_is_that_of_haystack(count):
    haystack = pytest.importorskip("haystack", reason="the extra haystack is not installed")
    from haystack.components.rankers import LostInTheMiddleRanker

    documents = [haystack.Document(id=str(i), content=f"text {i}") for i in range(count)]
    assert arrange(documents) == LostInTheMiddleRanker().run(documents)["documents"]


def test_relevance_keeps_the_order_in_a_new_list():
    ranked = ("a", "b", "c")
    assert arrange(ranked, "relevance") == list(ranked)


def test_another_order_is_refused():
    with pytest.raises(InputError, match="'relevance' or 'basin', not 'random'"):
        arrange([1], "random")
