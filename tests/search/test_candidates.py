"""Candidate lists: what lies between the two steps of a search, and that it stands for itself."""

import contextlib
import dataclasses
import sqlite3

import pytest

from sightline.documents import Document, Passage
from sightline.errors import InputError
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.retrieval.bm25 import SMALL, blended_bm25
from sightline.retrieval.index import Index
from sightline.search import CandidateList, Searcher, first_stage

DOCUMENTS = [
    Document("cat", "The cat purrs loudly. It sleeps all day.", "Felines", {"lang": "en"}),
    Document("dog", "The dog barks at strangers.", "Canines", {"lang": "en"}),
    Document("cow", "The cow eats grass.", "Cattle", {"lang": "de"}),
    # Many passages: the toy reads 62 words at once.
    Document("saga", " ".join(f"Chapter {i} tells how a zebra crossed river number {i}." for i in range(40)), "Saga"),
]
STAGES = ["dense", "bm25", "hybrid"]
QUERIES = ["cat purrs and dog barks", "zebra crossed river number 31", "grass"]


@pytest.fixture(scope="module")
def index(shared_toy, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("c") / "i", DOCUMENTS, encoder=shared_toy, token_states="fp16") as index:
        yield index


def make_reranker(reader, layout="minilm"):
    return LateInteractionReranker(load_layout(layout), reader)


@pytest.fixture(scope="module")
def reranker(shared_toy):
    return make_reranker(shared_toy)


def comparable(result):
    return dataclasses.replace(result, milliseconds={})


# -- two steps are a search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reranked", [True, False])
@pytest.mark.parametrize("unit", ["document", "passage"])
@pytest.mark.parametrize("where", [None, {"lang": "en"}])
def test_candidates_and_rank_are_a_search(index, reranker, stage, reranked, unit, where):
    searcher = Searcher(index, reranker if reranked else None, first_stage=stage)
    evidence = "sentence" if reranked else None
    expected = searcher.search_batch(QUERIES, 7, where=where, evidence=evidence, unit=unit)
    lists = searcher.candidates(QUERIES, where=where)
    results = [searcher.rank(candidates, k=7, evidence=evidence, unit=unit) for candidates in lists]
    assert [comparable(result) for result in results] == [comparable(result) for result in expected]
    assert [set(result.milliseconds) for result in results] == [set(result.milliseconds) for result in expected]


@pytest.mark.parametrize("stage", STAGES)
def test_a_list_says_what_the_first_stage_found(index, reranker, stage):
    plain = Searcher(index, None, first_stage=stage).search(QUERIES[1], 50)
    [candidates] = Searcher(index, reranker, first_stage=stage).candidates([QUERIES[1]])
    assert (candidates.query, candidates.first_stage) == (QUERIES[1], stage)
    assert candidates.first == {hit.id: (hit.rank, hit.score) for hit in plain.hits}
    assert candidates.ids == [hit.id for hit in plain.hits]
    assert len(candidates.passages) == len(candidates.scores) == len(candidates.states) == plain.passages
    by_id = {document.id: document for document in DOCUMENTS}
    assert all(passage.document == by_id[passage.document.id] for passage in candidates.passages)


def test_first_stages_that_are_compared_give_what_each_gives_alone(index, reranker):
    several = Searcher(index, None).candidates_each(QUERIES, STAGES, [reranker, None])
    for stage in STAGES:
        searcher = Searcher(index, reranker, first_stage=stage)
        for lists, alone in zip(several, searcher.candidates(QUERIES), strict=True):
            assert lists[stage].first == alone.first and lists[stage].passages == alone.passages
            assert comparable(searcher.rank(lists[stage])) == comparable(searcher.rank(alone))
    assert Searcher(index, None).candidates_each(QUERIES, []) == [{}, {}, {}]


@pytest.mark.parametrize("stage", ["dense", "bm25"])
@pytest.mark.parametrize("candidates", [1, 2, 4, 100])
@pytest.mark.parametrize("where", [None, {"lang": "en"}])
def test_how_deep_a_first_stage_looks_at_first_changes_nothing(index, stage, candidates, where, monkeypatch):
    assert not index.whole_documents
    found = []
    for depth in (1, 2, 8):
        monkeypatch.setattr(first_stage, "_depth", lambda index, candidates, depth=depth: depth * candidates)
        lists = first_stage.retrieve(index, QUERIES, [stage], candidates, where=where)[stage]
        found.append([(each.rows, each.documents, each.scores) for each in lists])
    assert found[0] == found[1] == found[2]


def test_whole_documents_follow_what_is_added_and_deleted(tmp_path, shared_toy):
    with Index.build(tmp_path / "i", DOCUMENTS[:2], encoder=shared_toy) as index:
        assert index.whole_documents
        index.add([Document("long", "one two three four five. " * 40)])
        assert not index.whole_documents
        index.delete(["long"])
        assert index.whole_documents


def test_an_index_without_the_table_of_decoder_states_is_searched(tmp_path, shared_toy, reranker):
    Index.build(tmp_path / "i", DOCUMENTS, encoder=shared_toy, token_states="fp16").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "i" / "documents.sqlite")) as database:
        database.execute("DROP TABLE decoder_passages")
    with Index.open(tmp_path / "i", encoder=shared_toy, verify=False) as index:
        assert Searcher(index, reranker).search(QUERIES[0]).hits[0].id in ("cat", "dog")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("evidence", [None, "sentence"])
def test_a_search_makes_three_statements_beside_those_of_bm25(index, reranker, stage, evidence, statements):
    searcher = Searcher(index, reranker, first_stage=stage)
    searcher.search(QUERIES[0])  # the index has mapped its files now
    with statements(index) as made:
        assert searcher.search(QUERIES[1], evidence=evidence).hits
    words = [sql for sql in made if "FROM lexical" in sql]
    others = [sql for sql in made if sql not in words]
    # Whether somebody has committed, before and after. In between: passages and their states' places, their documents,
    # and whether the passages are enough for statistics of words.
    assert [sql.split()[0] for sql in others] == ["PRAGMA", "SELECT", "SELECT", "SELECT", "PRAGMA"]
    assert "COUNT" in others[3] and f"LIMIT {SMALL}" in others[3]
    assert len(words) <= 1 + (stage == "hybrid")  # what was found by words, and BM25 of what was not


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("where", [None, {"lang": "en"}])
def test_candidates_bring_the_bm25_of_their_index_to_those_who_use_it(index, reranker, shared_toy, stage, where):
    searcher = Searcher(index, reranker, first_stage=stage)
    for query, candidates in zip(QUERIES, searcher.candidates(QUERIES, where=where), strict=True):
        rows, scores = index.search_lexical(query, 100)
        found = {
            (passage.passage.document.id, passage.passage.start): score
            for passage, score in zip(index.passages(rows), scores.tolist(), strict=True)
        }
        own = [found.get((passage.document.id, passage.start), 0.0) for passage in candidates.passages]
        texts = [passage.contents for passage in candidates.passages]
        expected = blended_bm25(query, texts, own, index.counts()["passages"])
        assert list(candidates.bm25) == expected and (where or expected != own)
        kept = candidates.arranged(candidates.ids[::-1])
        by_place = {(p.document.id, p.start): score for p, score in zip(candidates.passages, expected, strict=True)}
        assert list(kept.bm25) == [by_place[p.document.id, p.start] for p in kept.passages]
    attention = make_reranker(shared_toy, "minilm-log-mass")
    assert Searcher(index, attention, first_stage=stage).candidates(QUERIES)[0].bm25 is None


def test_min_score_leaves_out_what_is_not_relevant(index, reranker, shared_toy):
    searcher = Searcher(index, reranker)
    hits = searcher.search(QUERIES[0]).hits
    assert [hit.relevance for hit in hits] == [reranker.relevance(hit.score) for hit in hits]
    for threshold in (0, hits[1].relevance, 1):
        cut = searcher.search(QUERIES[0], min_score=threshold)
        assert [hit.id for hit in cut.hits] == [hit.id for hit in hits if hit.relevance >= threshold]
        [candidates] = searcher.candidates([QUERIES[0]])
        assert comparable(searcher.rank(candidates, min_score=threshold)) == comparable(cut)
    with pytest.raises(InputError, match="min_score needs a reranker"):
        Searcher(index, None).search(QUERIES[0], min_score=0.5)
    with pytest.raises(InputError, match="relative to their list"):
        Searcher(index, make_reranker(shared_toy, "minilm-mass")).search(QUERIES[0], min_score=0.5)


# -- a list stands for itself ------------------------------------------------------------------------------------------


def test_a_list_can_be_ranked_when_its_index_is_changed_or_closed(shared_toy, reranker, tmp_path):
    with Index.build(tmp_path / "i", DOCUMENTS, encoder=shared_toy, token_states="int8") as index:
        searcher = Searcher(index, reranker)
        before = searcher.search(QUERIES[0], evidence="token")
        [candidates] = searcher.candidates([QUERIES[0]])
        index.delete(["cat", "dog"])
        assert {hit.id for hit in searcher.search(QUERIES[0]).hits} == {"cow", "saga"}
        assert comparable(searcher.rank(candidates, evidence="token")) == comparable(before)
    assert comparable(searcher.rank(candidates, evidence="token")) == comparable(before)


def test_kept_states_go_to_their_own_reader_only(index, reranker, shared_toy):
    searcher = Searcher(index, reranker)
    [candidates] = searcher.candidates([QUERIES[0]])
    assert candidates.states_for(reranker) == candidates.states is not None
    assert candidates.states_for(make_reranker(shared_toy, "minilm-mass")) is not None
    other = make_reranker(type(shared_toy)(revision="toy-2"))
    assert candidates.states_for(other) is None
    read, real = [], other.reader.read
    other.reader.read = lambda texts, **options: read.extend(texts) or real(texts, **options)
    assert comparable(searcher.rank(candidates, other)).hits
    assert set(read) == {QUERIES[0], *(passage.contents for passage in candidates.passages)}
    assert Searcher(index, reranker, kept_states=False).candidates([QUERIES[0]])[0].states is None
    assert Searcher(index, None).candidates([QUERIES[0]])[0].states is None


def test_a_list_is_ranked_by_the_reranker_that_is_named(index, reranker, shared_toy):
    searcher = Searcher(index, reranker)
    [candidates] = searcher.candidates([QUERIES[0]])
    other = make_reranker(shared_toy, "minilm-maxsim")
    expected = Searcher(index, other).search(QUERIES[0])
    assert comparable(searcher.rank(candidates, other)) == comparable(expected)
    assert comparable(searcher.rank(candidates)) == comparable(searcher.search(QUERIES[0]))


# -- lists of one's own ------------------------------------------------------------------------------------------------


def test_your_own_documents_are_ranked_like_candidates(index, reranker):
    documents = [DOCUMENTS[1], DOCUMENTS[2], DOCUMENTS[0]]
    candidates = CandidateList.of(QUERIES[0], documents, {"cat": 1.0, "cow": 2.0, "dog": 3.0})
    hits = Searcher(index, reranker).rank(candidates, evidence="sentence").hits
    assert [(hit.id, hit.score) for hit in hits] == [
        (item.document.id, item.score) for item in reranker.rank(QUERIES[0], documents)
    ]
    assert {hit.id: (hit.first_rank, hit.first_score) for hit in hits} == candidates.first
    assert candidates.first == {"dog": (1, 3.0), "cow": (2, 2.0), "cat": (3, 1.0)}
    assert CandidateList.of("q", documents).first == {"dog": (1, -1.0), "cow": (2, -2.0), "cat": (3, -3.0)}
    plain = Searcher(index, None).rank(candidates, k=2)
    assert [(hit.id, hit.score) for hit in plain.hits] == [("dog", 3.0), ("cow", 2.0)]


def make(ids):
    return CandidateList.of("q", [Document(id, f"text {place}") for place, id in enumerate(ids)])


def test_documents_move_with_all_their_passages():
    candidates = make(["a", "b", "a", "c"])
    assert candidates.ids == ["a", "b", "c"]
    moved = candidates.arranged(["c", "a"])
    assert [(block.id, block.text) for block in moved.blocks] == [("c", "text 3"), ("a", "text 0"), ("a", "text 2")]
    assert moved.scores == (-3.0, -1.0, -1.0) and moved.first == candidates.first
    assert [block.text for block in candidates.top(2).blocks] == ["text 0", "text 2", "text 1"]
    assert candidates.arranged(["a", "unknown"]).ids == ["a"]


def test_what_is_added_and_what_is_renamed(index):
    candidates = make(["a", "b"])
    more = candidates.with_blocks([(Document("x", "new"), None)], 1)
    assert (more.ids, more.states) == (["a", "x", "b"], None)
    with pytest.raises(InputError, match="'x' has no place in the first stage"):
        Searcher(index, None).rank(more)
    swapped = candidates.renamed({"a": "b", "b": "a"})
    assert [(block.id, block.text) for block in swapped.blocks] == [("b", "text 0"), ("a", "text 1")]
    assert swapped.first == {"b": (1, -1.0), "a": (2, -2.0)}


def test_states_stay_with_their_passages(shared_toy):
    candidates = make(["a", "b", "a"]).with_states(shared_toy, ["A1", "B", "A2"])
    assert candidates.arranged(["b", "a"]).states == ("B", "A1", "A2")
    assert candidates.with_blocks([(Document("x", "new"), "X")], 1).states == ("A1", "X", "B", "A2")
    assert candidates.renamed({"a": "1", "b": "2"}).states_for(make_reranker(shared_toy)) == ("A1", "B", "A2")


def test_a_block_is_its_passage():
    document = Document("d", "One two. Three four.", "Title", {"lang": "en"})
    candidates = CandidateList.of("q", [Passage(document, 9, 20), document])
    part, all_of_it = candidates.blocks
    assert part == Document("d", "Three four.", "Title") and all_of_it is document


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"k": 0}, {"unit": "page"}, {"evidence": "word"}, {"reranker": "nothing"}])
def test_a_bad_argument_of_rank_is_refused(index, reranker, options):
    searcher = Searcher(index, reranker)
    [candidates] = searcher.candidates(["cat"])
    with pytest.raises(InputError):
        searcher.rank(candidates, **options)


def test_evidence_needs_a_reranker(index):
    searcher = Searcher(index, None)
    with pytest.raises(InputError, match="needs a reranker"):
        searcher.rank(searcher.candidates(["cat"])[0], evidence="token")


@pytest.mark.parametrize("queries", ["cat", [""], [None], ["half \ud800"]])
def test_bad_queries_have_no_candidates(index, queries):
    with pytest.raises(InputError, match="quer"):
        Searcher(index, None).candidates(queries)


def test_an_unknown_first_stage_is_refused(index):
    with pytest.raises(InputError, match="not 'learned'"):
        Searcher(index, None).candidates_each(["cat"], ["dense", "learned"])
