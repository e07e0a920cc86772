"""Judged collections in BEIR layout."""

import gzip
import json

import pytest

from sightline.errors import DataError, InputError
from sightline.eval.loading import load_dataset

FILES = {
    "corpus.jsonl": [{"_id": f"d{i}", "title": f"T{i}", "text": f"text {i}"} for i in range(4)],
    "queries.jsonl": [{"_id": f"q{i}", "text": f"query {i}"} for i in range(4)],
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mini"
    (folder / "qrels").mkdir(parents=True)
    for name, records in FILES.items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\nq0\td0\t2\nq2\td3\t0\n")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return folder


def test_only_judged_queries_in_the_order_of_the_judgements(folder):
    dataset = load_dataset(folder)
    assert (dataset.name, dataset.split) == ("mini", "test")
    assert list(dataset.queries.items()) == [("q2", "query 2"), ("q0", "query 0")]
    assert dataset.qrels == {"q2": {"d1": 1, "d3": 0}, "q0": {"d0": 2}}


def test_another_split(folder):
    assert list(load_dataset(folder, "dev").queries) == ["q1"]


def test_the_corpus_streams_whole_or_in_part(folder):
    dataset = load_dataset(folder)
    assert [d.id for d in dataset.documents()] == ["d0", "d1", "d2", "d3"]
    assert [(d.id, d.title) for d in dataset.documents(only={"d2", "absent"})] == [("d2", "T2")]


def test_the_name_is_the_folders_even_of_a_relative_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_dataset(".").name == "mini"


def test_max_queries_keeps_the_first(folder):
    dataset = load_dataset(folder, max_queries=1)
    assert list(dataset.queries) == list(dataset.qrels) == ["q2"]
    assert len(load_dataset(folder, max_queries=99).queries) == 2
    with pytest.raises(InputError, match="max_queries"):
        load_dataset(folder, max_queries=0)


def test_other_judgements_replace_the_grades_and_keep_the_queries(folder):
    (folder / "deep.txt").write_text("q2 0 d0 3\nq9 0 d1 1\n")
    dataset = load_dataset(folder, qrels=folder / "deep.txt")
    assert list(dataset.queries) == ["q2", "q0"]
    assert dataset.qrels == {"q2": {"d0": 3}, "q0": {}}


def test_other_judgements_of_other_queries_are_refused(folder):
    (folder / "deep.txt").write_text("q9 0 d1 1\n")
    with pytest.raises(DataError, match=r"deep.txt: judges none of the 2 queries"):
        load_dataset(folder, qrels=folder / "deep.txt")


def test_a_missing_split_is_told_with_those_there_are(folder):
    with pytest.raises(DataError, match=r"train.tsv.*dev, test"):
        load_dataset(folder, "train")


def test_a_judged_query_without_text_is_named(folder):
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q77\td1\t1\n")
    with pytest.raises(DataError, match="'q77'"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load_dataset(folder)


def test_a_folder_that_is_not_there_is_said_not_to_be(folder, tmp_path):
    for name, said in (
        ("mimi", "no such folder; did you mean .*mini"),
        ("scifact", "no such folder; ir:beir/scifact/test fetches"),
        ("data/nfcorpuss", "no such folder; ir:beir/nfcorpus/test fetches"),
        ("elsewhere", "elsewhere: no such folder$"),
    ):
        with pytest.raises(DataError, match=said):
            load_dataset(tmp_path / name)
    with pytest.raises(DataError, match=r"no catalogue 'beir'; there are ir:, mteb: and nano:"):
        load_dataset("beir:scifact")
    with pytest.raises(DataError, match="a file, not a folder"):
        load_dataset(folder / "corpus.jsonl")


@pytest.mark.parametrize(("file", "said"), [("corpus.jsonl", "no corpus"), ("queries.jsonl", "no queries")])
def test_a_part_that_is_missing_is_named(folder, file, said):
    (folder / file).unlink()
    with pytest.raises(DataError, match=rf"mini: this folder has {said}; a collection has corpus.jsonl"):
        load_dataset(folder)


def test_the_splits_that_there_are_are_named(folder):
    (folder / "qrels" / "train.txt").write_text("q3 0 d1 1\n")
    with pytest.raises(DataError, match=r"no judgements for the split 'x'; splits there: dev, test, train"):
        load_dataset(folder, "x")
    assert load_dataset(folder, "train").qrels == {"q3": {"d1": 1}}


def test_a_folder_of_ms_marco_is_read(tmp_path):
    (tmp_path / "collection.tsv").write_text("7\tcats purr\n8\tdogs bark\n")
    (tmp_path / "queries.dev.tsv").write_text("1\twhat do cats do\n2\twhat do dogs do\n3\tnever judged\n")
    (tmp_path / "qrels.dev.tsv").write_text("1\t0\t7\t1\n2\t0\t8\t1\n")
    dataset = load_dataset(tmp_path, "dev")
    assert dataset.queries == {"1": "what do cats do", "2": "what do dogs do"}
    assert dataset.qrels == {"1": {"7": 1}, "2": {"8": 1}}
    assert [(d.id, d.title, d.text) for d in dataset.documents()] == [("7", "", "cats purr"), ("8", "", "dogs bark")]
    with pytest.raises(DataError, match="splits there: dev"):
        load_dataset(tmp_path)
    (tmp_path / "collection.tsv").write_text("D7\thttp://x\tCats\tThey purr.\nD8\tDogs\tThey bark.\n")
    assert [(d.title, d.text) for d in dataset.documents()] == [("Cats", "They purr."), ("Dogs", "They bark.")]
    (tmp_path / "collection.tsv").write_text("7\n")
    with pytest.raises(DataError, match=r"collection.tsv:1: a line must have 2 to 4 columns"):
        list(dataset.documents())


def test_compressed_parts_are_read(folder):
    before = load_dataset(folder)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    after = load_dataset(folder)
    assert (after.queries, after.qrels) == (before.queries, before.qrels)
    assert [document.id for document in after.documents()] == ["d0", "d1", "d2", "d3"]
