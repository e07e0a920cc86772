"""One small index with the default model, for every library; and a check that the event loop stays free."""

import asyncio
import threading

import pytest

from sightline.documents import Document
from sightline.rerank import LateInteractionReranker, load_reranker
from sightline.retrieval.index import Index
from sightline.search import Searcher

DOCUMENTS = [
    Document("cat", "Cats purr when they are content. They sleep all day.", "Felines", {"lang": "en", "year": 2001}),
    Document("dog", "Dogs bark at strangers. They guard the house.", "Canines", {"lang": "en", "year": 2010}),
    Document("cow", "Cows eat grass and give milk.", "", {"lang": "de", "year": 2015, "tags": {"farm": ["a", "b"]}}),
    Document("fish", "A fish breathes in water through gills.", "", {"lang": "de", "title": "kept as it is"}),
    # Several passages, of which one knows of the lighthouse.
    Document(
        "town",
        " ".join(f"Street {i} has a bakery, a school and a quiet park with old trees." for i in range(40))
        + " The lighthouse keeper lights the lamp at dusk. "
        + " ".join(f"Market {i} sells apples, cheese and fresh bread to everybody." for i in range(40)),
        "The town",
        {"lang": "en"},
    ),
    Document("iron", "Iron rusts in wet air.", "", {"lang": "en", "year": 1999}),
    Document("star", "A star shines because hydrogen fuses in its core.", "", {}),
]


@pytest.fixture(scope="session")
def index_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("integrations") / "index"
    Index.build(path, DOCUMENTS, token_states="fp16", max_tokens=64).close()
    return path


@pytest.fixture(scope="session")
def searcher(index_path):
    searcher = Searcher(index_path)
    with searcher.index:
        yield searcher


@pytest.fixture(scope="session")
def reranker():
    return load_reranker()


@pytest.fixture
def leaves_loop_free(monkeypatch):
    """Await what a function starts, while searching and ranking wait for the event loop to have turned."""
    turned = threading.Event()

    def held_back(owner, name):
        real = getattr(owner, name)

        def hold(*arguments, **options):
            assert turned.wait(20), "the event loop stood still"
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, hold)

    held_back(Searcher, "search_batch")
    held_back(LateInteractionReranker, "rank")

    def run(start):
        async def scenario():
            answer = asyncio.create_task(start())
            for _ in range(20):
                await asyncio.sleep(0.005)
            assert not answer.done()
            turned.set()
            return await answer

        return asyncio.run(asyncio.wait_for(scenario(), 15))

    return run
