"""What runs elsewhere fits what is here: workflows, the image, the compose file, forms and the citation."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import sightline
from sightline.names import StoreName

_ROOT = Path(sightline.__file__).parent
_GITHUB = _ROOT / ".github"
pytestmark = pytest.mark.skipif(not _GITHUB.exists(), reason="not a source tree")
_WORKFLOWS = ["ci", "docker", "docs", "release"]
_PINS = dict(re.findall(r"^([\w-]+)==([\w.]+)", (_ROOT / "constraints.txt").read_text(), re.MULTILINE))


def loaded(path):
    return yaml.safe_load((_ROOT / path).read_text(encoding="utf-8"))


def workflow(name):
    return loaded(f".github/workflows/{name}.yml")


def steps(name):
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def commands(name):
    return [step["run"] for step in steps(name) if "run" in step]


# -- workflows ---------------------------------------------------------------------------------------------------------


def test_every_workflow_is_looked_at():
    assert [path.stem for path in sorted((_GITHUB / "workflows").iterdir())] == _WORKFLOWS


@pytest.mark.parametrize("name", _WORKFLOWS)
def test_jobs_may_do_little_end_in_time_and_do_not_pile_up(name):
    whole = workflow(name)
    assert whole["permissions"] == {"contents": "read"} and "cancel-in-progress" in whole["concurrency"]
    for job in whole["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert {right for right, value in job.get("permissions", {}).items() if value == "write"} <= {
            "docker": {"packages"},
            "docs": {"pages", "id-token"},
            "release": {"id-token"},
        }.get(name, set())


@pytest.mark.parametrize("name", _WORKFLOWS)
def test_actions_are_pinned_and_checkouts_keep_no_credentials(name):
    uses = [step for step in steps(name) if "uses" in step]
    assert uses
    for step in uses:
        action, _, version = step["uses"].partition("@")
        assert re.fullmatch(r"v\d+", version) or (action, version) == ("pypa/gh-action-pypi-publish", "release/v1")
        if action == "actions/checkout":
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", _WORKFLOWS)
def test_nothing_of_a_pull_request_gets_into_a_command(name):
    assert not [command for command in commands(name) if "${{" in command]


@pytest.mark.parametrize("name", _WORKFLOWS)
def test_what_is_made_and_run_is_there(name):
    targets = set(re.findall(r"^([a-z]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(name):
        assert set(re.findall(r"\bmake ([a-z]+)", command)) <= targets
        paths = re.findall(r"(?<![\w./])tests/[\w./]+", command)
        assert all((_ROOT / path).exists() for path in paths), paths
        extras = set(re.findall(r"--extra (\S+)", command))
        assert extras <= set(tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert name not in ("ci", "docs") or any("make " in command for command in commands(name))


def test_every_python_that_is_claimed_is_tested():
    claimed = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (_ROOT / "pyproject.toml").read_text()))
    assert set(workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"]) == claimed


def test_a_release_is_published_by_trust_alone():
    build, publish = workflow("release")["jobs"].values()
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"]["name"] == "pypi"
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"} and "permissions" not in build
    assert "secrets" not in (_GITHUB / "workflows" / "release.yml").read_text()


# -- the image and the compose file ------------------------------------------------------------------------------------


def instructions():
    text = re.sub(r"\\\n", " ", (_ROOT / "Dockerfile").read_text())
    return [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_runs_without_root_and_checks_itself():
    image = instructions()
    last = image[max(i for i, (word, _) in enumerate(image) if word == "FROM") :]
    by_word = dict(last)
    assert int(by_word["USER"]) > 0 and last.index(["USER", by_word["USER"]]) < [word for word, _ in last].index(
        "ENTRYPOINT"
    )
    port = by_word["EXPOSE"]
    assert f"http://127.0.0.1:{port}/health" in by_word["HEALTHCHECK"]
    assert json.loads(by_word["ENTRYPOINT"]) == ["sightline", "serve", "--host", "0.0.0.0", "--port", port]
    compile(json.loads(by_word["HEALTHCHECK"].partition("CMD")[2])[2], "healthcheck", "exec")


def test_the_image_is_pinned_small_and_of_what_there_is():
    image = instructions()
    (python,) = {rest.partition("=")[2] for word, rest in image if word == "ARG" and rest.startswith("PYTHON=")}
    assert f"Programming Language :: Python :: {python}" in (_ROOT / "pyproject.toml").read_text()
    assert {rest.split()[0] for word, rest in image if word == "FROM"} == {"python:${PYTHON}-slim-bookworm"}
    runs = [rest for word, rest in image if word == "RUN"]
    assert all("-c constraints.txt" in run and "--mount=type=cache" in run for run in runs if "pip install" in run)
    assert any("https://download.pytorch.org/whl/cpu" in run for run in runs)
    (extras,) = [rest.partition("=")[2] for word, rest in image if rest.startswith("EXTRAS=")]
    there = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cpu", "serve", "qdrant"} <= set(extras.split(",")) <= set(there)


def test_the_image_is_built_from_all_that_the_wheel_needs():
    ignored = (_ROOT / ".dockerignore").read_text().split("\n")[1:]
    packages = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    needed = {package.split(".")[1] for package in packages if "." in package}
    needed |= {"README.md", "LICENSE", "MANIFEST.in", "constraints.txt", "pyproject.toml", "py.typed", "__init__.py"}
    assert needed & set(ignored) == set() and {".*", "**/__pycache__", "tests", "docs"} <= set(ignored)


def test_the_services_wait_for_a_healthy_qdrant_of_the_clients_version():
    services = loaded("compose.yaml")["services"]
    image, _, version = services["qdrant"]["image"].partition(":v")
    assert image == "qdrant/qdrant" and version.split(".")[:2] == _PINS["qdrant-client"].split(".")[:2]
    assert services["qdrant"]["healthcheck"]["test"] and "ports" not in services["qdrant"]
    volume = services["qdrant"]["volumes"][0].partition(":")[0]
    assert volume in loaded("compose.yaml")["volumes"]
    for name in ("index", "server"):
        assert services[name]["depends_on"] == {"qdrant": {"condition": "service_healthy"}}
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])


def test_what_is_indexed_is_served():
    services = loaded("compose.yaml")["services"]
    (indexed,) = [word for word in services["index"]["entrypoint"] if word.startswith("qdrant://")]
    assert services["server"]["command"][0] == indexed
    assert StoreName.parse(indexed) == StoreName("qdrant", "http://qdrant:6333", "documents")


def test_the_commands_of_the_files_have_these_options():
    from typer.main import get_command

    from sightline.cli import app

    services = loaded("compose.yaml")["services"]
    (entry,) = [json.loads(rest) for word, rest in instructions() if word == "ENTRYPOINT"]
    for program, name, *arguments in (services["index"]["entrypoint"], [*entry, *services["server"]["command"]]):
        command = get_command(app).commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert program == "sightline" and {word for word in arguments if word.startswith("--")} <= options


# -- monitoring --------------------------------------------------------------------------------------------------------


def test_every_metric_is_documented():
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    from sightline.serve.metrics import Metrics

    metrics = Metrics()
    metrics.watch_caches([])
    made = set(re.findall(r"^# TYPE (sightline_\w+?)(?:_total|_created)? ", metrics.page().decode(), re.MULTILINE))
    table = re.findall(r"^\| (`.*?) \|", (_ROOT / "docs" / "guides" / "monitor.md").read_text(), re.MULTILINE)
    assert (
        made == {name for row in table for name in re.findall(r"(sightline_\w+?)(?:_total)?`", row)} and len(made) > 5
    )


# -- forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_forms_of_issues(name):
    form = loaded(f".github/ISSUE_TEMPLATE/{name}.yml")
    fields = [field["id"] for field in form["body"]]
    assert form["name"] and form["description"] and len(fields) == len(set(fields))
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_a_bug_is_told_with_its_versions():
    text = (_GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text()
    assert "sightline --version" in text and "sightline info" in text and "SIGHTLINE_DEBUG=1" in text


def test_the_citation_names_the_papers_of_the_layouts():
    citation = loaded("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors", "type"} <= set(citation)
    papers = {paper["url"] for paper in citation["references"]}
    layouts = _ROOT / "data" / "layouts"
    texts = [(layouts / f"{name}.yaml").read_text() for name in ("blockrank", "core", "icr", "qrhead")]
    assert papers == {re.search(r"https://arxiv\.org/abs/[\d.]+", text)[0] for text in texts}
    assert all(paper["title"] and paper["authors"] and paper["year"] for paper in citation["references"])
