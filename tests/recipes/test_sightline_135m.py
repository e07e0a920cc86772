"""The recipe of sightline-135m: what it learns from, and what it exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sightline.documents import Document
from sightline.eval.dataset import Dataset
from sightline.recipes.sightline_135m import recipe
from sightline.recipes.tiny_decoder import TINY_DECODER
from sightline.rerank import load_reranker
from sightline.training.decoder import DecoderLearner
from sightline.training.examples import Example, text_key


def example(query, scores, positive=5.0):
    right = Document("p", f"{query} answered")
    wrong = [Document(str(i), f"{query} wrong {i}") for i in range(len(scores))]
    teacher = {text_key(d): s for d, s in zip([right, *wrong], [positive, *scores], strict=True)}
    return Example(query, (right,), (tuple(wrong),), teacher)


def test_lists_have_the_hardest_negatives_and_no_held_out_question():
    many = [9.0, 8.0, *(4.0 - i / 100 for i in range(40))]
    lists = [example("held", many), example("many", many), example("few", [9.0, 8.0, 7.0, 1.0, 1.0])]
    kept = recipe.lists_of(lists, {"held"}, below_positives=True)
    assert [one.query for one in kept] == ["many"]  # of "few" two negatives are left
    [pool] = kept[0].pools
    assert [d.text for d in pool] == [f"many wrong {i}" for i in range(2, 26)]
    everything = recipe.lists_of(lists, set(), below_positives=False)
    assert [one.query for one in everything] == ["held", "many", "few"]
    assert len(everything[1].pools[0]) == 24 and everything[1].teacher == lists[1].teacher


def test_held_out_questions_are_the_same_each_time_and_are_judged():
    queries = {f"q{i}": f"question {i}" for i in range(400)}
    qrels = {id: {"d": i % 2} for i, id in enumerate(queries)}
    dataset = Dataset("toy", "train", Path(), queries, qrels)
    held = recipe.held_out(dataset)
    assert held == recipe.held_out(dataset) and len(held) == 150
    assert all(int(text.split()[1]) % 2 for text in held)


def test_the_layout_is_free_of_the_order():
    layout = recipe.layout()
    assert layout.order_free and layout.name == "sightline-135m"
    assert "{query}" in layout.require_prompt().instruction


def test_what_is_exported_ranks_as_what_was_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "MODEL", str(TINY_DECODER))
    learner = DecoderLearner(str(TINY_DECODER), "blockrank-free", lora=2)
    for parameter in learner.parameters().values():
        parameter.data = parameter.data + 0.05
    trained, out = tmp_path / "trained", tmp_path / "adapter"
    trained.mkdir()
    learner.save(trained)
    for name in ("README.md", "training.json"):
        (trained / name).write_text("{}")
    recipe.export(trained, out)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(TINY_DECODER)
    assert {str(t.dtype) for t in load_file(out / "adapter_model.safetensors").values()} == {"torch.float16"}
    documents = [Document("a", "sime is the code of veba"), Document("b", "diri is the code of keka")]
    scores = [
        [item.score for item in load_reranker(folder).rank("what is the code of keka", documents)]
        for folder in (trained, out)
    ]
    assert scores[1] == pytest.approx(scores[0], abs=2e-3)
