"""A server as its clients meet it: uvicorn on a real socket, over a small index."""

import contextlib
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
httpx = pytest.importorskip("httpx", reason="needs httpx")

from sightline import Document, Index, Searcher, load_reranker
from sightline.serve import create_app

KEY = "0123456789abcdef0123"
EVIL = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>'
DOCUMENTS = [
    Document("cat", "Iron rusts in wet air. Cats purr when they are content. Cars need fuel.", "Cats", {"lang": "en"}),
    Document("dog", "Dogs bark at strangers. They guard it.", "Dogs", {"lang": "en", "year": 2010}),
    Document(f"evil/{EVIL}", f"Evil markup: {EVIL} ends here. It stays text.", f"Evil {EVIL}", {"lang": EVIL}),
    Document(
        "long",
        " ".join(f"Town {i} has a market on day {i}, with 🧀 and bread." for i in range(60))
        + " A volcano called Etna smokes.",
        "Towns",
        {"lang": "it", "year": 1999},
    ),
]


@contextlib.contextmanager
def serving(app):
    """The address of a server that runs in a thread."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", server_header=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def client_of(app, **options):
    with serving(app) as address, httpx.Client(base_url=address, timeout=60, **options) as client:
        yield client


@pytest.fixture(scope="session")
def reranker():
    return load_reranker("minilm")


@pytest.fixture(scope="session")
def small_index(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "index"
    Index.build(path, DOCUMENTS, token_states="fp16").close()
    return path


@pytest.fixture(scope="session")
def address(small_index):
    """A server that nobody writes to."""
    with serving(create_app(Searcher(small_index), hosts=["127.0.0.1", "localhost"])) as url:
        yield url


@pytest.fixture(scope="session")
def client(address):
    with httpx.Client(base_url=address, timeout=60) as opened:
        yield opened
