"""Each request has an id, in its answer, its error and its log records, and a span below its client's."""

import asyncio
import contextvars
import logging
import re
import types

import httpx
import pytest

from sightline import LateInteractionReranker, Searcher
from sightline.errors import ModelError
from sightline.serve import create_app
from sightline.serve.guard import Guard
from sightline.serve.metrics import Metrics
from sightline.serve.request_ids import RequestIdFilter
from sightline.tracing import flush

from .conftest import client_of

BODY = {"query": "what do cats do", "documents": ["Dogs bark.", "Cats purr."]}
TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Failing(LateInteractionReranker):
    """Logs, and raises what it is given as a query."""

    def _score(self, lists):
        logging.getLogger("sightline.rerank.trial").warning("about to fail")
        raise {"known": ModelError, "unforeseen": RuntimeError}[lists[0].query]("weights of /secret/path")


@pytest.fixture
def records(caplog):
    """The records of Sightline's loggers, with the ids of their requests."""
    caplog.handler.addFilter(ids := RequestIdFilter())
    with caplog.at_level(logging.INFO, "sightline"):
        yield lambda: [(record.name, record.request_id, record.getMessage()) for record in caplog.records]
    caplog.handler.removeFilter(ids)


@pytest.mark.parametrize("sent", ["7", "a1b2:c3.d4_e5-F6", "x" * 128])
def test_an_id_that_is_sane_is_taken(client, sent):
    assert client.get("/v1/models", headers={"x-request-id": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", [None, "", "two words", "x" * 129, "a\tb", "<b>", "é".encode()])
def test_else_one_is_made(client, sent):
    answers = [client.get("/v1/models", headers={} if sent is None else {"X-Request-ID": sent}) for _ in range(2)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids) and ids[0] != ids[1]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/rerank", {"json": {}}, 422),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/rerank", {}, 405),
        ("POST", "/rerank", {"content": "{", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", "/rerank", {"content": b"x" * (3 << 20)}, 413),
    ],
)
def test_errors_have_it_in_header_and_body(client, method, path, options, status):
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert len(answer.headers["X-Request-ID"]) == 32
    assert answer.json()["error"]["request_id"] == answer.headers["X-Request-ID"]


@pytest.mark.parametrize("query", ["known", "unforeseen"])
def test_the_log_has_it_too_in_the_lanes_thread(records, query):
    with client_of(create_app(reranker=Failing())) as client:
        answer = client.post("/rerank", json={**BODY, "query": query}, headers={"X-Request-ID": "of-the-client"})
        # Of its own connection: after such an error uvicorn closes the other one.
        assert 'route="/rerank",status="500"' in httpx.get(client.base_url.join("/metrics")).text
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["X-Request-ID"] == answer.json()["error"]["request_id"] == "of-the-client"
    of_request = [(name, message) for name, id, message in records() if id == "of-the-client"]
    assert of_request[0] == ("sightline.rerank.trial", "about to fail")
    assert (query == "known") == (("sightline.serve.bodies", "ModelError: weights of /secret/path") in of_request)
    name, message = of_request[-1]
    assert name == "sightline.serve.requests" and re.fullmatch(r"POST /rerank 500 \d+ ms", message)


def test_paths_and_outsiders_are_not_logged(records):
    with client_of(create_app(reranker=LateInteractionReranker())) as client:
        client.get("/a%0Aforged")
    contextvars.Context().run(logging.getLogger("sightline.trial").info, "outside")
    logged = {name: (id, message) for name, id, message in records()}
    assert logged["sightline.serve.requests"][1].startswith("GET other 404 ")
    assert logged["sightline.trial"] == ("-", "outside")


# -- spans -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans(monkeypatch):
    """The spans that were exported: those that a server has flushed before it ended."""
    trace = pytest.importorskip("opentelemetry.trace", reason="needs the extra otel")
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=60_000))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter.get_finished_spans


def test_a_request_is_a_span_below_its_clients(small_index, spans):
    headers = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "X-Request-ID": "one"}
    with client_of(create_app(Searcher(small_index))) as client:
        client.get("/health")
        client.get("/metrics")
        client.post("/search", json={"query": "what do cats do"}, headers=headers)
    found = spans()
    by_name = {one.name: one for one in found}
    assert len(found) == len(by_name) == 5 and {format(one.context.trace_id, "032x") for one in found} == {TRACE}
    server, search = by_name["POST /search"], by_name["sightline.search"]
    assert format(server.parent.span_id, "016x") == CLIENT and search.parent.span_id == server.context.span_id
    expected = {
        "http.request.method": "POST",
        "url.path": "/search",
        "http.route": "/search",
        "http.response.status_code": 200,
        "sightline.request_id": "one",
    }
    assert expected.items() <= server.attributes.items()
    assert {"sightline.retrieve", "sightline.fetch", "sightline.rerank"} < set(by_name)


def test_reranking_tells_what_was_read(spans):
    with client_of(create_app(reranker=LateInteractionReranker())) as client:
        usage = client.post("/rerank", json=BODY).json()["usage"]
        client.post("/rerank", json={})
    read, rerank, server, refused = spans()
    assert (read.name, rerank.name, server.name) == ("sightline.read", "sightline.rerank", "POST /rerank")
    assert server.parent is None and rerank.parent.span_id == server.context.span_id
    assert read.parent.span_id == rerank.context.span_id
    assert rerank.attributes == {
        "sightline.reranker": "minilm",
        "sightline.passages": 2,
        "sightline.tokens": usage["total_tokens"],
        "sightline.truncated": 0,
    }
    assert refused.attributes["http.response.status_code"] == 422 and refused.status.is_unset


def test_where_fastapi_traces_nothing_the_guard_does(spans):
    async def app(scope, receive, send):
        scope["route"] = types.SimpleNamespace(path="/search")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    sent, guard = [], Guard(app, metrics=Metrics(), hosts=None, max_bytes=1, body_seconds=1)
    for path in ("/health", "/search"):
        asyncio.run(guard({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send))
    flush(5)
    (server,) = spans()
    assert (
        server.name == "GET /search"
        and server.attributes["sightline.request_id"] == dict(sent[1]["headers"])[b"x-request-id"].decode()
    )


def test_an_unforeseen_error_makes_an_error_of_the_span(spans):
    with client_of(create_app(reranker=Failing())) as client:
        client.post("/rerank", json={**BODY, "query": "unforeseen"})
    server = spans()[-1]
    assert server.name == "POST /rerank" and not server.status.is_ok and not server.status.is_unset
    assert server.attributes["http.response.status_code"] == 500
