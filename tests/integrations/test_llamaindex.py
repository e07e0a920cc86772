"""LlamaIndex's own query engine around the retriever and the postprocessor."""

import asyncio
import copy

import pytest

pytest.importorskip("llama_index.core", reason="the extra llamaindex is not installed")

from llama_index.core import get_response_synthesizer
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import ValidationError

from sightline.errors import IndexStoreError, InputError
from sightline.integrations.llamaindex import SightlineRerank, SightlineRetriever
from sightline.rerank import arrange
from sightline.search import Searcher

TEXTS = ["Dogs bark.", "Cats purr when content.", "Iron rusts.", "Lions are cats that roar."]


@pytest.fixture
def retriever(searcher):
    return SightlineRetriever(searcher, similarity_top_k=3)


@pytest.fixture
def nodes():
    return [
        NodeWithScore(node=TextNode(id_=f"id{i}", text=text, metadata={"place": i}, embedding=[0.5] * 4), score=9.0 - i)
        for i, text in enumerate(TEXTS)
    ]


def described(nodes):
    return [(n.node_id, n.text, n.metadata, n.score) for n in nodes]


def test_results_are_those_of_the_searcher(retriever, searcher):
    assert isinstance(retriever, BaseRetriever)
    expected = searcher.search("what do happy cats do", 3, unit="passage").hits
    nodes = retriever.retrieve("what do happy cats do")
    assert [(n.text, n.score) for n in nodes] == [(hit.passage.text, hit.relevance) for hit in expected]
    assert nodes[0].node_id == nodes[0].node.ref_doc_id == "cat"
    assert nodes[0].metadata == {"lang": "en", "year": 2001, "title": "Felines"}


def test_min_score_of_the_retriever(searcher):
    scores = [n.score for n in SightlineRetriever(searcher).retrieve("what do happy cats do")]
    for min_score, left in ((0.0, 5), (scores[1], 2), (1.0, 0)):
        nodes = SightlineRetriever(searcher, min_score=min_score).retrieve("what do happy cats do")
        assert [n.score for n in nodes] == scores[:left]
    relative = SightlineRetriever(Searcher(searcher.index, "minilm-mass"), min_score=0.5)
    with pytest.raises(InputError, match="minilm-mass has none: its scores are relative to their list"):
        relative.retrieve("what do happy cats do")


def test_a_part_of_a_document_says_where_it_is_from(searcher):
    part = SightlineRetriever(searcher, 1).retrieve("who lights the lamp at dusk")[0].node
    town = searcher.index.document("town")
    assert part.ref_doc_id == part.metadata["document_id"] == "town"
    assert part.node_id == f"town#{part.start_char_idx}-{part.end_char_idx}"
    assert town.text[part.start_char_idx : part.end_char_idx] == part.text
    assert "lighthouse" in part.text


def test_no_passage_is_taken_for_another(searcher):
    """The base class drops nodes whose id came before."""
    query = "bakery and school and market"
    expected = len(searcher.search(query, 30, unit="passage").hits)
    assert len(SightlineRetriever(searcher, 30).retrieve(query)) == expected > 20


def test_whole_documents(searcher):
    nodes = SightlineRetriever(searcher, 2, unit="document").retrieve("who lights the lamp at dusk")
    assert (nodes[0].node_id, nodes[0].text) == ("town", searcher.index.document("town").text)


def test_evidence_is_for_programs_only(searcher):
    best = SightlineRetriever(searcher, 1, evidence="sentence").retrieve("who lights the lamp")[0].node
    spans = [span for span in best.metadata["evidence"] if span["field"] == "text"]
    assert all(best.text[span["start"] : span["end"]] == span["text"] for span in spans)
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert best.get_content(metadata_mode=mode) == f"lang: en\ntitle: The town\n\n{best.text}"


def test_filters_and_order(searcher):
    german = SightlineRetriever(searcher, 9, where={"lang": "de"}).retrieve("cats")
    assert {n.node_id for n in german} == {"cow", "fish"}
    plain = SightlineRetriever(searcher, 6).retrieve("animals")
    placed = SightlineRetriever(searcher, 6, order="basin").retrieve("animals")
    assert described(placed) == described(arrange(plain)) != described(plain)


def test_the_path_of_an_index_will_do(index_path, retriever, tmp_path):
    assert described(SightlineRetriever(index_path, 3).retrieve("cats")) == described(retriever.retrieve("cats"))
    with pytest.raises(IndexStoreError):
        SightlineRetriever(tmp_path / "none")


def test_async_answers_leave_the_loop_free(retriever, leaves_loop_free):
    assert leaves_loop_free(lambda: retriever.aretrieve("happy cats"))[0].node_id == "cat"


def test_async_answers_are_the_sync_ones_however_many(retriever):
    queries = ["happy cats", "who barks", "grass", "gills", "rust", "hydrogen"] * 4

    async def scenario():
        return await asyncio.gather(*map(retriever.aretrieve, queries))

    assert list(map(described, asyncio.run(scenario()))) == [described(retriever.retrieve(query)) for query in queries]


def test_a_query_engine_runs_on_both(searcher):
    engine = RetrieverQueryEngine(
        SightlineRetriever(searcher, 20),
        get_response_synthesizer(llm=MockLLM()),
        node_postprocessors=[SightlineRerank(top_n=2)],
    )
    response = engine.query("why does iron rust")
    assert response.source_nodes[0].node_id == "iron"
    assert len(response.source_nodes) == 2
    assert "Iron rusts in wet air." in str(response)  # the mock repeats its prompt
    later = asyncio.run(engine.aquery("why does iron rust"))
    assert described(later.source_nodes) == described(response.source_nodes)


# -- postprocessor -----------------------------------------------------------------------------------------------------


def test_postprocessed_nodes_are_ranked_copies(nodes, reranker):
    before = copy.deepcopy(nodes)
    postprocessor = SightlineRerank(top_n=2)
    assert isinstance(postprocessor, BaseNodePostprocessor)
    for node in nodes:
        node.node.excluded_embed_metadata_keys = before[0].node.excluded_embed_metadata_keys = ["place"]
    ranked = postprocessor.postprocess_nodes(nodes, query_str="what do cats do")
    expected = reranker.rank("what do cats do", TEXTS, 2)
    assert [n.score for n in ranked] == [item.relevance for item in expected]
    assert [n.node for n in ranked] == [nodes[item.index].node for item in expected]
    ranked[0].metadata["place"] = "changed"
    assert described(nodes) == described(before)


def test_min_score_of_the_postprocessor(nodes):
    scores = [n.score for n in SightlineRerank().postprocess_nodes(nodes, query_str="who purrs")]
    for min_score, left in ((0.0, 4), (scores[1], 2), (1.0, 0)):
        cut = SightlineRerank(min_score=min_score).postprocess_nodes(nodes, query_str="who purrs")
        assert [n.score for n in cut] == scores[:left]
    with pytest.raises(ValidationError, match="minilm-mass has none: its scores are relative to their list"):
        SightlineRerank(reranker="minilm-mass", min_score=0.5)


def test_metadata_is_read_unless_excluded():
    def nodes(**excluded):
        return [
            NodeWithScore(node=TextNode(text="It is so.", metadata={"topic": topic}, **excluded))
            for topic in ("iron", "whales")
        ]

    assert SightlineRerank().postprocess_nodes(nodes(), query_str="whales")[0].metadata["topic"] == "whales"
    scores = {
        n.score
        for n in SightlineRerank(top_n=None).postprocess_nodes(
            [*nodes(excluded_embed_metadata_keys=["topic"]), NodeWithScore(node=TextNode(text="whales"))],
            query_str="whales",
        )
    }
    assert len(scores) == 2  # those two are the same text now


def test_order_and_number(nodes):
    plain = SightlineRerank(top_n=None).postprocess_nodes(nodes, query_str="cats")
    placed = SightlineRerank(top_n=None, order="basin").postprocess_nodes(nodes, query_str="cats")
    assert len(plain) == 4
    assert described(placed) == described(arrange(plain))
    assert SightlineRerank().postprocess_nodes([], query_str="cats") == []


def test_without_a_query_it_says_so(nodes):
    with pytest.raises(InputError, match="needs the query"):
        SightlineRerank().postprocess_nodes(nodes)


def test_postprocessing_leaves_the_loop_free(nodes, leaves_loop_free):
    ranked = leaves_loop_free(lambda: SightlineRerank().apostprocess_nodes(nodes, query_str="who purrs"))
    assert ranked[0].node_id == "id1"


def test_it_can_be_saved_and_loaded():
    saved = SightlineRerank(reranker="minilm-mass", top_n=3, order="basin").to_dict()
    assert saved["class_name"] == SightlineRerank.class_name() == "SightlineRerank"
    loaded = SightlineRerank.from_dict(saved)
    assert (loaded.reranker, loaded.top_n, loaded.order) == ("minilm-mass", 3, "basin")
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    assert loaded.postprocess_nodes(nodes, query_str="who purrs")[0].text == TEXTS[1]


def test_bad_settings_are_refused():
    with pytest.raises(ValidationError):
        SightlineRerank(order="random")


def test_listeners_are_told(nodes):
    heard = []

    class Listener(BaseEventHandler):
        def handle(self, event, **options):
            heard.append(event)

    listener = Listener()
    get_dispatcher().add_event_handler(listener)
    try:
        SightlineRerank(top_n=1).postprocess_nodes(nodes, query_str="who purrs")
    finally:
        get_dispatcher().event_handlers.remove(listener)
    start, end = [event for event in heard if event.class_name().startswith("ReRank")]
    assert (start.model_name, start.top_n, len(start.nodes)) == ("minilm", 1, 4)
    assert [n.node_id for n in end.nodes] == ["id1"]


def test_pruned_nodes_keep_the_sentences_that_got_the_attention(searcher):
    whole, pruned = (
        SightlineRetriever(searcher, 1, prune=share).retrieve("who lights the lamp at dusk")[0].node
        for share in (None, 0.5)
    )
    assert "lighthouse keeper" in pruned.text and len(pruned.text) < len(whole.text) / 2
    assert all(pruned.text[span["start"] : span["end"]] == span["text"] for span in pruned.metadata["evidence"])


def test_a_postprocessor_prunes_copies_of_nodes():
    text = "Dogs bark at strangers. Cats purr when content. Iron rusts in the rain. Ships sail."
    given = NodeWithScore(node=TextNode(text=text, metadata={"about": "animals"}))
    rerank = SightlineRerank(prune=0.3)
    [pruned] = rerank.postprocess_nodes([given], query_str="what sound do happy cats make")
    assert pruned.node.text == "… Cats purr when content. …"
    assert given.node.text == text
    changed = NodeWithScore(node=TextNode(text=text, metadata={"about": "animals"}, text_template="{content!r:.20}"))
    with pytest.raises(InputError, match="text_template"):
        rerank.postprocess_nodes([changed], query_str="cats")
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        SightlineRerank(prune=0)
