"""Layouts: those that ship load, and nothing that is not one does."""

import dataclasses
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError, ModelError
from sightline.rerank import load_layout
from sightline.rerank.layout import FusionWeights, Layout, PromptSpec, ReadoutSpec, RelevanceSpec, layout_fields

APART = {"name": "mine", "max_block_tokens": 128, "readout": {"readout": "mass", "scale": 5}}
DECODER = {
    "name": "mine",
    "max_block_tokens": 300,
    "readout": {
        "readout": "mass",
        "scale": 1.0,
        "normalisation": "all_keys",
        "calibration": "null_query",
        "outliers": 2.0,
    },
    "prompt": {
        "block": "[{id}] {title} {text}",
        "ids": "from_1",
        "mask": "causal",
        "positions": "sequential",
        "signal_tokens": "block",
    },
}


def written(tmp_path, fields):
    path = tmp_path / "mine.yaml"
    path.write_text(fields if isinstance(fields, str) else yaml.safe_dump(fields))
    return path


def without(fields, name):
    """The sections without one field."""
    return {
        key: without(value, name) if isinstance(value, dict) else value for key, value in fields.items() if key != name
    }


@pytest.mark.parametrize(
    ("name", "readout"),
    [("minilm", "fused"), ("minilm-log-mass", "log_mass"), ("minilm-mass", "mass"), ("minilm-maxsim", "maxsim")],
)
def test_shipped_layouts_load(name, readout):
    layout = load_layout(name)
    assert (layout.name, layout.kind, layout.readout.readout, layout.max_block_tokens) == (
        name,
        "late-interaction",
        readout,
        256,
    )


@pytest.mark.parametrize("fields", [APART, DECODER, APART | {"documents_see_query": True}])
def test_a_file_loads_with_every_field_as_written(tmp_path, fields):
    assert load_layout(written(tmp_path, fields)).as_dict() == fields


def test_no_name_of_a_field_is_in_two_parts():
    names = [
        field.name
        for part in (Layout, ReadoutSpec, PromptSpec)
        for field in dataclasses.fields(part)
        if part is not Layout or field.name not in ("readout", "prompt")
    ]
    assert sorted(names) == sorted(layout_fields())


def test_changes_replace_fields_in_whatever_section_and_nothing_else():
    layout = load_layout("icr")
    changed = load_layout(layout, scale=3.0, shuffles=8, name="other", heads=["1-2"])
    readout = dataclasses.replace(layout.readout, scale=3.0, heads=("1-2",))
    prompt = dataclasses.replace(layout.prompt, shuffles=8)
    assert changed == dataclasses.replace(layout, name="other", readout=readout, prompt=prompt)
    assert load_layout("icr", scale=3.0, shuffles=8, name="other", heads=["1-2"]) == changed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, None) for name in ("name", "max_block_tokens", "readout", "scale", "documents_see_query")),
        *((name, []) for name in ("name", "max_block_tokens", "readout", "scale", "documents_see_query")),
        ("readout", "something-else"),
        ("documents_see_query", "{query}"),
        *(("name", value) for value in ("", "two words", "tab\there", 5)),
        *(("scale", value) for value in (0, -1.0, 1000, float("nan"), float("inf"), "20", True)),
        *(("max_block_tokens", value) for value in (2, 513, 256.0, "256", True)),
    ],
)
def test_a_bad_value_is_refused_by_name(tmp_path, field, value):
    with pytest.raises(InputError, match=field):
        load_layout(written(tmp_path, APART), **{field: value})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *((APART, name) for name in ("max_block_tokens", "readout", "scale")),
        *((DECODER, name) for name in ("max_block_tokens", "readout", "scale", "block", "mask", "positions")),
    ],
)
def test_a_missing_field_is_named(tmp_path, fields, field):
    with pytest.raises(InputError, match=f"mine.yaml: the layout lacks {field}$"):
        load_layout(written(tmp_path, without(fields, field)))


def test_missing_and_unknown_fields_are_told_apart_and_a_typo_is_recognised(tmp_path):
    fields = without(DECODER, "mask") | {"foo": 1}
    fields["prompt"]["maks"] = "block"
    with pytest.raises(InputError, match=r"mine.yaml: the layout lacks mask; a layout has no foo, maks; did you mean"):
        load_layout(written(tmp_path, fields))


def test_a_field_in_another_section_is_told_where_it_stands(tmp_path):
    fields = APART | {"mask": "block", "readout": APART["readout"] | {"max_block_tokens": 3}}
    reason = "mine.yaml: mask stands under prompt; max_block_tokens stands at the top$"
    with pytest.raises(InputError, match=reason):
        load_layout(written(tmp_path, fields))


@pytest.mark.parametrize("section", ["readout", "prompt"])
@pytest.mark.parametrize("value", [5, "mass", [1]])
def test_a_section_is_a_mapping(tmp_path, section, value):
    with pytest.raises(InputError, match=f"mine.yaml: {section} is a mapping, not"):
        load_layout(written(tmp_path, DECODER | {section: value}))


@pytest.mark.parametrize("extra", ["wzx", 7])
@pytest.mark.parametrize("section", [None, "readout", "prompt"])
def test_an_unknown_field_is_named(tmp_path, extra, section):
    fields = DECODER | ({section: DECODER[section] | {extra: 1}} if section else {extra: 1})
    with pytest.raises(InputError, match=f"a layout has no {extra}; there are answer, "):
        load_layout(written(tmp_path, fields))


def test_an_unknown_change_is_named():
    with pytest.raises(InputError, match="layout 'minilm': a layout has no scal; did you mean 'scale'"):
        load_layout("minilm", scal=1.0)


@pytest.mark.parametrize("text", ["a: [", "name: x\nday: 2020-13-45", "\t- x", "&a [*a]: 1", "[" * 5000])
def test_what_is_not_yaml_is_refused_in_one_line_with_the_files_name(tmp_path, text):
    with pytest.raises(InputError, match="mine.yaml: not (valid|usable) YAML") as refused:
        load_layout(written(tmp_path, text))
    assert "\n" not in str(refused.value)


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
    with pytest.raises(
        InputError, match=re.escape(repr(name)) + ".* minilm, minilm-log-mass, minilm-mass, minilm-maxsim"
    ):
        load_layout(name)


JUDGES = ["mxbai-rerank", "prism", "qwen3-reranker", "zerank"]
PUBLISHED = [
    *(
        "blockrank",
        "blockrank-cached",
        "blockrank-free",
        "comprank",
        "core",
        "first",
        "icr",
        "icr-block",
        "icr-block-heads",
    ),
    *("jina-reranker-v3", "jina-reranker-v3.5", "qrhead", "qrranker", *JUDGES),
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_load_and_come_back_from_yaml(name, tmp_path):
    layout = load_layout(name)
    assert (layout.name, layout.kind) == (name, "decoder")
    assert load_layout(written(tmp_path, layout.as_dict())) == layout


def test_what_of_a_layout_leaves_traces_of_the_order_and_what_can_be_kept():
    layouts = {name: load_layout(name) for name in PUBLISHED}
    kept = {name for name, layout in layouts.items() if layout.keepable}
    assert kept == {"blockrank-cached", "comprank", "icr-block", "icr-block-heads"}
    assert {name for name, layout in layouts.items() if layout.order_free} == {"blockrank-free", *kept, *JUDGES}
    assert {name for name, layout in layouts.items() if layout.list_free} == set(JUDGES)
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
def test_a_bad_value_of_a_decoders_layout_is_refused_by_name(tmp_path, field, value):
    path = written(tmp_path, DECODER)
    assert load_layout(path).name == "mine"
    name = "calibration" if field in ("readout", "normalisation") else field
    with pytest.raises(InputError, match=f"layout .mine.: .*{name}"):
        load_layout(path, **{field: value})


def test_outliers_need_calibration_and_maxsim_no_length():
    with pytest.raises(InputError, match="outliers"):
        load_layout("icr", calibration="none")
    with pytest.raises(InputError, match="maxsim"):
        load_layout("icr", calibration="none", outliers=None, readout="maxsim", length="mean")


@pytest.mark.parametrize(
    "change",
    [
        *({"chat": True}, {"block": "{text}"}, {"shuffles": 2}, {"layers": 3}, {"heads": ["1-1"]}, {"ssmax": 0.4}),
        *({"normalisation": "all_keys"}, {"length": "mean"}),
    ],
)
def test_texts_that_are_read_apart_take_no_field_of_decoders(change):
    with pytest.raises(InputError, match=f"layout 'minilm': {next(iter(change))}"):
        load_layout("minilm", **change)


def test_decoders_take_no_field_of_texts_that_are_read_apart():
    with pytest.raises(InputError, match="documents_see_query .*instruction"):
        load_layout("icr", documents_see_query=True)
    with pytest.raises(InputError, match="learnt.*read apart"):
        load_layout("blockrank", readout="learnt")
    with pytest.raises(InputError, match="'minilm' has no prompt"):
        load_layout("minilm").require_prompt()


# -- weights and relevance ---------------------------------------------------------------------------------------------


FUSED = {
    "name": "mine",
    "max_block_tokens": 256,
    "readout": {"readout": "fused", "scale": 20.0, "weights": {"log_mass": 1.0, "bm25": 0.25, "length": -0.5}},
    "relevance": {"slope": 0.5, "offset": -3.0},
}


def test_weights_and_relevance_come_back_from_yaml(tmp_path):
    layout = load_layout(written(tmp_path, FUSED))
    assert layout.readout.weights == FusionWeights(log_mass=1.0, bm25=0.25, length=-0.5)
    assert layout.relevance == RelevanceSpec(slope=0.5, offset=-3.0)
    assert layout.as_dict() == FUSED
    assert load_layout(layout) == layout
    shipped = load_layout("minilm")
    assert load_layout(written(tmp_path, shipped.as_dict())) == shipped


def test_weights_and_relevance_can_be_changed_and_taken_out(tmp_path):
    layout = load_layout(written(tmp_path, FUSED))
    weights, relevance = {"maxsim": 2.0}, {"slope": 2.0, "offset": 0.0}
    changed = load_layout(layout, weights=weights, relevance=relevance)
    assert changed.readout.weights == FusionWeights(maxsim=2.0)
    assert changed.relevance == RelevanceSpec(slope=2.0, offset=0.0)
    assert load_layout(layout, relevance=None).relevance is None
    attention = load_layout(layout, readout="log_mass", weights=None)
    assert (attention.readout.readout, attention.readout.weights) == ("log_mass", None)


@pytest.mark.parametrize("change", [{"scale": 10.0}, {"weights": {"cosine": 1.0}}, {"max_block_tokens": 99}])
def test_relevance_does_not_outlive_what_it_was_fitted_to(change):
    assert load_layout("minilm").relevance is not None
    assert load_layout("minilm", **change).relevance is None
    assert load_layout("minilm", name="other").relevance == load_layout("minilm").relevance


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"readout": "log_mass"}, "weights go with readout 'fused'"),
        ({"weights": None}, "weights go with readout 'fused'"),
        ({"weights": {}}, "not all of them zero"),
        ({"weights": {"cosine": 0.0}}, "not all of them zero"),
        ({"weights": {"cosine": float("nan")}}, "finite"),
        ({"weights": {"cosine": float("inf")}}, "finite"),
        ({"weights": {"cosine": 1.0, "idf": 1.0}}, "weights: there is no '?idf"),
        ({"weights": {"cosine": "much"}}, "cosine"),
        ({"weights": 5}, "weights"),
        ({"relevance": {"slope": 0.0, "offset": 1.0}}, "slope must be above 0"),
        ({"relevance": {"slope": -1.0, "offset": 1.0}}, "slope must be above 0"),
        ({"relevance": {"slope": float("nan"), "offset": 1.0}}, "slope"),
        ({"relevance": {"slope": float("inf"), "offset": 1.0}}, "slope"),
        ({"relevance": {"slope": 1.0, "offset": float("nan")}}, "offset"),
        ({"relevance": {"slope": 1.0}}, "offset"),
        ({"relevance": {"slope": 1.0, "offset": 0.0, "bend": 1.0}}, "bend"),
    ],
    ids=str,
)
def test_bad_weights_and_relevance_are_refused_by_name(tmp_path, fields, said):
    path = written(tmp_path, FUSED)
    with pytest.raises(InputError, match=f"layout 'mine': .*{said}"):
        load_layout(path, **fields)


@pytest.mark.parametrize("name", ["minilm-mass", "blockrank", "blockrank-cached", "icr-block"])
def test_relevance_needs_scores_that_do_not_depend_on_the_list(name):
    assert not load_layout(name).list_free
    with pytest.raises(InputError, match=f"layout '{name}': relevance needs scores that do not depend on the list"):
        load_layout(name, relevance={"slope": 1.0, "offset": 0.0})


def test_decoders_have_no_fused_readout():
    with pytest.raises(InputError, match="'fused' is for texts that are read apart"):
        load_layout("blockrank", readout="fused", weights={"log_mass": 1.0})


@given(st.floats(0.001, 100), st.floats(-1000, 1000), st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=9))
def test_relevance_is_a_probability_that_rises_with_the_score(slope, offset, scores):
    spec = RelevanceSpec(slope=slope, offset=offset)
    found = [spec.probability(score) for score in sorted(scores)]
    assert all(0 <= value <= 1 for value in found) and found == sorted(found)


def test_documents_that_see_the_query_cannot_be_kept():
    assert load_layout("minilm").keepable and load_layout("minilm").order_free
    seeing = load_layout("minilm", documents_see_query=True)
    assert not seeing.keepable and seeing.order_free


def test_signal_layers_by_number_by_depth_and_by_heads():
    assert load_layout("blockrank").readout.signal_layers(32) == [20]  # as published for Mistral-7B
    assert load_layout("blockrank").readout.signal_layers(28) == [17]
    assert load_layout("icr").readout.signal_layers(3) == [0, 1, 2]
    assert load_layout("icr", layers=1).readout.signal_layers(3) == [1]
    assert load_layout("qrhead", heads=["5-1", "2-0", "5-3"]).readout.signal_layers(8) == [2, 5]
    with pytest.raises(ModelError, match="layer 9.*0 to 7"):
        load_layout("qrhead", heads=["9-1"]).readout.signal_layers(8)


def test_a_fingerprint_changes_with_what_a_head_sees_and_with_nothing_else():
    layout = load_layout("icr")
    assert load_layout("icr", name="other", heads=["1-1"], shuffles=4).fingerprint == layout.fingerprint
    changes = ({"block": "{id} {text}"}, {"mask": "block"}, {"signal_tokens": "query"}, {"max_block_tokens": 99})
    assert len({layout.fingerprint, *(load_layout("icr", **change).fingerprint for change in changes)}) == 5


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("blockrank", "bb8539b2b6919a0a"),
        ("blockrank-cached", "469cd42a3c87e618"),
        ("core", "0becea6ac6db3f0d"),
        ("icr", "2abca8ada63b9f74"),
        ("icr-block", "9bac461f4bf7d66d"),
        ("icr-block-heads", "9bac461f4bf7d66d"),
        ("qrhead", "2abca8ada63b9f74"),
    ],
)
def test_files_of_heads_that_were_found_for_a_published_layout_stay_valid(name, fingerprint):
    assert load_layout(name).fingerprint == fingerprint


@pytest.mark.parametrize(("field", "value"), [("heads", 5), ("heads", [12]), ("layers", None), ("layers", True)])
def test_a_field_of_several_types_is_named_without_what_was_tried(field, value):
    with pytest.raises(InputError, match=rf"^layout 'icr': the field readout\.{field} must be"):
        load_layout("icr", **{field: value})


def test_a_file_may_say_only_what_differs_from_a_layout_that_ships(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nbase: icr\nmax_block_tokens: 99\nprompt: {order: given}\nreadout: {outliers: null}\n")
    expected = load_layout("icr", name="mine", max_block_tokens=99, order="given", outliers=None)
    assert load_layout(path) == expected
    path.write_text("name: mine\nbase: minilm\nreadout: {scale: 5.0}\n")
    assert load_layout(path) == load_layout("minilm", name="mine", scale=5.0)
    for text, reason in (
        ("name: mine\nbase: icrr\n", "base must be one of.*'icr'"),
        ("name: mine\nbase: [icr]\n", "base must be one of"),
        ("base: icr\n", "mapping with a name"),
        ("name: mine\nbase: icr\nchat: false\n", "chat stands under prompt"),
        ("name: mine\nbase: icr\nprompt: 3\n", "prompt is a mapping"),
        ("name: mine\nbase: icr\nprompt: {order: up}\n", "order"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            load_layout(path)
