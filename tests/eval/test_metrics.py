"""Measures against formulas written out by hand, and against pytrec_eval itself."""

import math
import random
import re
import shutil

import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.eval.metrics import DEFAULT_MEASURES, check_measures, measure_rankings, split_measures
from sightline.eval.trec import parse_qrels, parse_run, trec_order


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
    mean, per_query = measure_rankings(qrels, rankings)
    for id, grades in qrels.items():
        assert per_query[id] == pytest.approx(by_hand(grades, rankings[id]), abs=1e-9)
    for name in DEFAULT_MEASURES:
        assert mean[name] == pytest.approx(sum(v[name] for v in per_query.values()) / len(qrels), abs=1e-12)


@pytest.mark.parametrize("seed", range(4, 7))
def test_default_measures_are_those_of_pytrec_eval(seed):
    qrels, rankings = collection(seed)
    run = {id: {d: 1000.0 - rank for rank, d in enumerate(ranking)} for id, ranking in rankings.items()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100"}).evaluate(run)
    _, per_query = measure_rankings(qrels, rankings)
    for id, values in expected.items():
        assert per_query[id]["nDCG@10"] == pytest.approx(values["ndcg_cut_10"], abs=1e-9)
        assert per_query[id]["R@100"] == pytest.approx(values["recall_100"], abs=1e-9)


@pytest.mark.parametrize("order", [["a", "z"], ["z", "a"]])
def test_the_order_returned_is_the_order_judged(order):
    # Whatever the ids: trec_eval would put one of the two first if it saw equal scores.
    _, per_query = measure_rankings({"q": {order[0]: 1}}, {"q": order}, ["RR@10"])
    assert per_query["q"]["RR@10"] == 1.0


@pytest.mark.parametrize("rankings", [{}, {"one": ["a"]}, {"one": ["a"], "two": []}])
def test_a_judged_query_without_a_ranking_counts_as_zero(rankings):
    mean, per_query = measure_rankings({"one": {"a": 1}, "two": {"b": 1}}, rankings, ["RR@10"])
    assert per_query["two"]["RR@10"] == 0.0
    assert mean["RR@10"] == (0.5 if rankings else 0.0)


def test_a_query_without_judgements_counts_as_zero_and_is_not_dropped():
    assert measure_rankings({"one": {"a": 1}, "two": {}}, {"one": ["a"], "two": ["b"]}, ["RR@10"])[0] == {"RR@10": 0.5}


def test_a_query_that_is_not_judged_is_passed_over():
    assert set(measure_rankings({"q": {"a": 1}}, {"q": ["a"], "other": ["a"]})[1]) == {"q"}


def test_a_document_with_the_querys_own_id_is_dropped():
    assert measure_rankings({"q": {"a": 1}}, {"q": ["q", "a"]}, ["RR@10"])[0]["RR@10"] == 1.0
    assert (
        measure_rankings({"q": {"a": 1}}, {"q": ["q", "a"]}, ["RR@10"], ignore_identical_ids=False)[0]["RR@10"] == 0.5
    )


def test_two_names_of_one_measure_both_get_its_value():
    assert measure_rankings({"q": {"a": 1}}, {"q": ["b", "a"]}, ["RR@10", "MRR@10"])[0] == {"RR@10": 0.5, "MRR@10": 0.5}


def test_a_document_twice_is_refused():
    with pytest.raises(InputError, match="'q'.*twice"):
        measure_rankings({"q": {"a": 1}}, {"q": ["a", "b", "a"]})


@pytest.mark.parametrize("name", ["nonsense", "nDCG@", "nDCG@ten", "RR@10(", "", "BPM"])
def test_a_measure_that_is_none_is_refused(name):
    with pytest.raises(InputError, match="measure|compute"):
        measure_rankings({"q": {"a": 1}}, {"q": ["a"]}, ["RR@10", name])


def test_a_measure_without_its_tool_is_refused_as_such():
    with pytest.raises(InputError, match="alpha_nDCG"):
        measure_rankings({"q": {"a": 1}}, {"q": ["a"]}, ["alpha_nDCG@10"])


def test_no_measures_and_no_judgements_are_refused():
    with pytest.raises(InputError, match="at least one measure"):
        measure_rankings({"q": {"a": 1}}, {"q": ["a"]}, [])
    with pytest.raises(InputError, match="no judgements"):
        measure_rankings({}, {"q": ["a"]})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("grades", [{"a": -1}, {"a": -2, "b": -1}])
def test_only_negative_grades_count_as_judged_and_not_relevant(grades):
    names = ["nDCG@10", "AP", "RR", "P@1", "Judged@2"]
    per_query = measure_rankings({"q": grades, "r": {"a": 1}}, {"q": ["a", "x"], "r": ["a"]}, names)[1]
    assert per_query["q"] == {"nDCG@10": 0.0, "AP": 0.0, "RR": 0.0, "P@1": 0.0, "Judged@2": 0.5}
    assert per_query["r"]["nDCG@10"] == 1.0


# -- any measure of ir_measures ----------------------------------------------------------------------------------------


def test_judged_is_the_share_of_judged_documents():
    qrels = {"q": {"a": 1, "b": 0, "c": -1}, "r": {"a": 1}}
    mean, per_query = measure_rankings(qrels, {"q": ["a", "x", "b", "y", "c"]}, ["Judged@4", "Judged@1"])
    assert per_query == {"q": {"Judged@4": 0.5, "Judged@1": 1.0}, "r": {"Judged@4": 0.0, "Judged@1": 0.0}}
    assert mean == {"Judged@4": 0.25, "Judged@1": 0.5}


def test_parameters_of_a_measure_hold():
    qrels, rankings = collection(11)
    run = {id: {d: 1000.0 - rank for rank, d in enumerate(ranking)} for id, ranking in rankings.items()}
    expected = pytrec_eval.RelevanceEvaluator(qrels, {"map_cut.20", "P.5", "success.1"}, relevance_level=2).evaluate(
        run
    )
    names = {"AP(rel=2)@20": "map_cut_20", "P(rel=2)@5": "P_5", "Success(rel=2)@1": "success_1"}
    _, per_query = measure_rankings(qrels, rankings, list(names))
    for id, values in expected.items():
        assert per_query[id] == pytest.approx({name: values[theirs] for name, theirs in names.items()}, abs=1e-9)


@pytest.mark.skipif(shutil.which("perl") is None, reason="gdeval is a perl program")
def test_measures_of_gdeval_whatever_the_ids():
    qrels = {"why? no": {"doc 1": 3, "doc\t2": 1}, "q-2": {"a": 1}}
    rankings = {"why? no": ["x", "doc 1", "doc\t2"], "q-2": ["a"]}
    err, ndcg = "ERR@10", "nDCG(dcg='exp-log2')@10"
    _, per_query = measure_rankings(qrels, rankings, [err, ndcg])
    stop = {grade: (2**grade - 1) / 16 for grade in (0, 1, 3)}  # Chapelle et al., 2009; gdeval's grades end at 4
    by_hand = stop[3] / 2 + (1 - stop[3]) * stop[1] / 3
    gains = [2**grade - 1 for grade in (0, 3, 1)]
    assert per_query["why? no"][err] == pytest.approx(by_hand, abs=1e-5)
    assert per_query["why? no"][ndcg] == pytest.approx(dcg(gains) / dcg([7, 1]), abs=1e-5)
    assert per_query["q-2"][ndcg] == 1.0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("nDCG@10,RR@10", ["nDCG@10", "RR@10"]),
        (" AP(rel=2) , ,R@5,", ["AP(rel=2)", "R@5"]),
        ("P@1,R@5, P@1", ["P@1", "R@5"]),
        ("nDCG(dcg='log2',gains={1: 2, 2: 3})@5,P@1", ["nDCG(dcg='log2',gains={1: 2, 2: 3})@5", "P@1"]),
        ("", []),
    ],
)
def test_names_are_split_outside_of_parentheses(text, names):
    assert split_measures(text) == names


def test_a_name_in_wrong_capitals_is_told_of():
    with pytest.raises(InputError, match="no measure 'judged@10'; did you mean 'Judged'"):
        measure_rankings({"q": {"a": 1}}, {"q": ["a"]}, ["judged@10"])


IMPOSSIBLE = """
nDCG@0 P@0 R@0 AP@0 RR@0 Success@0 ERR@0 Judged@0 nDCG@-1 nDCG@10.5 nDCG@1e9 nDCG@2000000 P@True
nDCG(cutoff=0) nDCG(cutoff='x') AP(rel=0) AP(rel=-1) AP(rel=99999999999) RBP RBP(p=2) RBP(p=0) RBP(p=nan)
Rprec@5 INST BPM IPrec IPrec@2 SetF(beta=0) Compat(p=1) nDCG(dcg='foo')@10 nDCG(gains='x')@10
nDCG(unknown=1)@10 nDCG@ @10 nDCG@10@5 foo@10 DCG@10 ( nDCG@007 __import__('os') 10
""".split()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_measure_is_an_error_and_no_abort(name):
    with pytest.raises(InputError, match=re.escape(name)):
        check_measures(["nDCG@10", name])


def test_a_measure_that_needs_another_tool_says_which():
    with pytest.raises(InputError, match="pyndeval|alpha_nDCG"):
        check_measures(["alpha_nDCG@10"])


def test_parameters_of_a_measure_are_told():
    with pytest.raises(InputError, match=r"cannot be computed; its parameters are .*cutoff \(needed"):
        check_measures(["Recall"])


# -- trec_eval ---------------------------------------------------------------------------------------------------------

_THEIRS = {
    "nDCG@10": "ndcg_cut_10",
    "nDCG": "ndcg",
    "AP": "map",
    "RR": "recip_rank",
    "P@5": "P_5",
    "R@100": "recall_100",
}


def assert_equals_trec_eval(qrels, run, measures=tuple(_THEIRS)):
    """By every query that both have, and 0 for the others, to 1e-6; returns how many values were compared."""
    asked = {_THEIRS[name].replace("_1", ".1").replace("P_", "P.") for name in measures}
    expected = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    rankings = {id: trec_order(scores) for id, scores in run.items()}
    _, per_query = measure_rankings(qrels, rankings, list(measures), ignore_identical_ids=False)
    for id, values in per_query.items():
        theirs = expected.get(id, dict.fromkeys(_THEIRS.values(), 0.0))
        assert values == pytest.approx({name: theirs[_THEIRS[name]] for name in measures}, abs=1e-6), id
    return len(per_query) * len(measures)


ids = st.sampled_from(["d", "D", "d1", "d10", "d2", "é", "日", "x y", "q"])
# Where all grades of a query are negative, trec_eval never ends.
graded = st.dictionaries(ids, st.integers(-2, 4), min_size=1).filter(lambda grades: max(grades.values()) >= 0)
tied = st.one_of(st.sampled_from([1.0, 1.0 + 1e-12, 1.0 + 1e-9, 0.0, -2.0]), st.floats(-10, 10))


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("qrs"), graded, min_size=1),
    st.dictionaries(st.sampled_from("qrst"), st.dictionaries(ids, tied, min_size=1)),
)
def test_any_run_gets_the_figures_of_trec_eval(qrels, run):
    assert_equals_trec_eval(qrels, run)


@pytest.mark.data
def test_every_shared_run_gets_the_figures_of_trec_eval(collections):
    compared, shared = 0, 0
    for path in sorted(collections.glob("*/run.*.trec")):
        run = parse_run(path)
        for name in ("qrels.full.trec", "qrels/test.tsv"):
            if (path.parent / name).exists():
                compared += assert_equals_trec_eval(parse_qrels(path.parent / name), run)
        shared += 1
    for path in sorted(collections.glob("*/bm25.*.tsv")):
        rows = [line.split("\t", 1) for line in path.read_text().splitlines()]
        run = {
            id: {d: -float(rank) for rank, d in enumerate(documents.split())}
            for id, documents in rows
            if documents.split()
        }
        split = path.name.removeprefix("bm25.").removesuffix(".tsv")
        compared += assert_equals_trec_eval(parse_qrels(path.parent / "qrels" / f"{split}.tsv"), run)
        shared += 1
    assert shared >= 9 and compared > 5000
