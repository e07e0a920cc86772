"""Hard negatives: which candidates are taken, and that nothing known or likely to answer is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import DataError, InputError
from sightline.eval import systems as systems_module
from sightline.eval.dataset import Dataset
from sightline.eval.loading import load_dataset
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.training import mining as module
from sightline.training.config import Mining
from sightline.training.examples import parse_examples, text_key, write_examples
from sightline.training.mining import mine_run, run_system

TEXTS = {id: f"Text of {id}." for id in "abcdefghij"} | {"twin": "text  of A."}


def dataset(qrels, texts=TEXTS):
    documents = [Document(id, text) for id, text in texts.items()]
    return Dataset("zoo", "train", "nowhere", {q: f"question {q}" for q in qrels}, qrels, lambda: documents)


def mined(run, qrels=None, **options):
    examples, counts = mine_run(dataset(qrels or {"q": {"a": 1}}), {"q": run}, Mining(**options))
    (example,) = examples
    return [d.id for d in example.pools[0]], counts, example


RUN = {"b": 12.0, "twin": 11.0, "a": 10.0, "c": 9.6, "d": 9.5, "e": 9.4, "f": 1.0, "g": 0.5}


def test_a_margin_below_the_positive():
    negatives, counts, example = mined(RUN)
    assert negatives == ["e", "f", "g"]  # below 9.5
    assert (counts.lists, counts.negatives, counts.too_high, counts.same_text) == (1, 3, 3, 1)
    assert example.teacher == {text_key(Document(id, TEXTS[id])): RUN[id] for id in "aefg"}
    assert mined(RUN, margin=1.0, kind="absolute")[0] == ["f", "g"]
    assert mined(RUN, margin=0.5, kind="absolute")[0] == ["e", "f", "g"]
    assert mined(RUN, margin=None)[0] == ["b", "c", "d", "e", "f", "g"]


def test_ranks_at_the_top_and_the_number_of_negatives():
    assert mined(RUN, margin=None, skip=4, negatives=2)[0] == ["d", "e"]


def test_scores_below_zero_keep_a_margin():
    """A tenth of nine tenths of -10 is above it: what answers best would come in."""
    run = {"b": -9.8, "a": -10.0, "c": -10.4, "d": -10.6}
    assert mined(run)[0] == ["d"]


def test_several_positives_and_low_grades():
    qrels = {"q": {"a": 2, "f": 2, "c": 1, "e": 0}}
    negatives, _, example = mined(RUN | {"h": 0.1}, qrels, min_grade=2)
    assert negatives == ["g", "h"]  # below the lowest positive, f
    assert [d.id for d in example.positives] == ["a", "f"]
    assert "c" not in mined(RUN, qrels, margin=None, min_grade=2)[0]


def test_questions_that_give_no_list_are_counted():
    qrels = {"q": {"a": 1}, "none": {"a": 0}, "missed": {"a": 1}, "bare": {"a": 1}, "ghost": {"x": 1}}
    runs = {"q": RUN, "none": RUN, "missed": {"b": 1.0}, "bare": {"a": 1.0, "b": 2.0}}
    _, counts = mine_run(dataset(qrels), runs)
    assert (counts.lists, counts.without_positive, counts.without_score, counts.without_negative) == (1, 2, 1, 1)
    with pytest.raises(InputError, match="no question is left.*without_positive=1"):
        mine_run(dataset({"none": {"a": 0}}), runs)
    with pytest.raises(DataError, match="'q'.*'nowhere'"):
        mine_run(dataset({"q": {"a": 1}}), {"q": {"nowhere": 1.0}})


@given(
    st.dictionaries(st.sampled_from(sorted(TEXTS)), st.floats(-5, 5, width=32), min_size=2),
    st.sets(st.sampled_from("abc"), min_size=1),
    st.floats(0, 0.99),
    st.sampled_from(["relative", "absolute"]),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=80)
def test_no_negative_is_known_or_near(run, answers, margin, kind, skip):
    qrels = {"q": dict.fromkeys(answers, 1)}
    try:
        negatives, counts, _ = mined(run, qrels, margin=margin, kind=kind, skip=skip)
    except InputError:
        return
    lowest = min(run[a] for a in answers if a in run)
    assert negatives == sorted(negatives, key=run.get, reverse=True) or len(set(run.values())) < len(run)
    for id in negatives:
        assert id not in answers and not (id == "twin" and "a" in answers)
        assert run[id] < lowest or (run[id] <= lowest and margin == 0)
        if kind == "relative" and lowest > 0:
            assert run[id] < margin * lowest + 1e-6 or margin == 0
        if kind == "absolute":
            assert run[id] <= lowest - margin + 1e-6
    assert counts.negatives == len(negatives) > 0


@pytest.mark.parametrize(
    "wrong", [{"negatives": 0}, {"skip": -1}, {"margin": 1.0}, {"margin": -0.1}, {"kind": "both"}, {"min_grade": 0}]
)
def test_bad_settings(wrong):
    with pytest.raises(InputError):
        Mining(**wrong)


# -- from systems ------------------------------------------------------------------------------------------------------

WORLD = {
    "cat": "The cat purrs loudly and sleeps all day.",
    "dog": "The dog barks at strangers.",
    "cow": "The cow eats grass and gives milk.",
    "fish": "A fish swims in cold water.",
    "bird": "A bird sings in spring.",
}


@pytest.fixture
def folder(tmp_path, monkeypatch, toy):
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    load = lambda name: LateInteractionReranker(load_layout(name), reader=toy)  # noqa: E731
    monkeypatch.setattr(systems_module, "load_reranker", load)
    monkeypatch.setattr(module, "load_reranker", load)
    monkeypatch.setattr(toy, "name", "minilm")
    folder = tmp_path / "zoo"
    (folder / "qrels").mkdir(parents=True)
    queries = {"q1": "cat purrs, strangers", "q2": "milk of a cow in water"}
    for name, rows in (("corpus", WORLD), ("queries", queries)):
        lines = (json.dumps({"_id": id, "text": text}) + "\n" for id, text in rows.items())
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tcat\t1\nq2\tcow\t1\n")
    (folder / "bm25.train.tsv").write_text("q1\tdog fish\nq2\tcow bird\n")
    return folder


@pytest.mark.parametrize("system", ["bm25", "dense", "hybrid", "dense+minilm", "given+minilm"])
def test_any_system_mines(folder, tmp_path, system):
    data = load_dataset(folder, "train")
    run = run_system(data, system, tmp_path / "work", candidates=4)
    examples, _ = mine_run(data, run, Mining(margin=None))
    assert write_examples(tmp_path / "lists.jsonl", examples) == len(examples)
    for example, again in zip(examples, parse_examples(tmp_path / "lists.jsonl"), strict=True):
        assert [d.text for d in again.pools[0]] == [d.text for d in example.pools[0]]
        assert again.teacher == example.teacher
        assert {d.id for d in example.positives} <= {"cat", "cow"}
        assert not {d.id for d in example.positives} & {d.id for d in example.pools[0]}
    if system == "given+minilm":  # nothing outside of the given candidates
        assert {d.id for d in examples[0].pools[0]} == {"dog", "fish"}


def test_a_positive_that_the_first_stage_missed_is_scored(folder, tmp_path, monkeypatch):
    data = load_dataset(folder, "train")
    ranked = []
    rerank_run = module.rerank_run
    monkeypatch.setattr(module, "rerank_run", lambda some, *rest: ranked.append(some) or rerank_run(some, *rest))
    run = run_system(data, "given+minilm", tmp_path / "work")
    assert set(run["q1"]) == {"dog", "fish", "cat"} and next(iter(run["q1"])) == "cat"
    assert set(run["q2"]) == {"cow", "bird"}
    assert [list(some.queries) for some in ranked] == [["q1"]]  # the other list had all of its positives
    alone = rerank_run(data, {"q1": {"dog": 3.0, "fish": 2.0, "cat": 1.0}}, module.load_reranker("minilm"))
    assert run["q1"] == pytest.approx(alone["q1"])
    with pytest.raises(InputError, match="no system"):
        run_system(data, "splade", tmp_path / "work")
