"""Stores: the same documents give the same results in a folder, in Qdrant's engine and through its client."""

import dataclasses
import json
import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline import Document, Index, Searcher, open_store
from sightline.benchmarks.stores import same_ranking
from sightline.errors import (
    DataError,
    IndexCorruptError,
    IndexLockedError,
    IndexMismatchError,
    IndexStoreError,
    InputError,
)
from sightline.names import StoreName
from sightline.rerank import LateInteractionReranker
from sightline.retrieval import writing
from sightline.retrieval.filters import Filter
from sightline.retrieval.stores import build_store

pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from qdrant_client import QdrantClient

from sightline.retrieval import qdrant_points, qdrant_search, qdrant_writing
from sightline.retrieval.qdrant_edge import EdgeEngine
from sightline.retrieval.qdrant_engines import Point
from sightline.retrieval.qdrant_filters import Among, Where, payload_of
from sightline.retrieval.qdrant_server import ServerEngine
from sightline.retrieval.qdrant_store import QdrantStore
from sightline.retrieval.qdrant_words import passage_words
from sightline.tests.qdrant_api import QdrantApi

WORDS = "cats cat purring purr dogs dog barking strangers running runs rust the and Straße 猫は鳴く 学 学ぶ".split()
KINDS = ["folder", "edge", "client"]


def some_documents(count, seed=0, longest=30):
    draw = random.Random(seed)
    documents = []
    for number in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(0, longest)))
        title = draw.choice(["", "", "Cats and dogs"])
        metadata = {"year": 1990 + number % 7, "lang": draw.choice(["en", "de"]), "tags": draw.sample("xyz", 2)}
        documents.append(Document(f"d{number}", text, title, metadata if number % 5 else {}))
    return documents


@pytest.fixture
def place(tmp_path):
    """Make a store of a kind; all are closed after the test."""
    made, clients = [], {}

    def make(kind, name="store"):
        if kind == "folder":
            return {"name": str(tmp_path / name)}
        if kind == "edge":
            return {"name": f"qdrant-edge:{tmp_path / name}.q"}
        return {"name": f"qdrant://localhost/{name}", "client": clients.setdefault("one", QdrantClient(":memory:"))}

    def build(kind, documents, name="store", **options):
        where = make(kind, name)
        made.append(build_store(where.pop("name"), documents, **where, **options))
        return made[-1]

    def opened(kind, name="store", **options):
        where = make(kind, name)
        made.append(open_store(where.pop("name"), **where, **options))
        return made[-1]

    build.open, build.where = opened, make
    yield build
    for store in made:
        store.close()


def by_document(store, rows, scores):
    """Passages by document and place, with their scores; ties in any order."""
    return {
        (one.passage.document.id, one.passage.start): round(float(score), 4)
        for row, score in zip(rows, scores, strict=True)
        if row >= 0
        for one in store.passages([row])
    }


QUERIES = ["purring cats", "the dog and the dogs", "strasse", "学", "猫", "not the", "nothing of it", "rust!"]


@pytest.fixture(scope="module")
def three(tmp_path_factory, shared_toy):
    """The same documents in three stores."""
    folder = tmp_path_factory.mktemp("three")
    documents = some_documents(60)
    options = {"encoder": shared_toy, "max_tokens": 12}
    stores = {
        "folder": Index.build(folder / "i", documents, **options),
        "edge": QdrantStore.build(f"qdrant-edge:{folder / 'q'}", documents, **options),
        "client": QdrantStore.build("qdrant://localhost/q", documents, client=QdrantClient(":memory:"), **options),
    }
    yield stores
    for store in stores.values():
        store.close()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_first_stages_find_the_same_passages_with_the_same_scores(three, kind):
    local, store = three["folder"], three[kind]
    assert store.counts() == local.counts() and store.whole_documents == local.whole_documents
    for query in QUERIES:
        for where in (None, {"lang": "en"}, {"year": {">=": 1993}, "tags": ["x", "y"]}):
            everything = 500
            expected = by_document(local, *local.search_lexical(query, everything, where))
            found = by_document(store, *store.search_lexical(query, everything, where))
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)
            expected = by_document(local, *(part[0] for part in local.search_dense([query], everything, where)))
            found = by_document(store, *(part[0] for part in store.search_dense([query], everything, where)))
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)
        few = store.search_lexical(query, 3)[1]
        assert few == pytest.approx(local.search_lexical(query, 3)[1], rel=1e-5, abs=1e-7)


@pytest.fixture
def asked(monkeypatch):
    """The searches of each request that the engine of a store gets."""

    def watch(store):
        requests, search = [], store.engine.search
        monkeypatch.setattr(store.engine, "search", lambda some, *rest: requests.append(some) or search(some, *rest))
        return requests

    return watch


@pytest.mark.parametrize("kind", KINDS[1:])
def test_one_request_searches_by_embeddings_and_by_words(three, kind, asked, monkeypatch):
    store, queries, where = three[kind], [*QUERIES, "!"], {"lang": "en"}
    requests = asked(store)
    monkeypatch.setattr(qdrant_search, "_SEARCHES", 12)
    dense, words = store.search_both(queries, 7, where)
    assert [len(searches) for searches in requests] == [12, 2 * len(queries) - 13]  # one of them has no words
    monkeypatch.undo()
    requests = asked(store)
    for place, (rows, scores) in enumerate(zip(*store.search_dense(queries, 7, where), strict=True)):
        assert dense[place][0].tolist() == rows.tolist() and dense[place][1] == pytest.approx(scores)
        rows, scores = store.search_lexical(queries[place], 7, where)
        assert words[place][0].tolist() == rows.tolist() and words[place][1] == pytest.approx(scores)
    local, other = (Searcher(one, None, candidates=20) for one in (three["folder"], store))
    requests.clear()
    lists = zip(local.candidates(queries, where=where), other.candidates(queries, where=where), strict=True)
    assert all(same_ranking(ranking(one), ranking(same)) for one, same in lists)
    assert len(requests) == 1


def ranking(found):
    return {id: score for id, (_, score) in found.first.items()}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_search_gives_the_same_hits_scores_and_evidence(three, kind, shared_toy):
    reranker = LateInteractionReranker(reader=shared_toy)
    searchers = [Searcher(three[name], reranker, candidates=20) for name in ("folder", kind)]
    assert all(searcher.uses_kept_states for searcher in searchers)
    for query in QUERIES[:4]:
        one, other = (searcher.search(query, k=60, evidence="token", where={"lang": "de"}) for searcher in searchers)
        assert one.passages == other.passages
        assert sorted(round(hit.score, 3) for hit in one.hits) == sorted(round(hit.score, 3) for hit in other.hits)
        mine = {hit.id: hit for hit in other.hits}
        for hit in one.hits:
            same = mine[hit.id]
            assert same.score == pytest.approx(hit.score, abs=1e-4) and same.document == hit.document
            assert [(mark.start, mark.end) for mark in same.evidence] == [
                (mark.start, mark.end) for mark in hit.evidence
            ]


@pytest.mark.parametrize("kind", KINDS)
def test_passages_documents_and_states_are_what_was_written(three, kind, shared_toy):
    store, documents = three[kind], some_documents(60)
    assert {document.id: document for document in store.documents()} == {d.id: d for d in documents}
    assert store.document("d7") == documents[7] and store.document("d99") is None
    passages = store.passages_of(["d1", "d99", "d2"])
    assert {one.passage.document.id for one in passages} <= {"d1", "d2"}
    rows = np.array([one.row for one in passages])
    numbers = store.document_numbers(rows)
    assert len(set(numbers.tolist())) == len({one.passage.document.id for one in passages})
    for one, kept in zip(passages, store.token_states(passages), strict=True):
        read = shared_toy.read([one.passage.contents])
        scales = np.asarray(kept.keys.scales)[:, None]
        assert np.asarray(kept.keys.values) * scales == pytest.approx(read.states, abs=0.02)
        assert kept.spans.tolist() == read.spans.tolist() and kept.truncated == read.truncated[0]
    assert store.bm25("cats", [passages[0].row] * 2) == pytest.approx(
        three["folder"].bm25("cats", [three["folder"].passages_of([passages[0].passage.document.id])[0].row] * 2),
        rel=1e-5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_found_and_what_was_deleted_is_not(place, toy, kind):
    documents = some_documents(12)
    store = place(kind, documents, encoder=toy, max_tokens=8)
    with pytest.raises(DataError, match="'d3' is in the index already"):
        store.add([documents[3]])
    assert store.add([Document("new", "zebras run " * 10), Document("empty", "")]) == 2
    assert store.update([Document("d1", "short zebras"), Document("d2", "long zebras " * 20)]) == 2
    assert store.delete(["d3", "d4", "d3"]) == 2
    with pytest.raises(InputError, match="no document 'd3'"):
        store.delete(["d5", "d3"])
    left = {d.id: d for d in documents if d.id not in ("d3", "d4")}
    left |= {"d1": Document("d1", "short zebras"), "d2": Document("d2", "long zebras " * 20)}
    left |= {"new": Document("new", "zebras run " * 10), "empty": Document("empty", "")}
    assert {document.id: document for document in store.documents()} == left and len(store) == len(left)
    anew = place("folder", list(left.values()), "anew", encoder=toy, max_tokens=8)
    assert {k: v for k, v in store.counts().items() if k != "deleted_documents"} == {
        k: v for k, v in anew.counts().items() if k != "deleted_documents"
    }
    for query in ("zebras", "running dogs"):
        expected = by_document(anew, *anew.search_lexical(query, 100))
        assert by_document(store, *store.search_lexical(query, 100)) == pytest.approx(expected, rel=0.01, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_spread_over_the_index(place, toy, kind):
    documents = some_documents(40)
    store = place(kind, documents, encoder=toy)
    some = store.sample(4)
    assert some == store.sample(4) and all(document in documents for document in some)
    places = [documents.index(document) for document in some]
    assert len(set(places)) == 4 and (places == [0, 10, 20, 30] or kind != "folder")
    store.delete([f"d{number}" for number in range(2, 35)])
    left = [document.id for document in store.sample(40)]
    assert sorted(left) == sorted(["d0", "d1", *(f"d{number}" for number in range(35, 40))])


@pytest.mark.parametrize("kind", KINDS)
def test_update_skips_what_is_unchanged_but_in_qdrant_where_it_repairs(place, toy, kind):
    documents = some_documents(12)
    store = place(kind, documents, encoder=toy, max_tokens=8)
    assert store.update([*documents[:5], Document("d5", "short zebras")]) == (1 if kind == "folder" else 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["fp16", "pq4", "none"])
def test_every_form_of_token_states_is_kept(place, toy, kind, form):
    store = place(kind, some_documents(5), encoder=toy, token_states=form)
    [one] = store.passages_of(["d1"])
    states = store.token_states([one])
    if form == "none":
        assert states is None
    else:
        local = place("folder", some_documents(5), "other", encoder=toy, token_states=form)
        [expected] = local.token_states(local.passages_of(["d1"]))
        for mine, theirs in ((states[0].keys, expected.keys),):
            parts = [(mine, theirs)] if form == "fp16" else [(mine.values, theirs.values), (mine.scales, theirs.scales)]
            assert all(np.asarray(a) == pytest.approx(np.asarray(b), abs=1e-3) for a, b in parts)


def test_a_copy_has_all_that_the_index_has(place, toy, tmp_path):
    local = place("folder", some_documents(30), encoder=toy, max_tokens=10, token_states="int8")
    with QdrantStore.copy(local, f"qdrant-edge:{tmp_path / 'copy'}") as copied:
        assert copied.manifest.complete and copied.counts() == local.counts()
        built = place("edge", some_documents(30), encoder=toy, max_tokens=10)
        for query in ("purring cats", "学"):
            expected = by_document(built, *built.search_lexical(query, 50))
            assert by_document(copied, *copied.search_lexical(query, 50)) == pytest.approx(expected, rel=1e-5)
        passages = built.passages_of(["d1", "d2"])
        assert copied.passages_of(["d1", "d2"]) == passages  # ids of points are the same in every store
        for a, b in zip(copied.token_states(passages), built.token_states(passages), strict=True):
            assert (np.asarray(a.keys.values) == np.asarray(b.keys.values)).all()


# -- filters -----------------------------------------------------------------------------------------------------------

texts = st.sampled_from(["", "a", "1", "b", "2020-01-01", "é", "a" * 300, "a" * 300 + "b"])
ordered = st.sampled_from([-2, 0, 1, 2, 0.5, 1.0, 1e300, 2**53, 2**53 + 1, -(2**70), 10**400]) | texts
plain = ordered | st.booleans()
scalars = plain | st.none()
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
values |= st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "a.b"]), scalars, max_size=2) | st.lists(scalars), max_size=2
)
conditions = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "not in"])


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """Stores whose documents every example replaces."""
    options = {"encoder": "none", "token_states": "none", "max_tokens": 0}
    documents = [Document(f"d{n}", "word") for n in range(6)]
    folder = tmp_path_factory.mktemp("filters")
    stores = [
        QdrantStore.build(f"qdrant-edge:{folder / 'q'}", documents, **options),
        QdrantStore.build("qdrant://localhost/q", documents, client=QdrantClient(":memory:"), **options),
    ]
    yield stores
    for store in stores:
        store.close()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_filters_choose_the_same_documents(filtered, data):
    fields = st.sampled_from(["a", "b", "a.b", 'c"[]'])
    many = st.lists(st.dictionaries(fields, values, max_size=3), min_size=6, max_size=6)
    documents = [Document(f"d{n}", "word", "", metadata) for n, metadata in enumerate(data.draw(many))]
    for store in filtered:
        store.update(documents)
    for _ in range(6):
        field = data.draw(st.sampled_from(["a", "b", "a.b", "a.a.b", 'c"[]']))
        name = data.draw(conditions)
        if name in ("in", "not in"):
            value = data.draw(st.lists(plain, max_size=3))
        elif name in ("=", "!="):
            value = data.draw(scalars)
        else:
            value = data.draw(ordered)
        meant = Filter({field: {name: value}})
        expected = {d.id for d in documents if meant.meets(json.loads(json.dumps(d.metadata)))}
        refused = None
        if meant.may_mislead or not expected:
            refused = refusal(lambda meant=meant: meant.check(d.metadata for d in documents))
        for store in filtered:
            found = []
            where = {field: {name: value}}
            said = refusal(
                lambda store=store, where=where, found=found: found.append(store.search_lexical("word", 20, where)[0])
            )
            if said is not None and "first 200 characters" in said:
                continue
            assert said == refused
            if said is None:
                assert {one.passage.document.id for one in store.passages(found[0])} == expected


def refusal(call):
    """What a call refuses, without the example of an inner field, of which there may be several."""
    try:
        call()
    except InputError as error:
        return str(error).partition(", such as")[0]
    return None


def test_texts_that_are_too_many_to_be_ordered_are_refused(place, toy, monkeypatch):
    monkeypatch.setattr("sightline.retrieval.qdrant_filters._MOST_TEXTS", 5)
    store = place("edge", [Document(f"d{n}", "word", "", {"day": f"2020-01-{n:02}"}) for n in range(6)], encoder=toy)
    with pytest.raises(InputError, match="has more than 5 different texts, which is too many for '>' in Qdrant"):
        store.search_lexical("word", 5, {"day": {">": "2020-01-03"}})
    assert len(store.search_lexical("word", 5, {"day": ["2020-01-03", "2020-01-05"]})[0]) == 2


# -- several writers, and writers that end -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[1:])
def test_writes_may_be_repeated_and_overlap(place, toy, kind):
    documents, where = some_documents(24), place.where(kind)
    name = where.pop("name")
    store = QdrantStore.create(name, encoder=toy, max_tokens=8, **where)
    parts = [documents[:16], documents[8:], documents[4:20]]
    if kind == "client":  # the client's local mode is for one thread
        for part in parts * 2:
            store.write(part)
    else:
        threads = [threading.Thread(target=store.write, args=[part]) for part in parts * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    store.finish()
    anew = place("folder", documents, "anew", encoder=toy, max_tokens=8)
    assert store.counts() == anew.counts() and store.manifest.complete
    for query in QUERIES:
        expected = by_document(anew, *anew.search_lexical(query, 200))
        assert by_document(store, *store.search_lexical(query, 200)) == pytest.approx(expected, rel=1e-5, abs=1e-4)
    store.close()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_build_that_was_interrupted_anywhere_goes_on(place, toy, kind, monkeypatch):
    monkeypatch.setattr(writing, "BATCH_PASSAGES", 8)
    monkeypatch.setattr(qdrant_writing, "BATCH_PASSAGES", 8)
    engine = EdgeEngine if kind == "edge" else ServerEngine
    documents, real = some_documents(12), engine.upsert
    for end in (1, 3, 6):
        left = [end]

        def upsert(self, part, points, left=left, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(self, part, points, **options)

        monkeypatch.setattr(engine, "upsert", upsert)
        try:
            place(kind, documents, encoder=toy, max_tokens=6)
            break
        except KeyboardInterrupt:
            pass
    monkeypatch.setattr(engine, "upsert", real)
    place(kind, documents, encoder=toy, max_tokens=6)
    store = place.open(kind, encoder=toy)
    anew = place("folder", documents, "anew", encoder=toy, max_tokens=6)
    assert store.counts() == anew.counts() and store.manifest.complete
    assert {d.id: d for d in store.documents()} == {d.id: d for d in documents}
    with pytest.raises(IndexStoreError, match="has 12 documents, not 11"):
        place(kind, documents[1:], encoder=toy, max_tokens=6)
    with pytest.raises(IndexMismatchError, match="other settings"):
        place(kind, documents, encoder=toy, max_tokens=7)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_index_is_replaced_at_once_and_can_be_searched_meanwhile(place, toy, kind):
    old = place(kind, some_documents(6), encoder=toy)

    def stream():
        for document in some_documents(9, seed=5):
            yield document
            assert len(old) == 6

    if kind == "edge":
        old.close()
        old = [0] * 6
    new = place(kind, stream(), encoder=toy, max_tokens=9, overwrite=True)
    assert len(new) == 9 and new.manifest.passages.max_tokens == 9
    assert {d.id: d for d in place.open(kind, encoder=toy).documents()} == {d.id: d for d in some_documents(9, seed=5)}
    if kind == "client":
        names = {alias.alias_name for alias in new.engine._client.get_aliases().aliases}
        assert names == {"store", "store-states"} and len(new.engine._client.get_collections().collections) == 2


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_passage_that_changes_during_a_search_is_searched_again(place, toy, kind):
    store = place(kind, [Document("a", "cats purr"), Document("b", "dogs bark")], encoder=toy)
    rounds = []

    def work():
        rows, _ = store.search_lexical("cats", 5)
        if len(rounds) < 2:
            store.update([Document("a", f"cats {len(rounds)}")])
        rounds.append(rows)
        return store.passages(rows)

    [found] = store.read(work)
    assert len(rounds) == 3 and found.passage.document.text == "cats 1"


def test_a_half_written_document_shows_no_passage_of_another_time(place, toy):
    store = place("edge", [Document("a", "cats purr. " * 8)], encoder=toy, max_tokens=4)
    before = store.passages_of(["a"])
    head = store.engine.retrieve("passages", [before[0].row], ["digest"])[before[0].row]
    assert len(before) > 2 and head["digest"]
    other = Point(before[1].row, {}, {"digest": "0", "start": 0, "end": 1, "truncated": 0, "tokens": 1, "passage": 1})
    store.engine.upsert("passages", [other])
    assert [one.row for one in store.passages_of(["a"])] == [one.row for one in before if one.row != other.id]
    store.update([Document("a", "cats purr. " * 8)])
    assert [one.passage for one in store.passages_of(["a"])] == [one.passage for one in before]


# -- what is wrong is said ---------------------------------------------------------------------------------------------


def damage_manifest(store):
    store.engine.upsert("passages", [Point(qdrant_points.RECORD, {}, {"layout": 2, "manifest": "{}", "sum": "0"})])


def lose_manifest(store):
    store.engine.delete("passages", Where(ids=(qdrant_points.RECORD,)))


def other_layout(store):
    store.engine.upsert("passages", [Point(qdrant_points.RECORD, {}, {"layout": 9, "manifest": "{}", "sum": "0"})])


def lose_a_vector(store):
    [one] = store.passages_of(["d1"])
    payload = store.engine.retrieve("passages", [one.row], ["id", "title", "text", "metadata", "digest", "length"])
    store.engine.upsert("passages", [Point(one.row, {}, payload[one.row] | {"passage": 0, "document": "d"})])


def other_dims(store):
    manifest = store.manifest
    other = dataclasses.replace(manifest, encoder=dataclasses.replace(manifest.encoder, dim=7))
    store.engine.upsert("passages", [qdrant_points.record_of(other)])


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (damage_manifest, IndexCorruptError, "the manifest is damaged"),
        (lose_manifest, IndexStoreError, "there is no manifest"),
        (other_layout, IndexStoreError, "has layout 9, and this version of Sightline reads layout 2"),
        (
            lose_a_vector,
            IndexCorruptError,
            r"without the vector 'dense' would never be found \(1, .* document 'd1'",
        ),
        (other_dims, IndexCorruptError, r"has the vectors dense \(7\) and words"),
    ],
)
def test_malformed_stores_are_refused_by_name(place, toy, kind, damage, error, message):
    store = place(kind, some_documents(4), encoder=toy)
    damage(store)
    store.close()
    with pytest.raises(error, match=message):
        place.open(kind)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_lost_states_are_read_anew_and_said(place, toy, kind, caplog):
    store = place(kind, some_documents(6), encoder=toy)
    expected = Searcher(store, LateInteractionReranker(reader=toy)).search("cats", 6)
    [one] = store.passages_of(["d1"])
    store.engine.delete("states", Where(ids=(one.states,)))
    found = Searcher(store, LateInteractionReranker(reader=toy)).search("cats", 6)
    assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
    assert "a passage of document 'd1' has no token states" in caplog.text
    store.update(some_documents(6)[1:2])
    assert store.token_states(store.passages_of(["d1"]))[0] is not None


def test_another_encoder_and_other_settings_are_refused(place, toy):
    place("edge", some_documents(3), encoder=toy).close()
    other = type(toy)(dim=32, name="other", revision="other-1")
    with pytest.raises(IndexMismatchError, match="gives other embeddings"):
        place.open("edge", encoder=other)
    name = place.where("edge", "else")["name"]
    for options, message in (
        ({"faiss": "IVF16,Flat"}, "set faiss to 'Flat'"),
        ({"lexical": "tantivy"}, "or 'none', not 'tantivy'"),
        ({"decoder_states": object()}, "decoder states are not kept in Qdrant"),
    ):
        with pytest.raises(InputError, match=message):
            QdrantStore.build(name, some_documents(2), encoder=toy, **options)
    with pytest.raises(DataError, match="no documents"):
        QdrantStore.build(name, [], encoder=toy)
    with pytest.raises(IndexStoreError, match="there is no index"):
        open_store(name)


def test_a_store_without_words_or_without_vectors_is_searched_by_what_it_has(place, toy):
    dense = place("edge", some_documents(5), "dense", encoder=toy, lexical="none")
    assert Searcher(dense, None).first_stage == "dense" and Searcher(dense, None).search("cats").hits
    words = place("edge", some_documents(5), "words", encoder="none", max_tokens=0)
    assert Searcher(words, None).first_stage == "bm25" and Searcher(words, None).search("cats").hits
    with pytest.raises(InputError, match="without a lexical index"):
        dense.search_lexical("cats", 3)
    with pytest.raises(InputError, match="without embeddings"):
        words.search_dense(["cats"], 3)


def test_an_edge_store_is_open_in_one_process_and_often_in_it(place, toy):
    store = place("edge", some_documents(3), encoder=toy)
    again = place.open("edge", encoder=toy)
    again.update([Document("d0", "zebras")])
    assert len(store.search_lexical("zebras", 3)[0]) == 1
    engine = "from sightline.retrieval.qdrant_edge import EdgeEngine, Where"  # without torch, which takes seconds
    code = f"{engine}; EdgeEngine({store.path.partition(':')[2]!r}).count(Where())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process has it open" in ran.stderr and IndexLockedError.__name__ in ran.stderr
    store.close()
    with pytest.raises(IndexStoreError, match="was closed"):
        store.counts()
    assert pickle.loads(pickle.dumps(again)).counts() == again.counts()


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(monkeypatch):
    waited = []
    monkeypatch.setattr(ServerEngine, "_sleep", staticmethod(waited.append))
    api = QdrantApi()
    api.waited = waited
    yield api
    api.close()


def test_a_server_is_asked_for_what_a_search_needs(api, place, toy):
    documents, name = some_documents(30), f"qdrant://{api.address}/pets"
    local = place("folder", documents, encoder=toy, max_tokens=9)
    with build_store(name, documents, encoder=toy, max_tokens=9) as store:
        searchers = [Searcher(one, LateInteractionReranker(reader=toy), candidates=10) for one in (local, store)]
        one, other = (searcher.search("purring cats", 10) for searcher in searchers)
        assert [round(hit.score, 3) for hit in one.hits] == [round(hit.score, 3) for hit in other.hits]
        before = store.traffic.bytes
        api.seen.clear()
        searchers[1].search("purring cats", 10)
        # Both searches, the passages with their documents, the states, and BM25 of what was found by meaning: no more.
        assert [seen[-1] for seen in api.seen] == ["batch", "points", "points", "batch"]
        assert store.traffic.bytes > before > 0 and store.traffic.requests > 5
    with open_store(name, encoder=toy) as again:
        assert len(again) == 30


def test_lost_and_refused_requests_are_sent_again_and_slow_ones_are_not(api, toy):
    name = f"qdrant://{api.address}/pets"
    build_store(name, some_documents(3), encoder=toy).close()
    with open_store(name, encoder=toy, retries=2, timeout=2) as store:
        api.faults[:] = [503, 429]
        assert store.counts()["documents"] == 3 and len(api.waited) == 2
        store._contents.forget()
        api.faults[:] = ["lost", "lost"]
        assert store.counts()["documents"] == 3
        store._contents.forget()
        api.faults[:] = [503] * 3
        with pytest.raises(IndexStoreError, match=r"the server answered 503: as the test wants it; tried 3 times"):
            store.counts()
        api.faults[:] = [403]
        with pytest.raises(IndexStoreError, match="refused the key .* QDRANT_API_KEY"):
            store.counts()
        api.faults[:] = [2.5]
        with pytest.raises(IndexStoreError, match=r"no answer within 2 s"):
            store.counts()
    with open_store(f"{name}?timeout=1&retries=0", encoder=toy, timeout=9) as store:
        api.faults[:] = [503]
        with pytest.raises(IndexStoreError, match=r"the server answered 503: as the test wants it; what was written"):
            store.counts()
        store._contents.forget()
        api.faults[:] = [1.5]
        with pytest.raises(IndexStoreError, match=r"no answer within 1 s; allow more, as in .*\?timeout=300"):
            store.counts()
    api.close()
    with pytest.raises(IndexStoreError, match="the connection failed .*check that the server is running"):
        open_store(name, retries=1)


@pytest.mark.parametrize(
    "name",
    ["qdrant-edge:", "qdrant://", "qdrant://host", "qdrant://host:0/x", "qdrant://u:p@host/x", "qdrant:host/x"],
)
def test_names_that_are_none_are_refused(name):
    with pytest.raises(InputError):
        StoreName.parse(name)


@pytest.mark.parametrize(
    ("end", "timeout", "retries"),
    [("", None, None), ("?timeout=2.5", 2.5, None), ("?retries=0", None, 0), ("?retries=5&timeout=300", 300, 5)],
)
def test_the_name_of_a_server_says_how_long_it_may_take(end, timeout, retries):
    name = StoreName.parse(f"qdrants://host/x{end}")
    assert name == ("qdrant", "https://host:6333", "x", timeout, retries)


@pytest.mark.parametrize(
    "end",
    ["?", "?timeout", "?timeout=", "?timeout=soon", "?retries=1.5", "?time=3", "?timeout=1&timeout=2", "?timeout=1&"],
)
def test_what_else_stands_behind_the_name_of_a_server_is_refused(end):
    with pytest.raises(InputError, match=r"\?timeout=SECONDS&retries=NUMBER"):
        StoreName.parse(f"qdrant://host/x{end}")


def test_terms_of_passages_are_those_of_fts5():
    [words] = passage_words(["Cats running, 学ぶ学"])
    assert words.counts == {"cat": 1, "run": 1, "学ぶ": 1, "ぶ学": 1, "学": 1, "学*": 2, "ぶ*": 1} and words.length == 5
    assert payload_of({"a": [1, 2**60 + 1]})["big"] and Among("x", ["y"]).values == ["y"]
