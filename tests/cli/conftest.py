"""The command line, run in this process."""

import sys

import pytest

from sightline import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``sightline``: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sightline", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run
