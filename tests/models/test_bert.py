"""BERT without padding: the states of transformers' own, whatever the batch, and only where it fits."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from sightline.models import bert
from sightline.models.bert import PackedBert, packed_bert
from sightline.models.minilm import MiniLM, load_minilm


def network(**changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = BertConfig(**sizes | {"intermediate_size": 40, "max_position_embeddings": 32} | changes)
    return BertModel(config, add_pooling_layer=False).eval()


def texts(seed, count):
    random = np.random.default_rng(seed)
    return [random.integers(0, 50, size).tolist() for size in random.integers(1, 30, count)]


@pytest.mark.parametrize("seed", range(3))
def test_states_are_those_of_transformers(seed):
    model, ids = network(), texts(seed, 9)
    ids += [ids[0], ids[0][::-1]]  # of one length, side by side
    with torch.inference_mode():
        expected = torch.cat([model(input_ids=torch.tensor([text])).last_hidden_state[0] for text in ids])
        torch.testing.assert_close(PackedBert(model)(ids), expected, rtol=1e-5, atol=1e-5)
        half = PackedBert(model, torch.bfloat16)(ids)
    assert half.dtype == torch.float32 and 1e-5 < (half - expected).abs().max() < 0.05


def test_a_text_does_not_depend_on_its_neighbours():
    packed, ids = PackedBert(network()), [text for text in texts(5, 12) if len(text) > 4]
    with torch.inference_mode():
        whole = packed(ids).split([len(text) for text in ids])
        for place in (0, len(ids) - 1):
            torch.testing.assert_close(packed([ids[place]]), whole[place], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "relu"}, {"is_decoder": True}, {"dtype": torch.float16}, {"device": "meta"}]
)
def test_another_architecture_is_left_to_transformers(changes):
    where = {key: changes.pop(key) for key in ("dtype", "device") if key in changes}
    model = network(**changes).to(**where)
    assert packed_bert(model, torch.float32, [[1, 2]]) is None
    assert packed_bert(network(), torch.float32, [[1, 2]]) is not None


def test_states_that_differ_are_left_to_transformers(monkeypatch):
    model = network()
    real = PackedBert.__call__
    monkeypatch.setattr(PackedBert, "__call__", lambda self, ids: real(self, ids) + 2e-4)
    assert packed_bert(model, torch.float32, [[1, 2]]) is None


TEXTS = ["Cats purr.", "", "The Danube flows through ten countries, more than any other river. " * 9, "Dogs bark."]


@pytest.mark.parametrize("behind", ["", "who purrs"])
def test_the_default_model_reads_the_same_with_and_without(monkeypatch, behind):
    fast = load_minilm(device="cpu").read(TEXTS, behind=behind)
    plain = MiniLM(device="cpu")
    monkeypatch.setattr(bert, "packed_bert", lambda *args: None)
    slow = plain.read(TEXTS, behind=behind)
    assert plain._unpackable
    np.testing.assert_allclose(fast.states, slow.states, atol=2e-5)
    np.testing.assert_allclose(fast.pooled, slow.pooled, atol=2e-5)
    assert fast.offsets.tolist() == slow.offsets.tolist() and fast.spans.tolist() == slow.spans.tolist()


def test_new_weights_are_read_once_the_reader_is_told():
    reader = MiniLM(device="cpu")
    before = reader.read(["Cats purr."]).pooled
    with torch.no_grad():
        reader.network.encoder.layer[0].output.dense.weight.mul_(0.5)
    reader.weights_changed()
    assert np.abs(reader.read(["Cats purr."]).pooled - before).max() > 1e-3
