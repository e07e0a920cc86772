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
    loaded = []

    def load(name, /, **options):
        loaded.append((name, options))
        return ToyLearner()

    monkeypatch.setattr(sightline.training, "load_learner", load)
    return collection(tmp_path / "train"), collection(tmp_path / "zoo", 12, seed=1, split="dev"), loaded


def test_train_writes_a_model_with_its_card(run, folders, tmp_path):
    train, dev, loaded = folders
    out = tmp_path / "out"
    arguments = [
        "train", "minilm", f"{train}@0.5", "--dev", dev, "--out", out, "--steps", 30, "--lists", 4, "--lr", "0.05",
        "--documents", "4-12", "--in-batch", "0.2", "--temperature", "1.0", "--evaluate-every", 10, "--patience", 2,
        "--licence", "train=CC0", "--option", "layers=[1, 2]", "--option", "kind=deep", "--lora", 4, "--next-token",
    ]  # fmt: skip
    code, said, err = run(*arguments)
    assert code == 0, err
    assert loaded == [("minilm", {"layers": [1, 2], "kind": "deep", "lora": 4, "next_token": True})]
    assert "zoo/dev" in said and "weights of step" in said
    assert (out / "model.safetensors").exists() and "| train | train | 40 | 0.5 | CC0 |" in (
        out / "README.md"
    ).read_text()
    summary = json.loads((out / "training.json").read_text())
    settings = summary["settings"]
    assert (settings["documents"], settings["weights"], settings["patience"]) == ([4, 12], {"train": 0.5}, 2)
    assert summary["origin"]["command"].startswith("sightline train minilm train@0.5 ")
    code, _, err = run(*arguments)
    assert code == 2 and "holds no run to continue" in err


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

    arguments = ["train", "minilm", folders[0], "--out", tmp_path / "out", "--steps", 5]
    monkeypatch.setattr(sightline.training, "load_learner", lambda name, **options: Interrupted())
    code, _, err = run(*arguments)
    assert code == 130 and "the same command continues from there" in " ".join(err.split())
    went_on = ToyLearner()
    monkeypatch.setattr(sightline.training, "load_learner", lambda name, **options: went_on)
    assert run(*arguments)[0] == 0 and len(went_on.calls) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "either steps or epochs"),
        (["--steps", 1, "--epochs", 1], "either steps or epochs"),
        (["--steps", 1, "--documents", "many"], "'--documents': 'many' is not LOW-HIGH"),
        (["--steps", 1, "--option", "x"], "--option 'x' is not NAME=VALUE"),
        (["--steps", 1, "--run", "nq=x.trec"], "a run is for 'nq'"),
        (["--steps", 1, "--schedule", "linear"], "'linear' is not one of 'cosine', 'constant'"),
        (["--steps", 1, "--learning-rate", -1], "--learning-rate must be above 0"),
        (["--steps", 1, "--shuffle-sentences", 2], "Invalid value for '--shuffle-sentences'"),
        (["--steps", 1, "--option", "parts=[weights"], "--option parts: not valid YAML"),
    ],
)
def test_train_refuses_what_it_cannot_do(run, folders, tmp_path, more, message):
    code, _, err = run("train", "minilm", folders[0], "--out", tmp_path / "out", *more)
    assert code == 2 and message in " ".join(err.replace("│", "").split())
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
    counts = json.loads(said)
    assert counts["too_high"] > 0 and counts["lists"] + counts["without_negative"] == 40
    code, _, err = run("train", "minilm", out, "--out", tmp_path / "o", "--steps", 1, "--distillation-weight", 1)
    assert code == 0, err


def test_learners_are_asked_for_by_name():
    with pytest.raises(InputError, match="nothing called 'bert' can be trained"):
        load_learner("bert")
    with pytest.raises(InputError, match="names no model"):
        load_learner("hf:")


@pytest.mark.parametrize("more", [[], ["--steps", 1, "--epochs", 1], ["--lr", -1]])
def test_train_names_a_missing_folder_and_a_typo_before_anything_else(run, folders, tmp_path, more):
    train, _, _ = folders
    code, _, err = run("train", "minilm", train.with_name("trian"), "--out", tmp_path / "out", *more)
    assert code == 3 and "no such folder; did you mean 'train'?" in err
    code, _, err = run("train", "minilm", train, "--dev", tmp_path / "nowhere", "--out", tmp_path / "out", *more)
    assert code == 3 and f"{tmp_path / 'nowhere'}: no such folder" in err
    code, _, err = run("train", "minlm", train, "--out", tmp_path / "out", *more)
    assert code == 2 and "did you mean 'minilm'?" in err


def test_a_plain_folder_is_told_the_command_that_mines_its_negatives(run, folders, tmp_path):
    train, _, _ = folders
    (train / "bm25.train.tsv").unlink()
    code, _, err = run("train", "minilm", train, "--out", tmp_path / "out", "--steps", 1)
    hard = tmp_path / "train_hard.jsonl"
    command = f"sightline mine {train} --split train --system bm25 --out {hard}"
    assert code == 2 and command in err
    assert run(*command.split()[1:])[0] == 0
    assert run("train", "minilm", hard, "--out", tmp_path / "out", "--steps", 1)[0] == 0


def test_one_question_without_candidates_is_left_out_and_counted(run, folders, tmp_path, caplog):
    train, _, _ = folders
    candidates = train / "bm25.train.tsv"
    candidates.write_text("".join(candidates.read_text().splitlines(keepends=True)[1:]))
    code, _, err = run("train", "minilm", train, "--out", tmp_path / "out", "--steps", 1)
    assert code == 0, err
    assert "1 of 40 questions have no negatives" in caplog.text


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"a": 1}, {"settings": [], "step": "x"}, b"not a state", b""],
    ids=["list", "keys", "types", "bytes", "empty"],
)
def test_a_state_file_of_something_else_is_named(run, folders, tmp_path, content):
    import torch

    out = tmp_path / "out"
    out.mkdir()
    if isinstance(content, bytes):
        (out / "state.pt").write_bytes(content)
    else:
        torch.save(content, out / "state.pt")
    code, _, err = run("train", "minilm", folders[0], "--out", out, "--steps", 1)
    assert code == 1 and f"{out / 'state.pt'}: " in err and "unexpected" not in err and "Traceback" not in err
    assert (out / "state.pt").exists()


def test_what_is_trained_has_ordinary_permissions(tmp_path):
    learner = load_learner("minilm", parts=["weights"])
    learner.save(tmp_path)
    (tmp_path / "plain").write_text("")
    ordinary = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for file in tmp_path.iterdir()} == {ordinary}


def test_each_learner_has_its_own_temperature_and_rate():
    from sightline.recipes.tiny_decoder import TINY_DECODER

    minilm, decoder = load_learner("minilm"), load_learner(f"hf:{TINY_DECODER}", layout="blockrank", lora=2)
    assert (minilm.temperature, minilm.learning_rate) == (1.0, 1e-3)
    assert (decoder.temperature, decoder.learning_rate) == (0.05, 1e-4)


def test_a_loss_of_zero_from_the_start_is_warned_of(run, folders, tmp_path, caplog):
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"query": "topic1", "pos": ["topic1 a"], "neg": ["topic2 b", "topic3 c"]}\n')
    arguments = ["train", "minilm", lists, "--out", tmp_path / "out", "--steps", 2, "--documents", "3-3"]
    code, _, err = run(*arguments, "--temperature", "1e-6")
    assert code == 0, err
    assert "the temperature 1e-06 is too low" in caplog.text
