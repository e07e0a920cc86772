import enum
import json
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import DataError, InputError
from sightline.retrieval.index import Index
from sightline.retrieval.sources import load_documents


class Colour(enum.Enum):
    RED = "red"


def read(value):
    (document,) = load_documents([{"id": "1", "text": "t", "x": value}])
    assert json.loads(json.dumps(document.metadata, allow_nan=False)) == document.metadata
    return document.metadata


MISSING = {
    "None": None,
    "NaN": float("nan"),
    "numpy NaN": np.float32("nan"),
    "decimal NaN": Decimal("NaN"),
    "signalling NaN": Decimal("sNaN"),
    "numpy NaT": np.datetime64("NaT"),
    "numpy NaT of durations": np.timedelta64("NaT"),
    "masked": np.ma.masked,
}


@pytest.mark.parametrize("value", MISSING.values(), ids=MISSING)
def test_missing_values_are_absent(value):
    assert read(value) == read({"inner": value}).get("x", {}) == {}
    assert read([value, 1]) == {"x": [None, 1]}
    assert list(load_documents([{"id": "1", "title": value, "text": value}])) == [Document("1", "")]
    with pytest.raises(DataError, match="the id, is missing"):
        list(load_documents([{"id": value, "text": "t"}]))


def test_missing_values_of_pandas_are_absent():
    pandas = pytest.importorskip("pandas")
    assert read(pandas.NaT) == read(pandas.NA) == {}
    frame = pandas.DataFrame({"id": [1, 2], "text": ["a", None], "when": pandas.to_datetime(["2024-05-01", None])})
    assert list(load_documents(frame.to_dict("records"))) == [
        Document("1", "a", metadata={"when": "2024-05-01T00:00:00"}),
        Document("2", ""),
    ]
    assert read(pandas.Timedelta("90min")) == {"x": 5400.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.bool_(True), True),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float16(0.5), 0.5),
        (np.str_("s"), "s"),
        (np.bytes_(b"s"), "s"),
        (np.datetime64("2024-05-01"), "2024-05-01"),
        (np.datetime64("2024-05-01T10:00", "ns"), "2024-05-01T10:00:00"),
        (np.datetime64(1, "ns"), "1970-01-01T00:00:00.000000001"),
        (np.datetime64("12024-05-01"), "12024-05-01"),
        (np.timedelta64(90, "m"), 5400.0),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(5), 5),
        (np.array(["2024-05-01"], "datetime64[ns]"), ["2024-05-01T00:00:00"]),
        (np.array([1, "a", None], object), [1, "a", None]),
        (Decimal("9.90"), 9.9),
        (Decimal("1E+3"), 1000),
        (Decimal("12345678901234567890"), 12345678901234567890),
        (Fraction(1, 4), 0.25),
        (timedelta(days=1, milliseconds=500), 86400.5),
        (date(2024, 5, 1), "2024-05-01"),
        (time(10, 30), "10:30:00"),
        (datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00:00:00+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("/a/b"), "/a/b"),
        (ip_address("::1"), "::1"),
        (Colour.RED, "red"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"a"}), ["a"]),
        (range(3), [0, 1, 2]),
        (b"caf\xc3\xa9", "café"),
        (b"\xff\x00", "/wA="),
        (bytearray(b"a"), "a"),
    ],
    ids=repr,
)
def test_values_are_converted_by_a_rule(value, expected):
    converted = read(value)["x"]
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1j, "a complex"),
        (np.complex64(1), "a numpy.complex64"),
        (np.zeros(1, "i4,f4")[0], "a numpy.void"),
        (object(), "an object"),
        (iter(()), "a tuple_iterator"),
        (math.inf, "inf"),
        (np.float32("-inf"), "-inf"),
        (Decimal("1E+999999999"), r"1E\+999999999"),
        (Fraction(10**400), "10+"),
        (np.timedelta64(1, "Y"), "'Y'"),
    ],
)
def test_other_values_are_refused_by_name(value, name):
    with pytest.raises(DataError, match=f"field 'x' has .*{name}"):
        read([value])


@pytest.mark.parametrize(
    ("value", "id"),
    [
        (7, "7"),
        (np.int64(7), "7"),
        (7.0, "7"),
        (np.float32(7), "7"),
        (Decimal("7"), "7"),
        (-0.0, "0"),
        (b"seven", "seven"),
        (np.str_("seven"), "seven"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("user guide/part 1.md", "user guide/part 1.md"),
        ("..", ".."),
        (" a ", " a "),
        ("007", "007"),
    ],
)
def test_ids_become_strings(value, id):
    assert [document.id for document in load_documents([{"id": value, "text": "t"}])] == [id]


@pytest.mark.parametrize("value", [True, np.bool_(False), 7.5, 2.0**60, [7], {"a": 1}, "a\nb", "a\r", "\x85a", "a\tb"])
def test_ids_that_no_rule_makes_strings_are_refused(value):
    with pytest.raises(DataError, match="field 'id', the id"):
        list(load_documents([{"id": value, "text": "t"}]))


def test_one_id_as_number_and_as_string_is_a_duplicate():
    with pytest.raises(DataError, match="already has the id '7'"):
        list(load_documents([{"id": 7.0, "text": "t"}, {"id": "7", "text": "t"}]))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_infinity=False) | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_every_value_is_read_or_refused_by_name_and_twice_is_once(value):
    try:
        converted = read(value)
    except DataError as error:
        assert "field" in error.reason
    else:
        assert read(converted.get("x")) == converted


def test_parquet_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    when = datetime(2024, 5, 1, 10, tzinfo=UTC)
    columns = {
        "decimal": (pyarrow.array([Decimal("9.90"), None]), 9.9),
        "duration": (pyarrow.array([timedelta(days=1), None]), 86400.0),
        "nanoseconds": (pyarrow.array([10**9 + 1, None], pyarrow.duration("ns")), 1.0),
        "NaN": (pyarrow.array([1.5, math.nan]), 1.5),
        "zone": (pyarrow.array([when, None], pyarrow.timestamp("ns", "Europe/Berlin")), "2024-05-01T12:00:00+02:00"),
        "time": (pyarrow.array([10**9, None], pyarrow.time64("ns")), "00:00:01"),
        "dictionary": (pyarrow.array(["a", None]).dictionary_encode(), "a"),
        "list": (pyarrow.array([[1, None], None]), [1, None]),
        "map": (pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())), {"a": 1}),
        "large": (pyarrow.array(["x", None], pyarrow.large_string()), "x"),
        "struct": (pyarrow.array([{"a": 1, "b": None}, None]), {"a": 1}),
        "binary": (pyarrow.array([b"\xff\x00", None]), "/wA="),
        "unsigned": (pyarrow.array([2**64 - 1, None], pyarrow.uint64()), 2**64 - 1),
    }
    table = {"id": [1, 2], "text": ["a", "b"], "nothing": pyarrow.nulls(2)}
    table |= {name: column for name, (column, _) in columns.items()}
    parquet.write_table(pyarrow.table(table), tmp_path / "x.parquet")
    first, second = load_documents(tmp_path / "x.parquet")
    assert first == Document("1", "a", metadata={name: value for name, (_, value) in columns.items()})
    assert second == Document("2", "b")


def test_a_frame_is_told_to_give_its_rows(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["1"], "text": ["Cats purr."]})
    for call in (lambda: list(load_documents(frame)), lambda: Index.build(tmp_path / "index", frame)):
        with pytest.raises(InputError, match=r"frame.to_dict\('records'\)"):
            call()
    assert [document.id for document in load_documents(frame.to_dict("records"))] == ["1"]
