"""What is installed is what is there, and every hint on how to install it names the right package."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sightline
from sightline.names import SHIPPED

_ROOT = Path(sightline.__file__).parent
_PROJECT = _ROOT / "pyproject.toml"
_KEPT = {".json", ".md", ".safetensors", ".yaml"}
_NOT_SHIPPED = {"benchmarks", "docs", "examples", "recipes", "tests"}
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


def test_what_the_index_shows_of_the_project():
    shown = project()["project"]
    assert set(shown["urls"]) == {"Homepage", "Repository", "Changelog", "Issues"}
    assert all(url.startswith("https://github.com/sightline-search/sightline") for url in shown["urls"].values())
    assert shown["authors"] and shown["keywords"] and shown["license"] == "Apache-2.0"
    pythons = {name.rpartition(" ")[2] for name in shown["classifiers"] if name.startswith("Programming Language")}
    assert {"3.11", "3.12", "3.13", "3.14"} <= pythons and "Operating System :: POSIX" in shown["classifiers"]
    assert "## Unreleased" in (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def source_files():
    """The files of the repository, as git knows them; all that are there, where there is no git."""
    git = shutil.which("git")
    if git is not None and (_ROOT / ".git").exists():
        listing = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listing, cwd=_ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        return {name for name in names if name and (_ROOT / name).exists()}
    made = {".venv", "__pycache__", "build", "demo-out", "dist"}
    paths = (path.relative_to(_ROOT) for path in _ROOT.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in paths
        if not any(part in made or part.endswith(("_cache", ".egg-info")) for part in path.parts)
    } - {"PKG-INFO", "setup.cfg"}


def built(kind, source, folder):
    """What setuptools builds of a folder: ``wheel`` or ``sdist``."""
    build = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True)
    (found,) = (path for path in folder.iterdir() if path.is_file())
    return found


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution, built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in source_files():
        path = folder / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROOT / name, path)
    return built("sdist", folder / "source", folder)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return built("wheel", source, folder)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel installed, and what it needs to be run from there."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel]
    done = subprocess.run(pip, capture_output=True, text=True)
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed")
    assert done.returncode == 0, done.stderr

    def run(*command):
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1", "COLUMNS": "100"}
        return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=True)

    return folder, run


def test_the_source_distribution_holds_the_repository(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {
        name for name in names if name in ("PKG-INFO", "setup.cfg") or name.startswith("sightline_search.egg-info/")
    }
    assert len(made) > 2 and names - made == source_files()


def test_the_index_accepts_both(sdist, wheel):
    pytest.importorskip("twine", reason="needs twine")
    check = [sys.executable, "-m", "twine", "check", "--strict", sdist, wheel]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_wheel_holds_the_library_and_nothing_beside_it(wheel):
    shipped = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("sightline/") for name in shipped if name.startswith("sightline/")}
    about = f"sightline_search-{sightline.__version__}.dist-info/"
    assert all(name.startswith(("sightline/", about)) for name in shipped)
    assert {path.partition("/")[0] for path in inside} & _NOT_SHIPPED == set()
    modules = {path.relative_to(_ROOT).as_posix() for path in own_files(".py")}
    pages = {"py.typed", "serve/page.html", "eval/report/page.html"}
    folders = [_ROOT / "data" / name for name in ("heads", "layouts")]
    files = {path.relative_to(_ROOT).as_posix() for folder in folders for path in folder.iterdir()}
    for folder in SHIPPED.values():
        files |= {path.relative_to(_ROOT).as_posix() for path in folder.iterdir() if path.suffix in _KEPT}
    assert files and inside == modules | pages | files | {"data/word_statistics.tsv"}


def test_the_wheel_runs_without_the_source_tree(installed):
    folder, run = installed
    version = f"sightline {sightline.__version__}\n"
    assert run(sys.executable, "-m", "sightline", "--version").stdout == version
    assert run(folder / "bin" / "sightline", "--version").stdout == version
    assert "--plan" in run(folder / "bin" / "sightline", "matrix", "--help").stdout


def test_every_module_of_the_wheel_is_imported_without_the_source_tree(installed):
    folder, run = installed
    code = """
import importlib, pkgutil, sys
import sightline
from sightline.names import SHIPPED
assert sightline.__file__.startswith(sys.argv[1]), sightline.__file__
for module in pkgutil.walk_packages(sightline.__path__, "sightline."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except sightline.MissingExtraError:
            pass
        except ModuleNotFoundError as error:
            assert error.name in ("triton", "fastapi", "uvicorn", "prometheus_client"), error
print(sightline.load_reranker("sightline-mini").name, len([m for m in sys.modules if m.startswith("sightline.")]))
"""
    name, count = run(sys.executable, "-c", code, str(folder)).stdout.split()
    assert name == "sightline-mini" and int(count) > 80
