"""Every example in a docstring runs, every module keeps to its floor, and no modules import one another in a circle."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import sightline
from sightline.errors import MissingExtraError

_ROOT = Path(sightline.__file__).parent
_FLOORS = {
    "data": 0,
    "documents": 0,
    "errors": 0,
    "extras": 0,
    "facades": 0,
    "files": 0,
    "forking": 0,
    "names": 0,
    "parsing": 0,
    "sentences": 0,
    "settings": 0,
    "tracing": 0,
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
    "scale": 6,
    "serve": 6,
    # Beside the library, and not in the wheel.
    "benchmarks": 7,
    "recipes": 7,
}
_BESIDE = {"benchmarks", "recipes"}


def modules():
    """The file of every module but the tests, by its name below the package; without ``__init__`` of the root."""
    found = {}
    for path in sorted(_ROOT.rglob("*.py")):
        parts = path.relative_to(_ROOT).with_suffix("").parts
        if parts[0] in ("tests", "examples", "docs", "build") or parts[0].startswith((".", "__")):
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


_MODULES = modules()


def imports(name, source=None):
    """What a module imports of the package, also inside of functions and for types: modules, and names of the root.

    Args:
        name: of the module.
        source: its text; None for that of its file.
    """
    path = _MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sightline"}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {node.module} if node.module.split(".")[0] == "sightline" else set()
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                found.add(whole if whole in _MODULES or not base else ".".join(base))
    return found


def upward(name, source=None):
    """The imports of a module that are above its floor, absolute, or of the root's public names."""
    own = _FLOORS[name.split(".")[0]]
    return {
        target
        for target in imports(name, source)
        if target != "__version__" and _FLOORS.get(target.split(".")[0], 99) > own
    }


def circles(graph):
    """The strongly connected components of more than one node, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[-len(component) :]
            found.append(set(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return [component for component in found if len(component) > 1]


def module_graph():
    return {name: (imports(name) & _MODULES.keys()) - {name} for name in _MODULES}


def package_graph():
    graph = {name.split(".")[0]: set() for name in _MODULES}
    for name, targets in module_graph().items():
        graph[name.split(".")[0]] |= {target.split(".")[0] for target in targets}
    return {name: targets - {name} for name, targets in graph.items()}


def imported(name):
    try:
        return importlib.import_module(f"sightline.{name}")
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    except ModuleNotFoundError as missing:
        if missing.name not in ("triton", "fastapi", "uvicorn", "prometheus_client"):
            raise
        pytest.skip(f"{missing.name} is not installed")


def test_every_package_and_file_of_the_root_has_its_floor():
    assert {name.split(".")[0] for name in _MODULES} == set(_FLOORS)


@pytest.mark.parametrize("name", _MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = imported(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


@pytest.mark.parametrize("name", _MODULES)
def test_no_import_runs_upward(name):
    assert upward(name) == set()


def test_nothing_of_the_library_imports_what_stands_beside_it():
    for name in _MODULES:
        if name.split(".")[0] not in _BESIDE:
            assert {target.split(".")[0] for target in imports(name)} & _BESIDE == set(), name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ..search import Searcher", {"search"}),
        ("def load():\n    from ..search.searcher import Searcher", {"search.searcher"}),
        ("async def load():\n    from .. import eval", {"eval"}),
        ("from .. import Index", {"Index"}),
        ("import sightline.files", {"sightline.files"}),
        ("from sightline import errors", {"sightline"}),
        ("from .. import __version__\nfrom ..models.reader import Window\nfrom .ranking import order_by_score", set()),
    ],
)
def test_an_import_that_runs_upward_is_seen(source, found):
    assert upward("rerank.base", source) == found


def test_a_circle_is_seen():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e2"}, "e2": {"e"}}
    assert sorted(map(sorted, circles(graph))) == [["b", "c"], ["e", "e2"]]


def test_no_packages_import_one_another():
    assert circles(package_graph()) == []


def test_no_modules_import_one_another():
    assert circles(module_graph()) == []
