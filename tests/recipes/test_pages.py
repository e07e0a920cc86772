"""Pages of results are made of expected figures: all of them are shown, once each, and none is written out by hand."""

import importlib.util
import json
import re
import runpy
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

import sightline
from sightline.cli import app
from sightline.errors import DataError
from sightline.recipes.chart import app as chart
from sightline.recipes.chart import draw, points
from sightline.recipes.figures import Number, load_figures
from sightline.recipes.pages import Pages

_ROOT = Path(sightline.__file__).parent
_PAGES = sorted((_ROOT / "docs" / "results").glob("*.md"))
_ENTRIES, _TABLES = load_figures()


@pytest.fixture(scope="module")
def rendered():
    """What the pages look like, by name, and what they show."""
    pages = Pages(_ENTRIES, _TABLES)
    return {path.name: pages.render(path.read_text(encoding="utf-8")) for path in _PAGES}, pages.shown


def test_every_figure_is_shown_on_a_page(rendered):
    pages, shown = rendered
    assert len(pages) > 12 and not any("{{" in text for text in pages.values())
    named = {f"{entry.id}/{figure.name}" for entry in _ENTRIES for figure in entry.figures if figure.name}
    assert shown == named | set(_TABLES)
    assert {e.id for e in _ENTRIES for f in e.figures if not f.name and not f.cell} == {
        "demo"
    }  # what `make demo` prints


def test_the_pages_show_them_as_they_are_written(rendered):
    pages, _ = rendered
    quality = pages["quality.md"]
    assert "| hybrid+minilm | **.7439** | **.3660** | .4027 |  | **.9286** | .9185 |" in quality
    assert "| over dense | .083 (.055 to .111), p = .021 |" in quality
    assert "(.000 to .065)" in pages["bias.md"].replace("\n", " ")
    assert "| 1,000,000, HNSW32, tantivy | 18.6 | 30.5 | 6.9 | 6,429 |" in pages["growth.md"]
    assert "sightline matrix data --plan recipes/matrix.yaml --out results/matrix --jobs 2" in quality


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: path.name)
def test_no_measure_is_written_out(path):
    text = re.sub(r"\{\{.*?\}\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.findall(r"(?<![\w.])\.\d{3,}", text) == []


@pytest.mark.parametrize("entry", [entry for entry in _ENTRIES if entry.command], ids=lambda entry: entry.id)
def test_the_commands_exist(entry):
    program, *words = shlex.split(entry.command)
    if program == "sightline":
        known = {option for one in typer.main.get_command(app).commands[words[0]].params for option in one.opts}
        assert {word for word in words if word.startswith("--")} <= known
    else:
        assert words[0] == "-m" and importlib.util.find_spec(words[1])


_TABLE = {"columns": ["x", "y"], "rows": ["a", "b"], "format": "{:.3f}", "words": {"y": {"a": "", "b": "none"}}}
_CELLS = [{"value": 0.25, "cell": ["a", "x"]}, {"value": 1234, "cell": ["b", "x"], "style": ",.0f", "name": "big"}]


def made(folder, *figures, entries=(), **table):
    """Pages of a made-up file: a table `t`, and an entry `e` of kind past, with these figures, then further entries."""
    past = {"kind": "past", "why": "made up", "table": "t"}
    body = {
        "version": 1,
        "tables": {"t": {**_TABLE, **table}, "u": {**_TABLE, "also": "t", "corner": "where"}},
        "entries": [{"id": "e", **past, "figures": list(figures)}, *({**past, **entry} for entry in entries)],
    }
    path = folder / "figures.yaml"
    path.write_text(json.dumps(body))
    return Pages(*load_figures(path))


def test_a_table_has_figures_and_words(tmp_path):
    pages = made(tmp_path, *_CELLS)
    assert pages.table("t").splitlines() == [
        "|  | x | y |",
        "| --- | --- | --- |",
        "| a | .250 |  |",
        "| b | 1,234 | none |",
    ]
    assert pages.table("u").splitlines()[2:] == ["| a | .250 |  |", "| b | 1,234 | none |"]
    assert pages.figure("e/big") == "1,234" and pages.shown == {"t", "u", "e/big"}
    assert "| **1,234** |" in made(tmp_path, *_CELLS, bold_largest=True).table("t")


@pytest.mark.parametrize(
    ("figures", "match"),
    [
        (_CELLS[:1], "'b', 'x' of 't' needs either figures or words"),
        ([*_CELLS, {"value": 1, "cell": ["a", "y"]}], "'a', 'y' of 't' needs either figures or words"),
        ([*_CELLS, {"value": 0.5, "cell": ["a", "x"]}], "'a', 'x' of 't' has 2 figures for '{:.3f}'"),
    ],
    ids=["too few", "words", "too many"],
)
def test_a_cell_without_its_figures_is_refused(tmp_path, figures, match):
    with pytest.raises(DataError, match=match):
        made(tmp_path, *figures).table("t")


def test_entries_may_give_a_cell_again_but_not_another_value(tmp_path):
    again = {"id": "again", "figures": [{"value": 0.25, "cell": ["a", "x"]}]}
    assert "| a | .250 |" in made(tmp_path, *_CELLS, entries=[again]).table("t")
    again["figures"][0]["value"] = 0.26
    with pytest.raises(DataError, match="different values"):
        made(tmp_path, *_CELLS, entries=[again]).table("t")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rows": ["a", "a"]}, "table 't': it has 'a' twice"),
        ({"formats": {"z": "{}"}}, "neither row nor column 'z'"),
        ({"words": {"y": {"z": ""}}}, "neither row nor column 'z'"),
        ({"rows": ["b"], "words": {}}, "the table 't' has no cell 'a', 'x'"),
        ({"also": "v"}, "there is no table 'v'"),
        ({"colour": 1}, "'colour'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_malformed_table_is_refused(tmp_path, fields, match):
    with pytest.raises(DataError, match=match):
        made(tmp_path, *_CELLS, **fields)


@pytest.mark.parametrize(
    ("expression", "match"),
    [
        ('figure("scifact-whole/bm26")', "no figure is called 'scifact-whole/bm26'"),
        ('figure("scifact-whole/")', "no figure is called"),
        ('figure("nothing/bm25")', "no entry 'nothing'"),
        ('table("nothing")', "no table 'nothing'"),
        ('command("nothing")', "no entry 'nothing'"),
        ('command("derived")', "'derived' has no command"),
        ("nothing", "'nothing' is undefined"),
        ("figure(", "an expression cannot be evaluated"),
    ],
)
def test_what_is_unknown_is_refused(expression, match):
    with pytest.raises(DataError, match=match):
        Pages(_ENTRIES, _TABLES).render(f"It is {{{{ {expression} }}}}.")


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (0.7439, ".3f", ".744"),
        (-0.001, ".3f", "-.001"),
        (1, ".3f", "1.000"),
        (0.68, "0.2f", "0.68"),
        (0.021, ".2g", ".021"),
        (6082, "", "6,082"),
        (0.0000012, "", "0.0000012"),
        (10.5, "", "10.5"),
    ],
)
def test_numbers(value, style, text):
    assert format(Number(value), style) == text


def test_the_hook_renders_pages_with_expressions_alone():
    assert "docs/hooks/figures.py" in (_ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hook = runpy.run_path(str(_ROOT / "docs" / "hooks" / "figures.py"))
    hook["on_pre_build"]()
    assert hook["on_page_markdown"]("It is {{ figure('scifact-whole/bm25') }}.", page=None) == "It is .6870."
    assert hook["on_page_markdown"]("{# {% as it was", page=None) == "{# {% as it was"


def test_the_chart_is_drawn_from_the_figures(tmp_path):
    shown = points()
    by_label = {point.label: (point.milliseconds, point.quality) for point in shown}
    assert by_label["BM25", ""] == (4.2, 0.6867)
    assert by_label["the default", "candidates read anew"] == (4400, 0.7439)
    assert CliRunner().invoke(chart, [str(tmp_path / "chart.svg")]).exit_code == 0
    drawn = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert drawn == draw(shown) == (_ROOT / "docs" / "images" / "quality.svg").read_text(encoding="utf-8")
    picture = ElementTree.fromstring(drawn)
    circles = [float(circle.get("cx")) for circle in picture.iter("{http://www.w3.org/2000/svg}circle")]
    times = [point.milliseconds for point in shown]
    assert sorted(range(len(times)), key=times.__getitem__) == sorted(range(len(times)), key=circles.__getitem__)
    assert "prefers-color-scheme: dark" in drawn and ".744 in 23.1 ms" in drawn
