"""Relevance, thresholds and pairs: what scores that do not depend on the list make possible, and who has none."""

import math

import numpy as np
import pytest

from sightline import Document, load_reranker
from sightline.errors import InputError
from sightline.models.scorers import Scorer
from sightline.rerank import LateInteractionReranker, PointwiseReranker, load_layout
from sightline.rerank.results import NOTHING

from .conftest import save_model

QUERY = "what sound do cats make"
TEXTS = ["Iron rusts in wet air.", "Cats purr.", "", "Dogs bark."]
CALIBRATED = {"relevance": {"slope": 0.5, "offset": -10.0}}


@pytest.fixture(scope="module")
def minilm():
    return load_reranker("minilm", **CALIBRATED)


@pytest.fixture(scope="module")
def cross_encoder(scorer_folders):
    return load_reranker(f"cross-encoder:{scorer_folders['cross-encoder']}")


# -- relevance ---------------------------------------------------------------------------------------------------------


def test_relevance_is_the_sigmoid_that_the_layout_says(minilm):
    ranking = minilm.rank(QUERY, TEXTS)
    for item in ranking[:3]:
        assert item.relevance == pytest.approx(1 / (1 + math.exp(10 - 0.5 * item.score)))
        assert item.relevance == minilm.relevance(item.score)
    assert (ranking[3].document.text, ranking[3].relevance, minilm.relevance(NOTHING)) == ("", 0.0, 0.0)
    assert [i.relevance for i in ranking] == sorted((i.relevance for i in ranking), reverse=True)


def test_the_shipped_default_is_calibrated():
    ranking = load_reranker().rank(QUERY, TEXTS)
    assert ranking[0].document.text == "Cats purr."
    assert 1 > ranking[0].relevance > ranking[1].relevance > 0


def test_a_cross_encoders_relevance_is_the_sigmoid_of_its_logit(cross_encoder):
    assert cross_encoder.list_free and len(cross_encoder.revision) == 16  # a hash of the folder's files
    for item in cross_encoder.rank(QUERY, TEXTS)[:3]:
        assert item.relevance == pytest.approx(1 / (1 + math.exp(-item.score)))
    assert cross_encoder.rank(QUERY, TEXTS)[3].relevance == 0.0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("minilm-mass", "relative to their list"),
        ("sightline-mini", "relative to their list"),
        ("minilm-log-mass", "sightline calibrate"),
        ("minilm-maxsim", "sightline calibrate"),
    ],
)
def test_those_without_relevance_say_why(name, reason):
    reranker = load_reranker(name)
    assert {item.relevance for item in reranker.rank(QUERY, TEXTS)[:3]} == {None}
    assert reason in reranker.why_no_relevance()
    with pytest.raises(InputError, match=f"min_score is compared with the relevance, and {name} has none: .*{reason}"):
        reranker.rank(QUERY, TEXTS, min_score=0.5)
    reranker.check_min_score(None)


# -- min_score ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), float("inf"), "0.5", True, [0.5]])
def test_a_threshold_that_is_no_probability_is_refused(minilm, bad):
    with pytest.raises(InputError, match="min_score must be a number from 0 to 1"):
        minilm.rank(QUERY, TEXTS, min_score=bad)


@pytest.mark.parametrize("top_n", [None, 1])
def test_a_threshold_leaves_out_what_is_below_it(minilm, top_n):
    whole = minilm.rank(QUERY, TEXTS)
    for threshold in (0, whole[1].relevance, whole[0].relevance, 1):
        cut = minilm.rank(QUERY, TEXTS, top_n, min_score=threshold)
        expected = [item.index for item in whole if item.relevance >= threshold]
        assert [item.index for item in cut] == expected[:top_n]
        assert cut.total == len(TEXTS)


def test_a_threshold_that_nothing_passes_leaves_an_empty_ranking_with_a_warning(minilm):
    ranking = minilm.rank(QUERY, ["Iron rusts in wet air."], min_score=1)
    assert len(ranking) == 0
    assert any("min_score" in warning for warning in ranking.warnings)
    assert minilm.rank(QUERY, [], min_score=0.5).items == ()


# -- predict -----------------------------------------------------------------------------------------------------------

PAIRS = [
    (QUERY, "Cats purr."),
    ("what rusts", "Iron rusts in wet air."),
    (QUERY, "Iron rusts in wet air."),
    ("what rusts", Document("d", "Cats purr.")),
    (QUERY, ""),
    [QUERY, {"text": "They purr.", "title": "Cats"}],
    (QUERY, "Cats purr."),
]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("which", ["minilm", "cross-encoder"])
def test_pairs_are_scored_in_their_order_each_as_a_list_of_one(minilm, cross_encoder, which, raw):
    reranker = minilm if which == "minilm" else cross_encoder
    found = reranker.predict(PAIRS, raw_scores=raw)
    assert (found.dtype, found.shape) == (np.float64, (len(PAIRS),))
    for (query, document), value in zip(PAIRS, found, strict=True):
        (alone,) = reranker.rank(query, [document])
        assert value == pytest.approx(alone.score if raw else alone.relevance, abs=1e-5)
    assert found[0] == found[6]
    assert found[0] > found[2] or which == "cross-encoder"  # whose weights are random
    assert found[4] == (NOTHING if raw else 0.0)
    assert reranker.predict([]).shape == (0,)


def test_raw_scores_need_no_relevance():
    reranker = load_reranker("minilm-log-mass")
    with pytest.raises(InputError, match="minilm-log-mass has no relevance: .*raw_scores"):
        reranker.predict(PAIRS)
    found = reranker.predict(PAIRS, raw_scores=True)
    assert found[0] == pytest.approx(reranker.rank(*[QUERY, ["Cats purr."]])[0].score, abs=1e-5)


@pytest.mark.parametrize("name", ["minilm-mass", "sightline-mini"])
@pytest.mark.parametrize("raw", [False, True])
def test_scores_that_are_relative_to_their_list_are_not_given_for_pairs(name, raw):
    with pytest.raises(InputError, match=f"{name} cannot score pairs: its scores are relative to their list"):
        load_reranker(name).predict(PAIRS, raw_scores=raw)


@pytest.mark.parametrize("bad", ["ab", ("q",), ("q", "a", "b"), None, 5, (None, "text"), ({"text": "q"}, "text")])
def test_what_is_no_pair_is_named_by_its_place(minilm, bad):
    with pytest.raises(InputError, match="pair 1 must be a query and a document"):
        minilm.predict([(QUERY, "Cats purr."), bad])


# -- who is list-free --------------------------------------------------------------------------------------------------


def test_decoders_are_relative_to_their_list_since_the_query_block_reads_all_of_it(tmp_path):
    """Even where documents are read apart: the query's states above the first layer have all documents in them."""
    documents = ["Cats purr when content.", "Dogs bark at strangers.", "Iron rusts in the rain."]
    plain = {"readout": "log_mass", "calibration": "none", "outliers": None, "normalisation": "documents"}
    folder = save_model(tmp_path / "model")
    for name, changes in (("icr", {}), ("icr-block", plain), ("blockrank-cached", {})):
        reranker = load_reranker(f"hf:{folder}#{name}", **changes)
        assert not reranker.list_free
        with pytest.raises(InputError, match="relative to their list"):
            reranker.rank(QUERY, documents, min_score=0.5)
    reranker = load_reranker(f"hf:{folder}#icr-block", **plain)
    together = {item.index: item.score for item in reranker.rank(QUERY, documents)}
    alone = [reranker.rank(QUERY, [document])[0].score for document in documents]
    assert max(abs(alone[place] - score) for place, score in together.items()) > 0.01


@pytest.mark.parametrize("name", ["minilm", "minilm-log-mass", "minilm-maxsim"])
@pytest.mark.parametrize("see", [False, True])
def test_layouts_that_say_so_score_alike_in_every_list(name, see):
    reranker = LateInteractionReranker(load_layout(name, documents_see_query=see))
    assert reranker.list_free
    together = {item.index: item.score for item in reranker.rank(QUERY, TEXTS)}
    for place, text in enumerate(TEXTS):
        assert reranker.rank(QUERY, [text])[0].score == pytest.approx(together[place], abs=0.1 if see else 1e-5)


def test_a_scorer_without_calibration_has_no_relevance():
    class Length(Scorer):
        name = "length"

        def score(self, query, texts):
            return [float(len(text)) for text in texts], [0] * len(texts)

    reranker = PointwiseReranker(Length(), "rule")
    assert reranker.rank("q", ["text"])[0].relevance is None
    assert reranker.predict([("q", "text")], raw_scores=True).tolist() == [4.0]
