"""Haystack's own pipelines around the retriever and the ranker."""

import asyncio
import copy
import threading

import pytest

haystack = pytest.importorskip("haystack", reason="the extra haystack is not installed")

from haystack import Document, Pipeline
from haystack.core.errors import DeserializationError
from haystack.core.serialization import component_from_dict, component_to_dict

from sightline.errors import IndexStoreError, InputError
from sightline.integrations import haystack as faces
from sightline.integrations.haystack import SightlineRanker, SightlineRetriever
from sightline.rerank import arrange, load_reranker

TEXTS = ["Dogs bark.", "Cats purr when content.", "Iron rusts.", "Lions are cats that roar."]


@pytest.fixture(scope="module")
def retriever(index_path):
    retriever = SightlineRetriever(index_path, top_k=3)
    yield retriever
    retriever.close()


@pytest.fixture(scope="module")
def ranker():
    return SightlineRanker(top_k=2)


@pytest.fixture
def documents():
    return [
        Document(id=f"id{i}", content=text, meta={"place": i, "nested": {"deep": [i]}}, score=9.0 - i)
        for i, text in enumerate(TEXTS)
    ]


def test_results_are_those_of_the_searcher(retriever, searcher):
    expected = searcher.search("what do happy cats do", 3, unit="passage").hits
    documents = retriever.run("what do happy cats do")["documents"]
    assert [(d.content, d.score) for d in documents] == [(hit.passage.text, hit.relevance) for hit in expected]
    assert (documents[0].id, documents[0].meta) == ("cat", {"lang": "en", "year": 2001, "title": "Felines"})


def test_a_part_of_a_document_says_where_it_is_from(retriever, searcher):
    part = retriever.run("who lights the lamp at dusk", top_k=1)["documents"][0]
    start, end = map(int, part.id.removeprefix("town#").split("-"))
    assert part.meta["document_id"] == "town"
    assert searcher.index.document("town").text[start:end] == part.content
    assert "lighthouse" in part.content


def test_options(index_path, searcher):
    retriever = SightlineRetriever(
        index_path, 2, first_stage="bm25", candidates=5, reranker=None, unit="document", order="basin"
    )
    documents = retriever.run("bakery school lighthouse keeper")["documents"]
    assert (documents[0].id, documents[0].content) == ("town", searcher.index.document("town").text)
    best = SightlineRetriever(index_path, 1, evidence="sentence").run("who lights the lamp")["documents"][0]
    spans = [span for span in best.meta["evidence"] if span["field"] == "text"]
    assert spans and all(best.content[span["start"] : span["end"]] == span["text"] for span in spans)


def test_basin_order_is_an_option(index_path):
    plain = SightlineRetriever(index_path, 6).run("animals")["documents"]
    assert SightlineRetriever(index_path, 6, order="basin").run("animals")["documents"] == arrange(plain) != plain


def test_min_score_of_the_retriever_and_of_a_call(index_path, retriever):
    scores = [d.score for d in retriever.run("what do happy cats do")["documents"]]
    cutting = SightlineRetriever(index_path, 3, min_score=scores[1])
    assert [d.score for d in cutting.run("what do happy cats do")["documents"]] == scores[:2]
    assert [d.score for d in cutting.run("what do happy cats do", min_score=0.0)["documents"]] == scores
    assert cutting.run("what do happy cats do", min_score=1.0) == {"documents": []}
    with pytest.raises(InputError, match="minilm-mass has none: its scores are relative to their list"):
        SightlineRetriever(index_path, reranker="minilm-mass", min_score=0.5).run("cats")


LANG = {"field": "meta.lang", "operator": "==", "value": "en"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (LANG, {"cat", "dog", "iron"}),
        ({"field": "lang", "operator": "in", "value": ["de", "fr"]}, {"cow", "fish"}),
        ({"field": "lang", "operator": "not in", "value": ["de", "fr"]}, {"cat", "dog", "iron"}),
        (
            {"operator": "AND", "conditions": [LANG, {"field": "meta.year", "operator": ">", "value": 2000}]},
            {"cat", "dog"},
        ),
        (
            {
                "operator": "AND",
                "conditions": [
                    {"field": "meta.year", "operator": ">=", "value": 2001},
                    {"field": "meta.year", "operator": "<", "value": 2015},
                ],
            },
            {"cat", "dog"},
        ),
        ({"field": "meta.year", "operator": "!=", "value": 2001}, {"dog", "cow", "iron"}),
        (None, {"cat", "dog", "cow", "fish", "iron", "star"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_filters_mean_what_they_mean_to_haystack(retriever, searcher, filters, expected):
    ours = {d.id.partition("#")[0] for d in retriever.run("anything", filters, top_k=200)["documents"]} - {"town"}
    assert ours == expected
    from haystack.utils.filters import document_matches_filter

    if filters and not any(
        word in str(filters) for word in ("!=", "not in")
    ):  # to Haystack a field that is not there is different from anything
        theirs = {
            d.id
            for d in searcher.index.documents()
            if document_matches_filter(filters, Document(content=d.text, meta=dict(d.metadata)))
        }
        assert ours == theirs - {"town"}


@pytest.mark.parametrize(
    "filters",
    [
        {"operator": "OR", "conditions": [LANG, LANG]},
        {"operator": "NOT", "conditions": [LANG]},
        {"operator": "AND", "conditions": [{"operator": "OR", "conditions": [LANG]}]},
        {"operator": "AND", "conditions": [LANG, LANG]},
        {"field": "meta.lang", "operator": "contains", "value": ["en"]},
        {"field": "meta.lang", "operator": "=="},
        {"field": "meta.lang", "operator": ["=="], "value": "en"},
        {"operator": "AND", "conditions": ["lang"]},
        {"operator": "AND", "conditions": {"lang": "en"}},
        {"lang": "en"},
        ["lang"],
    ],
    ids=str,
)
def test_filters_that_there_are_not_are_refused(retriever, filters):
    with pytest.raises(InputError, match="filter"):
        retriever.run("anything", filters)


def test_filters_given_at_first_hold_until_others_come(index_path):
    retriever = SightlineRetriever(index_path, 20, filters={"field": "lang", "operator": "==", "value": "de"})
    assert {d.id for d in retriever.run("cats")["documents"]} == {"cow", "fish"}
    assert "cat" in {d.id for d in retriever.run("cats", LANG)["documents"]}


def test_nothing_is_opened_before_it_is_needed(tmp_path):
    retriever = SightlineRetriever(tmp_path / "none")
    with pytest.raises(IndexStoreError):
        retriever.warm_up()
    with pytest.raises(InputError):
        SightlineRanker("none").warm_up()


# -- ranker ------------------------------------------------------------------------------------------------------------


def test_ranked_documents_are_copies(ranker, reranker, documents):
    before = copy.deepcopy(documents)
    ranked = ranker.run("what do cats do", documents)["documents"]
    expected = reranker.rank("what do cats do", TEXTS, 2)
    assert [(d.id, d.content, d.score) for d in ranked] == [
        (f"id{item.index}", TEXTS[item.index], item.relevance) for item in expected
    ]
    assert [d.meta for d in ranked] == [before[item.index].meta for item in expected]
    ranked[0].meta["place"] = "changed"
    assert documents == before


def test_order_and_number(ranker, documents):
    plain = ranker.run("cats", documents, top_k=4)["documents"]
    assert SightlineRanker(order="basin").run("cats", documents)["documents"] == arrange(plain)
    assert ranker.run("cats", [])["documents"] == []


def test_the_title_is_read():
    texts = [Document(content="It is so.", meta={"title": title}) for title in ("Iron", "Whales")]
    assert SightlineRanker().run("whales", texts)["documents"][0].meta["title"] == "Whales"
    meta = [{"topic": topic, "year": year, "title": "Whales"} for topic in ("iron", "birds") for year in (1990, None)]
    texts = [Document(content="It is so.", meta=metadata) for metadata in meta]
    topical = SightlineRanker(meta_fields_to_embed=["topic", "year"]).run("birds in 1990", texts)["documents"]
    assert topical[0].meta == meta[2]
    plain = SightlineRanker(meta_fields_to_embed=[]).run("birds", [*texts, Document(content="Birds.")])["documents"]
    assert len({d.score for d in plain}) == 2


def test_documents_without_content_come_last(ranker, documents):
    image = Document(id="image", content=None, meta={"file": "a.png"})
    odd = Document(id="odd", content="Cats\x00", meta={"title": "\ud83d"})
    ranked = ranker.run("cats", [image, documents[0], odd], top_k=3)["documents"]
    assert {d.id for d in ranked[:2]} == {documents[0].id, "odd"} and ranked[2].content is None
    assert [d.id for d in ranker.run("cats", [image])["documents"]] == ["image"]


def test_min_score_of_the_ranker_and_of_a_call(documents, reranker):
    scores = [item.relevance for item in reranker.rank("who purrs", TEXTS)]
    cutting = SightlineRanker(min_score=scores[1])
    assert [d.score for d in cutting.run("who purrs", documents)["documents"]] == scores[:2]
    assert [d.score for d in cutting.run("who purrs", documents, min_score=0.0)["documents"]] == scores
    assert cutting.run("who purrs", documents, min_score=1.0) == {"documents": []}
    with pytest.raises(InputError, match="minilm-mass has none: its scores are relative to their list"):
        SightlineRanker("minilm-mass", min_score=0.5).run("who purrs", documents)


def test_the_ranker_gives_the_raw_score_where_there_is_no_relevance(documents):
    expected = load_reranker("minilm-mass").rank("who purrs", TEXTS)
    ranked = SightlineRanker("minilm-mass").run("who purrs", documents)["documents"]
    assert [d.score for d in ranked] == [item.score for item in expected]


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["retriever", "ranker"])
def test_saved_components_are_the_same_when_loaded(index_path, what):
    if what == "retriever":
        component = SightlineRetriever(
            index_path,
            4,
            LANG,
            reranker="minilm-mass",
            first_stage="hybrid",
            candidates=9,
            unit="document",
            evidence="token",
            order="basin",
            min_score=0.5,
        )
    else:
        component = SightlineRanker(
            "minilm-maxsim", 4, meta_fields_to_embed=["headline"], order="basin", min_score=0.5, cache_mb=3
        )
    saved = component_to_dict(component, what)
    assert saved["type"] == f"sightline.integrations.haystack.{type(component).__name__}"
    loaded = component_from_dict(type(component), saved, what)
    settings = {name: value for name, value in vars(component).items() if not name.startswith("_")}
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert set(saved["init_parameters"]) == set(settings)


@pytest.fixture
def pipeline(index_path):
    pipeline = Pipeline()
    pipeline.add_component("retriever", SightlineRetriever(index_path, top_k=20))
    pipeline.add_component("ranker", SightlineRanker(top_k=2))
    pipeline.connect("retriever", "ranker")
    return pipeline


QUESTION = "why does iron rust"
DATA = {"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION}}


def test_a_pipeline_runs_saved_and_loaded(pipeline):
    documents = pipeline.run(DATA)["ranker"]["documents"]
    assert documents[0].id == "iron"
    assert len(documents) == 2
    saved = pipeline.dumps()
    with pytest.raises(DeserializationError, match="allowed_modules"):
        Pipeline.loads(saved)
    assert Pipeline.loads(saved, allowed_modules=["sightline"]).run(DATA)["ranker"]["documents"] == documents


def test_an_async_retriever_leaves_the_loop_free(retriever, leaves_loop_free):
    retriever.warm_up()
    assert leaves_loop_free(lambda: retriever.run_async("happy cats"))["documents"][0].id == "cat"


def test_an_async_ranker_leaves_the_loop_free(ranker, documents, leaves_loop_free):
    assert leaves_loop_free(lambda: ranker.run_async("who purrs", documents))["documents"][0].id == "id1"


def test_an_async_pipeline_leaves_the_loop_free(pipeline, leaves_loop_free):
    for name in ("retriever", "ranker"):
        assert pipeline.get_component(name).__haystack_supports_async__
    pipeline.warm_up()
    assert leaves_loop_free(lambda: pipeline.run_async(DATA))["ranker"]["documents"][0].id == "iron"


def test_an_async_pipeline_loads_models_beside_the_loop(pipeline, monkeypatch):
    threads = {}

    def noted(name):
        real = getattr(faces, name)

        def note(*arguments, **options):
            threads[name] = threading.current_thread()
            return real(*arguments, **options)

        monkeypatch.setattr(faces, name, note)

    noted("Searcher")
    noted("keeping")
    assert asyncio.run(pipeline.run_async(DATA))["ranker"]["documents"][0].id == "iron"
    assert set(threads) == {"Searcher", "keeping"}
    assert threading.main_thread() not in threads.values()


def test_async_answers_are_the_sync_ones_however_many(retriever, ranker, documents):
    queries = ["happy cats", "who barks", "grass", "gills", "rust", "hydrogen"] * 4

    async def scenario():
        retrieved = await asyncio.gather(*map(retriever.run_async, queries))
        return retrieved, await asyncio.gather(*(ranker.run_async(query, documents) for query in queries))

    retrieved, ranked = asyncio.run(scenario())
    assert retrieved == [retriever.run(query) for query in queries]
    assert ranked == [ranker.run(query, documents) for query in queries]


def test_pruned_documents_keep_the_sentences_that_got_the_attention(index_path):
    whole, pruned = (
        SightlineRetriever(index_path, 1, prune=share).run("who lights the lamp at dusk")["documents"][0]
        for share in (None, 0.5)
    )
    assert "lighthouse keeper" in pruned.content and len(pruned.content) < len(whole.content) / 2
    assert all(pruned.content[span["start"] : span["end"]] == span["text"] for span in pruned.meta["evidence"])


def test_a_ranker_prunes_copies():
    text = "Dogs bark at strangers. Cats purr when content. Iron rusts in the rain. Ships sail."
    given, empty = Document(content=text), Document(content=None)
    ranker = SightlineRanker(prune=0.3)
    found = ranker.run("what sound do happy cats make", [given, empty])["documents"]
    assert [d.content for d in found] == ["… Cats purr when content. …", None] and given.content == text
    assert SightlineRanker.from_dict(ranker.to_dict()).prune == 0.3
    with pytest.raises(InputError, match="above 0 and at most 1"):
        SightlineRanker(prune=1.5)
