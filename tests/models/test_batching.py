import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.models.batching import interruptible, token_budget_batches


@given(st.lists(st.integers(0, 300)), st.integers(1, 1000))
def test_batches_are_a_permutation_longest_first_within_the_budget(lengths, budget):
    batches = list(token_budget_batches(lengths, budget))
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch and (len(batch) == 1 or len(batch) * lengths[batch[0]] <= budget)


@given(st.lists(st.integers(1, 300), min_size=1), st.integers(1, 1000))
def test_batches_are_as_full_as_the_budget_allows(lengths, budget):
    *full, _ = token_budget_batches(lengths, budget)
    assert all((len(batch) + 1) * lengths[batch[0]] > budget for batch in full)


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [0, 0, 0]])
def test_equal_lengths_keep_their_order(lengths):
    assert [i for batch in token_budget_batches(lengths, 10) for i in batch] == list(range(len(lengths)))


def test_a_check_is_asked_before_every_batch():
    asked = []
    with interruptible(lambda: asked.append(1)):
        batches = list(token_budget_batches([5, 5, 5], budget=5))
        with interruptible(None):
            list(token_budget_batches([5, 5, 5], budget=5))
    list(token_budget_batches([5, 5, 5], budget=5))
    assert len(asked) == len(batches) == 3


def test_reading_stops_where_the_check_says_so():
    from sightline.models.minilm import load_minilm

    left = [2]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise TimeoutError

    with pytest.raises(TimeoutError), interruptible(check):
        load_minilm().read([f"{number} " + "word " * 250 for number in range(40)])
    assert len(load_minilm().read(["word"]).offsets) == 2
