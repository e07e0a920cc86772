"""Significance: against exact enumeration, the textbook formula, ranx, and simulated truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from sightline.errors import InputError
from sightline.eval import significance as module
from sightline.eval.significance import compare, holm, interval, largest_changes


def per_query(**systems):
    return {name: {f"q{i}": {"AP": float(v)} for i, v in enumerate(values)} for name, values in systems.items()}


def t_test(differences):
    """Student's formula; the tail by the regularised incomplete beta function."""
    n = len(differences)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(n))
    return special.betainc((n - 1) / 2, 0.5, (n - 1) / (n - 1 + t * t))


def test_few_queries_are_enumerated():
    rng = np.random.default_rng(1)
    a, b = rng.random(9), rng.random(9) - 0.1
    (pair,) = compare(per_query(b=b, a=a), "AP")
    observed = abs((a - b).mean())
    flips = [abs(np.mean((a - b) * signs)) for signs in itertools.product([1, -1], repeat=9)]
    exact = np.mean([flip >= observed - 1e-12 for flip in flips])
    assert pair.p_randomisation == pytest.approx(exact, abs=1e-9)
    assert pair.p_t == pytest.approx(t_test(a - b), rel=1e-9)


@pytest.mark.parametrize("grades", [[0.0, 1.0], [0.0, 0.39, 0.5, 0.63, 1.0]], ids=["ties", "steps"])
@pytest.mark.parametrize(("queries", "shift"), [(5, 0.4), (12, 0.3), (40, 0.15), (300, 0.05), (300, 0.0)])
def test_resampling_agrees_with_scipys(queries, shift, grades):
    rng = np.random.default_rng(queries)
    a = rng.choice(grades, queries)
    b = np.where(rng.random(queries) < shift, rng.choice(grades, queries), a)
    (pair,) = compare(per_query(b=b, a=a), "AP")
    test = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=9999, batch=1000, rng=np.random.default_rng(7),
    )  # fmt: skip
    # Exact where all exchanges are gone through; else two estimates, four standard errors apart at most.
    slack = 1e-12 if 2**queries <= 9999 else 4 * math.sqrt(2 * test.pvalue * (1 - test.pvalue / 2) / 9999) + 2e-4
    assert pair.p_randomisation == pytest.approx(test.pvalue, abs=slack)
    if (a != b).any():
        theirs = stats.bootstrap(
            (a - b,), np.mean, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert pair.difference.low == pytest.approx(theirs.low, abs=0.1 * width)
        assert pair.difference.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_many_queries_are_resampled_in_batches(monkeypatch):
    rng = np.random.default_rng(6)
    values = per_query(a=rng.random(2000), b=rng.random(2000), c=rng.random(2000))
    whole = compare(values, "AP", resamples=500)
    monkeypatch.setattr(module, "_BATCH_BYTES", 8 * 2000 * 64)
    for one, other in zip(whole, compare(values, "AP", resamples=500), strict=True):
        assert one.p_randomisation == other.p_randomisation
        assert one.difference.low == pytest.approx(other.difference.low, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.1])
def test_agrees_with_ranx(shift):
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(2)
    a, b = rng.random(120), np.clip(rng.random(120) + shift, 0, 1)
    (pair,) = compare(per_query(b=b, a=a), "AP")
    from ranx.statistical_tests import fisher_randomization_test, paired_student_t_test

    assert pair.p_t == pytest.approx(paired_student_t_test(a, b)[0], rel=1e-6)
    theirs = fisher_randomization_test(a, b, n_permutations=20_000, max_p=0.05, random_seed=3)[0]
    assert pair.p_randomisation == pytest.approx(theirs, abs=0.02)
    assert ranx is not None


def test_every_pair_is_corrected_together():
    rng = np.random.default_rng(3)
    base = rng.random(200)
    values = per_query(a=base, b=base + 0.05 * rng.random(200), c=base + 0.002 * rng.standard_normal(200))
    pairs = compare(values, "AP")
    assert [(x.a, x.b) for x in pairs] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert [x.p_holm for x in pairs] == holm([x.p_randomisation for x in pairs])
    assert pairs[0].p_holm < 0.01 < pairs[1].p_holm
    assert pairs[0].difference.low > 0 and pairs[0].wins == 200 and pairs[0].losses == pairs[0].ties == 0


def test_the_same_seed_gives_the_same_and_order_of_queries_does_not_matter():
    rng = np.random.default_rng(4)
    values = per_query(a=rng.random(40), b=rng.random(40))
    turned = {name: dict(reversed(queries.items())) for name, queries in values.items()}
    assert compare(values, "AP") == compare(values, "AP") == compare(turned, "AP")
    assert compare(values, "AP", seed=1) != compare(values, "AP")


def test_no_difference_is_no_significance():
    (pair,) = compare(per_query(a=[0.5, 0.2], b=[0.5, 0.2]), "AP")
    assert (pair.p_t, pair.p_randomisation, pair.p_holm, pair.ties) == (1, 1, 1, 2)
    (single,) = compare(per_query(b=[0.2], a=[0.5]), "AP")
    assert single.p_t == single.p_randomisation == 1.0 and single.wins == 1


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(5)
    inside = sum(
        between.low <= 0.3 <= between.high
        for between in (interval(rng.normal(0.3, 0.2, 80), resamples=500, seed=i) for i in range(300))
    )
    assert 0.90 <= inside / 300 <= 0.98


def test_differences_are_new_minus_base_whatever_the_order():
    values = per_query(**{"dense+minilm": [0.9, 0.8], "dense": [0.1, 0.2], "bm25": [0.5, 0.4]})
    for order in itertools.permutations(values):
        for pair in compare({name: values[name] for name in order}, "AP"):
            means = {
                name: np.mean([by_measure["AP"] for by_measure in values[name].values()]) for name in (pair.a, pair.b)
            }
            assert pair.difference.mean == pytest.approx(means[pair.a] - means[pair.b])
            if {pair.a, pair.b} == {"dense", "dense+minilm"}:
                assert (pair.a, pair.wins, pair.losses) == ("dense+minilm", 2, 0)
            else:
                assert order.index(pair.a) > order.index(pair.b)


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_largest_changes():
    values = per_query(a=[0.5, 0.9, 0.1, 0.4], b=[0.5, 0.1, 0.5, 0.0])
    assert largest_changes(values, "a", "b", "AP", n=2) == [("q1", 0.9, 0.1), ("q2", 0.1, 0.5)]
    assert [row[0] for row in largest_changes(values, "a", "b", "AP")] == ["q1", "q2", "q3"]


def test_what_cannot_be_compared():
    with pytest.raises(InputError, match="same queries: only one has 'q2'"):
        compare(per_query(a=[1, 2], b=[1, 2, 3]), "AP")
    with pytest.raises(InputError, match="has no RR"):
        compare(per_query(a=[1], b=[1]), "RR")
    with pytest.raises(InputError, match="nothing to compare"):
        compare({}, "AP")
    with pytest.raises(InputError, match="nothing to compare"):
        compare({"a": {}}, "AP")
