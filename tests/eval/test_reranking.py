"""Reranking a given run."""

import json
import logging

import pytest

from sightline.errors import DataError, InputError
from sightline.eval.loading import load_dataset
from sightline.eval.reranking import rerank_run
from sightline.rerank import LateInteractionReranker, Reranker, load_layout
from sightline.retrieval.index import Index
from sightline.search import Searcher

FILLER = "grass road song tree rain iron wall lamp " * 20
TEXTS = {
    "cat": "The cat purrs loudly.",
    "dog": "The dog barks.",
    "cow": "The cow eats grass.",
    # The toy reads 62 words: only a passage near the end can know of the whale.
    "saga": FILLER + "A whale sings in the deep sea.",
}
QUERIES = {f"q{i}": text for i, text in enumerate(["cat purrs", "dog barks", "whale sings in the deep sea"])}


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "qrels").mkdir()
    rows = [{"_id": id, "text": text} for id, text in TEXTS.items()]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": id, "text": text} for id, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"{q}\tcat\t1\n" for q in QUERIES)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return load_dataset(tmp_path)


@pytest.fixture
def reranker(toy):
    return LateInteractionReranker(load_layout("minilm"), reader=toy)


def test_the_same_candidates_in_a_better_order(dataset, reranker):
    run = {"q0": {"dog": 3.0, "cow": 2.0, "cat": 1.0}, "q1": {"cat": 2.0, "dog": 1.0}}
    out = rerank_run(dataset, run, reranker)
    assert next(iter(out["q0"])) == "cat"
    assert list(out["q1"]) == ["dog", "cat"]
    assert set(out["q0"]) == set(run["q0"])
    for scores in out.values():
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_scores_are_those_of_ranking_each_list_alone(dataset, reranker):
    out = rerank_run(dataset, {"q0": {"dog": 3.0, "cow": 2.0, "cat": 1.0}}, reranker)
    documents = list(dataset.documents(only={"dog", "cow", "cat"}))
    alone = {item.document.id: item.score for item in reranker.rank(QUERIES["q0"], documents)}
    assert out["q0"] == pytest.approx(alone, abs=1e-6)


def test_the_order_of_the_run_leaves_no_trace(dataset, reranker):
    one = rerank_run(dataset, {"q0": {"dog": 3.0, "cow": 2.0, "cat": 1.0}}, reranker)
    other = rerank_run(dataset, {"q0": {"cat": 3.0, "cow": 2.0, "dog": 1.0}}, reranker)
    assert one == other


@pytest.mark.parametrize(("candidates", "kept"), [(1, {"dog"}), (2, {"dog", "cow"}), (99, {"dog", "cow", "cat"})])
def test_depth_is_by_score_and_not_by_place(dataset, reranker, candidates, kept):
    out = rerank_run(dataset, {"q0": {"cat": 1.0, "dog": 3.0, "cow": 2.0}}, reranker, candidates)
    assert set(out["q0"]) == kept


@pytest.mark.parametrize("candidates", [0, -3])
def test_a_bad_depth_is_refused(dataset, reranker, candidates):
    with pytest.raises(InputError, match="candidates"):
        rerank_run(dataset, {"q0": {"cat": 1.0}}, reranker, candidates)


def test_a_long_document_is_scored_by_its_best_passage(dataset, reranker):
    out = rerank_run(dataset, {"q2": {"cat": 3.0, "dog": 2.0, "saga": 1.0}}, reranker)
    assert next(iter(out["q2"])) == "saga"
    assert len(out["q2"]) == 3


def test_a_missing_document_is_named_with_its_query(dataset, reranker):
    with pytest.raises(DataError, match="'q1'.*'ghost'"):
        rerank_run(dataset, {"q0": {"cat": 1.0}, "q1": {"cat": 2.0, "ghost": 1.0}}, reranker)


def test_a_missing_document_below_the_depth_does_not_matter(dataset, reranker):
    assert set(rerank_run(dataset, {"q1": {"cat": 2.0, "ghost": 1.0}}, reranker, candidates=1)["q1"]) == {"cat"}


def test_queries_that_the_data_lacks_are_passed_over_with_a_warning(dataset, reranker, caplog):
    with caplog.at_level(logging.WARNING):
        out = rerank_run(dataset, {"q0": {"cat": 1.0}, "q99": {"cat": 1.0}}, reranker)
    assert set(out) == {"q0"}
    assert "1 of the run's 2 queries" in caplog.text


def test_a_run_without_any_known_query_is_refused(dataset, reranker):
    with pytest.raises(DataError, match="none of the run's 1 queries"):
        rerank_run(dataset, {"q99": {"cat": 1.0}}, reranker)


def test_progress_counts_queries(dataset, reranker, monkeypatch):
    from sightline.eval import reranking as module

    monkeypatch.setattr(module, "_QUERIES_AT_ONCE", 2)
    counts = []
    rerank_run(dataset, {id: {"cat": 2.0, "dog": 1.0} for id in QUERIES}, reranker, progress=counts.append)
    assert counts == [2, 3]


def test_a_reranker_whose_model_is_but_a_name_is_served(dataset, reranker):
    class Foreign(Reranker):
        name = layout = model = "foreign"

        def _score(self, lists):
            return reranker._score(lists)

    assert list(rerank_run(dataset, {"q0": {"dog": 2.0, "cat": 1.0}}, Foreign())["q0"]) == ["cat", "dog"]


RUN = {"q0": {"dog": 3.0, "cow": 2.0, "cat": 1.0, "saga": 0.5}, "q2": {"cat": 3.0, "saga": 1.0}}


def test_with_an_index_a_given_run_is_scored_as_a_search_would(dataset, reranker, toy, tmp_path):
    with Index.build(tmp_path / "index", dataset.documents(), encoder=toy, token_states="none") as index:
        searched = {
            id: {hit.id: hit.score for hit in Searcher(index, reranker, first_stage="dense").search(QUERIES[id]).hits}
            for id in RUN
        }
        given = rerank_run(dataset, RUN, reranker, index=index)
    by_background = rerank_run(dataset, RUN, reranker)
    for id, scores in given.items():
        assert scores == pytest.approx({document: searched[id][document] for document in RUN[id]}, abs=1e-5)
        assert scores != pytest.approx(by_background[id], abs=1e-5)


def test_an_index_with_other_passages_has_no_scores_for_any(dataset, reranker, toy, tmp_path, caplog):
    built = Index.build(tmp_path / "index", dataset.documents(), encoder=toy, max_tokens=20)
    with built as index, caplog.at_level(logging.WARNING):
        given = rerank_run(dataset, RUN, reranker, index=index)
    assert given == rerank_run(dataset, RUN, reranker)
    assert "'saga' as the reranker reads it" in caplog.text


def test_an_index_without_words_has_no_scores(dataset, reranker, toy, tmp_path):
    with Index.build(tmp_path / "index", dataset.documents(), encoder=toy, lexical="none") as index:
        assert rerank_run(dataset, RUN, reranker, index=index) == rerank_run(dataset, RUN, reranker)
