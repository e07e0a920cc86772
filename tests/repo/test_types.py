"""Types are checked strictly, and the exceptions to that only get fewer."""

import re
import tomllib
from pathlib import Path

import pytest

import sightline

_ROOT = Path(sightline.__file__).parent
pytestmark = pytest.mark.skipif(not (_ROOT / "pyproject.toml").exists(), reason="not a source tree")

# Remove an entry when you remove the exception from pyproject.toml; never add one.
_EXCEPTIONS = {
    ("sightline.integrations.llamaindex", "attr-defined"),
    ("sightline.integrations.rerankers", "disallow_subclassing_any"),
    ("sightline.kernels.attention", "no-untyped-call"),
    ("sightline.kernels.attention.triton", "untyped-decorator"),
    ("sightline.kernels.lse", "no-untyped-call"),
    ("sightline.kernels.lse.triton", "untyped-decorator"),
    ("sightline.kernels.packed", "untyped-decorator"),
}
_IGNORED_LINES = 14


def settings():
    return tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]


def test_mypy_is_strict():
    strict = {name: value for name, value in settings().items() if name != "overrides"}
    assert strict.pop("strict") is True
    assert set(strict) == {"python_version", "untyped_calls_exclude"}  # nothing takes back what strict turns on


def test_exceptions_only_get_fewer():
    exceptions, unchecked = set(), set()
    for override in settings()["overrides"]:
        flags = {name for name in override if name not in ("module", "disable_error_code", "ignore_missing_imports")}
        if flags == {"ignore_errors"}:
            unchecked |= set(override["module"])
            continue
        for module in override["module"]:
            exceptions |= {(module, what) for what in [*flags, *override.get("disable_error_code", [])]}
    assert unchecked == {"sightline.tests.*", "sightline.examples.*"}
    assert exceptions == _EXCEPTIONS


def test_ignored_lines_only_get_fewer():
    lines = [
        f"{path.relative_to(_ROOT)}: {line.strip()}"
        for path in _ROOT.rglob("*.py")
        if not path.relative_to(_ROOT).parts[0].startswith((".", "tests", "build"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"# (type: ignore|mypy: )", line)
    ]
    assert len(lines) <= _IGNORED_LINES, "\n".join(lines)
