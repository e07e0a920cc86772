"""The documentation is true: its Python runs, its commands and their options exist, and its links lead somewhere.

A Python block runs in the names of those before it on its page. ``<!-- not run: WHY -->`` on the line before a block
leaves it out.
"""

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import sightline
from sightline.cli import app
from sightline.errors import MissingExtraError, SightlineError
from sightline.names import RerankerName

_ROOT = Path(sightline.__file__).parent
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^([ ]*)(```+)[ ]*(\w*)[^\n]*\n(.*?)^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")
_COMMANDS = typer.main.get_command(app).commands


def name_of(page):
    return str(page.relative_to(_ROOT))


def blocks(page, *languages):
    """The code of a page's blocks in one of some languages, without those that are not to be run."""
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        if match[3] in languages and not _NOT_RUN.search(text[: match.start()]):
            yield re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)


def pages(*languages):
    return [pytest.param(page, id=name_of(page)) for page in _PAGES if next(blocks(page, *languages), None)]


@pytest.mark.parametrize("page", pages("python"))
def test_its_python_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    if "set_tracer_provider" in page.read_text(encoding="utf-8"):  # a process has one for good
        code = "\n".join(blocks(page, "python"))
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return
    for code in blocks(page, "python"):
        try:
            exec(compile(code, name_of(page), "exec"), names)
        except MissingExtraError as missing:
            pytest.skip(str(missing))


def lines(page):
    """The words of each command in a page's shell blocks: continued lines are one, pipes and assignments divide."""
    for code in blocks(page, "sh", "bash", "shell", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line.removeprefix("$ "), comments=True)
            except ValueError:
                continue
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words:
                yield [word for word in words if word not in ("&", "|")]


def wrong(words):
    """What is wrong with a command line, or nothing."""
    program = Path(words[0]).name
    if program == "make":
        known = re.findall(r"^(\w+):", (_ROOT / "Makefile").read_text(), re.MULTILINE)
        return [word for word in words[1:] if "=" not in word and word not in known]
    if program.startswith("python") and words[1:2] == ["-m"] and words[2].startswith("sightline."):
        return [] if importlib.util.find_spec(words[2]) else [words[2]]
    if program != "sightline" or words[1:2] in ([], ["COMMAND"]) or words[1].startswith("-"):
        return []
    if words[1] not in _COMMANDS:
        return [words[1]]
    known = {option for one in _COMMANDS[words[1]].params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)]
    return [option for option in given if option not in known]


@pytest.mark.parametrize("page", pages("sh", "bash", "shell", "console"))
def test_its_commands_and_options_exist(page):
    assert {" ".join(words): faults for words in lines(page) if (faults := wrong(words))} == {}


def rerankers():
    for page in _PAGES:
        for words in lines(page):
            for option, value in itertools.pairwise(words):
                if option == "--rerank" and words[0] == "sightline" and not value.endswith((".yaml", "none")):
                    yield page, value


def test_the_names_of_rerankers_can_be_read():
    def fault(name):
        try:
            return RerankerName.parse(name) and ""
        except SightlineError as error:
            return str(error)

    found = list(rerankers())
    assert found and {(name_of(page), name): said for page, name in found if (said := fault(name))} == {}


def anchors(page):
    """What links may name on a page: the slugs that Markdown makes of headings."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = set(re.findall(r"\{#([\w-]+)\}|<a id=\"([\w-]+)\"", text))
    names = {name for pair in found for name in pair if name}
    for heading in re.findall(r"^#+ (.+?)\s*(?:\{.*\})?$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        names.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return names


@pytest.mark.parametrize("page", [pytest.param(page, id=name_of(page)) for page in _PAGES])
def test_its_links_lead_somewhere(page):
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
