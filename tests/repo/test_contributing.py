"""The reranker and the reader that the guide writes are short, and work wherever such a thing goes."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import sightline
from sightline import Document, Index, LateInteractionReranker, Searcher

_ROOT = Path(sightline.__file__).parent
_GUIDE = (_ROOT / "docs" / "guides" / "extend.md").read_text(encoding="utf-8")
_RERANKER, _READER = (block for block in re.findall(r"```python\n(.*?)```", _GUIDE, re.DOTALL) if "\nclass " in block)
DOCUMENTS = [
    Document("cats", "Cats purr when they are content. A cat sleeps all day."),
    Document("dogs", "Dogs bark at strangers.", "Barking"),
    Document("iron", "Iron rusts in wet air."),
    Document("none", ""),
]


@pytest.fixture(scope="module")
def written():
    """What the two examples define."""
    names = {"__name__": "written"}
    exec(compile(_RERANKER, "extend.md", "exec"), names)
    exec(compile(_READER, "extend.md", "exec"), names)
    return names


@pytest.mark.parametrize("example", [_RERANKER, _READER], ids=["reranker", "reader"])
def test_an_implementation_takes_thirty_lines_at_most(example):
    assert 10 < len([line for line in example.splitlines() if line.strip()]) <= 30


def test_the_reranker_ranks_by_the_likelihood_of_the_query(written):
    reranker = written["QueryLikelihood"](mu=10.0, vocabulary=100)
    ranking = reranker.rank("wet iron", DOCUMENTS)
    assert ranking[0].document.id == "iron" and ranking.reranker == "query-likelihood"
    words = Counter("iron rusts in wet air".split())
    expected = np.log([(words[word] + 10 * 0.01) / (5 + 10) for word in ("wet", "iron")]).sum()
    assert ranking[0].score == pytest.approx(expected)
    assert ranking[-1].document.id == "none"  # the base class puts what has no text last
    assert [item.document.id for item in reranker.rank("barking", DOCUMENTS, top_n=1)] == ["dogs"]


def test_the_rerankers_scores_depend_on_query_and_document_alone(written):
    reranker = written["QueryLikelihood"]()
    scores = {item.document.id: item.score for item in reranker.rank("cat bark", DOCUMENTS)}
    again = reranker.rank_batch([("iron", DOCUMENTS), ("cat bark", DOCUMENTS[2::-1] + DOCUMENTS[:1])])[1]
    assert {item.document.id: item.score for item in again} == {id: scores[id] for id in ("cats", "dogs", "iron")}


def test_the_reranker_serves_a_search(written, tmp_path):
    with Index.build(tmp_path / "index", DOCUMENTS, encoder="none") as index:
        found = Searcher(index, written["QueryLikelihood"](), first_stage="bm25").search("strangers bark", 2)
    assert found.hits[0].id == "dogs" and found.reranker == "query-likelihood"


def test_the_reader_gives_each_token_a_state_of_its_text_alone(written):
    reader = written["Trigrams"]()
    texts = ["Cats purr.", "", "word " * 300]
    read = reader.read(texts)
    assert read.offsets.tolist() == [0, 2, 2, 258] and read.truncated.tolist() == [0, 0, 44]
    assert read.states.shape == (258, 128) and read.states.dtype == np.float32 and read.spans[1].tolist() == [5, 9]
    np.testing.assert_allclose(np.linalg.norm(read.states, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(reader.read(["Cats purr."]).states, read.states[:2])
    near, far = (float(read.states[0] @ reader.read([word]).states[0]) for word in ("cat", "iron"))
    assert near > 0.4 > abs(far)


def test_the_reader_ranks(written):
    ranking = LateInteractionReranker("minilm-maxsim", reader=written["Trigrams"]()).rank("a barking dog", DOCUMENTS)
    assert ranking[0].document.id == "dogs" and ranking.model == "trigrams"
    marked = LateInteractionReranker(reader=written["Trigrams"]()).rank("rusting iron", DOCUMENTS, evidence="token")
    assert marked[0].document.id == "iron"
    best = max(marked[0].evidence, key=lambda one: one.mass)
    assert marked[0].document.contents[best.start : best.end] in ("Iron", "rusts")


def test_the_reader_indexes_and_its_kept_states_rank_alike(written, tmp_path):
    reader = written["Trigrams"]()
    with Index.build(tmp_path / "index", DOCUMENTS, encoder=reader, token_states="fp16") as index:
        np.testing.assert_allclose(index.vectors()[0], reader.encode_documents([DOCUMENTS[0].contents])[0], rtol=1e-6)
        reranker = LateInteractionReranker("minilm-maxsim", reader=reader)
        kept = Searcher(index, reranker)
        fresh = Searcher(index, reranker, kept_states=False)
        assert kept.uses_kept_states and not fresh.uses_kept_states
        one, other = (searcher.search("do cats purr", 3) for searcher in (kept, fresh))
    assert [hit.id for hit in one.hits] == [hit.id for hit in other.hits] and one.hits[0].id == "cats"
    np.testing.assert_allclose([h.score for h in one.hits], [h.score for h in other.hits], atol=2e-3)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/guides/extend.md"])
def test_files_and_names_that_the_page_gives_exist(page):
    text = (_ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)+[\w.]*|\w+\.(?:py|toml|txt))`", text))
    assert len(named) > 8 and [name for name in named if not (_ROOT / name).exists()] == []
