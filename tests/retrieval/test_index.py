import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import (
    DataError,
    IndexCorruptError,
    IndexLockedError,
    IndexMismatchError,
    IndexStoreError,
    InputError,
)
from sightline.eval.cost import index_bytes
from sightline.kernels.states.keys import to_float
from sightline.retrieval import writing
from sightline.retrieval.index import Index
from sightline.retrieval.token_states import states_form


def document(number, text=None, **metadata):
    return Document(f"d{number}", text or f"common word{number} word{number % 7} end{number % 3}.", metadata=metadata)


def ids(index, rows):
    return [stored.passage.document.id for stored in index.passages(rows)]


def meaning(index, query, k=1, where=None):
    return ids(index, index.search_dense([query], k, where)[0][0])


def words(index, query, k=1000, where=None):
    return ids(index, index.search_lexical(query, k, where)[0])


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(writing, "BATCH_PASSAGES", 4)


# -- making, opening, changing ---------------------------------------------------------------------------------------


def test_documents_come_back_as_they_went_in(build, toy):
    documents = [
        Document(
            "a b/c'\"", "Text with\nlines, 日本語 and 🙂.", title="A title", metadata={"x": [1, {"y": None}], "": 0.1}
        ),
        Document("ü", "Second."),
    ]
    path = build(documents).path
    with Index.open(path, encoder=toy) as index:
        assert list(index.documents()) == documents
        assert index.document("ü") == documents[1] and index.document("u") is None
        assert index.document("\ud800") is None
        assert index.counts() == {"documents": 2, "passages": 2, "deleted_documents": 0}


def test_added_documents_are_found(build):
    index = build(map(document, range(5)))
    assert index.add([document(5)]) == 1
    assert meaning(index, document(5).text) == ["d5"] and words(index, "word5") == ["d5"]


def test_deleted_documents_are_found_by_nothing(build):
    index = build(map(document, range(5)))
    assert index.delete(["d3", "d1", "d3"]) == 2
    assert set(meaning(index, "common", 5)) == set(words(index, "common")) == {"d0", "d2", "d4"}
    assert index.document("d3") is None and len(index) == 3


def test_updated_document_is_found_by_its_new_text_only(build):
    index = build(map(document, range(5)))
    assert index.update([document(3, "entirely different now"), document(9)]) == 2
    assert words(index, "different") == ["d3"] and words(index, "word3") == []
    assert meaning(index, "entirely different now") == ["d3"]
    assert len(index) == 6


def test_update_reads_only_what_changed(build, toy, small_batches, monkeypatch):
    kept = [document(number, year=2000 + number) for number in range(9)]
    long = Document("long", "One two three. Four five six. Seven eight nine.")
    index = build([*kept, long], max_tokens=6)
    taken, texts = [], []
    monkeypatch.setattr(toy, "read", lambda given, **how: texts.extend(given) or type(toy).read(toy, given, **how))
    assert index.update([*kept, long], taken.append) == 0 and texts == [] and taken[-1] == 10
    changed = [document(2, year=1), document(4, "other words", year=2004), document(9), Document("long", "No more.")]
    assert index.update([*kept[5:], *changed]) == 4
    assert texts == [document(2).text, "other words", document(9).text, "No more."]
    assert index.document("d2").metadata == {"year": 1} and index.counts()["documents"] == 11
    with pytest.raises(DataError, match="two documents have the id 'd5'"):
        index.update([*kept[5:], kept[5]])


def test_update_reads_a_document_again_that_would_be_cut_otherwise(build, toy, monkeypatch):
    long = Document("long", "One two three. Four five six.")
    index = build([long, document(1)], max_tokens=6)
    assert len(index.passages_of(["long"])) == 1
    monkeypatch.setattr(toy, "token_offsets", lambda text: [(i, i + 1) for i in range(len(text)) if text[i].isalnum()])
    assert index.update([long]) == 1
    assert len(index.passages_of(["long"])) > 1


def test_deleted_id_can_be_added_again(build):
    index = build(map(document, range(5)))
    index.delete(["d3"])
    index.add([document(3, "reborn")])
    assert words(index, "reborn") == ["d3"]


def test_unknown_id_deletes_nothing(build):
    index = build(map(document, range(5)))
    with pytest.raises(InputError, match=r"no document 'x' \(2 of 3 ids not found\)"):
        index.delete(["d1", "x", "y"])
    assert len(index) == 5


def test_added_document_that_is_there_is_refused(build):
    index = build(map(document, range(5)))
    with pytest.raises(DataError, match="'d2' is in the index already; update replaces it"):
        index.add([document(7), document(2)])
    assert len(index) == 5


@pytest.mark.parametrize("apart", [1, 30], ids=["in one batch", "in two batches"])
def test_two_documents_of_one_id_are_refused(apart, build, small_batches):
    stream = [*map(document, range(apart)), document(0)]
    with pytest.raises(DataError, match="two documents have the id 'd0'"):
        build(stream)
    index = build([document(99)], name="other")
    with pytest.raises(DataError, match="two documents have the id 'd0'|'d0' is in the index already"):
        index.add(stream)
    with pytest.raises(DataError, match="two documents have the id 'd0'"):
        index.update(stream)


def test_two_documents_of_one_id_are_refused_when_resuming(build, small_batches):
    with pytest.raises(ZeroDivisionError):
        build(interrupted(range(10)))
    with pytest.raises(DataError, match="two documents have the id 'd0'"):
        build([*map(document, range(20)), document(0)])


def test_nothing_to_index_is_an_error(build):
    with pytest.raises(DataError, match="no documents"):
        build([])


def test_complete_index_is_not_built_over(build):
    build([document(1)])
    with pytest.raises(IndexStoreError, match=r"other documents \('d2' is missing or differs\); .* with overwrite"):
        build([document(2)])
    with pytest.raises(IndexStoreError, match="the index has 1 documents, not 2"):
        build([document(1), document(1)])
    with pytest.raises(IndexMismatchError, match="an index with other settings .*max_tokens.*; .* with overwrite"):
        build([document(1)], max_tokens=7)


def test_finished_index_is_built_again_at_no_cost(build):
    first = build([document(1), document(2)])
    written = (first.path / "manifest.json").stat().st_mtime_ns
    again = build([document(2), document(1)])
    assert list(again.documents()) == [document(1), document(2)]
    assert (first.path / "manifest.json").stat().st_mtime_ns == written


def test_overwriting_keeps_the_old_index_until_the_new_one_is_done(build):
    old = build([document(1), document(2)])

    def failing():
        yield document(3)
        assert [stored.id for stored in old.documents()] == ["d1", "d2"]
        raise KeyError("the user's stream")

    with pytest.raises(KeyError):
        build(failing(), overwrite=True)
    assert [stored.id for stored in Index.open(old.path, encoder=old.encoder).documents()] == ["d1", "d2"]
    new = build([document(3)], overwrite=True)
    assert [stored.id for stored in new.documents()] == ["d3"]
    assert [stored.id for stored in old.documents()] == ["d3"]  # an open index follows
    assert sorted(path.name for path in old.path.parent.iterdir()) == ["index"]


def test_overwriting_with_other_settings_tells_open_readers(build):
    old = build([document(1)])
    build([document(1)], overwrite=True, max_tokens=9)
    with pytest.raises(IndexMismatchError, match="replaced by an index with other settings"):
        old.search_lexical("word", 1)


def test_build_of_nothing_leaves_nothing(build, tmp_path):
    with pytest.raises(DataError, match="no documents to index"):
        build([])
    assert list(tmp_path.iterdir()) == []


def test_texts_and_mappings_are_documents(build):
    index = build(["Cats purr.", {"text": "Dogs bark.", "lang": "en"}, {"_id": "c", "text": "Cows graze."}])
    assert [(stored.id, stored.text, stored.metadata) for stored in index.documents()] == [
        ("0", "Cats purr.", {}),
        ("1", "Dogs bark.", {"lang": "en"}),
        ("c", "Cows graze.", {}),
    ]


@pytest.mark.parametrize("documents", ["a text", {"text": "a"}, document(1), 7, [7], b"a"], ids=repr)
def test_what_is_no_list_of_documents_is_refused(documents, build):
    with pytest.raises(InputError, match="must be a"):
        build(documents)


def test_resumed_build_equals_a_fresh_one(build, monkeypatch):
    monkeypatch.setattr(writing, "BATCH_PASSAGES", 2)
    first = [document(number) for number in range(6)]

    def interrupted():
        yield from first
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(interrupted())
    changed = [document(0), Document("d1", "another text"), Document("d2", first[2].text, "a title"), *first[4:]]
    index = build(changed)
    assert sorted(index.documents(), key=lambda stored: stored.id) == changed
    assert index.counts()["passages"] == 5
    assert len(index.search_lexical("word3", 5)[0]) == 0 and len(index.search_lexical("another", 5)[0]) == 1


@pytest.mark.parametrize("ids", ["12", b"12"])
def test_a_single_string_is_no_list_of_ids(ids, build):
    index = build([Document(id, "a text") for id in ("1", "2", "12")])
    with pytest.raises(InputError, match="delete takes a list of ids"):
        index.delete(ids)
    assert len(index) == 3


@pytest.mark.parametrize("id", [7, 7.0, None, np.int64(7), ("7",)], ids=repr)
def test_ids_that_are_no_strings_are_refused_by_name(id, build):
    index = build([Document("7", "a text")])
    for call in (lambda: index.document(id), lambda: index.delete([id])):
        with pytest.raises(InputError, match="ids are strings; use "):
            call()
    assert len(index) == 1


def test_documents_without_text_are_kept_and_found_by_their_title_alone(build):
    index = build([Document("t", "", "whales sing"), Document("e", ""), Document("b", " \n", " "), document(1)])
    assert index.counts() == {"documents": 4, "passages": 2, "deleted_documents": 0}
    assert index.document("e") == Document("e", "")
    assert index.document_ids(index.search_lexical("whales", 9)[0]) == {0: "t"}
    assert {*index.document_ids(index.search_dense(["whales"], 9)[0][0]).values()} == {"t", "d1"}
    index.update([Document("e", "now with words")])
    assert index.document_ids(index.search_lexical("words", 9)[0]) == {2: "e"}
    index.delete(["b", "t"])
    assert sorted(stored.id for stored in index.documents()) == ["d1", "e"]


def test_only_documents_without_text_make_an_index_that_finds_nothing(build):
    index = build([Document("e", "")])
    assert index.search_dense(["a"], 3)[0].shape == (1, 0) and len(index.search_lexical("a", 3)[0]) == 0


def test_index_without_embeddings_is_searched_by_words_alone(tmp_path):
    index = Index.build(tmp_path / "index", ["Cats purr.", "Dogs bark."], encoder="none")
    assert index.search_lexical("dogs", 3)[0].tolist() == [1] and index.token_keys(index.passages([0])) is None
    assert not (tmp_path / "index" / "vectors.f32").exists()
    for call in (lambda: index.search_dense(["dogs"], 1), index.vectors):
        with pytest.raises(InputError, match="built without embeddings"):
            call()
    index.close()
    again = Index.open(index.path)
    again.add([Document("c", "Cows graze.")])
    assert again.document_ids(again.search_lexical("cows", 3)[0]) == {2: "c"}
    with pytest.raises(InputError, match="needs a lexical engine"):
        Index.create(tmp_path / "other", encoder="none", lexical="none")


def test_asking_for_more_than_there_is_costs_what_there_is(build):
    index = build([document(number, lang="en") for number in range(3)])
    assert index.search_dense(["word1"], 2**40)[0].shape == (1, 3)
    assert len(index.search_lexical("common", 2**70)[0]) == 3
    assert len(index.search_lexical("common", 2**70, {"lang": "en"})[0]) == 3


def test_closed_index_refuses_every_call_and_holds_no_file(build):
    index = build([document(1)], faiss="HNSW8")
    index.search_dense(["word1"], 1)
    index.close()
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(index.path) not in maps.read_text()
    for call in (
        lambda: index.search_dense(["a"], 1),
        lambda: index.search_lexical("a", 1),
        lambda: index.add([document(2)]),
        lambda: index.document("d1"),
        lambda: list(index.documents()),
        lambda: len(index),
        lambda: index.manifest,
        lambda: index.token_keys([]),
    ):
        with pytest.raises(IndexStoreError, match="was closed; open it again"):
            call()
    index.close()


def test_copies_and_pickles_open_the_index_again(build):
    index = build([document(1), document(2)])
    for other in (copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert other is not index and list(other.documents()) == list(index.documents())
        assert other.search_dense(["word2"], 1)[0].tolist() == index.search_dense(["word2"], 1)[0].tolist()
        other.close()
    assert len(index) == 2


@pytest.mark.parametrize("name", ["notes.txt", "documents.txt"])
def test_folder_with_other_files_is_left_alone(name, tmp_path, toy):
    (tmp_path / name).write_text("mine")
    with pytest.raises(IndexStoreError, match="not a Sightline index"):
        Index.build(tmp_path, [document(1)], encoder=toy)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None], ids=["folder", "file", "nothing"])
def test_what_is_no_index_is_not_opened_and_not_touched(make, tmp_path):
    path = tmp_path / "place"
    make(path)
    with pytest.raises(IndexStoreError, match="not a Sightline index"):
        Index.open(path)
    assert not path.is_dir() or not list(path.iterdir())


def test_newer_format_is_refused(build, monkeypatch):
    from sightline.retrieval import manifest

    index = build([document(1)])
    monkeypatch.setattr(manifest, "FORMAT", 99)
    with pytest.raises(IndexStoreError, match="index format 2, this version reads 99"):
        Index.open(index.path)


@pytest.mark.parametrize(
    "value", [{1, 2}, float("nan"), float("inf"), b"bytes", object(), "\ud800"], ids=lambda v: type(v).__name__
)
def test_metadata_that_json_cannot_hold_is_refused(value, build):
    with pytest.raises(DataError, match="document 'd1': its metadata cannot be kept as JSON"):
        build([document(1, field=value)])


def test_closed_index_says_so(build):
    index = build([document(1)])
    index.close()
    with pytest.raises(IndexStoreError, match="closed"):
        index.document("d1")


# -- going on with an interrupted build ------------------------------------------------------------------------------


def interrupted(numbers):
    yield from map(document, numbers)
    raise ZeroDivisionError


def test_resumed_build_equals_one_that_was_not_interrupted(build, small_batches):
    with pytest.raises(ZeroDivisionError):
        build(interrupted(range(10)))
    index = build(map(document, range(20)))
    whole = build(map(document, range(20)), name="whole")
    assert list(index.documents()) == list(whole.documents())
    np.testing.assert_array_equal(index.vectors(), whole.vectors())
    assert words(index, "common word3") == words(whole, "common word3")


def test_interrupted_build_keeps_whole_batches_and_can_be_searched(build, tmp_path, toy, small_batches):
    taken = []
    with pytest.raises(ZeroDivisionError):
        build(interrupted(range(10)), progress=taken.append)
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert not index.manifest.complete
        assert taken == [4, 8] and len(index) == 8
        assert meaning(index, document(7).text) == ["d7"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"faiss": "HNSW8"}, "faiss"),
        ({"faiss_parameters": "efSearch=3", "faiss": "HNSW8"}, "efSearch=3"),
        ({"lexical": "none"}, "lexical"),
        ({"token_states": "fp16"}, "token_states"),
        ({"max_tokens": 7}, "passages"),
        ({"max_tokens": 62, "overlap": 3}, "overlap"),
    ],
)
def test_resuming_with_other_settings_is_refused_by_name(other, named, build, small_batches):
    with pytest.raises(ZeroDivisionError):
        build(interrupted(range(10)))
    with pytest.raises(IndexMismatchError, match=named):
        build(map(document, range(20)), **other)


def test_resuming_with_another_encoder_is_refused_by_name(build, toy, small_batches):
    with pytest.raises(ZeroDivisionError):
        build(interrupted(range(10)))
    with pytest.raises(IndexMismatchError, match="encoder.*other"):
        build(map(document, range(20)), encoder=type(toy)(name="other", revision="other-1"))


# -- filters ---------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    'with "quotes"', "it's", "a.b", "$", "back\\slash", "[0]", "new\nline", "", "ü🙂", "x' OR '1'='1", 'x") OR 1=1 --',
    "%s?",
]  # fmt: skip
RECORDS = [
    {"year": 2000, "lang": "en", "flag": True, "size": 1.5},
    {"year": 2010, "lang": "de", "flag": False, "size": 2},
    {"year": "2010", "lang": None, "tags": ["en", "x"]},
    {"lang": "EN", "nested": {"year": 2000}},
    dict.fromkeys(ODD_NAMES, "odd"),
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("toys", Path(__file__).parents[1] / "conftest.py")
    toys = module_from_spec(spec)
    spec.loader.exec_module(toys)
    documents = [document(number, **record) for number, record in enumerate(RECORDS)]
    path = tmp_path_factory.mktemp("catalogue") / "index"
    with Index.build(path, documents, encoder=toys.ToyEncoder()) as index:
        yield index


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"year": 2010}, [1]),
        ({"year": "2010"}, [2]),
        ({"year": 2000.0}, [0]),
        ({"size": 1.5}, [0]),
        ({"flag": True}, [0]),
        ({"flag": False}, [1]),
        ({"lang": "en"}, [0]),
        ({"lang": ["en", "de", "fr"]}, [0, 1]),
        ({"lang": {"in": ["EN"]}}, [3]),
        ({"lang": []}, []),
        ({"lang": None}, [2, 4]),
        ({"lang": {"=": None}}, [2, 4]),
        ({"lang": {"!=": None}}, [0, 1, 3]),
        ({"lang": {"!=": "en"}}, [1, 3]),
        ({"tags": None}, [0, 1, 3, 4]),
        ({"tags": "en"}, [2]),
        ({"tags": ["x", "y"]}, [2]),
        ({"tags": {"!=": "en"}}, []),
        ({"tags": {"not in": ["y"]}}, [2]),
        ({"tags": {"!=": None}}, [2]),
        ({"tags": {">": "a"}}, [2]),
        ({"nested.year": 2000}, [3]),
        ({"nested.year": {"<": 2000}}, []),
        ({"nested": None}, [0, 1, 2, 4]),
        ({"year": (2000, 2010)}, [0, 1]),
        ({"year": np.int64(2010)}, [1]),
        ({"year": {"==": 2010}}, [1]),
        ({"year": 2**64}, []),
        ({"year": {">=": 2000, "<": 2010}}, [0]),
        ({"year": {">": 1}}, [0, 1]),
        ({"year": {">=": "1"}}, [2]),
        ({"year": {"<=": 2010}}, [0, 1]),
        ({"year": {"!=": 2000}}, [1, 2]),
        ({"year": 2000, "lang": "de"}, []),
        ({"size": {"<=": 2, ">": 1.5}}, [1]),
        ({"lang": "x' OR '1'='1"}, []),
        *(({name: "odd"}, [4]) for name in ODD_NAMES),
        *(({name: {"!=": None}}, [4]) for name in ODD_NAMES),
    ],
    ids=repr,
)
def test_filter_lets_through_what_meets_it(where, expected, catalogue):
    expected_ids = [f"d{number}" for number in expected]
    assert sorted(meaning(catalogue, "common", 5, where)) == expected_ids
    assert sorted(words(catalogue, "common", 5, where)) == expected_ids


@pytest.mark.parametrize(
    "where",
    [
        {"year": {"~": 1}},
        {"year": {"<": None}},
        {"year": {"=": [1]}},
        {"year": {"in": 1}},
        {"year": [None]},
        {"year": [[1]]},
        {"year": {}},
        {"year": Ellipsis},
        {"year": {"$gte": 2000}},
        {"year": {"<": True}},
        {"year": b"2000"},
        {"absent": 1},
        {"absent": {"<": 1}},
        {"absent": None},
        {"' OR 1=1 --": 1},
        {"flag": 1},
        {"size": "1.5"},
        {"size": {"!=": "1.5"}},
        {"nested": 2000},
        {"year": {"in": "2000"}},
        {f"field{n}": 1 for n in range(1000)},
        {"year": float("nan")},
        {"year": [float("nan")]},
        {"year": "\ud800"},
        {"\ud800": 1},
        {3: 1},
        {"year": {"= 1 OR 1": 1}},
        ["year"],
        "year=1",
    ],
    ids=ascii,
)
def test_filter_of_another_form_is_refused(where, catalogue):
    with pytest.raises(InputError, match="filter"):
        catalogue.search_dense(["common"], 5, where)


# -- passages --------------------------------------------------------------------------------------------------------

LONG = Document("long", " ".join(f"Sentence number{i} has five words." for i in range(30)), title="A title")


def test_long_document_is_cut_into_passages_that_cover_it(build):
    index = build([LONG, document(1)], max_tokens=20)
    passages = [stored.passage for stored in index.passages(range(index.counts()["passages"]))]
    mine = [passage for passage in passages if passage.document.id == "long"]
    assert len(mine) > 5
    assert " ".join(passage.text for passage in mine) == LONG.text
    assert mine[3].contents == f"A title {mine[3].text}"


def test_passage_is_found_by_its_own_words(build):
    index = build([LONG], max_tokens=20)
    hits = index.passages(index.search_lexical("number17", 5)[0])
    assert len(hits) == 1 and "number17" in hits[0].passage.text


def test_zero_tokens_keep_documents_whole_and_tell_what_was_cut(build):
    index = build([LONG], max_tokens=0, token_states="fp16")
    [stored] = index.passages([0])
    assert stored.passage.text == LONG.text
    assert stored.truncated == 152 - 62  # words of title and text, and what the toy reads


def test_a_long_document_is_read_once_and_not_with_each_of_its_passages(build):
    index = build([Document("long", "A word or two. " * 20_000)], max_tokens=100, token_states="none")
    rows = range(index.counts()["passages"])
    tracemalloc.start()
    try:
        assert {stored.passage.document.id for stored in index.passages(rows)} == {"long"}
        assert len(rows) > 500 and tracemalloc.get_traced_memory()[1] < 10e6  # the text has 300 KB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -1},
        {"max_tokens": 2.5},
        {"max_tokens": 5, "overlap": 5},
        {"lexical": "lucene"},
        {"token_states": None},
        {"encoder": None},
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(options, build, tmp_path):
    with pytest.raises(InputError):
        build([document(1)], **options)
    assert not (tmp_path / "index").exists()


def test_deleting_a_document_deletes_all_its_passages(build):
    index = build([LONG, document(1)], max_tokens=20)
    index.delete(["long"])
    assert index.counts() == {"documents": 1, "passages": 1, "deleted_documents": 1}
    assert words(index, "sentence") == []


# -- FAISS -----------------------------------------------------------------------------------------------------------

FACTORIES = ["Flat", "HNSW32", "IVF16,Flat", "IVF16,SQ8", "PQ8x4", "IVF16,PQ8x4fs,RFlat"]
QUERIES = [f"common word{number} end{number % 3}" for number in range(0, 700, 35)]


class Vectors:
    """An encoder whose texts are numbers, and name rows of fixed random vectors in a few clusters."""

    name, revision, dim, max_length = "vectors", "1", 32, 64

    def __init__(self):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(20, 32))
        rows = centres[rng.integers(20, size=3000)] + 0.5 * rng.normal(size=(3000, 32))
        self.rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def token_offsets(self, text):
        return [(0, len(text))]

    def encode_documents(self, texts):
        return np.stack([self.rows[int(text) if text.isdigit() else 0] for text in texts])

    encode_queries = encode_documents


def numbered(start, stop):
    return (Document(f"n{i}", str(i), metadata={"half": i % 2, "tenth": i % 10}) for i in range(start, stop))


NUMBERS = [str(number) for number in range(2000, 2020)]


def exact(index, k, allowed):
    """Brute force over the rows that may be found."""
    scores = Vectors().encode_queries(NUMBERS) @ index.vectors().T
    rows = np.flatnonzero(allowed)
    order = np.argsort(-scores[:, rows], axis=1, kind="stable")[:, :k]
    return rows[order], scores


def assert_close_to_exact(index, k=10, where=None, allowed=None, least=0.9):
    allowed = np.ones(len(index.vectors()), dtype=bool) if allowed is None else allowed
    rows, scores = index.search_dense(NUMBERS, k, where)
    expected, all_scores = exact(index, k, allowed)
    assert (rows >= 0).all() and allowed[rows].all()
    np.testing.assert_allclose(scores, np.take_along_axis(all_scores, rows, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == k for row in rows.tolist())
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(rows.tolist(), expected.tolist(), strict=True)])
    assert recall >= (1.0 if index.manifest.faiss.factory == "Flat" else least)


@pytest.mark.parametrize("factory", FACTORIES)
def test_structure_agrees_with_exact_search_through_all_changes(factory, build):
    least = 0.7 if "PQ" in factory else 0.9  # PQ8x4 keeps 4 of 128 bytes; built at once it does no better
    index = build(numbered(0, 1000), encoder=Vectors(), faiss=factory, lexical="none")
    assert_close_to_exact(index, least=least)
    assert_close_to_exact(index, least=least, where={"half": 1}, allowed=np.arange(1000) % 2 == 1)
    assert_close_to_exact(index, least=least, where={"tenth": 3}, allowed=np.arange(1000) % 10 == 3)

    index.add(numbered(1000, 1400))
    assert_close_to_exact(index, least=least)
    index.delete(f"n{i}" for i in range(0, 1400, 3))
    live = np.arange(1400) % 3 != 0
    assert_close_to_exact(index, least=least, allowed=live)
    assert_close_to_exact(index, least=least, where={"half": 0}, allowed=live & (np.arange(1400) % 2 == 0))
    with Index.open(index.path, encoder=Vectors()) as again:
        assert_close_to_exact(again, least=least, allowed=live)


@pytest.mark.parametrize("factory", [factory for factory in FACTORIES if factory != "Flat"])
def test_rows_beyond_the_structure_are_searched_exactly(factory, build, monkeypatch):
    index = build(numbered(0, 1000), encoder=Vectors(), faiss=factory)
    monkeypatch.setattr(index._writer, "finish", lambda: None)
    index.add(numbered(1000, 2010))
    assert index.manifest.faiss.rows == 1000
    assert_close_to_exact(index)
    assert index.search_dense(NUMBERS[:10], 1)[0][:, 0].tolist() == list(range(2000, 2010))


def test_structure_grows_until_it_is_trained_anew(build):
    index = build(numbered(0, 700), encoder=Vectors(), faiss="IVF16,Flat")
    index.add(numbered(700, 1300))
    assert (index.manifest.faiss.rows, index.manifest.faiss.trained) == (1300, 700)
    index.add(numbered(1300, 1500))
    assert (index.manifest.faiss.rows, index.manifest.faiss.trained) == (1500, 1500)
    assert [file.name for file in index.path.glob("*.faiss*")] == ["vectors-1500.faiss"]
    assert_close_to_exact(index)


def test_filter_that_the_probed_lists_do_not_meet_still_finds_its_documents(build):
    encoder = Vectors()
    near = np.argsort(-(encoder.rows[:1000] @ encoder.rows[2000]))
    documents = list(numbered(0, 1000))
    for i in near[:600].tolist():
        documents[i] = Document(f"n{i}", str(i), metadata={"near": True})
    index = build(documents, encoder=encoder, faiss="IVF16,Flat", faiss_parameters="nprobe=1")
    rows, _ = index.search_dense(["2000"], 10, {"near": None})
    assert rows[0].tolist() == near[600:610].tolist()


def test_too_few_vectors_are_told_and_the_index_is_searched_exactly(build, tmp_path):
    with pytest.raises(InputError, match=r"FAISS cannot build 'IVF16,Flat' over 10 vectors"):
        build(numbered(0, 10), encoder=Vectors(), faiss="IVF16,Flat")
    with Index.open(tmp_path / "index", encoder=Vectors()) as index:
        assert_close_to_exact(index, k=3)
        index.add(numbered(10, 700))
        assert index.manifest.faiss.rows == 700
        assert_close_to_exact(index)


@pytest.mark.parametrize(
    ("factory", "parameters", "message"),
    [
        ("Nonsense", "", "FAISS cannot make 'Nonsense'"),
        ("IVF16,PQ5", "", "FAISS cannot make 'IVF16,PQ5' for dimension 32"),
        ("IVF16,Flat", "nonsense=3", "FAISS does not know the search parameters 'nonsense=3'"),
        ("HNSW32", "nprobe=3", "FAISS does not know the search parameters 'nprobe=3' for 'HNSW32'"),
    ],
)
def test_unknown_faiss_settings_are_refused_before_anything_is_made(factory, parameters, message, build, tmp_path):
    with pytest.raises(InputError, match=message):
        build(numbered(0, 700), encoder=Vectors(), faiss=factory, faiss_parameters=parameters)
    assert not (tmp_path / "index").exists()


def test_search_parameters_reach_faiss(build, monkeypatch):
    index = build(numbered(0, 1000), encoder=Vectors(), faiss="IVF16,Flat", faiss_parameters="nprobe=16")
    assert_close_to_exact(index, least=1.0)
    assert faiss.extract_index_ivf(index._files.vector_index(index._files.now())._structure).nprobe == 16


class Grid(Vectors):
    """Small whole numbers in few dimensions: scores without rounding, and full of ties."""

    dim = 4

    def __init__(self):
        self.rows = np.random.default_rng(1).integers(-1, 2, size=(3000, 4)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 2, 10, 150, 500])
@pytest.mark.parametrize("where", [None, {"half": 1}, {"tenth": 3}], ids=["all", "half", "a tenth"])
def test_flat_is_brute_force_with_ties_by_row(k, where, build):
    index = build(numbered(0, 400), encoder=Grid(), lexical="none")
    rows, scores = index.search_dense(NUMBERS, k, where)
    every = np.arange(400)
    allowed = every[{None: every >= 0, "half": every % 2 == 1, "tenth": every % 10 == 3}[next(iter(where or [None]))]]
    full = Grid().encode_queries(NUMBERS) @ index.vectors()[allowed].T
    order = np.lexsort((np.broadcast_to(allowed, full.shape), -full), axis=1)[:, :k]
    width = order.shape[1]
    np.testing.assert_array_equal(rows[:, :width], allowed[order])
    np.testing.assert_array_equal(scores[:, :width], np.take_along_axis(full, order, axis=1))
    assert (rows[:, width:] == -1).all() and np.isneginf(scores[:, width:]).all()


def test_more_queries_than_are_searched_at_once_keep_their_order(build):
    index = build(numbered(0, 300), encoder=Vectors())
    rows, _ = index.search_dense([str(i) for i in range(300)], 1)
    assert rows[:, 0].tolist() == list(range(300))


def test_no_queries_and_no_documents_find_nothing(tmp_path, toy):
    with Index.create(tmp_path / "index", encoder=toy) as index:
        rows, scores = index.search_dense(["word"], 3)
        assert rows.shape == scores.shape == (1, 0)
        assert index.search_dense([], 3)[0].shape == (0, 0)
        assert len(index.search_lexical("word", 3)[0]) == 0


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k, catalogue):
    with pytest.raises(InputError, match="k must be at least 1"):
        catalogue.search_dense(["common"], k)
    with pytest.raises(InputError, match="k must be at least 1"):
        catalogue.search_lexical("common", k)


# -- encoders --------------------------------------------------------------------------------------------------------


def test_encoder_of_another_dimension_is_refused_by_name(build, toy):
    index = build([document(1)])
    with pytest.raises(IndexMismatchError, match=r"encoder 'toy' \(dimension 32\), and 'toy' \(dimension 16\)"):
        Index.open(index.path, encoder=type(toy)(dim=16))


def test_encoder_that_gives_other_embeddings_is_refused_by_name(build, toy):
    index = build([document(1)])
    with pytest.raises(IndexMismatchError, match="'toy'.*'other'"):
        Index.open(index.path, encoder=type(toy)(name="other", revision=""))


def test_same_encoder_under_another_name_is_accepted(build, toy):
    path = build(map(document, range(5))).path
    alias = type(toy)()
    alias.name, alias.revision = "another name", ""
    alias._word = toy._word
    with Index.open(path, encoder=alias) as index:
        assert meaning(index, document(3).text) == ["d3"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad, build, toy):
    def broken(texts):
        vectors = toy.encode_queries(texts)
        vectors[["sick" in text for text in texts], 3] = bad
        return vectors

    index = build([document(1)], token_states="none")
    toy.encode_documents = broken
    with pytest.raises(DataError, match="NaN or infinity for a passage that begins 'sick one"):
        index.add([document(2), document(3, "sick one")])
    assert len(index) == 1


def test_query_embedding_that_is_not_finite_is_refused(build, toy):
    index = build(map(document, range(5)))
    toy.encode_queries = lambda texts: np.full((len(texts), 32), np.nan, dtype=np.float32)
    with pytest.raises(InputError, match="NaN or infinity for a query"):
        index.search_dense(["word"], 1)


# -- several handles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_open_reader_sees_each_commit_of_another(factory, build):
    writer = build(numbered(0, 700), encoder=Vectors(), faiss=factory)
    with Index.open(writer.path, encoder=Vectors()) as reader:
        writer.add(numbered(700, 2010))
        writer.delete(["n5"])
        assert reader.search_dense(["2009"], 1)[0].tolist() == [[2009]]
        assert 5 not in reader.search_dense(["5"], 10)[0]
        assert words(reader, "650") == ["n650"] and words(reader, "2009") == ["n2009"]
        assert reader.passages([5, 6])[0].passage.document.id == "n6"
    with Index.open(writer.path, encoder=Vectors()) as reader:
        assert reader.search_dense(["2009"], 1)[0].tolist() == [[2009]]


def test_lexical_search_of_a_reader_is_as_deep_as_it_was(build):
    writer = build(map(document, range(10)))
    with Index.open(writer.path) as reader:
        writer.add(document(number, "common") for number in range(10, 40))
        assert sorted(words(reader, "common", 5)) == sorted(words(reader, "common", 10)[:5])
        assert len(words(reader, "common", 10)) == 10


def test_reader_keeps_answering_while_another_handle_writes(build, toy, small_batches):
    writer = build(map(document, range(20)))
    failures, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                with Index.open(writer.path, encoder=type(toy)()) as reader:
                    assert meaning(reader, document(3).text) == ["d3"]
                    assert "d3" in words(reader, "common word3", 100)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for start in range(20, 80, 12):
            writer.add(map(document, range(start, start + 12)))
            writer.delete([f"d{start}"])
    finally:
        done.set()
        thread.join()
    assert not failures


def test_handle_that_another_one_overtook_writes_on_from_there(build):
    first = build(numbered(0, 700), encoder=Vectors(), faiss="IVF16,Flat")
    with Index.open(first.path, encoder=Vectors()) as second:
        second.add(numbered(700, 900))
        first.add(numbered(900, 1000))
    with Index.open(first.path, encoder=Vectors()) as index:
        assert len(index) == 1000
        assert_close_to_exact(index)


def test_second_writer_is_refused_while_another_process_writes(build):
    index = build(map(document, range(5)))
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(index.path / ".writer.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    holder.stdout.readline()
    for change in (lambda: index.add([document(7)]), lambda: index.delete(["d1"]), lambda: index.update([document(1)])):
        with pytest.raises(IndexLockedError, match="another process is writing"):
            change()
    assert words(index, "word3") == ["d3"]
    holder.communicate("go")
    assert index.add([document(7)]) == 1


def test_index_on_a_read_only_file_system_is_searched_and_not_changed(build, tmp_path, toy):
    path = build(map(document, range(5))).path
    place = tmp_path / "frozen"
    place.mkdir()
    bound = subprocess.run(["mount", "--bind", str(path), str(place)], capture_output=True, text=True)
    if bound.returncode:
        pytest.skip(f"nothing can be mounted here: {bound.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        with Index.open(place, encoder=toy) as index:
            assert meaning(index, document(3).text) == ["d3"] and words(index, "word3") == ["d3"]
            with pytest.raises(IndexStoreError, match="[Rr]ead-only"):
                index.add([document(7)])
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


# -- token states ----------------------------------------------------------------------------------------------------


def kept_as(kind, states):
    """What comes back of states that are kept in a form."""
    form = states_form(kind, states.shape[1])
    table = None if form.codes is None else form.learn(states)
    half = len(states) // 2
    [first, second] = form.decode(form.encode(states, table), [(0, half), (half, len(states))], table)
    return torch.cat([to_float(first), to_float(second)]).numpy()


def some_states(count=500, dim=48):
    states = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    return states / np.linalg.norm(states, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "bound"), [("fp16", 2**-11), ("int8", 0.5 / 127), ("int4", 0.5 / 7)])
def test_kept_states_are_as_near_as_their_form_allows(kind, bound):
    states = some_states()
    states[7] = 0
    back = kept_as(kind, states)
    largest = np.abs(states).max(axis=1, keepdims=True)
    assert (np.abs(back - states) <= bound * largest * 1.0001).all()


@pytest.mark.parametrize("kind", ["fp16", "int8", "int4", "pq12"])
def test_no_states_are_kept_and_come_back(kind):
    form = states_form(kind, 48)
    [nothing] = form.decode(form.encode(np.empty((0, 48), dtype=np.float32)), [(0, 0)])
    assert to_float(nothing).shape == (0, 48)


def test_product_quantisation_keeps_the_nearest_centroids():
    states = some_states(2000)
    form = states_form("pq12", 48)
    table = form.learn(states)
    rows = form.encode(states, table)
    assert rows.shape == (2000, 12) and rows.dtype == np.uint8
    parts, centroids = states.reshape(2000, 12, 1, 4), table.reshape(1, 12, 256, 4)
    assert (rows == ((parts - centroids) ** 2).sum(axis=-1).argmin(axis=-1)).mean() > 0.999  # but for ties by rounding
    exact = (
        np.take_along_axis(centroids[0], rows.T[:, :, None].astype(int), axis=1).transpose(1, 0, 2).reshape(2000, 48)
    )
    np.testing.assert_allclose(kept_as("pq12", states), exact, atol=1e-6)
    # As near as FAISS's own quantiser comes, and nearer with more bytes.
    theirs = faiss.ProductQuantizer(48, 12, 8)
    theirs.train(states)
    error = ((theirs.decode(theirs.compute_codes(states)) - states) ** 2).mean()
    assert ((exact - states) ** 2).mean() == pytest.approx(error, rel=0.02)
    assert ((kept_as("pq24", states) - states) ** 2).mean() < error / 2


def test_product_quantisation_of_a_few_states_loses_almost_nothing():
    states = some_states(20)
    np.testing.assert_allclose(kept_as("pq8", states), states, atol=0.004)


@pytest.mark.parametrize("kind", ["int9", "pq", "pq0", "pq7", "pq-4", "PQ48", "fp16 ", "pq999999"])
def test_a_form_that_is_none_is_refused(kind):
    with pytest.raises(InputError, match="token states? (are kept as|into)"):
        states_form(kind, 48)


def test_an_interrupted_build_of_learnt_states_gives_the_same_index(tmp_path, toy, small_batches):
    def interrupted():
        yield from map(document, range(7))
        raise KeyboardInterrupt

    settings = {"encoder": toy, "token_states": "pq8"}
    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path / "cut", interrupted(), **settings)
    for name in ("cut", "whole"):
        Index.build(tmp_path / name, map(document, range(12)), **settings).close()
    for file in ("states.table", "states.pq8"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with Index.open(tmp_path / "cut", encoder=toy) as index:  # the first batch is what was learnt from
        [keys] = index.token_keys(index.passages([0]))
        read = toy.read([document(0).contents]).states
        np.testing.assert_allclose(to_float(keys).numpy(), read, atol=0.01)
    damaged = bytearray((tmp_path / "cut" / "states.table").read_bytes())
    damaged[5] ^= 1
    (tmp_path / "cut" / "states.table").write_bytes(damaged)
    with pytest.raises(IndexCorruptError, match=r"states\.table: bytes 0 to \d+ are not what was written"):
        Index.open(tmp_path / "cut", encoder=toy)


@pytest.mark.parametrize(("kind", "near"), [("fp16", 0.0005), ("int8", 0.005), ("int4", 0.08)])
def test_index_gives_back_the_states_of_each_passage(kind, near, build, toy, small_batches):
    index = build(map(document, range(10)), token_states=kind)
    index.delete(["d2"])
    index.add([document(20)])
    with Index.open(index.path, encoder=toy) as index:
        for row, keys in zip([10, 3], index.token_keys(index.passages([10, 3])), strict=True):
            read = toy.read([index.passages([row])[0].passage.contents]).states
            np.testing.assert_allclose(to_float(keys).numpy(), read, atol=near)


@pytest.mark.parametrize("dim", [32, 33])
@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_index_gives_back_the_characters_of_each_state(kind, dim, tmp_path, toy, small_batches):
    encoder = type(toy)(dim)
    far = "cat" + " " * 65_530 + "x"
    texts = ["Cats purr.", "!!!", far, far + " y", "Dogs bark at cats."]
    documents = [Document(str(i), text, title="Pets" if i % 2 else "") for i, text in enumerate(texts)]
    with Index.build(tmp_path / "index", documents, encoder=encoder, token_states=kind, max_tokens=0) as index:
        index.delete(["0"])
        index.add([documents[0]])
        stored = index.passages(range(1, 6))
        spans = index.token_spans(stored)
        for passage, keys, found in zip(stored, index.token_keys(stored), spans, strict=True):
            expected = encoder.spans([passage.passage.contents])[0]
            if expected.size and expected.max() > 65_534:
                assert found is None
            else:
                assert found.tolist() == expected.tolist()
            assert len(keys.values if kind == "int8" else keys) == len(expected)
        assert [found is None for found in spans] == [False, False, True, False, False]
        assert index_bytes(index.path)["token states"] == sum(
            (index.path / name).stat().st_size for name in (f"states.{kind}", "states.spans")
        )


def test_index_of_before_keeps_no_spans_and_takes_more_documents(build, toy, small_batches):
    """As an earlier version wrote it: the manifest without the field, and no file."""
    index = build(map(document, range(5)))
    kept = index.token_spans(index.passages(range(5)))
    index.close()
    with Index.open(index.path, encoder=toy) as index:
        manifest = index.manifest
        with index._files.store.transaction():
            index._files.store.connection.execute("DELETE FROM segments WHERE file = 'states.spans'")
        old = dataclasses.replace(manifest, token_states=dataclasses.replace(manifest.token_states, spans=None))
        old.save(index.path)
        (index.path / "states.spans").unlink()
        index._writer._sign(old)
    with Index.open(index.path, encoder=toy) as index:
        assert index.token_spans(index.passages(range(5))) is None
        index.add([document(20)])
        index.update([document(2)])
        index.verify()
        assert index.token_spans(index.passages(range(7))) is None and not (index.path / "states.spans").exists()
    build([*(document(i) for i in (0, 1, 3, 4, 20, 2))])  # complete already, with equal settings
    fresh = build(map(document, range(5)), "fresh")
    assert [a.tolist() for a in fresh.token_spans(fresh.passages(range(5)))] == [a.tolist() for a in kept]


def test_texts_without_tokens_keep_no_states(build):
    index = build([document(1, "!!!")], token_states="fp16")
    index.add([document(2, "???")])
    index.add([document(3, "...")])
    index.add([document(4)])
    assert [len(keys) for keys in index.token_keys(index.passages([0, 1, 2, 3]))] == [0, 0, 0, 4]


def test_index_without_states_says_so(build):
    index = build([document(1)], token_states="none")
    assert index.token_keys([]) is index.token_spans([]) is None


# -- BM25 ------------------------------------------------------------------------------------------------------------


def test_lexical_search_ranks_rare_words_first_and_ties_by_row(build):
    index = build(
        [document(1, "cats purr"), document(2, "dogs purr"), document(3, "dogs bark"), document(4, "dogs purr")]
    )
    assert words(index, "cats purr") == ["d1", "d2", "d4"]
    assert words(index, "cats purr", 2) == ["d1", "d2"]


@pytest.mark.parametrize(
    "query",
    [
        '"', '""', "' OR 1=1; --", "a AND b NOT c", "NEAR(a b)", "word3*", "contents:word3", "^word3", "-word3",
        "{word3}",         "word3\x00word4", "\x00", "\ud800", "🙂👩‍👩‍👧", "日本語の文章",
        "the of and", "the", "!!! ... ???", "", " \n\t ",
        " ".join(f"term{i}" for i in range(5000)), "x" * 1_000_000, "(" * 5000, "²³ ½ _ __", "İstanbul ſtraße",
    ],
    ids=lambda query: ascii(query[:12]),
)  # fmt: skip
def test_hostile_query_is_only_words(query, catalogue):
    rows, scores = catalogue.search_lexical(query, 10)
    assert len(rows) == len(scores)
    assert words(catalogue, query, where={"year": 2000}) in ([], ["d0"])


def test_query_that_is_all_stop_words_finds_them(build):
    index = build([document(1, "to be or not to be"), document(2, "something else")])
    assert words(index, "to be or not to be") == ["d1"]


def test_index_without_a_lexical_engine_says_so(build):
    with pytest.raises(InputError, match="built without a lexical index"):
        build([document(1)], lexical="none").search_lexical("word", 3)


# -- any sequence of changes -----------------------------------------------------------------------------------------

SOME_IDS = st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "update", "delete"]), SOME_IDS) | st.tuples(st.just("reopen"), st.just([])),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(OPERATIONS, st.sampled_from(["Flat", "HNSW8"]))
def test_index_equals_a_dictionary_after_any_changes(tmp_path_factory, operations, factory):
    conftest = Path(__file__).parents[1] / "conftest.py"
    space = {}
    exec(compile(conftest.read_text(), str(conftest), "exec"), space)
    toy = space["ToyEncoder"]()
    path = tmp_path_factory.mktemp("any") / "index"
    model = {"d9": document(9, "common first9", step=-1)}
    index = Index.build(path, model.values(), encoder=toy, faiss=factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BATCH_PASSAGES", 2)
        for step, (operation, numbers) in enumerate(operations):
            new = {f"d{n}": document(n, f"common step{step} word{n}", step=step) for n in numbers}
            if operation == "reopen":
                index.close()
                index = Index.open(path, encoder=toy)
            elif operation == "add":
                new = {id: added for id, added in new.items() if id not in model}
                assert index.add(new.values()) == len(new)
                model |= new
            elif operation == "update":
                index.update(new.values())
                for id in new:
                    model.pop(id, None)
                model |= new
            elif any(id not in model for id in new):
                with pytest.raises(InputError):
                    index.delete(new)
            else:
                index.delete(new)
                for id in new:
                    del model[id]
            assert list(index.documents()) == list(model.values())
            assert sorted(words(index, "common")) == sorted(meaning(index, "common", 20)) == sorted(model)
            assert index.counts()["documents"] == len(model)
            latest = sorted(id for id, kept in model.items() if kept.metadata.get("step") == step)
            assert sorted(words(index, f"step{step}")) == latest
            assert sorted(meaning(index, "common", 20, {"step": step})) == latest
    index.close()
    assert json.loads((path / "manifest.json").read_text())["complete"]


def test_documents_are_read_in_the_number_format_that_is_asked_for_and_queries_never(tmp_path, toy):
    texts = ["Cats purr when they are content.", "The Danube flows through ten countries."]
    with (
        Index.build(tmp_path / "exact", texts) as exact,
        Index.build(tmp_path / "half", texts, dtype="bfloat16") as half,
    ):
        cosines = (exact.vectors() * half.vectors()).sum(axis=1)
        assert cosines.min() > 0.999 and np.abs(exact.vectors() - half.vectors()).max() > 1e-5
        assert half.manifest.settings() == exact.manifest.settings() and half.encoder is exact.encoder
        assert half.encoder.dtype == "float32"
    with Index.build(tmp_path / "half", texts, dtype="bfloat16") as finished:  # nothing to do
        assert finished.encoder.dtype == "float32"
    with pytest.raises(InputError, match="bfloat16' or 'float16', not 'int3'"):
        Index.build(tmp_path / "none", texts, dtype="int3")
    with pytest.raises(InputError, match="for an encoder given by name"):
        Index.build(tmp_path / "none", texts, encoder=toy, dtype="bfloat16")
    assert not (tmp_path / "none").exists()
