"""Exact search without FAISS: what torch finds is what FAISS finds, and either engine opens what the other built."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.retrieval import torch_index
from sightline.retrieval.faiss_index import FaissIndex
from sightline.retrieval.index import Index
from sightline.retrieval.torch_index import TorchIndex


def vectors(rows, dim=24, seed=3):
    made = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(torch_index, "_ROWS_AT_ONCE", 64)


@pytest.mark.parametrize("share", [None, 0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 10, 100, 5000])
def test_finds_what_faiss_finds(k, share, small_chunks):
    stored, queries = vectors(1000), vectors(70, seed=4)
    allowed = None if share is None else np.random.default_rng(5).random(1000) < share
    rows, scores = TorchIndex(stored).search(queries, k, allowed)
    expected, expected_scores = FaissIndex(stored).search(queries, k, allowed)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert rows.dtype == expected.dtype and scores.dtype == expected_scores.dtype


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_equal_vectors_come_in_the_order_of_their_rows(rows, length, small_chunks):
    stored = np.repeat(vectors(5), rows // 5 + 1, axis=0)[:rows][np.random.default_rng(6).permutation(rows)] * length
    queries = vectors(33, seed=7)
    nearest, scores = TorchIndex(stored).search(queries, 300)
    for query, row, score in zip(queries, nearest, scores, strict=True):
        exact = np.array([np.float32(np.dot(query.astype(np.float64), vector)) for vector in stored])
        order = np.lexsort((np.arange(rows), -exact))[:300]
        np.testing.assert_array_equal(row, order)
        np.testing.assert_allclose(score, exact[order], rtol=1e-6)


def test_fewer_than_k_allowed_rows_leave_the_tail_empty(small_chunks):
    allowed = np.zeros(200, dtype=bool)
    allowed[[3, 150]] = True
    rows, scores = TorchIndex(vectors(200)).search(vectors(1, seed=4), 4, allowed)
    assert set(rows[0, :2]) == {3, 150} and rows[0, 2:].tolist() == [-1, -1]
    assert np.isneginf(scores[0, 2:]).all()


@pytest.mark.parametrize("engine", [TorchIndex, FaissIndex])
@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.zeros((1, 23)), 1, r"queries must be \(Q, 24\), not \(1, 23\)"),
        (np.full((1, 24), np.nan), 1, "NaN or infinity"),
        (np.zeros((1, 24)), 0, "k must be at least 1, not 0"),
    ],
)
def test_both_engines_refuse_the_same(engine, queries, k, message):
    with pytest.raises(InputError, match=message):
        engine(vectors(5)).search(queries, k)


@pytest.mark.parametrize("engine", [TorchIndex, FaissIndex])
def test_no_rows_and_no_queries_find_nothing(engine):
    assert engine(vectors(0)).search(vectors(2), 3)[0].shape == (2, 0)
    assert engine(vectors(5)).search(vectors(0), 3)[0].shape == (0, 3)


# Another process, for which FAISS is not installed.
_WITHOUT_FAISS = """
import importlib.util, json, sys
sys.modules["faiss"] = None  # so that importing it raises ImportError

from sightline.documents import Document
from sightline.errors import MissingExtraError
from sightline.retrieval.index import Index

folder, conftest = sys.argv[1:]
spec = importlib.util.spec_from_file_location("toys", conftest)
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
toy = toys.ToyEncoder()
document = lambda number: Document(f"d{number}", f"common word{number}.", metadata={"even": number % 2 == 0})
search = lambda index, query, where=None: index.search_dense([query], 3, where)[0][0].tolist()

said = {}
with Index.open(folder + "/theirs", encoder=toy) as theirs:
    said["theirs"] = search(theirs, "common word7")
    theirs.add([document(30)])
with Index.build(folder + "/ours", map(document, range(20)), encoder=toy) as index:
    said["built"] = search(index, "common word7")
    said["filtered"] = search(index, "common word7", {"even": True})
with Index.open(folder + "/ours", encoder=toy) as index:
    index.verify()
    said["reopened"] = search(index, "common word7")
    index.update([Document("d7", document(7).text), document(20)])
    said["updated"] = search(index, "common word7")
    index.delete(["d7"])
    said["deleted"] = search(index, "common word7")
    said["engine"] = index.manifest.faiss.version
try:
    Index.create(folder + "/hnsw", encoder=toy, faiss="HNSW8")
except MissingExtraError as error:
    said["hnsw"] = str(error)
try:
    Index.open(folder + "/structured", encoder=toy).search_dense(["common"], 1)
except MissingExtraError as error:
    said["structured"] = str(error)
print(json.dumps(said))
"""


def test_an_index_lives_without_faiss_and_changes_hands_with_it(tmp_path, toy):
    def document(number):
        return Document(f"d{number}", f"common word{number}.", metadata={"even": number % 2 == 0})

    def search(index, where=None):
        return index.search_dense(["common word7"], 3, where)[0][0].tolist()

    with Index.build(tmp_path / "theirs", map(document, range(20)), encoder=toy) as index:
        expected, filtered = search(index), search(index, {"even": True})
    Index.build(tmp_path / "structured", map(document, range(20)), encoder=toy, faiss="HNSW8").close()
    script = tmp_path / "without_faiss.py"
    script.write_text(_WITHOUT_FAISS)
    conftest = Path(__file__).parents[1] / "conftest.py"
    done = subprocess.run([sys.executable, script, tmp_path, conftest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert expected[0] == 7 and filtered[0] % 2 == 0
    assert said["theirs"] == said["built"] == said["reopened"] == expected
    assert said["filtered"] == filtered
    assert said["updated"][0] == 20 and 7 not in said["updated"]  # the replaced document has a new row
    assert not {7, 20} & set(said["deleted"])
    assert said["engine"].startswith("torch ")
    for refused in (said["hnsw"], said["structured"]):
        assert refused == "'faiss' is not installed; install it with: pip install 'sightline-search[cpu]'"
    assert not (tmp_path / "hnsw").exists()
    with Index.open(tmp_path / "ours", encoder=toy) as index:
        assert search(index) == said["deleted"]
        assert index.add([document(7)]) == 1 and search(index)[0] == 22
    with Index.open(tmp_path / "theirs", encoder=toy) as index:
        assert len(index) == 21
