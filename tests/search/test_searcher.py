"""The pipeline: candidates by document, attention over all of them, and what is said about each hit."""

import asyncio
import dataclasses
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.rerank import LateInteractionReranker, Reranker, Scored, load_layout
from sightline.retrieval.index import Index
from sightline.search import Searcher
from sightline.search.first_stage import retrieve

ANIMALS = [
    Document("cat", "The cat purrs loudly. It sleeps all day. Mice fear it.", "Felines", {"lang": "en", "year": 2001}),
    Document("dog", "The dog barks at strangers. It guards the house.", "Canines", {"lang": "en", "year": 2010}),
    Document("cow", "The cow eats grass. Milk comes from it.", "Cattle", {"lang": "de", "year": 2015}),
    Document("fish", "A fish swims in water. Water is wet.", "", {"lang": "de", "year": 2020}),
    Document("bird", "Birds sing in spring. A bird builds nests.", "", {"lang": "fr"}),
    # Many passages (the toy reads 62 words at once), each with the word zebra.
    Document("saga", " ".join(f"Chapter {i} tells how a zebra crossed river number {i}." for i in range(60)), "Saga"),
]
STAGES = ["dense", "bm25", "hybrid"]


@pytest.fixture(scope="module")
def index(shared_toy, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("s") / "i", ANIMALS, encoder=shared_toy, token_states="fp16") as index:
        yield index


@pytest.fixture(scope="module")
def reranker(shared_toy):
    return LateInteractionReranker(load_layout("minilm"), reader=shared_toy)


@pytest.fixture
def searcher(index, reranker):
    return Searcher(index, reranker)


def comparable(result):
    return dataclasses.replace(result, milliseconds={})


# -- finding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reranked", [True, False])
def test_the_document_with_the_words_comes_first(index, reranker, stage, reranked):
    result = Searcher(index, reranker if reranked else None, first_stage=stage).search("dog barks")
    assert result.hits[0].id == "dog"
    assert (result.first_stage, result.reranker) == (stage, "minilm" if reranked else None)
    assert [hit.rank for hit in result.hits] == list(range(1, len(result.hits) + 1))
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)


@pytest.mark.parametrize("fusion", ["rrf", 0, 0.5, 1])
def test_hybrid_fuses_in_every_way(index, fusion):
    result = Searcher(index, None, first_stage="hybrid", fusion=fusion).search("cow eats grass")
    assert result.hits[0].id == "cow"
    assert len({hit.id for hit in result.hits}) == len(result.hits)


def test_hybrid_with_all_weight_on_words_is_the_order_of_bm25(index):
    words = Searcher(index, None, first_stage="bm25").search("zebra water bird")
    fused = Searcher(index, None, first_stage="hybrid", fusion=0).search("zebra water bird")
    assert [hit.id for hit in fused.hits][: len(words.hits)] == [hit.id for hit in words.hits]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("candidates", [1, 2, 4, 6, 100])
def test_candidates_count_documents_and_not_their_passages(index, reranker, stage, candidates):
    query = "zebra crossed river number 7 cat dog cow fish bird"
    result = Searcher(index, reranker, first_stage=stage, candidates=candidates).search(query, k=50)
    assert len(result.hits) == min(candidates, len(ANIMALS))
    assert result.passages >= len(result.hits)


def test_a_document_of_many_passages_does_not_crowd_out_others(index, reranker):
    result = Searcher(index, reranker, candidates=3).search("zebra crossed river")
    assert result.hits[0].id == "saga"
    assert len(result.hits) == 3
    assert result.passages > 3


def test_one_search_by_words_serves_documents_of_several_passages(index, monkeypatch):
    rows, scores = index.search_lexical("zebra crossed river cat", 16)
    first = index.document_numbers(rows[:8])
    assert len(set(first.tolist())) < 8  # as many passages as documents are asked for would not do
    asked, real = [], index.search_lexical
    monkeypatch.setattr(index, "search_lexical", lambda query, k, where=None: asked.append(k) or real(query, k, where))
    [found] = retrieve(index, ["zebra crossed river cat"], ["bm25"], 8)["bm25"]
    assert (asked, found.rows, found.scores) == ([16], rows.tolist(), scores.tolist())


@pytest.mark.parametrize("reranked", [True, False])
def test_passage_level_gives_passages_and_document_level_the_best_of_each(index, reranker, reranked):
    searcher = Searcher(index, reranker if reranked else None)
    passages = searcher.search("zebra crossed river number 41", 50, unit="passage")
    documents = searcher.search("zebra crossed river number 41", 50)
    spans = [(hit.id, hit.passage.start) for hit in passages.hits]
    assert len(set(spans)) == len(spans) > len(ANIMALS)
    first = {}
    for hit in passages.hits:
        first.setdefault(hit.id, (hit.passage.start, hit.score))
    assert {hit.id: (hit.passage.start, hit.score) for hit in documents.hits} == first


def test_the_best_passage_is_the_one_with_the_answer(searcher):
    hit = searcher.search("chapter 41 river number 41").hits[0]
    assert "number 41." in hit.passage.text
    assert hit.document.text == ANIMALS[-1].text


def test_first_rank_and_score_are_those_of_the_first_stage(index, reranker):
    plain = Searcher(index, None).search("water grass zebra", 50)
    assert [hit.first_rank for hit in plain.hits] == list(range(1, len(ANIMALS) + 1))
    places = {hit.id: (hit.first_rank, hit.first_score) for hit in plain.hits}
    reranked = Searcher(index, reranker).search("water grass zebra", 50)
    assert {hit.id: (hit.first_rank, hit.first_score) for hit in reranked.hits} == places


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"lang": "de"}, {"cow", "fish"}),
        ({"year": {">=": 2010, "<": 2020}}, {"dog", "cow"}),
        ({"lang": "de", "year": {">": 2015}}, {"fish"}),
    ],
)
def test_filters_hold_in_every_first_stage(index, reranker, stage, where, ids):
    query = "cat dog cow fish bird zebra"
    hits = Searcher(index, reranker, first_stage=stage).search(query, where=where).hits
    assert {hit.id for hit in hits} == ids


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reranked", [True, False])
def test_nothing_found_is_an_empty_result(index, reranker, stage, reranked):
    searcher = Searcher(index, reranker if reranked else None, first_stage=stage)
    result = searcher.search("cat", where={"lang": "xx"}, evidence="sentence" if reranked else None)
    assert (result.hits, result.passages) == ((), 0)


def test_words_that_no_document_has_find_nothing_by_words(index, reranker):
    assert Searcher(index, reranker, first_stage="bm25").search("xylophone").hits == ()


def test_a_deleted_document_is_gone_at_once(shared_toy, reranker, tmp_path):
    with Index.build(tmp_path / "i", ANIMALS, encoder=shared_toy) as index:
        index.delete(["cat"])
        result = Searcher(index, reranker, first_stage="hybrid").search("cat purrs", 50)
        assert "cat" not in {hit.id for hit in result.hits}


def test_an_index_without_words_says_so(shared_toy, reranker, tmp_path):
    with Index.build(tmp_path / "i", ANIMALS, encoder=shared_toy, lexical="none") as index:
        assert Searcher(index, reranker).search("cat").hits[0].id == "cat"
        assert Searcher(index, reranker).explain("cat").bm25 == {}
        for stage in ("bm25", "hybrid"):
            with pytest.raises(InputError, match="without a lexical index"):
                Searcher(index, reranker, first_stage=stage).search("cat")


def test_an_index_without_embeddings_is_explained_by_words_alone(tmp_path):
    with Index.build(tmp_path / "i", ANIMALS, encoder="none") as index:
        explanation = Searcher(index, None, first_stage="bm25").explain("cat purrs")
    assert explanation.result.hits[0].id == "cat"
    assert explanation.dense == {} and explanation.bm25["cat"][0] == 1


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["document", "passage"])
@pytest.mark.parametrize("evidence", ["sentence", "token"])
def test_evidence_is_in_the_whole_document_and_inside_its_passage(searcher, evidence, unit):
    result = searcher.search("zebra crossed river number 41 cat", 50, evidence=evidence, unit=unit)
    assert any(hit.passage.start > 0 for hit in result.hits)
    for hit in result.hits:
        assert hit.evidence
        for span in hit.evidence:
            source = hit.document.title if span.field == "title" else hit.document.text
            assert source[span.start : span.end] == span.text
            if span.field == "text":
                assert hit.passage.start <= span.start < span.end <= hit.passage.end
        assert sum(span.mass for span in hit.evidence) == pytest.approx(hit.mass, rel=1e-3)


def test_masses_of_all_passages_sum_to_one(searcher):
    result = searcher.search("zebra cat water", 500, unit="passage")
    assert len(result.hits) == result.passages
    assert sum(hit.mass for hit in result.hits) == pytest.approx(1, abs=1e-5)
    assert result.query_tokens == ("zebra", "cat", "water")
    assert all(len(hit.token_mass) == 3 for hit in result.hits)


def test_kept_states_and_states_on_the_fly_rank_alike(index, reranker):
    kept = Searcher(index, reranker).search("zebra crossed water", 50, evidence="sentence")
    fresh = Searcher(index, reranker, kept_states=False).search("zebra crossed water", 50, evidence="sentence")
    assert [hit.id for hit in kept.hits] == [hit.id for hit in fresh.hits]
    assert [hit.passage for hit in kept.hits] == [hit.passage for hit in fresh.hits]
    assert [hit.score for hit in kept.hits] == pytest.approx([hit.score for hit in fresh.hits], abs=0.02)


def test_kept_states_spare_the_reading(index, shared_toy):
    class Forgetful(type(shared_toy)):
        def read(self, texts, **options):
            assert len(texts) == 1, "only the query may be read"
            return super().read(texts, **options)

    assert Searcher(index, LateInteractionReranker("minilm", reader=Forgetful())).search("cat water").hits[0].mass


def test_kept_states_of_another_model_are_not_used(index, shared_toy):
    other = LateInteractionReranker("minilm", reader=type(shared_toy)(revision="toy-2"))
    read = []
    other.reader.read, real = lambda texts, **o: read.extend(texts) or real(texts, **o), other.reader.read
    Searcher(index, other).search("cat")
    assert len(read) > len(ANIMALS)


def test_a_reranker_without_a_reader_gets_no_states(index):
    class Longest(Reranker):
        name = layout = model = "longest"

        def _score(self, lists):
            assert all(states is None for request in lists for states in request.states)
            return [
                Scored(np.array([float(len(document.text)) for document in request.documents])) for request in lists
            ]

    hits = Searcher(index, Longest()).search("cat purrs").hits
    assert hits[0].score == max(len(hit.passage.text) for hit in hits)


def test_what_is_no_reranker_is_refused(index):
    with pytest.raises(InputError, match="derives from sightline.Reranker"):
        Searcher(index, object())


def test_explain_agrees_with_each_stage(index, reranker):
    explanation = Searcher(index, reranker).explain("water zebra cow", 3)
    shown = {hit.id for hit in explanation.result.hits}
    assert len(shown) == 3
    for stage, places in (("dense", explanation.dense), ("bm25", explanation.bm25)):
        alone = {
            hit.id: (hit.rank, hit.score)
            for hit in Searcher(index, None, first_stage=stage).search("water zebra cow", 50).hits
        }
        assert places == {id: pytest.approx(alone[id]) for id in shown if id in alone}


def test_explain_without_a_reranker_has_no_evidence(index):
    explanation = Searcher(index, None).explain("the cat purrs loudly")
    assert explanation.result.hits[0].evidence is None
    assert explanation.dense["cat"][0] == 1


def test_explain_gives_passages_where_asked(searcher):
    result = searcher.explain("zebra river", 5, unit="passage").result
    assert [hit.id for hit in result.hits].count("saga") > 1


# -- several at once ---------------------------------------------------------------------------------------------------

QUERIES = ["cat purrs", "dog barks", "cow eats grass", "fish swims", "birds sing", "zebra crossed", "cat purrs"]
ANSWERS = ["cat", "dog", "cow", "fish", "bird", "saga", "cat"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_answers_as_one_by_one(index, reranker, stage):
    searcher = Searcher(index, reranker, first_stage=stage)
    together = searcher.search_batch(QUERIES, 4, evidence="sentence", where={"year": {"<": 3000}})
    alone = [searcher.search(query, 4, evidence="sentence", where={"year": {"<": 3000}}) for query in QUERIES]
    assert [comparable(result) for result in together] == [comparable(result) for result in alone]


def test_an_empty_batch_is_an_empty_list(searcher):
    assert searcher.search_batch([]) == []


def test_asearch_does_not_block_the_loop(searcher, monkeypatch):
    released = threading.Event()
    real = searcher.search_batch
    monkeypatch.setattr(searcher, "search_batch", lambda *a, **o: released.wait(20) and real(*a, **o))

    async def scenario():
        answer = asyncio.create_task(searcher.asearch("cat purrs"))
        for _ in range(20):  # the loop turns while the search hangs, and only then lets it go
            await asyncio.sleep(0.005)
        assert not answer.done()
        released.set()
        return await answer

    assert asyncio.run(asyncio.wait_for(scenario(), 15)).hits[0].id == "cat"


@pytest.mark.parametrize("stage", STAGES)
def test_concurrent_asearches_do_not_mix_answers(index, reranker, stage):
    searcher = Searcher(index, reranker, first_stage=stage)

    async def scenario():
        return await asyncio.gather(*(searcher.asearch(query, 2, evidence="token") for query in QUERIES * 8))

    results = asyncio.run(scenario())
    assert [result.query for result in results] == QUERIES * 8
    assert [result.hits[0].id for result in results] == ANSWERS * 8
    expected = [comparable(searcher.search(query, 2, evidence="token")) for query in QUERIES]
    assert [comparable(result) for result in results] == expected * 8


def test_asearch_batch_is_search_batch(searcher):
    results = asyncio.run(searcher.asearch_batch(QUERIES, 1))
    assert [result.hits[0].id for result in results] == ANSWERS


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"first_stage": "learned"},
        {"candidates": 0},
        {"fusion": "sum"},
        {"fusion": 1.5},
        {"fusion": -0.1},
        {"fusion": float("nan")},
        {"reranker": "nothing"},
        {"reranker": 5},
        {"candidates": "many"},
        {"candidates": 2.5},
    ],
    ids=str,
)
def test_a_bad_setting_is_refused(index, options):
    with pytest.raises(InputError):
        Searcher(index, **{"reranker": None, **options})


@pytest.mark.parametrize("query", ["", "  \n", None, 5, "half \ud800"])
def test_a_bad_query_is_refused(searcher, query):
    with pytest.raises(InputError, match="query"):
        searcher.search(query)


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"k": None}, {"k": "3"}, {"k": 2.5}, {"unit": "page"}, {"evidence": "word"}, {"where": "lang=en"}],
)
def test_a_bad_argument_is_refused(searcher, options):
    with pytest.raises(InputError):
        searcher.search("cat", **options)


def test_one_string_is_no_batch(searcher):
    for nothing in (None, [Document("a", "text")]):
        with pytest.raises(InputError, match="index must be the path of an index"):
            Searcher(nothing, None)
    with pytest.raises(InputError, match="list of queries"):
        searcher.search_batch(None)
    with pytest.raises(InputError, match="list of queries"):
        searcher.search_batch("cat")


def test_evidence_without_a_reranker_is_refused(index):
    with pytest.raises(InputError, match="needs a reranker"):
        Searcher(index, None).search("cat", evidence="sentence")


# -- the real model, and the import ------------------------------------------------------------------------------------


def test_the_default_model_end_to_end(tmp_path):
    with Index.build(tmp_path / "i", ANIMALS[:5], token_states="int8") as built:
        pass
    searcher = Searcher(built.path)
    with searcher.index:
        result = searcher.search("where does milk come from", 3, evidence="sentence")
    assert result.hits[0].id == "cow"
    assert result.hits[0].evidence[0].text == "Milk comes from it."


def test_import_is_light():
    code = "import sys, sightline; print(*{'torch', 'transformers', 'numpy', 'faiss', 'rich'} & set(sys.modules))"
    started = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == []
    assert time.perf_counter() - started < 30


def test_every_public_name_is_there():
    import sightline

    assert all(getattr(sightline, name) is not None for name in sightline.__all__)
    assert set(sightline.__all__) <= set(dir(sightline))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sightline.nonsense
