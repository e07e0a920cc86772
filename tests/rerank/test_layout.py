"""Layouts: those that ship load, and nothing that is not one does."""

import dataclasses
import re

import pytest
import yaml

from sightline.errors import InputError, ModelError
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
    with pytest.raises(InputError, match=f"mine.yaml: the layout lacks {field}$"):
        load_layout(path)


def test_missing_and_unknown_fields_are_told_apart_and_a_typo_is_recognised(tmp_path):
    fields = {name: value for name, value in FIELDS.items() if name != "mask"} | {"maks": "block", "foo": 1}
    with pytest.raises(InputError, match=r"mine.yaml: the layout lacks mask; a layout has no foo, maks; did you mean"):
        load_layout(written(tmp_path, fields))


@pytest.mark.parametrize("extra", ["temperature", 7])
def test_an_unknown_field_is_named(tmp_path, extra):
    with pytest.raises(InputError, match=f"a layout has no {extra}; there are answer, "):
        load_layout(written(tmp_path, FIELDS | {extra: 1}))


def test_an_unknown_change_is_named():
    with pytest.raises(InputError, match="colour"):
        load_layout("minilm", colour="red")


@pytest.mark.parametrize("text", ["a: [", "name: x\nday: 2020-13-45", "\t- x", "&a [*a]: 1", "[" * 5000])
def test_what_is_not_yaml_is_refused_in_one_line_with_the_files_name(tmp_path, text):
    with pytest.raises(InputError, match="mine.yaml: not (valid|usable) YAML") as told:
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


DECODER = {
    "name": "mine",
    "model": "decoder",
    "block": "[{id}] {title} {text}",
    "ids": "from_1",
    "mask": "causal",
    "positions": "sequential",
    "signal_tokens": "block",
    "max_block_tokens": 300,
    "normalisation": "all_keys",
    "readout": "mass",
    "scale": 1.0,
    "calibration": "null_query",
    "outliers": 2.0,
}
PUBLISHED = ["blockrank", "blockrank-cached", "icr", "icr-block", "qrhead", "core"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_load_and_come_back_from_yaml(name, tmp_path):
    layout = load_layout(name)
    assert (layout.name, layout.model) == (name, "decoder")
    assert load_layout(written(tmp_path, layout.as_dict())) == layout


def test_what_of_a_layout_leaves_traces_of_the_order_and_what_can_be_kept():
    free = {name for name in PUBLISHED if load_layout(name).order_free}
    assert free == {name for name in PUBLISHED if load_layout(name).keepable} == {"blockrank-cached", "icr-block"}
    assert not load_layout("blockrank-cached", ids="from_0", block="{id} {text}").order_free


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block", "{title}"),
        ("block", "{text} {text} {id}"),
        ("block", "{text} {colour} {id}"),
        ("block", "{text}"),  # an id without a place for it
        ("ids", "none"),  # a place for an id without one
        ("instruction", "{text}"),
        ("query", "no place"),
        ("query", "{query} {query}"),
        ("chat", "yes"),
        ("chat", 1),
        *(("signal_tokens", value) for value in ("last", "last:0", "last:x", "first:2", "")),
        *(("max_block_tokens", value) for value in (2, 1_000_001, 0.5)),
        *(("layers", value) for value in (-1, 1.5, 0.0, "some", True, None)),
        *(("heads", value) for value in ([], ["1"], ["1-2", "1-2"], [12], "qr", "qr:0", "best:3", 5, None)),
        *(("shuffles", value) for value in (-1, 1001, 2.0, True)),
        *(("ssmax", value) for value in (-0.1, 1000, "x", True)),
        *(("outliers", value) for value in (0, -1, "x")),
        ("query_position", 100),  # positions do not restart
        ("order", "random"),
        ("readout", "log_mass"),  # calibration compares masses
        ("normalisation", "documents"),
    ],
)
def test_a_bad_value_of_a_decoders_layout_is_refused_by_name(field, value):
    assert Layout(**DECODER).name == "mine"
    told = "calibration" if field in ("readout", "normalisation") else field
    with pytest.raises(InputError, match=f"layout .mine.: .*{told}"):
        Layout(**{**DECODER, field: value})


def test_outliers_need_calibration_and_maxsim_no_length():
    with pytest.raises(InputError, match="outliers"):
        Layout(**{**DECODER, "calibration": "none"})
    with pytest.raises(InputError, match="maxsim"):
        Layout(**{**DECODER, "calibration": "none", "outliers": None, "readout": "maxsim", "length": "mean"})


@pytest.mark.parametrize("change", [{"chat": True}, {"layers": 3}, {"heads": ["1-1"]}, {"shuffles": 2}, {"ssmax": 0.4}])
def test_the_default_model_takes_no_field_of_decoders(change):
    with pytest.raises(InputError, match=next(iter(change))):
        load_layout("minilm", **change)


def test_signal_layers_by_number_by_depth_and_by_heads():
    assert load_layout("blockrank").signal_layers(32) == [20]  # as published for Mistral-7B
    assert load_layout("blockrank").signal_layers(28) == [17]
    assert load_layout("icr").signal_layers(3) == [0, 1, 2]
    assert load_layout("icr", layers=1).signal_layers(3) == [1]
    assert load_layout("qrhead", heads=["5-1", "2-0", "5-3"]).signal_layers(8) == [2, 5]
    with pytest.raises(ModelError, match="layer 9.*0 to 7"):
        load_layout("qrhead", heads=["9-1"]).signal_layers(8)


def test_a_fingerprint_changes_with_what_a_head_sees_and_with_nothing_else():
    layout = load_layout("icr")
    assert load_layout("icr", name="other", heads=["1-1"], shuffles=4).fingerprint == layout.fingerprint
    changes = ({"block": "{id} {text}"}, {"mask": "block"}, {"signal_tokens": "query"}, {"max_block_tokens": 99})
    assert len({layout.fingerprint, *(load_layout("icr", **change).fingerprint for change in changes)}) == 5
