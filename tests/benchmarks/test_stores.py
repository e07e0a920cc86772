"""The benchmarks of stores: which answers and rankings they call wrong."""

import dataclasses
import json
import time

import pytest

from sightline import Document
from sightline.benchmarks import stores
from sightline.benchmarks.stores import History, same_fusion, same_ranking
from sightline.retrieval.stores import build_store, open_store

OLD = Document("a", "Cats purr. It is only1x0.", "a version 0", {"topic": "cats"})
NEW = dataclasses.replace(OLD, title="a version 1", text="Dogs bark. It is only1x1.")


def hit(document, **more):
    fields = {"title": document.title, "text": document.text, "metadata": document.metadata}
    return fields | {"start": 0, "end": len(document.text)} | more


@pytest.fixture
def history():
    """What is old, then being replaced, then new, then deleted; with the times between."""
    history, times = History([OLD, Document("b", "Owls.")]), [time.monotonic()]

    def pause():
        time.sleep(0.002)
        times.append(time.monotonic())
        time.sleep(0.002)

    for state in (NEW, None):
        pause()
        with history.writing("a", state):
            pause()
    pause()
    history.times = times
    return history


def judged(history, found, sent, answered):
    times = history.times
    return list(
        history.faults({"b": hit(Document("b", "Owls.")), **found}, times[sent], times[answered], lambda d: d.id == "a")
    )


def test_answers_of_a_state_that_may_have_been_seen_are_right(history):
    before, replacing, new, deleting, after = range(1, 6)
    for sent, answered, states in [
        (before, before, [OLD]),
        (before, replacing, [OLD, NEW]),
        (replacing, replacing, [OLD, NEW]),
        (new, new, [NEW]),
        (replacing, deleting, [OLD, NEW, None]),
        (deleting, after, [NEW, None]),
        (after, after, [None]),
        (before, after, [OLD, NEW, None]),
    ]:
        for state in (OLD, NEW, None):
            found = {} if state is None else {"a": hit(state)}
            assert (judged(history, found, sent, answered) == []) == (state in states), (sent, answered, state)


def test_mixtures_and_inventions_are_wrong(history):
    for found in (
        {"a": hit(NEW, title="a version 0")},
        {"a": hit(NEW, text="Cats purr.", end=10)},
        {"a": hit(NEW, metadata={"topic": "dogs"})},
        {"a": hit(NEW, evidence=[{"field": "text", "start": 0, "end": 4, "text": "Cats"}])},
        {"a": hit(NEW), "c": hit(OLD)},
    ):
        assert len(judged(history, found, 3, 3)) == 1
    right = {"field": "text", "start": 0, "end": 4, "text": "Dogs"}
    assert judged(history, {"a": hit(NEW, evidence=[right])}, 3, 3) == []
    assert [state.document for state in history.possible("never", 0, 9e9)] == [None]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"a": 3.0, "c": 2.0, "b": 2.0}, True),  # a tie, the other way round
        ({"a": 3.0, "b": 2.0, "x": 2.0}, True),  # a tie that was cut off
        ({"a": 3.0, "b": 2.00001, "c": 2.0}, True),
        ({"a": 3.0, "b": 2.0}, False),
        ({"a": 3.0, "x": 2.5, "b": 2.0}, False),
        ({"b": 3.0, "a": 2.0, "c": 2.0}, False),
    ],
)
def test_rankings_are_the_same_up_to_ties_and_rounding(other, same):
    assert same_ranking({"a": 3.0, "b": 2.0, "c": 2.0}, other) is same


def test_a_fusion_may_order_the_ties_of_its_lists_in_any_way_and_nothing_else():
    parts = [{"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0}, {"b": 9.0, "e": 8.0, "f": 8.0}]
    ranks = ({"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 2, "b": 3})
    for dense in ranks:
        for words in ({"b": 1, "e": 2}, {"b": 1, "f": 2}):
            fused = {
                id: sum(1 / (60 + ranks[id]) for ranks in (dense, words) if id in ranks)
                for id in dense.keys() | words.keys()
            }
            assert same_fusion(parts, 3, fused)
    assert not same_fusion(parts, 3, {**fused, "d": 1 / 64})  # beyond the end of its list
    assert not same_fusion(parts, 3, {**fused, "a": 1 / 62})
    assert not same_fusion(parts, 3, {id: score for id, score in fused.items() if id != "b"})


def test_two_copies_of_an_index_are_compared_query_by_query(tmp_path, capsys):
    pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
    documents = [Document("a", "Cats purr."), Document("b", "Dogs bark."), Document("c", "Cats and dogs.")]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "{d.id}", "text": "{d.text}"}}\n' for d in documents))
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "cats"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    folder, store = str(tmp_path / "index"), f"qdrant-edge:{tmp_path / 'store'}"
    for name in (folder, store):
        build_store(name, documents, encoder="none").close()
    command = ["compare", str(tmp_path), folder, store, "--first-stage", "bm25"]
    with pytest.raises(SystemExit) as ended:
        stores.app(command)
    report = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and report["nDCG@10"] == [1.0, 1.0] and report["queries"] == 1
    with open_store(store) as changed:
        changed.delete(["a"])
    with pytest.raises(SystemExit) as ended:
        stores.app(command)
    printed = capsys.readouterr()
    assert ended.value.code == 1 and "query q: other candidates" in printed.err
    assert json.loads(printed.out)["queries with other results"]["candidates"] == 1
