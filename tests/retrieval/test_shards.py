"""One index built by several processes: each indexes its part of the documents, and the last to end finishes it."""

import dataclasses
import itertools
import random
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline import Document
from sightline.errors import DataError, IndexMismatchError, IndexStoreError, InputError
from sightline.retrieval import planning, qdrant_writing
from sightline.retrieval.shards import Shard, ShardStream
from sightline.tests.conftest import ToyEncoder

pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from sightline.retrieval.qdrant_store import QdrantStore
from sightline.retrieval.qdrant_writing import QdrantWriter
from sightline.tests.qdrant_api import QdrantApi, SharedClient

WORDS = "cats purr purring dogs dog bark cows moo owls hoot".split()


class Counted(ToyEncoder):
    """Counts how often it reads a text."""

    def __init__(self):
        super().__init__()
        self.texts = Counter()

    def read(self, texts, **options):
        self.texts.update(texts)
        return super().read(texts, **options)


def some_documents(count, seed=0):
    draw = random.Random(seed)
    return [
        Document(f"d{n}", " ".join([f"only{n}", *draw.choices(WORDS, k=draw.randint(0, 20))]), metadata={"n": n})
        for n in range(count)
    ]


def contents(store):
    """All that is kept of documents and passages, and what searches find."""
    kept, found = {}, {}
    for document in store.documents():
        passages = store.passages_of([document.id])
        kept[document.id] = (
            document,
            [
                (one.passage.start, one.passage.end, state.keys.values.tolist(), state.keys.scales.tolist())
                for one, state in zip(passages, store.token_states(passages), strict=True)
            ],
        )
    for query in ("purring cats", "dog", "only3", "owls that hoot"):
        dense = [part[0] for part in store.search_dense([query], 500)]
        for kind, (rows, scores) in (("dense", dense), ("lexical", store.search_lexical(query, 500))):
            found[kind, query] = {
                (one.passage.document.id, one.passage.start): round(float(score), 4)
                for one, score in zip(store.passages(rows), scores, strict=True)
            }
    return kept, found


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(qdrant_writing, "BATCH_PASSAGES", 8)

    def build(documents, name="q", **options):
        options = {"encoder": ToyEncoder(), "max_tokens": 8} | options
        return QdrantStore.build(f"qdrant-edge:{tmp_path / name}", documents, **options)

    return build


@pytest.fixture
def api():
    api = QdrantApi()
    yield api
    api.close()


@given(ids=st.lists(st.text(), max_size=30, unique=True), of=st.integers(1, 9))
def test_every_document_is_of_one_shard(ids, of):
    shards = [Shard(number, of) for number in range(of)]
    assert all(sum(shard.holds(id) for shard in shards) == 1 for id in ids)


def test_shards_are_about_equal_and_digests_tell_documents_apart():
    documents = some_documents(2000)
    streams = [ShardStream(documents, Shard(number, 4)) for number in range(4)]
    assert sorted(d.id for stream in streams for d in stream) == sorted(d.id for d in documents)
    assert all(420 < stream.count < 580 and stream.seen == 2000 for stream in streams)
    shuffled = ShardStream(random.Random(1).sample(documents, 2000), Shard(0, 4))
    other = ShardStream([dataclasses.replace(d, metadata={}) for d in documents], Shard(0, 4))
    assert list(shuffled) and list(other)
    assert shuffled.digest == streams[0].digest != other.digest


@pytest.mark.parametrize(("number", "of"), [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_is_none_is_refused(number, of):
    with pytest.raises(InputError, match="counted from 0"):
        Shard(number, of)


def test_shards_in_any_order_make_the_index_that_one_build_makes(build):
    documents = some_documents(50)
    for done, number in enumerate((2, 0, 1), 1):
        with build(documents, shard=Shard(number, 3)) as store:
            assert store.shards == (done, 3) and store.manifest.complete == (done == 3)
    with build(documents, shard=Shard(0, 3)) as store, build(documents, "plain") as plain:
        assert contents(store) == contents(plain)
        assert store.counts() == plain.counts() == store.manifest.counts | {"deleted_documents": 0}


def test_an_unfinished_shard_goes_on_and_a_finished_one_is_not_read_again(build):
    documents, encoder = some_documents(60), Counted()

    def broken_off():
        yield from documents[:40]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        build(broken_off(), encoder=encoder, max_tokens=0, shard=Shard(0, 2))
    before = Counter(encoder.texts)
    assert before
    build(documents, encoder=encoder, max_tokens=0, shard=Shard(0, 2)).close()
    own = {d.contents for d in documents if Shard(0, 2).holds(d.id)}
    assert {text: encoder.texts[text] for text in own} == dict.fromkeys(own, 1)
    whole = Counter(encoder.texts)
    build(documents, encoder=encoder, max_tokens=0, shard=Shard(0, 2)).close()
    assert {text for text in encoder.texts if encoder.texts[text] != whole[text]} <= {planning.PROBE}


def test_documents_that_are_gone_are_removed_from_their_shards_alone(build):
    documents = some_documents(40)

    def broken_off():
        yield from documents
        raise OSError("the disk is gone")

    for number in range(2):
        with pytest.raises(OSError, match="disk"):
            build(broken_off(), shard=Shard(number, 2))
    left = documents[:5] + documents[9:]
    with build(left, shard=Shard(0, 2)) as store:
        gone = {f"d{n}" for n in range(5, 9)}
        there = gone & {document.id for document in store.documents()}
        assert there and not any(Shard(0, 2).holds(id) for id in there)
    with build(left, shard=Shard(1, 2)) as store:
        assert store.manifest.complete
        assert {document.id for document in store.documents()} == {document.id for document in left}


def test_a_finished_shard_whose_documents_change_is_built_again(build):
    documents = some_documents(30)
    build(documents, shard=Shard(0, 2)).close()
    changed = [dataclasses.replace(document, text="other words") for document in documents]
    with pytest.raises(IndexMismatchError, match="shard 0 of 2 have changed"):
        build(changed, shard=Shard(0, 2))
    with build(changed, shard=Shard(1, 2)) as store:
        assert store.shards == (1, 2) and not store.manifest.complete
    with build(changed, shard=Shard(0, 2)) as store:
        assert store.manifest.complete and {document.text for document in store.documents()} == {"other words"}
    with pytest.raises(IndexStoreError, match="other documents in shard 1 of 2"):
        build(documents, shard=Shard(1, 2))


def test_what_does_not_go_together_is_refused(build):
    documents = some_documents(12)
    with pytest.raises(InputError, match="cannot replace"):
        build(documents, shard=Shard(0, 2), overwrite=True)
    with pytest.raises(DataError, match="no documents"):
        build([], shard=Shard(0, 2))
    build(documents, shard=Shard(0, 2)).close()
    with pytest.raises(IndexMismatchError, match="in 2 shards, not in 3"):
        build(documents, shard=Shard(1, 3))
    with pytest.raises(IndexMismatchError, match="other settings"):
        build(documents, shard=Shard(1, 2), max_tokens=5)
    with build(documents) as store:  # a build of everything takes shards up
        assert store.manifest.complete and len(store) == 12
    build(documents, "plain").close()
    with pytest.raises(IndexStoreError, match="built without shards"):
        build(documents, "plain", shard=Shard(1, 2))


def test_documents_that_something_else_deletes_meanwhile_are_missed(build):
    documents = some_documents(30)
    with build(documents, shard=Shard(0, 2)) as store:
        store.delete([next(document.id for document in documents if Shard(0, 2).holds(document.id))])
    with pytest.raises(IndexStoreError, match="have 30 documents, but the index has 29"):
        build(documents, shard=Shard(1, 2))
    with build(documents) as store:
        assert len(store) == 30 and store.manifest.complete


def test_more_shards_than_documents(build):
    documents = some_documents(2)
    for number in range(6):
        with build(documents, shard=Shard(number, 6)) as store:
            assert store.manifest.complete == (number == 5)
    assert len(build(documents)) == 2


@pytest.mark.parametrize("form", ["int8", "pq4"])
def test_processes_at_once_build_one_index_on_a_server(api, monkeypatch, form):
    monkeypatch.setattr(qdrant_writing, "BATCH_PASSAGES", 8)
    documents, failed = some_documents(60), []
    name = f"qdrant://{api.address}/together"
    options = {"encoder": ToyEncoder(), "max_tokens": 8, "token_states": form}

    def shard(number):
        def broken_off():
            yield from documents[: 20 + 10 * number]
            raise OSError

        try:
            with pytest.raises(OSError):
                QdrantStore.build(name, broken_off(), shard=Shard(number, 3), **options)
            QdrantStore.build(name, documents, shard=Shard(number, 3), **options).close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=shard, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with QdrantStore.open(name, encoder=ToyEncoder()) as store:
        assert store.manifest.complete and store.shards == (3, 3)
        assert Counter(document.id for document in store.documents()) == {document.id: 1 for document in documents}
        with QdrantStore.build(f"{name}-plain", documents, **options) as plain:
            if form == "int8":
                assert contents(store) == contents(plain)
            else:  # the table is learnt from whichever batch comes first
                assert contents(store)[1] == contents(plain)[1]


def test_two_processes_make_one_index_wherever_they_stop_for_each_other():
    options = {"encoder": ToyEncoder(), "max_tokens": 8, "token_states": "int8"}

    def make(order):
        client = SharedClient()
        first = Document("a", "Cats purr.")

        def create():
            QdrantStore.create("qdrant://server/c", client=client, **options)

        def create_and_write():
            with QdrantStore.create("qdrant://server/c", client=client, **options) as store:
                store.write([first])

        turns = client.in_turns(order, create, create_and_write)
        assert not turns.failures
        with QdrantStore.create("qdrant://server/c", client=client, **options) as store:
            assert list(store.documents()) == [first], order
            store.finish()
        return turns.steps

    alone = make([]).count(0)
    assert alone > 8
    for one, two in itertools.product(range(alone), repeat=2):
        make([0] * one + [1] * two + [0] * alone)
        make([1] * one + [0] * two + [1] * 100)


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 1), max_size=100), first=st.sampled_from(["nothing", "0 begun", "1 done"]))
def test_two_processes_build_one_index_in_whatever_order_they_write(order, first):
    documents = some_documents(6)
    options = {"encoder": ToyEncoder(), "max_tokens": 8, "token_states": "int8", "client": SharedClient()}

    def build(number, documents=documents):
        QdrantStore.build("qdrant://server/c", documents, shard=Shard(number, 2), **options).close()

    def broken_off():
        yield from documents[:3]
        raise OSError

    if first == "0 begun":
        with pytest.raises(OSError):
            build(0, broken_off())
    if first == "1 done":
        build(1)
    assert not options["client"].in_turns(order, lambda: build(0), lambda: build(1)).failures
    with QdrantStore.open("qdrant://server/c", encoder=ToyEncoder(), client=options["client"]) as store:
        assert store.manifest.complete and store.shards == (2, 2)
        kept = contents(store)
    with QdrantStore.build("qdrant://server/plain", documents, **options) as plain:
        assert contents(plain) == kept


def test_workers_of_ray_write_to_a_server_themselves(api, monkeypatch):
    from sightline.scale import RayReading
    from sightline.tests.scale.test_ray_reading import FakeRay

    monkeypatch.setattr(qdrant_writing, "BATCH_PASSAGES", 8)
    documents, options = some_documents(60), {"encoder": ToyEncoder(), "max_tokens": 8}
    put = []
    monkeypatch.setattr(
        QdrantWriter,
        "put",
        lambda self, batch, real=QdrantWriter.put: (put.append(self.contents.engine._client), real(self, batch)),
    )
    monkeypatch.setitem(sys.modules, "ray", FakeRay(2, dies=(3, 5).__contains__))
    told = []
    with RayReading() as reading:
        name = f"qdrant://{api.address}/workers"
        store = QdrantStore.build(name, documents, reading=reading, progress=told.append, **options)
    assert len(set(map(id, put))) > 1 and store.engine._client not in put
    assert told == sorted(told) and told[-1] == 60
    with store, QdrantStore.build(f"qdrant://{api.address}/plain", documents, **options) as plain:
        assert store.manifest.complete and contents(store) == contents(plain)
    put.clear()
    monkeypatch.setitem(sys.modules, "ray", FakeRay(2))
    with RayReading() as reading:  # replacing an index, this process writes beside it
        changed = [dataclasses.replace(document, text=f"new {document.text}") for document in documents]
        store = QdrantStore.build(name, changed, reading=reading, overwrite=True, **options)
    with store:
        assert len(set(map(id, put))) == 1 and all(d.text.startswith("new") for d in store.documents())


def test_processes_that_are_killed_leave_shards_that_go_on(api, monkeypatch):
    from sightline.tests.scale.test_ray_reading import killed_at_random

    monkeypatch.setattr(qdrant_writing, "BATCH_PASSAGES", 4)
    documents, options = some_documents(24), {"encoder": ToyEncoder(), "max_tokens": 0}
    name = f"qdrant://{api.address}/killed"
    for number in range(2):

        def build(progress, chance, number=number):
            QdrantStore.build(name, documents, shard=Shard(number, 2), progress=progress, **options).close()

        assert killed_at_random(build, number, 2 - number, 9) == 2 - number
    with QdrantStore.open(name, encoder=ToyEncoder()) as store:
        assert store.manifest.complete and store.shards == (2, 2)
        assert Counter(document.id for document in store.documents()) == {document.id: 1 for document in documents}
        with QdrantStore.build(f"{name}-plain", documents, **options) as plain:
            assert contents(store) == contents(plain)
