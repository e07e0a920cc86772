"""Filters say what they compare, and are refused where that is nothing."""

import datetime
import json
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.retrieval.filters import Filter, parse_where

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["", "a", "1"])
values = scalars | st.lists(scalars, max_size=3)
names = st.sampled_from(["a", "b", "a.b"])
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def plainly(metadata, field, name, value):
    """What the documentation says, for a field that is no path."""
    items = metadata[field] if isinstance(metadata.get(field), list) else [metadata.get(field)]
    kind = next(kind for kind in (bool, str, (int, float)) if isinstance(value, kind))
    alike = [item for item in items if isinstance(item, kind) and isinstance(item, bool) == isinstance(value, bool)]
    if name in COMPARE:
        return any(COMPARE[name](item, value) for item in alike)
    if any(item is not None for item in items):
        return any(item == value for item in alike) == (name == "=")
    return False


@given(
    st.dictionaries(st.sampled_from("ab"), values),
    st.sampled_from("ab"),
    st.sampled_from(["=", "!=", *COMPARE]),
    scalars.filter(lambda value: value is not None),
)
def test_one_condition_means_what_is_documented(metadata, field, name, value):
    if name in COMPARE and isinstance(value, bool):
        with pytest.raises(InputError, match="compares numbers or texts"):
            Filter({field: {name: value}})
    else:
        assert Filter({field: {name: value}}).meets(metadata) == plainly(metadata, field, name, value)


@given(st.dictionaries(names, values), names, st.lists(scalars.filter(lambda value: value is not None)))
def test_in_is_any_of_several_equalities_and_not_in_none(metadata, field, several):
    one_of = any(Filter({field: value}).meets(metadata) for value in several)
    assert Filter({field: several}).meets(metadata) == one_of
    without = Filter({field: {"not in": several}}).meets(metadata)
    there = any(
        v is not None for v in (metadata[field] if isinstance(metadata.get(field), list) else [metadata.get(field)])
    )
    if field in metadata:
        assert without == (there and not one_of)


@pytest.mark.parametrize(
    ("where", "metadata"),
    [
        ({"a.b": 1}, {"a": {"b": 1}}),
        ({"a.b": 1}, {"a.b": 1, "a": {"b": 2}}),
        ({"a.b.c": "x"}, {"a": {"b": {"c": ["y", "x"]}}}),
        ({"authors.name": "Ada"}, {"authors": [{"name": "Bob"}, {"name": "Ada"}]}),
        ({"a.b": None}, {"a": {"c": 1}}),
        ({"a.b": None}, {"a": 1}),
        ({"day": {">=": datetime.date(2020, 1, 1)}}, {"day": "2020-01-02"}),
        ({"at": datetime.datetime(2020, 1, 1, 12)}, {"at": "2020-01-01T12:00:00"}),
        ({"n": np.float32(0.5)}, {"n": 0.5}),
        ({"n": np.array([1, 2])}, {"n": 2}),
        ({"flag": np.bool_(True)}, {"flag": True}),
        ({"n": 10**30}, {"n": 10**30}),
        ({"at": np.datetime64("2020-01-01T00:00:00.000000001")}, {"at": "2020-01-01T00:00:00"}),
        ({"at": np.datetime64("2020-01-01")}, {"at": "2020-01-01"}),
    ],
)
def test_paths_dates_and_numpy_values_are_understood(where, metadata):
    assert Filter(where).meets(metadata)


@pytest.mark.parametrize(
    ("where", "metadata"), [({"n": 1}, {"n": True}), ({"n": True}, {"n": 1}), ({"n": "1"}, {"n": 1})]
)
def test_values_of_another_type_are_not_equal(where, metadata):
    assert not Filter(where).meets(metadata)


RECORDS = [{"lang": "en", "year": 2000, "tags": ["x"], "meta": {"year": 1}, "open": True}, {"lang": None, "list": []}]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            {"yeer": 1},
            "no document has a field 'yeer'; there are: lang, list, meta, open, tags, year; did you mean 'year'",
        ),
        ({"yeer": None}, "no document has a field 'yeer'"),
        ({"meta.yeer": 1}, "no document has a field 'meta.yeer'"),
        ({"year": "2000"}, "field 'year' holds numbers, and '2000' is a text"),
        ({"year": {"!=": "2000"}}, "field 'year' holds numbers, and '2000' is a text"),
        ({"lang": 2000}, "field 'lang' holds texts, and 2000 is a number; compare it with '2000', in quotes"),
        ({"tags": [1, 2]}, "field 'tags' holds texts, and 1 is a number"),
        ({"open": 1}, "field 'open' holds booleans, and 1 is a number"),
        ({"year": True}, "field 'year' holds numbers, and True is a boolean"),
        ({"meta": 1}, "field 'meta' holds objects; .* such as meta.year"),
        ({"lang": "en", "yeer": 1}, "yeer"),
    ],
)
def test_a_filter_that_compares_nothing_is_refused(where, message):
    with pytest.raises(InputError, match=message):
        Filter(where).check(RECORDS)


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"lang": "xx"},
        {"lang": None},
        {"year": 0.5},
        {"list": 1},
        {"tags": "y"},
        {"meta.year": 2},
        {"meta": None},
        {"year": []},
    ],
)
def test_a_filter_that_could_match_is_not(where):
    Filter(where).check(RECORDS)
    Filter({"anything": 1}).check([])


@pytest.mark.parametrize(
    ("name", "right"), [("$gte", ">="), ("gte", ">="), ("eq", "="), ("$ne", "!="), ("$nin", "not in"), ("=>", ">=")]
)
def test_operators_of_other_libraries_are_refused_with_the_right_one(name, right):
    with pytest.raises(InputError, match=f"no operator {name!r}; write {right!r}".replace("$", r"\$")):
        Filter({"year": {name: 1}})


@pytest.mark.parametrize(
    "where",
    [
        {"a": float("nan")},
        {"a": np.datetime64("NaT")},
        {"a": np.timedelta64(1, "ns")},
        {"a": object()},
        {"a": 1j},
        {"a": {1: 2}},
        [],
        "a",
        3,
        {"a": {}},
    ],
)
def test_unusable_filters_are_refused(where):
    with pytest.raises(InputError, match="filter"):
        Filter(where)


def test_more_conditions_than_are_usable_are_refused():
    Filter({str(n): n for n in range(256)})
    with pytest.raises(InputError, match="257 conditions; at most 256"):
        Filter({str(n): n for n in range(257)})


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("year=2000", {"year": {"=": 2000}}),
        ("year == 2000", {"year": {"=": 2000}}),
        ("year<>2000", {"year": {"!=": 2000}}),
        ("year != 2000", {"year": {"!=": 2000}}),
        ("year>=-1.5e3", {"year": {">=": -1500.0}}),
        ("id=007", {"id": {"=": "007"}}),
        ('id="7"', {"id": {"=": "7"}}),
        ("id='7'", {"id": {"=": "7"}}),
        ("day >= 2020-01-31", {"day": {">=": "2020-01-31"}}),
        ("city=New York", {"city": {"=": "New York"}}),
        ("name=O'Brien", {"name": {"=": "O'Brien"}}),
        ("open=True", {"open": {"=": True}}),
        ("open=FALSE", {"open": {"=": False}}),
        ("lang=null", {"lang": {"=": None}}),
        ('lang="null"', {"lang": {"=": "null"}}),
        ('x=""', {"x": {"=": ""}}),
        ('"a=b" = "c>d"', {"a=b": {"=": "c>d"}}),
        ("publication year > 3", {"publication year": {">": 3}}),
        ("meta.year<3", {"meta.year": {"<": 3}}),
        ("lang in [en, 'd e', 3]", {"lang": {"in": ["en", "d e", 3]}}),
        ('lang IN ("en","a,b")', {"lang": {"in": ["en", "a,b"]}}),
        ("lang not in (en)", {"lang": {"not in": ["en"]}}),
        ("lang in []", {"lang": {"in": []}}),
        ("lang is null", {"lang": {"=": None}}),
        ("lang IS NOT NULL", {"lang": {"!=": None}}),
        ("lang is None", {"lang": {"=": None}}),
        ("year between 2000 and 2010", {"year": {">=": 2000, "<=": 2010}}),
    ],
)
def test_lines_in_the_manner_of_python_and_sql_are_understood(text, where):
    assert parse_where([text]) == where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("year>=", "no value"),
        ("year=", "no value"),
        ("=x", "not FIELD OPERATOR VALUE"),
        ("=", "not FIELD"),
        ("", "not FIELD"),
        ("year", "not FIELD"),
        ("module=csv kind=class", "'=' in it; give each condition by itself"),
        ("year>=2000 and year<2010", "give each condition by itself"),
        ("year=2000 or 2001", "'or' in it"),
        ("a=1 and b is null", "'and' in it"),
        ("year => 2000", "no operator =>; write >="),
        ("year =< 2000", "write <="),
        ("year === 2000", "write ="),
        ("year = > 2000", "'>' in it"),
        ("1990<year<2000", "'<' in it"),
        ("a=b=c", "'=' in it"),
        ("year ~ 2000", "no operator ~"),
        ("title like '%x%'", "no operator like"),
        ("tags contains x", "no operator contains"),
        ("lang in en,de", "brackets"),
        ("lang in [en", "brackets"),
        ("lang in [en,]", "after the last comma"),
        ("lang in [,en]", "no value"),
        ("lang in [[en]]", "commas between"),
        ("lang=[en,de]", "several values go with 'in'"),
        ('lang="en', "quote is not closed"),
        ('lang="en" x', "quote is not closed, or something follows"),
        ("lang is en", "after 'is' comes null"),
        ("year between 1", "between A and B"),
        ("year>1e999", "too large"),
        ("x" * 20_000 + "=1", "at most 10000 characters"),
    ],
)  # fmt: skip
def test_lines_that_could_be_misread_are_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_where([text])
    assert len(str(error.value)) < 500


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_field_and_any_text_can_be_written_in_quotes(field, value):
    assert parse_where([f"{json.dumps(field)} = {json.dumps(value)}"]) == {field: {"=": value}}
    quoted = f"{json.dumps(field)} in [{json.dumps(value)}, {json.dumps(value)}]"
    assert parse_where([quoted]) == {field: {"in": [value, value]}}


@given(st.text(max_size=30))
def test_any_line_is_understood_or_refused(text):
    try:
        where = parse_where([text])
    except InputError:
        return
    Filter(where)


def test_several_lines_hold_together_and_none_is_lost():
    assert parse_where(["year>=2000", "year < 2010", "lang=en"]) == {
        "year": {">=": 2000, "<": 2010},
        "lang": {"=": "en"},
    }
    assert parse_where(None) is None and parse_where([]) is None
    for twice in (["a=1", "a==2"], ["a>=1", "a between 2 and 3"]):
        with pytest.raises(InputError, match="twice"):
            parse_where(twice)
