"""Clients of others, as installed, with their address pointed here."""

import pytest

from sightline import load_reranker

QUERY = "what do cats do"
TEXTS = ["Dogs bark at strangers.", "Cats purr when content.", "Iron rusts in wet air."]


@pytest.fixture(params=["Client", "ClientV2"])
def cohere_client(request, address):
    cohere = pytest.importorskip("cohere", reason="needs the cohere client")
    return getattr(cohere, request.param)(api_key="none", base_url=address)


def test_cohere(cohere_client, reranker):
    answer = cohere_client.rerank(model="minilm", query=QUERY, documents=TEXTS, top_n=2)
    expected = reranker.rank(QUERY, TEXTS, 2)
    assert [result.index for result in answer.results] == [item.index for item in expected]
    scores = [item.relevance for item in expected]
    assert [result.relevance_score for result in answer.results] == pytest.approx(scores, rel=1e-5)
    assert answer.id and answer.meta.api_version.version == "2"


def test_cohere_hears_of_warnings_and_errors(cohere_client):
    import cohere

    long = " ".join(f"word{i}" for i in range(2000))
    answer = cohere_client.rerank(model="minilm", query=QUERY, documents=[*TEXTS, long])
    assert answer.meta.warnings == ["1 of 4 documents were not read to their end"]
    with pytest.raises(cohere.UnprocessableEntityError, match="'documents'|documents"):
        cohere_client.rerank(model="minilm", query=QUERY, documents=[])
    with pytest.raises(cohere.NotFoundError, match="no model"):
        cohere_client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS)


def test_cohere_v1_documents_as_objects(address):
    cohere = pytest.importorskip("cohere", reason="needs the cohere client")
    documents = [{"text": text, "place": str(i)} for i, text in enumerate(TEXTS)]
    answer = cohere.Client(api_key="none", base_url=address).rerank(
        model="minilm", query=QUERY, documents=documents, return_documents=True
    )
    assert [result.document.text for result in answer.results] == [TEXTS[r.index] for r in answer.results]
    assert answer.results[0].document.text == TEXTS[1]


def test_cohere_async(address):
    cohere = pytest.importorskip("cohere", reason="needs the cohere client")
    import asyncio

    async def main():
        async with cohere.AsyncClientV2(api_key="none", base_url=address) as client:
            return await asyncio.gather(
                *(client.rerank(model="minilm", query=QUERY, documents=TEXTS[:n]) for n in (2, 3))
            )

    few, all_ = asyncio.run(main())
    assert (len(few.results), len(all_.results)) == (2, 3)
    assert few.results[0].index == all_.results[0].index == 1


def test_haystacks_client_for_vllm(address):
    vllm = pytest.importorskip("haystack_integrations.components.rankers.vllm", reason="needs vllm-haystack")
    from haystack import Document

    ranker = vllm.VLLMRanker(model="minilm", api_base_url=f"{address}/v1", top_k=2)
    ranked = ranker.run(query=QUERY, documents=[Document(id=str(i), content=t) for i, t in enumerate(TEXTS)])
    _agree([(document.content, document.score) for document in ranked["documents"]])


def test_haystacks_client_for_cohere(address, monkeypatch):
    cohere = pytest.importorskip("haystack_integrations.components.rankers.cohere", reason="needs cohere-haystack")
    from haystack import Document

    monkeypatch.setenv("COHERE_API_KEY", "none")
    ranker = cohere.CohereRanker(model="minilm", api_base_url=address, top_k=2)
    ranked = ranker.run(query=QUERY, documents=[Document(content=text) for text in TEXTS])
    _agree([(document.content, document.score) for document in ranked["documents"]])


def test_langchains_client_for_cohere(address):
    langchain = pytest.importorskip("langchain_cohere", reason="needs langchain-cohere")
    from langchain_core.documents import Document

    compressor = langchain.CohereRerank(model="minilm", base_url=address, cohere_api_key="none", top_n=2)
    ranked = compressor.compress_documents([Document(page_content=text) for text in TEXTS], QUERY)
    _agree([(document.page_content, document.metadata["relevance_score"]) for document in ranked])


def _agree(reranked):
    reranker = load_reranker("minilm")
    expected = reranker.rank(QUERY, TEXTS, 2)
    assert [text for text, _ in reranked] == [item.document.text for item in expected]
    scores = [item.relevance for item in expected]
    assert [score for _, score in reranked] == pytest.approx(scores, rel=1e-5)


# Request bodies as the clients of others write them, in the versions of 2025.
BODIES = {
    "Open WebUI": ("/v1/rerank", {"model": "minilm", "query": QUERY, "documents": TEXTS, "top_n": 3}),
    "Dify": ("/rerank", {"model": "minilm", "query": QUERY, "documents": TEXTS, "top_n": 3, "return_documents": True}),
    "RAGFlow": ("/v1/rerank", {"model": "minilm", "query": QUERY, "documents": TEXTS, "top_n": 3}),
    "Jina": (
        "/v1/rerank",
        {"model": "minilm", "query": QUERY, "documents": [{"text": text} for text in TEXTS], "return_documents": False},
    ),
    "vLLM": (
        "/v1/rerank",
        {"model": "minilm", "query": QUERY, "documents": TEXTS, "top_n": 0, "truncate_prompt_tokens": None},
    ),
    "LiteLLM": (
        "/v2/rerank",
        {
            "model": "minilm", "query": QUERY, "documents": TEXTS, "top_n": None, "rank_fields": None,
            "return_documents": None, "max_chunks_per_doc": None, "max_tokens_per_doc": None,
        },
    ),
}  # fmt: skip
TEI = {
    "LiteLLM": {"query": QUERY, "texts": TEXTS, "raw_scores": False, "return_text": False, "truncate": False},
    "RAGFlow": {"query": QUERY, "texts": TEXTS, "raw_scores": False, "truncate": True},
    "Continue": {
        "query": QUERY, "texts": TEXTS, "return_text": False, "raw_scores": False, "truncate": True,
        "truncation_direction": "Right",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_of_other_clients(client, name):
    route, body = BODIES[name]
    answer = client.post(route, json=body).json()
    assert answer["results"][0]["index"] == 1 and len(answer["results"]) == 3
    assert all(0 <= result["relevance_score"] <= 1 for result in answer["results"])


@pytest.mark.parametrize("name", TEI)
def test_bodies_of_clients_of_text_embeddings_inference(client, name):
    answer = client.post("/rerank", json=TEI[name]).json()
    assert answer[0]["index"] == 1 and len(answer) == 3
