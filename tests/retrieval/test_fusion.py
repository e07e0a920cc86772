import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.retrieval.fusion import reciprocal_rank, weighted_sum


@pytest.fixture(scope="module")
def ranx():
    return pytest.importorskip("ranx", reason="ranx, the reference for fusion, is not installed")


def random_runs(seed, count):
    """Runs that overlap in part, with scores on different scales and none of them equal."""
    chance = random.Random(seed)
    return [
        {
            f"d{document}": (run + 1) * score - 3.0
            for document, score in zip(
                chance.sample(range(40), size), chance.sample([i / 64 for i in range(640)], size), strict=True
            )
        }
        for run, size in enumerate(chance.choices(range(2, 30), k=count))
    ]


def assert_same_scores(fused, reference):
    assert fused == pytest.approx(reference)
    assert list(fused.values()) == sorted(fused.values(), reverse=True)


@pytest.mark.parametrize("count", [2, 3])
def test_reciprocal_rank_agrees_with_ranx(ranx, count):
    queries = [random_runs(seed, count) for seed in range(20)]
    runs = [ranx.Run({f"q{i}": runs[n] for i, runs in enumerate(queries)}) for n in range(count)]
    reference = ranx.fuse(runs, norm=None, method="rrf", params={"k": 60}).to_dict()
    for i, runs in enumerate(queries):
        assert_same_scores(reciprocal_rank(runs), reference[f"q{i}"])


def test_weighted_sum_agrees_with_ranx(ranx):
    queries = [random_runs(seed, 2) for seed in range(20, 40)]
    runs = [ranx.Run({f"q{i}": runs[n] for i, runs in enumerate(queries)}) for n in range(2)]
    reference = ranx.fuse(runs, norm="min-max", method="wsum", params={"weights": (0.3, 0.7)}).to_dict()
    for i, runs in enumerate(queries):
        assert_same_scores(weighted_sum(runs, [0.3, 0.7]), reference[f"q{i}"])


def test_reciprocal_rank_of_equal_scores_keeps_their_order():
    assert list(reciprocal_rank([{"b": 1.0, "a": 1.0}])) == ["b", "a"]


def test_weighted_sum_gives_equal_scores_the_full_weight():
    assert weighted_sum([{"a": 2.0, "b": 2.0}, {"b": 1.0, "c": 0.0}], [0.5, 0.25]) == {"b": 0.75, "a": 0.5, "c": 0.0}


def test_weights_must_be_as_many_as_runs():
    with pytest.raises(InputError, match="2 runs need as many weights, not 1"):
        weighted_sum([{"a": 1.0}, {"b": 1.0}], [1.0])


@pytest.mark.parametrize("fused", [reciprocal_rank([{}, {}]), weighted_sum([{}, {}], [1, 1]), reciprocal_rank([])])
def test_nothing_fused_with_nothing_is_nothing(fused):
    assert fused == {}


@given(st.lists(st.dictionaries(st.integers(0, 9), st.floats(-9, 9)), min_size=1, max_size=4))
def test_every_id_is_fused_once_best_first(runs):
    for fused in (reciprocal_rank(runs), weighted_sum(runs, [1.0] * len(runs))):
        assert set(fused) == {id for run in runs for id in run}
        assert list(fused.values()) == sorted(fused.values(), reverse=True)
