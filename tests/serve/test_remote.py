"""A server whose reranker is a rerank API: there are no limits on tokens, and failures are not the client's."""

import logging

import pytest

from sightline import load_reranker
from sightline.serve import create_app
from sightline.serve.limits import Limits
from sightline.tests.rerank_api import Reply, relevance

from .conftest import client_of

QUERY = "what do cats do"
TEXTS = ["Dogs bark at strangers.", "What cats do: they purr.", "Iron rusts."]


@pytest.fixture
def client(rerank_api):
    app = create_app(reranker=load_reranker(rerank_api.name(), retries=0), any_model=True, limits=Limits(seconds=20))
    with client_of(app) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_it_ranks_by_the_relevance_of_the_api(client, path):
    expected = {place: relevance(QUERY, text) for place, text in enumerate(TEXTS)}
    body = {"query": QUERY, "documents": TEXTS, "truncate_prompt_tokens": -1, "min_score": 0.15}
    answer = client.post(path, json=body).json()
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert scores == pytest.approx({place: score for place, score in expected.items() if score >= 0.15})
    assert (answer["meta"]["scores"], answer["meta"]["truncated"]) == ("relevance", 0)
    items = client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "truncate": True}).json()
    assert {item["index"]: item["score"] for item in items} == pytest.approx(expected)


@pytest.mark.parametrize("limit", [{"max_tokens_per_doc": 4}, {"truncate_prompt_tokens": 9}])
def test_a_limit_that_nobody_could_keep_is_refused(client, rerank_api, limit):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS, **limit})
    assert answer.status_code == 422 and "cannot say what it reads of a text" in answer.json()["error"]["message"]
    assert client.post("/rerank", json={"query": QUERY, "texts": TEXTS, "truncate": False}).status_code == 422
    assert rerank_api.seen == []


def test_a_failure_of_the_api_is_told_and_its_address_is_not(client, rerank_api, caplog):
    rerank_api.replies = [Reply(b'{"message": "out of memory"}', 500)]
    with caplog.at_level(logging.ERROR):
        answer = client.post("/rerank", json={"query": QUERY, "documents": TEXTS})
    assert answer.status_code == 502 and answer.json()["error"]["type"] == "RemoteError"
    assert "127.0.0.1" not in answer.text and "out of memory" not in answer.text
    assert rerank_api.url in caplog.text and "out of memory" in caplog.text
    assert client.post("/rerank", json={"query": QUERY, "documents": TEXTS}).status_code == 200
