"""Examples of judged collections and of JSONL: what counts as what, and what is said of bad input."""

import json
import logging
import math

import pytest

from sightline.documents import Document
from sightline.errors import DataError, InputError
from sightline.eval.loading import load_dataset
from sightline.training.examples import (
    Example,
    Source,
    dataset_examples,
    load_examples,
    load_sources,
    parse_examples,
    text_key,
    write_examples,
)

TEXTS = {"a": "Alpha.", "b": "Beta.", "c": "Gamma.", "d": "Delta.", "e": "Epsilon."}
QRELS = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"d": 1, "ghost": 1}, "q3": {"e": 0}}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "zoo"
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", TEXTS), ("queries", {q: f"question {q}" for q in QRELS})):
        lines = (json.dumps({"_id": id, "text": text}) + "\n" for id, text in rows.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    lines = "".join(f"{q}\t{d}\t{g}\n" for q, grades in QRELS.items() for d, g in grades.items())
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    (folder / "bm25.train.tsv").write_text("q1\te a d\nq2\ta b\nq3\ta\n")
    return folder


def ids(documents):
    return [document.id for document in documents]


def test_grades_make_positives_negatives_and_neither(folder, caplog):
    run = {"q1": {"d": 1.0, "b": 2.0}, "q2": {"c": 1.0}}
    with caplog.at_level(logging.WARNING):
        first, second = load_examples(Source(str(folder)), [run], min_grade=2) + load_examples(Source(str(folder)))[1:]
    assert (ids(first.positives), ids(first.excluded)) == (["a"], ["b"])
    assert [ids(pool) for pool in first.pools] == [["e", "d"], ["d"], ["c"]]  # bm25, the run, judged
    assert ids(second.positives) == ["d"] and second.source == "zoo"
    assert "1 judged documents are not in the corpus" in caplog.text
    assert "2 queries have no positive" in caplog.text  # with min_grade 2


def test_depth_cuts_each_first_stage(folder):
    (first, _) = load_examples(Source(str(folder)), candidates=1)
    assert [ids(pool) for pool in first.pools] == [["e"], ["c"]]


def test_a_candidate_without_a_text_is_named(folder):
    with pytest.raises(DataError, match="'q1'.*'nowhere'"):
        dataset_examples(load_dataset(folder, "train"), [{"q1": {"nowhere": 1.0}}])


def test_a_collection_without_positives_is_refused(folder):
    with pytest.raises(InputError, match="grade 3 or more"):
        load_examples(Source(str(folder)), min_grade=3)


def test_a_document_with_the_querys_id_is_the_query_unless_it_is_judged(folder):
    (folder / "corpus.jsonl").write_text('{"_id": "q1", "text": "itself"}\n' + (folder / "corpus.jsonl").read_text())
    (folder / "bm25.train.tsv").write_text("q1\tq1 e\n")
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")
    (only,) = load_examples(Source(str(folder)))
    assert (ids(only.positives), ids(only.pools[0])) == (["a"], ["e"])
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tq1\t1\n")
    (only,) = load_examples(Source(str(folder)))
    assert (ids(only.positives), ids(only.pools[0])) == (["q1"], ["e"])  # as in PubMedQA


def test_runs_go_to_their_source(folder, tmp_path):
    (tmp_path / "other.trec").write_text("q1 Q0 d 1 2 x\n")
    examples = load_sources([Source(str(folder))], [("zoo", tmp_path / "other.trec")])
    assert [ids(pool) for pool in examples[0].pools] == [["e", "d"], ["d"], ["c"]]
    with pytest.raises(InputError, match="a run is for 'nq'; the sources are zoo"):
        load_sources([Source(str(folder))], [("nq", tmp_path / "other.trec")])
    with pytest.raises(InputError, match="two sources are called 'zoo'"):
        load_sources([Source(str(folder)), Source(str(folder), "dev")])


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("data/nq", Source("data/nq")),
        ("data/nq:dev", Source("data/nq", "dev")),
        ("data/nq@0.25", Source("data/nq", weight=0.25)),
        ("mteb:SciFact", Source("mteb:SciFact")),
        ("mteb:SciFact:test@2", Source("mteb:SciFact", "test", 2.0)),
        ("a@b/nq", Source("a@b/nq")),
        ("lists.jsonl", Source("lists.jsonl")),
    ],
)
def test_sources_are_read(text, source):
    assert Source.parse(text) == source


def test_names_are_those_of_folders_files_and_catalogues():
    names = [
        Source.parse(text).name for text in ("data/nq:dev", "x/hard.jsonl@2", "mteb:SciFact", "ir:beir/scifact/train")
    ]
    assert names == ["nq", "hard", "mteb:SciFact", "ir:beir/scifact/train"]


@pytest.mark.parametrize("text", ["", ":dev", "nq:", "nq@0", "nq@-1", "nq@nan"])
def test_bad_sources(text):
    with pytest.raises(InputError):
        Source.parse(text)


def test_jsonl_is_read_and_written_back(tmp_path):
    path = tmp_path / "hard.jsonl"
    record = {
        "query": "wer schläft",
        "pos": ["Katzen.", {"title": "T", "text": "Auch."}],
        "neg": ["Hunde.", "Kühe."],
        "pos_scores": [3.5, None],
        "neg_scores": [1, -2.25],
    }
    plain = {"query": "q", "pos": ["Katzen."], "neg": [], "prompt": "not read"}
    path.write_text("\n".join(json.dumps(fields) for fields in (record, plain)) + "\n\n")
    first, second = parse_examples(path)
    assert [d.text for d in first.positives] == ["Katzen.", "Auch."] and first.positives[1].title == "T"
    assert [first.teacher.get(text_key(d), math.nan) for d in first.pools[0]] == [1.0, -2.25]
    assert second.positives[0] is first.positives[0] and second.pools == () and second.teacher == {}
    assert first.source == "hard"
    assert write_examples(tmp_path / "again.jsonl", [first, second]) == 2
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert again == [record, {"query": "q", "pos": ["Katzen."], "neg": []}]


def test_pools_are_written_once_each_in_order(tmp_path):
    a, b, c = (Document(x, x) for x in "abc")
    write_examples(tmp_path / "x.jsonl", [Example("q", (Document("p", "p"),), ((a, b), (c, a)))])
    assert json.loads((tmp_path / "x.jsonl").read_text())["neg"] == ["a", "b", "c"]
    with pytest.raises(InputError, match="no list"):
        write_examples(tmp_path / "x.jsonl", [])
    with pytest.raises(DataError, match="cannot be written"):
        write_examples(tmp_path / "no" / "x.jsonl", [Example("q", (a,), ((b,),))])
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]  # as it was
    assert json.loads((tmp_path / "x.jsonl").read_text())["neg"] == ["a", "b", "c"]


GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ({"query": "q", "pos": ["p"]}, "has no 'neg'"),
        (GOOD | {"query": " "}, "'query'"),
        (GOOD | {"query": "\ud800"}, "surrogate"),
        (GOOD | {"pos": []}, "'pos' is empty"),
        (GOOD | {"pos": "p"}, "'pos' must be a list"),
        (GOOD | {"neg": ["n", 3]}, r"neg\[1\]"),
        (GOOD | {"neg": [{"title": "t"}]}, r"neg\[0\]"),
        (GOOD | {"neg": [""]}, r"neg\[0\].*empty"),
        (GOOD | {"neg": [{"text": "t", "title": 7}]}, r"neg\[0\].*title"),
        (GOOD | {"neg": [" P "]}, "both in 'pos' and in 'neg'"),
        (GOOD | {"pos_scores": [1, 2]}, "list of 1 numbers"),
        (GOOD | {"neg_scores": ["1"]}, r"neg_scores\[0\]"),
        (GOOD | {"neg_scores": [True]}, r"neg_scores\[0\]"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, match):
    path = tmp_path / "bad.jsonl"
    bad = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps(GOOD) + "\n" + bad + "\n")
    with pytest.raises(DataError, match=match) as error:
        list(parse_examples(path))
    assert str(error.value).startswith(f"{path}:2: ")


def test_an_empty_file_and_a_missing_one(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no list"):
        list(parse_examples(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="cannot be read"):
        list(parse_examples(tmp_path / "none.jsonl"))
    (tmp_path / "x.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(InputError, match="takes no run"):
        load_examples(Source(str(tmp_path / "x.jsonl")), [{"q": {"d": 1.0}}])


@pytest.mark.data
def test_judged_collections_give_the_lists_that_their_cards_count(collections):
    from sightline.training.config import Sampling
    from sightline.training.lists import ListSampler

    examples = load_sources([Source(str(collections / name)) for name in ("nq_train", "fairytaleqa", "pubmedqa")])
    counts = {
        name: sum(example.source == name for example in examples) for name in ("nq_train", "fairytaleqa", "pubmedqa")
    }
    assert counts == {"nq_train": 7167, "fairytaleqa": 8548, "pubmedqa": 1000}
    sampler = ListSampler(examples, Sampling(documents=(10, 40)))
    for step in range(10):
        for training_list in sampler.batch(step, 8):
            if training_list.source == "fairytaleqa":  # a question is asked inside of one story
                assert len({document.id.partition("#")[0] for document in training_list.documents}) == 1
