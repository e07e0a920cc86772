"""The pages on search engines: what they tell an engine to send is answered, and what they tell it to read is there."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import sightline

DOCS = Path(sightline.__file__).parent / "docs" / "guides"
QUERY = 'what sound does a "happy" cat make'
TEXTS = ["Dogs bark at strangers.", "Cats purr\nwhen content.", 'Iron "rusts".']
pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="not a source tree")


def blocks(page):
    """The JSON bodies of a page, by the first line, which is the request's."""
    text = (DOCS / page).read_text()
    found = re.findall(r"```json\n((?:GET|PUT|POST) \S+)\n(.*?)```", text, re.DOTALL)
    assert text.count("```json") == len(found)
    return {line: json.loads(body) for line, body in found}


def read(answer, path):
    """The values at a path such as ``$.results[*].index``."""
    first, rest = re.fullmatch(r"\$\.(\w+)\[\*\]\.(\w+)", path).groups()
    return [item[rest] for item in answer[first]]


def expected(client):
    answer = client.post("/v1/rerank", json={"query": QUERY, "documents": TEXTS}).json()
    assert answer["results"][0]["index"] == 1
    return answer


def test_elasticsearch(client):
    settings = blocks("elasticsearch.md")["PUT _inference/rerank/sightline"]["service_settings"]
    body = settings["request"].replace("${query}", json.dumps(QUERY)).replace("${input}", json.dumps(TEXTS))
    path = "/" + settings["url"].split("/", 3)[3]
    answer = client.post(path, content=body, headers=settings["headers"]).json()
    paths = settings["response"]["json_parser"]
    assert read(answer, paths["reranked_index"]) == [item["index"] for item in expected(client)["results"]]
    scores = read(answer, paths["relevance_score"])
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    retriever = blocks("elasticsearch.md")["POST my-index/_search"]["retriever"]["text_similarity_reranker"]
    assert retriever["inference_id"] == "sightline"


def test_opensearch(client):
    (action,) = blocks("opensearch.md")["POST _plugins/_ml/connectors/_create"]["actions"]
    # OpenSearch escapes a parameter that stands between quotes.
    values = {"parameters.documents": json.dumps(TEXTS), "parameters.query": json.dumps(QUERY)[1:-1]}
    body = re.sub(r"\$\{(.+?)\}", lambda name: values[name[1]], action["request_body"])
    answer = client.post("/" + action["url"].split("/", 3)[3], content=body, headers=action["headers"]).json()
    assert answer["results"] == expected(client)["results"]
    (allowed,) = blocks("opensearch.md")["PUT _cluster/settings"]["persistent"][
        "plugins.ml_commons.trusted_connector_endpoints_regex"
    ]
    assert re.fullmatch(allowed, action["url"])


def test_vespa(client):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "vespa.md").read_text(), re.DOTALL)
    asked = []

    class Vespa(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            children = [{"id": str(place), "fields": {"text": text}} for place, text in enumerate(TEXTS)]
            found = {"root": {"children": children} if asked[-1]["query"] == QUERY else {}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *parts):
            pass

    server = HTTPServer(("127.0.0.1", 0), Vespa)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        names = {}
        exec(code, names)
        vespa = f"http://127.0.0.1:{server.server_port}"
        found = names["search"](QUERY, vespa, str(client.base_url).rstrip("/"))
        assert names["search"]("nothing like it", vespa, "http://127.0.0.1:9") == []
    finally:
        server.shutdown()
    assert asked[0]["hits"] == 100
    assert [(score, hit["id"]) for score, hit in found] == [
        (item["relevance_score"], str(item["index"])) for item in expected(client)["results"]
    ]
