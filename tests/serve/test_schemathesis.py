"""The OpenAPI document against the server, by schemathesis: what it says is what it does, whatever is sent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sightline import Searcher
from sightline.serve import create_app

from .conftest import KEY, serving


def test_the_server_does_what_its_document_says(small_index, tmp_path):
    pytest.importorskip("schemathesis", reason="needs schemathesis")
    copy = shutil.copytree(small_index, tmp_path / "index")
    with serving(create_app(Searcher(copy), api_key=KEY)) as address:
        command = [
            Path(sys.executable).with_name("st"),
            *("run", f"{address}/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing"),
            # A schema cannot say that a text must have words in it, or a filter a known operator.
            *("--exclude-checks", "positive_data_acceptance"),
            *("--max-examples", os.environ.get("SIGHTLINE_FUZZ", "5"), "--seed", "1", "--no-color"),
            *("--header", f"Authorization: Bearer {KEY}", "--generation-database", ":memory:"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Tested: 13" in done.stdout and "Failures:" not in done.stdout
