"""Rerank APIs: what is asked in each dialect, what is done with the answer, and what with forty that are wrong."""

import copy
import json
import logging
import math
import pickle
import socket
import ssl
import subprocess
import threading
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError, RemoteError, UnknownNameError
from sightline.models import remote
from sightline.models.remote import RemoteScorer
from sightline.rerank.layout import RelevanceSpec
from sightline.rerank.loading import load_reranker
from sightline.tests.rerank_api import Reply, RerankApi, as_json, packed, relevance

QUERY = "what do cats do"
TEXTS = ["Dogs bark at strangers.", "Cats purr.", "What do cats do? They purr."]
KEY = "a-key-that-nobody-may-see"


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, none of which passed."""
    waited = []
    monkeypatch.setattr(RemoteScorer, "_sleep", staticmethod(waited.append))
    return waited


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("SIGHTLINE_REMOTE_KEY", KEY)
    return KEY


def results(*scores):
    return {"results": [{"index": place, "relevance_score": score} for place, score in enumerate(scores)]}


# -- what is asked and what becomes of the answer ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank/small", "/v2/rerank/org/small", "/here/rerank/small"])
def test_a_ranking_is_by_the_scores_of_the_endpoint(rerank_api, path):
    ranking = load_reranker(rerank_api.name(path)).rank(QUERY, [*TEXTS, "", TEXTS[1]])
    assert [item.index for item in ranking] == [2, 1, 4, 0, 3]
    for item in ranking[:4]:
        expected = relevance(QUERY, item.document.text)
        assert item.relevance == pytest.approx(expected, rel=1e-12)
        assert item.score == pytest.approx(math.log(expected / (1 - expected)), rel=1e-12)
    assert (ranking.reranker, ranking.layout, ranking.truncated) == (rerank_api.name(path), "remote", 0)
    assert (ranking.model, ranking.backend) == (rerank_api.name(path)[7:], rerank_api.url[7:])
    [(asked, headers, body)] = rerank_api.seen
    assert (asked, body["query"]) == (path.removesuffix("/org/small").removesuffix("/small"), QUERY)
    assert headers["Content-Type"] == "application/json" and "Authorization" not in headers
    if path == "/rerank":  # as text-embeddings-inference
        assert body == {"query": QUERY, "texts": TEXTS, "truncate": True}
    else:
        assert body["documents"] == TEXTS and body["model"] == path.partition("/rerank/")[2]


@pytest.mark.parametrize(
    ("provider", "url", "variable"),
    [
        ("cohere", "https://api.cohere.com/v2/rerank", "COHERE_API_KEY"),
        ("jina", "https://api.jina.ai/v1/rerank", "JINA_API_KEY"),
        ("voyage", "https://api.voyageai.com/v1/rerank", "VOYAGE_API_KEY"),
    ],
)
def test_each_provider_has_its_address_and_its_key(monkeypatch, provider, url, variable):
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=f"set the environment variable {variable}"):
        load_reranker(f"remote:{provider}/model-1")
    monkeypatch.setenv(variable, KEY)
    monkeypatch.setenv("SIGHTLINE_REMOTE_KEY", "another")
    sent = []

    class Opener:
        def open(self, request, timeout):
            sent.append((request.full_url, request.get_header("Authorization"), json.loads(request.data), timeout))
            raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(remote, "_opener", Opener)
    with pytest.raises(RemoteError, match=f"remote:{provider}/model-1: .*refused"):
        load_reranker(f"remote:{provider}/model-1", retries=0, timeout=7).rank(QUERY, TEXTS)
    [(address, authorization, body, timeout)] = sent
    assert (address, authorization, timeout) == (url, f"Bearer {KEY}", 7)
    assert (body["model"], body["query"], body["documents"]) == ("model-1", QUERY, TEXTS)


@pytest.mark.parametrize("container", ["results", "data", None])
@pytest.mark.parametrize("field", ["relevance_score", "score"])
def test_the_answers_of_all_dialects_are_read(rerank_api, container, field):
    entries = [{"index": 1, field: 0.75, "document": {"text": "x"}}, {"index": 0, field: 0}, {"index": 2, field: 1}]
    rerank_api.replies = [as_json({"id": "1", container: entries} if container else entries)]
    ranking = load_reranker(rerank_api.name()).rank(QUERY, TEXTS)
    assert [(item.index, round(item.relevance, 9)) for item in ranking] == [(2, 1.0), (1, 0.75), (0, 0.0)]
    assert all(math.isfinite(item.score) for item in ranking) and ranking[1].score == pytest.approx(math.log(3))


def test_scores_that_are_no_probabilities_are_taken_as_they_are_if_the_name_says_so(rerank_api):
    rerank_api.replies = [as_json(results(-3.5, 0.5, 12)), as_json(results(0.1, 0.5, 0.2))]
    reranker = load_reranker(rerank_api.name("/v1/rerank/small#raw"))
    assert [(item.index, item.score) for item in reranker.rank(QUERY, TEXTS)] == [(2, 12.0), (1, 0.5), (0, -3.5)]
    ranking = reranker.rank(QUERY, TEXTS)
    assert [(item.score, item.relevance) for item in ranking] == [(0.5, None), (0.2, None), (0.1, None)]
    assert rerank_api.seen[0][2]["model"] == "small"
    with pytest.raises(InputError, match="has none: its scores are not calibrated"):
        reranker.rank(QUERY, TEXTS, min_score=0.5)


def test_long_lists_are_sent_in_parts_and_no_part_matters(rerank_api):
    texts = [f"text {i} of cats {'and dogs ' * (i % 7)}" for i in range(70)]
    whole = load_reranker(rerank_api.name()).rank(QUERY, texts)
    assert len(rerank_api.seen) == 1
    for name, options, sizes in [("/rerank", {}, [32, 32, 6]), ("/v1/rerank/m", {"batch_size": 30}, [30, 30, 10])]:
        rerank_api.seen.clear()
        parts = load_reranker(rerank_api.name(name), **options).rank(QUERY, texts)
        assert [(item.index, item.score) for item in parts] == [(item.index, item.score) for item in whole]
        assert [len(body.get("texts", body.get("documents"))) for _, _, body in rerank_api.seen] == sizes


def test_pairs_thresholds_cascades_and_threads(rerank_api):
    reranker = load_reranker(rerank_api.name())
    assert reranker.concurrent and reranker.list_free and reranker.window is None
    expected = [relevance(QUERY, text) for text in TEXTS]
    assert reranker.predict([(QUERY, text) for text in TEXTS]).tolist() == pytest.approx(expected)
    kept = reranker.rank(QUERY, TEXTS, min_score=0.3)
    assert [item.relevance for item in kept] == pytest.approx(sorted((e for e in expected if e > 0.3), reverse=True))
    rerank_api.seen.clear()
    cascade = load_reranker(f"{rerank_api.name('/v1/rerank/first')}>{rerank_api.name('/v1/rerank/second')}@2")
    assert [item.index for item in cascade.rank(QUERY, TEXTS)] == [2, 1, 0]
    assert [(body["model"], len(body["documents"])) for _, _, body in rerank_api.seen] == [("first", 3), ("second", 2)]
    ranked = []
    threads = [threading.Thread(target=lambda: ranked.append(reranker.rank(QUERY, TEXTS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tuple((item.index, item.score) for item in ranking) for ranking in ranked}) == 1


@pytest.mark.parametrize("text", ["Käse 🧀 \u202e", "</script>\"'\\", "x" * 100_000, "\ufeff\u2028"])
def test_any_text_arrives(rerank_api, text):
    load_reranker(rerank_api.name()).rank(text, [Document("a", text, "A title"), "b"])
    [(_, _, body)] = rerank_api.seen
    assert body["query"] == text and body["documents"] == [Document("a", text, "A title").contents, "b"]


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_probability_is_the_sigmoid_of_its_score_and_keeps_its_place(one, other):
    scores = [remote._logit(one), remote._logit(other)]
    assert all(map(math.isfinite, scores))
    assert RelevanceSpec(slope=1.0, offset=0.0).probability(scores[0]) == pytest.approx(one, rel=1e-9, abs=1e-15)
    assert scores[0] <= scores[1] if one <= other else scores[0] >= scores[1]  # the least and the greatest may tie


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats(-1, 2) | st.sampled_from(["a", "", "0.5", 10**40]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "score", "relevance_score", "results", "data", "error"]), inner)
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_whatever_an_endpoint_says_is_a_whole_ranking_or_an_error(value):
    scorer = RemoteScorer("http://localhost/rerank")
    scorer._post = lambda body: json.dumps(value).encode()
    try:
        scores, _ = scorer.score(QUERY, TEXTS[:2])
    except RemoteError as error:
        assert str(error).startswith("remote:http://localhost/rerank: the answer cannot be used: ")
    else:
        entries = value if isinstance(value, list) else value.get("results", value.get("data"))
        assert sorted(entry["index"] for entry in entries) == [0, 1] and all(map(math.isfinite, scores))


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_goes_to_the_endpoint_and_nowhere_else(rerank_api, key, caplog, waits):
    caplog.set_level(logging.DEBUG)
    reranker = load_reranker(rerank_api.name())
    rerank_api.replies = [as_json({"message": f"the key {key} is slow"}, 503)]
    ranking = reranker.rank(QUERY, TEXTS)
    assert {headers["Authorization"] for _, headers, _ in rerank_api.seen} == {f"Bearer {key}"}
    stored = pickle.dumps([reranker, ranking]), repr(ranking), repr(vars(reranker.scorer)), caplog.text
    assert not any(key in str(text) for text in stored)
    assert "503 Service Unavailable: the key *** is slow; trying again in" in caplog.text
    for said in (
        as_json({"error": {"message": f"no such key: {key}"}}, 401),
        Reply(key.encode(), 500),
        Reply(b"", 302, {"Location": f"/{key}"}),
        as_json({"error": f"{'x' * 50}{key}"}),
        as_json(results(key, 0.5, 0.5)),
    ):
        rerank_api.replies = [said]
        with pytest.raises(RemoteError) as caught:
            reranker.rank(QUERY, TEXTS)
        told = "".join(traceback.format_exception(caught.value))
        assert not any(key[start : start + 9] in told for start in range(len(key) - 8))
        assert "***" in told or "it holds the key" in told


def test_copies_rank_as_the_original_with_the_key_of_the_day(rerank_api, key, monkeypatch):
    reranker = load_reranker(rerank_api.name(), timeout=9, retries=1, batch_size=2)
    for copied in (pickle.loads(pickle.dumps(reranker)), copy.deepcopy(reranker)):
        monkeypatch.setenv("SIGHTLINE_REMOTE_KEY", "key of today".replace(" ", "-"))
        assert [item.score for item in copied.rank(QUERY, TEXTS)] == [i.score for i in reranker.rank(QUERY, TEXTS)]
        assert rerank_api.seen[-1][1]["Authorization"] == "Bearer key-of-today"
        assert (copied.scorer.timeout, copied.scorer.retries, copied.scorer.batch_size) == (9, 1, 2)


@pytest.mark.parametrize("wrong", ["a key", "käse", "a\nb", "a\x00b"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(rerank_api, monkeypatch, wrong):
    monkeypatch.setattr(remote.os, "environ", {"SIGHTLINE_REMOTE_KEY": wrong})
    with pytest.raises(InputError, match="SIGHTLINE_REMOTE_KEY in the environment cannot be sent") as caught:
        load_reranker(rerank_api.name())
    assert wrong not in str(caught.value)


# -- what goes wrong ---------------------------------------------------------------------------------------------------

ENTRY = {"index": 0, "relevance_score": 0.5}
LATER = {"index": 1, "relevance_score": 0.5}, {"index": 2, "relevance_score": 0.5}
PAGE = b"<!DOCTYPE html><html><title>Welcome</title></html>"


def raw(text, **options):
    return Reply(text.encode() if isinstance(text, str) else text, **options)


ANSWERS = {
    "bad JSON": (raw('{"results": ['), "the answer cannot be used: not JSON"),
    "a page": (raw(PAGE), "it is a web page, so the URL may not be that of a rerank API"),
    "empty": (raw(""), "the answer cannot be used: it is empty"),
    "nothing": (raw("", status=204), "it is empty"),
    "not UTF-8": (raw(b'{"results": "\xff"}'), "not UTF-8"),
    "null": (raw("null"), "must be a valid array"),
    "a number": (raw("7"), "must be a valid array, not 7"),
    "an error with 200": (as_json({"error": "out of credits"}), "neither 'results' nor 'data' but .*out of credits"),
    "missing results": (as_json({"model": "m"}), "neither 'results' nor 'data'"),
    "null results": (as_json({"results": None}), "must be a valid array"),
    "results by id": (as_json({"results": {"a": 0.5}}), "must be a valid array"),
    "bare numbers": (as_json([0.1, 0.2, 0.3]), r"\[0\]"),
    "embeddings": (
        as_json({"data": [{"index": 0, "embedding": [0.5]}]}),
        "no 'relevance_score' and no 'score' of text",
    ),
    "field twice": (raw('{"results": [], "results": []}'), "the field 'results' twice"),
    "too deep": (raw("[" * 600 + "]" * 600), "nested more than 500 deep"),
    "index twice": (as_json({"results": [ENTRY, ENTRY, LATER[0]]}), "the index 0 twice"),
    "index too large": (as_json({"results": [ENTRY, LATER[0], {**ENTRY, "index": 3}]}), "index 3, and there are texts"),
    "negative index": (as_json({"results": [ENTRY, LATER[0], {**ENTRY, "index": -1}]}), "the index -1"),
    "huge index": (as_json({"results": [{**ENTRY, "index": 10**30}]}), "index"),
    "text as index": (as_json({"results": [{**ENTRY, "index": "0"}]}), r"\[0\].index must be a valid integer"),
    "no index": (as_json({"results": [{"relevance_score": 0.5}]}), r"lacks the field \[0\].index"),
    "fewer results": (as_json({"results": [ENTRY, LATER[1]]}), "scores for 2 of 3 texts, and none for text 1"),
    "no results": (as_json({"results": []}), "scores for 0 of 3 texts"),
    "more results": (as_json({"results": [ENTRY, *LATER, *LATER]}), "the index 1 twice"),
    "NaN": (raw('{"results": [{"index": 0, "relevance_score": NaN}]}'), "NaN is not a finite number"),
    "infinity": (raw('{"results": [{"index": 0, "relevance_score": 1e999}]}'), "too large"),
    "huge integer": (raw('{"results": [{"index": 0, "relevance_score": %s}]}' % ("9" * 400)), "answer cannot be used"),
    "null score": (as_json(results(0.5, None, 0.5)), "no 'relevance_score' and no 'score' of text 1"),
    "text as score": (as_json(results(0.5, "0.5", 0.5)), r"\[1\].relevance_score must be a valid number, not '0.5'"),
    "true as score": (as_json(results(0.5, True, 0.5)), r"\[1\].relevance_score must be a valid number"),
    "score beyond 1": (
        as_json(results(0.5, 1.5, 0.5)),
        "the score 1.5, which is not a probability; write 'remote:.*#raw'",
    ),
    "score below 0": (as_json(results(0.5, -0.5, 0.5)), "the score -0.5, which is not a probability"),
    "huge": (raw(b" " * 1_100_000), "more than 1,00[0-9],[0-9]+ bytes"),
    "huge, packed": (packed(" " * 1_100_000), "is packed, and has more than 1,00[0-9],[0-9]+ bytes"),
    "not gzip": (raw("{}", headers={"Content-Encoding": "gzip"}), "cannot be unpacked"),
    "other encoding": (raw("{}", headers={"Content-Encoding": "br"}), "encoded as 'br', which was not asked for"),
    "400": (as_json({"message": "query is too long"}, 400), "400 Bad Request: query is too long"),
    "401": (
        as_json({"message": "invalid api token"}, 401),
        r"needs a key \(401\).*SIGHTLINE_REMOTE_KEY holds: invalid",
    ),
    "403": (as_json({"detail": "no"}, 403), r"\(403\)"),
    "404": (raw(PAGE, status=404), r"no such endpoint, or no such model \(404\): a web page"),
    "413": (as_json({"error": "batch size 3 > 2"}, 413), "too large .*batch size 3 > 2; .*smaller batch_size"),
    "422": (as_json({"detail": [{"loc": ["texts"]}]}, 422), r'422 .*: \[\{"loc": \["texts"\]\}\]'),
    "500": (raw("", status=500), "500 Internal Server Error$"),
    "502": (raw(PAGE, status=502), "502 Bad Gateway: a web page"),
    "a strange status": (raw(b"\xff" * 999, status=599), "599"),
    "a redirect": (raw("", status=302, headers={"Location": "/rerank"}), r"redirects to '/rerank' \(302\)"),
    "a redirect without target": (raw("", status=308), r"redirects to '' \(308\)"),
    "a strange redirect": (raw("", status=307, headers={"Location": "file:///etc/passwd"}), "nothing was sent"),
    "no HTTP": (raw("", how="protocol"), "does not answer in HTTP"),
    "slow": (raw("{}", how="slow"), "no answer within 0.1 s; load it with a larger timeout"),
    "dripping": (raw(" " * 50, how="dripping"), "no answer within 0.1 s"),
}


@pytest.mark.parametrize("which", ANSWERS)
def test_an_answer_that_is_wrong_ranks_nothing(rerank_api, which, waits, caplog):
    reply, said = ANSWERS[which]
    rerank_api.replies = [reply]
    reranker = load_reranker(rerank_api.name(), timeout=0.1 if reply.how in ("slow", "dripping") else 60)
    with pytest.raises(RemoteError, match=said) as caught:
        reranker.rank(QUERY, TEXTS)
    assert str(caught.value).startswith(f"{rerank_api.name()}: ") and len(str(caught.value)) < 700
    assert len(rerank_api.seen) == 1 and waits == []  # to ask again would not help


@pytest.mark.parametrize(
    "reply",
    [
        packed(results(0.1, 0.2, 0.3)),
        Reply(json.dumps(results(0.1, 0.2, 0.3)).encode(), headers={"Content-Type": "text/html; charset=latin-1"}),
        Reply(json.dumps(results(0.1, 0.2, 0.3)).encode(), how="chunks"),
        Reply(json.dumps(results(0.1, 0.2, 0.3)).encode(), how="length"),
        Reply(b"\xef\xbb\xbf" + json.dumps(results(0.1, 0.2, 0.3)).encode(), status=201),
        as_json({"results": results(0.1, 0.2, 0.3)["results"][::-1], "data": None, "meta": {"warnings": ["ü\u2028"]}}),
        as_json(results(0.1, 0.2, 1.00000012)),
    ],
)
def test_an_answer_that_is_strange_but_right_ranks(rerank_api, reply):
    rerank_api.replies = [reply]
    assert [item.index for item in load_reranker(rerank_api.name()).rank(QUERY, TEXTS)] == [2, 1, 0]


BUSY = {
    "429": as_json({"message": "slow down"}, 429),
    "503": Reply(b"", 503),
    "closed": Reply(b"", how="closed"),
    "broken off": Reply(b"{", how="broken"),
}


@pytest.mark.parametrize("which", BUSY)
def test_what_may_pass_is_tried_again(rerank_api, which, waits, caplog):
    rerank_api.replies = [BUSY[which]] * 3
    assert [item.index for item in load_reranker(rerank_api.name()).rank(QUERY, TEXTS)] == [2, 1, 0]
    assert len(rerank_api.seen) == 4 and caplog.text.count("trying again in") == 3
    assert all(low <= wait <= 2 * low for low, wait in zip([0.5, 1, 2], waits, strict=True))


@pytest.mark.parametrize("which", BUSY)
def test_what_does_not_pass_is_an_error(rerank_api, which, waits):
    rerank_api.replies = [BUSY[which]] * 9
    with pytest.raises(RemoteError, match="; tried 3 times"):
        load_reranker(rerank_api.name(), retries=2).rank(QUERY, TEXTS)
    assert len(rerank_api.seen) == 3 and len(waits) == 2


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("7", 7, 7), ("0", 0.5, 1), ("soon", 0.5, 1), ("-3", 0.5, 1), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.5, 1)],
)
def test_the_endpoint_says_how_long_to_wait(rerank_api, header, low, high, waits):
    rerank_api.replies = [Reply(b"", 429, {"Retry-After": header})]
    load_reranker(rerank_api.name()).rank(QUERY, TEXTS)
    [wait] = waits
    assert low <= wait <= high


@pytest.mark.parametrize("header", ["3600", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_nobody_waits_for_an_hour(rerank_api, header, waits):
    rerank_api.replies = [Reply(b"", 429, {"Retry-After": header})]
    with pytest.raises(RemoteError, match="429 Too Many Requests; it asks to come back in [0-9]+ s"):
        load_reranker(rerank_api.name()).rank(QUERY, TEXTS)
    assert waits == []


def test_no_part_of_a_list_is_ranked_if_another_fails(rerank_api, waits):
    rerank_api.replies = [as_json(results(0.1, 0.2)), Reply(b"", 500)]
    with pytest.raises(RemoteError, match="500"):
        load_reranker(rerank_api.name(), batch_size=2).rank(QUERY, TEXTS)


def test_a_redirect_to_another_host_gets_neither_key_nor_text(rerank_api, key):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        address = f"http://127.0.0.1:{other.getsockname()[1]}/v1/rerank?token=x"
        for status in (301, 302, 303, 307, 308):
            rerank_api.replies = [Reply(b"", status, {"Location": address})]
            with pytest.raises(RemoteError, match=rf"redirects to 'http://127.0.0.1:\d+/v1/rerank' \({status}\)"):
                load_reranker(rerank_api.name()).rank(QUERY, TEXTS)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_server_that_does_not_run_is_named(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match=rf"to 127.0.0.1:{port} failed \(Connection refused\); does the server run\?"):
        load_reranker(f"remote:http://127.0.0.1:{port}/rerank").rank(QUERY, TEXTS)
    assert len(waits) == 3


@pytest.mark.parametrize(("code", "tried"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 4)])
def test_a_host_that_there_is_not_is_named(monkeypatch, waits, code, tried):
    asked = []

    def resolve(*arguments, **options):
        asked.append(arguments)
        raise socket.gaierror(code, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(RemoteError, match=r"there is no host nowhere.example \(Name or service not known\)"):
        load_reranker("remote:http://nowhere.example/rerank").rank(QUERY, TEXTS)
    assert len(asked) == tried


def test_a_server_without_encryption_is_not_asked_with_it(rerank_api, waits):
    with pytest.raises(RemoteError, match=r"no encrypted connection to .*; is it http:// rather than https://\?"):
        load_reranker(rerank_api.name().replace("http:", "https:")).rank(QUERY, TEXTS)
    assert rerank_api.seen == [] and waits == []


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path, key, waits):
    made = tmp_path / "made.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    options = ["-days", "2", "-subj", "/CN=localhost", "-keyout", made, "-out", tmp_path / "cert.pem"]
    try:
        subprocess.run([*command, *options], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", made)
    secure = RerankApi(context)
    try:
        with pytest.raises(RemoteError, match=r"the certificate of .* cannot be verified \(.*\); nothing was sent"):
            load_reranker(secure.name().replace("http:", "https:")).rank(QUERY, TEXTS)
    finally:
        secure.close()
    assert secure.seen == [] and waits == []


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("remote:coher/m", {}, "no provider 'coher'; there are cohere, jina, voyage, .* did you mean 'cohere'"),
        ("remote:/m", {}, "no provider ''"),
        ("remote:http://a/rerank", {"timeout": 0}, "timeout must be above 0"),
        ("remote:http://a/rerank", {"timeout": math.inf}, "timeout must be above 0"),
        ("remote:http://a/rerank", {"timeout": 1e12}, "timeout must be above 0 and at most"),
        ("remote:http://a/rerank", {"retries": -1}, "retries must be a whole number, 0 or more"),
        ("remote:http://a/rerank", {"retries": 1.5}, "retries must be a whole number"),
        ("remote:http://a/rerank", {"batch_size": 0}, "batch_size must be a whole number, 1 or more"),
        ("remote:http://a/rerank", {"device": "cpu"}, "no option 'device'; it has batch_size, retries, timeout"),
        ("remote:http://a/rerank", {"api_key": KEY}, "no option 'api_key'"),
        ("remote:http://a/rerank", {"layout": "icr"}, "has no layout"),
    ],
)
def test_names_and_options_that_there_are_not(name, options, said):
    with pytest.raises(InputError, match=said) as caught:
        load_reranker(name, **options)
    assert isinstance(caught.value, UnknownNameError) == ("no provider" in said) and KEY not in str(caught.value)
