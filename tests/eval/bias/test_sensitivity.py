"""PSI: against its formula, and its interval against simulated truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.eval.bias import PSI, grouped_psi, paired_psi, psi

means = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=20)


@given(means)
def test_the_formula(values):
    if max(values) > 0:
        assert psi(values) == pytest.approx(1 - min(values) / max(values), abs=1e-12)
        assert 0 <= psi(values) <= 1
        assert psi(values[::-1]) == psi(values)
        assert psi([value / 2 for value in values]) == pytest.approx(psi(values))


def test_published_figures():
    """Qwen3-Reranker-0.6B on FineWeb-PosQ, as the authors report it."""
    assert psi([0.9503, 0.9497, 0.9246]) == pytest.approx(0.027, abs=5e-4)


@pytest.mark.parametrize("groups", [[], [[0.5]], [[0.0, 0.0], [0.0]], [[], [0.5]]])
def test_undefined_is_none_and_never_zero(groups):
    assert grouped_psi(groups, resamples=99) == PSI(None)
    assert psi([np.mean(group) for group in groups if group]) is None
    assert paired_psi(np.zeros((3, 4)), resamples=99) == PSI(None)
    assert paired_psi(np.zeros((3, 0)), resamples=99) == PSI(None)


@pytest.mark.parametrize("values", [[0.5, -0.1], [0.5, float("nan")], [float("inf"), 1.0]])
def test_a_ratio_of_such_values_is_refused(values):
    with pytest.raises(InputError, match="not negative"):
        psi(values)
    with pytest.raises(InputError, match="not negative"):
        grouped_psi([[value] for value in values])


def test_a_bias_without_noise_is_known_exactly():
    index = grouped_psi([[0.8] * 30, [0.6] * 20, [0.2] * 25], resamples=999)
    assert index.value == index.low == index.high == index.corrected == pytest.approx(0.75)
    assert index.p == 1 / 1000 and index.floor < 0.25
    index = paired_psi(np.array([[0.8] * 30, [0.6] * 30, [0.2] * 30]), resamples=999)
    assert index.value == index.low == index.high == pytest.approx(0.75) and index.p == 1 / 1000


def test_no_bias_in_any_query_is_exactly_zero():
    row = np.random.default_rng(1).random(40)
    index = paired_psi(np.stack([row] * 5), resamples=499)
    assert index == PSI(value=0.0, low=0.0, high=0.0, corrected=0.0, floor=0.0, floor_high=0.0, p=1.0)


def test_batches_do_not_change_what_is_drawn_for_one_seed(monkeypatch):
    groups = [np.random.default_rng(i).random(20) for i in range(3)]
    assert grouped_psi(groups, seed=3, resamples=200) == grouped_psi(groups, seed=3, resamples=200)
    assert grouped_psi(groups, seed=3, resamples=200) != grouped_psi(groups, seed=4, resamples=200)
    # Smaller batches draw in another sequence: another sample of the same distribution.
    whole = grouped_psi(groups, seed=3, resamples=4000)
    monkeypatch.setattr("sightline.eval.bias.sensitivity._VALUES_AT_ONCE", 600)
    parts = grouped_psi(groups, seed=3, resamples=4000)
    assert parts != whole
    assert (parts.low, parts.high, parts.floor) == pytest.approx((whole.low, whole.high, whole.floor), abs=0.02)


@pytest.mark.parametrize("truth", [[0.8] * 6, [0.8, 0.8, 0.8, 0.78, 0.76, 0.74], [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]])
def test_the_interval_covers_the_truth(truth):
    """Values like nDCG's: 1, a half, or 0. The percentile bootstrap alone never covers a true 0."""
    rng = np.random.default_rng(5)
    true, inside, percentile, floors = 1 - min(truth) / max(truth), 0, 0, []
    for seed in range(80):
        draws = [rng.random(60) for _ in truth]
        groups = [
            np.where(draw < mean - 0.15, 1.0, np.where(draw < mean + 0.15, 0.5, 0.0))
            for draw, mean in zip(draws, truth, strict=True)
        ]
        index = grouped_psi(groups, seed=seed, resamples=300)
        inside += index.low <= true <= index.high
        boot = [1 - np.min(m) / np.max(m) for m in (
            [group[rng.integers(0, 60, 60)].mean() for group in groups] for _ in range(60)
        )]  # fmt: skip
        percentile += np.percentile(boot, 2.5) <= true <= np.percentile(boot, 97.5)
        floors.append((index.value, index.floor, index.corrected))
    assert inside / 80 >= 0.85
    value, floor, corrected = np.mean(floors, axis=0)
    assert abs(corrected - true) < abs(value - true) + 0.02
    if true == 0:
        assert percentile / 80 < 0.2
        assert value == pytest.approx(floor, abs=0.015)
