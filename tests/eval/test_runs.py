"""Runs in every file they come in."""

import json
from pathlib import Path

import pytest

from sightline.documents import Document
from sightline.eval.dataset import Dataset
from sightline.eval.runs import load_run, save_run

DOCUMENTS = [Document("a", "Alpha."), Document("b", "Beta.")]
DATASET = Dataset("zoo", "dev", Path("zoo"), {"q": "what"}, {"q": {"a": 1}}, corpus=lambda: DOCUMENTS)
RUN = {"q": {"b": 2.0, "a": 0.5}}


@pytest.mark.parametrize("name", ["run.trec", "run.txt", "run", "run.json", "run.jsonl"])
def test_what_is_saved_loads(tmp_path, name):
    save_run(tmp_path / name, RUN, "my run", DATASET)
    assert load_run(tmp_path / name) == load_run(tmp_path / name, "dev") == RUN


def test_msmarco_keeps_the_order_only(tmp_path):
    save_run(tmp_path / "run.tsv", RUN, "mine", DATASET)
    assert (tmp_path / "run.tsv").read_text() == "q\tb\t1\nq\ta\t2\n"
    assert load_run(tmp_path / "run.tsv") == {"q": {"b": 1.0, "a": 0.5}}


def test_each_format_has_what_it_is_for(tmp_path):
    for name in ("run.trec", "run.json", "run.jsonl"):
        save_run(tmp_path / name, RUN, "my run", DATASET)
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "q Q0 b 1 2.0 my_run"
    predictions = json.loads((tmp_path / "run.json").read_text())
    assert predictions == {"mteb_model_meta": {"model_name": "my run", "revision": None}, "default": {"dev": RUN}}
    request = json.loads((tmp_path / "run.jsonl").read_text())
    assert request["candidates"][0] == {"docid": "b", "score": 2.0, "doc": {"text": "Beta."}}


def test_what_pyserini_writes_is_read(tmp_path):
    # Its formats since 0.22: ``{qid} Q0 {docid} {rank} {score:.6f} {tag}`` and ``{qid}\t{docid}\t{rank}``.
    (tmp_path / "run.trec").write_text("264014 Q0 7067032 1 11.234500 Anserini\n264014 Q0 96854 2 11.234500 Anserini\n")
    assert load_run(tmp_path / "run.trec") == {"264014": {"96854": 11.2345, "7067032": 11.2345}}
    assert list(load_run(tmp_path / "run.trec")["264014"]) == ["96854", "7067032"]
    (tmp_path / "run.msmarco").write_text("264014\t7067032\t1\n264014\t96854\t2\n")
    assert list(load_run(tmp_path / "run.msmarco")["264014"]) == ["7067032", "96854"]
