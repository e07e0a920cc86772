"""PPI and GPI against closed forms, an enumeration of all rankings, and what no order can change."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.eval.bias import global_inconsistency, measure_order, pairwise_instability


def ranks_of(rng, k, n):
    return np.stack([rng.permutation(n) for _ in range(k)])


def exact_inconsistency(ranks):
    """Kemeny's minimum, by trying every ranking."""
    n = ranks.shape[1]
    above = (ranks[:, :, None] < ranks[:, None, :]).mean(axis=0)
    pairs = n * (n - 1) / 2
    return min(
        sum(above[order[j], order[i]] for i in range(n) for j in range(i + 1, n)) / pairs
        for order in permutations(range(n))
    )


def test_a_reranker_that_keeps_the_given_order_is_as_unstable_as_can_be():
    places = np.array(list(permutations(range(3))))
    # Each pair is handed over in both directions, and each time the first one wins.
    assert pairwise_instability(places, places) == 1.0
    # Of six permutations each pair stands three times either way: no ranking agrees with more than half.
    assert global_inconsistency(places) == 0.5


def test_instability_by_hand():
    # Two documents, in the parts (0, 1) or (1, 0): the first wins 2 of 3 times from the head, 1 of 2 from behind.
    places = np.array([[0, 1], [0, 1], [0, 1], [1, 0], [1, 0]])
    ranks = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [1, 0]])
    assert pairwise_instability(places, ranks) == pytest.approx(2 / 3 - 1 / 2)
    assert global_inconsistency(ranks) == pytest.approx(2 / 5)


def test_pairs_that_were_handed_over_in_one_way_are_left_out():
    places = np.array([[0, 1], [0, 1]])
    assert pairwise_instability(places, np.array([[0, 1], [1, 0]])) is None


def test_a_circle_of_preferences():
    # Condorcet: a > b > c, b > c > a, c > a > b. The best ranking loses one third, one third and two thirds.
    ranks = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    assert global_inconsistency(ranks) == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)


@given(st.integers(2, 8), st.integers(2, 12), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_one_ranking_for_all_orders_is_exactly_zero(k, n, seed):
    rng = np.random.default_rng(seed)
    places, ranks = ranks_of(rng, k, n), np.repeat(rng.permutation(n)[None], k, axis=0)
    assert pairwise_instability(places, ranks) in (0.0, None)
    assert global_inconsistency(ranks) == 0.0


@given(st.integers(2, 8), st.integers(2, 12), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_names_of_documents_and_the_order_of_permutations_do_not_matter(k, n, seed):
    rng = np.random.default_rng(seed)
    places, ranks = ranks_of(rng, k, n), ranks_of(rng, k, n)
    rows, columns = rng.permutation(k), rng.permutation(n)
    instability = pairwise_instability(places, ranks)
    renamed = pairwise_instability(places[rows][:, columns], ranks[rows][:, columns])
    assert renamed == (None if instability is None else pytest.approx(instability))
    assert instability is None or 0 <= instability <= 1
    assert 0 <= global_inconsistency(ranks) <= 0.5
    assert global_inconsistency(ranks[rows]) == pytest.approx(global_inconsistency(ranks))


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10_000))
@settings(max_examples=80, deadline=None)
def test_the_search_is_near_the_best_ranking_of_all(k, n, seed):
    ranks = ranks_of(np.random.default_rng(seed), k, n)
    found, best = global_inconsistency(ranks), exact_inconsistency(ranks)
    assert best - 1e-12 <= found <= best + 0.07  # two exchanges at once might be needed, hardly ever more


def test_what_order_free_and_order_bound_rerankers_show(known, make_list):
    lists = [(f"q{i}", make_list([f"text {j}" for j in range(6)])) for i in range(3)]
    free = measure_order("free", known(lambda place, blocks, query: -int(blocks[place].text[5:])), lists, {})
    assert (free.ppi.mean, free.gpi.mean) == (0.0, 0.0)
    bound = measure_order("bound", known(lambda place, blocks, query: -place), lists, {}, permutations=20)
    assert bound.ppi.mean > 0.9 and bound.gpi.mean > 0.3
