"""Length, copies, twins and ids: known preferences are caught and quantified, and what has none shows zero."""

import dataclasses
import math

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval.bias import measure_documents
from sightline.rerank import load_reranker
from sightline.search import CandidateList

TEXTS = ["gold two", "a one two three four five six seven", "b one two three", "c one two"]
GOLD = {"q": {"d0": 1}}


def measured(reranker, lists, qrels=GOLD):
    return measure_documents("x", reranker, lists, qrels)


def by_worth(place, blocks, query):
    return {"g": 3, "a": 2, "b": 1, "c": 0}[blocks[place].text[0]]


def words(place, blocks, query):
    return len(blocks[place].contents.split())


def test_what_has_no_preference_shows_exactly_zero(known, make_list):
    bias = measured(known(by_worth), [("q", make_list(TEXTS))])
    assert (bias.length.queries, bias.length.gold_above_longest.mean, bias.length.gold_above_others.mean) == (1, 1, 1)
    for copies, n in zip(bias.copies, (1, 4), strict=True):
        assert (copies.queries, copies.copies, copies.gold_rank_change.mean) == (1, n, 0.0)
        assert copies.reordered == copies.unequal == copies.largest_difference == 0.0
    assert (bias.ids.changed, bias.ids.largest_difference, bias.ids.tau.mean) == (0.0, 0.0, 1.0)
    assert bias.twins == ()  # one sentence, no title: nothing to take away


def test_who_prefers_long_texts(known, make_list):
    length = measured(known(words), [("q", make_list(TEXTS)), ("r", make_list(TEXTS))], {"q": {"d0": 1}}).length
    assert length.queries == 1  # 2 words are at most half of 8; r has no relevant document
    assert (length.gold_above_longest.mean, length.gold_above_others.mean) == (0.0, 0.0)
    assert length.length_tau.mean == 1.0
    opposite = measured(known(lambda *given: -words(*given)), [("q", make_list(TEXTS))]).length
    assert (opposite.gold_above_longest.mean, opposite.length_tau.mean) == (1.0, -1.0)
    # Above the 3-word and 4-word texts, below the longest alone.
    capped = known(lambda place, blocks, query: {8: 9, 2: 5}.get(words(place, blocks, query), 1))
    assert measured(capped, [("q", make_list(TEXTS))]).length.gold_above_others.mean == pytest.approx(2 / 3)


def test_at_most_half_as_long_is_the_condition(known, make_list):
    for gold, queries in [("g " * 4, 1), ("g " * 5, 0)]:
        length = measured(known(words), [("q", make_list([gold.strip(), *TEXTS[1:]]))]).length
        assert length.queries == queries
        assert (length.gold_above_longest is None) == (not queries)


def test_lengths_of_a_first_stage(make_list):
    bias = measured(None, [("q", make_list([TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[3]]))], {"q": {"d1": 1}})
    assert bias.length.gold_above_longest.mean == 0.0
    assert bias.length.gold_above_others.mean == pytest.approx(2 / 3) and bias.length.length_tau.mean == 1.0
    assert bias.copies == bias.twins == () and bias.ids is None
    assert {"system", "queries", "short_queries", "length_tau"} < set(bias.as_dict())


def test_who_lets_copies_vote(known, make_list):
    """Worth 1 for each document of the same text: the best other (2 points) passes the gold (3) with 2 more."""

    def votes(place, blocks, query):
        same = sum(block.text == blocks[place].text for block in blocks)
        return by_worth(place, blocks, query) + same - 1

    single, four = measured(known(votes), [("q", make_list(TEXTS))]).copies
    assert (single.gold_rank_change.mean, single.reordered) == (0.0, 0.0)  # 3 to 3, and the tie goes by id
    assert (four.gold_rank_change.mean, four.reordered, four.unequal) == (1.0, 1.0, 0.0)


def test_who_scores_copies_unequally(known, make_list):
    reranker = known(lambda place, blocks, query: by_worth(place, blocks, query) - 0.25 * (place >= 4))
    single, four = measured(reranker, [("q", make_list(TEXTS))]).copies
    assert (single.unequal, single.largest_difference, single.gold_rank_change.mean) == (1.0, 0.25, 0.0)
    assert four.largest_difference == 0.25
    assert [block.id for block in reranker.calls[1]] == ["d0", "d1", "d2", "d3", "d1-copy1"]


def test_copies_never_take_an_id_that_is_there(known):
    blocks = tuple(Document(id, text) for id, text in zip(["d0", "d1", "d1-copy1", "d1-copy3"], TEXTS, strict=True))
    reranker = known(by_worth)
    measured(reranker, [("q", CandidateList.of("q", blocks))])
    assert [block.id for block in reranker.calls[2]][4:] == ["d1-copy2", "d1-copy4", "d1-copy5", "d1-copy6"]


def test_who_reads_the_title(known, make_list):
    """Without its title the gold falls from 5 to 3 points, between others of 4 and 2; its sentences do not count."""
    texts = ["gold 3. More of it. And more.", "a 4.", "b 2."]
    titled = make_list(texts, titles=["Title", "", ""])

    def read(place, blocks, query):
        points = {"g": 3, "M": 3, "a": 4, "b": 2}[blocks[place].text[0]]
        return points + 2 * bool(blocks[place].title)

    twins = {twin.edit: twin for twin in measured(known(read), [("q", titled)]).twins}
    assert list(twins) == ["title dropped", "first sentence dropped", "last sentence dropped"]
    dropped = twins["title dropped"]
    assert dropped.score_change.mean == pytest.approx(-2 / np.std([5, 4, 2, 3]))
    assert (dropped.rank_change.mean, dropped.above) == (2.0, 0.0)
    for edit in ("first sentence dropped", "last sentence dropped"):
        assert twins[edit].score_change.mean == 0.0 and abs(twins[edit].rank_change.mean) == 1.0


def test_what_a_twin_is(known, make_list):
    reranker = known(lambda place, blocks, query: len(blocks[place].text))
    titled = make_list(["One here. Two here. Three here.", "a.", "b."], titles=["T", "", ""])
    measured(reranker, [("q", titled)])
    twins = [blocks[-1] for blocks in reranker.calls if blocks[-1].id == "d0-twin1"]
    assert [(twin.title, twin.text) for twin in twins] == [
        ("", "One here. Two here. Three here."), ("T", "Two here. Three here."), ("T", "One here. Two here."),
    ]  # fmt: skip


def test_who_reads_the_id(known, make_list):
    reranker = known(lambda place, blocks, query: float(blocks[place].id[1:]))
    ids = measured(reranker, [("q", make_list(["a one", "b two"]))], {}).ids
    # Two documents can only swap their ids: both scores change by 1, and the order turns round.
    assert (ids.changed, ids.largest_difference, ids.tau.mean) == (1.0, 1.0, -1.0)
    assert [[(b.id, b.text) for b in blocks] for blocks in reranker.calls[-1:]] == [[("d1", "a one"), ("d0", "b two")]]


def test_who_only_rounds_by_batch_is_not_said_to_read_ids(known, make_list):
    class Batched(known):
        def _score(self, lists):
            self.score = lambda place, blocks, query: len(blocks[place].text) + 1e-9 * len(lists)
            return super()._score(lists)

    bias = measured(Batched(None), [("q", make_list(TEXTS))])
    assert bias.ids.changed == bias.ids.largest_difference == 0.0


def test_near_duplicates_of_some_queries_only(known, make_list):
    lists = [(id, make_list(["g one. Two.", "a"])) for id in "qrs"]
    qrels = {id: {"d0": 1} for id in "qrs"}
    bias = measure_documents("x", known(words), lists, qrels, twins_of={"r"})
    assert [twin.queries for twin in bias.twins] == [1, 1] and bias.copies[0].queries == 3


def test_the_default_reranker_reads_no_id_and_scores_copies_alike():
    texts = ["Cats purr when they are content. They sleep.", "Dogs bark at strangers.", "Cats are cats.", "Cows eat."]
    blocks = tuple(Document(f"d{i}", text, "On " + text[:4]) for i, text in enumerate(texts))
    bias = measured(load_reranker(), [("q", CandidateList.of("what do happy cats do", blocks))])
    assert bias.ids.largest_difference == 0.0 and bias.ids.changed == 0.0
    assert [copies.largest_difference for copies in bias.copies] == [0.0, 0.0]
    assert [copies.reordered for copies in bias.copies] == [0.0, 0.0]
    assert [twin.edit for twin in bias.twins] == ["title dropped", "first sentence dropped", "last sentence dropped"]
    assert all(math.isfinite(twin.score_change.mean) and twin.score_change.mean != 0 for twin in bias.twins)


def test_words_are_scored_alike_with_and_without_copies(make_list):
    documents = make_list(["Cats purr. They do.", "Dogs bark.", "Cows moo."], query="what do cats do")
    documents = dataclasses.replace(documents, bm25=(0.5, 70.0, 30.0))  # of an index, and far from the background's
    bias = measure_documents("minilm", load_reranker("minilm"), [("q", documents)], GOLD)
    assert {(copies.reordered, copies.gold_rank_change.mean) for copies in bias.copies} == {(0.0, 0.0)}
    assert bias.ids.changed == 0.0


def test_the_row_is_flat_but_for_its_bins(known, make_list):
    row = measured(known(by_worth), [("q", make_list(TEXTS))]).as_dict()
    assert row["system"] == "x" and row["short_queries"] == 1 and row["ids_exchanged_largest_difference"] == 0.0
    assert row["copy_gold_rank_change"] == row["4_copies_gold_rank_change"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert row.pop("bins")[0]["queries"] == 1 and row.pop("psi")["value"] is None
    for value in row.values():
        assert value is None or isinstance(value, str | int | float) or set(value) == {"mean", "low", "high"}


def test_relevant_documents_are_binned_by_length(known, make_list):
    texts = {"short": ["gold", "one two"], "long": ["gold " * 60, "one two"]}
    lists = [(f"{name}{i}", make_list(pair)) for name, pair in texts.items() for i in range(3)]
    bias = measured(known(words), lists, {id: {"d0": 1} for id, _ in lists})
    assert [(bin.label, bin.queries, bin.mean) for bin in bias.bins] == [("1-25", 3, 0.5), ("51-100", 3, 1.0)]
    assert bias.psi.value == 0.5


def test_empty_lists(known):
    with pytest.raises(InputError, match="none of the lists"):
        measured(known(by_worth), [("q", CandidateList.of("q", ()))])
