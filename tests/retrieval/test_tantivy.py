"""BM25 by Tantivy against a plain computation of it, and its files through changes, faults and other processes."""

import collections
import math
import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import IndexCorruptError, IndexLockedError, IndexStoreError, InputError
from sightline.retrieval import tantivy_index
from sightline.retrieval.index import Index

pytest.importorskip("tantivy", reason="needs the extra 'tantivy'")

TantivyIndex = tantivy_index.TantivyIndex
WORDS = ["zebra", "mango", "quartz", "violin", "harbor"]  # which the stemmer leaves as they are, or cuts alike
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), min_size=1, max_size=30)


def bm25(texts, query, k1=1.2, b=0.75):
    """Scores of the texts (a dict by row) that share a word with the query; Robertson et al., 1994."""
    terms = {row: text.split() for row, text in texts.items()}
    mean = sum(map(len, terms.values())) / len(terms)
    frequency = collections.Counter(word for own in terms.values() for word in set(own))
    found = {}
    for row, own in terms.items():
        score = 0.0
        for word in dict.fromkeys(query.split()):
            if n := own.count(word):
                weight = math.log(1 + (len(texts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
                score += weight * n * (k1 + 1) / (n + k1 * (1 - b + b * len(own) / mean))
                found[row] = score
    return found


@settings(max_examples=25, deadline=None)
@given(TEXTS, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), st.integers(1, 40), st.data())
def test_it_finds_what_the_formula_finds(tmp_path_factory, texts, query, k, data):
    index = TantivyIndex(tmp_path_factory.mktemp("t"), create=True)
    cut = data.draw(st.integers(0, len(texts)))
    index.add(range(cut), texts[:cut])
    index.add(range(cut, len(texts)), texts[cut:])
    expected = bm25(dict(enumerate(texts)), query)
    rows, scores = index.search(query, k)
    assert scores == pytest.approx([expected[row] for row in rows.tolist()], rel=1e-5)
    # Ties go by row; what differs by rounding alone may be in either order.
    assert list(zip(-scores, rows, strict=True)) == sorted(zip(-scores, rows, strict=True))
    best = sorted(expected.values(), reverse=True)[:k]
    assert scores == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("few", [0, 10_000])
def test_only_allowed_rows_come_back_and_all_of_them(tmp_path, monkeypatch, few):
    monkeypatch.setattr(tantivy_index, "_FEW", few)
    index = TantivyIndex(tmp_path / "t", create=True)
    texts = [f"zebra {'mango ' * (row % 7)}" for row in range(200)]
    index.add(range(200), texts)
    expected = bm25(dict(enumerate(texts)), "zebra mango")
    for allowed in ([], [3], list(range(0, 200, 3)), list(range(200))):
        rows, scores = index.search("zebra mango", 20, np.array(allowed, dtype=np.int64))
        among = sorted(allowed, key=lambda row: (-round(expected[row], 5), row))[:20]
        assert rows.tolist() == among
        assert scores == pytest.approx([expected[row] for row in among], rel=1e-5)


def test_equal_passages_come_by_row_however_they_were_added(tmp_path):
    index = TantivyIndex(tmp_path / "t", create=True)
    for rows in ([7, 2], [9, 0, 4], [1]):
        index.add(rows, ["zebra"] * len(rows))
    assert index.search("zebra", 4)[0].tolist() == [0, 1, 2, 4]
    assert index.rows() == [0, 1, 2, 4, 7, 9]


def test_an_addition_that_fails_leaves_no_trace(tmp_path):
    index = TantivyIndex(tmp_path / "t", create=True)
    index.add([0], ["zebra"])

    def texts():
        yield "zebra"
        raise InterruptedError

    class Texts(list):
        def __iter__(self):
            return texts()

    with pytest.raises(InterruptedError):
        index.add([1, 2], Texts(["zebra", "zebra"]))
    assert index.rows() == TantivyIndex(tmp_path / "t").rows() == [0]
    with pytest.raises(InputError, match="1 rows but 2 texts"):
        index.add([1], ["a", "b"])
    index.add([1], ["zebra"])
    assert index.rows() == [0, 1]


def test_a_search_sees_what_another_index_object_wrote(tmp_path):
    one = TantivyIndex(tmp_path / "t", create=True)
    other = TantivyIndex(tmp_path / "t", create=True)
    one.add([0, 1], ["zebra", "zebra mango"])
    assert other.search("zebra", 5)[0].tolist() == [0, 1]
    other.delete([0], ["zebra"])
    assert one.search("zebra", 5)[0].tolist() == one.rows() == [1]


def _hold(path, ready, end):
    with TantivyIndex(path)._change():
        ready.set()
        end.wait(30)


def test_a_second_writer_is_told_to_wait(tmp_path):
    index = TantivyIndex(tmp_path / "t", create=True)
    spawn = multiprocessing.get_context("spawn")
    ready, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path / "t", ready, end))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(IndexLockedError, match="another process is writing"):
            index.add([0], ["zebra"])
        assert index.rows() == []
    finally:
        process.kill()  # a killed writer holds no lock
        process.join()
    index.add([0], ["zebra"])
    assert index.rows() == [0]


@pytest.mark.parametrize("fault", ["missing", "empty", "no meta", "garbage", "cut"])
def test_broken_files_are_named(tmp_path, fault):
    folder = tmp_path / "t"
    if fault != "missing":
        folder.mkdir()
    if fault in ("no meta", "garbage", "cut"):
        TantivyIndex(folder, create=True).add([0], ["zebra"])
    if fault == "no meta":
        (folder / "meta.json").unlink()
    if fault == "garbage":
        (folder / "meta.json").write_text("{")
    if fault == "cut":
        for file in folder.glob("*.idx"):
            file.unlink()
    with pytest.raises(IndexCorruptError, match="Tantivy cannot read this index"):
        TantivyIndex(folder).search("zebra", 1)


def test_other_users_may_read_what_was_written(tmp_path):
    index = TantivyIndex(tmp_path / "t", create=True)
    (tmp_path / "ordinary").touch()
    for _ in range(2):
        modes = {file.stat().st_mode for file in (tmp_path / "t").iterdir()}
        assert modes == {(tmp_path / "ordinary").stat().st_mode}
        index.add([0], ["zebra"])


def test_a_folder_that_cannot_be_written_is_said_to_be_one(tmp_path):
    TantivyIndex(tmp_path / "t", create=True).add([0], ["zebra"])
    for lock in (tmp_path / "t").glob(".*lock"):
        lock.unlink()
        lock.mkdir()  # root may write everywhere, but not into a folder
    with pytest.raises(IndexStoreError, match="Tantivy has no read-only mode: it makes a lock file .* --lexical fts5"):
        TantivyIndex(tmp_path / "t")


def document(number, word="common"):
    return Document(f"d{number}", f"{word} word{number}.", metadata={"number": number})


def test_an_index_keeps_its_words_in_it(tmp_path, toy):
    def matching(index, query, where=None):
        return sorted(index.document_ids(index.search_lexical(query, 50, where)[0]).values())

    with Index.build(tmp_path / "index", map(document, range(4)), encoder=toy, lexical="tantivy") as index:
        assert matching(index, "common") == ["d0", "d1", "d2", "d3"]
        assert matching(index, "common", {"number": {">=": 2}}) == ["d2", "d3"]
        with Index.open(tmp_path / "index", encoder=toy) as reader:
            assert matching(reader, "common") == ["d0", "d1", "d2", "d3"]
            index.add([document(4)])
            index.update([document(1, "fresh")])
            index.delete(["d0"])
            assert matching(reader, "common") == matching(index, "common") == ["d2", "d3", "d4"]
            assert matching(reader, "fresh") == ["d1"]


def test_an_index_whose_writer_was_killed_takes_up_its_words(tmp_path, toy, monkeypatch):
    with Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical="tantivy") as index:
        with monkeypatch.context() as killed:
            killed.setattr("sightline.retrieval.writing.Writer.finish", lambda self: None)
            killed.setattr("sightline.retrieval.writing.Writer._sign", lambda self, manifest: None)
            index.add([document(1)])
        assert index.search_lexical("common", 5)[0].tolist() == [0]
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert sorted(index.search_lexical("common", 5)[0].tolist()) == [0, 1]
