"""Stand-ins for a Qdrant server over the local mode of its client: its REST API, and a client of several processes.

``python -m sightline.tests.qdrant_api`` serves it until it is stopped, and prints its address.
"""

import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import httpx
from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from sightline.retrieval.qdrant_server import ServerEngine
from sightline.tests.interleaving import Interleaved


class QdrantApi:
    """A server at ``url``. ``faults`` holds statuses, or ``lost`` or seconds to wait, for the requests to come."""

    def __init__(self):
        self.client = QdrantClient(":memory:")
        self.faults, self.seen = [], []
        self.closing, lock = threading.Event(), threading.RLock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0].strip("/").split("/")
                fault = api.faults.pop(0) if api.faults else None
                api.seen.append((self.command, *path))
                if fault == "lost":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if isinstance(fault, float):
                    api.closing.wait(fault)
                if isinstance(fault, int):
                    return self.send(fault, {"status": {"error": "as the test wants it"}, "time": 0.0})
                try:
                    with lock:
                        result = api.do(self.command, path, body)
                except (ValueError, KeyError) as error:
                    return self.send(400, {"status": {"error": str(error)}, "time": 0.0})
                self.send(200, {"result": result, "status": "ok", "time": 0.0})

            def send(self, status, answer):
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who waited is gone
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def do(self, method, path, body):
        def given(model):
            return TypeAdapter(model).validate_json(body)

        client, done = self.client, {"operation_id": 0, "status": "completed"}
        match method, path:
            case "GET", ["aliases"]:
                return plain(client.get_aliases())
            case "POST", ["collections", "aliases"]:
                return client.update_collection_aliases(given(models.ChangeAliasesOperation).actions)
            case "GET", ["collections", name, "exists"]:
                return {"exists": client.collection_exists(name)}
            case "GET", ["collections", name]:
                return plain(client.get_collection(name))
            case "DELETE", ["collections", name]:
                return client.delete_collection(name)
            case "PUT", ["collections", name]:
                asked = given(models.CreateCollection)
                return client.create_collection(name, asked.vectors or {}, asked.sparse_vectors)
            case "PUT", ["collections", name, "index"]:
                return done
            case "PUT", ["collections", name, "points"]:
                asked = given(models.PointsList)
                client.upsert(name, asked.points, update_mode=asked.update_mode)
                return done
            case "PUT", ["collections", name, "points", "vectors"]:
                asked = given(models.UpdateVectors)
                client.update_vectors(name, asked.points, update_filter=asked.update_filter)
                return done
            case "POST", ["collections", name, "points", "delete"]:
                client.delete(name, given(models.FilterSelector))
                return done
            case "POST", ["collections", name, "points"]:
                asked = given(models.PointRequest)
                return [plain(one) for one in client.retrieve(name, asked.ids, asked.with_payload, asked.with_vector)]
            case "POST", ["collections", name, "points", "query", "batch"]:
                searches = given(models.QueryRequestBatch).searches
                for search in searches:
                    search.params = None  # it searches exactly, and warns where it is asked to
                return [plain(one) for one in client.query_batch_points(name, searches)]
            case "POST", ["collections", name, "points", "count"]:
                asked = given(models.CountRequest)
                return plain(client.count(name, asked.filter, exact=True))
            case "POST", ["collections", name, "facet"]:
                asked = given(models.FacetRequest)
                return plain(client.facet(name, asked.key, asked.filter, asked.limit))
            case "POST", ["collections", name, "points", "scroll"]:
                asked = given(models.ScrollRequest)
                records, following = client.scroll(
                    name, asked.filter, asked.limit, offset=asked.offset, with_payload=asked.with_payload
                )
                return {"points": [plain(one) for one in records], "next_page_offset": following}
        raise ValueError(f"no such request: {method} {'/'.join(path)}")


class SharedClient:
    """A client that several processes share, in local mode, with a server's answer to what it does not have."""

    def __init__(self):
        self.local, self.turns = QdrantClient(":memory:"), Interleaved([])

    def __getattr__(self, name):
        real = getattr(self.local, name)

        def request(*arguments, **options):
            self.turns.step()
            try:
                return real(*arguments, **options)
            except ValueError as error:
                if not re.search(r"not found|does not exist", str(error)):
                    raise
                answer = json.dumps({"status": {"error": str(error)}}).encode()
                raise UnexpectedResponse(404, "Not Found", answer, httpx.Headers()) from error

        return request

    def in_turns(self, order, *works):
        """Let pieces of work send one request after another, in this order; see `Interleaved`."""
        self.turns = Interleaved(works)
        with mock.patch.object(ServerEngine, "_sleep", staticmethod(lambda seconds: None)):
            self.turns.run(order)
        return self.turns


def plain(model):
    return json.loads(model.model_dump_json())


if __name__ == "__main__":
    print(QdrantApi().address, flush=True)  # noqa: T201
    threading.Event().wait()
