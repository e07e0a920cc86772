"""Learned sparse vectors in files, against dense products, and through changes, faults and other processes."""

import multiprocessing
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import (
    IndexCorruptError,
    IndexLockedError,
    IndexMismatchError,
    IndexStoreError,
    InputError,
    ModelError,
)
from sightline.models.sparse import SparseVectors
from sightline.retrieval import sparse_index
from sightline.retrieval.files import locked
from sightline.retrieval.index import Index

from ..models.model_folders import sparse_encoder

SparsePostings = sparse_index.SparsePostings
DIM = 9


def vectors(count, seed):
    """Sparse vectors with few distinct weights, so that many rows score alike."""
    random = np.random.default_rng(seed)
    return random.choice(np.array([0, 0, 0, 0.5, 1.25], dtype=np.float32), (count, DIM))


def expected(kept, query, k, allowed=None):
    among = [row for row in kept if ((kept[row] != 0) & (query != 0)).any() and (allowed is None or row in allowed)]
    scores = {row: float(kept[row].astype(np.float64) @ query.astype(np.float64)) for row in among}
    best = sorted(among, key=lambda row: (-scores[row], row))[:k]
    return best, [scores[row] for row in best]


def check(postings, kept, seed=0):
    assert postings.rows() == sorted(kept)
    for number, k in enumerate((1, 3, 50)):
        query = vectors(1, 1000 + seed + number)[0]
        for allowed in (None, np.array(sorted(kept)[::2], dtype=np.int64), np.array([], dtype=np.int64)):
            rows, scores = postings.search(SparseVectors.of(query[None]), k, allowed)
            best, values = expected(kept, query, k, None if allowed is None else set(allowed.tolist()))
            assert rows.tolist() == best
            assert scores == pytest.approx(values, rel=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=14), st.integers(0, 999))
def test_it_finds_what_dense_products_find(tmp_path_factory, changes, seed):
    folder = tmp_path_factory.mktemp("s")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sparse_index, "_FACTOR", 3)
        patched.setattr(sparse_index, "_SMALL", 4)
        postings, other = SparsePostings(folder, dim=DIM, create=True), SparsePostings(folder)
        kept, free = {}, list(np.random.default_rng(seed).permutation(200))
        for number, (count, deletes) in enumerate(changes):
            if deletes:
                gone = [row for row in kept if row % 3 == number % 3][:count]
                postings.delete([*gone, 999])
                for row in gone:
                    del kept[row]
                continue
            rows = [int(free.pop()) for _ in range(count)]
            added = vectors(count, seed + number)
            postings.add(rows, SparseVectors.of(added))
            kept.update(zip(rows, added, strict=True))
        check(postings, kept, seed)
        check(other, kept, seed)  # which follows, though it was opened before
        postings.verify()
        named = sum(len(segment.files()) for segment in postings._segments()[0].segments)
        assert len(list(folder.glob("*.npy"))) == named


def test_segments_are_merged_so_that_there_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_index, "_SMALL", 8)
    monkeypatch.setattr(sparse_index, "_LARGEST", 64)
    postings = SparsePostings(tmp_path, dim=DIM, create=True)
    sizes = []
    for start in range(0, 120, 4):
        postings.add(range(start, start + 4), SparseVectors.of(vectors(4, start)))
        sizes = [segment.size for segment in postings._segments()[0].segments]
        assert len(sizes) < 3 * sparse_index._FACTOR + start / 64
    assert sum(sizes) == 120 and sizes == sorted(sizes, reverse=True)
    check(postings, {start + i: row for start in range(0, 120, 4) for i, row in enumerate(vectors(4, start))})


def test_what_cannot_be_added_is_refused_and_leaves_no_trace(tmp_path):
    postings = SparsePostings(tmp_path, dim=DIM, create=True)
    postings.add([3], SparseVectors.of(vectors(1, 0)))
    two = SparseVectors.of(vectors(2, 1))
    for rows, given_vectors, reason in (
        ([4], two, "1 rows but 2 sparse vectors"),
        ([3, 4], two, "row 3 is in the index already"),
        ([4, 4], two, "given twice"),
        ([4], SparseVectors.of(np.ones((1, DIM + 1), np.float32)), "terms end at 8"),
    ):
        with pytest.raises(InputError, match=reason):
            postings.add(rows, given_vectors)
    with pytest.raises(InputError, match="k must be at least 1"):
        postings.search(two, 0)
    check(SparsePostings(tmp_path), {3: vectors(1, 0)[0]})


def _cut_off(folder, change, written):
    """Make a change that ends with its process, after so many files."""
    import os

    left = [written]
    save = sparse_index._save_array

    def ending(path, array):
        if not left[0]:
            path.write_bytes(b"\x93NUMPY")
            os._exit(1)
        left[0] -= 1
        return save(path, array)

    sparse_index._save_array = ending
    sparse_index.replace_file = lambda path, data: os._exit(1)
    postings = SparsePostings(folder)
    postings.add([5, 6], SparseVectors.of(vectors(2, 5))) if change == "add" else postings.delete([0])


@pytest.mark.parametrize(("change", "written"), [("add", 0), ("add", 3), ("add", 9), ("delete", 0), ("delete", 9)])
def test_a_writer_that_was_killed_leaves_no_trace(tmp_path, change, written):
    postings = SparsePostings(tmp_path, dim=DIM, create=True)
    first = vectors(3, 0)
    postings.add(range(3), SparseVectors.of(first))
    before = {file.name for file in tmp_path.iterdir()}
    process = multiprocessing.get_context("fork").Process(target=_cut_off, args=(tmp_path, change, written))
    process.start()
    process.join()
    assert process.exitcode == 1
    kept = dict(enumerate(first))
    check(postings, kept)
    check(SparsePostings(tmp_path), kept)
    postings.add([9], SparseVectors.of(first[:1]))  # what it left is overwritten or removed
    check(SparsePostings(tmp_path), kept | {9: first[0]})
    assert len(list(tmp_path.iterdir())) == len(before) + 5


def test_a_second_writer_is_told_to_wait(tmp_path):
    postings = SparsePostings(tmp_path, dim=DIM, create=True)
    with locked(tmp_path / ".lock"), pytest.raises(IndexLockedError, match="another process is writing"):
        postings.add([0], SparseVectors.of(vectors(1, 0)))
    assert postings.rows() == []


def test_a_search_that_a_merge_overtakes_starts_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_index, "_FACTOR", 2)
    writer, reader = SparsePostings(tmp_path, dim=DIM, create=True), SparsePostings(tmp_path)
    first = vectors(4, 0)
    writer.add([0, 1], SparseVectors.of(first[:2]))
    load, merged = SparsePostings._load, []

    def overtaken(self, now, record, held):
        if not merged:
            merged.append(True)
            writer.add([2, 3], SparseVectors.of(first[2:]))  # removes the files that are to be loaded
        return load(self, now, record, held)

    with monkeypatch.context() as patched:
        patched.setattr(SparsePostings, "_load", overtaken)
        assert reader.rows() == [0, 1, 2, 3]
    check(reader, dict(enumerate(first)))


@pytest.mark.parametrize(
    "fault", ["no folder", "no list", "garbage", "format", "missing", "cut", "dtype", "other", "range", "deleted"]
)
def test_broken_files_are_named(tmp_path, fault):
    folder = tmp_path / "s"
    if fault != "no folder":
        postings = SparsePostings(folder, dim=DIM, create=True)
        postings.add(range(2000), SparseVectors.of(np.ones((2000, DIM), np.float32)))
        postings.delete([1])
    listing = folder / "segments.json"
    if fault == "no list":
        listing.unlink()
    elif fault == "garbage":
        listing.write_text("{")
    elif fault == "format":
        listing.write_text(listing.read_text().replace('"format": 1', '"format": 2'))
    elif fault == "missing":
        (folder / "0.postings.npy").unlink()
    elif fault == "cut":
        (folder / "0.weights.npy").write_bytes((folder / "0.weights.npy").read_bytes()[:-4])
    elif fault == "dtype":
        np.save(folder / "0.terms.npy", np.arange(DIM, dtype=np.int64))
    elif fault == "other":
        np.save(folder / "0.offsets.npy", np.arange(DIM + 1, dtype=np.int64))
    elif fault == "range":
        np.save(folder / "0.postings.npy", np.full(2000 * DIM, 2000, dtype=np.int32))
    elif fault == "deleted":
        np.save(folder / "0.deleted-1.npy", np.array([2000], dtype=np.int32))
    with pytest.raises(IndexCorruptError, match="s.*build it again"):
        SparsePostings(folder).search(SparseVectors.of(np.ones((1, DIM), np.float32)), 1)


def test_weights_that_changed_are_found_by_their_checksum(tmp_path):
    postings = SparsePostings(tmp_path, dim=DIM, create=True)
    postings.add([0, 1], SparseVectors.of(vectors(2, 0)))
    postings.delete([0])
    postings.verify()
    file = tmp_path / "0.weights.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(IndexCorruptError, match=r"0.weights.npy: checksum mismatch"):
        SparsePostings(tmp_path).verify()


# -- within an index ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_encoder(tmp_path_factory.mktemp("sparse"), inference_free=True)


TEXTS = ["cats purr", "dogs bark at strangers", "iron rusts in wet air", "cows eat grass", "where the farmer shines"]


def document(number, text=None):
    return Document(f"d{number}", text or TEXTS[number % len(TEXTS)], metadata={"number": number})


def scores_of_theirs(model, query, documents):
    """Ids and similarities as sentence-transformers gives them, best first, then in the order of the documents."""
    from sentence_transformers import SparseEncoder

    theirs = SparseEncoder(str(model), device="cpu")
    texts = [each.contents for each in documents]
    values = theirs.similarity(theirs.encode_query([query]), theirs.encode_document(texts))[0].tolist()
    order = sorted((i for i, value in enumerate(values) if value), key=lambda i: (-round(values[i], 4), i))
    return [documents[i].id for i in order], [values[i] for i in order]


def found(index, query, where=None):
    rows, scores = index.search_lexical(query, 50, where)
    ids = index.document_ids(rows)
    return [ids[row] for row in rows.tolist()], scores.tolist()


def test_an_index_keeps_sparse_vectors_in_step_with_its_documents(tmp_path, toy, model):
    first = list(map(document, range(5)))
    with Index.build(tmp_path / "index", first, encoder=toy, lexical=f"sparse:{model}") as index:
        for query in ("cats at strangers", "the farmer"):
            ids, scores = found(index, query)
            expected_ids, values = scores_of_theirs(model, query, first)
            assert ids == expected_ids and scores == pytest.approx(values, rel=1e-5)
        assert set(found(index, "cats", {"number": {">=": 3}})[0]) <= {"d3", "d4"}
        record = index.manifest.lexical
        assert str(record.name) == f"sparse:{model}" and record.max_length == 128 and len(record.revision) == 16
        with Index.open(tmp_path / "index", encoder=toy) as reader:
            found(reader, "cats")
            index.add([document(5, "grass in the meadow")])
            index.update([document(1, "a star shines")])
            index.delete(["d0"])
            now = [
                document(1, "a star shines"),
                document(2),
                document(3),
                document(4),
                document(5, "grass in the meadow"),
            ]
            ids, scores = scores_of_theirs(model, "the grass shines", now)
            for each in (index, reader):
                mine = found(each, "the grass shines")
                assert sorted(mine[0]) == sorted(ids) and mine[1] == pytest.approx(scores, rel=1e-5)
    Index.open(tmp_path / "index", encoder=toy).close()  # which checks every file
    file = next((tmp_path / "index" / "sparse").glob("*.weights.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(IndexCorruptError, match="checksum mismatch"):
        Index.open(tmp_path / "index", encoder=toy)


def test_an_index_whose_writer_was_killed_takes_up_its_sparse_vectors(tmp_path, toy, model, monkeypatch):
    with Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical=f"sparse:{model}") as index:
        with monkeypatch.context() as killed:
            killed.setattr("sightline.retrieval.writing.Writer.finish", lambda self: None)
            killed.setattr("sightline.retrieval.writing.Writer._sign", lambda self, manifest: None)
            killed.setattr("sightline.retrieval.words._SparseWords.committed", lambda self, rows, texts: None)
            index.add([document(5)])  # the same text
        assert found(index, " ".join(TEXTS))[0] == ["d0"]
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert found(index, " ".join(TEXTS))[0] == ["d0", "d5"]


def test_another_or_no_model_is_refused(tmp_path, toy, model):
    from sightline.models import sparse

    moved = shutil.copytree(model, tmp_path / "model")
    Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical=f"sparse:{moved}").close()
    sparse._load.cache_clear()
    config = moved / "config_sentence_transformers.json"
    kept = config.read_text()
    config.write_text(kept + " ")
    with (
        Index.open(tmp_path / "index", encoder=toy) as index,
        pytest.raises(IndexMismatchError, match="built with the sparse encoder .* of revision"),
    ):
        index.search_lexical("cats", 1)
    config.write_text(kept)
    moved.rename(tmp_path / "elsewhere")
    sparse._load.cache_clear()
    with (
        Index.open(tmp_path / "index", encoder=toy) as index,
        pytest.raises(ModelError, match="its sparse encoder .* cannot be loaded .*sparse_encoder= and the new path"),
    ):
        index.search_lexical(" ".join(TEXTS), 1)
    with Index.open(tmp_path / "index", encoder=toy, sparse_encoder=str(tmp_path / "elsewhere")) as index:
        assert found(index, " ".join(TEXTS))[0] == ["d0"]
        with pickle.loads(pickle.dumps(index)) as again:
            assert found(again, " ".join(TEXTS))[0] == ["d0"]
    (tmp_path / "elsewhere" / config.name).write_text(kept + " ")
    sparse._load.cache_clear()
    with pytest.raises(IndexMismatchError, match="open it with its own, or build it again"):
        Index.open(tmp_path / "index", encoder=toy, sparse_encoder=str(tmp_path / "elsewhere"))
    Index.build(tmp_path / "bm25", [document(0)], encoder=toy).close()
    with pytest.raises(IndexMismatchError, match="keeps no learned sparse vectors"):
        Index.open(tmp_path / "bm25", encoder=toy, sparse_encoder=str(model))


def test_names_of_words_that_are_none(tmp_path, toy):
    for name, reason in (
        ("sparse:", "names no model"),
        ("sparse", "names no model"),
        ("tantivy:x", "must be one of 'fts5'"),
    ):
        with pytest.raises(InputError, match=reason):
            Index.create(tmp_path / "index", encoder=toy, lexical=name)
    with pytest.raises(ModelError, match="no such folder"):
        Index.create(tmp_path / "index", encoder=toy, lexical="sparse:./missing")
    assert not (tmp_path / "index").exists()


def test_a_making_that_was_interrupted_starts_again_also_for_another_model(tmp_path, toy, model, monkeypatch):
    def end(self, folder):
        raise InterruptedError

    with monkeypatch.context() as interrupted:
        interrupted.setattr("sightline.retrieval.manifest.Manifest.save", end)
        with pytest.raises(IndexStoreError):
            Index.create(tmp_path / "index", encoder=toy, lexical=f"sparse:{model}")
    SparsePostings(shutil.rmtree(tmp_path / "index" / "sparse") or tmp_path / "index" / "sparse", dim=3, create=True)
    with Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical=f"sparse:{model}") as index:
        assert found(index, " ".join(TEXTS))[0] == ["d0"]
