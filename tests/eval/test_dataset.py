"""Judged collections in BEIR layout."""

import json

import pytest

from sightline.errors import DataError, InputError
from sightline.eval.dataset import load_dataset

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
