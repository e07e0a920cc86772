"""P(relevant) of the embedded default: a probability, in the order of the scores, for a list of any length."""

import itertools

import pytest

from sightline import load_reranker
from sightline.errors import InputError
from sightline.rerank.results import NOTHING, relevance_or_score

DOCUMENTS = ["Cats purr.", "Dogs bark at night.", "Iron rusts.", "A cat is a small animal that purrs.", "x"]
ANSWERED = {
    "why does iron rust": "Iron rusts because water and oxygen react with its surface and form iron oxide.",
    "what is the capital of France": "Paris is the capital and the largest city of France.",
    "how do fish breathe": "Fish breathe through gills, which take oxygen from the water.",
}


@pytest.fixture(scope="module")
def reranker():
    return load_reranker("minilm")


def test_it_is_a_probability_in_the_order_of_the_scores(reranker):
    ranking = reranker.rank("what do cats do", DOCUMENTS)
    values = [item.relevance for item in ranking]
    assert values == sorted(values, reverse=True) and all(0 <= value <= 1 for value in values)
    for above, below in itertools.pairwise(ranking):
        assert (above.score > below.score) == (above.relevance > below.relevance)
    assert values == [reranker.relevance(item.score) for item in ranking]


def test_it_rises_with_the_score(reranker):
    values = [reranker.relevance(score / 2) for score in range(-100, 200)]
    assert values == sorted(values) and values[0] < 0.01 and values[-1] > 0.99


@pytest.mark.parametrize("query", ANSWERED)
def test_a_list_of_one_is_judged_by_its_text(reranker, query):
    (answer,) = reranker.rank(query, [ANSWERED[query]])
    others = [reranker.rank(query, [text])[0].relevance for other, text in ANSWERED.items() if other != query]
    assert answer.relevance > 0.3 and max(others) < 0.1


def test_it_does_not_depend_on_the_list(reranker):
    for item in reranker.rank("what do cats do", DOCUMENTS):
        (alone,) = reranker.rank("what do cats do", [item.document])
        assert alone.relevance == pytest.approx(item.relevance, rel=1e-6)


def test_what_cannot_be_read_has_none_of_it(reranker):
    assert reranker.rank("cats", ["Cats purr.", ""])[1].relevance == 0 == reranker.relevance(NOTHING)


def test_min_score_cuts_some_all_and_none(reranker):
    whole = reranker.rank("what do cats do", DOCUMENTS)
    second = whole[1].relevance
    for min_score, left in ((0, 5), (second, 2), (second + 1e-9, 1)):
        cut = reranker.rank("what do cats do", DOCUMENTS, min_score=min_score)
        assert list(cut) == list(whole[:left]) and cut.total == 5 and cut.warnings == whole.warnings
    nothing = reranker.rank("what do cats do", DOCUMENTS, min_score=1.0)
    assert len(nothing) == 0 and nothing.total == 5
    assert nothing.warnings[-1] == (f"nothing scored above min_score 1; the best relevance is {whole[0].relevance:.3g}")
    assert reranker.rank("what do cats do", [], min_score=1.0).warnings == ()


@pytest.mark.parametrize("min_score", [-0.1, 1.1, float("nan"), "0.5", True])
def test_a_min_score_that_is_no_probability_is_refused(reranker, min_score):
    with pytest.raises(InputError, match="min_score must be a number from 0 to 1"):
        reranker.rank("cats", DOCUMENTS, min_score=min_score)


@pytest.mark.parametrize(
    ("name", "why"), [("minilm-mass", "are relative to their list"), ("minilm-log-mass", "are not calibrated")]
)
def test_without_calibration_there_is_the_score_and_no_threshold(name, why):
    reranker = load_reranker(name)
    for item in reranker.rank("what do cats do", DOCUMENTS):
        assert item.relevance is None and relevance_or_score(item) == item.score
    with pytest.raises(InputError, match=f"{name} has none: its scores {why}"):
        reranker.rank("what do cats do", DOCUMENTS, min_score=0.5)


@pytest.mark.parametrize("ending", [" word" * 300 + " cats", " word" * 300 + " dogs"])
def test_words_that_were_not_read_count_for_nothing(reranker, ending):
    """The bi-encoder reads a text up to its window; what words are counted ends there too."""
    whole = "Cats purr." + ending
    (cut,) = reranker.rank("what do cats do", [whole])
    read = whole[: reranker.reader.spans([whole])[0][-1, 1]]
    (alone,) = reranker.rank("what do cats do", [read])
    assert cut.truncated > 0 == alone.truncated and cut.score == pytest.approx(alone.score, rel=1e-6)
