"""Every example in a docstring runs, and every module keeps to its floor."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import sightline
from sightline.errors import MissingExtraError

_ROOT = Path(sightline.__file__).parent
_FLOORS = {
    "__version__": 0,
    "data": 0,
    "documents": 0,
    "errors": 0,
    "files": 0,
    "forking": 0,
    "names": 0,
    "parsing": 0,
    "sentences": 0,
    "settings": 0,
    "wording": 0,
    "kernels": 1,
    "models": 2,
    "retrieval": 3,
    "rerank": 3,
    "search": 4,
    "eval": 5,
    "training": 5,
    "cli": 6,
    "integrations": 6,
    "serve": 6,
    "benchmarks": 7,
    "recipes": 7,
}
_MODULES = sorted(
    module.name.removeprefix("sightline.")
    for module in pkgutil.walk_packages([str(_ROOT)], "sightline.", onerror=lambda name: None)
    if module.name.split(".")[1] in _FLOORS
)


def test_there_are_modules():
    some = {
        "search",
        "retrieval.index",
        "rerank.base",
        "kernels.lse.cpu",
        "cli.searching",
        "integrations.mcp",
    }
    assert some <= set(_MODULES)


def imported(name):
    try:
        return importlib.import_module(f"sightline.{name}")
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    except ModuleNotFoundError as missing:
        if missing.name not in ("triton", "fastapi", "uvicorn", "prometheus_client"):
            raise
        pytest.skip(f"{missing.name} is not installed")


@pytest.mark.parametrize("name", _MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = imported(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", _MODULES)
def test_no_import_runs_upward(name):
    module = imported(name)
    path = Path(module.__file__)
    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - (node.level - 1)]
            targets = (
                [[*base, *(node.module or "").split(".")]] if node.module else [[*base, a.name] for a in node.names]
            )
            for target in targets:
                floor = _FLOORS[target[0]]
                assert floor <= _FLOORS[name.split(".")[0]], f"{name} imports {'.'.join(target)}"
