"""BM25 with and without an index is one formula: FTS5's own scores are the reference."""

import math
import sqlite3
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.retrieval.analysis import document_terms
from sightline.retrieval.bm25 import SMALL, WordStatistics, background_bm25, background_statistics, blended_bm25
from sightline.retrieval.fts5 import Fts5Index, query_words
from sightline.retrieval.index import Index

WORDS = "cat cats running runs run the of not résumé resume Straße STRASSE naïve 3½ 猫 猫が 学ぶ 学 ไทย".split()
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=8)
queries = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)


def statistics_of(texts, query):
    """Counted by FTS5's own vocabulary; a letter that stands alone in the query counts all terms that begin with it."""
    connection = sqlite3.connect(":memory:")
    Fts5Index(connection).add(range(len(texts)), texts)
    connection.execute("CREATE VIRTUAL TABLE counted USING fts5vocab('lexical', 'row')")
    frequencies = dict(connection.execute("SELECT term, doc FROM counted"))
    for word, begins in query_words(query):
        if begins:
            terms = [document_terms(text) for text in texts]
            frequencies[word] = sum(any(term.startswith(word) for term in own) for own in terms)
    length = sum(len(document_terms(text)) for text in texts) / len(texts)
    return WordStatistics(len(texts), length or 1.0, frequencies, 0)


@settings(max_examples=150, deadline=None)
@given(texts, queries)
@example(["runs run", "cat", ""], "run running runs")  # each word of one stem counts
@example(["学ぶ 猫", "学", "cat"], "学")  # a letter begins a term
@example(["学ぶ", "ぶ", "cat"], "学ぶ")  # a pair is not its letters
@example(["the of", "cat"], "the of")  # stop words, where there is nothing else
def test_without_an_index_scores_are_those_of_fts5_with_the_same_statistics(texts, query):
    index = Fts5Index(sqlite3.connect(":memory:"))
    index.add(range(len(texts)), texts)
    expected = np.zeros(len(texts))
    rows, scores = index.search(query, len(texts))
    expected[rows] = scores
    found = background_bm25(query, texts, statistics_of(texts, query))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(texts, queries)
def test_each_text_is_scored_by_itself(texts, query):
    together = background_bm25(query, texts)
    assert together == [score for text in texts for score in background_bm25(query, [text])]
    assert together[::-1] == background_bm25(query, texts[::-1])
    assert background_bm25(query, []) == []


def test_the_formula_by_hand():
    statistics = WordStatistics(documents=10, length=4.0, frequencies={"cat": 2}, rare=1)
    weight = math.log((10 - 2 + 0.5) / (2 + 0.5))
    [one, two, none] = background_bm25("cat", ["a cat sat", "cat cat", "dogs"], statistics)
    assert one == pytest.approx(weight * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 3 / 4)))
    assert two == pytest.approx(weight * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 2 / 4)))
    assert none == 0.0
    rare = background_bm25("zyx", ["zyx"], statistics)
    assert rare == pytest.approx([math.log(9.5 / 1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 / 4))])


def test_the_shipped_statistics_are_of_words():
    statistics = background_statistics()
    assert statistics.documents > 10_000 and 20 < statistics.length < 500
    assert all(0 < count <= statistics.documents for count in statistics.frequencies.values())
    assert statistics.weight("zyxwv") > statistics.weight("cat") > statistics.weight("the") > 0
    assert Counter(map(str.islower, statistics.frequencies))[True] > 5000


@pytest.mark.parametrize("query", ["", "?!", "   "])
def test_a_query_without_a_word_scores_nothing(query):
    assert background_bm25(query, ["Cats purr.", ""]) == [0.0, 0.0]


# -- with an index -----------------------------------------------------------------------------------------------------

DRAW = np.random.default_rng(4)
DOCUMENTS = [
    Document(f"d{i}", " ".join(DRAW.choice(WORDS, size=DRAW.integers(1, 12))), "", {"even": i % 2 == 0, "number": i})
    for i in range(60)
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("words") / "i", DOCUMENTS, encoder="none") as index:
        index.delete([f"d{i}" for i in range(0, 60, 7)])
        yield index


QUERIES = ["cat", "running resume", "the", "学", "猫が naïve", "nowhere"]


@pytest.mark.parametrize("query", QUERIES)
def test_scores_of_given_rows_are_those_of_a_search(index, query):
    rows, scores = index.search_lexical(query, 100)
    by_row = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    asked = [*DRAW.permutation(60).tolist(), 3, 3, 0]  # deleted ones and copies, too
    found = index.bm25(query, asked)
    assert found.tolist() == [by_row.get(row, 0.0) for row in asked]
    assert len(by_row) > 3 or query == "nowhere"
    assert index.bm25(query, []).shape == (0,)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("where", [{"even": True}, {"number": {">=": 20, "<": 40}}, {"number": 10_000}])
def test_a_filter_gives_what_is_left_of_the_unfiltered_search(index, query, where):
    rows, scores = index.search_lexical(query, 100)
    documents = {passage.row: passage.passage.document for passage in index.passages(rows)}

    def allowed(metadata):
        return metadata["even"] if "even" in where else (20 <= metadata["number"] < 40 and where["number"] != 10_000)

    left = [(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
    left = [(row, score) for row, score in left if allowed(documents[row].metadata)]
    for k in (1, 5, 100):
        found, by_score = index.search_lexical(query, k, where)
        assert list(zip(found.tolist(), by_score.tolist(), strict=True)) == left[:k]


def test_an_index_without_words_has_no_bm25(toy, tmp_path):
    with (
        Index.build(tmp_path / "i", DOCUMENTS[:3], encoder=toy, lexical="none") as index,
        pytest.raises(InputError, match="without a lexical index"),
    ):
        index.bm25("cat", [0])


@given(texts, queries, st.integers(0, 3 * SMALL))
@settings(max_examples=40, deadline=None)
def test_the_smaller_an_index_the_more_count_the_words_of_the_background(texts, query, passages):
    own, background = [float(n) for n in range(len(texts))], background_bm25(query, texts)
    share = passages / SMALL
    expected = [share * a + (1 - share) * b for a, b in zip(own, background, strict=True)] if share < 1 else own
    assert blended_bm25(query, texts, own, passages) == pytest.approx(expected)


def test_passages_are_counted_up_to_a_limit(tmp_path, toy):
    documents = [Document(str(n), "cats run. " * 20) for n in range(6)]
    with Index.build(tmp_path / "i", documents, encoder=toy, max_tokens=20) as index:
        every = index.counts()["passages"]
        assert every >= 12 and [index.count_passages(n) for n in (0, 5, every, every + 9)] == [0, 5, every, every]
        index.delete(["0", "1", "2"])
        assert index.count_passages(every) == index.counts()["passages"] == every // 2
