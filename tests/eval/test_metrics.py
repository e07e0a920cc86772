"""Measures against formulas written out by hand, and against pytrec_eval itself."""

import math
import random

import pytest

from sightline.errors import InputError
from sightline.eval.metrics import DEFAULT_MEASURES, evaluate


def dcg(gains):
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def by_hand(grades, ranking):
    gains = [max(0, grades.get(document, 0)) for document in ranking]
    ideal = dcg(sorted((max(0, grade) for grade in grades.values()), reverse=True)[:10])
    relevant = sum(grade > 0 for grade in grades.values())
    return {
        "nDCG@10": dcg(gains[:10]) / ideal if ideal else 0.0,
        "RR@10": next((1 / rank for rank, gain in enumerate(gains[:10], 1) if gain > 0), 0.0),
        "R@100": sum(gain > 0 for gain in gains[:100]) / relevant if relevant else 0.0,
    }


def collection(seed):
    rng = random.Random(seed)
    qrels, rankings = {}, {}
    for q in range(12):
        documents = [f"d{i}" for i in range(150)]
        qrels[f"q{q}"] = {d: rng.choice([0, 0, 1, 1, 2, 3]) for d in rng.sample(documents, rng.randint(1, 30))}
        rankings[f"q{q}"] = rng.sample(documents, rng.randint(1, 150))
    return qrels, rankings


@pytest.mark.parametrize("seed", range(4))
def test_default_measures_are_the_formulas(seed):
    qrels, rankings = collection(seed)
    mean, per_query = evaluate(qrels, rankings)
    for id, grades in qrels.items():
        assert per_query[id] == pytest.approx(by_hand(grades, rankings[id]), abs=1e-9)
    for name in DEFAULT_MEASURES:
        assert mean[name] == pytest.approx(sum(v[name] for v in per_query.values()) / len(qrels), abs=1e-12)


@pytest.mark.parametrize("seed", range(4, 7))
def test_default_measures_are_those_of_pytrec_eval(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, rankings = collection(seed)
    run = {id: {d: 1000.0 - rank for rank, d in enumerate(ranking)} for id, ranking in rankings.items()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    _, per_query = evaluate(qrels, rankings)
    for id, values in expected.items():
        assert per_query[id]["nDCG@10"] == pytest.approx(values["ndcg_cut_10"], abs=1e-9)
        assert per_query[id]["R@100"] == pytest.approx(values["recall_100"], abs=1e-9)


@pytest.mark.parametrize("order", [["a", "z"], ["z", "a"]])
def test_the_order_returned_is_the_order_judged(order):
    # Whatever the ids: trec_eval would put one of the two first if it saw equal scores.
    _, per_query = evaluate({"q": {order[0]: 1}}, {"q": order}, ["RR@10"])
    assert per_query["q"]["RR@10"] == 1.0


@pytest.mark.parametrize("rankings", [{}, {"one": ["a"]}, {"one": ["a"], "two": []}])
def test_a_judged_query_without_a_ranking_counts_as_zero(rankings):
    mean, per_query = evaluate({"one": {"a": 1}, "two": {"b": 1}}, rankings, ["RR@10"])
    assert per_query["two"]["RR@10"] == 0.0
    assert mean["RR@10"] == (0.5 if rankings else 0.0)


def test_a_query_without_judgements_counts_as_zero_and_is_not_dropped():
    assert evaluate({"one": {"a": 1}, "two": {}}, {"one": ["a"], "two": ["b"]}, ["RR@10"])[0] == {"RR@10": 0.5}


def test_a_query_that_is_not_judged_is_passed_over():
    assert set(evaluate({"q": {"a": 1}}, {"q": ["a"], "other": ["a"]})[1]) == {"q"}


def test_a_document_with_the_querys_own_id_is_dropped():
    assert evaluate({"q": {"a": 1}}, {"q": ["q", "a"]}, ["RR@10"])[0]["RR@10"] == 1.0
    assert evaluate({"q": {"a": 1}}, {"q": ["q", "a"]}, ["RR@10"], ignore_identical_ids=False)[0]["RR@10"] == 0.5


def test_two_names_of_one_measure_both_get_its_value():
    assert evaluate({"q": {"a": 1}}, {"q": ["b", "a"]}, ["RR@10", "MRR@10"])[0] == {"RR@10": 0.5, "MRR@10": 0.5}


def test_a_document_twice_is_refused():
    with pytest.raises(InputError, match="'q'.*twice"):
        evaluate({"q": {"a": 1}}, {"q": ["a", "b", "a"]})


@pytest.mark.parametrize("name", ["nonsense", "nDCG@", "nDCG@ten", "RR@10(", "", "BPM"])
def test_a_measure_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="measure|compute"):
        evaluate({"q": {"a": 1}}, {"q": ["a"]}, ["RR@10", name])


def test_a_measure_without_its_tool_is_refused_as_such():
    with pytest.raises(InputError, match="alpha_nDCG"):
        evaluate({"q": {"a": 1}}, {"q": ["a"]}, ["alpha_nDCG@10"])


def test_no_measures_and_no_judgements_are_refused():
    with pytest.raises(InputError, match="at least one measure"):
        evaluate({"q": {"a": 1}}, {"q": ["a"]}, [])
    with pytest.raises(InputError, match="no judgements"):
        evaluate({}, {"q": ["a"]})
