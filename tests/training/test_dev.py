"""What is measured while training."""

import math

import pytest

from sightline.errors import InputError
from sightline.training.dev import load_dev_sets, mean_of_collections, measure
from sightline.training.examples import Source

from .toy import TOPICS, WORDS, ToyLearner, collection


@pytest.fixture
def folder(tmp_path):
    return collection(tmp_path / "zoo", 8, split="dev")


def knowing():
    learner = ToyLearner()
    learner.weights.data[[WORDS[word] for word in TOPICS]] = 9.0
    return learner


def test_a_reranker_that_knows_is_measured_so(folder):
    (dev,) = load_dev_sets([Source(str(folder), "dev")])
    assert dev.name == "zoo/dev" and len(dev.run) == 8 and dev.candidates == 100
    knows, starts = measure([knowing().reranker(), ToyLearner().reranker()], [dev])
    assert set(knows["zoo/dev"].values()) == {1.0}
    assert mean_of_collections(starts) < 0.7


def test_candidates_decide_what_can_be_found(folder, tmp_path):
    """A query without candidates counts as 0, and one whose answer is cut off too."""
    run = tmp_path / "run.trec"
    run.write_text("q0 Q0 d0 1 2 x\nq0 Q0 d1 2 1 x\nq1 Q0 d5 1 3 x\nq1 Q0 d6 2 2 x\nq1 Q0 d1 3 1 x\n")
    sources = [Source(str(folder), "dev")]
    for candidates, expected in ((3, 2 / 8), (2, 1 / 8)):
        (dev,) = load_dev_sets(sources, [("zoo", run)], candidates=candidates)
        [by_collection] = measure([knowing().reranker()], [dev])
        by_query = by_collection["zoo/dev"]
        assert len(by_query) == 8
        assert math.fsum(by_query.values()) / 8 == pytest.approx(expected)
    (dev,) = load_dev_sets(sources, max_queries=3)
    assert list(dev.dataset.queries) == list(dev.run) == ["q0", "q1", "q2"]


def test_what_cannot_be_measured_on(folder, tmp_path):
    sources = [Source(str(folder), "dev")]
    (tmp_path / "run.trec").write_text("other Q0 d0 1 2 x\n")
    with pytest.raises(InputError, match="candidates for none of its queries"):
        load_dev_sets(sources, [("zoo", tmp_path / "run.trec")])
    with pytest.raises(InputError, match="a run is for 'nq'; the collections to measure on are zoo"):
        load_dev_sets(sources, [("nq", tmp_path / "run.trec")])
    with pytest.raises(InputError, match="not a file of lists"):
        load_dev_sets([Source("lists.jsonl")])
    with pytest.raises(InputError, match="candidates"):
        load_dev_sets(sources, candidates=0)
