"""The front page is short, its example runs as it stands, its commands exist, and its figures are the measured ones."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import sightline
from sightline.cli import app
from sightline.recipes.figures import load_expected

_ROOT = Path(sightline.__file__).parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_SYSTEMS = {
    "BM25": "bm25",
    "embeddings": "dense",
    "both, fused": "hybrid",
    "both, reranked by the default": "hybrid+minilm",
}


def test_it_is_read_in_a_few_minutes():
    assert len(_README.split()) <= 1300


def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"kettle \d\d% Boil equal parts of vinegar and water, and rinse twice\.", first)
    assert second.startswith("router ")


def commands():
    for block in re.findall(r"```sh\n(.*?)```", _README, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "sightline":
                yield pytest.param(words[1:], id=" ".join(words[1:3]))


@pytest.mark.parametrize("words", list(commands()))
def test_its_commands_and_their_options_exist(words):
    command = typer.main.get_command(app).commands[words[0]]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options


def test_its_targets_exist():
    makefile = (_ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake (\w+)", _README))
    assert {"demo", "test"} <= named and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_its_figures_are_the_measured_ones():
    header, _, *rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in re.search(r"\| nDCG@10 \|.*?\n\n", _README, re.DOTALL)[0].strip().splitlines()
    ]
    measured = {figure.cell: figure.value for entry in load_expected() for figure in entry.figures if figure.cell}
    assert len(rows) == len(_SYSTEMS)
    for label, *cells in rows:
        for column, cell in zip(header[1:], cells, strict=True):
            assert float(cell) == pytest.approx(measured[_SYSTEMS[label], column], abs=0.00051), (label, column)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_document_links_to_and_runs_exists(name):
    text = (_ROOT / name).read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text))
    assert [link for link in links if not (_ROOT / link).exists()] == []
    run = set(re.findall(r"python -m sightline\.([\w.]+\w)", text))
    assert [module for module in run if not (_ROOT / f"{module.replace('.', '/')}.py").exists()] == []


def test_no_text_sends_its_reader_to_a_section_that_is_gone():
    gone = []
    for path in sorted(_ROOT.rglob("*")):
        parts = path.relative_to(_ROOT).parts
        if path.suffix not in {".py", ".yaml", ".md", ".toml"} or parts[0].startswith(".") or parts[0] == "build":
            continue
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"[Ss]ee (?:the )?README, \"?([A-Z][\w ]*\w)", text)
        gone += [f"{path}: {section}" for section in named if f"# {section}\n" not in _README]
    assert gone == []
