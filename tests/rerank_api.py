"""A rerank API in this process: it answers in the form it is asked in, or as a test wants it to."""

import contextlib
import gzip
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Reply", "RerankApi", "as_json", "packed", "relevance", "right"]


@dataclass
class Reply:
    """What is sent back; ``how`` it goes wrong on the way: ``closed`` before an answer, ``broken`` in its middle,
    ``slow`` to begin, ``dripping``, in ``chunks``, without any ``length``, or in no ``protocol``."""

    body: bytes
    status: int = 200
    headers: dict = field(default_factory=dict)
    how: str = ""


def as_json(value, status=200, **headers):
    return Reply(json.dumps(value).encode(), status, {name.replace("_", "-"): text for name, text in headers.items()})


def relevance(query, text):
    """Shared words; never 0 or 1."""
    asked, there = (set(re.findall(r"\w+", string.lower())) for string in (query, text))
    return (1 + len(asked & there)) / (2 + len(asked) + len(there) / 100)


def right(asked):
    """The answer to a request, best first, in its dialect."""
    texts = asked.get("texts", asked.get("documents"))
    scores = sorted(((relevance(asked["query"], text), place) for place, text in enumerate(texts)), reverse=True)
    if "texts" in asked:
        return [{"index": place, "score": score} for score, place in scores]
    return {"model": asked["model"], "results": [{"index": place, "relevance_score": s} for s, place in scores]}


class RerankApi:
    """The server: ``replies`` are sent first (a function is called with the request), then right answers.

    Attributes:
        url: its address.
        seen: for each request its path, its headers and its body, parsed.
    """

    def __init__(self, context=None):
        self.replies, self.seen = [], []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def name(self, path="/v1/rerank/small"):
        """What ``load_reranker`` takes."""
        return f"remote:{self.url}{path}"


def packed(value, **headers):
    """A reply as gzip."""
    reply = as_json(value, **headers)
    return Reply(gzip.compress(reply.body), reply.status, {**reply.headers, "Content-Encoding": "gzip"})


def _handler(api):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.seen.append((self.path, self.headers, asked))
            reply = api.replies.pop(0) if api.replies else as_json(right(asked))
            self._send(reply(asked) if callable(reply) else reply)

        def _send(self, reply):
            self.close_connection = True
            if reply.how == "closed":
                return
            if reply.how == "protocol":
                self.wfile.write(b"220 mail.example ESMTP\r\n")
                return
            if reply.how == "slow":
                time.sleep(0.2)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.how == "chunks":
                self.send_header("Transfer-Encoding", "chunked")
            elif reply.how != "length":
                self.send_header("Content-Length", str(len(reply.body) + (reply.how == "broken")))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has heard enough
                if reply.how == "dripping":
                    for byte in reply.body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.02)
                elif reply.how == "chunks":
                    for start in range(0, len(reply.body), 50):
                        part = reply.body[start : start + 50]
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.wfile.write(reply.body)

        def log_message(self, *_):
            pass

    return Handler
