"""A server that fails, or changes its index, in the middle of what a store does."""

import pytest

from sightline import Document, Searcher, open_store
from sightline.errors import IndexMismatchError, IndexStoreError, InputError
from sightline.names import StoreName
from sightline.retrieval.stores import build_store

from ..conftest import ToyEncoder

pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from sightline.retrieval.qdrant_server import ServerEngine
from sightline.tests.qdrant_api import QdrantApi

DOCUMENTS = [Document(f"d{n}", f"Cats purr at night {n}. Dogs bark.") for n in range(8)]


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(ServerEngine, "_sleep", staticmethod(lambda seconds: None))
    api = QdrantApi()
    yield api
    api.close()


@pytest.fixture
def served(api, toy):
    """A store that has searched once, so that it has counted."""
    name = f"qdrant://{api.address}/pets"
    build_store(name, DOCUMENTS, encoder=toy, token_states="pq4").close()
    with open_store(name, encoder=toy, retries=2) as store:
        Searcher(store, None, candidates=5).search("cats purr")
        yield store


def test_a_search_during_which_the_server_goes_down_fails_and_the_next_one_works(api, served):
    searcher = Searcher(served, None, candidates=5)
    expected = [hit.id for hit in searcher.search("cats purr").hits]
    for after in range(2):  # before both lists, and before the passages
        api.seen.clear()
        api.faults[:] = [None] * after + ["lost"] * 3
        with pytest.raises(IndexStoreError, match="the connection failed .*tried 3 times"):
            searcher.search("cats purr")
        api.faults.clear()
        assert [hit.id for hit in searcher.search("cats purr").hits] == expected


def test_a_search_that_meets_the_switch_of_an_alias_is_sent_again(api, served):
    searcher = Searcher(served, None, candidates=5)
    api.faults[:] = [404]
    assert len(searcher.search("cats purr").hits) == 5
    api.faults[:] = [404] * 3
    with pytest.raises(IndexStoreError, match="does not have this collection, or has it no more .404"):
        searcher.search("cats purr")


@pytest.mark.parametrize("encoder", [ToyEncoder(dim=8), ToyEncoder(name="other", revision="other-1")])
def test_an_index_with_another_encoder_in_its_place_is_named_at_once(api, served, encoder):
    build_store(served.path, DOCUMENTS, encoder=encoder, token_states="pq4", overwrite=True).close()
    with pytest.raises(IndexMismatchError, match="another index with other settings has replaced this one"):
        Searcher(served, None, candidates=5).search("cats purr")


def test_token_states_of_a_replaced_index_are_read_with_its_own_table(api, served, toy):
    served.token_states(served.passages_of(["d1"]))
    others = [Document(f"x{n}", f"Owls hoot, and {n} iron trains rust in wet air.") for n in range(20)]
    with build_store(served.path, [*others, *DOCUMENTS], encoder=toy, token_states="pq4", overwrite=True) as new:
        [mine], [theirs] = (store.token_states(store.passages_of(["d1"])) for store in (served, new))
    assert (mine.keys.values == theirs.keys.values).all() and (mine.keys.scales == theirs.keys.scales).all()


@pytest.mark.parametrize("name", ["pets.next", "pets-states", "pets.next-states"])
def test_names_that_a_store_takes_for_its_own_collections_are_refused(name):
    with pytest.raises(InputError, match="another name"):
        StoreName.parse(f"qdrant://localhost/{name}")
