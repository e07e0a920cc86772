"""AUROC, false accepts, calibration error and Platt scaling: closed forms, invariances, and fits by others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from sightline.errors import InputError
from sightline.eval.calibration import (
    Judged,
    Thresholds,
    auroc,
    calibrate,
    calibration_error,
    false_accepts,
    platt_scaling,
    reliability,
)

VALUES = st.lists(st.integers(0, 20).map(lambda i: i / 20), min_size=1, max_size=12)


def arrays(*lists):
    return [np.array(values, dtype=float) for values in lists]


@pytest.mark.parametrize(
    ("positive", "negative", "area"),
    [
        ([3, 2], [1, 0], 1.0),
        ([1, 0], [3, 2], 0.0),
        ([1, 1], [1, 1, 1], 0.5),  # ties count half
        ([2, 1], [1], 0.75),
        ([5, 3, 1], [4, 2], 0.5),
    ],
)
def test_auroc_by_hand(positive, negative, area):
    assert auroc(*arrays(positive, negative)) == area


@given(VALUES, VALUES)
def test_auroc_counts_pairs(positive, negative):
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(*arrays(positive, negative)) == pytest.approx(np.mean(pairs))


@given(VALUES, VALUES, st.integers(0, 1000))
def test_auroc_knows_the_order_of_values_only(positive, negative, seed):
    a, b = arrays(positive, negative)
    area, rng = auroc(a, b), np.random.default_rng(seed)
    assert auroc(np.exp(3 * a) - 7, np.exp(3 * b) - 7) == area
    assert auroc(-a, -b) == pytest.approx(1 - area)
    assert auroc(rng.permutation(a), rng.permutation(b)) == area


def test_without_both_kinds_there_is_no_area():
    nothing, something = arrays([], [1.0])
    for kinds in ((nothing, something), (something, nothing), (nothing, nothing)):
        assert auroc(*kinds) is None and false_accepts(*kinds) is None


@pytest.mark.parametrize(
    ("recall", "share", "threshold"),
    [(1.0, 1.0, 0.1), (0.9, 1.0, 0.1), (0.8, 0.75, 0.3), (0.4, 0.25, 0.7), (0.1, 0, 0.9)],
)
def test_false_accepts_by_hand(recall, share, threshold):
    positive, negative = arrays([0.9, 0.7, 0.5, 0.3, 0.1], [0.8, 0.4, 0.3, 0.2])
    assert false_accepts(positive, negative, recall) == (pytest.approx(share), threshold)


@given(VALUES, VALUES, st.integers(1, 10).map(lambda i: i / 10))
def test_the_threshold_is_the_highest_that_keeps_the_recall(positive, negative, recall):
    a, b = arrays(positive, negative)
    share, threshold = false_accepts(a, b, recall)
    assert np.mean(a >= threshold) >= recall - 1e-9
    higher = [value for value in {*positive, *negative} if value > threshold]
    assert all(np.mean(a >= value) < recall for value in higher)
    assert share == pytest.approx(np.mean(b >= threshold))


def test_a_recall_out_of_range_is_refused():
    with pytest.raises(InputError, match="recall"):
        false_accepts(*arrays([1.0], [0.0]), recall=0.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=5, max_size=5), st.integers(0, 9)
)
def test_a_query_that_counts_twice_is_a_query_that_is_there_twice(queries, seed):
    positive, negative, counts = (np.array(column) for column in zip(*queries, strict=True))
    numbers = np.arange(5)
    area = Thresholds.of((positive, numbers), (negative, numbers), 5).auroc(counts[None])[0]
    expected = auroc(np.repeat(positive, counts), np.repeat(negative, counts))
    assert np.isnan(area) if expected is None else area == pytest.approx(expected)


def test_fewer_thresholds_give_nearly_the_same_area():
    rng = np.random.default_rng(0)
    positive, negative, once = rng.normal(2, 1, 300), rng.normal(0, 1, 9000), np.ones((1, 1))
    kinds = [(values, np.zeros(len(values), dtype=int)) for values in (positive, negative)]
    some = Thresholds.of(*kinds, 1, levels=300)
    assert len(some.values) <= 600
    assert some.auroc(once)[0] == pytest.approx(auroc(positive, negative), abs=0.002)


def test_calibration_error_by_hand():
    probabilities, relevant = np.array([0.1, 0.1, 0.1, 0.9]), np.array([True, False, False, True])
    # |3 * .1 - 1| and |.9 - 1|, over 4 documents.
    assert calibration_error(probabilities, relevant) == pytest.approx((0.7 + 0.1) / 4)
    assert reliability(probabilities, relevant, 2).tolist() == pytest.approx(np.array([[3, 0.3, 1], [1, 0.9, 1]]))
    assert calibration_error(np.zeros(0), np.zeros(0, dtype=bool)) is None


def test_perfect_calibration_has_no_error_in_the_limit():
    rng, errors = np.random.default_rng(1), []
    for count in (1_000, 100_000):
        probabilities = rng.random(count)
        errors.append(calibration_error(probabilities, rng.random(count) < probabilities))
    assert errors[1] < 0.01 < errors[0] < 0.06


def test_only_zero_and_one_that_are_right_have_no_error_at_all():
    relevant = np.array([True, False, True])
    assert calibration_error(relevant.astype(float), relevant) == 0.0
    assert calibration_error(1 - relevant.astype(float), relevant) == 1.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(0, 99))
def test_the_order_of_documents_does_not_matter(pairs, seed):
    probabilities, relevant = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    order = np.random.default_rng(seed).permutation(len(pairs))
    error = calibration_error(probabilities, relevant)
    assert calibration_error(probabilities[order], relevant[order]) == pytest.approx(error)
    assert 0 <= error <= 1


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(InputError, match="from 0 to 1"):
        calibration_error(np.array([wrong]), np.array([True]))


def sample(seed, n=400):
    rng = np.random.default_rng(seed)
    scores = rng.normal(rng.uniform(-50, 50), rng.uniform(0.1, 20), n)
    logits = rng.uniform(0.5, 3) * (scores - scores.mean()) / scores.std() - rng.uniform(0, 3)
    relevant = rng.random(n) < 1 / (1 + np.exp(-logits))
    relevant[:2] = True, False
    return scores, relevant, rng.uniform(0.1, 3, n)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_fit_is_the_minimum_that_a_general_optimiser_finds(seed):
    scores, relevant, weights = sample(seed)
    n, m = relevant.sum(), (~relevant).sum()
    targets = np.where(relevant, (n + 1) / (n + 2), 1 / (m + 2))
    x = (scores - scores.mean()) / scores.std()

    def loss(parameters):
        logits = parameters[0] * x + parameters[1]
        return np.average(np.logaddexp(0, logits) - targets * logits, weights=weights)

    found = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    slope, offset = platt_scaling(scores, relevant, weights)
    assert slope * scores.std() == pytest.approx(found[0], abs=1e-4)
    assert offset + slope * scores.mean() == pytest.approx(found[1], abs=1e-4)


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_fit_is_that_of_scikit_learn(seed):
    linear_model = pytest.importorskip("sklearn.linear_model")
    scores, relevant, weights = sample(seed)
    n, m = relevant.sum(), (~relevant).sum()
    targets = np.where(relevant, (n + 1) / (n + 2), 1 / (m + 2))
    x = ((scores - scores.mean()) / scores.std())[:, None]
    # A target between 0 and 1 is an example of both kinds, each with its share of the weight.
    model = linear_model.LogisticRegression(C=1e12, tol=1e-10, max_iter=10_000)
    both = np.concatenate([weights * targets, weights * (1 - targets)])
    model.fit(np.concatenate([x, x]), np.repeat([1, 0], len(x)), sample_weight=both)
    slope, offset = platt_scaling(scores, relevant, weights)
    assert slope * scores.std() == pytest.approx(model.coef_[0, 0], rel=1e-3)
    assert offset + slope * scores.mean() == pytest.approx(model.intercept_[0], rel=1e-3, abs=1e-3)


@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_the_probability_does_not_depend_on_the_unit_of_scores(seed, factor, shift):
    scores, relevant, _ = sample(seed)
    lists = list(zip(scores.tolist(), relevant.tolist(), strict=True))
    other = [(factor * score + shift, answer) for score, answer in lists]
    try:
        first, second = calibrate([Judged.of([lists])]), calibrate([Judged.of([other])])
    except InputError:
        return  # relevant ones have no higher scores in this sample
    assert second.probability(other[5][0]) == pytest.approx(first.probability(lists[5][0]), abs=1e-6)


def test_scores_that_separate_give_finite_numbers():
    spec = calibrate([Judged.of([[(10.0, True), (9.0, True), (1.0, False), (0.0, False)]])])
    assert 0 < spec.slope < 5 and 0.5 < spec.probability(10.0) < 1


def test_every_collection_and_every_query_weighs_the_same():
    wide = [[(3.0, True), (1.0, False)], [(2.0, True), (2.5, False), (0.0, False)]]
    narrow = [[(8.0, True), (7.0, False)]]
    once = calibrate([Judged.of(wide), Judged.of(narrow)])
    # Platt's targets know how many examples there are; with many of them only the weights are left.
    many = calibrate([Judged.of(wide * 500), Judged.of(narrow * 500)])
    unequal = calibrate([Judged.of(wide * 500), Judged.of(narrow * 5000)])
    assert unequal.slope == pytest.approx(many.slope, rel=0.01) and once.slope < many.slope
    longer = calibrate([Judged.of([wide[0] * 9, wide[1]] * 500)])  # the same list, nine times as long
    assert longer.slope == pytest.approx(calibrate([Judged.of(wide * 500)]).slope, rel=0.01)


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ([], "0 relevant and 0 other"),
        ([(1.0, True)], "1 relevant and 0 other"),
        ([(1.0, False)], "0 relevant and 1 other"),
        ([(1.0, True), (1.0, False)], "all scores are the same"),
        ([(1.0, True), (2.0, False)], "do not have higher scores"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pairs, reason):
    with pytest.raises(InputError, match=reason):
        calibrate([Judged.of([pairs])])


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        Judged.of([[(float("nan"), True)]])
    with pytest.raises(InputError, match="the same length"):
        Judged(np.zeros(2), np.zeros(1, dtype=bool), np.zeros(2, dtype=int))
