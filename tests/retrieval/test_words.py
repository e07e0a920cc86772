"""An engine of words that commits by itself follows the document store, whatever state it was left in."""

from typing import ClassVar

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import BackendError, InputError
from sightline.retrieval import words
from sightline.retrieval.index import Index


class Beside:
    """A lexical index beside the store, as Lucene is one: what it knows outlives it, by its folder."""

    kept: ClassVar = {}
    started = broken = 0

    def __init__(self, directory):
        self.texts = self.kept.setdefault(str(directory), {})
        type(self).started += 1

    def rows(self):
        return sorted(self.texts)

    def add(self, rows, texts):
        if self.broken:
            raise BackendError("the worker has ended")
        assert not set(rows) & set(self.texts)
        self.texts.update(zip(rows, texts, strict=True))

    def delete(self, rows, texts):
        for row in rows:
            del self.texts[row]

    def search(self, query, k, allowed=None):
        among = self.rows() if allowed is None else [row for row in allowed.tolist() if row in self.texts]
        rows = [row for row in among if query in self.texts[row]][:k]
        return np.array(rows, dtype=np.int64), np.ones(len(rows))

    def close(self):
        pass


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.setattr(Beside, "kept", {})
    monkeypatch.setattr(Beside, "started", 0)
    monkeypatch.setattr(Beside, "broken", 0)
    monkeypatch.setattr(words, "PyseriniIndex", Beside)
    return Beside


def document(number, word="common"):
    return Document(f"d{number}", f"{word} word{number}.", metadata={"number": number})


def matching(index, query, where=None):
    return sorted(index.document_ids(index.search_lexical(query, 50, where)[0]).values())


def test_engine_follows_every_change(tmp_path, toy, beside):
    with Index.build(tmp_path / "index", map(document, range(4)), encoder=toy, lexical="pyserini") as index:
        assert matching(index, "common") == ["d0", "d1", "d2", "d3"]
        assert matching(index, "common", {"number": {">=": 2}}) == ["d2", "d3"]
        index.add([document(4)])
        index.update([document(1, "fresh")])
        index.delete(["d0"])
        assert matching(index, "common") == ["d2", "d3", "d4"] and matching(index, "fresh") == ["d1"]
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert matching(index, "word") == ["d1", "d2", "d3", "d4"]


def test_engine_that_failed_catches_up_with_the_next_change(tmp_path, toy, beside, monkeypatch, caplog):
    with Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical="pyserini") as index:
        monkeypatch.setattr(beside, "broken", 1)
        assert index.add([document(1)]) == 1
        assert "the change was made" in caplog.text
        assert matching(index, "common") == ["d0"] and len(index) == 2
        monkeypatch.setattr(beside, "broken", 0)
        index.delete(["d0"])
        assert matching(index, "common") == ["d1"]


def test_engine_starts_when_it_is_first_needed(tmp_path, toy, beside):
    Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical="pyserini").close()
    beside.started = 0
    with Index.open(tmp_path / "index", encoder=toy) as index:
        index.search_dense(["common"], 1)
        assert beside.started == 0
        matching(index, "common"), matching(index, "word0")
        assert beside.started == 1


def test_index_without_words_says_so(tmp_path, toy):
    with (
        Index.build(tmp_path / "index", [document(0)], encoder=toy, lexical="none") as index,
        pytest.raises(InputError, match="built without a lexical index; build it again with one"),
    ):
        index.search_lexical("common", 1)


def test_unknown_engine_is_refused_with_the_known_ones(tmp_path, toy):
    with pytest.raises(
        InputError,
        match="the lexical engine must be one of 'fts5', 'tantivy', 'pyserini', 'none', 'sparse:MODEL', not 'lucene'",
    ):
        Index.create(tmp_path / "index", encoder=toy, lexical="lucene")
