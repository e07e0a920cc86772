"""Names in every command: rerankers of every kind, and collections of catalogues."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import catalogues
from sightline.eval.runs import load_run
from sightline.rerank.loading import list_rerankers, load_reranker
from sightline.search import Searcher
from sightline.tests.rerank_api import as_json

DOCUMENTS = [
    Document("cat", "Cats purr.", "Cats"),
    Document("dog", "Dogs bark at strangers."),
    Document("iron", "Rust."),
]
KINDS = ["cross-encoder", "late-interaction", "remote"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    from sightline.retrieval.index import Index

    path = tmp_path_factory.mktemp("names") / "index"
    Index.build(path, DOCUMENTS, token_states="none").close()
    return path


@pytest.fixture
def model_names(scorer_folders, rerank_api):
    """A reranker's name, by its kind."""
    return {**{kind: f"{kind}:{folder}" for kind, folder in scorer_folders.items()}, "remote": rerank_api.name()}


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names") / "zoo"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": document.id, "title": document.title, "text": document.text} for document in DOCUMENTS]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "happy cats"}\n')
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tcat\t1\n")
    (folder / "given.trec").write_text("q1 Q0 dog 1 3 x\nq1 Q0 cat 2 2 x\nq1 Q0 iron 3 1 x\n")
    return folder


def test_the_rerankers_that_there_are_are_listed(run):
    code, out, _ = run("rerankers", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [reranker["name"] for reranker in listed] == [reranker.name for reranker in list_rerankers()]
    assert set(listed[0]) == {"name", "layout", "description", "evidence"}
    code, out, _ = run("rerankers")
    assert code == 0 and all(f" {reranker['name']} " in out and reranker["description"] in out for reranker in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_search_reranks_by_every_kind_of_model(run, index, model_names, kind):
    name = model_names[kind]
    code, out, err = run("search", index, "happy cats", "--rerank", name, "--json")
    assert code == 0, err
    answer = json.loads(out)
    alone = load_reranker(name).rank("happy cats", DOCUMENTS)
    attends = kind not in ("cross-encoder", "remote")
    assert answer["reranker"] == name and all((hit["mass"] is not None) == attends for hit in answer["hits"])
    assert [hit["id"] for hit in answer["hits"]] == [item.document.id for item in alone]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx([item.score for item in alone], abs=1e-5)
    code, out, _ = run("search", index, "happy cats", "--rerank", name)
    assert code == 0 and ("attention" in out) == attends
    code, _, err = run("search", index, "happy cats", "--rerank", name, "--evidence")
    assert code == 0 if attends else code == 2 and "has no evidence" in err


def test_a_rerank_api_that_fails_is_told_without_the_key(run, index, rerank_api, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_REMOTE_KEY", "a-key-that-nobody-may-see")
    rerank_api.replies = [as_json({"message": "invalid a-key-that-nobody-may-see"}, 401)]
    code, out, err = run("search", index, "happy cats", "--rerank", rerank_api.name())
    assert code == 5 and out == "" and "nobody-may-see" not in err
    assert "does not accept the key (401), which the environment variable SIGHTLINE_REMOTE_KEY holds" in err
    secret = rerank_api.name().replace("127", "ann:secret@127")
    code, _, err = run("search", index, "happy cats", "--rerank", secret)
    assert code == 2 and "secret" not in err and "set a key as SIGHTLINE_REMOTE_KEY" in err


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_reranked_by_every_kind_of_model(run, beir, tmp_path, model_names, kind):
    name, out = model_names[kind], tmp_path / "out.json"
    code, said, err = run(
        "rerank", "--data", beir, "--run", beir / "given.trec", "--out", out, "--rerank", name, "--json"
    )
    assert code == 0, err
    assert json.loads(said)["reranker"] == name
    ranked = load_run(out)["q1"]
    alone = load_reranker(name).rank("happy cats", DOCUMENTS)
    assert sorted(ranked, key=ranked.get, reverse=True) == [item.document.id for item in alone]


def test_systems_of_every_kind_are_evaluated_measured_and_mined(run, beir, tmp_path, model_names):
    kinds = ["cross-encoder", "remote"]
    names = [model_names[kind] for kind in kinds]
    systems = ",".join(f"bm25+{name}" for name in names)
    expected = [f"bm25+{kind}" for kind in kinds]
    code, out, err = run("eval", beir, "--systems", systems, "--out", tmp_path / "eval", "--json")
    assert code == 0, err
    assert [system.partition(":")[0] for system in json.loads(out)["systems"]] == expected
    code, out, err = run("bench", beir, "--systems", systems, "--out", tmp_path / "cost", "--json")
    assert code == 0, err
    assert [system.partition(":")[0] for system in json.loads(out)["cost"]["systems"]] == expected
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"first_stages: [bm25]\nrerankers: {json.dumps(names)}\ncollections: [{{folder: {beir.name}}}]\n")
    code, out, err = run("matrix", beir.parent, "--plan", plan, "--out", tmp_path / "matrix", "--json")
    assert code == 0, err
    assert [each.partition(":")[0] for each in json.loads(out)[0]["systems"]] == ["bm25", *expected]
    for name in names:
        hard = tmp_path / "hard.jsonl"
        code, out, err = run("mine", beir, "--system", f"dense+{name}", "--no-margin", "--out", hard, "--json")
        assert code == 0, err
        assert json.loads(out)["lists"] == 1 and len(json.loads(hard.read_text())["neg"]) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_bias_of_every_kind_of_model(run, beir, tmp_path, model_names, kind):
    arguments = ["--systems", f"dense+{model_names[kind]}", "--kind", "order", "--permutations", 3]
    code, out, err = run("bias", beir, *arguments, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    [order] = json.loads(out)["order"]
    assert order["system"].startswith(f"dense+{kind}:") and order["tau"]["mean"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_reranks_by_every_kind_of_model(model_names, kind):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    name = model_names[kind]
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "serve", "--port", "0", "--rerank", name]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        said = re.match(r"(http://127\.0\.0\.1:\d+)  reranking by (.*); Ctrl-C stops it", server.stdout.readline())
        assert said and said[2] == name
        texts = [document.contents for document in DOCUMENTS]
        body = json.dumps({"query": "happy cats", "documents": texts}).encode()
        request = urllib.request.Request(f"{said[1]}/rerank", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            places = [result["index"] for result in json.load(answer)["results"]]
        ending = "" if load_reranker(name).calibration else "#raw"
        paths = [f"{path}{ending}" for path in ("/rerank", f"/v1/rerank/{name}", f"/v2/rerank/{name}")]
        rankings = [load_reranker(f"remote:{said[1]}{path}").rank("happy cats", texts) for path in paths]
    finally:
        server.kill()
        server.communicate()
    alone = load_reranker(name).rank("happy cats", texts)
    assert places == [item.index for item in alone]
    for ranking in rankings:  # the server itself as a rerank API
        assert [item.index for item in ranking] == places
        assert [item.score for item in ranking] == pytest.approx([item.score for item in alone], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_mcp_takes_every_kind_of_model(run, index, model_names, monkeypatch, kind):
    mcp = pytest.importorskip("sightline.integrations.mcp", reason="needs the extra mcp")
    seen = []

    class Server:
        def run(self, transport):
            seen.append(transport)

    monkeypatch.setattr(mcp, "mcp_server", lambda searcher, min_score: seen.append(searcher) or Server())
    name = model_names[kind]
    code, _, err = run("mcp", index, "--rerank", name, "--first-stage", "bm25")
    assert code == 0, err
    searcher, transport = seen
    assert isinstance(searcher, Searcher) and transport == "stdio"
    assert (searcher.reranker.name, searcher.first_stage) == (name, "bm25")


# -- collections of catalogues -----------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(monkeypatch):
    """The catalogue nano with one collection, and what was asked of it."""
    names = []

    def corpus(name):
        names.append(name)
        if name != "Zoo":
            raise InputError(f"NanoBEIR has no {name!r}; there are Zoo")
        return iter(DOCUMENTS)

    monkeypatch.setitem(catalogues._CORPORA, "nano", corpus)
    return names


def test_a_collection_of_a_catalogue_is_indexed_and_added(run, catalogue, tmp_path):
    code, out, err = run("index", "nano:Zoo", "--out", tmp_path / "made", "--token-states", "none", "--json")
    assert (code, err) == (0, "") and json.loads(out)["documents"] == 3
    assert (
        json.loads(run("search", tmp_path / "made", "cats", "--rerank", "none", "--json")[1])["hits"][0]["id"] == "cat"
    )
    code, out, _ = run("add", tmp_path / "made", "nano:Zoo", "--update", "--json")
    assert code == 0 and json.loads(out)["written"] == 0, "they are there already, and as they were"
    assert catalogue == ["Zoo", "Zoo"]


def test_a_name_that_a_catalogue_does_not_have_is_told_and_nothing_is_made(run, catalogue, tmp_path):
    code, _, err = run("index", "nano:Zoe", "--out", tmp_path / "made")
    assert code == 2 and "NanoBEIR has no 'Zoe'; there are Zoo" in err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("ir:x/y", "ir_datasets", "datasets"), ("nano:X", "datasets", "datasets"), ("mteb:X", "mteb", "mteb")],
)
def test_index_names_the_extra_that_a_catalogue_needs(run, tmp_path, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("index", name, "--out", tmp_path / "made")
    assert code == 5 and f"pip install 'sightline-search[{extra}]'" in err


@pytest.mark.parametrize(
    "option", [("--format", "jsonl"), ("--id-field", "id"), ("--csv-types", "text"), ("--strict",)]
)
def test_options_for_files_are_refused_for_a_collection_of_a_catalogue(run, catalogue, tmp_path, option):
    code, _, err = run("index", "nano:Zoo", "--out", tmp_path / "made", *option)
    assert code == 2 and f"{option[0]} is for files, and nano:Zoo is a collection of a catalogue" in err
    assert not Path(tmp_path / "made").exists()
