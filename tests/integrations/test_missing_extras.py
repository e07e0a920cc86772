"""Without its extra a face says which one to install."""

import json
import subprocess
import sys

import pytest

_EXTRAS = {
    "langchain": "langchain_core",
    "llamaindex": "llama_index.core",
    "haystack": "haystack",
    "mcp": "mcp",
    "mteb": "mteb",
    "pyterrier": "pyterrier",
    "rerankers": "rerankers",
}
_WITHOUT = """
import importlib, json, sys
from sightline.errors import MissingExtraError

class Without:  # as if they were not installed
    def find_spec(name, path, target=None):
        if name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without)
"""
_PROGRAM = """
extras = json.loads(sys.argv[1])
modules = {module.split(".")[0] for module in extras.values()}
messages = {}
for extra in extras:
    try:
        importlib.import_module(f"sightline.integrations.{extra}")
    except MissingExtraError as error:
        messages[extra] = [str(error), error.extra]
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def messages():
    arguments = [sys.executable, "-c", _WITHOUT + _PROGRAM, json.dumps(_EXTRAS)]
    return json.loads(subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout)


@pytest.mark.parametrize("extra", _EXTRAS)
def test_the_extra_is_named(messages, extra):
    message = f"'{_EXTRAS[extra]}' is not installed; install it with: pip install 'sightline-search[{extra}]'"
    assert messages[extra] == [message, extra]


def test_the_command_line_says_it_too(tmp_path):
    program = "modules = {'mcp'}; from sightline.cli import main; main()"
    arguments = [sys.executable, "-c", _WITHOUT + program, "mcp", str(tmp_path)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert "pip install 'sightline-search[mcp]'" in " ".join(ended.stderr.split())


def test_the_command_line_says_why_an_installed_module_cannot_be_imported(tmp_path):
    (tmp_path / "mcp.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sightline.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", program, "mcp", "i"], capture_output=True, text=True, timeout=60)
    said = " ".join(ended.stderr.split())
    assert (ended.returncode, ended.stdout) == (5, "") and "not installed" not in said
    assert "'mcp' or 'mcp_types' cannot be imported" in said
    assert "ImportError: numpy.core.multiarray failed" in said and "--upgrade 'sightline-search[mcp]'" in said
