"""Multi-vector retrieval as a first stage: alone, fused, in an evaluation, at the command line."""

import json

import pytest
from typer.testing import CliRunner

from sightline.cli import app
from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import Dataset, evaluate
from sightline.retrieval import multivector
from sightline.retrieval.fusion import reciprocal_rank, weighted_sum
from sightline.retrieval.index import Index
from sightline.search import Searcher

DOCUMENTS = [
    Document("cat", "Cats purr when they are content."),
    Document("dog", "Dogs bark at strangers."),
    Document("iron", "Iron rusts in wet air."),
    Document("tea", "Tea is brewed with water that has just boiled."),
]
QUERY = "why do cats purr"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("i") / "index", DOCUMENTS) as index:
        yield index


def test_it_ranks_as_the_reranker_by_maxsim_does(index):
    found = Searcher(index, None, first_stage="multivector").search(QUERY, 4)
    ranked = Searcher(index, "minilm-maxsim", first_stage="dense").search(QUERY, 4)
    assert [hit.id for hit in found.hits] == [hit.id for hit in ranked.hits]
    assert [hit.score for hit in found.hits] == pytest.approx([hit.score for hit in ranked.hits], rel=1e-4)
    assert found.first_stage == "multivector"
    both = Searcher(index, "minilm", first_stage="multivector").search(QUERY, 4)
    alone = Searcher(index, "minilm", first_stage="dense").search(QUERY, 4)
    assert {hit.id: hit.score for hit in both.hits} == {hit.id: hit.score for hit in alone.hits}


def test_several_passages_of_a_document_are_one_hit(tmp_path):
    long = Document("long", " ".join(f"Sentence {i} is about cats." for i in range(40)))
    with Index.build(tmp_path / "index", [long, *DOCUMENTS], max_tokens=32) as index:
        hits = Searcher(index, None, first_stage="multivector", candidates=3).search(QUERY, 3).hits
        assert len({hit.id for hit in hits}) == 3


@pytest.mark.parametrize("how", ["rrf", 0.6])
def test_the_hybrid_with_it_is_the_fusion_of_the_three(index, how):
    searcher = Searcher(index, None, first_stage="hybrid-multivector", fusion=how)
    [lists] = searcher.candidates_each([QUERY], ["dense", "multivector", "bm25", "hybrid", "hybrid-multivector"])
    runs = [{id: score for id, (_, score) in lists[part].first.items()} for part in ("dense", "multivector", "bm25")]
    expected = reciprocal_rank(runs) if how == "rrf" else weighted_sum(runs, [0.3, 0.3, 0.4])
    assert {id: place[1] for id, place in lists["hybrid-multivector"].first.items()} == pytest.approx(expected)
    two = reciprocal_rank([runs[0], runs[2]]) if how == "rrf" else weighted_sum([runs[0], runs[2]], [0.6, 0.4])
    assert {id: place[1] for id, place in lists["hybrid"].first.items()} == pytest.approx(two)


def test_an_index_of_words_and_token_states_has_a_hybrid_without_embeddings(tmp_path):
    with Index.build(tmp_path / "index", DOCUMENTS, encoder="none", reader="minilm") as index:
        searcher = Searcher(index, None, first_stage="hybrid-multivector")
        [lists] = searcher.candidates_each([QUERY], ["multivector", "bm25", "hybrid-multivector"])
        runs = [{id: score for id, (_, score) in lists[part].first.items()} for part in ("multivector", "bm25")]
        fused = {id: place[1] for id, place in lists["hybrid-multivector"].first.items()}
        assert fused == pytest.approx(weighted_sum(runs, [0.7, 0.3]))
        with pytest.raises(InputError, match="built without embeddings"):
            Searcher(index, None, first_stage="hybrid").search(QUERY)


def test_a_late_interaction_model_searches_what_it_reranks(tmp_path, scorer_folders):
    name = f"late-interaction:{scorer_folders['late-interaction']}"
    with Index.build(tmp_path / "index", DOCUMENTS, encoder="none", reader=name) as index:
        found = Searcher(index, None, first_stage="multivector").search(QUERY, 4).hits
        ranked = Searcher(index, name, first_stage="bm25", kept_states=False)
        again = ranked.reranker.rank(QUERY, DOCUMENTS, 4)
    assert [hit.id for hit in found] == [item.document.id for item in again]
    assert [hit.score for hit in found] == pytest.approx([item.score for item in again], rel=0.02)  # int8


def test_what_is_explained_and_who_may_search_at_once(index):
    explained = Searcher(index, None, first_stage="hybrid-multivector").explain(QUERY, 3)
    assert explained.multivector and explained.dense and explained.bm25
    assert not Searcher(index, None).explain(QUERY, 3).multivector
    assert Searcher(index, None, first_stage="multivector").concurrent


def test_an_index_without_token_states_says_what_to_do(tmp_path):
    with (
        Index.build(tmp_path / "index", DOCUMENTS, token_states="none") as bare,
        pytest.raises(InputError, match="built without token states, so multivector cannot search it; build it again"),
    ):
        Searcher(bare, None, first_stage="multivector").search(QUERY)


def test_evaluations_take_it_by_name_and_keep_token_states(tmp_path):
    dataset = Dataset.in_memory(DOCUMENTS, {"q1": QUERY}, {"q1": {"cat": 1}})
    results = evaluate(["multivector", "hybrid-multivector+minilm"], dataset, ["nDCG@10"], work=tmp_path / "work")
    assert {measures["nDCG@10"] for measures in results.systems.values()} == {1.0}


def test_the_command_line_takes_it(index, monkeypatch):
    monkeypatch.setattr(multivector, "_TAIL", 2)
    arguments = ["search", str(index.path), QUERY, "--first-stage", "multivector", "--rerank", "none", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--explain"])
    assert done.exit_code == 0, done.output
    hits = json.loads(done.stdout)["hits"]
    assert hits[0]["id"] == "cat" and hits[0]["stages"]["multivector"][0] == 1
    assert (index.path / multivector.MULTIVECTOR_FILE).exists()
