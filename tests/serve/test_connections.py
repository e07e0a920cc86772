"""Connections that say nothing, say it slowly, or are too many: closed or refused, while others are answered."""

import contextlib
import socket
import threading
import time

import httpx
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from sightline.errors import InputError
from sightline.serve import create_app
from sightline.serve.connections import _client, limited_protocol
from sightline.serve.limits import ConnectionLimits


@contextlib.contextmanager
def limited(reranker, **limits):
    """A server with these limits, and a way to connect to it."""
    import uvicorn

    config = uvicorn.Config(
        create_app(reranker=reranker),
        port=0,
        log_level="critical",
        http=limited_protocol(ConnectionLimits(**limits)),
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    with contextlib.ExitStack() as stack:
        try:
            while not server.started:
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]

            def connect(sent=b"", source="127.0.0.1"):
                connection = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
                stack.enter_context(connection)
                connection.sendall(sent)
                return connection

            yield connect, f"http://127.0.0.1:{port}"
        finally:
            stack.close()  # the server waits for clients that are still there
            server.should_exit = True
            thread.join()


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"


def status(connection):
    return connection.recv(4096).partition(b"\r\n")[0].split()[1:2]


def test_idle_connections_shut_nobody_out(reranker):
    with limited(reranker, total=30, per_client=20) as (connect, address):
        idle = [connect() for _ in range(50)]
        assert httpx.get(f"{address}/health").status_code == 200
        assert status(connect(HEALTH, "127.0.0.2")) == [b"200"]
        assert idle[0].recv(1) == b""  # the one that had waited longest gave way


def test_a_client_with_too_many_requests_at_once_is_refused_and_others_are_not(reranker):
    with limited(reranker, per_client=3) as (connect, _):
        busy = [connect(BODY) for _ in range(3)]
        time.sleep(0.2)
        refused = connect(HEALTH)
        assert status(refused) == [b"429"]
        assert status(connect(HEALTH, "127.0.0.2")) == [b"200"]
        busy.pop().close()
        time.sleep(0.2)
        refused.close()
        assert status(connect(HEALTH)) == [b"200"]


def test_a_full_server_says_503(reranker):
    with limited(reranker, total=2) as (connect, _):
        connect(BODY), connect(BODY, "127.0.0.2")
        time.sleep(0.2)
        assert status(connect(HEALTH, "127.0.0.3")) == [b"503"]


def test_a_proxy_has_no_limit_of_one_client(reranker):
    with limited(reranker, per_client=2, proxies=["127.0.0.1"]) as (connect, _):
        for _ in range(5):
            connect(BODY)
        time.sleep(0.2)
        assert status(connect(HEALTH)) == [b"200"]


def test_headers_that_come_too_slowly_are_answered_408(reranker):
    with limited(reranker, header_seconds=1) as (connect, _):
        silent, slow, kept = connect(), connect(HEALTH[:-2]), connect(HEALTH)
        time.sleep(0.3)
        assert status(kept) == [b"200"]  # head and body are there by now
        kept.sendall(HEALTH[:9])  # the next request, on a connection that is kept open
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 0.7:  # a header a little at a time gains nothing
                slow.sendall(b"X: y\r\n")
                time.sleep(0.1)
        assert status(slow) == [b"408"] and status(kept) == [b"408"]
        assert silent.recv(1) == b"" and time.monotonic() - began < 5


def test_a_client_that_takes_nothing_is_disconnected(reranker):
    with limited(reranker, stalled_seconds=1) as (connect, address):
        greedy = connect()
        greedy.setblocking(False)
        sent, began = 0, time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 20:
                try:
                    sent += greedy.send(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
                except BlockingIOError:
                    time.sleep(0.05)
        assert httpx.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::3", "2001:db8:1:2:ffff::4", True),
        ("2001:db8:1:2::3", "2001:db8:1:3::3", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_what_counts_as_one_client(one, other, same):
    assert (_client(one) == _client(other)) == same


@pytest.mark.parametrize("limits", [{"total": 0}, {"per_client": 0}, {"header_seconds": 0}, {"proxies": ["nginx"]}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(InputError, match=next(iter(limits)) if "proxies" not in limits else "nginx"):
        ConnectionLimits(**limits)
