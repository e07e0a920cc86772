"""A compiled decoder gives the scores that it gives without a compiler, with one graph for whatever it reads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sightline import load_reranker
from sightline.errors import InputError, ModelError
from sightline.kernels import threads
from sightline.models.cache import DocumentCache
from sightline.models.decoder import Decoder
from sightline.models.linears import PackedLinear

from .test_engine import DOCUMENTS, QUERY, by_place

LISTS = [DOCUMENTS, DOCUMENTS[:2], [*DOCUMENTS[::-1], "cats purr " * 40]]


@pytest.fixture(autouse=True)
def counters():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Layers are compiled by a backend that takes no seconds."""
    monkeypatch.setattr(Decoder.compile, "__defaults__", ("aot_eager",))


def compiled_reranker(model, **options):
    return load_reranker(model, layout="icr-block", compile=True, **options)


@pytest.mark.parametrize(("family", "graphs"), [("qwen3", 1), ("gemma3", 2)])
def test_scores_are_the_same_with_one_graph_for_all_lists(model_of, family, graphs, counters):
    plain = load_reranker(model_of(family), layout="icr-block", cache=DocumentCache())
    compiled = compiled_reranker(model_of(family), cache=DocumentCache())
    for documents in LISTS:
        expected, got = (by_place(reranker.rank(QUERY, documents)) for reranker in (plain, compiled))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs, "layers with a sliding window have a graph of their own"
    assert not counters["graph_break"]


def test_a_compiler_that_fails_is_told_of(model_of, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here" + ", and what it says has no end" * 99)

    monkeypatch.setattr(Decoder.compile, "__defaults__", (broken,))
    with pytest.raises(ModelError, match=r"cannot be compiled: .*no compiler here.* \.\.\.; load it without") as told:
        compiled_reranker(model_of("qwen3"))
    assert len(str(told.value)) < 500


def test_another_number_of_threads_compiles_nothing_again(model_of, monkeypatch, counters):
    """Passes take as many threads as processors are idle, and a graph holds for one number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    reranker, numbers = compiled_reranker(model_of("qwen3")), iter(range(1, 99))
    monkeypatch.setattr(threads, "_idle", lambda limit: next(numbers))
    for _ in range(3):
        reranker.rank(QUERY, DOCUMENTS[:2])
    assert next(numbers) > 3 and counters["stats"]["unique_graphs"] == 1


@torch._dynamo.config.patch(recompile_limit=1)
def test_decoders_of_more_shapes_than_torch_keeps_graphs(model_of):
    compiled_reranker(model_of("qwen3"))
    with pytest.raises(ModelError, match=r"keeps 1 graphs of layers in a process.*; raise torch\._dynamo\.config"):
        compiled_reranker(model_of("mistral"))


def test_threads_whose_first_passes_meet_compile_nothing(model_of, counters):
    reranker, together = compiled_reranker(model_of("qwen3")), threading.Barrier(6)

    def rank(_):
        together.wait()
        return by_place(reranker.rank(QUERY, DOCUMENTS[:2]))

    assert counters["stats"]["unique_graphs"] == 1
    with ThreadPoolExecutor(6) as pool:
        first, *others = pool.map(rank, range(6))
    assert all(np.array_equal(first, one) for one in others) and counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_packed_layers_are_not_compiled(model_of):
    decoder = load_reranker(model_of("qwen3"), layout="icr-block").decoder
    decoder.model.layers[0].mlp.up_proj = PackedLinear(torch.ones(64, 48))
    with pytest.raises(ModelError, match="packed for this CPU; load it with compile=True"):
        decoder.compile()


def test_only_decoders_are_compiled(model_of):
    assert load_reranker(model_of("qwen3"), layout="icr-block", compile=True).decoder.compiled
    for name in ("minilm", "sightline-mini"):
        with pytest.raises(InputError, match=f"'{name}' is not a decoder, and only decoders can be compiled"):
            load_reranker(name, compile=True)
        with pytest.raises(InputError, match="only decoders can be recorded as CUDA graphs; leave cuda_graphs out"):
            load_reranker(name, cuda_graphs=True)
        assert load_reranker(name, compile=False, cuda_graphs=False).name == name


def test_passes_run_while_another_thread_compiles(model_of):
    """That a compiler is at work, torch says in all threads."""
    reranker = load_reranker(model_of("qwen3"), layout="icr-block")
    expected, got = by_place(reranker.rank(QUERY, DOCUMENTS, evidence="token")), []

    def slow(graph, inputs):
        with ThreadPoolExecutor(1) as pool:
            got.append(pool.submit(lambda: by_place(reranker.rank(QUERY, DOCUMENTS, evidence="token"))).result())
        return graph.forward

    torch.compile(lambda x: x + 1, backend=slow)(torch.ones(2))
    assert np.array_equal(got, [expected])
