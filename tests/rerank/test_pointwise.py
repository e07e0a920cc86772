"""Baselines on small models of random weights, against what sentence-transformers itself says of them."""

import math

import pytest
import torch

from sightline.documents import Document
from sightline.errors import InputError, ModelError, RankingError
from sightline.models.scorers import Scorer
from sightline.rerank import LateInteractionReranker
from sightline.rerank.loading import load_reranker
from sightline.rerank.pointwise import PointwiseReranker
from sightline.rerank.results import NOTHING

QUERY = "what do cats do"
TEXTS = ["Dogs bark at strangers.", "Cats purr.", "Iron rusts in wet air.", "Cats purr.", "purr " * 700]


@pytest.fixture(scope="module", params=["cross-encoder"])
def named(request, scorer_folders):
    return request.param, scorer_folders[request.param]


@pytest.fixture(scope="module")
def baseline(named):
    kind, folder = named
    return load_reranker(f"{kind}:{folder}")


def expected(folder):
    from sentence_transformers import CrossEncoder

    logits = CrossEncoder(str(folder)).predict([(QUERY, text) for text in TEXTS], activation_fn=torch.nn.Identity())
    return logits.tolist()


def test_scores_are_those_of_the_model(baseline, named):
    ranking = baseline.rank(QUERY, TEXTS)
    scores = {item.index: item.score for item in ranking}
    assert [scores[i] for i in range(len(TEXTS))] == pytest.approx(expected(named[1]), rel=1e-4, abs=1e-4)
    assert [item.score for item in ranking] == sorted(scores.values(), reverse=True)
    assert (ranking.layout, ranking.model, ranking.dtype) == (named[0], str(named[1]), "float32")
    assert ranking.total == len(TEXTS)


def test_order_leaves_no_trace_and_duplicates_are_equal(baseline):
    documents = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
    scores = {item.document.id: item.score for item in baseline.rank(QUERY, documents)}
    back = baseline.rank(QUERY, documents[::-1])
    assert {item.document.id: item.score for item in back} == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert scores["d1"] == scores["d3"]
    places = [item.document.id for item in back]
    assert places.index("d1") + 1 == places.index("d3")  # ties by id, not by place


def test_what_is_cut_is_counted(baseline):
    ranking = baseline.rank(QUERY, TEXTS)
    assert {item.index: item.truncated > 0 for item in ranking} == {i: i == 4 for i in range(5)}
    assert ranking.truncated == 1


def test_the_options_of_a_reranker(baseline):
    passages = [Document(id, text) for id, text in zip("abacc", TEXTS, strict=True)]
    every = baseline.rank(QUERY, passages)
    best = baseline.rank(QUERY, passages, best_per_id=True)
    assert [i.document.id for i in best] == list(dict.fromkeys(i.document.id for i in every))
    assert [i.score for i in baseline.rank(QUERY, passages, 2)] == [i.score for i in every[:2]]
    assert len(baseline.rank(QUERY, [])) == 0
    assert all(item.mass is None for item in every)
    lists = [(QUERY, TEXTS[:3]), ("iron", TEXTS[1:])]
    for ranking, (query, texts) in zip(baseline.rank_batch(lists), lists, strict=True):
        alone = baseline.rank(query, texts)
        assert [i.index for i in ranking] == [i.index for i in alone]
    for arguments, options in [((" ", TEXTS), {}), ((QUERY, TEXTS, 0), {}), ((QUERY, TEXTS), {"evidence": "token"})]:
        with pytest.raises(InputError):
            baseline.rank(*arguments, **options)


def test_an_untrained_head_is_refused(scorer_folders):
    with pytest.raises(ModelError, match=r"not a trained CrossEncoder: .*classifier.weight"):
        load_reranker(f"cross-encoder:{scorer_folders['bare']}")
    with pytest.raises(ModelError, match=r"not a trained MultiVectorEncoder: 1.linear.weight"):
        load_reranker(f"late-interaction:{scorer_folders['bare']}")


@pytest.mark.parametrize("kind", ["cross-encoder", "late-interaction"])
def test_missing_weights_are_named(kind, tmp_path):
    with pytest.raises(ModelError, match=rf"the weights of '{tmp_path}/none' cannot be loaded"):
        load_reranker(f"{kind}:{tmp_path}/none")
    with pytest.raises(InputError, match="names no model"):
        load_reranker(f"{kind}:")


def test_other_names_are_ours():
    assert isinstance(load_reranker("minilm-mass"), LateInteractionReranker)
    with pytest.raises(InputError, match="no reranker"):
        load_reranker("cross-encoders:x")


class Fixed(Scorer):
    name = "fixed"

    def __init__(self, values):
        self.values = values

    def score(self, query, texts):
        return self.values[: len(texts)], [0] * len(texts)


@pytest.mark.parametrize("values", [[1.0, math.nan], [1.0, math.inf]])
def test_scores_that_mean_nothing_are_refused(values):
    with pytest.raises(RankingError):
        PointwiseReranker(Fixed(values), "fixed", "it").rank("q", ["a", "b"])


def test_equal_scores_are_ties_with_a_warning():
    ranking = PointwiseReranker(Fixed([1.0, 1.0]), "fixed", "it").rank("q", [Document("b", "x"), Document("a", "y")])
    assert [item.document.id for item in ranking] == ["a", "b"]
    assert "all 2 documents got the same score" in ranking.warnings[0]


def test_documents_without_text_are_not_read_and_come_last(baseline):
    alone = [(item.document.text, item.score) for item in baseline.rank(QUERY, TEXTS)]
    ranking = baseline.rank(QUERY, ["", *TEXTS, " "])
    assert [(item.document.text, item.score) for item in ranking][: len(TEXTS)] == alone
    assert [(item.index, item.mass) for item in ranking][len(TEXTS) :] == [(0, None), (len(TEXTS) + 1, None)]
    assert ranking.warnings == ("2 documents have no text to read; ranked last",)
    assert [item.score for item in baseline.rank(QUERY, [""])] == [NOTHING]


def test_a_baseline_is_measured_beside_ours_on_the_same_candidates(scorer_folders, tmp_path):
    from sightline.eval.dataset import Dataset
    from sightline.eval.experiment import evaluate_systems
    from sightline.eval.provenance import portable_name

    documents = [Document(f"d{i}", text) for i, text in enumerate([*TEXTS[:3], "A star shines.", "Cows eat grass."])]
    dataset = Dataset("zoo", "test", tmp_path, {"q": QUERY}, {"q": {"d1": 1}}, lambda: documents)
    systems = [
        "dense",
        "dense+minilm",
        *(f"dense+{kind}:{scorer_folders[kind]}" for kind in ("cross-encoder", "late-interaction")),
    ]
    outcome = evaluate_systems(dataset, systems, tmp_path / "out", candidates=3)
    candidates = set(outcome.runs["dense"]["q"])
    assert len(candidates) == 3
    assert all(set(run["q"]) == candidates for run in outcome.runs.values())
    assert set(outcome.summary.milliseconds_per_query) == set(map(portable_name, systems))
    texts = [document for document in documents if document.id in candidates]
    for system in systems[2:]:
        alone = load_reranker(system.partition("+")[2]).rank(QUERY, texts)
        assert [item.document.id for item in alone] == list(outcome.runs[portable_name(system)]["q"])
