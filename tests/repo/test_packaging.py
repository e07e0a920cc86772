"""What is installed is what is there, and every hint on how to install it names the right package."""

import re
import tomllib
from pathlib import Path

import pytest

import sightline

_ROOT = Path(sightline.__file__).parent
_PROJECT = _ROOT / "pyproject.toml"
_NOT_SHIPPED = {"benchmarks", "examples", "recipes", "tests"}
pytestmark = pytest.mark.skipif(not _PROJECT.exists(), reason="not a source tree")


def project():
    return tomllib.loads(_PROJECT.read_text(encoding="utf-8"))


def own_files(*suffixes):
    hidden = {"build", *_NOT_SHIPPED}
    for path in _ROOT.rglob("*"):
        parts = path.relative_to(_ROOT).parts
        if path.suffix in suffixes and not any(part.startswith(".") or part in hidden for part in parts):
            yield path


def test_every_package_of_the_tree_is_installed():
    there = {".".join(("sightline", *path.relative_to(_ROOT).parts[:-1])) for path in own_files(".py")}
    assert set(project()["tool"]["setuptools"]["packages"]) == there


def test_version_is_written_once():
    assert project()["project"]["dynamic"] == ["version"] and "version" not in project()["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", sightline.__version__)


def test_no_hint_installs_another_project():
    # PyPI's "sightline" is somebody else's.
    foreign = re.compile(r"pip install[^\n]*?['\" ]sightline(?![-\w.])")
    files = [*own_files(".py", ".md", ".txt", ".toml"), *(_ROOT / "examples").iterdir()]
    assert [path.name for path in files if path.is_file() and foreign.search(path.read_text(encoding="utf-8"))] == []


def test_every_extra_that_the_tests_need_is_pinned():
    pins = (_ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in pins.splitlines() if "==" in line}
    extras = re.search(r"^EXTRAS := (.+)$", (_ROOT / "Makefile").read_text(), re.MULTILINE)[1].split(",")
    named = project()["project"]
    needs = [*named["dependencies"], *(need for extra in extras for need in named["optional-dependencies"][extra])]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", need)[0]).lower() for need in needs}
    assert names - pinned == set()
