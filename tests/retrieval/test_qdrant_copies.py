"""Snapshots and restoring: copies of an index between a folder and Qdrant, with faults, and with writes beside."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from sightline import Document, Index
from sightline.errors import IndexCorruptError, IndexStoreError, InputError
from sightline.retrieval import copying, manifest, qdrant_search
from sightline.retrieval.stores import build_store, copy_store, open_store
from sightline.retrieval.writing import Writer
from sightline.tests.conftest import ToyEncoder

pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from qdrant_client import QdrantClient, models

from sightline.retrieval.qdrant_edge import EdgeEngine
from sightline.retrieval.qdrant_engines import Point
from sightline.retrieval.qdrant_filters import Where
from sightline.retrieval.qdrant_server import ServerEngine

WORDS = "cats purr purring dogs dog bark cows moo owls hoot".split()
KINDS = ["folder", "edge", "client"]
CUT = {"encoder": ToyEncoder(), "max_tokens": 8}


def some_documents(count, **metadata):
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 25))) for _ in range(count)]
    return [Document(f"d{n}", text, draw.choice(["", "Cats"]), {"n": n, **metadata}) for n, text in enumerate(texts)]


def contents(store):
    """All that is kept of each document, and what searches find; the same whatever store it is."""
    batch, kept, first = store.stored(sorted(document.id for document in store.documents())), {}, 0
    for document, passages in batch.documents:
        last = first + len(passages)
        tokens = slice(batch.offsets[first], batch.offsets[last])
        kept[document.id] = (
            document,
            [(passage.start, passage.end) for passage in passages],
            batch.truncated[first:last].tolist(),
            np.diff(batch.offsets[first : last + 1]).tolist(),
            None if batch.vectors is None else batch.vectors[first:last].tobytes(),
            *(None if part is None else part[tokens].tobytes() for part in (batch.rows, batch.spans)),
        )
        first = last
    found = {}
    if store.manifest.lexical.engine != "none":
        rows, scores = store.search_lexical("purring cats", 500)
        for one, score in zip(store.passages(rows), scores, strict=True):
            found[one.passage.document.id, one.passage.start] = round(float(score), 4)
    return kept, found, None if batch.table is None else batch.table.tobytes()


@pytest.fixture
def copied(tmp_path):
    """Copy an index to a place of a kind; copies are closed after the test."""
    client, made = QdrantClient(":memory:"), []

    def options(kind):
        return {"client": client} if kind == "client" else {}

    def where(kind, name="copy"):
        names = {"edge": f"qdrant-edge:{tmp_path / name}.q", "client": f"qdrant://localhost/{name}"}
        return names.get(kind, str(tmp_path / name))

    def build(kind, documents, name="first", **settings):
        made.append(build_store(where(kind, name), documents, **options(kind), **(CUT | settings)))
        return made[-1]

    def copied(source, kind, name="copy", **more):
        made.append(copy_store(source, where(kind, name), **options(kind), **more))
        return made[-1]

    copied.build, copied.where, copied.options, copied.client = build, where, options, client
    yield copied
    for store in made:
        store.close()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"token_states": "fp16", "max_tokens": 0},
        {"token_states": "pq4", "faiss": "HNSW16"},
        {"lexical": "none", "token_states": "none"},
    ],
)
def test_a_snapshot_that_is_restored_is_the_index(copied, settings):
    documents = [Document("empty", "", metadata={"é": [1, {"a": None}]}), Document("äöü", "Cats. " * 99)]
    documents, told = documents + some_documents(12), []
    first = copied.build("edge", documents, **settings)
    snapshot = copied(first, "folder", progress=told.append)
    expected = contents(first)
    assert told == [len(documents)] and isinstance(snapshot, Index) and contents(snapshot) == expected
    assert snapshot.manifest.complete and snapshot.manifest.faiss.factory == first.manifest.faiss.factory
    snapshot.verify()
    restored = copied(snapshot, "client")
    assert contents(restored) == expected and restored.manifest.settings() == first.manifest.settings()
    with open_store(copied.where("client"), client=copied.client) as opened:
        assert opened.counts() == snapshot.counts() and opened.manifest.complete
    again = copied(restored, "client", "again")  # and from one store to another
    assert contents(again) == expected
    for copy in (snapshot, again):  # what can be searched, filtered and changed
        copy.update([Document("d1", "New words.", metadata={"n": 99})])
        assert copy.delete(["d2"]) == 1 and copy.document("d2") is None
        if copy.manifest.lexical.engine != "none":
            [row], _ = copy.search_lexical("new", 5, {"n": {">": 50}})
            assert copy.passages([row])[0].passage.document.id == "d1"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_copy_is_no_index_and_goes_on(tmp_path, copied, kind, overwrite, monkeypatch):
    monkeypatch.setattr(copying, "_DOCUMENTS", 6)
    if overwrite:
        copied.build(kind, some_documents(3), "copy").close()
    engine = EdgeEngine if kind == "edge" else ServerEngine
    steps = [(Writer, "_append", 1), (Writer, "_append", 4), (Writer, "finish", 0)]
    if kind != "folder":  # among them, at the record, at the second batch, at the end, and before the switch
        steps = [(engine, "upsert", 0), (engine, "upsert", 3), (engine, "flush", 0), (engine, "take", 0)]
    source = copied.build("folder", some_documents(14))
    for owner, name, calls in steps:
        left, real = iter(range(calls)), getattr(owner, name)

        def broken(self, *arguments, real=real, left=left, **more):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(self, *arguments, **more)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(owner, name, broken)
            copied(source, kind, overwrite=overwrite)
        if overwrite:
            with open_store(copied.where(kind), **copied.options(kind)) as old:
                assert {document.id for document in old.documents()} == {"d0", "d1", "d2"}
        else:
            with pytest.raises(IndexStoreError, match=r"not a Sightline index|there is no index"):
                open_store(copied.where(kind), **copied.options(kind))
    done = copied(source, kind, overwrite=overwrite)
    assert contents(done) == contents(source) and done.manifest.complete
    assert not [entry for entry in tmp_path.iterdir() if "building" in entry.name]
    assert len(copied.client.get_collections().collections) == (2 if kind == "client" else 0)


def test_a_copy_that_goes_on_writes_what_is_missing_alone(copied, monkeypatch):
    monkeypatch.setattr(copying, "_DOCUMENTS", 4)
    source = copied.build("client", some_documents(20))
    real, fetched = source.stored, []

    def stored(ids):
        if len(fetched) == 8:
            raise KeyboardInterrupt
        fetched.extend(ids)
        return real(ids)

    monkeypatch.setattr(source, "stored", stored)
    with pytest.raises(KeyboardInterrupt):
        copied(source, "folder")
    before = set(fetched)
    fetched.append("from here on")
    copied(source, "folder")
    assert set(fetched[9:]) == {f"d{n}" for n in range(20)} - before and len(fetched) == 21


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_index_as_it_was_at_one_moment(copied, kind):
    """Every write of another gives all documents one number."""
    rounds = [some_documents(15, round=number) for number in range(4)]
    source, waiting = copied.build(kind, rounds[0]), [1, 2, 3]
    real = source.stored

    def stored(ids):
        batch = real(ids)
        if waiting:
            source.update(rounds[waiting.pop(0)])
            source.delete([f"d{len(waiting)}"])
            source.add([Document(f"new{len(waiting)}", "Cats.", metadata={"round": 3})])
        return batch

    source.stored = stored
    copy = copied(source, "client" if kind == "folder" else "folder")
    source.stored = real
    assert not waiting and contents(copy) == contents(source)
    assert {document.metadata["round"] for document in copy.documents()} == {3}


def test_a_copy_of_what_never_rests_says_so(copied, caplog):
    source, writes = copied.build("folder", some_documents(4)), iter(range(99))
    real = source.stored

    def stored(ids):
        batch = real(ids)
        source.update([Document("d1", f"Cats {next(writes)}.")])
        return batch

    source.stored = stored
    assert len(copied(source, "client")) == 4 and "changed during each of 10 passes" in caplog.text


def test_a_half_written_document_is_waited_for_and_then_named(tmp_path, copied, monkeypatch):
    source = copied.build("edge", [Document("a", "Cats. " * 9), Document("b", "Dogs.")], max_tokens=4)
    row, waited = source.passages_of(["a"])[1].row, []
    kept = source.engine.retrieve("states", [row], ["digest", "states", "spans"])[row]

    def mend(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            source.engine.upsert("states", [Point(row, {}, kept)])

    monkeypatch.setattr(qdrant_search.time, "sleep", mend)
    source.engine.upsert("states", [Point(row, {}, kept | {"digest": "of another time"})])
    assert contents(copied(source, "folder")) == contents(source) and len(waited) == 3
    source.engine.delete("states", Where(ids=(row,)))
    with pytest.raises(IndexCorruptError, match=r"document 'a' is incomplete.*sightline add --update"):
        copied(source, "folder", "other")
    with pytest.raises(IndexStoreError, match="not a Sightline index"):
        open_store(tmp_path / "other")


def test_what_is_there_already_is_kept(tmp_path, copied):
    source = copied.build("folder", some_documents(3))
    for kind in ("folder", "client"):
        copied(source, kind)
        with pytest.raises(IndexStoreError, match="there is an index here already; overwrite replaces it"):
            copied(source, kind)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(IndexStoreError, match="exists and is no index"):
        copied(source, "folder", "notes", overwrite=True)
    copied.client.create_collection("foreign", {})
    copied.client.upsert("foreign", [models.PointStruct(id=1, vector={})])
    with pytest.raises(IndexStoreError, match="points but no manifest"):
        copied(source, "client", "foreign", overwrite=True)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine" and copied.client.count("foreign").count == 1


@pytest.mark.parametrize("kind", ["folder", "client"])
def test_what_is_not_copied_is_refused(copied, kind):
    sparse = manifest.Manifest(
        manifest.EncoderRecord("none", "", 0, 9, {}, []),
        manifest.PassageRecord(0, 0),
        manifest.FaissRecord("Flat", ""),
        manifest.LexicalRecord("sparse", "model", "", 3, 9),
        manifest.TokenStatesRecord("none"),
    )
    with pytest.raises(InputError, match="first: keeps learned sparse vectors"):
        copied(SimpleNamespace(path="first", manifest=sparse), kind)
