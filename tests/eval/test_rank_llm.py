"""Requests of rank_llm: read, written, and what is wrong with them told with its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import DataError, InputError
from sightline.eval.rank_llm import parse_requests, write_requests


def request(qid="q1", text="why", candidates=(("d1", 2.0, {"text": "one"}), ("d2", 1, {"text": "two"}))):
    listed = [{"docid": docid, "score": score, "doc": doc} for docid, score, doc in candidates]
    return {"query": {"text": text, "qid": qid}, "candidates": listed}


def write(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def test_queries_documents_and_order(tmp_path):
    path = write(
        tmp_path / "zoo.jsonl",
        request(3, "who", [(7, 2, {"title": "T", "segment": "s", "url": "u"}), ("d", 1.5, {"contents": "c"})]),
        request("q2", "why", [("d", 0.5, {"contents": "c"})]),
    )
    dataset, run = parse_requests(path)
    assert (dataset.name, dataset.folder, dataset.qrels) == ("zoo", path, {})
    assert dataset.queries == {"3": "who", "q2": "why"}
    assert run == {"3": {"7": 2.0, "d": 1.5}, "q2": {"d": 0.5}}
    assert list(dataset.documents()) == [Document("7", "s", "T", {"url": "u"}), Document("d", "c")]
    assert [d.id for d in dataset.documents(only={"d"})] == ["d"]


@pytest.mark.parametrize("field", ["text", "segment", "contents", "content", "body", "passage"])
def test_the_text_is_where_rank_llm_looks_for_it(tmp_path, field):
    path = write(
        tmp_path / "r.jsonl", request(candidates=[("d", 1, {field: "it", "passage": "it", "text": ""} | {field: "it"})])
    )
    assert next(parse_requests(path)[0].documents()).text == "it"


def test_the_order_of_the_list_counts_whatever_the_scores(tmp_path):
    docs = [("b", 1.0, {"text": "b"}), ("c", 1.0, {"text": "c"}), ("a", 5.0, {"text": "a"})]
    _, run = parse_requests(write(tmp_path / "r.jsonl", request(candidates=docs)))
    scores = run["q1"]
    assert list(scores) == ["b", "c", "a"] and scores["b"] > scores["c"] > scores["a"] > 0.999


GOOD = request("q0", "good", [("d1", 1, {"text": "one"})])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("not json", "not JSON"),
        ("[]", "not a request"),
        ({"query": "why", "candidates": []}, "not a request"),
        ({"query": {"text": "why"}, "candidates": []}, "not a request"),
        ({"query": {"text": "why", "qid": "q"}}, "not a request"),
        (request("q0"), "'q0' occurs twice"),
        (request(text=" "), "empty"),
        (request(text="\ud800"), "surrogate"),
        (request(candidates=[]), "'q1' has no candidates"),
        (request(candidates=[("d", None, {"text": "t"})]), "candidate 0 is not one"),
        (request(candidates=[("d", 1, "t")]), "candidate 0 is not one"),
        (request(candidates=[(None, 1, {"text": "t"})]), "candidate 0 is not one"),
        (request(candidates=[("d", float("nan"), {"text": "t"})]), "not a finite number"),
        (request(candidates=[("d", True, {"text": "t"})]), "not a finite number"),
        (request(candidates=[("d", 1, {"title": "t"})]), "'d' has no text"),
        (request(candidates=[("d", 1, {"text": 7})]), "field 'text' must be a string"),
        (request(candidates=[("", 1, {"text": "t"})]), "field 'id' is empty"),
        (
            request(candidates=[("d", 2, {"text": "t"}), ("d", 1, {"text": "t"})]),
            "candidate 1: the document 'd' occurs twice",
        ),
        (request(candidates=[("d1", 1, {"text": "another"})]), "'d1' has a different text"),
    ],
    ids=str,
)
def test_a_bad_line_is_named(tmp_path, bad, said):
    path = write(tmp_path / "r.jsonl", GOOD, "", bad)
    with pytest.raises(DataError, match=said) as caught:
        parse_requests(path)
    assert (caught.value.path, caught.value.line) == (path, 3)


def test_an_empty_and_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="holds no request"):
        parse_requests(write(tmp_path / "r.jsonl", ""))
    with pytest.raises(DataError, match="cannot be read"):
        parse_requests(tmp_path / "none.jsonl")


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.dictionaries(words, words, min_size=1, max_size=3),
    st.dictionaries(words, words, min_size=1, max_size=5),
    st.randoms(),
)
def test_what_is_written_reads_back(tmp_path_factory, queries, documents, random):
    run = {q: {d: random.choice([0.0, 1.0, 1.5]) for d in documents} for q in queries}
    folder = tmp_path_factory.mktemp("requests")
    given = write(
        folder / "given.jsonl",
        *(
            request(
                q, queries[q], [(d, s, {"text": documents[d], "title": "T", "lang": "en"}) for d, s in run[q].items()]
            )
            for q in queries
        ),
    )
    dataset, _ = parse_requests(given)
    write_requests(folder / "again.jsonl", dataset, run)
    again, read = parse_requests(folder / "again.jsonl")
    assert read == run and again.queries == dataset.queries
    assert {d.id: d for d in again.documents()} == {d.id: d for d in dataset.documents()}


def test_what_cannot_be_written_leaves_the_file(tmp_path):
    dataset, run = parse_requests(write(tmp_path / "r.jsonl", GOOD))
    path = write(tmp_path / "out.jsonl", "former")
    for bad, said in [
        ({}, "no result"),
        ({"q0": {}}, "no result"),
        ({"q9": {"d1": 1.0}}, "'q9' has no text"),
        ({"q0": {"d9": 1.0}}, "'d9' is not in the corpus"),
        ({"q0": {"d1": float("nan")}}, "not finite"),
    ]:
        with pytest.raises((DataError, InputError), match=said):
            write_requests(path, dataset, bad)
    assert path.read_text() == "former\n"
    with pytest.raises(DataError, match="cannot be written"):
        write_requests(tmp_path / "none" / "out.jsonl", dataset, run)
