"""Lists drawn from examples: what is in them, what never is, and that seed and step alone decide."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.training.config import Sampling
from sightline.training.examples import Example, text_key
from sightline.training.lists import ListSampler


def doc(id, text=None, title=""):
    return Document(id, text or f"Text {id}. Second of {id}. Third of {id}.", title)


def examples(count=6, positives=1, pools=(5, 5), source="a"):
    return [
        Example(
            f"{source} question {i}",
            tuple(doc(f"{source}{i}+{j}") for j in range(positives)),
            tuple(tuple(doc(f"{source}{i}-{p}-{j}") for j in range(size)) for p, size in enumerate(pools)),
            source=source,
        )
        for i in range(count)
    ]


shapes = st.fixed_dictionaries(
    {
        "count": st.integers(2, 5),
        "positives": st.integers(1, 5),
        "pools": st.lists(st.integers(1, 6), min_size=1, max_size=3),
    }
)


@given(
    shapes,
    st.integers(2, 8).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 14))),
    st.floats(0, 1),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_what_every_list_holds(shape, documents, in_batch, step):
    pool = examples(**shape)
    sampler = ListSampler(pool, Sampling(documents=documents, in_batch=in_batch), seed=3)
    by_query = {example.query: example for example in pool}
    for drawn in sampler.batch(step, 4):
        example = by_query[drawn.query]
        ids = [d.id for d in drawn.documents]
        assert len(set(ids)) == len(ids) <= documents[1]
        right = {d.id for d in example.positives}
        assert {d.id for d, p in zip(drawn.documents, drawn.positive, strict=True) if p} <= right
        assert not right & {d.id for d, p in zip(drawn.documents, drawn.positive, strict=True) if not p}
        assert 0 < sum(drawn.positive) <= max(1, documents[1] // 2) and not all(drawn.positive)
        if not in_batch:
            assert {d.id for d in drawn.documents} <= right | {d.id for p in example.pools for d in p}


def test_seed_and_step_decide_whatever_was_drawn_before():
    pool = examples()
    sampling = Sampling(documents=(3, 9), in_batch=0.3, shuffle_sentences=0.5, drop_titles=0.5)
    whole = [ListSampler(pool, sampling, seed=5).batch(step, 3) for step in range(7)]
    again = ListSampler(pool, sampling, seed=5)
    for step in (4, 1, 6, 0):
        assert again.batch(step, 3) == whole[step]
    assert ListSampler(pool, sampling, seed=6).batch(4, 3) != whole[4]


def test_an_epoch_has_every_example_once():
    pool = examples(7)
    sampler = ListSampler(pool, Sampling(documents=(2, 3)))
    assert sampler.epoch == 7
    drawn = [training_list.query for step in range(14) for training_list in sampler.batch(step, 1)]
    for epoch in (drawn[:7], drawn[7:]):
        assert sorted(epoch) == sorted(example.query for example in pool)
    assert drawn[:7] != drawn[7:]


def test_weights_say_how_often():
    pool = examples(8, source="a") + examples(4, source="b")
    sampler = ListSampler(pool, Sampling(documents=(2, 3), weights={"a": 0.25, "b": 2.5}))
    assert sampler.epoch == 2 + 10
    drawn = [training_list for step in range(4) for training_list in sampler.batch(step, sampler.epoch)]
    assert Counter(training_list.source for training_list in drawn) == {"a": 8, "b": 40}
    assert (
        len({training_list.query for training_list in drawn if training_list.source == "a"}) > 2
    )  # another quarter each time
    counts = Counter(training_list.query for training_list in drawn[:12] if training_list.source == "b")
    assert set(counts.values()) == {2, 3}


def test_negatives_come_in_equal_parts_from_every_first_stage():
    (example,) = examples(1, pools=(50, 50))
    for step in range(5):
        (drawn,) = ListSampler([example], Sampling(documents=(21, 21))).batch(step, 1)
        assert Counter(d.id.split("-")[1] for d in drawn.documents if "-" in d.id) == {"0": 10, "1": 10}


def test_places_in_a_list_tell_nothing():
    sampler = ListSampler(examples(4), Sampling(documents=(5, 5)))
    first = [drawn.positive.index(True) for step in range(100) for drawn in sampler.batch(step, 4)]
    assert all(50 < count < 110 for count in Counter(first).values())  # 80 expected of each of 5


def test_lists_are_as_long_as_asked():
    sampler = ListSampler(examples(4, pools=(30,)), Sampling(documents=(10, 20)))
    lengths = {len(drawn.documents) for step in range(60) for drawn in sampler.batch(step, 4)}
    assert lengths == set(range(10, 21))


def test_other_lists_give_their_share_and_fill_up():
    sampler = ListSampler(examples(6, pools=(40,)), Sampling(documents=(21, 21), in_batch=0.25))
    for drawn in sampler.batch(0, 6):
        mine = drawn.query.rsplit(" ", 1)[1]
        own = [d.id for d in drawn.documents if d.id.startswith(f"a{mine}-")]
        assert (len(drawn.documents), len(own)) == (21, 15)
    sampler = ListSampler(examples(6, pools=(3,)), Sampling(documents=(12, 12), in_batch=0.1))
    assert {len(drawn.documents) for drawn in sampler.batch(0, 6)} == {12}


def test_no_list_has_a_known_answer_as_a_negative():
    """The same question stands in two examples, with different answers; one answer is a negative of the other."""
    shared, other = doc("x", "The  answer."), doc("y")
    twins = [
        Example("What is it", (shared,), ((other, doc("n1")),), source="s"),
        Example("what is  it", (other,), ((doc("z", "the answer.", title="T"), doc("n2")),), source="s"),
        Example("else", (doc("w"),), ((doc("n3"),),), {}, (doc("n1"),), source="s"),
    ]
    sampler = ListSampler(twins, Sampling(documents=(8, 8), in_batch=0.5))
    for step in range(20):
        for drawn in sampler.batch(step, 3):
            wrong = {text_key(d) for d, p in zip(drawn.documents, drawn.positive, strict=True) if not p}
            if drawn.query != "else":
                assert not wrong & {text_key(shared), text_key(other)}


def test_excluded_documents_stay_out():
    grey = doc("grey")
    example = Example("q", (doc("p"),), ((grey, doc("n")),), {}, (grey,))
    for step in range(10):
        (drawn,) = ListSampler([example], Sampling(documents=(3, 3))).batch(step, 1)
        assert {d.id for d in drawn.documents} == {"p", "n"}


def test_titles_go_by_list_and_sentences_by_document():
    titled = Example("q", (doc("p", title="P"),), (tuple(doc(f"n{i}", title="N") for i in range(9)),))
    sampler = ListSampler([titled], Sampling(documents=(10, 10), drop_titles=0.5, shuffle_sentences=0.5))
    dropped = shuffled = 0
    for step in range(60):
        (drawn,) = sampler.batch(step, 1)
        assert len({bool(d.title) for d in drawn.documents}) == 1
        dropped += not drawn.documents[0].title
        for d in drawn.documents:
            parts = [f"Text {d.id}.", f"Second of {d.id}.", f"Third of {d.id}."]
            assert sorted(parts) == sorted(d.text.replace(". ", ".\n").split("\n"))
            shuffled += d.text != " ".join(parts)
    assert 15 < dropped < 45
    assert 200 < shuffled < 300  # 250 expected: half of 600, less the sixth that comes out as it was
    (plain,) = ListSampler([titled], Sampling(documents=(10, 10))).batch(0, 1)
    assert all(d is titled.positives[0] or any(d is n for n in titled.pools[0]) for d in plain.documents)


def test_the_teachers_scores_follow_their_documents():
    p, n, m = doc("p"), doc("n"), doc("m")
    scored = Example("q", (p,), ((n, m),), {text_key(p): 4.0, text_key(n): -1.5})
    other = Example("r", (doc("o"),), ((doc("u"),),))
    sampler = ListSampler([scored, other], Sampling(documents=(3, 6), in_batch=0.01, shuffle_sentences=1.0))
    for step in range(5):
        for drawn in sampler.batch(step, 2):
            if drawn.query == "r":
                assert drawn.teacher is None
                continue
            teacher = {
                d.id: score for d, score in zip(drawn.documents, drawn.teacher, strict=True) if not math.isnan(score)
            }
            assert teacher.items() <= {"p": 4.0, "n": -1.5}.items()
            assert "p" in teacher


def test_what_cannot_be_drawn():
    bare = [Example("q", (doc("p"),), (), source="s")]
    with pytest.raises(
        InputError, match="s: no question has negatives to learn from; .*sightline mine s --system bm25"
    ):
        ListSampler(bare, Sampling())
    with pytest.raises(InputError, match="no negative, of its own or in its batch"):
        ListSampler(bare, Sampling(in_batch=0.5)).batch(0, 1)
    with pytest.raises(InputError, match="no example"):
        ListSampler([], Sampling())
    with pytest.raises(InputError, match="names 'x'; the sources are a"):
        ListSampler(examples(1), Sampling(weights={"x": 1.0}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"documents": (1, 5)},
        {"documents": (6, 5)},
        {"in_batch": 1.5},
        {"drop_titles": -0.1},
        {"shuffle_sentences": math.nan},
        {"weights": {"a": 0.0}},
    ],
)
def test_bad_sampling(wrong):
    with pytest.raises(InputError):
        Sampling(**wrong)
