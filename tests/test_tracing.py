"""Spans of searches, as OpenTelemetry's SDK collects them, and that nothing happens where nobody collects."""

import subprocess
import sys

import pytest

from sightline import Document, Index, LateInteractionReranker, Searcher
from sightline.models.cache import DocumentCache
from sightline.tracing import server_span, span

trace = pytest.importorskip("opentelemetry.trace", reason="needs the extra otel")
sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

DOCUMENTS = [
    Document("cat", "Cats purr when they are content."),
    Document("dog", "Dogs bark at strangers. They guard the house."),
    Document("iron", "Iron rusts in wet air."),
]


@pytest.fixture
def spans(monkeypatch):
    """The spans that have ended, in this order, since this was last called; the first time, all."""
    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    def ended():
        found = exporter.get_finished_spans()
        exporter.clear()
        return found

    return ended


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("tracing") / "index", DOCUMENTS, token_states="none") as built:
        yield built


class Failing(LateInteractionReranker):
    def _score(self, lists):
        raise RuntimeError("no scores")


def test_a_search_is_a_tree_of_its_steps(spans, index):
    result = Searcher(index).search("what do cats do", k=2, where={}, evidence="sentence")
    retrieve, fetch, read, rerank, search = spans()
    names = [step.name for step in (search, retrieve, fetch, rerank, read)]
    assert names == [f"sightline.{name}" for name in ("search", "retrieve", "fetch", "rerank", "read")]
    assert search.parent is None and read.parent.span_id == rerank.context.span_id
    assert {step.parent.span_id for step in (retrieve, fetch, rerank)} == {search.context.span_id}
    assert search.attributes == {
        "sightline.queries": 1,
        "sightline.k": 2,
        "sightline.unit": "document",
        "sightline.filtered": False,
    }
    passages = result.passages
    assert retrieve.attributes == {
        "sightline.first_stage": "hybrid",
        "sightline.candidates": 3,
        "sightline.passages": passages,
    }
    assert fetch.attributes == {"sightline.passages": passages, "sightline.kept_states": 0}
    assert rerank.attributes == {
        "sightline.reranker": "minilm",
        "sightline.passages": passages,
        "sightline.query_tokens": len(result.query_tokens),
        "sightline.truncated": 0,
        "sightline.evidence": "sentence",
    }


def test_reading_says_what_came_from_the_cache(spans, index):
    searcher = Searcher(index, LateInteractionReranker(cache=DocumentCache(host_bytes=1 << 20)))
    read = []
    for _ in range(2):
        searcher.search("what do cats do")
        read += [step.attributes for step in spans() if step.name == "sightline.read"]
    tokens = sum(len(searcher.reranker.window.token_offsets(document.contents)) for document in DOCUMENTS)
    counts = [(of["sightline.cache_hits"], of["sightline.passages"], of["sightline.tokens"]) for of in read]
    assert counts == [(0, 3, tokens), (3, 0, 0)]


def test_kept_states_are_counted_and_not_read(spans, tmp_path):
    with Index.build(tmp_path / "index", DOCUMENTS) as index:
        spans()
        Searcher(index).search("what do cats do")
    steps = {step.name: step.attributes for step in spans()}
    assert steps["sightline.fetch"]["sightline.kept_states"] == 3 and "sightline.read" not in steps


def test_an_exception_makes_an_error_of_the_span(spans, index):
    with pytest.raises(RuntimeError):
        Searcher(index, Failing()).search("what do cats do")
    status = {step.name: step.status.status_code for step in spans()}
    error, unset = trace.StatusCode.ERROR, trace.StatusCode.UNSET
    assert status["sightline.rerank"] == status["sightline.search"] == error and status["sightline.fetch"] == unset


def test_a_servers_span_is_below_its_clients(spans):
    client = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    for status in (404, 500):
        with server_span("POST", "/search", client) as answer:
            answer.answered("POST", "/search", status)
    refused, failed = spans()
    assert format(refused.parent.span_id, "016x") == "00f067aa0ba902b7" and refused.kind == trace.SpanKind.SERVER
    assert refused.name == "POST /search" and refused.attributes == {
        "http.request.method": "POST",
        "url.path": "/search",
        "http.route": "/search",
        "http.response.status_code": 404,
    }
    assert refused.status.is_unset and failed.status.status_code == trace.StatusCode.ERROR


def test_a_servers_span_that_is_open_already_is_the_only_one(spans):
    with span("around"), server_span("POST", "/search", {}) as answer:
        answer.set(request_id="7", nothing=None)
        answer.answered("POST", "/search", 200)
    (around,) = spans()
    assert around.name == "sightline.around" and around.attributes == {"sightline.request_id": "7"}


def test_nothing_is_made_where_there_is_no_provider(monkeypatch):
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    assert span("a") is span("b") is server_span("GET", "/", {}) and not span("a").recording
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert span("a") is span("b")


def test_nothing_of_opentelemetry_is_imported():
    code = "import sys; from sightline.tracing import span; span('x'); assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
