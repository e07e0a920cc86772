"""Settings: what a dataclass's fields say of themselves, and what they refuse."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest

from sightline.errors import InputError
from sightline.settings import Range, check_settings, settings_of


@dataclass(frozen=True)
class Walk:
    """A walk through
    the town.

    Args:
        steps: How many steps, at
            most. None walks on.
        pace: How fast (Walker et al., 2020); 0.5 is slow.
        gait: How to go.
        weights: By leg.

    Raises:
        InputError: if a value is out of range.
    """

    place: str
    steps: Annotated[int | None, Range(1, 9)] = None
    pace: Annotated[float, Range(above=0)] = 1.0
    gait: Literal["walk", "run"] = "walk"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        check_settings(self)


def test_a_field_says_its_type_range_choices_default_and_help():
    place, steps, pace, gait, weights = settings_of(Walk)
    assert (place.type, place.default, place.help, place.range) == (str, dataclasses.MISSING, "", None)
    assert (steps.type, steps.optional, steps.range, steps.default) == (int, True, Range(1, 9), None)
    assert steps.help == "How many steps, at most."  # the first sentence, in one line
    assert (pace.optional, pace.help) == (False, "How fast (Walker et al., 2020); 0.5 is slow.")
    assert gait.choices == ("walk", "run")
    assert weights.default == {}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps must be from 1 to 9, not 0"),
        ({"steps": 10}, "steps must be from 1 to 9, not 10"),
        ({"pace": 0.0}, "pace must be above 0, not 0.0"),
        ({"pace": math.nan}, "pace must be above 0, not nan"),
        ({"pace": math.inf}, "pace must be above 0, not inf"),
        ({"pace": None}, "pace must be above 0, not None"),
        ({"pace": True}, "pace must be a number, not True"),
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"place": None}, "place must be a text, not None"),
        ({"steps": "3"}, "steps must be from 1 to 9, not '3'"),
        ({"gait": "fly"}, "gait must be one of walk, run, not 'fly'"),
    ],
    ids=str,
)
def test_a_value_that_a_field_cannot_have_is_named(wrong, said):
    with pytest.raises(InputError) as caught:
        Walk(**{"place": "here"} | wrong)
    assert str(caught.value) == said


@pytest.mark.parametrize("right", [{"steps": 1}, {"steps": np.int64(9)}, {"pace": np.float32(1e-9)}, {"gait": "run"}])
def test_values_at_the_ends_of_a_range_are_taken(right):
    Walk("here", **right)


@pytest.mark.parametrize(
    ("range", "said"),
    [
        (Range(0, 1), "from 0 to 1"),
        (Range(1), "1 or more"),
        (Range(high=3), "3 or less"),
        (Range(above=0, high=1), "above 0 and at most 1"),
    ],
)
def test_a_range_is_told_in_words(range, said):
    assert str(range) == said
