"""The reference names what there is: every public name, option, route, environment variable and file, and no others."""

import ast
import functools
import importlib.util
import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

import sightline
from sightline import Document, Index, Searcher, load_layout
from sightline.cli import app, running
from sightline.eval import load_run
from sightline.eval.trec import parse_qrels, parse_queries
from sightline.rerank.heads import Heads
from sightline.retrieval.manifest import FORMAT
from sightline.training import parse_examples

_ROOT = Path(sightline.__file__).parent
_PAGES = _ROOT / "docs" / "reference"
pytestmark = pytest.mark.skipif(not _PAGES.exists(), reason="not a source tree")

# The modules whose ``__all__`` is public.
_PUBLIC = """
sightline documents errors names search retrieval rerank rerank.decoder rerank.layout rerank.detection rerank.heads
models.encoder models.loading models.reader models.sparse models.scorers models.remote models.cache eval eval.bias
training kernels scale serve.app serve.limits integrations.cross_encoder integrations.haystack integrations.langchain
integrations.llamaindex integrations.mcp integrations.mteb integrations.pyterrier integrations.rerankers
""".split()


def page(name):
    return (_PAGES / name).read_text(encoding="utf-8")


def hook(name):
    """A module that writes parts of pages when the documentation is built."""
    spec = importlib.util.spec_from_file_location(name, _ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(markdown, language):
    """The contents of the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


# -- Python ----------------------------------------------------------------------------------------------------------


@functools.cache
def tree(module):
    path = _ROOT if module == "sightline" else _ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.name == "__init__.py", ast.parse(file.read_text(encoding="utf-8"))


def public(module):
    """The names in a module's ``__all__``."""
    for node in tree(module)[1].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def defined(module, name):
    """Where a name comes from: the module that defines it, and its name there. Nothing is imported."""
    package, parsed = tree(module)
    parts = [] if module == "sightline" else module.split(".")
    for node in ast.walk(parsed):
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    base = parts[: len(parts) - node.level + package]
                    return defined(".".join([*base, *(node.module.split(".") if node.module else [])]), alias.name)
    return module, name


def test_every_public_name_has_one_entry():
    identifiers = [
        identifier.removeprefix("sightline.")
        for path in _PAGES.rglob("*.md")
        for identifier in re.findall(r"^::: (sightline\.\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    entries = [
        defined(module or "sightline", name)
        for module, _, name in (identifier.rpartition(".") for identifier in identifiers)
    ]
    assert len(set(entries)) == len(entries)
    assert set(entries) == {defined(module, name) for module in _PUBLIC for name in public(module)}


# -- commands --------------------------------------------------------------------------------------------------------


def sections(text):
    """The text on each command, by its name."""
    _, *parts = re.split(r"^### sightline (\S+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_page_on_commands_has_what_help_shows():
    text = hook("commands").commands(app)
    assert "\x1b" not in text and "| |" not in text
    found = sections(text)
    assert list(found) == [command.name for command in app.registered_commands]
    for command in app.registered_commands:
        shown = CliRunner().invoke(app, [command.name, "--help"], env={"COLUMNS": "400"}).output
        plain = re.sub(r"\x1b\[[\d;]*m", "", shown)  # on CI there may be colours
        rows = re.findall(r"^│[ *]+((?:--?[a-z][a-z-]*[ ,]+)+)", plain, re.MULTILINE)
        options = {option for row in rows for option in re.split("[ ,]+", row) if option} - {"--help", "-h"}
        named = re.findall(r"^- ((?:`[^`]+`(?:, )?)+) –", found[command.name], re.MULTILINE)
        written = {option for names in named for option in re.findall(r"`(--?[a-z][a-z-]*)", names)}
        assert written == options, command.name
        assert command.help.split("\n")[0][:40] in found[command.name].replace("`", "").replace("\\", "")


def test_the_page_on_commands_has_defaults_choices_and_variables():
    commands = hook("commands")

    def example(
        query: Annotated[str, typer.Argument(help="What to look for.")],
        order: Annotated[Literal["up", "down"], typer.Option(help="Of *all*, \\[a|b].", envvar="ORDER")] = "up",
        runs: Annotated[list[str] | None, typer.Option("--run", "-r", help="Runs.")] = None,
        sure: Annotated[bool, typer.Option("--sure", help="See --run.", rich_help_panel="More")] = False,
        limit: Annotated[int | None, typer.Option(help="At most.", show_default="none", rich_help_panel="More")] = None,
    ):
        """Example."""

    assert list(commands._lists(commands.parameters(example))) == [
        "**Arguments**\n\n- `QUERY` – What to look for.",
        "**Options**\n\n"
        "- `--order up|down` – Of \\*all\\*, \\[a\\|b\\]. You can also set `ORDER` in the environment. Default: `up`.\n"
        "- `--run TEXT`, `-r TEXT` – Runs.",
        "**More**\n\n- `--sure` – See `--run`.\n- `--limit INTEGER` – At most. Default: none.",
    ]


def test_the_page_on_commands_has_the_exit_codes():
    rows = dict(re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", page("cli.md"), re.MULTILINE))
    codes = {str(code): {kind.__name__ for kind in kinds} for kinds, code in running._EXIT_CODES}
    assert {code: set(re.findall(r"\w+Error", named)) for code, named in rows.items() if named.strip()} == codes
    assert {"0", "1", "130"} <= set(rows)


# -- HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    from sightline.serve.app import create_app

    index = Index.build(tmp_path_factory.mktemp("served") / "index", [Document("a", "Cats purr.")], encoder="none")
    with index:
        yield create_app(Searcher(index), api_key="0123456789abcdef")


def test_the_page_on_http_has_every_route_and_status(server):
    text = page("http.md")
    written = set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^`?]*)", text.split("## POST /search")[0]))
    routes = {
        (method, route.path.replace(":document", "")) for route in server.routes for method in route.methods - {"HEAD"}
    }
    assert written == routes
    listed = set(re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE))
    described = {
        code
        for path in server.openapi()["paths"].values()
        for operation in path.values()
        for code in operation["responses"]
    }
    assert described - {"200"} <= listed


def test_the_page_on_http_has_the_fields_of_every_body(server):
    from sightline.serve import schemas

    placed = set(re.findall(r"<!-- (?:request|answer) (\w+) -->", page("http.md")))
    parts = server.openapi()["components"]["schemas"]
    # An error is described by its one field, and counts by their names.
    assert placed == set(parts) - {"ErrorResponse", "IndexCounts"}
    routes = hook("routes")
    asked = routes.fields(schemas.SearchRequest, answered=False).splitlines()
    assert asked[0].startswith("- `query` (string, required)") and "default `10`" in asked[1]
    assert [re.match(r"- `(\w+)`", line)[1] for line in asked] == list(schemas.SearchRequest.model_fields)
    hit = routes.fields(schemas.SearchHit, answered=True)
    assert "- `relevance` (number, may be absent)" in hit and "required" not in hit


# -- environment -----------------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")


def variables(source):
    """The environment variables that a module reads."""
    if not re.search("environ|getenv|envvar", source):
        return set()
    nodes = list(ast.walk(ast.parse(source)))
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {text for text in texts if _VARIABLE.fullmatch(text)}
    asked = []
    for node in nodes:
        match node:
            case (
                ast.Call(ast.Attribute(ast.Attribute(attr="environ"), "get" | "setdefault"), args=[key, *_])
                | ast.Call(ast.Attribute(attr="getenv"), args=[key, *_])
                | ast.Subscript(ast.Attribute(attr="environ"), slice=key, ctx=ast.Load())
                | ast.Compare(left=key, comparators=[ast.Attribute(attr="environ")])
                | ast.keyword(arg="envvar", value=key)
            ):
                asked.append(key)
    if any(not isinstance(key, ast.Constant) for key in asked):
        return named  # by a name or an attribute, which one of the module's constants is
    return {key.value for key in asked}


def test_variables_are_found_however_they_are_read():
    assert variables("os.environ.get('A_B', 'C_D')\nos.environ['E_F']\n'G_H' in os.environ") == {"A_B", "E_F", "G_H"}
    assert variables("NAMES = ('A_B', 'C_D')\nfor name in NAMES: os.environ.get(name)") == {"A_B", "C_D"}
    assert variables("Option(envvar='A_B')\nos.environ['SET_ONLY'] = '1'\nos.environ.pop('GONE_NOW')") == {"A_B"}


def test_the_page_on_variables_has_every_variable_and_no_others():
    tables, _, others = page("environment.md").partition("## Read by other libraries")
    written = {
        name
        for row in re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE)
        for name in re.findall(rf"`({_VARIABLE.pattern})`", row)
    }
    read = set()
    for path in _ROOT.rglob("*.py"):
        parts = path.relative_to(_ROOT).parts
        if parts[0] in ("build", "docs") or any(part.startswith(".") for part in parts):
            continue
        found = variables(path.read_text(encoding="utf-8"))
        # Tests and benchmarks also set up processes of their own.
        own = parts[0] in ("tests", "benchmarks")
        read |= {name for name in found if name.startswith("SIGHTLINE_") or not own}
    assert written == read
    assert others


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_examples_on_the_page_of_formats_can_be_read(tmp_path):
    text = page("formats.md")

    def parsed(parse, content, name="file"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return parse(path)

    beir, trec, run, ranks = blocks(text, "text")
    assert parsed(parse_qrels, beir) == parsed(parse_qrels, trec) == {"q1": {"cats": 1}}
    assert parsed(load_run, run, "run.trec") == {"q1": {"cats": 15.204861233969535}}
    assert parsed(load_run, ranks, "run.tsv") == {"q1": {"cats": 1.0}}
    document, query, predictions, requests, examples = blocks(text, "json")
    (loaded,) = parsed(lambda path: list(sightline.load_documents(path)), document, "corpus.jsonl")
    assert loaded.id == "cats" and dict(loaded.metadata) == {"lang": "en", "year": 2024}
    assert parsed(parse_queries, query, "queries.jsonl") == {"q1": "who purrs"}
    for content, name in ((predictions, "run.json"), (requests, "run.jsonl")):
        assert parsed(load_run, content, name) == {"q1": {"cats": 15.2049}}
    (example,) = parsed(lambda path: list(parse_examples(path)), examples, "lists.jsonl")
    assert [one.text for one in example.positives] == ["Cats purr."] and len(example.teacher) == 2
    layout, heads = blocks(text, "yaml")
    assert parsed(load_layout, layout, "mine.yaml") == load_layout("minilm")
    assert parsed(Heads.load, heads).top(3) == ("1-2", "1-1", "0-1")


def test_the_page_of_formats_names_every_file_of_an_index(tmp_path):
    text = page("formats.md")
    with Index.build(tmp_path / "index", [Document("a", "Cats purr."), Document("b", "Dogs bark.")], faiss="IVF1,Flat"):
        pass
    files = {path.name for path in (tmp_path / "index").iterdir() if path.suffix != ".lock"}
    assert "documents.sqlite" in files and "states.int8" in files
    for name in files:
        general = re.sub(r"^vectors-\d+", "vectors-N", re.sub(r"^states\.int8$", "states.KIND", name))
        assert f"`{general}`" in text, name
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["format"] == FORMAT and f"the version of the format, now {FORMAT};" in text


def test_layouts_have_the_fields_that_the_page_of_formats_names():
    table = page("formats.md").split("## Layouts")[1].split("## Heads")[0]
    written = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) - {"base"}  # which a loaded layout has no more
    assert written == set(inspect.signature(sightline.Layout).parameters)
