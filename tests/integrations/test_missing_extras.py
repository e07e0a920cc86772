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
_PROGRAM = """
import importlib, json, sys
from sightline.errors import MissingExtraError
extras = json.loads(sys.argv[1])
for module in extras.values():
    sys.modules[module.split(".")[0]] = None  # as if it were not installed
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
    arguments = [sys.executable, "-c", _PROGRAM, json.dumps(_EXTRAS)]
    return json.loads(subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True).stdout)


@pytest.mark.parametrize("extra", _EXTRAS)
def test_the_extra_is_named(messages, extra):
    message = f"'{_EXTRAS[extra]}' is not installed; install it with: pip install 'sightline-search[{extra}]'"
    assert messages[extra] == [message, extra]


def test_the_command_line_says_it_too(tmp_path):
    program = "import sys; sys.modules['mcp'] = None; from sightline.cli import main; main()"
    arguments = [sys.executable, "-c", program, "mcp", str(tmp_path)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert "pip install 'sightline-search[mcp]'" in " ".join(ended.stderr.split())
