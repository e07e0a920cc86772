"""Freed memory goes back to the system."""

import re
import subprocess
import sys

import pytest

_SCRIPT = """
import re
from pathlib import Path
from sightline.serve.memory import give_back

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

kept = [bytearray(100_000) for _ in range(2000)]
del kept[::2]  # holes: half of 200 MB is free, and the heap cannot shrink
before = held()
print(give_back(), before - held())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has a way")
def test_holes_are_given_back():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    match = re.fullmatch(r"(True|False) (-?\d+)\n", done.stdout)
    if match[1] == "False":
        pytest.skip("the C library is not glibc")
    assert int(match[2]) > 50_000
