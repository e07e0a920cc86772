"""Processes that write to one server: another's write, a search, or both, between any two requests of a write."""

import contextlib
import itertools
from functools import partial

import pytest

from sightline import Document
from sightline.errors import IndexMismatchError, IndexStoreError
from sightline.tests.conftest import ToyEncoder

pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from qdrant_client import QdrantClient

from sightline.retrieval import qdrant_writing
from sightline.retrieval.qdrant_store import QdrantStore

NAME = "qdrant://localhost/pets"
OLD = Document("a", "Cats purr. " * 8 + "Old words.")
SHORT, LONG = Document("a", "Cats purr. New words."), Document("a", "Cats purr. " * 14 + "New words.")
OTHER = Document("a", "Cats purr. " * 11 + "Other words.")


@pytest.fixture
def stores():
    """A store as two processes have it open."""
    client = QdrantClient(":memory:")
    documents = [OLD, *(Document(f"b{n}", f"Dogs bark. Owl {n}.") for n in range(4))]
    first = QdrantStore.build(NAME, documents, client=client, encoder=ToyEncoder(), max_tokens=4)
    return first, QdrantStore.open(NAME, client=client, encoder=ToyEncoder())


@contextlib.contextmanager
def before_request(store, number, act, monkeypatch):
    """Act before a request of a store, counted from 0; gives a list that then holds the request's name."""
    count, acted = itertools.count(), []
    with monkeypatch.context() as patched:
        for name in ("upsert", "delete", "count", "retrieve", "set_vectors"):

            def request(name, real, *arguments, **options):
                if next(count) == number:
                    acted.append(name)
                    act()
                return real(*arguments, **options)

            patched.setattr(store.engine, name, partial(request, name, getattr(store.engine, name)))
        yield acted


def check_whole(store, allowed):
    """The document is one of those that are allowed; gives how many points there are beside those that count."""
    document = store.document("a")
    assert document in allowed
    batch = store.stored(["a"] if document else [])
    passages = store.passages_of(["a", *(f"b{n}" for n in range(4))])
    assert [len(mine) for _, mine in batch.documents] == ([len(store.passages_of(["a"]))] if document else [])
    assert None not in store.token_states(passages)
    client = store.engine._client
    fixed = 2  # the manifest and the mean length
    return client.count("pets").count - len(passages) - fixed, client.count("pets-states").count - len(passages)


@pytest.mark.parametrize("mine", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("theirs", [OTHER, SHORT, None], ids=["other", "short", "delete"])
def test_a_write_between_two_requests_of_another_leaves_one_of_the_two(stores, mine, theirs, monkeypatch):
    first, second = stores

    def write():
        second.update([theirs]) if theirs else second.delete(["a"])

    left, late = (0, 0), 0.0
    monkeypatch.setattr(qdrant_writing.time, "time", lambda: late)
    for number in itertools.count():
        first.update([OLD])
        with before_request(first, number, write, monkeypatch) as acted:
            first.update([mine])
        now = check_whole(first, [mine, theirs])
        # Of a version that both overwrote, points may be left that no search shows.
        assert all(0 <= after - before <= (7 if acted else 0) for before, after in zip(left, now, strict=True))
        left = now
        if not acted:
            assert number > 7
            break
    late = 1000.0
    first.update([mine])
    assert check_whole(first, [mine])[0] == 0, "the next writer removes them"


@pytest.mark.parametrize("new", [SHORT, LONG], ids=["short", "long"])
def test_a_search_between_two_requests_of_a_write_sees_one_of_two_states(stores, new, monkeypatch):
    first, second = stores
    seen = []

    def found(query):
        def work():
            rows, _ = second.search_lexical(query, 50)
            return second.passages(rows)

        return second.read(work)

    def search():
        passages = [one for one in found("cats purr") if one.passage.document.id == "a"]
        document = passages[0].passage.document
        assert all(one.passage.document == document for one in passages)
        texts = " ".join(one.passage.text for one in passages)
        assert document in (OLD, new) and texts.count("Cats") == document.text.count("Cats")
        assert None not in second.token_states(passages)
        last = [one for one in found(document.text.split(". ")[-1]) if one.passage.document.id == "a"]
        assert last and "words" in last[0].passage.text
        seen.append(document)

    for number in itertools.count():
        first.update([OLD])
        with before_request(first, number, search, monkeypatch) as acted:
            first.update([new])
        if not acted:
            break
    assert seen == sorted(seen, key=[OLD, new].index) and set(map(str, seen)) == {str(OLD), str(new)}


def test_vectors_of_words_that_are_made_anew_are_those_of_the_text(stores, monkeypatch):
    """Another changes one passage, and deletes another, while all vectors of words are made anew."""
    first, second = stores
    reference = QdrantStore.create(
        "qdrant://localhost/other", client=first.engine._client, encoder=ToyEncoder(), max_tokens=4
    )
    changes = iter([lambda: second.update([Document("b1", "Cows moo. Owl 1.")]), lambda: second.delete(["b2"])])
    real = first.engine.set_vectors

    def set_vectors(*arguments):
        next(changes, lambda: None)()
        real(*arguments)

    monkeypatch.setattr(first.engine, "set_vectors", set_vectors)
    first.update([Document("b0", "Dogs bark. " * 30)])
    first.update([Document("b0", "Dogs bark. " * 60)])
    assert next(changes, None) is None
    reference.write(first.documents())
    reference.finish()
    with first._changing() as writer:
        writer._settle(exact=True)
    for query in ("cows moo", "dogs bark", "owl", "words"):
        scores = [
            {
                (one.passage.document.id, one.passage.start): round(float(score), 4)
                for rows, scores in [store.search_lexical(query, 200)]
                for one, score in zip(store.passages(rows), scores, strict=True)
            }
            for store in (first, reference)
        ]
        assert scores[0] == scores[1] and (query != "cows moo" or set(scores[0]) == {("b1", 0)})


def test_documents_that_others_write_all_the_time_are_given_up(stores, monkeypatch):
    first, second = stores
    monkeypatch.setattr(qdrant_writing.QdrantWriter, "_whole", lambda self, *written: self._engine is second.engine)
    with pytest.raises(IndexStoreError, match="other processes keep writing the same documents, such as 'a'"):
        first.update([SHORT])


def test_an_index_that_is_replaced_is_followed_if_it_has_the_same_settings(monkeypatch):
    client, options = QdrantClient(":memory:"), {"encoder": ToyEncoder(), "token_states": "pq4"}
    QdrantStore.build(NAME, [Document("a", "Cats purr at night.")], client=client, **options).close()
    served = QdrantStore.open(NAME, client=client, encoder=ToyEncoder())
    assert served.token_states(served.passages_of(["a"]))[0] is not None
    new = QdrantStore.build(NAME, [Document("b", "Dogs bark at strangers.")], client=client, overwrite=True, **options)
    served._contents.forget()  # after two seconds
    assert len(served) == 1 and served.document("a") is None
    [mine], [theirs] = (store.token_states(store.passages_of(["b"])) for store in (served, new))
    assert (mine.keys.values == theirs.keys.values).all()
    QdrantStore.build(NAME, [OLD], client=client, overwrite=True, **options, max_tokens=4)
    served._contents.forget()
    with pytest.raises(IndexMismatchError, match=r"another index with other settings has replaced this one \(passages"):
        served.search_lexical("cats", 3)
