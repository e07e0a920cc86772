"""The recipe of the small late-interaction checkpoint: what it saves is what it trained, and training ranks better."""

import json

import numpy as np
import pytest
import torch

from sightline.models.loading import load_reader
from sightline.recipes import late_interaction_mini as recipe
from sightline.rerank.layout import FusionWeights, load_layout
from sightline.rerank.loading import load_reranker

from .test_fusion import collection as tiny  # noqa: F401 - a fixture

TEXTS = ["Cats purr when content.", "Iron rusts in damp air, it seems; a star shines.", "..."]
QUERY = "why do cats purr?"


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(3)
    return recipe.Head(torch.randn(8, 384))


@pytest.fixture(scope="module")
def checkpoint(head, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    recipe.save_checkpoint(head, folder)
    return folder


def test_a_checkpoint_s_states_are_the_default_s_projected(checkpoint, head):
    saved, own = load_reader(f"late-interaction:{checkpoint}"), load_reader("minilm")
    assert (saved.dim, saved.max_length) == (8, own.max_length)
    read, plain = saved.read(TEXTS), own.read(TEXTS)
    np.testing.assert_array_equal(read.offsets, plain.offsets)
    np.testing.assert_array_equal(read.spans, plain.spans)
    with torch.no_grad():
        np.testing.assert_allclose(read.states, head(torch.from_numpy(plain.states)), atol=1e-5)
        [query] = own.read_queries([QUERY])
        np.testing.assert_allclose(
            saved.read_queries([QUERY])[0].states, head(torch.from_numpy(query.states)), atol=1e-5
        )


def test_sentence_transformers_loads_it_and_finds_the_same_maxsim(checkpoint):
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(checkpoint), device="cpu")
    vectors = model.encode_query([QUERY])
    expected = model.similarity(vectors, model.encode_document(TEXTS))[0] / len(vectors[0])
    ranking = load_reranker(f"late-interaction:{checkpoint}").rank(QUERY, TEXTS)
    scores = {item.index: item.score for item in ranking}
    assert [scores[place] for place in range(len(TEXTS))] == pytest.approx(expected.tolist(), abs=1e-5)


def made_up_lists(count, seed, big=0.6):
    """Passages of three tokens; the answer has the query's direction, in dimensions that hold little of the states."""
    draw = torch.Generator().manual_seed(seed)
    lists = []
    for number in range(count):
        loud = torch.randn(5, 3, 12, generator=draw) * torch.tensor([big] * 8 + [0.1] * 4)
        query = torch.nn.functional.normalize(torch.randn(1, 4, generator=draw)) * 0.9
        answer = number % 5
        loud[answer, 0, 8:] = query
        asked = torch.cat([big * torch.randn(1, 8, generator=draw), query], dim=1)
        keys = torch.nn.functional.normalize(loud, dim=-1).half()
        lists.append(
            recipe.TrainedList(
                torch.nn.functional.normalize(asked, dim=-1),
                tuple(keys),
                (0.0,) * 5,
                torch.arange(5),
                torch.arange(5) == answer,
                torch.zeros(5, dtype=torch.float64),
            )
        )
    return lists


def accuracy(head, lists, **scoring):
    found = [
        recipe.document_scores(head, one, **scoring).argmax().item() == one.positive.nonzero().item() for one in lists
    ]
    return sum(found) / len(found)


def test_training_finds_directions_that_principal_components_lack():
    scoring = {"weights": FusionWeights(log_mass=1.0), "scale": 10.0}
    learning = {"epochs": 4, "batch": 2, "learning_rate": 0.1, "distillation": 0.0} | scoring
    lists, held_out = made_up_lists(150, seed=0), made_up_lists(100, seed=1)
    states = torch.cat([key for one in lists for key in one.keys]).float().numpy()
    head = recipe.Head.of_components(states, 4)
    before = accuracy(head, held_out, **scoring)
    losses = recipe.train_head(head, lists, **learning)
    assert len(losses) == 300 and np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    assert before < 0.4 and accuracy(head, held_out, **scoring) > 0.75


def test_a_document_scores_as_its_best_passage():
    [one] = made_up_lists(1, seed=0)
    weights, head = load_layout("minilm").readout.weights, recipe.Head(torch.eye(12))
    apart = recipe.document_scores(head, one, weights, 20.0)
    owners = torch.tensor([0, 0, 1, 1, 1])
    joined = recipe.TrainedList(one.query, one.keys, one.bm25, owners, one.positive[:2], one.teacher[:2])
    together = recipe.document_scores(head, joined, weights, 20.0)
    assert together.tolist() == [max(apart[:2].tolist()), max(apart[2:].tolist())]


def test_the_command_trains_saves_and_compares(tiny, tmp_path, capsys, monkeypatch):  # noqa: F811
    pytest.importorskip("faiss")
    (tiny / "qrels" / "train.tsv").write_bytes((tiny / "qrels" / "dev.tsv").read_bytes())
    monkeypatch.setattr(recipe, "LICENCES", {"tiny": "none"})
    monkeypatch.setattr(recipe, "DEV", {"tiny": "dev"})
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    recipe.study(out, data=tiny.parent, work=tmp_path / "work", dim=16, epochs=1.0, figures=figures)
    said = capsys.readouterr().out
    assert "2 lists, 1 steps" in said and "random directions" in said
    made = json.loads(figures.read_text())
    assert made["384 dimensions, fp16, fused"]["largest loss"] == 0
    sizes = {name: row["bytes per passage"] for name, row in made.items() if name.endswith("fused")}
    per_token = sizes["384 dimensions, fp16, fused"] / (768 + 4)
    assert sizes["16 dimensions, trained, int8, fused"] == pytest.approx(per_token * (16 + 4 + 4))
    assert sizes["16 dimensions, trained, pq4, fused"] == pytest.approx(per_token * (4 + 4))
    assert load_reader(f"late-interaction:{out}").dim == 16
