"""The weights that ship: small, the documents' reader untouched, and as good on dev as their card says."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sightline import load_reranker
from sightline.data import sightline_mini
from sightline.data.sightline_mini.recipe import data_folder, dev_sets, examples
from sightline.errors import InputError
from sightline.minilm import load_minilm
from sightline.training.dev import measure

FOLDER = Path(sightline_mini.__file__).parent


def test_it_is_a_readout_and_nothing_else():
    weights = load_file(FOLDER / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"readout"}
    assert sum(weight.numel() for weight in weights.values()) == 640
    reranker = load_reranker("sightline-mini")
    assert reranker.name == reranker.layout.name == "sightline-mini"
    assert reranker.model is load_minilm()  # so a query is read once, and an index's token states serve it


def test_it_learnt_something():
    documents = ["Cats purr.", "A cat is a small animal that purrs.", "Iron rusts.", "Dogs bark at night."]
    mini, start = load_reranker("sightline-mini"), load_reranker("minilm")
    found = mini.rank("which animal purrs", documents, evidence="sentence")
    assert {item.index for item in found[:2]} == {0, 1}
    assert all(mark.mass > 0 for item in found for mark in item.evidence)
    by_start = {item.index: item.score for item in start.rank("which animal purrs", documents)}
    assert max(abs(item.score - by_start[item.index]) for item in found) > 0.01


def test_the_card_says_what_the_run_said():
    card, record = (FOLDER / "README.md").read_text(), json.loads((FOLDER / "training.json").read_text())
    assert "To be filled in" not in card
    for name, row in record["dev"].items():
        assert name in card and f"{row['after']['mean']:.4f}" in card
    assert all(source in card for source in ("nq_train", "squad_train_sub", "medquad", "CC BY-SA"))


def test_without_the_collections_the_recipe_says_so(monkeypatch):
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)
    with pytest.raises(InputError, match="SIGHTLINE_DATA"):
        data_folder()
    assert data_folder(Path("here")) == Path("here")


@pytest.mark.data
def test_its_dev_figures_are_those_of_its_card(collections):
    record = json.loads((FOLDER / "training.json").read_text())
    chosen = [one for one in dev_sets(Path(collections)) if one.dataset.name == "multihop_small"]
    for name, values in measure(load_reranker("sightline-mini"), chosen).items():
        row = record["dev"][name]["after"]
        assert sum(values.values()) / len(values) == pytest.approx(row["mean"], abs=0.003), name
        assert row["low"] <= sum(values.values()) / len(values) <= row["high"]


@pytest.mark.data
def test_it_learns_from_train_splits_of_openly_licensed_collections_alone(collections):
    sources, found = examples(Path(collections), depth=5)
    assert {source.split for source in sources} == {"train"}
    assert (
        {source.name for source in sources}
        == {example.source for example in found}
        == {
            "nq_train",
            "squad_train_sub",
            "medquad",
            "fairytaleqa",
            "pubmedqa",
            "stackexchange_small",
            "ares_synth",
        }
    )
