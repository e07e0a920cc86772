"""``--backend`` of every command that reads, and what is then said of who read."""

import importlib.util
import json

import pytest

from sightline.models.backends import ConvertedNetwork

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
_BY = ("--backend", "openvino")
_DOCUMENTS = {"cats": "Cats purr when they are content.", "dogs": "Dogs bark.", "iron": "Iron rusts in wet air."}


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "animals"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": id, "title": "", "text": text}) for id, text in _DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a content cat"}')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tcats\t1\n")
    return folder


def test_every_command_that_reads_takes_a_backend(run, beir, tmp_path):
    index, results = tmp_path / "index", tmp_path / "out"
    assert run("index", beir, "--out", index, *_BY)[0] == 0
    settings = json.loads(run("info", index, "--json")[1])["settings"]
    assert settings["token_states"]["backend"] == settings["encoder"]["backend"] == "openvino"
    found = {}
    for options in ((), _BY):
        code, out, _ = run("search", index, "a content cat", "--json", *options)
        found[options] = {hit["id"]: hit["score"] for hit in json.loads(out)["hits"]}
        assert code == 0 and next(iter(found[options])) == "cats"
    assert found[()] == pytest.approx(found[_BY], abs=1e-3)
    code, text, _ = run("bench", beir, "--systems", "dense,bm25+minilm", "--out", results, "--cost-queries", "1", *_BY)
    assert code == 0 and "read by openvino" in " ".join(text.split())
    written = json.loads((results / "results.json").read_text())
    assert written["cost"]["backend"] == written["index"]["settings"]["token_states"]["backend"] == "openvino"
    runs = ("--data", beir, "--run", results / "dense.trec", "--out", tmp_path / "again.trec")
    assert run("rerank", *runs, *_BY)[0] == 0
    code, _, err = run("rerank", *runs, "--rerank", "cross-encoder:nobody/model", *_BY)
    assert code == 2 and "has no option 'backend'" in err


def test_the_server_reads_by_a_backend(run, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn")
    testing = pytest.importorskip("fastapi.testclient")
    read, answers = [], []
    forward = ConvertedNetwork.forward

    def counted(network, *arguments, **options):
        read.append(network.backend)
        return forward(network, *arguments, **options)

    def ask(server, sockets):
        asked = {"query": "a content cat", "documents": list(_DOCUMENTS.values())}
        with testing.TestClient(server.config.app, base_url="http://localhost") as client:
            answers.append(client.post("/v1/rerank", json=asked).json()["results"][0]["index"])
        sockets[0].close()

    monkeypatch.setattr(ConvertedNetwork, "forward", counted)
    monkeypatch.setattr(uvicorn.Server, "run", ask)
    code, _, err = run("serve", "--port", "0", *_BY)
    assert code == 0, err
    assert answers == [0] and set(read) == {"openvino"}


def test_a_backend_that_there_is_not_is_refused(run, beir, tmp_path):
    code, _, err = run("index", beir, "--out", tmp_path / "index", "--backend", "openvno")
    assert code == 2 and "did you mean 'openvino'" in err and not (tmp_path / "index").exists()
