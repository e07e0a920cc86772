"""Means over collections, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from sightline.errors import InputError
from sightline.eval import Dataset, evaluate
from sightline.eval.overall import overall


def results(name, grades, measure="nDCG@10"):
    """Results of two systems on a collection whose queries each have one relevant document, ``a``.

    Args:
        grades: by query, whether ``good`` and ``bad`` put it first; else it stands second.
    """
    queries = {f"q{i}": "a query" for i in range(len(grades))}

    def system(place):
        return {
            query: {"a": 2.0 if first[place] else 0.5, "b": 1.0} for query, first in zip(queries, grades, strict=True)
        }

    dataset = Dataset.in_memory([], queries, {query: {"a": 1} for query in queries}, name=name)
    return evaluate({"good": system(0), "bad": system(1)}, dataset, [measure])


def test_collections_count_alike_however_many_queries_they_have():
    small = results("small", [(True, False)], "RR")
    large = results("large", [(False, True)] * 10, "RR")
    found = overall([small, large])
    assert found.means["good"].mean == found.means["bad"].mean == pytest.approx(0.75)
    assert found.collections == ("small", "large")


def test_the_best_system_is_compared_with_the_others_and_its_worst_collection_named():
    better = results("better", [(True, False)] * 4, "RR")
    mixed = results("mixed", [(False, True), (True, True)], "RR")
    found = overall([better, mixed])
    assert found.best == "good"
    pair = found.against["bad"]
    assert pair.difference.mean == pytest.approx((0.5 - 0.25) / 2)
    assert (pair.worst, pair.worst_difference.mean) == ("mixed", pytest.approx(-0.25))
    # Every query of the one collection differs alike, so all the doubt is of the other.
    assert pair.difference.low == pytest.approx((0.5 - 0.5) / 2) and pair.difference.high == pytest.approx(0.25)


def test_one_query_leaves_no_doubt_to_resample():
    found = overall([results("one", [(True, False)], "RR")])
    assert found.means["good"].low == found.means["good"].high == 1.0


def test_what_has_no_common_mean_is_refused():
    with pytest.raises(InputError, match="no results"):
        overall([])
    with pytest.raises(InputError, match="no common mean"):
        overall([results("a", [(True, False)]), results("b", [(True, False)], "RR")])
