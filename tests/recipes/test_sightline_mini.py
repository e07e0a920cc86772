"""The weights that ship: small, the documents' reader untouched, and as good on dev as their card says."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sightline import load_reranker
from sightline.data import sightline_mini
from sightline.documents import Document
from sightline.errors import InputError
from sightline.models.minilm import MiniLM, load_minilm
from sightline.recipes.sightline_mini import dev, recipe
from sightline.recipes.sightline_mini.dev import data_folder, dev_sets
from sightline.recipes.sightline_mini.recipe import examples
from sightline.recipes.sightline_mini.study import (
    VARIANTS,
    Variant,
    study,
    with_dense,
)
from sightline.training.dev import measure
from sightline.training.examples import Example
from sightline.training.late_interaction import RememberingReader

FOLDER = Path(sightline_mini.__file__).parent
SHIPPED = json.loads((FOLDER / "training.json").read_text())


def test_it_is_a_readout_and_nothing_else():
    weights = load_file(FOLDER / "model.safetensors")
    assert {name.split(".")[0] for name in weights} == {"readout"}
    assert sum(weight.numel() for weight in weights.values()) == 640
    reranker = load_reranker("sightline-mini")
    assert reranker.name == reranker.spec.name == "sightline-mini"
    assert reranker.reader is load_minilm()  # so a query is read once, and an index's token states serve it


def test_it_learnt_something():
    documents = ["Cats purr.", "A cat is a small animal that purrs.", "Iron rusts.", "Dogs bark at night."]
    mini, start = load_reranker("sightline-mini"), load_reranker("minilm")
    ranking = mini.rank("which animal purrs", documents, evidence="sentence")
    assert {item.index for item in ranking[:2]} == {0, 1}
    assert all(mark.mass > 0 for item in ranking for mark in item.evidence)
    by_start = {item.index: item.score for item in start.rank("which animal purrs", documents)}
    assert max(abs(item.score - by_start[item.index]) for item in ranking) > 0.01


def test_the_card_says_what_the_run_said():
    card = (FOLDER / "README.md").read_text()
    assert "To be filled in" not in card
    for name, row in SHIPPED["dev"].items():
        assert name in card and f"{row['after']['mean']:.4f}" in card
    assert all(source in card for source in ("nq_train", "squad_train_sub", "medquad", "CC BY-SA"))


def test_without_the_collections_the_recipe_says_so(monkeypatch):
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)
    with pytest.raises(InputError, match="SIGHTLINE_DATA"):
        data_folder()
    assert data_folder(Path("here")) == Path("here")


CRIES = {"cat": "purrs", "dog": "barks", "crow": "caws", "frog": "croaks", "lion": "roars", "bee": "buzzes"}
TRAIN = ("nq_train", "squad_train_sub", "medquad", "fairytaleqa", "pubmedqa", "stackexchange_small", "ares_synth")
DEV = ("nq_train", "medquad", "fairytaleqa", "mlquestions", "bioasq", "policyqa", "checkthat2020")


@pytest.fixture
def small(tmp_path):
    """Folders named and made as the collections are, of three questions each."""
    data = tmp_path / "data"
    splits = {**dict.fromkeys(TRAIN, ("train",)), **dict.fromkeys(DEV, ("dev",))}
    splits |= dict.fromkeys(set(TRAIN) & set(DEV), ("train", "dev"))
    splits |= {"multihop_small": ("test",), "wikiqa": ("train",), "trec_dl21": ("test",)}
    for name, parts in splits.items():
        folder = data / name
        (folder / "qrels").mkdir(parents=True)
        corpus = [
            {"_id": animal, "title": "", "text": f"In {name}, a {animal} {cry}."} for animal, cry in CRIES.items()
        ]
        questions = [{"_id": f"q{i}", "text": f"which animal {cry}?"} for i, cry in enumerate(list(CRIES.values())[:3])]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
        (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
        for split in parts:
            judged = [(f"q{i}", animal, int(i == j)) for i in range(3) for j, animal in enumerate(CRIES)]
            rows = "".join("\t".join(map(str, row)) + "\n" for row in judged)
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
            (folder / f"bm25.{split}.tsv").write_text("".join(f"q{i}\t{' '.join(CRIES)}\n" for i in range(3)))
        (folder / "qrels.full.trec").write_text("".join(f"{q} 0 {a} {grade}\n" for q, a, grade in judged))
        lines = (f"q{i} Q0 {a} {rank} {-rank} bm25\n" for i in range(3) for rank, a in enumerate(CRIES, 1))
        (folder / "run.bm25.trec").write_text("".join(lines))
    return data


def test_one_command_trains_what_ships(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipe", str(tmp_path / "out"), "--data", str(small)])
    recipe.main()
    figures = json.loads(capsys.readouterr().out)
    assert {name.split("/")[0] for name in figures} == {*DEV, "multihop_small", "wikiqa", "trec_dl21"}
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["steps"] == 1 and {row["name"] for row in record["origin"]["data"]} == set(TRAIN)
    assert record["settings"]["options"] == SHIPPED["settings"]["options"]  # and what is learnt is what ships
    assert record["settings"]["parameters"] == SHIPPED["settings"]["parameters"]
    reranker = load_reranker(str(tmp_path / "out"))
    assert reranker.layout == "sightline-mini"
    assert reranker.rank("which animal purrs?", ["A dog barks.", "A cat purrs."])[0].index == 1


def test_rerankers_are_compared_on_dev(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["dev", str(tmp_path / "out"), "minilm", "minilm-maxsim", "--data", str(small), "--queries", "2"]
    )
    dev.main()
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "dev.json").read_text())
    assert list(written) == ["minilm", "minilm-maxsim"]
    for name, row in written["minilm-maxsim"]["dev"].items():
        before = written["minilm"]["dev"][name]
        assert row["queries"] == before["queries"] == 2 and "difference" not in before
        gain = row["value"]["mean"] - before["value"]["mean"]
        assert row["difference"]["mean"] == pytest.approx(gain, abs=1e-9) and 0 <= row["p"] <= 1
        assert name in printed and f"{row['value']['mean']:.4f}" in printed
    values = [row["value"]["mean"] for row in written["minilm"]["dev"].values()]
    assert written["minilm"]["mean"] == pytest.approx(sum(values) / len(values))


def test_the_study_trains_each_row_once(small, tmp_path, monkeypatch):
    taught = Variant(
        "taught", "by a row", {"parts": ["heads"]}, objective={"distillation_weight": 1.0}, teacher="weights"
    )
    monkeypatch.setattr("sightline.recipes.sightline_mini.study.VARIANTS", (*VARIANTS, taught))
    rows = study(small, tmp_path, ["weights", "stages", "taught"], queries=2, questions=2)
    assert list(rows) == ["weights", "stages", "taught"]
    for row in rows.values():
        assert row["lists"] == 16 and len(row["dev"]) == 10 and 0 < row["before"] <= 1
    monkeypatch.setattr("sightline.recipes.sightline_mini.study.train", None)  # what is there is not trained again
    assert study(small, tmp_path, ["weights", "stages", "taught"], queries=2, questions=2) == rows


def test_a_second_first_stage_gives_negatives_that_nobody_judged_to_answer():
    model = RememberingReader(MiniLM(), tokens=1000)
    texts = {name: Document(name, f"A {name} {cry}.") for name, cry in CRIES.items()}
    lists = [
        Example("which animal purrs?", (texts["cat"],), ((texts["dog"],),)),
        Example("which animal barks?", (texts["dog"],), ((texts["crow"],),), excluded=(texts["cat"],)),
    ]
    cats, dogs = with_dense(lists, model)
    assert cats.pools[0] == (texts["dog"],) and {d.id for d in cats.pools[1]} == {"dog", "crow"}
    assert [d.id for d in dogs.pools[1]] == ["crow"]


@pytest.mark.data
def test_its_dev_figures_are_those_of_its_card(collections):
    chosen = [dev_set for dev_set in dev_sets(Path(collections)) if dev_set.dataset.name == "multihop_small"]
    for name, values in measure([load_reranker("sightline-mini")], chosen)[0].items():
        row = SHIPPED["dev"][name]["after"]
        assert sum(values.values()) / len(values) == pytest.approx(row["mean"], abs=0.003), name
        assert row["low"] <= sum(values.values()) / len(values) <= row["high"]


@pytest.mark.data
def test_it_learns_from_train_splits_of_openly_licensed_collections_alone(collections):
    sources, lists = examples(Path(collections), candidates=5)
    assert {source.split for source in sources} == {"train"}
    assert (
        {source.name for source in sources}
        == {example.source for example in lists}
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
