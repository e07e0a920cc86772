"""MTEB's own evaluation around the pipeline, and its files in and out."""

import json

import numpy as np
import pytest

pytest.importorskip("mteb", reason="the extra mteb is not installed")

import mteb
from mteb.models import SearchProtocol

from sightline.errors import DataError, InputError
from sightline.eval.catalogues import from_mteb
from sightline.eval.experiment import evaluate_systems
from sightline.eval.metrics import measure_rankings
from sightline.eval.predictions import parse_predictions
from sightline.eval.runs import save_run
from sightline.integrations.mteb import SightlineSearch
from sightline.rerank import Reranker, Scored

from .mteb_tasks import LISTS, QRELS, QUERIES, ZooReranking, ZooRetrieval

THEIRS = {
    "nDCG@10": "ndcg_at_10",
    "AP@10": "map_at_10",
    "R@1": "recall_at_1",
    "P@3": "precision_at_3",
    "RR@5": "mrr_at_5",
}


@pytest.fixture(scope="module")
def model(reranker):
    return SightlineSearch(reranker)


def run(model, task, folder):
    """MTEB's figures, and the predictions that it wrote."""
    result = mteb.evaluate(
        model, task, cache=None, prediction_folder=folder, show_progress_bar=False, raise_error=True, co2_tracker=False
    )
    return result[0].scores["test"][0], parse_predictions(folder / f"{task.metadata.name}_predictions.json", "test")


def assert_same_figures(theirs, rankings):
    ours, _ = measure_rankings(QRELS, rankings, list(THEIRS), ignore_identical_ids=False)
    # MTEB rounds to five places.
    assert {name: theirs[other] for name, other in THEIRS.items()} == pytest.approx(ours, abs=6e-6)


def test_it_is_a_search_model(model):
    assert isinstance(model, SearchProtocol)
    assert model.mteb_model_meta.name == "sightline/hybrid+minilm"
    assert SightlineSearch(None, first_stage="bm25").mteb_model_meta.name == "sightline/bm25"


@pytest.mark.parametrize("options", [{}, {"first_stage": "hybrid", "candidates": 3}, {"reranker": None}], ids=str)
def test_retrieval_gives_the_figures_of_our_own_evaluation(reranker, options, tmp_path):
    model = SightlineSearch(**{"reranker": reranker} | options)
    theirs, predictions = run(model, ZooRetrieval(), tmp_path)
    assert_same_figures(theirs, {id: list(scores) for id, scores in predictions.items()})
    system = model.mteb_model_meta.name.removeprefix("sightline/")
    ours = evaluate_systems(
        from_mteb(ZooRetrieval()),
        [system],
        tmp_path / "out",
        candidates=options.get("candidates", 100),
        measures=["nDCG@10"],
    )
    assert {id: list(scores) for id, scores in ours.runs[system].items()} == {
        id: list(scores) for id, scores in predictions.items()
    }
    # Ours passes over a document with the query's own id; here one query has such.
    differ = (
        measure_rankings(QRELS, {"fish": ["fish"]}, ["nDCG@10"])[0]
        != measure_rankings(QRELS, {"fish": ["fish"]}, ["nDCG@10"], ignore_identical_ids=False)[0]
    )
    assert differ and ours.summary.identical_ids == 1


def test_reranking_reads_whole_lists(model, reranker, tmp_path, monkeypatch):
    read = []
    real = type(reranker).rank_batch

    def note(self, lists, *arguments, **options):
        read.extend((query, [document.id for document in documents]) for query, documents in lists)
        return real(self, lists, *arguments, **options)

    monkeypatch.setattr(type(reranker), "rank_batch", note)
    theirs, predictions = run(model, ZooReranking(), tmp_path)
    assert sorted(read) == sorted((QUERIES[id], documents) for id, documents in LISTS.items())
    assert {id: set(scores) for id, scores in predictions.items()} == {id: set(listed) for id, listed in LISTS.items()}
    assert_same_figures(theirs, {id: list(scores) for id, scores in predictions.items()})
    corpus = {document.id: document for document in from_mteb(ZooReranking()).documents()}
    for id, documents in LISTS.items():
        if len(documents) > 1:
            alone = reranker.rank(QUERIES[id], [corpus[document] for document in documents])
            assert list(predictions[id]) == [item.document.id for item in alone]


def test_what_mteb_predicted_is_reranked_there_as_here(model, reranker, tmp_path):
    first = SightlineSearch(None, first_stage="bm25")
    _, first_lists = run(first, ZooRetrieval(), tmp_path / "first")
    task = ZooRetrieval().convert_to_reranking(tmp_path / "first", top_k=3)
    _, theirs = run(model, task, tmp_path / "second")
    dataset = from_mteb(ZooRetrieval())
    predicted = tmp_path / "first" / "ZooRetrieval_predictions.json"
    ours = evaluate_systems(dataset, ["given+minilm"], tmp_path / "out", runs={"given": predicted}, candidates=3)
    assert {id: list(scores) for id, scores in ours.runs["given+minilm"].items()} == {
        id: list(scores) for id, scores in theirs.items()
    }
    assert all(set(scores) <= set(first_lists[id]) for id, scores in theirs.items())


def test_our_predictions_are_reranked_by_mteb(model, tmp_path):
    lists = {id: {d: -float(rank) for rank, d in enumerate(listed)} for id, listed in LISTS.items()}
    save_run(tmp_path / "ZooRetrieval_predictions.json", lists, "mine", from_mteb(ZooRetrieval()))
    task = ZooRetrieval().convert_to_reranking(tmp_path, top_k=2)
    _, predicted = run(model, task, tmp_path / "out")
    assert {id: set(scores) for id, scores in predicted.items()} == {id: set(docs[:2]) for id, docs in LISTS.items()}


def test_ties_keep_their_order_in_mteb(tmp_path, reranker):
    class Tied(Reranker):
        name = layout = model = "tied"

        def _score(self, lists):
            return [Scored(np.ones(len(ranked_list.documents))) for ranked_list in lists]

    _, predicted = run(SightlineSearch(Tied()), ZooReranking(), tmp_path / "tied")
    assert predicted and all(list(scores) == sorted(scores) for scores in predicted.values())  # ties stand by id


def test_lists_with_texts_that_are_missing_or_read_alike_are_ranked(reranker):
    corpus = [
        {"id": "a", "text": "Cats purr."},
        {"id": "b", "text": "CATS purr.", "title": None},
        {"id": "c", "text": ""},
        {"id": "d", "text": None},
        {"id": "e", "text": "", "title": "Cats purr"},
        {"id": "f", "text": "Iron\x00 rusts."},
    ]
    queries = [
        {"id": "all", "text": "what do cats do"},
        {"id": "tied", "text": "cats"},
        {"id": "empty", "text": "cats"},
    ]
    model = SightlineSearch(reranker)
    model.index(corpus)
    lists = {"all": list("dfceba"), "tied": ["b", "a"], "empty": ["c", "d"]}
    predicted = model.search(queries, top_k=10, top_ranked=lists)
    assert {id: sorted(scores) for id, scores in predicted.items()} == {id: sorted(ids) for id, ids in lists.items()}
    assert set(list(predicted["all"])[:3]) == {"a", "b", "e"} and list(predicted["all"])[3:] == ["f", "c", "d"]
    assert all(len(set(scores.values())) == len(scores) for scores in predicted.values())


def test_what_cannot_be_done_is_told(model, reranker):
    queries = [{"id": "q", "text": "cats"}]
    with pytest.raises(InputError, match="no corpus"):
        SightlineSearch(reranker).search(queries, top_k=3)
    nobody = SightlineSearch(None)
    nobody.index([{"id": "d", "text": "Cats."}])
    with pytest.raises(InputError, match="needs a reranker"):
        nobody.search(queries, top_k=3, top_ranked={"q": ["d"]})
    model.index([{"id": "d", "text": "Cats."}])
    with pytest.raises(DataError, match="'ghost' is not in the corpus"):
        model.search(queries, top_k=3, top_ranked={"q": ["ghost"]})
    model.index([{"id": "d", "text": "Cats."}])
    assert model.search(queries, top_k=3, top_ranked={}) == {"q": {}}


def test_the_task_as_a_dataset(tmp_path, monkeypatch):
    dataset = from_mteb(ZooRetrieval())
    assert (dataset.name, dataset.split) == ("ZooRetrieval", "test")
    assert (dataset.queries, dataset.qrels) == (QUERIES, QRELS)
    documents = {document.id: document for document in dataset.documents()}
    assert (documents["title"].title, documents["title"].text) == ("Lions roar at night.", "")
    assert (documents["iron"].title, documents["cat"].title) == ("", "Felines")
    for arguments, said in [(("NoSuchTask",), "no task 'NoSuchTask'"), ((ZooRetrieval(), "dev"), "no split 'dev'")]:
        with pytest.raises(InputError, match=said):
            from_mteb(*arguments)
    with pytest.raises(InputError, match="is a Classification"):
        from_mteb("Banking77Classification")
    from sightline.eval.loading import load_dataset

    monkeypatch.setattr(mteb, "get_task", lambda name: {"Zoo": ZooRetrieval}[name]())
    assert list(load_dataset("mteb:Zoo", max_queries=2).queries) == ["q1", "q2"]
    with pytest.raises(InputError, match="no subset 'fr'"):
        load_dataset("mteb:Zoo/fr")


def test_predictions_are_plain_json(model, tmp_path):
    run(model, ZooReranking(), tmp_path)
    record = json.loads((tmp_path / "ZooReranking_predictions.json").read_text())
    assert record["mteb_model_meta"]["model_name"] == "sightline/hybrid+minilm"
