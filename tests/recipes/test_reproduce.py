"""Expected figures: a wrong one is caught, what cannot run is told, and a malformed file says where."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from sightline.errors import DataError, InputError
from sightline.recipes.figures import Figure, load_expected, select
from sightline.recipes.reproduce import app, reproduce


def written(folder, *entries, version=1):
    path = folder / "expected.yaml"
    path.write_text(yaml.safe_dump({"version": version, "entries": list(entries)}))
    return path


def entry(folder, **fields):
    (folder / "made.json").write_text(json.dumps({"a": {"b": [1, {"name": "x", "v": 0.5}]}, "n": 4, "text": "t"}))
    base = {"id": "one", "reads": str(folder / "made.json")}
    return {**base, "figures": [{"at": ["a", "b", {"name": "x"}, "v"], "value": 0.5, "tolerance": 0}], **fields}


def run(folder, *entries, **options):
    return list(reproduce(load_expected(written(folder, *entries)), folder / "work", **options))


def test_a_figure_that_holds(tmp_path):
    [check] = run(tmp_path, entry(tmp_path))
    assert check.holds and check.found == (0.5,)


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        ({"value": 0.5, "tolerance": 0}, True),
        ({"value": 0.501, "tolerance": 0.0005}, False),
        ({"value": 0.501, "tolerance": 0.001}, True),
        ({"value": 0.24, "factor": 2}, False),
        ({"value": 0.26, "factor": 2}, True),
        ({"value": 1.1, "factor": 2}, False),
        ({"value": -500, "times": -1000, "tolerance": 0}, True),
        ({"value": 0.125, "per": ["n"], "tolerance": 0}, True),
        ({"value": 0.5, "per": ["n"], "tolerance": 0.3}, False),
    ],
    ids=str,
)
def test_a_wrong_figure_is_caught(tmp_path, figure, holds):
    [check] = run(tmp_path, entry(tmp_path, figures=[{"at": ["a", "b", 1, "v"], **figure}]))
    assert check.holds is holds and not check.error


def test_nan_never_holds():
    assert not Figure(0.5, tolerance=10).holds(float("nan")) and not Figure(0.5, factor=9).holds(float("inf"))


def test_a_fault_in_the_readout_is_caught(tmp_path):
    """The same command, with and without a fault put into the code that it runs."""
    code = "import json, sys; from sightline.rerank import layout; {fault}; json.dump({{'scale': "
    code += "layout.load_layout('minilm').readout.scale}}, open(sys.argv[1], 'w'))"
    spoil = "old = layout.load_layout; layout.load_layout = lambda name: old(name, scale=21.0)"
    figures = [{"at": ["scale"], "value": 20, "tolerance": 0.5}]
    script = tmp_path / "run.py"
    common = {"command": f"python {script} {{out}}/x.json", "reads": "{out}/x.json", "figures": figures}
    for fault, holds in (("None", True), (spoil, False)):
        script.write_text(code.format(fault=fault))
        [check] = run(tmp_path, entry(tmp_path, **common))
        assert check.holds is holds and not check.error


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"command": "python -c 'raise SystemExit(\"boom 7\")'"}, "exit code 1: boom 7"),
        ({"command": "sightline info absent", "reads": ""}, "exit code 4"),
        ({"command": "python -c 'print(1, 2)'", "reads": ""}, "no JSON"),
        ({"reads": "{out}/absent.json"}, "absent.json: there is no JSON"),
        ({"figures": [{"at": ["a", "c"], "value": 1, "tolerance": 0}]}, "no 'c' on the way a / c"),
        ({"figures": [{"at": ["a", "b", {"name": "y"}], "value": 1, "tolerance": 0}]}, "on the way"),
        ({"figures": [{"at": ["text"], "value": 1, "tolerance": 0}]}, "is no number"),
    ],
    ids=str,
)
def test_what_fails_is_told_and_does_not_stop_the_rest(tmp_path, fields, match):
    failed, fine = run(tmp_path, entry(tmp_path, **fields), entry(tmp_path, id="two"))
    assert match in failed.error and not failed.holds and fine.holds


def test_an_entry_runs_what_it_comes_after_once(tmp_path):
    count = 'python -c \'open("count", "a").write("."); print(7)\''
    base = entry(tmp_path, id="base", command=count, reads="", figures=[], kind="speed")
    later = entry(
        tmp_path, after="base", command="python -c 'print(len(open(\"../base/count\").read()))'", reads="",
        figures=[{"at": [], "value": 1, "tolerance": 0}],
    )  # fmt: skip
    later["figures"] = []
    known = load_expected(written(tmp_path, base, later))
    for _ in range(2):
        [check] = reproduce(known[1:], tmp_path / "work", known=known)
        assert check.holds
    assert (tmp_path / "work" / "base" / "count").read_text() == "."


def test_what_cannot_run_is_skipped_with_its_reason(tmp_path):
    checks = run(
        tmp_path,
        entry(tmp_path, command="sightline info {data}/x"),
        entry(tmp_path, id="two", modules=["no_such_module"]),
        entry(tmp_path, id="three", kind="past", why="the tape is lost", reads="", figures=[{"value": 1}]),
    )
    assert [check.skipped.split(":")[0] for check in checks] == [
        "needs the judged collections",
        "needs no_such_module, which is not installed",
        "the tape is lost",
    ]
    assert not any(check.holds for check in checks)


_FIGURE = {"at": ["a"], "value": 1, "tolerance": 0}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"id": "a b"}, "entry 1 has no id"),
        ({"colour": 1}, "has a field 'colour'"),
        ({"kind": "rumour"}, "kind must be 'quality', 'speed' or 'past', not 'rumour'"),
        ({"kind": "past"}, "needs a why"),
        ({"why": "x"}, "needs a why"),
        ({"reads": ""}, "nothing to run"),
        ({"reads": "{home}/x"}, r"reads has \{home\}"),
        ({"command": "rm -rf {out}"}, "must begin with sightline or python"),
        ({"command": 7}, "command must be a valid string"),
        ({"after": "two"}, "no entry before it"),
        ({"quick": "yes"}, "quick must be a valid boolean"),
        ({"figures": [7]}, r"figures\[0\]"),
        ({"figures": [_FIGURE, {**_FIGURE, "at": ["b"], "value": "x"}]}, r"figures\[1\].value must be a valid number"),
        ({"figures": [{**_FIGURE, "tolerance": float("nan")}]}, r"figures\[0\].tolerance must be a finite number"),
        ({"figures": [{**_FIGURE, "tolerance": -1}]}, "at least 0"),
        ({"figures": [{**_FIGURE, "factor": 2}]}, "not both"),
        ({"figures": [{"at": ["a"], "value": 1}]}, "needs a tolerance or a factor"),
        ({"figures": [{"at": "a", "value": 1, "tolerance": 0}]}, r"figures\[0\].at must be a valid"),
        ({"figures": [{"value": 1, "tolerance": 0}]}, "needs at"),
        ({"figures": [{"at": ["a"], "tolerance": 0}]}, r"lacks the field figures\[0\].value"),
        ({"figures": [{**_FIGURE, "cell": ["row"]}]}, r"figures\[0\].cell"),
        ({"figures": [{**_FIGURE, "cell": ["row", "column"]}]}, "has a cell, but there is no table ''"),
        (
            {"figures": [{**_FIGURE, "name": "x"}, {**_FIGURE, "at": ["b"], "name": "x"}]},
            "two figures have the name 'x'",
        ),
        ({"figures": [{**_FIGURE, "color": 1}]}, r"has a field 'figures\[0\].color'"),
    ],
    ids=str,
)
def test_a_malformed_file_says_where(tmp_path, fields, match):
    path = written(tmp_path, entry(tmp_path, **fields))
    with pytest.raises(DataError, match=match) as raised:
        load_expected(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("text", ["", "[1]", "version: 2\nentries: []", "version: 1", "a: [", "\x00"])
def test_what_is_no_file_of_figures(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    for path in (tmp_path / "x.yaml", tmp_path / "absent.yaml"):
        with pytest.raises(DataError, match="yaml"):
            load_expected(path)


def test_an_id_twice(tmp_path):
    with pytest.raises(DataError, match="an earlier entry has the same id"):
        load_expected(written(tmp_path, entry(tmp_path), entry(tmp_path)))


def test_speed_is_run_by_name_only():
    entries = load_expected()
    assert {entry.kind for entry in select(entries)} == {"quality"}
    assert [entry.id for entry in select(entries, ["kernels"])] == ["kernels"]
    assert all(entry.quick for entry in select(entries, quick=True)) and select(entries, quick=True)
    with pytest.raises(InputError, match="no entry is called 'nothing'"):
        select(entries, ["nothing"])


def test_the_quick_ones_that_need_no_data_hold(tmp_path):
    entries = load_expected()
    checks = list(reproduce([e for e in select(entries, quick=True) if not e.needs_data], tmp_path, known=entries))
    assert checks and all(check.holds for check in checks), checks


def test_the_command_tells_what_differs(tmp_path):
    (tmp_path / "x.json").write_text('{"n": 1}')
    for value, code, word in ((1, 0, "holds"), (2, 1, "differs")):
        figures = [{"at": ["n"], "value": value, "tolerance": 0}]
        expected = written(tmp_path, {"id": "one", "reads": str(tmp_path / "x.json"), "figures": figures})
        options = ["--expected", str(expected), "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(app, options)
        assert (done.exit_code, done.stdout.split()[0]) == (code, word)
        assert ("expected 2, found 1" in done.stdout) == bool(code)
        done = CliRunner().invoke(app, [*options, "--json"])
        assert done.exit_code == code
        assert json.loads(done.stdout)[0]["figures"][0]["holds"] == (not code)


def test_the_command_lists_entries_and_refuses_unknown_ones(tmp_path):
    listed = CliRunner().invoke(app, ["--list"])
    assert listed.exit_code == 0
    assert "scifact (quality, 6 figures)" in listed.stdout and "sightline eval {data}/scifact" in listed.stdout
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2
    assert CliRunner().invoke(app, ["--expected", str(tmp_path / "nowhere")]).exit_code == 3


@pytest.mark.data
def test_the_quick_ones_hold(tmp_path, collections):
    entries = load_expected()
    quick = [e for e in select(entries, quick=True) if e.needs_data]
    checks = list(reproduce(quick, tmp_path, data=collections, known=entries))
    assert checks and all(check.holds for check in checks), checks


def test_other_data_than_the_measured_are_told_before_anything_runs(tmp_path):
    entries = load_expected()
    [scifact] = [entry for entry in entries if entry.id == "scifact"]
    [absent] = reproduce([scifact], tmp_path / "out", data=tmp_path / "nowhere")
    assert "no such folder" in absent.error
    (tmp_path / "data").mkdir()
    [missing] = reproduce([scifact], tmp_path / "out", data=tmp_path / "data")
    assert "scifact: no such folder" in missing.error
    (tmp_path / "data" / "scifact").mkdir()
    (tmp_path / "data" / "scifact" / "corpus.jsonl").write_text("another")
    [other] = reproduce([scifact], tmp_path / "out", data=tmp_path / "data")
    assert "your scifact is another one" in other.error and "corpus.jsonl" in other.error
    assert not (tmp_path / "out").exists()
