"""Layouts: those that ship load, and nothing that is not one does."""

import dataclasses
import re

import pytest
import yaml

from sightline.errors import InputError
from sightline.rerank import Layout, load_layout

FIELDS = {
    "name": "mine",
    "model": "minilm",
    "block": "{title} {text}",
    "mask": "block",
    "positions": "restart",
    "signal_tokens": "query",
    "max_block_tokens": 128,
    "normalisation": "documents",
    "readout": "mass",
    "scale": 5,
}


def written(tmp_path, fields):
    path = tmp_path / "mine.yaml"
    path.write_text(fields if isinstance(fields, str) else yaml.safe_dump(fields))
    return path


@pytest.mark.parametrize(
    ("name", "readout"), [("minilm", "log_mass"), ("minilm-mass", "mass"), ("minilm-maxsim", "maxsim")]
)
def test_shipped_layouts_load(name, readout):
    layout = load_layout(name)
    assert (layout.name, layout.readout, layout.max_block_tokens) == (name, readout, 256)


def test_a_file_loads_with_every_field_as_written(tmp_path):
    assert load_layout(written(tmp_path, FIELDS)).as_dict() == FIELDS


def test_changes_replace_fields_and_nothing_else():
    assert load_layout("minilm", scale=3.0) == dataclasses.replace(load_layout("minilm"), scale=3.0)


def test_a_layout_may_be_renamed_on_loading():
    assert load_layout("minilm", name="other").name == "other"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, "something-else") for name in FIELDS if name not in ("name", "scale", "max_block_tokens")),
        *((name, None) for name in FIELDS),
        *((name, []) for name in FIELDS),
        *(("name", value) for value in ("", "two words", "tab\there", 5)),
        *(("scale", value) for value in (0, -1.0, 1000, float("nan"), float("inf"), "20", True)),
        *(("max_block_tokens", value) for value in (2, 513, 256.0, "256", True)),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=field):
        Layout(**{**FIELDS, field: value})


@pytest.mark.parametrize("field", sorted(set(FIELDS) - {"name"}))
def test_a_missing_field_is_named(tmp_path, field):
    path = written(tmp_path, {name: value for name, value in FIELDS.items() if name != field})
    with pytest.raises(InputError, match=f"fields: {field}$"):
        load_layout(path)


@pytest.mark.parametrize("extra", ["temperature", 7])
def test_an_unknown_field_is_named(tmp_path, extra):
    with pytest.raises(InputError, match=f"fields: {extra}$"):
        load_layout(written(tmp_path, FIELDS | {extra: 1}))


def test_an_unknown_change_is_named():
    with pytest.raises(InputError, match="colour"):
        load_layout("minilm", colour="red")


@pytest.mark.parametrize("text", ["a: [", "name: x\nday: 2020-13-45", "\t- x", "&a [*a]: 1", "[" * 5000])
def test_what_is_not_yaml_is_refused_in_one_line_with_the_files_name(tmp_path, text):
    with pytest.raises(InputError, match="mine.yaml: not valid YAML") as told:
        load_layout(written(tmp_path, text))
    assert "\n" not in str(told.value)


def test_what_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="mine.yaml"):
        load_layout(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", "just words", "scale: 1", "name: 5"])
def test_what_is_not_a_mapping_with_a_name_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="a layout is a mapping with a name"):
        load_layout(written(tmp_path, text))


@pytest.mark.parametrize("name", ["nothing", "nowhere.yaml", ""])
def test_an_unknown_name_is_told_with_those_there_are(name):
    with pytest.raises(InputError, match=re.escape(repr(name)) + ".* minilm, minilm-mass, minilm-maxsim"):
        load_layout(name)
