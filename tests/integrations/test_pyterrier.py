"""PyTerrier's own checks of a transformer, its pipelines and its experiments around ours."""

import unittest

import pytest

pytest.importorskip("pyterrier", reason="the extra pyterrier is not installed")

import pandas as pd
import pyterrier as pt
from pyterrier.testing import transformer_test_class

from sightline.errors import InputError
from sightline.eval.metrics import measure_rankings
from sightline.integrations.pyterrier import SightlineReranker, SightlineRetriever

TOPICS = pd.DataFrame(
    [["q1", "happy cats"], ["q2", "who barks"], ["q3", "why does iron rust"]], columns=["qid", "query"]
)
QRELS = {"q1": {"cat": 1}, "q2": {"dog": 1}, "q3": {"iron": 1, "star": 0}}


@pytest.fixture(scope="module")
def retriever(searcher):
    return SightlineRetriever(searcher, 4, text=True)


@pytest.fixture(scope="module")
def ranker(reranker):
    return SightlineReranker(reranker)


@pytest.mark.filterwarnings("ignore:INFO. TransfomerTestCase", "ignore:You can hide")
@pytest.mark.parametrize("what", ["retriever", "ranker"])
def test_pyterriers_own_checks_pass(what, request):
    transformer = request.getfixturevalue(what)
    case = transformer_test_class(lambda: transformer)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun >= 2
    assert not result.failures and not result.errors, result.failures + result.errors


def test_inputs_and_outputs_are_declared(retriever, ranker):
    assert pt.inspect.transformer_inputs(retriever) == [["qid", "query"]]
    assert pt.inspect.transformer_inputs(ranker) == [["qid", "docno", "query", "text"]]
    assert set(pt.inspect.transformer_outputs(ranker, ["qid", "query", "docno", "text"])) == {
        *("qid", "query", "docno", "text", "score", "rank")
    }
    with pytest.raises(pt.validate.InputValidationError):
        retriever(pd.DataFrame({"qid": ["1"]}))
    with pytest.raises(pt.validate.InputValidationError):
        ranker(TOPICS)


def test_results_are_those_of_the_searcher(retriever, searcher):
    results = retriever(TOPICS)
    for row in TOPICS.itertuples():
        hits = searcher.search(row.query, 4).hits
        mine = results[results.qid == row.qid]
        assert mine.docno.tolist() == [hit.id for hit in hits]
        assert mine.score.tolist() == pytest.approx([hit.score for hit in hits])
        assert mine["rank"].tolist() == list(range(len(hits)))
        assert mine.text.tolist() == [hit.document.text for hit in hits]
    assert retriever.search("happy cats").docno[0] == "cat"
    assert "text" not in SightlineRetriever(searcher)(TOPICS)


def test_each_list_is_read_whole(retriever, ranker, reranker):
    first = retriever(TOPICS.assign(query=["purr", "house", "air"]))
    ranked = ranker(first)
    for qid, part in first.groupby("qid", sort=False):
        documents = [{"id": r.docno, "text": r.text, "title": r.title} for r in part.itertuples()]
        alone = reranker.rank(part["query"].iloc[0], documents)
        mine = ranked[ranked.qid == qid]
        assert mine.docno.tolist() == [item.document.id for item in alone]
        assert mine.score.tolist() == pytest.approx([item.score for item in alone])
    assert list(ranked.columns) == list(first.columns)
    shuffled = ranker(first.sample(frac=1, random_state=1))
    assert {(r.qid, r.docno): r.score for r in shuffled.itertuples()} == {
        (r.qid, r.docno): r.score for r in ranked.itertuples()
    }


def test_other_columns_are_kept_and_the_input_is_not_changed(ranker):
    frame = pd.DataFrame(
        [["q", "cats", "d", "Dogs bark.", 7], ["q", "cats", "c", "Cats purr.", 8]],
        columns=["qid", "query", "docno", "text", "year"],
    )
    before = frame.copy()
    ranked = ranker(frame)
    assert ranked[["docno", "year", "rank"]].values.tolist() == [["c", 8, 0], ["d", 7, 1]]
    pd.testing.assert_frame_equal(frame, before)


def test_what_cannot_be_ranked_is_named(ranker):
    twice = pd.DataFrame([["q", "cats", "d", "Dogs."]] * 2, columns=["qid", "query", "docno", "text"])
    with pytest.raises(InputError, match="'q' has a document twice"):
        ranker(twice)
    with pytest.raises(InputError, match="'q' has several texts"):
        ranker(twice.assign(docno=["a", "b"], query=["cats", "dogs"]))
    with pytest.raises(InputError, match="'q' has no text"):
        ranker(twice.head(1).assign(query=None))


def test_rows_without_a_qid_or_a_text_are_kept_with_their_dtypes(ranker):
    frame = pd.DataFrame(
        [[None, "cats", 1, "Dogs bark.", 7], [None, "dogs", 1, "Dogs bark.", None], [None, "cats", 2, "Cats purr.", 9],
         ["q", "cats", 3, None, 1], ["q", "cats", 4, "Cats purr.", 2], ["q", "cats", 5, float("nan"), 2]],
        columns=["qid", "query", "docno", "text", "year"],
    ).astype({"year": "Int64", "qid": "category"})  # fmt: skip
    ranked = ranker(frame)
    assert ranked[["docno", "rank"]].values.tolist() == [[2, 0], [1, 1], [1, 0], [4, 0], [3, 1], [5, 2]]
    assert ranked.dtypes[list(frame.columns)].equals(frame.dtypes)
    for part in (ranked[:2], ranked[3:]):
        assert part["score"].is_monotonic_decreasing and part["score"].is_unique


@pytest.mark.parametrize("docno", ["object", "int64"])
def test_empty_frames_give_empty_frames(ranker, retriever, docno):
    frame = pd.DataFrame(columns=["qid", "query", "docno", "text"]).astype({"docno": docno})
    ranked = ranker(frame)
    assert list(ranked.columns) == [*frame.columns, "score", "rank"] and ranked.empty
    assert (ranked["docno"].dtype, ranked["score"].dtype, ranked["rank"].dtype) == (docno, "float64", "int64")
    assert retriever(frame[["qid", "query"]]).empty


def test_pipelines_and_experiments_find_the_same_figures_as_we_do(retriever, ranker):
    pipeline = retriever % 3 >> ranker
    qrels = pd.DataFrame(
        [[q, d, g] for q, grades in QRELS.items() for d, g in grades.items()], columns=["qid", "docno", "label"]
    )
    theirs = pt.Experiment([retriever, pipeline], TOPICS, qrels, ["ndcg_cut_10", "recip_rank"], names=["dense", "both"])
    for name, system in (("dense", retriever), ("both", pipeline)):
        results = system(TOPICS)
        rankings = {q: part.sort_values("rank").docno.tolist() for q, part in results.groupby("qid")}
        ours, _ = measure_rankings(QRELS, rankings, ["nDCG@10", "RR"])
        row = theirs[theirs.name == name].iloc[0]
        assert (row.ndcg_cut_10, row.recip_rank) == pytest.approx((ours["nDCG@10"], ours["RR"]), abs=1e-6)
