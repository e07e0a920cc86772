"""``sightline mine`` and ``train`` as their users meet them."""

import json
import logging

import pytest

import sightline.training
from sightline.errors import InputError
from sightline.training import load_learner

from ..training.toy import ToyLearner, collection


@pytest.fixture(autouse=True)
def quiet():
    yield
    logging.getLogger("sightline.training").setLevel(logging.NOTSET)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    asked = []

    def load(name, /, **options):
        asked.append((name, options))
        return ToyLearner()

    monkeypatch.setattr(sightline.training, "load_learner", load)
    return collection(tmp_path / "train"), collection(tmp_path / "zoo", 12, seed=1, split="dev"), asked


def test_train_writes_a_model_with_its_card(run, folders, tmp_path):
    train, dev, asked = folders
    out = tmp_path / "out"
    given = [
        "train", "minilm", f"{train}@0.5", "--dev", dev, "--out", out, "--steps", 30, "--lists", 4, "--lr", "0.05",
        "--documents", "4-12", "--in-batch", "0.2", "--temperature", "1.0", "--evaluate-every", 10, "--patience", 2,
        "--licence", "train=CC0", "--option", "layers=[1, 2]", "--option", "kind=deep", "--lora", 4, "--next-token",
    ]  # fmt: skip
    code, said, err = run(*given)
    assert code == 0, err
    assert asked == [("minilm", {"layers": [1, 2], "kind": "deep", "lora": 4, "next_token": True})]
    assert "zoo/dev" in said and "weights of step" in said
    assert (out / "model.safetensors").exists() and "| train | train | 40 | 0.5 | CC0 |" in (
        out / "README.md"
    ).read_text()
    summary = json.loads((out / "training.json").read_text())
    settings = summary["settings"]
    assert (settings["documents"], settings["weights"], settings["patience"]) == ([4, 12], {"train": 0.5}, 2)
    assert summary["origin"]["command"].startswith("sightline train minilm train@0.5 ")
    code, _, err = run(*given)
    assert code == 2 and "holds no run to go on with" in err


def test_help_is_not_taken_for_markup(run):
    said = run("train", "--help")[1]
    assert "SPLIT@WEIGHT" in said and "LOW-HIGH" in said


def test_train_in_json(run, folders, tmp_path):
    train, _, _ = folders
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"query": "topic1", "pos": ["topic1 a"], "neg": ["topic2 b", "topic3 c"]}\n')
    code, said, err = run("train", "minilm", train, lists, "--out", tmp_path / "o", "--epochs", "0.2", "--json")
    assert code == 0, err
    summary = json.loads(said)
    assert summary["steps"] == 2 and [row["name"] for row in summary["origin"]["data"]] == ["train", "lists"]
    assert summary["dev"] == {} and summary["history"] == []


def test_an_interrupted_run_goes_on_by_the_same_command(run, folders, tmp_path, monkeypatch):
    class Interrupted(ToyLearner):
        def __call__(self, lists):
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(lists)

    given = ["train", "minilm", folders[0], "--out", tmp_path / "out", "--steps", 5]
    monkeypatch.setattr(sightline.training, "load_learner", lambda name, **options: Interrupted())
    code, _, err = run(*given)
    assert code == 130 and "the same command goes on from there" in err
    went_on = ToyLearner()
    monkeypatch.setattr(sightline.training, "load_learner", lambda name, **options: went_on)
    assert run(*given)[0] == 0 and len(went_on.calls) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "either steps or epochs"),
        (["--steps", 1, "--epochs", 1], "either steps or epochs"),
        (["--steps", 1, "--documents", "many"], "--documents 'many' is not LOW-HIGH"),
        (["--steps", 1, "--option", "x"], "--option 'x' is not NAME=VALUE"),
        (["--steps", 1, "--run", "nq=x.trec"], "a run is for 'nq'"),
        (["--steps", 1, "--schedule", "linear"], "schedule must be one of"),
        (["--steps", 1, "--dev", "lists.jsonl"], "not a file of lists"),
    ],
)
def test_train_refuses_what_it_cannot_do(run, folders, tmp_path, more, message):
    code, _, err = run("train", "minilm", folders[0], "--out", tmp_path / "out", *more)
    assert code == 2 and message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_mine_writes_lists_that_train_reads(run, folders, tmp_path):
    train, _, _ = folders
    out = tmp_path / "hard.jsonl"
    code, said, err = run("mine", train, "--system", "given", "--out", out, "--no-margin", "--negatives", 5)
    assert code == 0, err
    assert "40 lists" in said and (tmp_path / "hard.mining" / "results.json").exists()
    first = json.loads(out.read_text().splitlines()[0])
    assert list(first) == ["query", "pos", "neg", "pos_scores", "neg_scores"] and len(first["neg"]) == 5
    code, said, _ = run("mine", train, "--system", "given", "--out", out, "--margin", 3, "--absolute", "--json")
    told = json.loads(said)
    assert told["too_high"] > 0 and told["lists"] + told["without_negative"] == 40
    code, _, err = run("train", "minilm", out, "--out", tmp_path / "o", "--steps", 1, "--distillation-weight", 1)
    assert code == 0, err


def test_learners_are_asked_for_by_name():
    with pytest.raises(InputError, match="nothing called 'bert' can be trained"):
        load_learner("bert")
    with pytest.raises(InputError, match="names no model"):
        load_learner("hf:")
