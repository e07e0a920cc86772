"""What the routes answer, compared with the library behind them; what they refuse; who is let in."""

import asyncio
import re
import shutil
import socket
import threading
import time
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline import Index, LateInteractionReranker, Searcher, load_reranker
from sightline.errors import IndexStoreError, InputError
from sightline.models.cache import DocumentCache
from sightline.retrieval.files import locked
from sightline.serve import create_app
from sightline.serve.limits import Limits

from .conftest import DOCUMENTS, KEY, client_of, serving

QUERY = "what do cats do"
TEXTS = [
    "Dogs bark at strangers.",
    "Cats purr when content.",
    "Iron rusts in wet air.",
    "A kitten meows at its mother.",
]
ROUTES = ["/rerank", "/v1/rerank", "/v2/rerank"]
LONG = " ".join(f"word{i}" for i in range(2000))


class Slow(LateInteractionReranker):
    """Waits to be let through, so that a test can look at what goes on meanwhile. It takes lists one after another."""

    concurrent = False

    def __init__(self):
        super().__init__()
        self.begun, self.open, self.ranked = threading.Event(), threading.Event(), []

    def _score(self, lists):
        self.begun.set()
        assert self.open.wait(20)
        self.ranked += [ranked_list.query for ranked_list in lists]
        return super()._score(lists)


@pytest.fixture
def slow():
    reranker = Slow()
    yield reranker
    reranker.open.set()


def waits(client, lane="rerank"):
    samples = [
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "sightline_waiting" and sample.labels["lane"] == lane
    ]
    return samples[0]


def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not come true")


# -- rerank ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_rerank_is_the_rerankers_ranking(client, reranker, route):
    answer = client.post(route, json={"query": QUERY, "documents": TEXTS}).json()
    expected = reranker.rank(QUERY, TEXTS)
    assert [result["index"] for result in answer["results"]] == [item.index for item in expected]
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx([item.relevance for item in expected], rel=1e-5)
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    assert answer["model"] == "minilm" and answer["meta"]["truncated"] == 0 and answer["id"]
    assert all(set(result) == {"index", "relevance_score"} for result in answer["results"])


@pytest.mark.parametrize("top_n", [1, 3, 4, 99])
def test_top_n_cuts_and_changes_no_score(client, top_n):
    whole = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS}).json()["results"]
    cut = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, "top_n": top_n}).json()["results"]
    assert cut == whole[:top_n]


def test_documents_may_be_objects_and_come_back_as_they_were(client, reranker):
    documents = ["Dogs bark.", {"text": "They purr.", "title": "Cats", "url": "x", "n": {"deep": [1, None]}}]
    body = {"query": QUERY, "documents": documents, "return_documents": True}
    results = client.post("/v2/rerank", json=body).json()["results"]
    assert [result["index"] for result in results] == [1, 0]
    assert results[0]["document"] == documents[1]
    assert results[1]["document"] == {"text": "Dogs bark."}
    expected = reranker.rank(QUERY, ["Dogs bark.", {"text": "They purr.", "title": "Cats"}])
    assert results[0]["relevance_score"] == pytest.approx(expected[0].relevance, rel=1e-5)


def test_tei_is_recognised_by_its_field(client, reranker):
    answer = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "return_text": True}).json()
    expected = reranker.rank(QUERY, TEXTS)
    assert [(item["index"], item["text"]) for item in answer] == [(i.index, TEXTS[i.index]) for i in expected]
    assert [i["score"] for i in answer] == pytest.approx([i.relevance for i in expected], rel=1e-5)
    raw = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "raw_scores": True}).json()
    assert [item["score"] for item in raw] == pytest.approx([item.score for item in expected], rel=1e-5)
    assert all(set(item) == {"index", "score"} for item in raw)


@pytest.fixture(scope="module")
def relative():
    """A client of a server whose reranker has no relevance, since its scores are relative to their list."""
    with client_of(create_app(reranker=load_reranker("minilm-mass"))) as client:
        yield client


@pytest.mark.parametrize("route", ROUTES)
def test_a_reranker_without_relevance_gives_raw_scores_and_says_so(client, relative, route):
    expected = load_reranker("minilm-mass").rank(QUERY, TEXTS)
    answer = relative.post(route, json={"query": QUERY, "documents": TEXTS}).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == pytest.approx([item.score for item in expected], rel=1e-5)
    assert answer["meta"]["scores"] == "raw"
    assert answer["meta"]["warnings"] == [
        "relevance_score is the raw score of minilm-mass, which has no relevance: its scores are relative to their "
        "list, so no threshold means the same for two lists"
    ]
    calibrated = client.post(route, json={"query": QUERY, "documents": TEXTS}).json()["meta"]
    assert calibrated["scores"] == "relevance" and "warnings" not in calibrated


def test_a_header_says_what_the_scores_of_text_embeddings_inference_are(client, relative):
    body = {"query": QUERY, "texts": TEXTS}
    expected = load_reranker("minilm-mass").rank(QUERY, TEXTS)
    answer = relative.post("/rerank", json=body)
    assert [item["score"] for item in answer.json()] == pytest.approx([item.score for item in expected], rel=1e-5)
    assert answer.headers["Sightline-Scores"] == "raw"
    assert client.post("/rerank", json=body).headers["Sightline-Scores"] == "relevance"
    assert client.post("/rerank", json={**body, "raw_scores": True}).headers["Sightline-Scores"] == "raw"


def test_the_openapi_document_tells_what_scores_are(client):
    document = client.get("/openapi.json").json()
    answer = document["paths"]["/rerank"]["post"]["responses"]["200"]
    assert answer["headers"]["Sightline-Scores"]["schema"]["enum"] == ["relevance", "raw"]
    assert len(answer["content"]["application/json"]["schema"]["anyOf"]) == 2
    schemas = document["components"]["schemas"]
    assert schemas["RerankMeta"]["properties"]["scores"]["enum"] == ["relevance", "raw"]
    for name in ("SearchRequest", "RerankRequest", "TeiRequest"):
        assert {"type": "number", "maximum": 1.0, "minimum": 0.0} in schemas[name]["properties"]["min_score"]["anyOf"]


@pytest.mark.parametrize("route", ROUTES)
def test_min_score_cuts_some_all_and_none(client, route):
    ask = {"query": QUERY, "documents": TEXTS}
    whole = client.post(route, json=ask).json()["results"]
    for min_score, left in ((0, 4), (whole[1]["relevance_score"], 2), (0.0, 4)):
        answer = client.post(route, json={**ask, "min_score": min_score}).json()
        assert answer["results"] == whole[:left] and "warnings" not in answer["meta"]
    assert client.post(route, json={**ask, "min_score": 0, "top_n": 1}).json()["results"] == whole[:1]
    nothing = client.post(route, json={**ask, "min_score": 1})
    assert nothing.status_code == 200 and nothing.json()["results"] == []
    (warning,) = nothing.json()["meta"]["warnings"]
    assert warning.startswith("nothing scored above min_score 1; the best relevance is 0.")


def test_min_score_cuts_answers_to_text_embeddings_inference(client):
    ask = {"query": QUERY, "texts": TEXTS}
    whole = client.post("/rerank", json=ask).json()
    raw = client.post("/rerank", json={**ask, "raw_scores": True}).json()
    second = whole[1]["score"]
    assert client.post("/rerank", json={**ask, "min_score": second}).json() == whole[:2]
    assert client.post("/rerank", json={**ask, "min_score": second, "raw_scores": True}).json() == raw[:2]
    assert client.post("/rerank", json={**ask, "min_score": 1}).json() == []


@pytest.mark.parametrize("min_score", [-0.1, 1.1, "0.5", True, [0.5]])
def test_a_min_score_out_of_range_is_refused(client, min_score):
    refused = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, "min_score": min_score})
    assert refused.status_code == 422 and "min_score" in refused.json()["error"]["message"]


def test_min_score_is_refused_where_there_is_no_relevance(relative):
    message = (
        "min_score is compared with the relevance, and minilm-mass has none: its scores are relative to their list"
    )
    for body in ({"documents": TEXTS}, {"texts": TEXTS}):
        refused = relative.post("/rerank", json={"query": QUERY, "min_score": 0.5, **body})
        assert refused.status_code == 422 and message in refused.json()["error"]["message"]
    assert relative.get("/health").json()["relevance"] is False
    with pytest.raises(InputError, match=message):
        create_app(reranker=load_reranker("minilm-mass"), min_score=0.5)


@pytest.mark.parametrize("route", ROUTES)
def test_a_single_document_is_judged_by_itself(client, route):
    def score(text):
        (result,) = client.post(route, json={"query": QUERY, "documents": [text]}).json()["results"]
        return result["relevance_score"]

    alone = [score(text) for text in TEXTS]
    together = client.post(route, json={"query": QUERY, "documents": TEXTS}).json()["results"]
    assert [alone[r["index"]] for r in together] == pytest.approx([r["relevance_score"] for r in together], rel=1e-4)
    assert score("Iron rusts in wet air.") < 0.1 and score("") == 0


def test_lists_with_different_thresholds_are_cut_by_their_own(slow):
    """They wait together, and those with the same threshold are read together."""
    thresholds = [None, 0, 1, 0, 1, None]
    with client_of(create_app(reranker=slow)) as client:
        answers = [None] * len(thresholds)

        def ask(i):
            body = {"query": QUERY, "documents": TEXTS, "min_score": thresholds[i]}
            answers[i] = client.post("/v1/rerank", json=body).json()["results"]

        body = {"query": QUERY, "documents": TEXTS}
        first = threading.Thread(target=client.post, args=["/v1/rerank"], kwargs={"json": body})
        first.start()
        assert slow.begun.wait(10)
        threads = [threading.Thread(target=ask, args=[i]) for i in range(len(thresholds))]
        for thread in threads:
            thread.start()
        until(lambda: waits(client) == len(thresholds))
        slow.open.set()
        for thread in [first, *threads]:
            thread.join()
    assert [len(answer) for answer in answers] == [0 if threshold == 1 else 4 for threshold in thresholds]


def test_the_servers_min_score_holds_where_a_request_gives_none(own_index):
    with client_of(create_app(Searcher(own_index), min_score=1.0)) as client:
        assert client.get("/health").json()["min_score"] == 1.0
        ask = {"query": QUERY, "documents": TEXTS}
        assert client.post("/v1/rerank", json=ask).json()["results"] == []
        assert client.post("/rerank", json={"query": QUERY, "texts": TEXTS}).json() == []
        assert len(client.post("/v1/rerank", json={**ask, "min_score": 0}).json()["results"]) == 4
        assert client.post("/search", json={"query": QUERY}).json()["hits"] == []
        assert client.post("/search", json={"query": QUERY, "min_score": 0}).json()["hits"]
    with pytest.raises(InputError, match="min_score needs a reranker"):
        create_app(Searcher(own_index, None), load_reranker("minilm"), min_score=0.5)


def test_usage_counts_tokens_that_were_read(client, reranker):
    count = len(reranker.reader.tokens(QUERY)) + sum(len(reranker.reader.tokens(text)) for text in [*TEXTS, LONG])
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": [*TEXTS, LONG]}).json()
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    assert answer["meta"]["truncated"] == 1
    assert answer["meta"]["warnings"] == ["1 of 5 documents were not read to their end"]


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_max_tokens_per_doc_reads_no_more(client, reranker, limit):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, "max_tokens_per_doc": limit}).json()
    ends = [reranker.reader.token_offsets(text)[:limit][-1][1] for text in TEXTS]
    expected = reranker.rank(QUERY, [text[:end] for text, end in zip(TEXTS, ends, strict=True)])
    assert [result["index"] for result in answer["results"]] == [item.index for item in expected]
    scores = [item.relevance for item in expected]
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx(scores, rel=1e-5)
    cut = sum(len(reranker.reader.token_offsets(text)) > limit for text in TEXTS)
    assert answer["meta"]["truncated"] == cut


def test_what_is_cut_before_reading_is_what_reading_would_cut(client, reranker):
    answer = client.post("/v1/rerank", json={"query": "word3", "documents": [LONG, "Cats purr."]}).json()
    expected = reranker.rank("word3", [LONG, "Cats purr."])
    assert expected.truncated == 1
    scores = [item.relevance for item in expected]
    assert [result["relevance_score"] for result in answer["results"]] == pytest.approx(scores, rel=1e-5)


def test_evidence_comes_on_request(client, reranker):
    body = {"query": QUERY, "documents": TEXTS, "evidence": "sentence", "top_n": 1}
    (result,) = client.post("/v1/rerank", json=body).json()["results"]
    (expected,) = reranker.rank(QUERY, TEXTS, 1, evidence="sentence")
    assert result["evidence"][0]["text"] == expected.evidence[0].text
    assert result["evidence"][0]["mass"] == pytest.approx(expected.evidence[0].mass, rel=1e-5)


def test_texts_are_pruned_on_request(client, reranker):
    text = "Dogs bark at strangers. Cats purr when content. Iron rusts in the rain. Happy cats purr a lot."
    body = {"query": "what sound do happy cats make", "documents": [text, {"text": "Cats purr."}], "prune": 0.3}
    body["max_tokens_per_doc"] = 18  # the last sentence is cut off before it is read
    answer = client.post("/v1/rerank", json=body).json()["results"]
    pruned = {result["index"]: result["pruned_text"] for result in answer}
    assert pruned == {0: "… Cats purr when content. …", 1: "Cats purr."}
    assert all("evidence" not in result for result in answer)
    both = client.post("/v1/rerank", json=body | {"evidence": "token"}).json()["results"]
    assert {result["index"]: result["pruned_text"] for result in both} == pruned
    assert all(result["evidence"] for result in both)
    for share in (0, 1.1, "half"):
        assert client.post("/v1/rerank", json=body | {"prune": share}).status_code == 422


def test_a_model_that_is_not_served_is_refused(client):
    ask = {"query": QUERY, "documents": TEXTS}
    assert client.post("/v2/rerank", json={**ask, "model": "minilm"}).status_code == 200
    refused = client.post("/v2/rerank", json={**ask, "model": "rerank-v3.5"})
    assert refused.status_code == 404 and "'minilm'" in refused.json()["error"]["message"]


def test_unknown_fields_of_other_dialects_are_named(client):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, "rank_fields": ["a"]}).json()
    assert answer["meta"]["warnings"] == ["fields that this server does not know were ignored: 'rank_fields'"]


def test_requests_at_once_never_share_a_list(reranker):
    """Short lists that wait are read together; each answer is still that of its own list alone."""
    animals = ["cat", "dog", "cow", "hen", "fox", "owl", "bee", "ant"]
    lists = [
        (
            f"where is the {animals[i % 8]} {i}",
            [f"The {animal} {i} sits in room {j}." for j, animal in enumerate(animals)],
        )
        for i in range(64)
    ]
    app = create_app(reranker=reranker)

    async def main(address):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            turn = asyncio.Semaphore(40)

            async def ask(query, documents):
                async with turn:
                    body = {"query": query, "documents": documents, "return_documents": True}
                    return (await client.post("/v1/rerank", json=body)).json()["results"]

            return await asyncio.gather(*(ask(*query_and_texts) for query_and_texts in lists))

    with serving(app) as address:
        answers = asyncio.run(main(address))
    for (query, documents), results in zip(lists, answers, strict=True):
        expected = reranker.rank(query, documents)
        assert [(r["index"], r["document"]["text"]) for r in results] == [(i.index, i.document.text) for i in expected]
        scores = [item.relevance for item in expected]
        assert [result["relevance_score"] for result in results] == pytest.approx(scores, rel=1e-4)


def test_an_error_in_one_list_is_not_its_neighbours(slow):
    with client_of(create_app(reranker=slow)) as client:
        bodies = [{"query": QUERY, "documents": TEXTS}, {"query": QUERY, "documents": ["ok", "\x00"]}] * 3
        answers = [None] * 6

        def ask(i):
            answers[i] = client.post("/v1/rerank", json=bodies[i]).status_code

        first = threading.Thread(target=client.post, args=["/v1/rerank"], kwargs={"json": bodies[0]})
        first.start()
        assert slow.begun.wait(10)
        threads = [threading.Thread(target=ask, args=[i]) for i in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: waits(client) == 6)
        slow.open.set()
        for thread in [first, *threads]:
            thread.join()
        assert answers == [200, 422] * 3


@pytest.mark.parametrize(
    "defaults",
    [
        {"top_n": 0},
        {"top_n": None, "return_documents": None, "max_tokens_per_doc": None, "truncate_prompt_tokens": None},
        {"truncate_prompt_tokens": -1},
        {"truncate_prompt_tokens": 500, "max_tokens_per_doc": 500},
    ],
)
def test_what_clients_send_for_their_defaults_changes_nothing(client, defaults):
    plain = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS}).json()["results"]
    assert client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, **defaults}).json()["results"] == plain


def test_truncate_prompt_tokens_counts_query_and_document(client, reranker):
    query = len(reranker.window.token_offsets(QUERY))
    ask = {"query": QUERY, "documents": TEXTS}
    both = client.post("/v1/rerank", json={**ask, "truncate_prompt_tokens": query + 3}).json()["results"]
    assert both == client.post("/v1/rerank", json={**ask, "max_tokens_per_doc": 3}).json()["results"]
    refused = client.post("/v1/rerank", json={**ask, "truncate_prompt_tokens": query})
    assert refused.status_code == 422 and "query alone" in refused.text


@pytest.mark.parametrize("route", ROUTES)
def test_documents_without_text_are_ranked_last_with_a_warning(client, route):
    documents = ["", {"text": None}, *TEXTS, {"text": "", "title": " "}, {"text": None, "title": "Cats"}]
    answer = client.post(route, json={"query": QUERY, "documents": documents}).json()
    order = [result["index"] for result in answer["results"]]
    assert sorted(order) == list(range(len(documents))) and set(order[-3:]) == {0, 1, len(documents) - 2}
    assert answer["meta"]["warnings"]


def test_other_names_of_the_model_are_accepted_where_they_are_configured(reranker):
    ask = {"query": QUERY, "documents": TEXTS}
    app = create_app(reranker=reranker, model_names=["rerank-v3.5", "minilm"])
    with client_of(app) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["minilm", "rerank-v3.5"]
        assert client.post("/v2/rerank", json={**ask, "model": "rerank-v3.5"}).json()["model"] == "rerank-v3.5"
        assert client.post("/v2/rerank", json={**ask, "model": "rerank-v4"}).status_code == 404
    with client_of(create_app(reranker=reranker, any_model=True)) as client:
        assert client.post("/v2/rerank", json={**ask, "model": "jina-reranker-v3"}).status_code == 200


# -- search, documents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["document", "passage"])
@pytest.mark.parametrize("evidence", [None, "sentence", "token"])
def test_search_is_the_searchers_result(client, small_index, unit, evidence):
    body = {"query": "when does a volcano smoke", "k": 3, "unit": unit, "evidence": evidence}
    answer = client.post("/search", json=body).json()
    with Index.open(small_index) as index:
        expected = Searcher(index).search("when does a volcano smoke", 3, evidence=evidence, unit=unit)
    assert answer["passages"] == expected.passages and answer["query_tokens"] == list(expected.query_tokens)
    for hit, known in zip(answer["hits"], expected.hits, strict=True):
        assert (hit["rank"], hit["id"], hit["first_rank"]) == (known.rank, known.id, known.first_rank)
        assert hit["score"] == known.score and hit["mass"] == known.mass
        assert hit["relevance"] == known.relevance
        assert hit["text"] == known.document.text[hit["start"] : hit["end"]]
        assert hit["length"] == len(known.document.text) and hit["metadata"] == known.document.metadata
        assert ("evidence" in hit) == (evidence is not None)
        for span in hit.get("evidence", []):
            whole = known.document.text if span["field"] == "text" else known.document.title
            assert whole[span["start"] : span["end"]] == span["text"]


def test_hits_are_pruned_on_request(client, small_index):
    ask = {"query": "when does a volcano smoke", "k": 3, "unit": "passage"}
    with Index.open(small_index) as index:
        expected = Searcher(index).search(ask["query"], 3, evidence="sentence", unit="passage").hits
    hits = client.post("/search", json={**ask, "prune": 0.5}).json()["hits"]
    assert [hit["pruned_text"] for hit in hits] == [hit.pruned_text(0.5) for hit in expected]
    assert all("evidence" not in hit for hit in hits)
    assert all("pruned_text" not in hit for hit in client.post("/search", json=ask).json()["hits"])
    with client_of(create_app(Searcher(small_index, None))) as other:
        refused = other.post("/search", json={**ask, "prune": 0.5})
        assert refused.status_code == 422 and "evidence" in refused.json()["error"]["message"]


def test_search_cuts_by_min_score(client, small_index):
    ask = {"query": "when does a volcano smoke"}
    whole = client.post("/search", json=ask).json()["hits"]
    for min_score, left in ((0, len(whole)), (whole[1]["relevance"], 2)):
        assert client.post("/search", json={**ask, "min_score": min_score}).json()["hits"] == whole[:left]
    nothing = client.post("/search", json={**ask, "min_score": 1}).json()
    assert nothing["hits"] == [] and nothing["passages"] > 0
    assert nothing["warnings"][0].startswith("nothing scored above min_score 1; the best relevance is ")
    for reranker, said in (("minilm-mass", "minilm-mass has none"), (None, "min_score needs a reranker")):
        with client_of(create_app(Searcher(small_index, reranker))) as other:
            refused = other.post("/search", json={**ask, "min_score": 0.5})
            assert refused.status_code == 422 and said in refused.json()["error"]["message"]
            assert all("relevance" not in hit for hit in other.post("/search", json=ask).json()["hits"])


def test_search_filters(client):
    answer = client.post("/search", json={"query": "anything", "where": {"year": {">=": 2000}}}).json()
    assert [hit["id"] for hit in answer["hits"]] == ["dog"]
    assert client.post("/search", json={"query": "anything", "where": {"year": {"like": 1}}}).status_code == 422


def test_a_document_by_any_id(client):
    for document in DOCUMENTS:
        response = client.get(f"/documents/{quote(document.id, safe='')}")
        assert response.json() == {
            "id": document.id,
            "title": document.title,
            "text": document.text,
            "metadata": document.metadata,
        }
    assert client.get("/documents/nothing").status_code == 404


@pytest.mark.parametrize("id", ["...", "a/..", "a/b", "a\nb", "a\n", " a", "%2F", "?id=x", "ü", "a&b=c"])
def test_a_document_of_any_id_is_written_found_and_deleted(own_index, id):
    head = {"Authorization": f"Bearer {KEY}"}
    with client_of(create_app(Searcher(own_index), api_key=KEY), headers=head) as client:
        assert client.post("/documents", json={"documents": [{"id": id, "text": "Bees fly."}]}).status_code == 200
        assert client.get("/documents", params={"id": id}).json()["id"] == id
        assert client.get(f"/documents/{quote(id, safe='')}").json()["id"] == id
        assert client.delete("/documents", params={"id": id}).json()["deleted"] == 1
        assert client.get("/documents", params={"id": id}).status_code == 404


@pytest.mark.parametrize("id", [".", ".."])
def test_an_id_that_no_path_can_carry_goes_through_the_query(own_index, id):
    head = {"Authorization": f"Bearer {KEY}"}
    with client_of(create_app(Searcher(own_index), api_key=KEY), headers=head) as client:
        missing = client.get("/documents", params={"id": id})
        assert missing.status_code == 404 and repr(id) in missing.json()["error"]["message"]
        assert client.post("/documents", json={"documents": [{"id": id, "text": "Bees fly."}]}).status_code == 200
        assert client.get("/documents", params={"id": id}).json()["text"] == "Bees fly."
        assert client.delete("/documents", params={"id": id}).json()["deleted"] == 1


def test_head_is_get_without_a_body(client):
    answer = client.head("/health")
    assert answer.status_code == 200 and not answer.content
    assert client.head("/rerank").status_code == 405


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_index(small_index, tmp_path):
    return shutil.copytree(small_index, tmp_path / "index")


def test_writing_is_off_unless_a_key_is_configured(client):
    body = {"documents": [{"id": "a", "text": "b"}]}
    head = {"Authorization": f"Bearer {KEY}"}
    assert client.post("/documents", json=body, headers=head).status_code == 405
    assert client.put("/documents", json=body, headers=head).status_code == 405
    assert client.delete("/documents/cat", headers=head).status_code == 405
    assert set(client.get("/openapi.json").json()["paths"]["/documents"]) == {"get"}


@pytest.mark.parametrize(
    "head", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}]
)
def test_writing_needs_the_key(own_index, head):
    with client_of(create_app(Searcher(own_index), api_key=KEY)) as client:
        body = {"documents": [{"id": "a", "text": "b"}]}
        for answer in (
            client.post("/documents", json=body, headers=head),
            client.put("/documents", json=body, headers=head),
            client.delete("/documents/cat", headers=head),
        ):
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").json()["index"]["documents"] == len(DOCUMENTS)


def test_written_documents_are_found_and_stay(own_index):
    head = {"Authorization": f"Bearer {KEY}"}
    new = {"documents": [{"id": "bee", "text": "Bees make honey.", "metadata": {"lang": "en"}}]}
    with client_of(create_app(Searcher(own_index), api_key=KEY), headers=head) as client:

        def best(query):
            return client.post("/search", json={"query": query, "k": 1}).json()["hits"][0]

        answer = client.post("/documents", json=new).json()
        assert (answer["written"], answer["documents"]) == (1, 5)
        assert best("who makes honey")["id"] == "bee"
        again = client.post("/documents", json=new)
        assert again.status_code == 409 and str(own_index) not in again.text
        new["documents"][0]["text"] = "Bees sting when they are angry."
        assert client.put("/documents", json=new).json()["documents"] == 5
        assert best("who stings")["text"] == "Bees sting when they are angry."
        assert client.delete("/documents/cat").json()["deleted"] == 1
        assert client.delete("/documents/cat").status_code == 404
        assert client.get("/documents/cat").status_code == 404
        assert client.get("/health").json()["index"]["documents"] == 4
    with Index.open(own_index) as index:
        assert {document.id for document in index.documents()} >= {"bee", "dog", "long"}


def test_a_write_after_which_the_index_cannot_be_counted_was_made(own_index):
    head = {"Authorization": f"Bearer {KEY}"}
    searcher = Searcher(own_index)
    with client_of(create_app(searcher, api_key=KEY), headers=head) as client:
        counts = searcher.index.counts

        def failing():
            raise IndexStoreError("the disk failed")

        searcher.index.counts = failing
        answer = client.post("/documents", json={"documents": [{"id": "bee", "text": "Bees make honey."}]})
        assert (answer.status_code, answer.json()["written"]) == (200, 1)
        assert client.get("/health").json()["problem"] == "the disk failed"
        searcher.index.counts = counts
        assert client.get("/documents/bee").status_code == 200


def test_a_writer_elsewhere_is_waited_for(own_index):
    head = {"Authorization": f"Bearer {KEY}"}
    with client_of(create_app(Searcher(own_index), api_key=KEY), headers=head) as client:
        with locked(own_index / ".writer.lock"):
            refused = client.delete("/documents/cat")
            assert refused.status_code == 503 and refused.headers["Retry-After"]
            assert str(own_index) not in refused.text
        assert client.delete("/documents/cat").status_code == 200


def test_searches_go_on_while_documents_are_written(own_index):
    """Every answer is of the index before or after a write, never an error."""
    stop, codes = threading.Event(), []
    with client_of(create_app(Searcher(own_index), api_key=KEY)) as client:

        def look():
            while not stop.is_set():
                codes.append(client.post("/search", json={"query": "bees", "evidence": "sentence"}).status_code)

        looking = [threading.Thread(target=look) for _ in range(3)]
        for thread in looking:
            thread.start()
        for i in range(6):
            body = {"documents": [{"id": f"n{i}", "text": f"Bee number {i} flies."}]}
            assert client.put("/documents", json=body, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
            if i % 2:
                client.delete(f"/documents/n{i}", headers={"Authorization": f"Bearer {KEY}"})
        stop.set()
        for thread in looking:
            thread.join()
    assert set(codes) == {200} and len(codes) > 3


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict():
    limits = Limits(documents=3, characters=50, bytes=400, seconds=1.0)
    with client_of(create_app(reranker=load_reranker("minilm"), limits=limits)) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"query": "a", "documents": ["b"] * 4}, 422, "4 documents are more than the 3"),
        ({"query": "a", "documents": ["b", "c" * 51]}, 422, "document 1 has 51 characters"),
        ({"query": "a", "documents": [{"text": "c" * 25, "title": "c" * 25}]}, 422, "document 0 has 51 characters"),
        ({"query": "a" * 51, "documents": ["b"]}, 422, "query has 51 characters"),
        ({"query": "a", "texts": ["b"] * 4}, 422, "4 documents are more than the 3"),
        ({"query": "a" * 500, "documents": ["b"]}, 413, "larger than 400 bytes"),
    ],
)
def test_limits(strict, body, status, said):
    answer = strict.post("/rerank", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "documents"),
        ({"documents": ["b"], "top_n": -1}, "top_n"),
        ({"documents": ["b", {"text": 1}]}, "documents.1.text"),
        ({"documents": ["b", 1]}, "documents.1"),
        ({"texts": [1]}, "texts.0"),
        ({"texts": ["b"], "truncate": []}, "truncate"),
    ],
)
def test_a_mistake_is_named_by_its_field(strict, body, field):
    answer = strict.post("/rerank", json={"query": "a", **body})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(f"{field}: ")


def test_a_body_without_a_length_is_measured_as_it_comes(strict):
    answer = strict.post(
        "/rerank", content=(b"x" * 100 for _ in range(9)), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


def test_a_slow_sender_is_sent_away(strict):
    with socket.create_connection((strict.base_url.host, strict.base_url.port)) as connection:
        head = (
            b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        connection.sendall(head)
        connection.settimeout(10)
        assert b" 408 " in connection.recv(4096).splitlines()[0]


def test_what_takes_too_long_is_given_up(slow):
    limits = Limits(seconds=0.3)
    with client_of(create_app(reranker=slow, limits=limits)) as client:
        answer = client.post("/rerank", json={"query": QUERY, "documents": TEXTS})
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "TimeLimitError"
        slow.open.set()
        until(lambda: client.post("/rerank", json={"query": QUERY, "documents": TEXTS}).status_code == 200)


def test_time_that_runs_out_in_the_queue_is_a_504(slow, caplog):
    body = {"query": QUERY, "documents": TEXTS}
    with client_of(create_app(reranker=slow, limits=Limits(seconds=0.3, waiting=4))) as client:
        codes = []
        threads = [
            threading.Thread(target=lambda: codes.append(client.post("/rerank", json=body).status_code))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        slow.open.set()
    assert set(codes) == {429, 504} and codes.count(504) >= 5
    assert not [record for record in caplog.records if record.exc_info]


def test_a_full_queue_is_answered_429_and_the_server_goes_on(slow):
    body = {"query": QUERY, "documents": TEXTS}
    with client_of(create_app(reranker=slow, limits=Limits(waiting=2))) as client:
        threads = [threading.Thread(target=client.post, args=["/rerank"], kwargs={"json": body}) for _ in range(3)]
        threads[0].start()
        assert slow.begun.wait(10)
        for thread in threads[1:]:
            thread.start()
        until(lambda: waits(client) == 2)
        refused = client.post("/rerank", json=body)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert client.get("/health").json()["status"] == "ok"  # the event loop is free all the while
        slow.open.set()
        for thread in threads:
            thread.join()
        assert client.post("/rerank", json=body).status_code == 200


def test_who_hangs_up_is_not_worked_for(slow):
    with client_of(create_app(reranker=slow, limits=Limits(waiting=2))) as client:
        body = {"query": QUERY, "documents": TEXTS}
        first = threading.Thread(target=client.post, args=["/rerank"], kwargs={"json": body})
        first.start()
        assert slow.begun.wait(10)
        impatient = httpx.Client(base_url=client.base_url, timeout=0.3)
        for _ in range(5):  # more than the queue holds: each frees its place as it leaves
            with pytest.raises(httpx.ReadTimeout):
                impatient.post("/rerank", json={"query": "nobody waits for this", "documents": TEXTS})
            until(lambda: waits(client) == 0)
        impatient.close()
        slow.open.set()
        first.join()
        assert client.post("/rerank", json=body).status_code == 200
        assert slow.ranked == [QUERY, QUERY]
        assert 'sightline_requests_total{route="/rerank",status="499"} 5.0' in client.get("/metrics").text


@pytest.mark.parametrize("field", ["documents", "characters", "bytes", "waiting", "seconds"])
def test_limits_must_be_above_zero(field):
    with pytest.raises(InputError, match=field):
        Limits(**{field: 0})


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_health_says_why_the_index_fails(small_index, monkeypatch):
    searcher = Searcher(small_index, None)
    with client_of(create_app(searcher)) as client:

        def lost():
            raise IndexStoreError(f"{small_index}: the connection failed; does the server run?")

        monkeypatch.setattr(searcher.index, "counts", lost)
        time.sleep(0.2)  # counting may take a twentieth of the time
        answer = client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["status"] == "failing"
        assert answer.json()["problem"] == "the connection failed; does the server run?"  # and not where
        monkeypatch.undo()
        time.sleep(0.2)
        assert "problem" not in client.get("/health").json()


def test_health_tells_what_is_served(client):
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["model"] == "minilm" and health["first_stage"] == "hybrid"
    assert health["index"]["documents"] == 4 <= health["index"]["passages"]


@pytest.mark.parametrize(
    ("titles", "texts", "examples"),
    [
        (
            [f"Garden {n} of 200" for n in range(200)],
            [],
            ["Garden 31 of 200", "Garden 100 of 200", "Garden 165 of 200"],
        ),
        (
            [
                "Cats",
                "notes on cats.txt",
                "10.5 2024",
                "a " * 9,
                "cat.purr(volume, /)",
                "cats.voice module",
                "Why cats purr",
            ],
            [],
            ["Why cats purr"],
        ),
        (["Why cats purr", "WHY CATS purr ", "Two\n words"], [], ["WHY CATS purr", "Two words"]),
        (
            ["Why cats purr"],
            ["# Why cats purr\n\nIt is", "- " + "one two " * 9],
            ["Why cats purr", "one two " * 3 + "one two"],
        ),
        (["猫は鳴く"], ["犬は吠える。猫は鳴く。"], ["猫は鳴く", "犬は吠える。"]),
        ([""], ["7."], []),
    ],
    ids=["from all over", "no code", "distinct", "first words", "without spaces", "none"],
)
def test_example_searches_are_titles_or_first_words(titles, texts, examples, tmp_path):
    documents = [{"title": title, "text": ""} for title in titles] + [{"title": "", "text": text} for text in texts]
    Index.build(tmp_path / "index", documents, encoder="none").close()
    with client_of(create_app(Searcher(tmp_path / "index", None))) as client:
        assert client.get("/health").json()["examples"] == examples


def test_metrics_count_requests_and_documents(reranker):
    with client_of(create_app(reranker=reranker)) as client:
        client.post("/v1/rerank", json={"query": QUERY, "documents": [*TEXTS, LONG]})
        client.post("/v1/rerank", json={"query": QUERY})
        client.get("/a-path-that-a-client-made-up")
        counts = {
            (sample.name, sample.labels.get("route"), sample.labels.get("status")): sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
        }
    assert counts["sightline_requests_total", "/v1/rerank", "200"] == 1
    assert counts["sightline_requests_total", "/v1/rerank", "422"] == 1
    assert counts["sightline_requests_total", "other", "404"] == 1
    assert counts["sightline_documents_ranked_total", None, None] == 5
    assert counts["sightline_documents_truncated_total", None, None] == 1
    assert counts["sightline_request_seconds_count", "/v1/rerank", None] == 2


def test_passages_that_come_again_are_counted_and_score_alike(reranker):
    keeping = LateInteractionReranker(cache=DocumentCache(host_bytes=1 << 24))
    with client_of(create_app(reranker=keeping)) as client:
        for query in (QUERY, "what rusts", QUERY):
            answer = client.post("/v1/rerank", json={"query": query, "documents": TEXTS}).json()["results"]
            scores = {result["index"]: result["relevance_score"] for result in answer}
            assert scores == {item.index: item.relevance for item in reranker.rank(query, TEXTS)}
        counts = {
            (sample.name, sample.labels.get("place")): sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
        }
    assert (counts["sightline_cache_hits_total", None], counts["sightline_cache_misses_total", None]) == (8, 4)
    assert counts["sightline_cache_bytes", "host"] == keeping.cache.bytes()["host"] > 0


class Meeting(LateInteractionReranker):
    """Two lists must be in it at once for either to get out."""

    def __init__(self, concurrent):
        super().__init__()
        self.concurrent, self.inside, self.both = concurrent, threading.Semaphore(0), threading.Barrier(2)

    def _score(self, lists):
        self.inside.release()
        if self.concurrent:
            self.both.wait(20)
        return super()._score(lists)


@pytest.mark.parametrize("concurrent", [True, False])
def test_lists_are_ranked_side_by_side_where_several_threads_may(reranker, concurrent):
    body, answers, meeting = {"query": QUERY, "documents": TEXTS}, [], Meeting(concurrent)
    with client_of(create_app(reranker=meeting, threads=2)) as client:
        asking = [
            threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=body))) for _ in range(2)
        ]
        for thread in asking:
            thread.start()
            assert meeting.inside.acquire(timeout=20)  # the second does not wait with it, to be read together
        for thread in asking:
            thread.join()
    expected = [item.index for item in reranker.rank(QUERY, TEXTS)]
    assert [[result["index"] for result in answer.json()["results"]] for answer in answers] == [expected] * 2


def test_a_server_needs_a_thread(reranker):
    with pytest.raises(InputError, match="threads must be at least 1"):
        create_app(reranker=reranker, threads=0)


def test_searches_side_by_side_find_what_was_written_before_them(own_index):
    app = create_app(Searcher(own_index), api_key=KEY, threads=4)
    with client_of(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        stop, codes = threading.Event(), []

        def search():
            while not stop.is_set():
                codes.append(client.post("/search", json={"query": "which volcano smokes", "k": 3}).status_code)

        searching = [threading.Thread(target=search) for _ in range(3)]
        for thread in searching:
            thread.start()
        try:
            for number in range(6):
                new = {"id": f"new{number}", "text": f"The unheard-of volcano {number} smokes."}
                assert client.post("/documents", json={"documents": [new]}).json()["documents"] == 5
                hits = client.post("/search", json={"query": f"unheard-of volcano {number}", "k": 1}).json()["hits"]
                assert hits[0]["id"] == f"new{number}"
                assert client.delete(f"/documents/new{number}").json()["documents"] == 4
        finally:
            stop.set()
            for thread in searching:
                thread.join()
        assert set(codes) == {200}


def test_examples_in_the_openapi_document_work(small_index):
    with client_of(create_app(Searcher(small_index))) as client:
        document = client.get("/openapi.json").json()
        tried = 0
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                refs = re.findall(r"#/components/schemas/(\w+)", str(schema))
                for name in refs:
                    for example in document["components"]["schemas"][name].get("examples", []):
                        answer = client.request(method, path, json=example)
                        assert answer.status_code == 200, answer.text
                        tried += 1
    assert tried == 5


def test_a_foreign_host_name_is_refused(client):
    assert client.get("/health", headers={"Host": "localhost:1"}).status_code == 200
    for host in ("evil.example", "evil.example:80", "", "localhost.evil.example", "[::2]:80"):
        assert client.get("/health", headers={"Host": host}).status_code == 421


def test_pages_of_elsewhere_get_nothing(client):
    """No form can post here, and no script of another origin can read an answer."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.post("/search", content=b'{"query": "a"}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    answer = client.post("/search", json={"query": "a"}, headers={"Origin": "http://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert client.options("/search", headers={"Origin": "http://evil.example"}).status_code == 405


def test_every_answer_has_its_headers(client):
    for answer in (client.get("/"), client.get("/health"), client.get("/nothing"), client.post("/search")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_what_is_not_served_is_not_there(reranker, small_index):
    with client_of(create_app(reranker=reranker)) as client:
        for call in (client.get("/"), client.post("/search", json={"query": "a"}), client.get("/documents/cat")):
            assert call.status_code == 404
    with client_of(create_app(Searcher(small_index, None, first_stage="bm25"))) as client:
        assert client.post("/rerank", json={"query": "a", "documents": ["b"]}).status_code == 404
        hits = client.post("/search", json={"query": "cats purr"}).json()["hits"]
        assert hits[0]["id"] == "cat" and "mass" not in hits[0]


def test_there_must_be_something_to_serve(reranker):
    with pytest.raises(InputError, match="nothing to serve"):
        create_app()
    with pytest.raises(InputError, match="16 characters"):
        create_app(reranker=reranker, api_key="short")
    with pytest.raises(InputError, match="no index"):
        create_app(reranker=reranker, api_key=KEY)


def test_an_index_that_breaks_is_500_without_a_word_of_this_machine(own_index):
    searcher = Searcher(own_index)
    with client_of(create_app(searcher)) as client:
        searcher.index.close()
        answer = client.post("/search", json={"query": "cats"})
        assert answer.status_code == 500 and str(own_index) not in answer.text and "Traceback" not in answer.text
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "failing"
        assert str(own_index) not in health.text and "Traceback" not in health.text
