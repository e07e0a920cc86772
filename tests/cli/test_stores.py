"""The name of a store, wherever a command takes the directory of an index."""

import json

import pytest

pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")

TEXTS = {"cat": "Cats purr when they are content.", "dog": "Dogs bark at strangers.", "owl": "Owls hoot at night."}
WORDS_ONLY = ["--encoder", "none", "--token-states", "none"]


def lines(path, texts):
    path.write_text("".join(json.dumps({"_id": id, "text": text, "year": 2000}) + "\n" for id, text in texts.items()))
    return path


def test_commands_take_a_store(run, tmp_path):
    corpus, store = lines(tmp_path / "corpus.jsonl", TEXTS), f"qdrant-edge:{tmp_path / 'pets'}"
    code, out, said = run("index", corpus, "--store", store, *WORDS_ONLY, "--json")
    assert code == 0, said
    assert json.loads(out)["documents"] == 3 and json.loads(out)["bytes"] > 0
    assert "finished already" in "".join(run("index", corpus, "--store", store, *WORDS_ONLY)[1:])
    more = lines(tmp_path / "more.jsonl", {"cow": "Cows moo at dogs."})
    assert json.loads(run("add", store, more, "--json")[1])["written"] == 1
    assert run("add", store, more)[0] == 3  # it is there already
    code, out, _ = run("search", store, "dogs", "--rerank", "none", "--where", "year>=2000", "--json")
    assert code == 0 and {hit["id"] for hit in json.loads(out)["hits"]} == {"dog", "cow"}
    assert json.loads(run("delete", store, "dog", "--json")[1])["documents"] == 3
    code, out, _ = run("info", store)
    assert code == 0 and "3 documents" in out and "lexical: engine qdrant" in out


def test_a_folder_is_copied_into_a_store(run, tmp_path):
    corpus, store = lines(tmp_path / "corpus.jsonl", TEXTS), f"qdrant-edge:{tmp_path / 'pets'}"
    assert run("index", corpus, "--out", tmp_path / "index", *WORDS_ONLY)[0] == 0
    assert json.loads(run("copy", tmp_path / "index", store, "--json")[1])["copied"] == 3
    found = [
        json.loads(run("search", place, "dogs", "--rerank", "none", "--json")[1])["hits"]
        for place in (tmp_path / "index", store)
    ]
    assert [hit["id"] for hit in found[0]] == [hit["id"] for hit in found[1]] == ["dog"]
    assert found[0][0]["score"] == pytest.approx(found[1][0]["score"], rel=1e-6)
    snapshot = tmp_path / "snapshot"  # and back
    assert json.loads(run("copy", store, snapshot, "--json")[1])["copied"] == 3
    code, _, said = run("copy", store, snapshot)
    assert code != 0 and "there is an index here already" in said
    assert run("copy", tmp_path / "index", snapshot, "--overwrite")[0] == 0
    assert "3 documents" in run("info", snapshot)[1]


def test_an_index_has_one_place(run, tmp_path):
    corpus = lines(tmp_path / "corpus.jsonl", TEXTS)
    for place in ([], ["--out", tmp_path / "index", "--store", "qdrant-edge:x"]):
        code, _, said = run("index", corpus, *place)
        assert code != 0 and "--store" in said
    assert "named qdrant://HOST:PORT/COLLECTION" in run("search", "qdrant://localhost", "dogs")[2]
