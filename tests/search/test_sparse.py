"""Learned sparse vectors as a first stage: in the place of BM25, and never under its name."""

import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import Dataset, evaluate
from sightline.rerank.loading import load_reranker
from sightline.retrieval.bm25 import background_bm25
from sightline.retrieval.index import Index
from sightline.search import Searcher

from ..models.model_folders import sparse_encoder

DOCUMENTS = [
    Document("cat", "Cats purr when they are content."),
    Document("dog", "Dogs bark at strangers."),
    Document("iron", "Iron rusts in wet air."),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_encoder(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def index(tmp_path_factory, model):
    with Index.build(tmp_path_factory.mktemp("i") / "index", DOCUMENTS, lexical=f"sparse:{model}") as index:
        yield index


def test_it_is_the_first_stage_of_words_and_part_of_hybrid(index):
    query = "do cats purr"
    alone = Searcher(index, None, first_stage="sparse").search(query, 3)
    rows, scores = index.search_lexical(query, 3)
    ids = index.document_ids(rows)
    assert [hit.id for hit in alone.hits] == [ids[row] for row in rows.tolist()]
    assert [hit.score for hit in alone.hits] == scores.tolist() and alone.first_stage == "sparse"
    assert Searcher(index, None).first_stage == "hybrid"
    assert {hit.id for hit in Searcher(index, None, fusion=0.0).search(query, 3).hits} >= {ids[rows[0]]}
    words_only = Searcher(index, None, fusion=0.0).search(query, 1).hits[0]
    assert words_only.id == ids[rows[0]]
    assert Searcher(index, None, first_stage="sparse").concurrent
    explained = Searcher(index, None).explain(query, 3)
    assert {id: place[1] for id, place in explained.sparse.items()} == {hit.id: hit.score for hit in alone.hits}
    assert explained.dense and not explained.bm25


def test_sparse_scores_never_go_by_the_name_of_bm25(index):
    fused = load_reranker("minilm")
    assert fused.uses_bm25
    query = "do cats purr"
    [lists] = Searcher(index, fused).candidates_each([query], ["sparse", "dense", "hybrid"], [fused])
    assert all(candidates.bm25 is None for candidates in lists.values())
    found = Searcher(index, fused, first_stage="sparse", kept_states=False).search(query, 3)
    shown = [hit.document for hit in found.hits]
    again = fused.rank(query, shown, 3, bm25=background_bm25(query, [document.contents for document in shown]))
    assert {hit.id: hit.score for hit in found.hits} == pytest.approx(
        {item.document.id: item.score for item in again}, rel=1e-4
    )
    with pytest.raises(InputError, match="keeps learned sparse vectors .* first stage sparse"):
        index.bm25(query, [0])


def test_the_other_stage_is_refused_in_both_directions(index, tmp_path):
    with pytest.raises(InputError, match="keeps learned sparse vectors .* first stage sparse, or build it with"):
        Searcher(index, None, first_stage="bm25").search("cats")
    with (
        Index.build(tmp_path / "bm25", DOCUMENTS, encoder="none") as words,
        pytest.raises(InputError, match="keeps words for BM25, not learned sparse vectors: .* first stage bm25"),
    ):
        Searcher(words, None, first_stage="sparse").search("cats")
    with (
        Index.build(tmp_path / "none", DOCUMENTS, lexical="none", token_states="none") as neither,
        pytest.raises(InputError, match="built without a lexical index"),
    ):
        Searcher(neither, None, first_stage="sparse").search("cats")
    with pytest.raises(
        InputError, match="'sparse', 'dense', 'multivector', 'hybrid', 'hybrid-multivector', not 'splade'"
    ):
        Searcher(index, None, first_stage="splade")


def test_an_index_of_sparse_vectors_alone_searches_by_them(tmp_path, model):
    with Index.build(tmp_path / "index", DOCUMENTS, encoder="none", lexical=f"sparse:{model}") as index:
        searcher = Searcher(index, None)
        assert searcher.first_stage == "sparse"
        assert searcher.search("cats purr", 1).hits


def test_evaluations_take_it_by_name(model, tmp_path):
    dataset = Dataset.in_memory(DOCUMENTS, {"q1": "cats purr"}, {"q1": {"cat": 1}})
    settings = {"lexical": f"sparse:{model}"}
    results = evaluate(["sparse"], dataset, ["nDCG@10"], settings=settings)
    assert results.systems["sparse"]["nDCG@10"] > 0
    with pytest.raises(InputError, match="the index keeps words for BM25"):
        evaluate(["sparse"], dataset, ["nDCG@10"])
    with pytest.raises(InputError, match="the index keeps learned sparse vectors"):
        evaluate(["bm25"], dataset, ["nDCG@10"], settings=settings)
