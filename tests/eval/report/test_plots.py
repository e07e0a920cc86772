"""Geometry: axes hold their values, shapes have the area of what they show, the front is the brute-force one."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.eval.report.plots import Axis, difference_path, pareto_front

numbers = st.floats(-1, 1, allow_nan=False)
values_apart = st.integers(-1000, 1000).map(lambda n: n / 1000)


@given(st.lists(numbers, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_values_with_few_even_ticks(values, zero):
    axis = Axis.around(values, zero=zero)
    held = [*values, *([0.0] if zero else [])]
    assert axis.low <= min(held) + 1e-9 and axis.high >= max(held) - 1e-9
    assert 2 <= len(axis.ticks) <= 8 and axis.ticks[0] == axis.low and axis.ticks[-1] == axis.high
    steps = [b - a for a, b in zip(axis.ticks, axis.ticks[1:], strict=False)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
    places = [axis.at(value) for value in sorted(held)]
    assert places == sorted(places) and all(0 <= place <= 100 for place in places)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=20))
def test_a_logarithmic_axis(values):
    axis = Axis.logarithmic(values)
    assert axis.low < min(values) and axis.high > max(values) and 2 <= len(axis.ticks) <= 11
    middle = math.sqrt(axis.low * axis.high)
    assert axis.at(middle) == pytest.approx(50)
    assert 0 <= axis.at(min(values)) <= axis.at(max(values)) <= 100


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(1, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_nothing_beats(points):
    def beaten(name):
        cost, quality = points[name]
        return any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in points.values())

    assert pareto_front(points) == {name for name in points if not beaten(name)}


def bars(path):
    """(left, top, right) of each bar."""
    rectangles = re.findall(r"M([\d.e+-]+) 1V([\d.e+-]+)H([\d.e+-]+)V1Z", path)
    assert "".join(f"M{a} 1V{b}H{c}V1Z" for a, b, c in rectangles) == path
    return [tuple(map(float, bar)) for bar in rectangles]


@given(st.lists(values_apart, min_size=1, max_size=1500))
def test_a_shape_has_the_area_of_the_differences(values):
    values = sorted(values, reverse=True)
    above, below = bars(difference_path(values, "above")), bars(difference_path(values, "below"))
    area = sum((right - left) / 100 * (1 - top) for left, top, right in above + below)
    last = len(values) % math.ceil(len(values) / 600)  # a last group that is not full is drawn as wide as the others
    assert area == pytest.approx(sum(values) / len(values), abs=0.003 if last else 2e-4)
    assert all(top <= 1 for _, top, _ in above) and all(top >= 1 for _, top, _ in below)
