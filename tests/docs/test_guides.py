"""Tables and configurations of the guides say what the code does."""

import ast
import json
import re
from pathlib import Path

import pytest
import typer

import sightline
from sightline.cli import app
from sightline.retrieval.filters import Filter, parse_where

_GUIDES = Path(sightline.__file__).parent / "docs" / "guides"
_COMMANDS = typer.main.get_command(app).commands
pytestmark = pytest.mark.skipif(not _GUIDES.exists(), reason="not a source tree")


def guide(name):
    return (_GUIDES / f"{name}.md").read_text(encoding="utf-8")


def rows(text):
    """The cells of each row of tables, headings included."""
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def test_both_forms_of_a_filter_mean_the_same():
    table = [row for row in rows(guide("filter")) if row[0].startswith("`{")]
    operators = set()
    for python, written, _ in table:
        (line,) = re.findall(r"`(.+?)`", written)
        expected = Filter(parse_where([line]))
        for form in re.findall(r"`(\{.+?\})`", python):
            assert Filter(ast.literal_eval(form)).key == expected.key
        operators |= {condition.operator for condition in expected.conditions}
    assert operators == {"=", "!=", "<", "<=", ">", ">=", "in", "not in"}


def test_the_servers_limits_are_those_of_the_table():
    options = {option: one for one in _COMMANDS["serve"].params for option in one.opts}
    found = set()
    for cells in rows(guide("serve")):
        names = re.findall(r"`(--(?:max|cache)-[\w-]+)`", " ".join(cells))
        if len(names) != 1:
            continue
        [name] = names
        said = next((cell for cell in cells if re.fullmatch(r"[\d,]+(?: MiB)?|none", cell)), None)
        number = None if said == "none" else float(re.sub(r"[^\d]", "", said)) * (2**20 if "MiB" in said else 1)
        assert options[name].default == number
        found.add(name)
    assert found == {name for name in options if re.match("--(max|cache)-", name)}


def test_clients_of_mcp_start_a_command_that_exists():
    text = guide("assistants")
    configurations = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    started = []
    for configuration in configurations:
        [servers] = configuration.values()
        started += [[server["command"], *server["args"]] for server in servers.values()]
    started += [line.split() for line in re.findall(r"claude mcp add \w+ -- (.+)", text)]
    assert len(configurations) == 4 and len(started) == 5
    for program, command, *arguments in started:
        assert Path(program).name == "sightline" and Path(program).is_absolute()
        context = _COMMANDS[command].make_context(command, list(arguments))
        assert context.params["index"] == arguments[0] and Path(arguments[0]).is_absolute()
