"""Whatever is typed, and wherever it is printed: one message, never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from sightline.cli import app

LONG = "a" * 300
NUL = "a\0b"

# What each command needs; PATH stands for the path under test, {tmp} for a folder.
CALLS = {
    "index corpus": ["index", "PATH", "--out", "{tmp}/made"],
    "index out": ["index", "{corpus}", "--out", "PATH"],
    "add index": ["add", "PATH", "{corpus}"],
    "add corpus": ["add", "{index}", "PATH"],
    "delete": ["delete", "PATH", "a"],
    "info": ["info", "PATH"],
    "search": ["search", "PATH", "cats"],
    "rerank data": ["rerank", "--data", "PATH", "--run", "{corpus}", "--out", "{tmp}/run.trec"],
    "rerank run": ["rerank", "--data", "{beir}", "--run", "PATH", "--out", "{tmp}/run.trec"],
    "rerank requests": ["rerank", "--requests", "PATH", "--out", "{tmp}/run.trec"],
    "eval": ["eval", "PATH", "--systems", "bm25", "--out", "{tmp}/out"],
    "eval index": ["eval", "{beir}", "--systems", "dense", "--index", "PATH", "--out", "{tmp}/out"],
    "eval run": ["eval", "{beir}", "--systems", "x", "--run", "x=PATH", "--out", "{tmp}/out"],
    "bias": ["bias", "PATH", "--systems", "bm25", "--out", "{tmp}/out"],
    "calibrate": ["calibrate", "minilm", "PATH"],
    "calibrate work": ["calibrate", "minilm", "{beir}", "--work", "PATH"],
    "calibrate out": ["calibrate", "minilm", "{beir}", "--out", "PATH"],
    "matrix": ["matrix", "PATH", "--plan", "{beir}/plan.yaml", "--out", "{tmp}/out"],
    "matrix plan": ["matrix", "{beir}", "--plan", "PATH", "--out", "{tmp}/out"],
    "bench": ["bench", "PATH", "--systems", "bm25", "--out", "{tmp}/out"],
    "report": ["report", "PATH"],
    "heads data": ["heads", "nobody/nothing", "--data", "PATH"],
    "mine": ["mine", "PATH", "--system", "bm25", "--out", "{tmp}/hard.jsonl"],
    "train": ["train", "minilm", "PATH", "--out", "{tmp}/out", "--steps", "1"],
    "train dev": ["train", "minilm", "{beir}:test", "--dev", "PATH", "--out", "{tmp}/out", "--steps", "1"],
    "serve": ["serve", "PATH", "--port", "0"],
    "mcp": ["mcp", "PATH"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    from sightline import Document, Index

    folder = tmp_path_factory.mktemp("hostile")
    corpus = folder / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "Café 日本 🍕."}\n{"_id": "b", "text": "Dogs bark."}\n')
    Index.build(folder / "index", [Document("a", "Café 日本 🍕."), Document("b", "Dogs bark.")]).close()
    beir = folder / "zoo"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl").write_text(corpus.read_text())
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "barking dogs"}\n')
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tb\t1\n")
    (beir / "plan.yaml").write_text("first_stages: [bm25]\nrerankers: []\ncollections: [{folder: none}]\n")
    (folder / "bytes").write_bytes(bytes(range(256)))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("hostile", ["long", "nul", "missing", "file", "bytes", "empty folder", "below a file"])
@pytest.mark.parametrize("call", CALLS)
def test_no_path_ends_in_a_traceback(run, places, tmp_path, monkeypatch, call, hostile):
    monkeypatch.delenv("SIGHTLINE_DEBUG", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = {
        "long": LONG,
        "nul": NUL,
        "missing": str(tmp_path / "nowhere"),
        "file": str(places / "corpus.jsonl"),
        "bytes": str(places / "bytes"),
        "empty folder": str(places / "empty"),
        "below a file": str(places / "bytes" / "x"),
    }[hostile]
    if (call, hostile) in {
        ("index corpus", "file"),
        ("add corpus", "file"),
        ("index out", "missing"),
        ("index out", "empty folder"),
        ("calibrate work", "missing"),
        ("calibrate work", "empty folder"),
    }:
        pytest.skip("this is no error")
    known = {"tmp": tmp_path, "corpus": places / "corpus.jsonl", "index": places / "index", "beir": places / "zoo"}
    code, _, err = run(*(part.replace("PATH", path).format_map(known) for part in CALLS[call]))
    assert code in range(1, 6), err
    assert err.strip() and "unexpected" not in err and "Traceback" not in err


@pytest.mark.parametrize("command", get_command(app).commands)
def test_every_command_has_the_short_help_and_claims_json_only_where_it_has_it(run, command):
    code, out, _ = run(command, "-h")
    assert code == 0 and "Usage: sightline" in " ".join(out.split())
    assert ("--json" in out) == (command not in ("serve", "mcp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_no_fault_of_sightline():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sightline", "rerankers"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    said = "error: the output, or a temporary file, cannot be written: No space left on device"
    assert (done.returncode, " ".join(done.stderr.split())) == (1, said)


def test_the_version_is_told(run):
    import sightline

    assert run("--version")[:2] == (0, f"sightline {sightline.__version__}\n")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["serch"], "search"),
        (["search", "x", "y", "--reranker", "none"], "--rerank"),
        (["search", "x", "y", "--first-stage", "dens"], "did you mean 'dense'"),
        (["search", "x", "y", "--evidence-grain", "tokens"], "did you mean 'token'"),
        (["search", "{near}", "y"], "index'?"),
        (["info", "{near}"], "index'?"),
    ],
)
def test_what_was_meant_is_suggested(run, places, typed, meant):
    code, _, err = run(*(part.format(near=places / "indx") for part in typed))
    assert code in (2, 4) and meant in " ".join(err.replace("│", "").split())


def sightline(*arguments, **options):
    command = [sys.executable, "-m", "sightline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


@pytest.mark.parametrize("coding", ["ascii", "cp1252"])
def test_any_output_encoding_prints_and_json_stays_json(places, coding):
    env = {**os.environ, "PYTHONIOENCODING": coding}
    arguments = ["search", places / "index", "pizza", "--rerank", "none"]
    if coding == "cp1252":  # each way of printing in one encoding: a process takes seconds
        plain = sightline(*arguments, env=env)
        assert plain.returncode == 0 and not plain.stderr and b"Caf" in plain.stdout
        return
    answer = json.loads(sightline(*arguments, "--json", env=env).stdout.decode(coding))
    assert "Café 日本 🍕." in {hit["text"] for hit in answer["hits"]}


def test_a_reader_that_goes_away_and_closed_streams_are_no_traceback(places):
    command = f"{sys.executable} -m sightline info {places / 'index'}"
    for ending in ("| true", "--json | head -n 1", ">&- <&-", ">&- 2>&- <&-"):
        done = subprocess.run(["bash", "-c", f"{command} {ending}"], capture_output=True, timeout=120)
        assert done.returncode == 0 and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, (
            ending
        )


def test_an_unexpected_error_is_told_with_the_way_to_its_traceback(run, places, monkeypatch):
    from sightline.retrieval.index import Index

    def fail(*arguments, **options):
        raise ZeroDivisionError("of the test")

    monkeypatch.setattr(Index, "open", fail)
    monkeypatch.delenv("SIGHTLINE_DEBUG", raising=False)
    code, _, err = run("info", places / "index")
    assert code == 1 and "unexpected ZeroDivisionError: of the test" in err and "SIGHTLINE_DEBUG=1" in err
    monkeypatch.setattr(sys, "argv", ["sightline", "--debug", "info", str(places / "index")])
    from sightline import cli

    with pytest.raises(ZeroDivisionError):
        cli.main()
