"""What others wrote, JSON and YAML, is read strictly, in bounded time, and refused in words."""

import copy
import json
import string
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import DataError, InputError
from sightline.parsing import load_json, load_yaml, parse_json, parse_yaml
from sightline.rerank.heads import Heads
from sightline.rerank.layout import layout_fields, load_layout
from sightline.wording import did_you_mean, listed, quoted

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_json_that_json_writes_is_read_back(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(plain)
def test_yaml_that_yaml_writes_is_read_back(value):
    class WithoutAnchors(yaml.SafeDumper):
        def ignore_aliases(self, data):
            return True

    text = yaml.dump(value, Dumper=WithoutAnchors, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text)


BAD_JSON = {
    "nested too deep for Python": ("[" * 100_000, "nested more than 500 deep"),
    "objects nested too deep for Python": ('{"a":' * 100_000, "nested more than 500 deep"),
    "nested too deep for SQLite": ("[" * 501 + "]" * 501, "nested more than 500 deep"),
    "integer of too many digits": ("9" * 5000, "integer of more than 4300 digits"),
    "number that is infinite": ("[1e999]", "number '1e999' is too large"),
    "NaN": ('{"a": NaN}', "NaN"),
    "infinity": ("-Infinity", "Infinity"),
    "field twice": ('{"a": 1, "b": 2, "a": 3}', "field 'a' twice"),
    "field twice, deep inside": ('[{"x": {"b": 1, "b": 1}}]', "field 'b' twice"),
    "half a surrogate pair": (r'{"a": ["\ud83d"]}', "surrogate"),
    "half a surrogate pair in a name": (r'{"\udc00": 1}', "surrogate"),
    "not JSON": ("{'a': 1}", "column 2"),
    "second line": ('{"a":\n 1,}', "line 2"),
    "nothing": ("", "not JSON"),
    "not UTF-8": (b'"\xff"', "not UTF-8: byte 1 is 0xff"),
}


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_hostile_json_is_refused_in_few_words(text, message):
    with pytest.raises(DataError, match=message) as error:
        parse_json(text)
    assert len(str(error.value)) < 300


def test_json_with_a_whole_surrogate_pair_and_with_500_levels_is_read():
    assert parse_json(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"
    assert parse_json("[" * 500 + "]" * 500)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "billion laughs": (BOMB, r"an anchor, &a \(line 1, column 4\)"),
    "alias without an anchor": ("a: *b", "alias, .b"),
    "list that holds itself": ("&a [*a]", "anchor"),
    "merge of an alias": ("a: &a {b: 1}\nc:\n  <<: *a", "anchor"),
    "flow nested too deep": ("[" * 100_000, "nested more than 50 deep"),
    "blocks nested too deep": ("\n".join(" " * n + "a:" for n in range(100)), "nested more than 50 deep"),
    "sequences on one line": ("- " * 10_000 + "a", "nested more than 50 deep"),
    "field twice": ("a: 1\nb: 2\na: 3", r"field 'a' occurs twice \(line 3, column 1\)"),
    "sexagesimal of quadratic time": ("a: " + ":".join(["1"] * 100_000), "a number of 199999 characters"),
    "integer of too many digits": ("9" * 5000, "a number of 5000 characters"),
    "Python object": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "list that is not closed": ("parts: [weights", "line 1"),
    "no date": ("a: 2020-13-45", "month must be in 1..12"),
    "control character": ("a: \x00", "not valid YAML"),
    "mapping as a name": ("{a: 1}: 2", "unhashable"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "too long": ("#" * 2_000_001, "more than 2,000,000 characters"),
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.values(), ids=BAD_YAML)
def test_hostile_yaml_is_refused_in_few_words_and_little_time(text, message):
    start = time.process_time()
    with pytest.raises(DataError, match=message) as error:
        parse_yaml(text)
    assert time.process_time() - start < 5
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("read", [load_json, load_yaml])
def test_errors_name_the_file(read, tmp_path):
    file = tmp_path / "a"
    for data, message in ((None, "cannot be read: No such file"), (b"[", "not "), (b"\xff", "not UTF-8")):
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(DataError, match=message) as error:
            read(file)
        assert error.value.path == file and str(error.value).startswith(f"{file}: ")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read("a" * 300)


FIELDS = load_layout("icr").as_dict()


@pytest.mark.parametrize("field", sorted(layout_fields()))
def test_huge_value_in_any_field_of_a_layout_is_refused_in_few_words(field, tmp_path):
    for value in ([["x" * 1000] * 1000] * 20, {"a": "x" * 100_000}):
        fields = copy.deepcopy(FIELDS)
        section = layout_fields()[field]
        (fields[section] if section else fields)[field] = value
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(fields).replace("&", "").replace("*", ""))
        with pytest.raises(InputError) as error:
            load_layout(tmp_path / "a.yaml")
        assert len(str(error.value)) < 1000
        with pytest.raises(InputError) as error:
            load_layout("icr", **{field: value})
        assert len(str(error.value)) < 1000


def test_heads_with_any_value_of_another_type_are_refused(tmp_path):
    heads = Heads("m", "r", "icr", "f", "qr", "d", 1, 2, 0, None, ((0.5, 1.0),))
    heads.save(tmp_path / "a.yaml")
    fields = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert Heads.load(tmp_path / "a.yaml") == heads
    may_be_empty = {"also", "scores"}  # without scores, the best heads are listed
    for name in fields.keys() - {"best"}:
        for value in ([["x"]], {"a": 1}, [[float("nan")]], *([[]] if name not in may_be_empty else [])):
            (tmp_path / "b.yaml").write_text(yaml.safe_dump(fields | {name: value}))
            with pytest.raises(InputError, match="not a file of heads"):
                Heads.load(tmp_path / "b.yaml")


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=1, unique=True), st.data())
def test_a_known_name_in_other_case_is_what_was_meant(known, data):
    name = data.draw(st.sampled_from(known))
    assert did_you_mean(name.upper(), known) == f"; did you mean {name!r}?"


def test_messages_stay_short_whatever_they_quote():
    endless = []
    endless.append(endless)
    for value in (10**5000, "a" * 10**6, [["b" * 10**5] * 1000] * 1000, {str(n): n for n in range(10_000)}, endless):
        assert len(quoted(value)) <= 200
    assert len(listed(["a" * 10**6] * 1000)) < 2000
    assert did_you_mean("a" * 10**6, ["b" * 10**6] * 10) == ""
