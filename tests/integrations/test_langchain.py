"""LangChain's own runnables around the retriever and the compressor."""

import asyncio
import copy

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from pydantic import ValidationError

from sightline.errors import IndexStoreError, InputError
from sightline.integrations.langchain import SightlineRerank, SightlineRetriever
from sightline.rerank import arrange, load_reranker
from sightline.search import Searcher

TEXTS = ["Dogs bark.", "Cats purr when content.", "Iron rusts.", "Lions are cats that roar."]


@pytest.fixture
def retriever(searcher):
    return SightlineRetriever(searcher=searcher, k=3)


@pytest.fixture
def documents():
    return [
        Document(id=f"id{i}", page_content=text, metadata={"place": i, "nested": {"deep": [i]}})
        for i, text in enumerate(TEXTS)
    ]


def test_results_are_those_of_the_searcher(retriever, searcher):
    assert isinstance(retriever, BaseRetriever)
    expected = searcher.search("what do happy cats do", 3, unit="passage").hits
    documents = retriever.invoke("what do happy cats do")
    assert [d.page_content for d in documents] == [hit.passage.text for hit in expected]
    assert [d.metadata["relevance_score"] for d in documents] == [hit.relevance for hit in expected]
    assert documents[0].id == "cat"
    assert documents[0].metadata.items() >= {"lang": "en", "year": 2001, "title": "Felines"}.items()


def test_a_part_of_a_document_says_where_it_is_from(retriever, searcher):
    part = retriever.invoke("who lights the lamp at dusk", k=1)[0]
    assert "lighthouse" in part.page_content
    town = searcher.index.document("town")
    assert part.metadata["document_id"] == "town"
    start, end = map(int, part.id.removeprefix("town#").split("-"))
    assert town.text[start:end] == part.page_content
    assert len(part.page_content) < len(town.text)


def test_ids_of_parts_differ(retriever):
    ids = [d.id for d in retriever.invoke("bakery and school and market", k=30)]
    assert len(set(ids)) == len(ids) > 7


def test_whole_documents(searcher):
    documents = SightlineRetriever(searcher=searcher, k=2, unit="document").invoke("who lights the lamp at dusk")
    assert documents[0].id == "town"
    assert documents[0].page_content == searcher.index.document("town").text
    assert "document_id" not in documents[0].metadata


@pytest.mark.parametrize("unit", ["passage", "document"])
def test_evidence_points_into_the_page_content(searcher, unit):
    best = SightlineRetriever(searcher=searcher, unit=unit, evidence="sentence").invoke("who lights the lamp")[0]
    spans = [span for span in best.metadata["evidence"] if span["field"] == "text"]
    assert all(best.page_content[span["start"] : span["end"]] == span["text"] for span in spans)
    assert "lighthouse keeper" in max(spans, key=lambda span: span["mass"])["text"]


def test_the_documents_own_title_survives(retriever):
    assert retriever.invoke("gills", k=1)[0].metadata["title"] == "kept as it is"


def test_what_a_caller_does_to_a_result_stays_there(retriever, searcher):
    retriever.invoke("who eats grass", k=1)[0].metadata["tags"]["farm"].append("changed")
    assert retriever.invoke("who eats grass", k=1)[0].metadata["tags"] == {"farm": ["a", "b"]}
    assert searcher.index.document("cow").metadata["tags"] == {"farm": ["a", "b"]}


def test_filters_of_the_retriever_and_of_a_call(searcher):
    german = SightlineRetriever(searcher=searcher, k=9, where={"lang": "de"})
    assert {d.metadata["lang"] for d in german.invoke("cats")} == {"de"}
    assert {d.id for d in german.invoke("cats", where={"year": {">=": 2010}})} == {"dog", "cow"}
    assert {d.id for d in asyncio.run(german.ainvoke("cats", where={"year": 1999}))} == {"iron"}


def relevances(documents):
    return [document.metadata["relevance_score"] for document in documents]


def test_min_score_of_the_retriever_and_of_a_call(searcher):
    query = "what do happy cats do"
    scores = relevances(SightlineRetriever(searcher=searcher).invoke(query))
    cutting = SightlineRetriever(searcher=searcher, min_score=scores[1])
    assert relevances(cutting.invoke(query)) == relevances(asyncio.run(cutting.ainvoke(query))) == scores[:2]
    assert relevances(cutting.invoke(query, min_score=0.0)) == scores
    assert cutting.invoke(query, min_score=1.0) == asyncio.run(cutting.ainvoke(query, min_score=1.0)) == []
    with pytest.raises(InputError, match="minilm-mass has none: its scores are relative to their list"):
        SightlineRetriever(searcher=Searcher(searcher.index, "minilm-mass"), min_score=0.5).invoke(query)


def test_basin_order_is_an_option(retriever, searcher):
    plain = SightlineRetriever(searcher=searcher, k=6).invoke("animals")
    placed = SightlineRetriever(searcher=searcher, k=6, order="basin").invoke("animals")
    assert placed == arrange(plain)
    assert placed != plain


def test_the_path_of_an_index_will_do(index_path, retriever):
    assert SightlineRetriever(searcher=str(index_path), k=3).invoke("cats") == retriever.invoke("cats")


def test_async_answers_leave_the_loop_free(retriever, leaves_loop_free):
    assert leaves_loop_free(lambda: retriever.ainvoke("happy cats"))[0].id == "cat"


def test_async_answers_are_the_sync_ones_however_many(retriever):
    queries = ["happy cats", "who barks", "grass", "gills", "rust", "hydrogen"] * 4
    assert asyncio.run(retriever.abatch(queries)) == retriever.batch(queries)


def test_callbacks_are_told(retriever):
    heard = []

    class Listener(BaseCallbackHandler):
        def on_retriever_end(self, documents, **options):
            heard.append([d.id for d in documents])

        def on_retriever_error(self, error, **options):
            heard.append(type(error))

    retriever.invoke("happy cats", config={"callbacks": [Listener()]}, k=1)
    with pytest.raises(InputError, match="the query is empty"):
        retriever.invoke("", config={"callbacks": [Listener()]})
    assert heard == [["cat"], InputError]


def test_it_goes_into_a_chain(retriever):
    chain = (
        {"context": retriever | (lambda documents: documents[0].page_content), "question": RunnablePassthrough()}
        | PromptTemplate.from_template("{context}\n{question}")
        | (lambda prompt: prompt.text)
    )
    assert chain.invoke("why does iron rust").startswith("Iron rusts in wet air.\n")


@pytest.mark.parametrize("options", [{"order": "random"}, {"unit": "chapter"}, {"k": "many"}, {"kk": 3}], ids=str)
def test_bad_settings_are_refused(searcher, options):
    with pytest.raises(ValidationError):
        SightlineRetriever(searcher=searcher, **options)
    with pytest.raises(ValidationError):
        SightlineRetriever(searcher=5)


def test_an_index_that_is_not_there(tmp_path):
    with pytest.raises(IndexStoreError):
        SightlineRetriever(searcher=tmp_path / "none")


# -- compressor --------------------------------------------------------------------------------------------------------


def test_compressed_documents_are_ranked_copies(documents, reranker):
    before = copy.deepcopy(documents)
    compressor = SightlineRerank(top_n=2)
    assert isinstance(compressor, BaseDocumentCompressor)
    ranked = compressor.compress_documents(documents, "what do cats do")
    expected = reranker.rank("what do cats do", TEXTS, 2)
    assert [d.metadata.pop("relevance_score") for d in ranked] == [item.relevance for item in expected]
    assert ranked == [before[item.index] for item in expected]
    assert documents == before


def test_order_and_number(documents):
    plain = SightlineRerank(top_n=None).compress_documents(documents, "cats")
    assert len(plain) == 4
    assert SightlineRerank(top_n=None, order="basin").compress_documents(documents, "cats") == arrange(plain)
    assert SightlineRerank().compress_documents([], "cats") == []


def test_min_score_of_the_compressor(documents):
    scores = relevances(SightlineRerank().compress_documents(documents, "who purrs"))
    for min_score, left in ((0.0, 4), (scores[1], 2), (1.0, 0)):
        cut = SightlineRerank(min_score=min_score).compress_documents(documents, "who purrs")
        assert relevances(cut) == scores[:left]
    with pytest.raises(ValidationError, match="minilm-mass has none: its scores are relative to their list"):
        SightlineRerank(reranker="minilm-mass", min_score=0.5)


def test_documents_without_ids(reranker):
    documents = [Document(id=id, page_content=text) for id, text in zip((None, None, "", ""), TEXTS, strict=True)]
    ranked = SightlineRerank(reranker=reranker, top_n=None).compress_documents(documents, "cats")
    assert sorted((d.id, d.page_content) for d in ranked if d.id is not None) == [("", TEXTS[2]), ("", TEXTS[3])]
    assert len(ranked) == 4


def test_the_title_is_read():
    texts = [Document("It is so.", metadata={"title": title}) for title in ("Iron", "Whales", 5)]
    ranked = SightlineRerank().compress_documents(texts, "whales")
    assert ranked[0].metadata["title"] == "Whales"
    renamed = [Document("It is so.", metadata={"headline": title}) for title in ("Iron", "Whales")]
    ranked = SightlineRerank(title_field="headline").compress_documents(renamed, "whales")
    assert ranked[0].metadata["headline"] == "Whales"


def test_empty_documents_come_last_and_what_models_cannot_read_is_left_to_the_host(documents):
    odd = Document(id="\x00", page_content="Cats\x00 purr.", metadata={"title": "Scan \ud83d"})
    empty = [Document(id="e", page_content=" "), Document(page_content="", metadata={"title": None})]
    candidates = [empty[0], odd, empty[1], *documents]
    before = [document.model_copy(deep=True) for document in candidates]
    ranked = SightlineRerank(top_n=None).compress_documents(candidates, "who purrs")
    assert candidates == before
    assert [document.page_content for document in ranked[-2:]] == ["", " "]
    assert odd.page_content in [document.page_content for document in ranked[:-2]]
    alone = SightlineRerank(top_n=None).compress_documents([odd, *documents], "who purrs")
    assert ranked[:-2] == alone


def test_an_updated_copy_uses_what_it_was_updated_with(documents, retriever, index_path):
    compressor = SightlineRerank(top_n=None)
    other = compressor.model_copy(update={"reranker": "minilm-mass"})
    for name, reranker in (("minilm-mass", other), ("minilm", compressor)):
        expected = SightlineRerank(reranker=name, top_n=None).compress_documents(documents, "who purrs")
        assert reranker.compress_documents(documents, "who purrs") == expected
    bm25 = Searcher(index_path, None, first_stage="bm25")
    lit = retriever.model_copy(update={"searcher": bm25}).invoke("lighthouse")
    assert [d.metadata["relevance_score"] for d in lit] == [h.score for h in bm25.search("lighthouse", 3).hits]


def test_compressing_leaves_the_loop_free(documents, leaves_loop_free):
    ranked = leaves_loop_free(lambda: SightlineRerank().acompress_documents(documents, "who purrs"))
    assert ranked[0].id == "id1"


def test_retrieving_and_compressing_is_searching(searcher):
    """The first stage as a retriever and the compressor behind it give what the searcher gives in one go."""
    query, where = "who lights the lamp at dusk", {"lang": "en"}
    name = "minilm-log-mass"  # the default takes the index's statistics into account, which a compressor does not have
    unranked = SightlineRetriever(searcher=Searcher(searcher.index, None), k=200, where=where)
    in_two = SightlineRerank(reranker=name, top_n=5).compress_documents(unranked.invoke(query), query)
    whole = Searcher(searcher.index, name, kept_states=False)
    in_one = SightlineRetriever(searcher=whole, k=5, where=where).invoke(query)
    assert [d.id for d in in_two] == [d.id for d in in_one]
    for retrieved, searched in zip(in_two, in_one, strict=True):
        assert retrieved.metadata["relevance_score"] == pytest.approx(searched.metadata["relevance_score"], abs=1e-5)


def test_a_classic_compression_retriever_takes_both(retriever):
    classic = pytest.importorskip("langchain_classic.retrievers", reason="langchain-classic is not installed")
    chained = classic.ContextualCompressionRetriever(base_compressor=SightlineRerank(top_n=1), base_retriever=retriever)
    assert [d.id for d in chained.invoke("happy cats")] == ["cat"]
    assert [d.id for d in asyncio.run(chained.ainvoke("happy cats"))] == ["cat"]


LONG = "Dogs bark at strangers. Cats purr when content. Iron rusts in the rain. Ships sail. Glass is made of sand."


@pytest.mark.parametrize("unit", ["passage", "document"])
def test_pruned_texts_keep_the_sentences_that_got_the_attention(searcher, unit):
    whole, pruned = (
        SightlineRetriever(searcher=searcher, unit=unit, k=3, prune=share).invoke("who lights the lamp at dusk")
        for share in (None, 0.5)
    )
    assert [d.id for d in pruned] == [d.id for d in whole]
    assert "lighthouse keeper" in pruned[0].page_content and "…" in pruned[0].page_content
    assert len(pruned[0].page_content) < len(whole[0].page_content) / 2
    for document in pruned:
        for span in document.metadata["evidence"]:
            assert document.page_content[span["start"] : span["end"]] == span["text"]


def test_a_compressor_prunes_copies():
    given = Document(LONG, metadata={"title": "Felines"})
    query = "what sound do happy cats make"
    [pruned] = SightlineRerank(prune=0.3).compress_documents([given], query)
    [ranked] = load_reranker("minilm").rank(query, [{"text": LONG, "title": "Felines"}], evidence="sentence")
    assert pruned.page_content == ranked.pruned_text(0.3) == "… Cats purr when content. …"
    assert given.page_content == LONG and pruned.metadata["title"] == "Felines"


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_that_cannot_be_kept_is_refused_at_once(searcher, share):
    for make in (lambda: SightlineRetriever(searcher=searcher, prune=share), lambda: SightlineRerank(prune=share)):
        with pytest.raises(ValidationError, match="above 0 and at most 1"):
            make()
