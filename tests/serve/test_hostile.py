"""Malformed and hostile requests: refused with a reason, never with a crash, and the server goes on."""

import json
import socket
import time

import pytest

from .conftest import KEY, client_of

QUERY = "what do cats do"
OK = {"query": QUERY, "documents": ["Cats purr."]}
JSON = {"Content-Type": "application/json"}

# Values that no field takes.
NOT_TEXT = [None, 1, 1.5, True, [], {}, ["a"], {"a": "b"}]
NOT_COUNT = [-2, 1.5, "3", True, [], {}, -(10**30)]
NOT_FLAG = [1, 0, "true", [], {}]


def bodies():
    """(route, body) with a status that is not ours to choose freely: all are refused as 422."""
    for route in ("/rerank", "/v1/rerank", "/v2/rerank"):
        for query in [*NOT_TEXT, "", " ", "\n\t", "\u200b"]:
            yield route, {**OK, "query": query}
        for documents in [None, 1, "text", {}, [], [None], [1], [True], [[]], [{}], [{"title": "t"}], ["ok", 3]]:
            yield route, {**OK, "documents": documents}
        for text in ["\x00", "a\x00b"]:
            yield route, {**OK, "documents": [text]}
            yield route, {**OK, "documents": [{"text": text}]}
        for text in NOT_TEXT[1:]:
            yield route, {**OK, "documents": [{"text": text}]}
        for count in NOT_COUNT:
            yield route, {**OK, "top_n": count}
            yield route, {**OK, "max_tokens_per_doc": count}
            yield route, {**OK, "truncate_prompt_tokens": count}
        yield route, {**OK, "max_tokens_per_doc": 0}
        for flag in NOT_FLAG:
            yield route, {**OK, "return_documents": flag}
        yield route, {"documents": ["a"]}
        yield route, {"query": "a"}
        yield route, {**OK, "evidence": "letters"}
        yield route, {**OK, "documents": [{"text": "a", "title": ["b"]}]}
        yield route, {**OK, "documents": ["a"] * 1001}
        yield route, {**OK, "documents": ["a" * 100_001]}
        yield route, {**OK, "query": "a " * 50_001}
        yield route, {**OK, "model": 3}
        yield route, []
        yield route, "text"
        yield route, None
        yield route, 7
    tei = {"query": QUERY, "texts": ["Cats purr."]}
    for texts in [None, 1, "text", {}, [], [None], [1], [{"text": "a"}], ["\x00"]]:
        yield "/rerank", {**tei, "texts": texts}
    for flag in NOT_FLAG:
        yield "/rerank", {**tei, "raw_scores": flag}
    yield "/rerank", {**tei, "texts": ["word " * 300], "truncate": False}
    yield "/rerank", {**tei, "truncation_direction": "left"}
    for query in [*NOT_TEXT, "", " ", "\u200b" * 3]:
        yield "/search", {"query": query}
    for k in [*NOT_COUNT, 0, -1, 1001, 10**30]:
        yield "/search", {"query": QUERY, "k": k}
    for where in [
        1, "a=b", [], ["a"], {"a": {}}, {"a": {"like": "b"}}, {"a": {"=": []}}, {"a": {"in": "b"}}, {"a": {"<": None}},
        {"a": [[]]}, {"a": [{}]}, {"a": {"=": {"=": 1}}}, {"a": 10**30}, {"a": {">": 10**400}},
        {"'; DROP TABLE documents; --": {"; DROP TABLE documents": 1}},
    ]:  # fmt: skip
        yield "/search", {"query": QUERY, "where": where}
    yield "/search", {"query": QUERY, "unit": "chapter"}
    yield "/search", {"query": QUERY, "evidence": True}
    yield "/search", {"query": QUERY, "limit": 3}
    yield "/search", {"query": "a " * 60_000}
    yield "/search", {}


# (method, path, headers, raw body, statuses that are right)
RAW = [
    ("POST", "/rerank", JSON, b"", {422}),
    ("POST", "/rerank", JSON, b"{", {400}),
    ("POST", "/rerank", JSON, b"not json", {400}),
    ("POST", "/rerank", JSON, b'{"query": NaN}', {400}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["b"], "x": Infinity}', {400}),
    (
        "POST",
        "/rerank",
        JSON,
        b'{"query": "a", "documents": [{"text": "b", "x": 1e999}], "return_documents": true}',
        {400},
    ),
    ("POST", "/rerank", JSON, b'{"query": "\\ud800", "documents": ["b"]}', {400}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["\\udfff"]}', {400}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["b"], "\\ud800": 1}', {400}),
    ("POST", "/rerank", JSON, b'{"query": "\xff\xfe", "documents": ["b"]}', {400}),
    ("POST", "/rerank", JSON, '{"query": "a", "documents": ["b"]}'.encode("utf-16"), {400}),
    ("POST", "/rerank", JSON, '{"query": "a", "documents": ["b"]}'.encode("utf-8-sig"), {400}),
    ("POST", "/rerank", JSON, b"[" * 100_000, {400}),
    ("POST", "/rerank", JSON, b'{"a":' * 50_000, {400}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["b"], "top_n": ' + b"9" * 10_000 + b"}", {400, 422}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["b"]}' + b" " * (3 << 20), {413}),
    ("POST", "/rerank", JSON, b"\x00" * 1000, {400}),
    ("POST", "/rerank", JSON, b'{"query": "a", "documents": ["b"]} trailing', {400}),
    ("POST", "/rerank", {"Content-Type": "text/plain"}, json.dumps(OK).encode(), {415}),
    ("POST", "/rerank", {"Content-Type": "application/x-www-form-urlencoded"}, b"query=a", {415}),
    ("POST", "/rerank", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", {415}),
    ("POST", "/rerank", {"Content-Type": "application/jsonp"}, json.dumps(OK).encode(), {415}),
    ("POST", "/rerank", {**JSON, "Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00", {400}),
    ("POST", "/search", JSON, b'{"query": "a", "where": {"\\ud800": 1}}', {400}),
    ("POST", "/search", JSON, b'{"query": "a", "where": {"a": -1e999}}', {400}),
    ("POST", "/search", JSON, b'{"query": "a", "where": ' + b'{"a":' * 300 + b"1" + b"}" * 301, {400}),
    ("GET", "/rerank", {}, b"", {405}),
    ("PUT", "/rerank", JSON, b"{}", {405}),
    ("DELETE", "/search", {}, b"", {405}),
    ("PATCH", "/search", JSON, b"{}", {405}),
    ("TRACE", "/", {}, b"", {405}),
    ("OPTIONS", "/search", {}, b"", {405}),
    ("BREW", "/search", {}, b"", {405}),
    ("GET", "/../../etc/passwd", {}, b"", {404}),
    ("GET", "/documents/../../etc/passwd", {}, b"", {404}),
    ("GET", "/documents/%00", {}, b"", {404}),
    ("GET", "/documents/%ff%fe", {}, b"", {404}),
    ("GET", "/documents/%ed%a0%80", {}, b"", {404}),
    ("GET", "/documents/' OR 1=1 --", {}, b"", {404}),
    ("GET", "/documents/" + "a" * 10_000, {}, b"", {404}),
    ("GET", "/documents/", {}, b"", {404}),
    ("GET", "/documents", {}, b"", {422}),
    ("GET", "/documents?id=", {}, b"", {422}),
    ("GET", "/documents?id=..", {}, b"", {404}),
    ("GET", "/documents/%E2%80%AE", {}, b"", {404}),
    ("GET", "/%00", {}, b"", {404}),
    ("GET", "/docs", {}, b"", {404}),
    ("GET", "/.git/config", {}, b"", {404}),
    ("GET", "/health/", {}, b"", {404}),
    ("GET", "/?" + "a=b&" * 5000, {}, b"", {200}),
    ("POST", "/documents", JSON, b'{"documents": [{"id": "a", "text": "b"}]}', {401}),
    ("POST", "/documents", {**JSON, "Authorization": "Bearer"}, b"{}", {401}),
    ("POST", "/documents", {**JSON, "Authorization": "Bearer \xff"}, b"{}", {401}),
    ("DELETE", "/documents/cat", {"Authorization": "Bearer " + "a" * 5000}, b"", {401}),
]

ALLOWED = {**JSON, "Authorization": f"Bearer {KEY}"}
WRITES = [
    {}, [], None, {"documents": None}, {"documents": []}, {"documents": [1]}, {"documents": [{}]},
    {"documents": [{"id": "a"}]}, {"documents": [{"id": "", "text": "b"}]}, {"documents": [{"id": " ", "text": "b"}]},
    {"documents": [{"id": 1, "text": "b"}]}, {"documents": [{"id": "a", "text": 1}]},
    {"documents": [{"id": "a\x00", "text": "b"}]},
    {"documents": [{"id": "a", "text": "b\x00"}]}, {"documents": [{"id": "a", "text": "b", "metadata": []}]},
    {"documents": [{"id": "a", "text": "b", "title": None}]}, {"documents": [{"id": "a", "text": "b", "extra": 1}]},
    {"documents": [{"id": "a", "text": "b"}], "extra": 1}, {"documents": [{"id": "a", "text": "b" * 100_001}]},
    {"documents": [{"id": "a", "text": "b"}, {"id": "a", "text": "c"}]},
    {"documents": [{"id": str(i), "text": "b"} for i in range(1001)]},
]  # fmt: skip


@pytest.fixture(scope="module")
def target(small_index, tmp_path_factory):
    import shutil

    from sightline import Searcher
    from sightline.serve import create_app

    copy = shutil.copytree(small_index, tmp_path_factory.mktemp("hostile") / "index")
    app = create_app(Searcher(copy), api_key=KEY, hosts=["127.0.0.1"])
    with client_of(app) as client:
        yield client
        # Whatever was asked: it still works, and the index is what it was.
        assert client.post("/search", json={"query": "cats purr", "k": 1}).json()["hits"][0]["id"] == "cat"
        assert client.post("/rerank", json=OK).status_code == 200
        assert client.get("/health").json()["index"] == {"documents": 4, "passages": 7}
        counted = client.get("/metrics").text
        assert 'status="5' not in counted


def refused(answer, statuses):
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["code"] == answer.status_code and 10 < len(error["message"]) < 1000
        assert "Traceback" not in answer.text and 'File "' not in answer.text


def test_there_are_200():
    assert len(list(bodies())) + len(RAW) + 2 * len(WRITES) >= 200


def test_bodies(target):
    for route, body in bodies():
        answer = target.post(route, content=json.dumps(body), headers=JSON)
        assert answer.status_code == 422, (route, str(body)[:200], answer.status_code, answer.text[:300])
        refused(answer, {422})


@pytest.mark.parametrize("case", range(len(RAW)), ids=lambda i: f"{RAW[i][0]}-{i}")
def test_raw(target, case):
    method, path, headers, body, statuses = RAW[case]
    refused(
        target.request(method, path, headers={k: v.encode("latin-1") for k, v in headers.items()}, content=body),
        statuses,
    )


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_writes(target, method):
    for body in WRITES:
        refused(target.request(method, "/documents", headers=ALLOWED, content=json.dumps(body)), {409, 422})


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_not_http(target, sent):
    with socket.create_connection((target.base_url.host, target.base_url.port), timeout=10) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:  # it has hung up
            answer = b""
    assert not answer or answer.split()[1][:1] == b"4", answer[:200]
    assert target.get("/health").status_code == 200


def test_many_who_connect_and_say_nothing(target):
    idle = [socket.create_connection((target.base_url.host, target.base_url.port)) for _ in range(200)]
    assert target.post("/rerank", json=OK).status_code == 200
    for connection in idle:
        connection.close()


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b'{"query":"a","documents":[' + b"0," * 899_999 + b"0]}", {422}),
        (b'{"query":"a","documents":[' + b"{}," * 299_999 + b"{}]}", {422}),
        (b'{"query":"a","texts":[' + b"0," * 899_999 + b"0]}", {422}),
        (b'{"query":"a","documents":["b"],"x":[' + b"0," * 899_999 + b"0]}", {200}),
        (json.dumps({"query": "a", "documents": ["b"], **dict.fromkeys(map(str, range(120_000)))}).encode(), {400}),
        (b'{"query":"a","documents":["b"],"top_n":' + b"9" * 1_900_000 + b"}", {400}),
        (b"[" * 1_900_000, {400}),
    ],
    ids=["zeros", "objects", "texts", "values", "fields", "digits", "depth"],
)
def test_a_large_hostile_body_costs_little(target, body, statuses):
    before = time.process_time()  # the server runs in this process
    refused(target.post("/rerank", content=body, headers=JSON), statuses)
    assert time.process_time() - before < 1.5


def test_a_filter_has_a_bounded_number_of_fields(target):
    for count in (101, 999, 1001, 5000):
        where = {f"field{i}": 1 for i in range(count)}
        refused(target.post("/search", json={"query": QUERY, "where": where}), {400, 422})


@pytest.mark.parametrize("host", ["[::1].evil.example", "[::1", "127.0.0.1:80x", "[[127.0.0.1]]", "127.0.0.1]"])
def test_a_host_that_only_begins_as_ours_is_refused(target, host):
    assert target.get("/health", headers={"Host": host}).status_code == 421
