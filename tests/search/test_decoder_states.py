"""Decoder states that an index keeps, on their way to the reranker."""

import dataclasses
import logging

import numpy as np
import pytest

from sightline import Document, Index, Searcher, load_reranker
from sightline.eval.candidates import rank_lists
from sightline.eval.cost import index_bytes
from sightline.recipes.tiny_decoder import TINY_DECODER

NAME = f"hf:{TINY_DECODER}#icr-block"
FACTS = [
    "The capital of Oz is Emerald.",
    "Cats purr when content.",
    "Iron rusts in the rain.",
    "Dogs bark at strangers.",
]
DOCUMENTS = [Document(f"d{i}", f"{fact} " * (1 + 9 * (i == 1)), "Facts") for i, fact in enumerate(FACTS)]
QUERY = "what do cats do"


@pytest.fixture(scope="module")
def reranker():
    return load_reranker(NAME)


@pytest.fixture(scope="module")
def index(shared_toy, reranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    with Index.build(folder / "i", DOCUMENTS, encoder=shared_toy, decoder_states=reranker, max_tokens=30) as index:
        yield index


@pytest.fixture
def tokens_read(reranker, monkeypatch):
    """How many tokens each forward pass reads from now on."""
    reranker.rank(QUERY, ["Cats."], states=[None])
    passes, run = [], reranker.decoder.run
    monkeypatch.setattr(
        reranker.decoder, "run", lambda ids, positions, call: (passes.append(len(ids)), run(ids, positions, call))[1]
    )
    return passes


def test_their_bytes_are_counted_apart(index):
    assert index_bytes(index.path)["decoder states"] == (index.path / "decoder.int8").stat().st_size


def test_a_search_reads_the_query_alone_and_scores_as_if_it_read_all(index, reranker, tokens_read):
    kept, fresh = Searcher(index, reranker), Searcher(index, reranker, kept_states=False)
    assert kept.uses_kept_states and not fresh.uses_kept_states
    kept.search(QUERY)  # reads the instruction, too
    tokens_read.clear()
    result = kept.search(QUERY, evidence="token", unit="passage")
    queries = sum(reranker.prompt(QUERY, [], 0).context.queries)
    assert tokens_read == [queries]
    expected = fresh.search(QUERY, evidence="token", unit="passage")
    assert sum(tokens_read) > 2 * queries
    assert len(result.hits) == len(index.passages_of(["d0", "d1", "d2", "d3"])) > 4
    scores = [{(hit.id, hit.passage.start): hit.score for hit in each.hits} for each in (result, expected)]
    assert scores[0].keys() == scores[1].keys() and scores[0] != scores[1]
    differences = [abs(scores[0][place] - scores[1][place]) for place in scores[1]]
    assert max(differences) < 0.03 * np.ptp(list(scores[1].values()))
    assert [span.text for span in result.hits[0].evidence] == [span.text for span in expected.hits[0].evidence]
    assert result.warnings == expected.warnings


@pytest.mark.parametrize("stage", ["dense", "hybrid"])
def test_a_search_with_decoder_states_makes_two_statements_beside_those_of_bm25(index, reranker, stage, statements):
    searcher = Searcher(index, reranker, first_stage=stage)
    searcher.search(QUERY)
    with statements(index) as made:
        assert searcher.search(QUERY).hits
    others = [sql.split()[0] for sql in made if "FROM lexical" not in sql]
    assert others == ["PRAGMA", "SELECT", "SELECT", "PRAGMA"], "passages, and their documents"


@pytest.mark.parametrize(
    ("layout", "changes", "reason"),
    [
        ("icr-block", {"max_block_tokens": 200}, "has another instruction, block template or max_block_tokens"),
        ("icr", {}, "reads documents together with the query or with one another"),
    ],
)
def test_a_reranker_that_reads_otherwise_says_that_it_reads_anew(index, layout, changes, reason, caplog):
    other = load_reranker(f"hf:{TINY_DECODER}#{layout}", **changes)
    searcher = Searcher(index, other)
    assert not searcher.uses_kept_states
    result = searcher.search(QUERY)
    [warning] = [text for text in result.warnings if "read anew" in text]
    assert reason in warning and NAME in warning
    plain = Searcher(index, other, kept_states=False).search(QUERY)
    assert [hit.score for hit in plain.hits] == [hit.score for hit in result.hits]
    assert not any("read anew" in text for text in plain.warnings)
    with caplog.at_level(logging.WARNING, logger="sightline"):
        searcher.candidates([QUERY])
        searcher.candidates([QUERY])
    assert caplog.text.count("read anew") == 1


def test_other_rerankers_are_not_told(index, shared_toy):
    from sightline import LateInteractionReranker

    result = Searcher(index, LateInteractionReranker(reader=shared_toy)).search(QUERY)
    assert not any("read anew" in text for text in result.warnings)
    assert Searcher(index, None).candidates([QUERY])[0].decoder_states is None


def test_lists_keep_the_states_with_their_passages(index, reranker, tokens_read):
    [found] = Searcher(index, reranker).candidates([QUERY])
    scores = rank_lists(reranker, [found])[0]
    turned = found.arranged(found.ids[::-1])
    assert rank_lists(reranker, [turned])[0] == scores
    assert len(turned.top(2).decoder_states) == len(turned.top(2).passages)
    tokens_read.clear()
    queries = sum(reranker.prompt(QUERY, [], 0).context.queries)
    copy = dataclasses.replace(found.blocks[0], id="copy")
    more = rank_lists(reranker, [found.with_blocks([(copy, None), (Document("new", "Rain again."), None)], 1)])[0]
    # The copy has the states of its original, the other document is read.
    assert len(tokens_read) == 2 and tokens_read[1] == queries
    assert more["copy"] <= more[found.passages[0].document.id]
    assert {*more} == {*scores, "copy", "new"}


def test_each_of_several_rerankers_gets_its_own_states(index, reranker, shared_toy):
    from sightline import LateInteractionReranker

    toy = LateInteractionReranker(reader=shared_toy)
    [lists] = Searcher(index, None).candidates_each([QUERY], ["bm25"], [toy, reranker, None])
    candidates = lists["bm25"]
    assert candidates.states_for(toy) == candidates.states is not None
    assert candidates.states_for(reranker) == candidates.decoder_states is not None
