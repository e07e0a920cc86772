"""Check that constraints.txt resolves against the public package index alone, as a new user's machine resolves it.

Where pip looks elsewhere too (for a CPU wheel of torch, say, whose requirements differ), a pin that conflicts goes
unnoticed. So this unsets every setting of pip and uv, except the path of certificates.

    python .ci/resolve.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Only wheels are looked at. Linux on ARM is not here: it has to compile pytrec-eval-terrier, a need of ir-measures.
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-apple-darwin")


def main() -> int:
    """Resolve with uv for every Python and platform, and with pip for this one; return the number of failures."""
    makefile = (ROOT / "Makefile").read_text()
    everything = re.search(r"^EXTRAS := (.+)$", makefile, re.MULTILINE)
    if everything is None:
        raise SystemExit("the Makefile has no line 'EXTRAS := ...'")
    failures = 0
    for extras in ("cpu", everything[1]):
        named = [word for extra in extras.split(",") for word in ("--extra", extra)]
        for python in PYTHONS:
            for platform in PLATFORMS:
                command = ["uv", "pip", "compile", "--quiet", "--no-build", "--python-version", python]
                command += ["--python-platform", platform, "--constraint", "constraints.txt", *named, "pyproject.toml"]
                failures += not resolves(f"uv, Python {python}, {platform}, [{extras}]", command)
        command = ["pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--constraint", "constraints.txt"]
        failures += not resolves(f"pip, this Python, [{extras}]", [*command, f".[{extras}]"])
    return failures


def resolves(what: str, command: list[str]) -> bool:
    """Run one dry run, and print whether it went through."""
    tool, *arguments = command
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, env=bare(), capture_output=True, text=True
    )
    print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {what}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-4000:], flush=True)
    return done.returncode == 0


def bare() -> dict[str, str]:
    """The environment without any setting of pip or uv, except those that say where certificates are."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_")) or name.endswith("_CERT")
    }
    return kept | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "MACOSX_DEPLOYMENT_TARGET": "14.0"}


if __name__ == "__main__":
    sys.exit(main())
