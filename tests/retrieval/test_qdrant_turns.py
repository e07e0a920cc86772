"""Processes that change, build, replace or copy one index on a server: each stops for the other at every request."""

import dataclasses
import functools

import httpx
import numpy as np
import pytest

from sightline import Document
from sightline.errors import IndexMismatchError, IndexStoreError
from sightline.tests.conftest import ToyEncoder

pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException

from sightline.retrieval import copying, qdrant_store
from sightline.retrieval.qdrant_store import QdrantStore
from sightline.retrieval.shards import Shard
from sightline.retrieval.stores import copy_store, open_store
from sightline.tests.qdrant_api import SharedClient

NAME, OTHER = "qdrant://server/pets", "qdrant://server/others"
OLD = [Document("a", "Cats purr. " * 4), Document("b", "Dogs bark. " * 3), Document("c", "Owls hoot.")]
NEW = [Document("a", "Cats purr. " * 2), Document("b", "Dogs bark. " * 3), Document("d", "Cows moo. " * 5)]
LONG, LONGER = Document("a", "Cats purr. " * 7), Document("b", "Dogs bark. " * 11)


def build(client, documents=OLD, name=NAME, **options):
    options = {"encoder": ToyEncoder(dim=8), "max_tokens": 6} | options
    return QdrantStore.build(name, documents, client=client, **options)


def opened(client, name=NAME):
    return QdrantStore.open(name, client=client, encoder=ToyEncoder(dim=8))


def whole(store):
    """The documents of an index, by id, if all that is kept of them is there."""
    documents = {document.id: document for document in store.documents()}
    assert len(store.stored(list(documents)).documents) == len(documents)
    return documents


def kept(client, name=NAME):
    """The same, if they are found as in a new index of these documents."""
    store = opened(client, name)
    documents = whole(store)
    assert found(store) == pytest.approx(
        found_anew(tuple(sorted((d.id, d.text) for d in documents.values()))), rel=0.01
    )
    return documents


def found(store):
    scores = dict(zip(*store.search_lexical("cats purr dogs bark moo", 99), strict=True))
    return {(one.passage.document.id, one.passage.start): scores[one.row] for one in store.passages(list(scores))}


@functools.cache
def found_anew(texts):
    return found(build(SharedClient(), [Document(id, text) for id, text in texts]))


def by_id(documents):
    return {document.id: document for document in documents}


def stops(client_and_works, expected, before=0):
    """Let the first of two processes stop before each of its requests until the second one has ended.

    The second one sends some requests before the first.
    """
    for number in range(200):
        client, *works = client_and_works()
        turns = client.in_turns([1] * before + [0] * number + [1] * 500, *works)
        expected(client, turns.failures)
        if turns.steps.count(0) <= number:
            assert number > 9
            return
    raise AssertionError("the first process does not end")


@pytest.mark.parametrize("first", [LONG, OLD[0]], ids=["longer", "as it was"])
def test_lengths_of_words_agree_after_two_changes(first):
    def works():
        client = SharedClient()
        build(client).close()
        stores = opened(client), opened(client)
        return client, lambda: stores[0].update([first]), lambda: stores[1].update([LONGER])

    def expected(client, failures):
        assert not failures and kept(client) == by_id([*OLD, first, LONGER])

    stops(works, expected)


def created(client):
    """A build that two processes share."""
    options = {"encoder": ToyEncoder(dim=8), "max_tokens": 6, "token_states": "int8"}
    stores = [QdrantStore.create(NAME, client=client, **options) for _ in range(2)]
    stores[0].write(OLD[2:])
    stores[0].write(OLD)
    return stores


@pytest.mark.parametrize("last", [False, True], ids=["writer ends", "builder ends"])
def test_a_process_that_writes_while_another_one_ends_the_build(last):
    def works():
        client = SharedClient()
        stores = created(client)
        both = [lambda: stores[0].write([LONG]), stores[1].finish]
        return client, *(both[::-1] if last else both)

    def expected(client, failures):
        assert not failures and kept(client) == by_id([*OLD, LONG]) and opened(client).manifest.complete

    stops(works, expected)


def test_a_process_that_goes_on_writing_while_another_one_ends_the_build(monkeypatch):
    monkeypatch.setattr(qdrant_store, "BATCH_PASSAGES", 1)

    def works():
        client = SharedClient()
        stores = created(client)
        return client, stores[1].finish, lambda: stores[0].write(OLD)

    def expected(client, failures):
        assert not failures and kept(client) == by_id(OLD)

    stops(works, expected, before=12)  # so that it has used the mean length of before


def test_two_texts_of_one_document_in_a_build_leave_one_of_them():
    def works():
        client = SharedClient()
        stores = created(client)
        return client, lambda: stores[0].write([NEW[0]]), lambda: stores[1].write([LONG])

    def expected(client, failures):
        assert not failures and whole(opened(client)) in [by_id([*OLD, one]) for one in (NEW[0], LONG)]

    stops(works, expected)


@pytest.mark.parametrize("change", ["update", "delete"])
def test_a_change_concerns_the_old_index_or_the_new_one(change):
    def works():
        client = SharedClient()
        build(client).close()
        store = opened(client)
        changed = (lambda: store.update([LONG, NEW[2]])) if change == "update" else lambda: store.delete(["a", "b"])
        return client, changed, lambda: build(client, NEW, overwrite=True)

    def expected(client, failures):
        now, new = kept(client), by_id(NEW)
        changed = new | {"a": LONG} if change == "update" else by_id(NEW[2:])
        assert now == new or (now == changed and not failures)
        for error in failures.values():
            assert isinstance(error, IndexStoreError) and "another process has replaced or removed" in str(error)

    stops(works, expected)


def test_of_two_processes_that_replace_an_index_the_later_one_goes_on():
    def works():
        client = SharedClient()
        build(client).close()
        return client, lambda: build(client, NEW, overwrite=True), lambda: build(client, [LONG, LONGER], overwrite=True)

    def expected(client, failures):
        now = opened(client)
        assert now.manifest.complete and whole(now) in (by_id(NEW), by_id([LONG, LONGER])) and failures.keys() <= {0}
        for error in failures.values():
            assert isinstance(error, IndexStoreError) and "another process has replaced or removed" in str(error)
        aliases = {alias.alias_name for alias in client.get_aliases().aliases}
        assert aliases == {"pets", "pets-states"} and len(client.get_collections().collections) == 2

    stops(works, expected)


def test_an_index_that_is_made_during_a_copy_is_kept(monkeypatch):
    client, real = SharedClient(), QdrantStore.stored
    source = build(client, name=OTHER)

    def stored(self, ids):
        build(client, NEW)
        return real(self, ids)

    monkeypatch.setattr(QdrantStore, "stored", stored)
    with pytest.raises(IndexStoreError, match="there is an index here already"):
        copy_store(source, NAME, client=client)
    monkeypatch.undo()
    assert kept(client) == by_id(NEW)


@pytest.mark.parametrize("kind", ["folder", "server"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_copy_of_an_index_that_is_replaced_begins_again(tmp_path, monkeypatch, kind, interrupted):
    """The two indexes have the same documents, but have learned other forms of their token states."""
    monkeypatch.setattr(copying, "_DOCUMENTS", 2)
    client = SharedClient()
    options = {"token_states": "pq4"}
    source = build(client, OLD, OTHER, **options)
    real = source.stored
    others = [Document(f"x{n}", f"Owls hoot, and {n} iron trains rust in wet air.") for n in range(5)]

    def stored(ids):
        if ids and fetched:
            if interrupted:
                raise KeyboardInterrupt
            build(client, [*others, *OLD], OTHER, overwrite=True, **options)
        fetched.append(ids)
        return real(ids)

    def copy():
        place, more = (NAME, {"client": client}) if kind == "server" else (str(tmp_path / "copy"), {})
        return copy_store(source, place, **more)

    fetched = []
    monkeypatch.setattr(source, "stored", stored)
    with pytest.raises(KeyboardInterrupt if interrupted else IndexMismatchError):
        copy()
    monkeypatch.undo()
    if interrupted:
        build(client, [*others, *OLD], OTHER, overwrite=True, **options)
        with pytest.raises(IndexMismatchError, match="since the copy began.*copy it again"):
            copy()
    done = copy()
    for one, other in zip(
        *(store.token_states(store.passages_of(["a", "b", "c"])) for store in (done, source)), strict=True
    ):
        assert np.array_equal(one.keys.values, other.keys.values)
    assert len(done) == 8


def test_a_shard_that_is_built_again_after_the_index_was_finished():
    client, documents = SharedClient(), [*OLD, NEW[2]]
    longer = [dataclasses.replace(one, text=one.text + " and more words of it" * 3) for one in documents]
    build(client, documents, shard=Shard(0, 2)).close()
    real, ended = QdrantStore._build_shard, []

    def after_another(self, writer, *arguments):
        if not ended:  # this process has seen that the index is unfinished
            ended.append(Shard(1, 2))
            build(client, documents, shard=ended[0])
        return real(self, writer, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(QdrantStore, "_build_shard", after_another)
        with pytest.raises(IndexMismatchError, match="marked as unfinished; build it again"):
            build(client, longer, shard=Shard(0, 2))
    with build(client, longer, shard=Shard(0, 2)) as store:
        assert store.shards == (2, 2) and store.manifest.complete
        assert store.counts() == store.manifest.counts | {"deleted_documents": 0}
    assert kept(client) == by_id(documents) | by_id(one for one in longer if Shard(0, 2).holds(one.id))


def test_changes_follow_an_index_that_has_replaced_another():
    client, options = SharedClient(), {"token_states": "pq4"}
    build(client, **options)
    store = opened(client)
    store.token_states(store.passages_of(["a"]))
    others = [Document(f"x{n}", f"Owls hoot, and {n} iron trains rust in wet air.") for n in range(20)]
    build(client, others, overwrite=True, **options)
    store.update([LONG])
    with opened(client) as new:
        new.update([Document("same", LONG.text)])
        states = [new.token_states(new.passages_of([id])) for id in ("a", "same")]
        assert all(np.array_equal(one.keys.values, other.keys.values) for one, other in zip(*states, strict=True))
    build(client, NEW, overwrite=True, encoder=ToyEncoder(dim=8, name="other", revision="other-1"), **options)
    for change in (lambda: store.update([LONG]), lambda: store.add([OLD[2]]), lambda: store.delete(["d"])):
        with pytest.raises(IndexMismatchError, match="another index with other settings has replaced this one"):
            change()
    with open_store(NAME, client=client) as new:
        assert by_id(new.documents()) == by_id(NEW)


def test_searches_of_embeddings_notice_another_encoder():
    client = SharedClient()
    build(client)
    store = opened(client)
    build(client, encoder=ToyEncoder(dim=8, name="other", revision="other-1"), overwrite=True)
    with pytest.raises(IndexMismatchError, match="another index with other settings has replaced this one"):
        store.read(lambda: store.passages(store.search_dense(["cats"], 3)[0][0]))


def test_a_switch_whose_answer_is_lost_is_sent_again_without_harm(monkeypatch):
    client, lost = SharedClient(), []
    build(client)
    real = client.local.update_collection_aliases

    def change(changes):
        real(changes)
        if not lost and isinstance(changes[0], models.RenameAliasOperation):
            lost.append(changes)
            raise ResponseHandlingException(httpx.RemoteProtocolError("lost"))

    monkeypatch.setattr(client.local, "update_collection_aliases", change)
    assert not client.in_turns([], lambda: build(client, NEW, overwrite=True)).failures
    assert lost and kept(client) == by_id(NEW) and len(client.get_collections().collections) == 2


def test_passages_without_words_are_changed():
    client = SharedClient()
    build(client, [Document("a", "!!!"), Document("b", "???")])
    opened(client).update([Document("a", "...")])
    opened(client).update([LONG])
    assert kept(client) == by_id([LONG, Document("b", "???")])
