"""Cascades: the second reranker orders the top, everything else stays as the first left it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline import Document, load_reranker
from sightline.errors import InputError
from sightline.names import CascadeName
from sightline.rerank import CascadeReranker, Request, Reranker, Scored


class ByNumber(Reranker):
    """Scores a document by one of the numbers in its text."""

    layout = model = "numbers"

    def __init__(self, column, evidence=False):
        self.column, self.name, self.seen, self.has_evidence = column, f"column{column}", [], evidence
        self.list_free = True

    def _score(self, lists: list[Request]) -> list[Scored]:
        self.seen += [[document.id for document in request.documents] for request in lists]
        return [self._one(request) for request in lists]

    def _one(self, request):
        scores = np.array([float(document.text.split()[self.column]) for document in request.documents])
        count = len(scores)
        attention = (lambda place: (np.array([[0, 1]]), np.array([0.5]))) if self.has_evidence else None
        return Scored(scores, np.full(count, 1 / max(1, count)), np.full((1, count), 1 / max(1, count)), ("t",),
                      attention=attention)  # fmt: skip


pairs = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=1, max_size=12)


@given(pairs, st.integers(2, 6), st.sampled_from([None, 0.5]), st.randoms())
@settings(deadline=None, max_examples=60)
def test_the_top_is_the_seconds_and_the_rest_the_firsts(values, top, weight, random):
    documents = [Document(f"d{i:02}", f"{a} {b}") for i, (a, b) in enumerate(values)]
    cascade = CascadeReranker(ByNumber(0), second := ByNumber(1), top, weight=weight)
    ranking = cascade.rank("q", documents)
    by_first = sorted(documents, key=lambda d: (-int(d.text.split()[0]), d.id))
    assert set(second.seen[0]) == {d.id for d in by_first[:top]}
    assert {item.document.id for item in ranking[:top]} == {d.id for d in by_first[:top]}
    rest = [int(item.document.text.split()[0]) for item in ranking[top:]]
    assert rest == sorted(rest, reverse=True)
    scores = [item.score for item in ranking]
    assert scores == sorted(scores, reverse=True)
    if weight is None:
        best = [int(item.document.text.split()[1]) for item in ranking[:top]]
        assert best == sorted(best, reverse=True)
    shuffled = random.sample(documents, len(documents))
    again = cascade.rank("q", shuffled)
    assert [item.document.id for item in again] == [item.document.id for item in ranking]
    assert [item.score for item in again] == pytest.approx(scores)


def test_a_sum_adds_what_the_second_says_beside_its_mean():
    documents = [Document("a", "3 0"), Document("b", "2 10"), Document("c", "1 5")]
    ranking = CascadeReranker(ByNumber(0), ByNumber(1), 3, weight=2.0).rank("q", documents)
    spread = np.std([0, 10, 5])
    expected = {"a": 3 + 2 * -5 / spread, "b": 2 + 2 * 5 / spread, "c": 1.0}
    assert {item.document.id: item.score for item in ranking} == pytest.approx(expected)


def test_only_the_best_passage_of_a_document_goes_on():
    documents = [Document("a", "9 1"), Document("a", "8 9"), Document("b", "7 5"), Document("c", "6 7")]
    cascade = CascadeReranker(ByNumber(0), second := ByNumber(1), 2)
    ranking = cascade.rank("q", documents, best_per_id=True)
    assert second.seen == [["a", "b"]]
    assert [item.document.text for item in ranking] == ["7 5", "9 1", "6 7"]


def test_mass_evidence_and_a_note_are_of_the_top():
    documents = [Document("a", "3 1"), Document("b", "2 2"), Document("c", "1 3"), Document("e", "")]
    cascade = CascadeReranker(ByNumber(0), ByNumber(1, evidence=True), 2)
    assert cascade.has_evidence and not cascade.list_free
    assert cascade.why_no_relevance() is not None
    ranking = cascade.rank("q", documents, evidence="token")
    assert [item.document.id for item in ranking] == ["b", "a", "c", "e"]
    assert [item.mass for item in ranking] == [0.5, 0.5, 0.0, 0.0]
    assert [len(item.evidence) for item in ranking] == [1, 1, 0, 0]
    assert "of 3 documents the 2 best by column0 were ranked by column1" in ranking.warnings
    assert len(cascade.rank("q", [])) == 0


@pytest.mark.parametrize(
    ("options", "match"), [({"top": 1}, "at least 2"), ({"top": True}, "at least 2"), ({"weight": 0.0}, "above 0")]
)
def test_what_makes_no_cascade(options, match):
    with pytest.raises(InputError, match=match):
        CascadeReranker(ByNumber(0), ByNumber(1), **options)


def test_names():
    assert CascadeName.parse("a>b#icr@5") == ("a", "b#icr", 5, None)
    assert CascadeName.parse("a>b>c@3*0.25") == ("a>b", "c", 3, 0.25)
    for unlike in ("a>models/b@home", "a>b@3*", "a>b*0.2", "a>b@3*1e3", "a>b@3*-1", "a>b@" + "9" * 5000):
        assert CascadeName.parse(unlike) == ("a", unlike.partition(">")[2], 20, None)
    for wrong in (">b", "a>", "a>@3", "a>@3*.5"):
        with pytest.raises(InputError, match="is not a cascade"):
            CascadeName.parse(wrong)


@given(
    st.text("ab@*#", min_size=1),
    st.text("ab#", min_size=1),
    st.integers(2, 99),
    st.none() | st.sampled_from([0.2, 3.0]),
)
def test_a_name_is_parsed_to_what_it_was_made_of(first, second, top, weight):
    name = CascadeName(first, second, top, weight)
    assert CascadeName.parse(str(name)) == name


def test_a_cascade_is_loaded_by_its_name():
    cascade = load_reranker("minilm-maxsim>minilm@3", weight=0.5)
    assert isinstance(cascade, CascadeReranker)
    assert (cascade.name, cascade.top, cascade.weight) == ("minilm-maxsim>minilm@3", 3, 0.5)
    assert cascade.reader is cascade.first.reader and cascade.uses_bm25 == cascade.first.uses_bm25
    weighted = load_reranker("minilm-maxsim>minilm@3*0.5")
    assert (weighted.name, weighted.top, weighted.weight) == ("minilm-maxsim>minilm@3*0.5", 3, 0.5)
    assert CascadeReranker(cascade.first, cascade.second, 3, weight=0.5).name == weighted.name
    with pytest.raises(InputError, match="above 0"):
        load_reranker("minilm-maxsim>minilm@3*0")
    with pytest.raises(InputError, match="no option 'scale'"):
        load_reranker("minilm-maxsim>minilm@3", scale=3.0)
    with pytest.raises(InputError, match="name the layout of a decoder in it"):
        load_reranker("minilm>smollm2", layout="icr")
