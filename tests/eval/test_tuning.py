"""Choosing a readout: trials are what rerankers give, the choice is the best, and the gain is of unseen queries."""

import dataclasses

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import tuning
from sightline.eval.dataset import Dataset
from sightline.eval.tuning import Trial, trials, tune_reader
from sightline.rerank import LateInteractionReranker
from sightline.rerank.layout import FusionWeights, load_layout
from sightline.search import Searcher

TEXTS = {
    "cats": "Cats purr when content.",
    "dogs": "Dogs bark at strangers.",
    "iron": "Iron rusts in damp air. Metal corrodes.",
    "cows": "Cows eat grass in the meadow.",
    "star": "A star shines by fusion.",
}
QUERIES = {"q1": ("why do cats purr", "cats"), "q2": ("what makes metal corrode", "iron"), "q3": ("what barks", "dogs")}


def collection(name):
    documents = [Document(id, text) for id, text in TEXTS.items()]
    queries = {id: text for id, (text, _) in QUERIES.items()}
    return dataclasses.replace(
        Dataset.in_memory(documents, queries, {id: {answer: 1} for id, (_, answer) in QUERIES.items()}), name=name
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return tune_reader("minilm", [collection("one"), collection("two")], name="mine", candidates=3, work=work), work


SOME = [
    Trial("maxsim", 20.0),
    Trial("mass", 10.0),
    Trial("log_mass", 40.0),
    Trial("fused", 20.0, FusionWeights(log_mass=1.0, cosine=5.0, bm25=0.25, length=-0.25)),
]


def test_a_trial_is_the_ranking_of_the_reranker_with_that_layout(tuned):
    from sightline.retrieval.index import Index

    assert set(SOME) <= set(trials())
    with Index.open(tuned[1] / "one" / "index") as index:
        searcher = Searcher(index, "minilm")
        for candidates in searcher.candidates([text for text, _ in QUERIES.values()]):
            scores = tuning._trial_scores(candidates, searcher.reranker.reader, SOME)
            for trial, values in zip(SOME, scores, strict=True):
                weights = {} if trial.weights is None else {"weights": dataclasses.asdict(trial.weights)}
                spec = load_layout("minilm-log-mass", readout=trial.readout, scale=trial.scale, **weights)
                hits = searcher.rank(candidates, LateInteractionReranker(spec)).hits
                assert tuning.document_order(candidates, values) == [hit.id for hit in hits]
                assert sorted(values)[-1] == pytest.approx(hits[0].score, abs=1e-9)


def test_the_choice_is_a_layout_and_says_what_it_gains(tuned):
    chosen, _ = tuned
    assert (chosen.layout.name, chosen.layout.reader, chosen.layout.relevance) == ("mine", "minilm", None)
    assert chosen.layout.readout.readout == chosen.trial.readout and len(chosen.means) == len(trials())
    for one in chosen.collections.values():
        assert one.queries == 3 and one.held_out.mean <= chosen.means[chosen.trial] + 1e-9
    assert not chosen.better or chosen.gain.low > 0


def test_an_index_with_states_of_another_reader_does_not_serve(tuned):
    from sightline.eval.collection_index import _misfit, _settings_for
    from sightline.retrieval.index import Index

    with Index.open(tuned[1] / "one" / "index") as index:
        for reader, reason in ((None, None), ("minilm", None), ("late-interaction:x", "reader is 'minilm', needed is")):
            misfit = _misfit(index, _settings_for({"reader": reader}, [("hybrid", "minilm")]))
            assert misfit is None if reason is None else misfit.startswith(reason)


def measured(baseline, *columns):
    return tuning._Measured(np.array([baseline, np.zeros_like(baseline)]).T, np.array(columns).T)


def test_the_gain_is_of_choices_made_without_the_queries():
    some = trials()[:3]
    lucky, steady, flat = np.array([0.9, 0.9, 0.9, 0.9]), np.array([0.6, 0.6, 0.6, 0.6]), np.full(4, 0.5)
    parts = {"a": measured(flat, lucky, steady, flat), "b": measured(flat, flat * 0, steady, flat)}
    chosen = tuning._chosen("x", "minilm", some, parts, "hybrid")
    assert chosen.trial == some[1]  # the lucky one is worst on b
    # a is measured with what is best on b, and b with what is best on a: the lucky one, which fails there
    assert chosen.collections["a"].held_out.mean == pytest.approx(0.6)
    assert chosen.collections["b"].held_out.mean == 0.0
    assert chosen.gain.mean == pytest.approx((0.1 - 0.5) / 2) and not chosen.better and chosen.baseline == "dense"


def test_noise_is_no_gain_and_a_real_gain_is_one():
    rng = np.random.default_rng(5)
    base = rng.random(200)
    noise = [np.clip(base + rng.normal(0, 0.1, 200), 0, 1) for _ in trials()]
    one = tuning._chosen("x", "minilm", trials(), {"a": measured(base, *noise)}, "dense")
    assert not one.better
    noise[7] = np.clip(base + 0.1, 0, 1)
    two = tuning._chosen("x", "minilm", trials(), {"a": measured(base, *noise)}, "dense")
    assert two.better and two.trial == trials()[7] and two.gain.low > 0.05


def test_what_is_no_reader_is_refused():
    for name in ("cross-encoder:x", "minilm-mass", "encoder:x#minilm"):
        with pytest.raises(InputError, match="a reader is minilm, encoder:MODEL or late-interaction:MODEL"):
            tune_reader(name, [collection("one")])
    with pytest.raises(InputError, match="different names"):
        tune_reader("minilm", [])
