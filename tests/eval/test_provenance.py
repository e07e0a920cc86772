"""Where results come from, without where they were made."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sightline.eval.loading import load_dataset
from sightline.eval.provenance import (
    dataset_hashes,
    git_revision,
    hardware,
    hash_of,
    portable_command,
    portable_name,
    versions,
)

from .test_experiment import make


def test_no_folder_of_the_machine_stays():
    command = ["/home/ann/bin/sightline", "eval", "/data/my set", "--out=/tmp/x/out", "--run", "a=/r/a.trec", "data/nq"]
    assert portable_command(command) == "sightline eval 'my set' --out=out --run a=a.trec data/nq"
    assert portable_name("dense+/home/ann/hot.yaml") == "dense+hot.yaml"
    assert portable_name("bm25+hf:/models/tiny#/home/ann/icr.yaml") == "bm25+hf:tiny#icr.yaml"
    assert portable_name("http://host/path") == "http://host/path" and portable_name("/") == "/"


@given(st.lists(st.from_regex(r"/home/[a-z]+/[a-z=,+]+", fullmatch=True), min_size=1))
def test_no_home_stays(paths):
    assert "/home" not in portable_command(["sightline", *paths])


def test_hashes_follow_contents(tmp_path):
    first, second = load_dataset(make(tmp_path / "one")), load_dataset(make(tmp_path / "two"))
    assert dataset_hashes(first) == dataset_hashes(second)
    assert set(dataset_hashes(first).files) == {"corpus.jsonl", "queries.jsonl", "qrels/test.tsv"}
    with (tmp_path / "two" / "corpus.jsonl").open("a") as file:
        file.write("\n")
    changed = dataset_hashes(second)
    assert changed.files["corpus.jsonl"] != dataset_hashes(first).files["corpus.jsonl"]
    assert changed.qrels == dataset_hashes(first).qrels
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1}) != hash_of({"a": 1, "b": 3})


def test_the_machine_and_the_versions():
    machine = hardware()
    assert machine["cores"] >= 1 and machine["machine"] and (machine["memory_bytes"] or 1) > 0
    assert {"python", "torch", "numpy"} <= set(versions())
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("+changes")) == 40
    assert str(Path.home()) not in json.dumps([machine, versions(), revision])
