"""Multi-vector retrieval against MaxSim over all passages, and its centroids through changes, kills and damage."""

import errno
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.documents import Document
from sightline.errors import IndexMismatchError, InputError, MissingExtraError, ModelError
from sightline.kernels.states.keys import to_float
from sightline.retrieval import multivector
from sightline.retrieval.index import Index
from sightline.retrieval.multivector import MULTIVECTOR_FILE, Centroids, MultiVectorIndex, grown
from sightline.retrieval.token_states import states_form

from ..conftest import ToyEncoder

TAIL, WORDS = 8, 60


@pytest.fixture(autouse=True)
def clustered(monkeypatch):
    """Cluster small indexes, too."""
    monkeypatch.setattr(multivector, "_TAIL", TAIL)


def document(number, version=1):
    words = np.random.default_rng([number, version]).zipf(1.5, size=9) % WORDS
    return Document(f"d{number}", " ".join(f"w{word}" for word in words), metadata={"number": number})


def naive(query, passages):
    """MaxSim of a query (S, D) with each passage (T, D), in float64: (N,)."""
    return np.array([(query.astype(np.float64) @ p.T).max(axis=1).mean() if len(p) else -np.inf for p in passages])


def toy_scores(toy, query, documents):
    [asked] = toy.read_queries([query])
    return naive(asked.states, [toy.read([one.contents]).states for one in documents])


def check_exact(index, toy, query, k=10, where=None, **options):
    """The index finds what MaxSim over all of its documents finds."""
    documents = list(index.documents())
    rows, scores = index.search_multivector([query], k, where, **options)
    found = index.document_ids(rows[0])
    expected = dict(zip((one.id for one in documents), toy_scores(toy, query, documents), strict=True))
    ids = [found[row] for row in rows[0].tolist() if row >= 0]
    np.testing.assert_allclose(scores[0][: len(ids)], [expected[id] for id in ids], atol=0.02)  # int8
    allowed = [id for id in expected if where is None or index.document(id).metadata["number"] < where["number"]["<"]]
    best = sorted((expected[id] for id in allowed), reverse=True)[:k]
    np.testing.assert_allclose(sorted((expected[id] for id in ids), reverse=True), best, atol=0.02)
    return ids


# -- the search itself ---------------------------------------------------------------------------------------------


def world(seed, passages, dim, *, topics=25, tokens=12):
    """Passages whose tokens lie round a few hundred directions, in few dimensions mostly, as a model's do; queries."""
    rng, scales = np.random.default_rng(seed), 1 / np.sqrt(1 + np.arange(dim) / 8)
    ways = rng.normal(size=(10 * topics, dim)) * scales
    made = []
    for _ in range(passages + 5):
        own = rng.choice(topics) * 10 + rng.integers(0, 10, size=rng.integers(0 if len(made) < passages else 1, tokens))
        states = ways[own] + 0.2 * rng.normal(size=(len(own), dim)) * scales
        made.append((states / np.linalg.norm(states, axis=1, keepdims=True)).astype(np.float32))
    return made[:passages], made[passages:]


def index_over(passages, kind="fp16", live=None):
    """A `MultiVectorIndex` over passages in a form of states, its centroids, and what it reads as float32."""
    form = states_form(kind, passages[0].shape[1])
    states = np.concatenate(passages)
    table = form.learn(states) if form.codes else None
    kept, stops = form.encode(states, table), np.cumsum([len(one) for one in passages])
    ranges = [(int(stop) - len(one), int(stop)) for one, stop in zip(passages, stops, strict=True)]

    def read(rows):
        return form.decode(kept, [ranges[row] for row in rows], table)

    live = np.ones(len(passages), dtype=bool) if live is None else live
    centroids = grown(None, live, len(states), "", read)
    return MultiVectorIndex(centroids, read), centroids, [to_float(key).numpy() for key in read(range(len(passages)))]


@pytest.mark.parametrize("kind", ["fp16", "int8", "int4", "pq8"])
def test_with_all_centroids_it_is_maxsim_over_all_passages(kind):
    passages, queries = world(3, 300, 32)
    index, centroids, decoded = index_over(passages, kind)
    live = np.ones(len(passages), dtype=bool)
    for query in queries:
        rows, scores = index.search(query, 50, live, nprobe=len(centroids.centroids))
        expected = naive(query, decoded)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:50], atol=1e-3 if kind != "fp16" else 1e-6)
        np.testing.assert_allclose(expected[rows], scores, atol=1e-3 if kind != "fp16" else 1e-6)
        if kind == "fp16":
            assert rows.tolist() == np.lexsort((np.arange(len(passages)), -np.float32(expected)))[:50].tolist()


@pytest.mark.parametrize(("seed", "dim"), [(1, 8), (2, 32), (3, 96)])
def test_by_default_it_finds_nearly_all_of_the_best(seed, dim):
    passages, queries = world(seed, 1000, dim)
    index, _, decoded = index_over(passages)
    live = np.random.default_rng(seed).random(len(passages)) < 0.9
    shares = []
    for query in queries:
        rows, scores = index.search(query, 100, live)
        expected = np.where(live, naive(query, decoded), -np.inf)
        assert live[rows].all() and (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, expected[rows], atol=1e-5)  # exact, whatever the centroids said
        shares.append((expected[rows] >= np.sort(expected)[-100] - 1e-6).sum() / 100)
    assert np.mean(shares) >= 0.95, shares


def test_few_allowed_passages_are_all_scored():
    passages, queries = world(5, 600, 32)
    index, _, decoded = index_over(passages)
    for share in (0.02, 0.5):
        allowed = np.random.default_rng(1).random(len(passages)) < share
        k = min(40, int(allowed.sum()))
        rows, _ = index.search(queries[0], k, allowed)
        expected = naive(queries[0], decoded)
        assert allowed[rows].all()
        assert len(rows) == min(k, int((allowed & np.isfinite(expected)).sum()))


def test_ties_are_by_row_and_passages_without_tokens_are_left_out():
    [token] = torch.nn.functional.normalize(torch.ones(1, 1, 4), dim=-1)
    passages = [token, token[:0], token, token]
    index = MultiVectorIndex(None, lambda rows: [passages[row] for row in rows])
    rows, scores = index.search(token.numpy(), 10, np.array([True, True, False, True]))
    assert rows.tolist() == [0, 3] and scores.tolist() == pytest.approx([1, 1])


def test_the_same_states_give_the_same_centroids(tmp_path):
    passages, _ = world(8, 200, 16)
    for number in range(2):
        index_over(passages)[1].save(tmp_path / str(number))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_passage_counts_once_for_each_centroid_and_only_the_live_do():
    passages, _ = world(9, 200, 16)
    live = np.arange(200) % 3 > 0
    _, centroids, _ = index_over(passages, live=live)
    for start, stop in zip(centroids.offsets, centroids.offsets[1:], strict=False):
        own = centroids.passages[start:stop]
        assert (np.diff(own) > 0).all() and live[own].all()
    assert set(centroids.passages) == {row for row in range(200) if live[row] and len(passages[row])}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"k": 0}, "k and nprobe must be at least 1, not 0"),
        ({"nprobe": 0}, "k and nprobe must be at least 1"),
        ({"query": np.zeros((0, 4), dtype=np.float32)}, "the query has no token"),
    ],
)
def test_what_cannot_be_asked(asked, message):
    index = MultiVectorIndex(None, lambda rows: [])
    query = np.zeros((1, 4), dtype=np.float32)
    with pytest.raises(InputError, match=message):
        index.search(**{"query": query, "k": 1, "allowed": np.zeros(0, dtype=bool), **asked})


# -- within an index -----------------------------------------------------------------------------------------------


def test_it_follows_an_index_through_its_changes(build, toy, monkeypatch):
    index = build([document(number) for number in range(40)])
    learnt = []
    monkeypatch.setattr(multivector, "_learnt", lambda *a, real=multivector._learnt: learnt.append(1) or real(*a))
    check_exact(index, toy, "w1 w2 w9", nprobe=10**6)
    first = Centroids.load(index.path / MULTIVECTOR_FILE)
    assert first.rows == 40 and len(learnt) == 1
    index.add([document(number) for number in range(40, 40 + TAIL)])
    check_exact(index, toy, "w1 w2 w9")
    assert Centroids.load(index.path / MULTIVECTOR_FILE).rows == 40  # the last few are scored without
    index.add([document(number) for number in range(48, 60)])
    grew = Centroids.load(index.path / MULTIVECTOR_FILE)  # the writer lets it follow
    assert grew.rows == 60 and grew.tokens == first.tokens and np.array_equal(grew.centroids, first.centroids)
    index.delete([f"d{number}" for number in range(0, 60, 2)])
    ids = check_exact(index, toy, "w1 w2 w9", k=100)
    assert len(ids) == 30
    index.update([document(number, version=2) for number in range(1, 31, 2)])
    check_exact(index, toy, "w1 w2 w9", k=5, nprobe=10**6)
    check_exact(index, toy, "w1 w2 w9", where={"number": {"<": 20}})
    assert len(learnt) == 1
    index.add([document(number) for number in range(60, 200)])
    anew = Centroids.load(index.path / MULTIVECTOR_FILE)
    assert len(learnt) == 2 and anew.tokens > 4 * first.tokens and len(anew.centroids) > len(first.centroids)
    assert not {int(row) for row in anew.passages} & set(range(0, 40, 2))  # deleted passages drop out
    check_exact(index, toy, "w3 w4", nprobe=10**6)


def test_what_is_committed_meanwhile_is_found(build, toy):
    """Readers search while another opens, writes and clusters; every answer is of one commit."""
    index = build([document(number) for number in range(30)])
    index.search_multivector(["w1"], 3)
    failures, done = [], threading.Event()

    def read():
        with Index.open(index.path, encoder=toy) as own:
            while not done.is_set():
                try:
                    own.read(lambda: check_exact(own, toy, "w1 w7", k=5))
                except Exception as error:
                    failures.append(error)
                    return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for start in range(30, 110, 20):
            index.add([document(number) for number in range(start, start + 20)])
            index.delete([f"d{start}"])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not failures, failures[0]
    check_exact(index, toy, "w1 w7", k=5)


def _flip(data):
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    "damage",
    [
        _flip,
        lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"{}",
        lambda data: data.replace(b"rows", b"rowz"),
        lambda data: data.replace(b"F32", b"I32"),
    ],
)
def test_a_damaged_file_is_made_again(build, toy, damage, caplog):
    index = build([document(number) for number in range(30)])
    before = index.search_multivector(["w1 w2"], 5)
    file = index.path / MULTIVECTOR_FILE
    written = file.read_bytes()
    file.write_bytes(damage(written))
    with caplog.at_level(logging.WARNING), Index.open(index.path, encoder=toy) as again:
        after = again.search_multivector(["w1 w2"], 5)
    assert "is damaged" in caplog.text and "made again" in caplog.text
    assert np.array_equal(before[0], after[0]) and file.read_bytes() == written


@pytest.mark.parametrize("others", [20, 30, 40])
def test_a_file_of_another_index_is_made_again(build, toy, others):
    index = build([document(number) for number in range(30)])
    other = build([document(number, version=3) for number in range(others)], name="other")
    for one in (index, other):
        one.search_multivector(["w1"], 5)
    own, foreign = (one.path / MULTIVECTOR_FILE for one in (index, other))
    written = own.read_bytes()
    own.write_bytes(foreign.read_bytes())
    with Index.open(index.path, encoder=toy) as again:
        check_exact(again, toy, "w1 w2", k=5)
    assert own.read_bytes() == written


def test_an_index_in_the_place_of_another_is_searched_by_its_own(build, toy):
    index = build([document(number) for number in range(30)])
    index.search_multivector(["w1"], 5)
    replaced = [document(number, version=3) for number in range(40)]
    Index.build(index.path, replaced, encoder=toy, overwrite=True).close()
    check_exact(index, toy, "w1 w2", k=5)
    assert Centroids.load(index.path / MULTIVECTOR_FILE).rows == 40


def test_where_nothing_can_be_written_the_search_goes_on(build, toy, monkeypatch, caplog):
    index = build([document(number) for number in range(30)])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multivector, "replace_file", full)
    with caplog.at_level(logging.WARNING):
        check_exact(index, toy, "w1 w2", k=5)
        check_exact(index, toy, "w1 w2", k=5)
    assert caplog.text.count("they are used by this process only") == 1 and "no space left" in caplog.text
    assert not (index.path / MULTIVECTOR_FILE).exists()
    monkeypatch.undo()


# A process that is killed while it writes the centroids, at a place that the test names.
_KILLED = """
import importlib.util, os, signal, sys
from sightline.retrieval import multivector
from sightline.retrieval.index import Index

spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
multivector._TAIL = 8

def half(path, data):
    path.with_name(path.name + ".new").write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

multivector.replace_file = half
for path in sys.argv[2:]:
    if not os.fork():
        Index.open(path, encoder=toys.ToyEncoder()).search_multivector(["w1"], 3)
    print(os.wait()[1], flush=True)
"""


def test_a_searcher_that_is_killed_while_it_writes_leaves_the_index_as_it_was(build, toy, tmp_path):
    indexes = [build([document(number) for number in range(30)], name=name) for name in ("none", "some")]
    before = indexes[1].search_multivector(["w1"], 3)
    file = indexes[1].path / MULTIVECTOR_FILE
    whole, written = file.read_bytes(), file.read_bytes()[:-1]
    file.write_bytes(written)  # damaged, so that the process makes it again
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    conftest = Path(__file__).parents[1] / "conftest.py"
    command = [sys.executable, str(script), str(conftest), *(str(index.path) for index in indexes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * 2, done.stderr
    assert file.read_bytes() == written and not (indexes[0].path / MULTIVECTOR_FILE).exists()
    for index in indexes:
        with Index.open(index.path, encoder=toy) as again:
            check_exact(again, toy, "w1 w2", k=5, nprobe=10**6)
            after = again.search_multivector(["w1"], 3)
        assert Centroids.load(index.path / MULTIVECTOR_FILE).rows == 30
        assert not list(index.path.glob("*.new"))
    assert np.array_equal(before[0], after[0]) and file.read_bytes() == whole


def test_a_writer_that_fails_at_the_centroids_has_committed_all_the_same(build, toy, monkeypatch, caplog):
    index = build([document(number) for number in range(30)])
    index.search_multivector(["w1"], 3)

    def broken(*_):
        raise IndexMismatchError("no")

    monkeypatch.setattr("sightline.retrieval.open_files.grown", broken)
    with caplog.at_level(logging.WARNING):
        assert index.add([document(number) for number in range(30, 60)]) == 30
    assert "the change was made" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(multivector, "_TAIL", TAIL)
    check_exact(index, toy, "w1 w2", k=5)
    assert len(index) == 60


# -- indexes that cannot be searched so ----------------------------------------------------------------------------


def test_an_index_without_token_states_says_what_to_do(build):
    index = build([document(1)], token_states="none")
    with pytest.raises(InputError, match="built without token states, so multivector .* build it again with --token"):
        index.search_multivector(["w1"], 3)
    assert not (index.path / MULTIVECTOR_FILE).exists()


def test_the_reader_must_be_the_one_whose_states_are_kept(build, tmp_path):
    toy = ToyEncoder(name=str(tmp_path / "moved"))
    index = build([document(1)], encoder=toy)
    with Index.open(index.path) as again, pytest.raises(ModelError, match="reader of its token states.*cannot be load"):
        again.search_multivector(["w1"], 3)
    toy.revision = "toy-2"
    with Index.open(index.path, encoder=toy) as again, pytest.raises(IndexMismatchError, match="toy-1.*toy-2.*build"):
        again.search_multivector(["w1"], 3)


def test_without_faiss_a_small_index_is_searched_and_a_large_one_says_what_to_install(build, toy, monkeypatch):
    def missing():
        raise MissingExtraError("faiss", "cpu")

    monkeypatch.setattr(multivector, "import_faiss", missing)
    check_exact(build([document(number) for number in range(TAIL)]), toy, "w1 w2", k=3)
    with pytest.raises(MissingExtraError, match="faiss"):
        build([document(number) for number in range(30)], name="large").search_multivector(["w1"], 3)


def test_queries_are_a_list_and_need_a_token(build):
    index = build([document(1)])
    with pytest.raises(InputError, match="takes a list of queries"):
        index.search_multivector("w1", 3)
    with pytest.raises(InputError, match="no token"):
        index.search_multivector(["???"], 3)
    rows, scores = index.search_multivector(["w1", "w2"], 3)
    assert rows.tolist() == [[0], [0]] and scores.shape == (2, 1)
