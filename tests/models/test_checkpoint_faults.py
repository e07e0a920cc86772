"""Checkpoints that are damaged, of another kind, or would run code: an error that names them, and nothing is ranked."""

import json
import os
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.errors import ModelError, SightlineError
from sightline.rerank.loading import load_reranker

WEIGHTS = "model.safetensors"
EMBEDDINGS = "embeddings.word_embeddings.weight"


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def in_json(name, **changes):
    """Fields of a file changed, or left out where they are None."""

    def damage(folder):
        path = next(folder.glob(name))
        fields = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))

    return damage


def holds(name, data):
    return lambda folder: next(iter(folder.glob(name)), folder / name).write_bytes(data)


def without(*names):
    def damage(folder):
        for path in [path for name in names for path in folder.glob(name)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut(name):
    def damage(folder):
        path = next(folder.glob(name))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def in_weights(change, name=WEIGHTS):
    def damage(folder):
        path = next(folder.glob(name))
        weights = load_file(path)
        change(weights)
        save_file(weights, path, metadata={"format": "pt"})

    return damage


def first_rows(ending, count):
    def change(weights):
        name = next(name for name in weights if name.endswith(ending))
        weights[name] = weights[name][:count].clone()

    return change


def labels(count):
    """A cross-encoder with so many labels."""

    def change(weights):
        weights["classifier.weight"], weights["classifier.bias"] = torch.randn(count, 32), torch.randn(count)

    names = {str(label): f"L{label}" for label in range(count)}
    return both(in_json("config.json", id2label=names, label2id=None), in_weights(change))


def evil_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder / "RAN"), protocol=2))


def own_code(folder):
    parts = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForSequenceClassification": "own.Model"}
    in_json("config.json", model_type="own", auto_map=parts)(folder)
    (folder / "own.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\n")


def module(place, **changes):
    def damage(folder):
        modules = json.loads((folder / "modules.json").read_text())
        modules[place] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return damage


def both(*damages):
    return lambda folder: [damage(folder) for damage in damages]


# What every checkpoint can suffer from: how, and what the message says.
ANY = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no such folder|cannot be loaded"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "cannot be loaded|not a folder|no such"),
    "an empty folder": (without("*"), "no modules.json or config.json there"),
    "no config": (without("config.json"), "model_type|config"),
    "bad config": (holds("config.json", b'{"model_type": '), "JSON"),
    "config of another shape": (holds("config.json", b"[]"), "model_type|config"),
    "binary config": (holds("config.json", b"\xff\xfe\x00"), "JSON"),
    "no model type": (in_json("config.json", model_type=None), "model_type"),
    "unknown model type": (in_json("config.json", model_type="frobnicate"), "frobnicate"),
    "a text as a size": (in_json("config.json", hidden_size="many"), "hidden_size"),
    "another size": (in_json("config.json", hidden_size=64), "cannot be loaded"),
    "more layers": (in_json("config.json", num_hidden_layers=2), "layer.1.*random"),
    "heads that do not divide": (in_json("config.json", num_attention_heads=5), "heads"),
    "code of its own": (own_code, "code"),
    "no tokenizer": (without("tokenizer*"), "tokenizer"),
    "bad tokenizer": (holds("tokenizer.json", b"{"), "JSON"),
    "tokenizer of another shape": (holds("tokenizer.json", b"{}"), "cannot be loaded"),
    "tokenizer of another model": (
        both(in_json("config.json", vocab_size=1000), in_weights(first_rows(EMBEDDINGS, 1000))),
        "a tokenizer of 30,522 tokens and embeddings of 1,000",
    ),
    "no weights": (without(WEIGHTS), WEIGHTS),
    "weights cut off": (cut(WEIGHTS), "incomplete|cannot be"),
    "empty weights": (holds(WEIGHTS, b""), "header too small|cannot be"),
    "a page as weights": (holds(WEIGHTS, b"<html>" * 99), "header too large|cannot be"),
    "a pointer as weights": (holds(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n"), "header"),
    "a pickle that runs code": (evil_pickle, "a pickle that torch refuses.*safetensors"),
    "an index of weights to nowhere": (
        both(
            without(WEIGHTS), holds(f"{WEIGHTS}.index.json", b'{"metadata": {}, "weight_map": {"a": "b.safetensors"}}')
        ),
        "b.safetensors",
    ),
    "a bad index of weights": (both(without(WEIGHTS), holds(f"{WEIGHTS}.index.json", b"{")), "JSON"),
    "a weight missing": (in_weights(lambda weights: weights.pop(_weight_of_layer(weights))), "random"),
    "a weight that is no number": (
        in_weights(lambda weights: weights[_weight_of_layer(weights)].fill_(float("nan"))),
        "not finite, since .*output.dense.weight",
    ),
}
HEAD = {
    "no head": (
        in_weights(lambda weights: [weights.pop(name) for name in list(weights) if "classifier" in name]),
        "not a trained CrossEncoder: .*classifier.weight",
    ),
    "three labels": (labels(3), r"3 labels \(L0, L1, L2\), and nothing says which of them is the relevance"),
    "two labels": (labels(2), r"2 labels \(L0, L1\)"),
    "no label": (in_json("config.json", id2label={}, label2id={}), "cannot be loaded"),
    "a head that is no number": (
        in_weights(lambda weights: weights["classifier.weight"].fill_(float("inf"))),
        "not finite, since .*classifier.weight",
    ),
}
PROJECTION = {
    "no modules": (without("modules.json"), "random|projection|modules"),
    "bad modules": (holds("modules.json", b"["), "JSON"),
    "empty modules": (holds("modules.json", b"[]"), "modules"),
    "modules of another shape": (holds("modules.json", b'["a"]'), "modules"),
    "code as a module": (module(1, type="os.system"), "os.system"),
    "a module that there is not": (module(1, type="nowhere.Dense"), "nowhere|code"),
    "a module elsewhere": (module(1, path="../elsewhere"), "elsewhere"),
    "no projection": (without("1_*"), "1_Dense"),
    "no config of the projection": (without("1_*/config.json"), "1_Dense/config.json"),
    "bad config of the projection": (holds("1_*/config.json", b"{"), "1_Dense/config.json: not valid JSON"),
    "no weights of the projection": (without("1_*/*.safetensors"), "1_Dense"),
    "weights of the projection cut off": (cut("1_*/*.safetensors"), "1_Dense/model.safetensors"),
    "a projection from another size": (in_json("1_*/config.json", in_features=7), r"\[128, 32\]"),
    "a projection to another size": (in_json("1_*/config.json", out_features=7), r"\[128, 32\]"),
    "a projection for another model": (
        both(
            in_json("1_*/config.json", in_features=7),
            in_weights(
                lambda weights: weights.update({"linear.weight": weights["linear.weight"][:, :7].contiguous()}),
                "1_*/*.safetensors",
            ),
        ),
        "do not fit together",
    ),
    "code as activation": (
        in_json("1_*/config.json", activation_function="os.abort"),
        "'os.abort' is not one of torch",
    ),
    "bad settings": (holds("config_sentence_transformers.json", b"{"), "JSON"),
}
CASES = [
    (kind, name, *case)
    for kind, cases in (
        ("cross-encoder", ANY | HEAD),
        ("late-interaction", PROJECTION),
        ("encoder", {name: ANY[name] for name in ("no config", "no tokenizer", "weights cut off", "code of its own")}),
    )
    for name, case in cases.items()
]


def _weight_of_layer(weights):
    return next(name for name in weights if name.endswith("layer.0.output.dense.weight"))


@pytest.mark.parametrize(("kind", "name", "damage", "said"), CASES, ids=[f"{case[0]}, {case[1]}" for case in CASES])
def test_a_checkpoint_that_is_wrong_ranks_nothing(kind, name, damage, said, scorer_folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(scorer_folders["bare" if kind == "encoder" else kind], folder)
    damage(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_reranker(f"{kind}:{folder}").rank("what do cats do", ["Cats purr.", "Iron rusts."])
    message = str(caught.value)
    assert str(folder) in message and len(message) < 1200 and "\n" not in message
    assert "trust_remote_code" not in message or "`trust_remote_code=True`" in message
    assert not re.search("weights_only", message)  # is no advice
    assert not (folder / "RAN").exists()


def test_a_pickle_of_weights_alone_is_read_and_runs_nothing(scorer_folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(scorer_folders["cross-encoder"], folder)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    texts = ["Cats purr.", "Iron rusts."]
    scores = [
        [item.score for item in load_reranker(f"cross-encoder:{path}").rank("cats", texts)]
        for path in (folder, scorer_folders["cross-encoder"])
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


NAMES = ["x" * 500, "a\x00b", "../" * 50 + "none", "/", "/dev/null", "~/none", "a/b/c/d"]


@pytest.mark.parametrize("kind", ["cross-encoder", "late-interaction", "encoder"])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_checkpoint_has(kind, name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SightlineError) as caught:
        load_reranker(f"{kind}:{name}")
    assert len(str(caught.value)) < 1200 + len(name)
