"""Readers by ONNX Runtime and OpenVINO give torch's states, alone and among others, in threads and forked processes."""

import importlib.util
import multiprocessing
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sightline.documents import Document
from sightline.errors import BackendError, InputError, MissingExtraError, ModelError
from sightline.models.cache import DocumentCache
from sightline.models.loading import load_reader
from sightline.models.minilm import MiniLM
from sightline.models.reader import document_states
from sightline.models.sentence_transformer import load_sentence_transformer
from sightline.rerank.loading import load_reranker, reader_options
from sightline.retrieval.index import Index
from sightline.retrieval.manifest import Manifest
from sightline.search import Searcher

from .model_folders import SENTENCES, bi_encoder, multi_vector

TEXTS = ["", "Cats purr.", *SENTENCES, "日本語 ünï 🙂 cats", "dogs bark " * 100]
NEEDS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}


@pytest.fixture(scope="module", params=NEEDS)
def backend(request):
    for module in NEEDS[request.param]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model of random weights by its family, made when it is first asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = bi_encoder(family, tmp_path_factory.mktemp(family), **OPTIONS.get(family, {}))
        return made[family]

    return folder


OPTIONS = {
    "mpnet": {"prompts": {"query": "query: ", "document": "a passage: "}},
    "xlm-r": {"include_prompt": False, "prompts": {"document": "text: "}},
    "modernbert": {"pooling": "cls", "heads": [(32, 24, torch.nn.Tanh())]},
    "qwen3": {"pooling": "lasttoken"},
}


@pytest.fixture(scope="module")
def small(folders, backend):
    return load_reader(f"encoder:{folders('bert')}", backend=backend)


def same(reading, expected, most=1e-4):
    np.testing.assert_array_equal(reading.offsets, expected.offsets)
    np.testing.assert_array_equal(reading.spans, expected.spans)
    np.testing.assert_allclose(reading.states, expected.states, rtol=0, atol=most)
    np.testing.assert_allclose(reading.pooled, expected.pooled, rtol=0, atol=most)


@pytest.mark.parametrize("family", ["bert", "mpnet", "xlm-r", "modernbert"])
def test_encoders_of_every_family_read_as_by_torch(folders, family, backend):
    name = f"encoder:{folders(family)}"
    torchs, reader = load_reader(name, device="cpu"), load_reader(name, backend=backend)
    assert (reader.backend, torchs.backend, reader.revision) == (backend, "torch", torchs.revision)
    for kind in ("query", "document"):
        same(reader.read(TEXTS, kind=kind), torchs.read(TEXTS, kind=kind))


def test_a_decoder_is_read_as_by_torch_or_refused(folders, backend):
    name = f"encoder:{folders('qwen3')}"
    try:
        reader = load_reader(name, backend=backend)
    except BackendError as error:
        assert f"the backend {backend!r} cannot be used for this model, a Qwen3Model: it" in str(error)
    else:
        same(reader.read(TEXTS), load_reader(name, device="cpu").read(TEXTS))


def test_the_default_and_a_late_interaction_model_read_as_by_torch(backend, tmp_path):
    expansion = {"strategy": "fixed", "token": "[MASK]", "length": 12, "attend": False}
    folder = multi_vector("bert", tmp_path, expansion=expansion, skip=("!", "."))
    for name in ("minilm", f"late-interaction:{folder}"):
        torchs, reader = load_reader(name, device="cpu"), load_reader(name, backend=backend)
        for kind in ("query", "document"):
            same(reader.read(TEXTS, kind=kind), torchs.read(TEXTS, kind=kind))
    cats = load_reranker("minilm", backend=backend).rank("what do cats do", SENTENCES)
    assert cats.backend.startswith(f"{backend}+") and cats[0].document.text == SENTENCES[0]
    expected = {item.document.text: item.score for item in load_reranker("minilm").rank("what do cats do", SENTENCES)}
    assert {item.document.text: item.score for item in cats} == pytest.approx(expected, abs=1e-3)


def test_a_text_is_read_alone_as_among_others(small):
    together = small.read(TEXTS)
    for i in (1, 3, 5):
        rows = slice(together.offsets[i], together.offsets[i + 1])
        np.testing.assert_allclose(small.read([TEXTS[i]]).states, together.states[rows], rtol=0, atol=1e-5)


def test_threads_read_side_by_side(small):
    expected = [small.read([text]).states for text in TEXTS[1:5]]
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda text: small.read([text]).states, TEXTS[1:5] * 6))
    for i, states in enumerate(several):
        np.testing.assert_allclose(states, expected[i % 4], rtol=0, atol=1e-5)


def read_and_send(reader, pipe):
    pipe.send(reader.read(TEXTS[:3]).states)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_reads(small):
    expected = small.read(TEXTS[:3]).states
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=read_and_send, args=(small, theirs))
    child.start()
    assert ours.poll(60)
    np.testing.assert_allclose(ours.recv(), expected, rtol=0, atol=1e-5)
    child.join(30)
    assert child.exitcode == 0
    np.testing.assert_array_equal(small.read(TEXTS[:3]).states, expected)


def test_a_copy_converts_anew(small):
    network = small._model[0].model
    copied = pickle.loads(pickle.dumps(network))
    ids = torch.tensor([[5, 6, 7]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(copied(**given).last_hidden_state, network(**given).last_hidden_state)
    assert (copied.backend, copied.config.hidden_size) == (small.backend, 32)


@pytest.mark.parametrize("backend", ["onnx"], indirect=True)
def test_what_was_trained_is_converted_anew(backend):
    reader = MiniLM(device="cpu")
    reader.network.encoder.layer = reader.network.encoder.layer[:1]  # so that it is soon converted
    reader.backend = backend
    before = reader.read(TEXTS[1:3]).states
    with torch.no_grad():
        reader.network.encoder.layer[0].output.dense.weight.mul_(1.5)
    reader.weights_changed()
    states = reader.read(TEXTS[1:3]).states
    assert np.abs(states - before).max() > 1e-3
    with torch.no_grad():
        hidden, mask = reader.hidden(reader.tokenise(TEXTS[1:3]), [0, 1])  # by torch, as for training
    own = [row[mask[i]][1:-1] for i, row in enumerate(torch.nn.functional.normalize(hidden, dim=-1))]
    np.testing.assert_allclose(states, torch.cat(own).numpy(), rtol=0, atol=1e-4)


def test_an_index_says_what_read_it_and_any_backend_reads_queries(folders, small, backend, tmp_path):
    folder, documents = str(folders("bert")), [Document(str(i), text) for i, text in enumerate(TEXTS[1:6])]
    settings = {"encoder": folder, "token_states": "int8"}
    with Index.build(tmp_path / "torch", documents, **settings) as plain:
        assert plain.manifest.token_states.backend is None and plain.manifest.encoder.backend is None
        states = [keys.values for keys in plain.token_keys(plain.passages(range(5)))]
    with Index.build(tmp_path / "other", documents, backend=backend, **settings) as index:
        assert (index.manifest.token_states.backend, index.manifest.encoder.backend) == (backend, backend)
        assert index.manifest.settings()["token_states"]["backend"] == backend
        assert index.encoder is small  # one model in memory
        for ours, torchs in zip(index.token_keys(index.passages(range(5))), states, strict=True):
            assert (ours.values.int() - torchs.int()).abs().max() <= 1  # at a boundary, a byte may round the other way
        assert pickle.loads(pickle.dumps(index)).encoder is small
    scores = {}
    for asked in (None, backend):
        name = f"encoder:{folder}#minilm-maxsim"
        reranker = load_reranker(name, **reader_options(name, asked))
        with Index.open(tmp_path / "other", backend=asked) as index:
            assert getattr(index.encoder, "backend", None) == (asked or "torch")
            searcher = Searcher(index, reranker)
            assert searcher.uses_kept_states
            scores[asked] = {hit.id: hit.score for hit in searcher.search("where do cows eat").hits}
            added = Document("new", "Horses eat grass, too.")
            assert index.update([added]) == 1
            assert index.manifest.token_states.backend == backend  # of the build
            searcher.index.delete(["new"])
    assert scores[None] == pytest.approx(scores[backend], abs=1e-3)
    with pytest.raises(InputError, match="backend is for an encoder given by name"):
        Index.open(tmp_path / "other", encoder=small, backend="torch")
    assert Manifest.load(tmp_path / "torch").settings() != Manifest.load(tmp_path / "other").settings()


def test_documents_that_torch_read_are_not_handed_out_as_a_backends(folders, small, backend):
    cache = DocumentCache(host_bytes=1 << 20)
    document_states(load_reader(str(folders("bert"))), SENTENCES, cache=cache)
    document_states(small, SENTENCES, cache=cache)
    assert (cache.hits, cache.misses) == (0, 6)


def test_other_states_than_torchs_are_refused(folders, backend, monkeypatch):
    from sightline.models import backends

    class Wrong(backends._SESSIONS[backend]):
        def run(self, ids, mask):
            return super().run(ids, mask) * 1.01

    monkeypatch.setitem(backends._SESSIONS, backend, Wrong)
    with pytest.raises(BackendError, match=f"the backend '{backend}' cannot be used .* gives other states"):
        load_sentence_transformer(str(folders("bert")), backend=backend)


def test_what_cannot_be_is_refused(folders, backend, tmp_path):
    with pytest.raises(InputError, match="the backend must be one of 'torch', 'onnx', 'openvino', not 'onx'"):
        load_reader("minilm", backend="onx")
    for options in ({"dtype": "bfloat16"}, {"device": "cuda"}):
        with pytest.raises(InputError, match=f"the backend '{backend}' reads on the device 'cpu' in float32"):
            load_reader("minilm", backend=backend, **options)
        with pytest.raises(InputError, match="in float32"):
            load_reader(f"encoder:{folders('bert')}", backend=backend, **options)
    with pytest.raises(InputError, match="backend"):
        load_reranker("smollm2#icr", backend=backend)
    with pytest.raises(InputError, match="has none"):
        load_reranker("remote:cohere/a>remote:cohere/b@3", backend=backend)
    assert reader_options("minilm", None) == {} and reader_options("cross-encoder:a", backend) == {}
    assert reader_options("sightline-mini", backend) == {"backend": backend}


@pytest.mark.parametrize(("asked", "module"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_library_names_its_extra(asked, module, folders, monkeypatch):
    if module == "onnxruntime":
        pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"install 'sightline-search\[{asked}\]'"):
        load_sentence_transformer(str(folders("bert")), backend=asked)


def test_a_model_without_token_states_has_no_other_backend(folders, backend, monkeypatch):
    monkeypatch.setattr("sightline.models.sentence_transformer._unreadable", lambda model: "it pools by itself")
    with pytest.raises(ModelError, match=f"has no token states, which the backend '{backend}' would compute: it pools"):
        load_sentence_transformer(str(folders("bert")), backend=backend)
