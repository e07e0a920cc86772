"""The benchmark of two servers: which answers it calls wrong."""

import dataclasses
import time

import pytest

from sightline import Document
from sightline.benchmarks.stores import History

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
