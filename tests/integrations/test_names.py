"""Every adapter takes a reranker of any kind by its name, and its failure is an error there, too."""

import pytest

from sightline import load_reranker
from sightline.errors import RemoteError
from sightline.tests.rerank_api import Reply

QUERY = "what do cats do"
TEXTS = ["Iron rusts in wet air.", "Cats purr.", "What cats do: they purr.", "Dogs bark."]
KEY = "a-key-that-nobody-may-see"


def langchain(name):
    pytest.importorskip("langchain_core", reason="the extra langchain is not installed")
    from langchain_core.documents import Document

    from sightline.integrations.langchain import SightlineRerank

    made = SightlineRerank(reranker=name, top_n=None)
    documents = made.compress_documents([Document(text) for text in TEXTS], QUERY)
    return [(document.page_content, document.metadata["relevance_score"]) for document in documents], repr(made)


def llamaindex(name):
    pytest.importorskip("llama_index.core", reason="the extra llamaindex is not installed")
    from llama_index.core.schema import NodeWithScore, TextNode

    from sightline.integrations.llamaindex import SightlineRerank

    made = SightlineRerank(reranker=name, top_n=None)
    nodes = made.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in TEXTS], query_str=QUERY)
    return [(node.text, node.score) for node in nodes], made.to_json()


def haystack(name):
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    from haystack import Document

    from sightline.integrations.haystack import SightlineRanker

    made = SightlineRanker(name, top_k=None)
    documents = made.run(QUERY, [Document(content=text) for text in TEXTS])["documents"]
    return [(document.content, document.score) for document in documents], str(made.to_dict())


def rerankers(name):
    pytest.importorskip("rerankers", reason="the extra rerankers is not installed")
    from sightline.integrations.rerankers import Reranker

    made = Reranker(name)
    return [(result.text, result.score) for result in made.rank(QUERY, TEXTS)], repr(vars(made))


def cross_encoder(name):
    from sightline.integrations.cross_encoder import CrossEncoder

    made = CrossEncoder(name)
    rows = made.rank(QUERY, TEXTS)
    assert made.predict([(QUERY, TEXTS[row["corpus_id"]]) for row in rows]).tolist() == pytest.approx(
        [row["score"] for row in rows], rel=1e-5
    )
    return [(TEXTS[row["corpus_id"]], row["score"]) for row in rows], repr(vars(made))


def pyterrier(name):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyterrier", reason="the extra pyterrier is not installed")
    from sightline.integrations.pyterrier import SightlineReranker

    made = SightlineReranker(name)
    rows = pd.DataFrame([{"qid": "1", "query": QUERY, "docno": str(i), "text": text} for i, text in enumerate(TEXTS)])
    return list(made.transform(rows)[["text", "score"]].itertuples(index=False, name=None)), repr(made)


def mteb(name):
    pytest.importorskip("mteb", reason="the extra mteb is not installed")
    from sightline.integrations.mteb import SightlineSearch

    made = SightlineSearch(name)
    made.index([{"id": str(i), "text": text} for i, text in enumerate(TEXTS)])
    lists = made.search([{"id": "q", "text": QUERY}], top_k=4, top_ranked={"q": list("0123")})["q"]
    order = sorted(lists, key=lambda id: -lists[id])
    return [(TEXTS[int(id)], None) for id in order], made.mteb_model_meta.name


ADAPTERS = [langchain, llamaindex, haystack, rerankers, cross_encoder, pyterrier, mteb]


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
@pytest.mark.parametrize("kind", ["cross-encoder", "remote", "cascade"])
def test_a_reranker_of_every_kind_by_name(adapter, kind, scorer_folders, rerank_api, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_REMOTE_KEY", KEY)
    first = f"cross-encoder:{scorer_folders['cross-encoder']}"
    name = {"cross-encoder": first, "remote": rerank_api.name(), "cascade": f"{first}>{rerank_api.name()}@2"}[kind]
    if adapter is cross_encoder and kind == "cascade":  # relative to its list, so it has no pairs
        return
    ranked, stored = adapter(name)
    alone = load_reranker(name).rank(QUERY, TEXTS)
    assert [text for text, _ in ranked] == [item.document.text for item in alone]
    for (_, score), item in zip(ranked, alone, strict=True):
        expected = item.score if adapter is pyterrier or item.relevance is None else item.relevance
        assert score is None or score == pytest.approx(expected, rel=1e-4)
    assert KEY not in stored
    if kind == "remote":
        rerank_api.replies = [Reply(b"<html>", 500)]
        with pytest.raises(RemoteError, match="500 Internal Server Error: a web page"):
            adapter(name)
