"""The README's example runs as it stands, and its commands exist."""

import re
from pathlib import Path

import sightline
from sightline.cli import app

_README = (Path(sightline.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_python_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 cats ") and said[0].endswith("Cats purr when content.")
    assert said[-1].startswith("Cows eat grass.")


def test_commands_exist():
    named = {
        command
        for block in re.findall(r"```sh\n(.*?)```", _README, re.DOTALL)
        for command in re.findall(r"^sightline (\w+)", block, re.MULTILINE)
    }
    assert named and named <= {command.name for command in app.registered_commands}
