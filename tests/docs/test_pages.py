"""The documentation is true: what it shows runs, its commands and their options exist, and its links lead somewhere.

The Python of a page runs from top to bottom, in one folder and with one set of names; a block of ``text`` directly
behind a block of Python is what that block prints. Shell commands are compared with the command line and not run,
unless ``<!-- run -->`` stands on the line before their block. ``<!-- not run: WHY -->`` there leaves Python out.
"""

import contextlib
import importlib.util
import io
import itertools
import re
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

import sightline
from sightline.cli import app
from sightline.errors import MissingExtraError, SightlineError
from sightline.names import RerankerName

_ROOT = Path(sightline.__file__).parent
_PAGES = [_ROOT / "README.md", _ROOT / "CONTRIBUTING.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^([ ]*)(```+)[ ]*(\w*)[^\n]*\n(.*?)^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (run|not run: [^>]+) -->\s*\Z")
_SHELLS = ("sh", "bash", "shell", "console")
_COMMANDS = typer.main.get_command(app).commands


class Block(NamedTuple):
    """A block of code: its language, its text without the page's indentation, what is marked, and what follows it."""

    language: str
    code: str
    mark: str
    follows: bool  # directly behind the block before, with nothing but blank lines between


def name_of(page):
    return str(page.relative_to(_ROOT))


def blocks(page, *languages):
    """The blocks of a page, or those in some languages."""
    text, end = page.read_text(encoding="utf-8"), 0
    for match in _BLOCK.finditer(text):
        between, end = text[end : match.start()], match.end()
        if not languages or match[3] in languages:
            mark = _MARK.search(between)
            code = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
            yield Block(match[3], code, mark[1] if mark else "", not between.strip())


def runs(block):
    """Whether the block is to be run."""
    return block.mark == "run" if block.language in _SHELLS else block.language == "python" and not block.mark


def pages(choose):
    return [pytest.param(page, id=name_of(page)) for page in _PAGES if any(map(choose, blocks(page)))]


@pytest.mark.parametrize("page", pages(runs))
def test_what_it_shows_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {"__name__": "page"}, None
    if "set_tracer_provider" in page.read_text(encoding="utf-8"):  # a process has one for good
        code = "\n".join(block.code for block in blocks(page, "python") if runs(block))
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return
    for block in blocks(page):
        if block.language == "text" and block.follows and printed is not None:
            assert printed.strip() == block.code.strip()
        printed = None
        if not runs(block):
            continue
        if block.language in _SHELLS:
            for words, line in commands(block.code):
                run(words, line)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                exec(compile(block.code, name_of(page), "exec"), names)
            except MissingExtraError as missing:
                pytest.skip(str(missing))
        printed = output.getvalue()


def run(words, line):
    """Run a command: Sightline's in this process, where the models are loaded, any other in a shell."""
    if words[0] != "sightline":
        subprocess.run(line, shell=True, check=True, timeout=60)
        return
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"


def commands(code):
    """The words of each command, without assignments, pipes and comments, and the command as it is written."""
    for line in code.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.match(r"\w+=", words[0]):
            words = words[1:]
        if words:
            yield [word for word in words if word not in ("&", "|")], line


def lines(page):
    """The words of each command in a page's shell blocks."""
    for block in blocks(page, *_SHELLS):
        yield from (words for words, _ in commands(block.code))


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


@pytest.mark.parametrize("page", pages(lambda block: block.language in _SHELLS))
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


def slug(heading):
    """The anchor of a heading, as Python-Markdown makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(page):
    """What links may name on a page: the slugs of headings, numbered where there are several of one, and ids."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = re.findall(r"\{#([\w-]+)\}|<a id=\"([\w-]+)\"", text)
    names, seen = {name for pair in found for name in pair if name}, Counter()
    for heading in re.findall(r"^#+ (.+?)\s*(?:\{.*\})?$", text, re.MULTILINE):
        one = slug(heading)
        names.add(f"{one}_{seen[one]}" if seen[one] else one)
        seen[one] += 1
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


@pytest.mark.parametrize("heading", ["Kept decoder's states", "`min_score`: *if*", "Où – und wie?", "A_b"])
def test_anchors_are_those_of_the_site(heading):
    toc = pytest.importorskip("markdown.extensions.toc", reason="the extra docs is not installed")
    assert slug(heading) == toc.slugify(re.sub("`", "", heading), "-")
