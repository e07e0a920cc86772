"""On a GPU the engine gives the scores that it gives on the CPU."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sightline import Document, load_reranker
from sightline.errors import ModelError
from sightline.models.cache import DocumentCache
from sightline.rerank.decoder import graphs

from .test_engine import DOCUMENTS, QUERY, by_place
from .test_kept import check_kept, read_to_be_kept

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("layout", ["blockrank", "blockrank-cached", "icr", "icr-block"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_scores_are_those_of_the_cpu(model_of, layout, dtype, tolerance):
    folder = model_of("qwen3")
    expected = by_place(load_reranker(folder, layout=layout, device="cpu").rank(QUERY, DOCUMENTS))
    ranker = load_reranker(folder, layout=layout, device="cuda", dtype=dtype)
    assert ranker.backend == "triton"
    np.testing.assert_allclose(by_place(ranker.rank(QUERY, DOCUMENTS)), expected, atol=tolerance)


def test_a_list_of_five_hundred_documents_ranks(model_of):
    documents = [f"cats purr {i} " + "and sleep " * (i % 40) for i in range(500)]
    whole = load_reranker(model_of("qwen3"), layout="blockrank-cached", device="cuda", dtype="float32")
    groups = load_reranker(
        model_of("qwen3"), layout="blockrank-cached", device="cuda", dtype="float32", token_budget=2000
    )
    np.testing.assert_allclose(
        by_place(groups.rank(QUERY, documents)), by_place(whole.rank(QUERY, documents)), atol=1e-5
    )


@pytest.mark.parametrize("layout", ["blockrank-cached", "icr-block"])
def test_documents_that_are_kept_on_the_device_give_the_scores_of_those_that_are_read_anew(model_of, layout):
    """Some are evicted in between, to the host and for good; others come back."""
    folder, documents = model_of("qwen3"), [f"cats purr {i} " + "and sleep " * (i % 40) for i in range(60)]
    cache = DocumentCache(device_bytes=600_000, host_bytes=200_000)
    plain = load_reranker(folder, layout=layout, device="cuda", dtype="bfloat16")
    ranker = load_reranker(folder, layout=layout, device="cuda", dtype="bfloat16", cache=cache)
    for start in (0, 20, 0, 30, 0):
        some = documents[start : start + 30]
        first, again = (ranker.rank(QUERY, some, evidence="token") for _ in range(2))
        assert by_place(first).tolist() == by_place(again).tolist()
        np.testing.assert_allclose(by_place(first), by_place(plain.rank(QUERY, some)), atol=0.05)
    assert 0 < cache.bytes()["device"] <= 600_000 and cache.hits > 100


@pytest.mark.parametrize("layout", ["blockrank-cached", "icr-block"])
def test_documents_are_read_where_they_lie_as_they_are_when_joined(model_of, layout):
    documents = [Document(str(i), f"cats purr {i} " + "and sleep " * (i % 40)) for i in range(500)]
    ranker = load_reranker(model_of("qwen3"), layout=layout, device="cuda", dtype="bfloat16")
    check_kept(ranker, *read_to_be_kept(ranker, documents))


def keeping(folder, layout="blockrank-cached", **options):
    """A reranker that keeps documents on the device."""
    cache = DocumentCache(device_bytes=1 << 28)
    return load_reranker(folder, layout=layout, device="cuda", dtype="bfloat16", cache=cache, **options)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("layout", ["blockrank-cached", "icr-block"])
def test_recorded_passes_give_the_scores_of_passes_that_are_not(model_of, layout, compiled):
    """Lists of several buckets in turns, so that graphs are replayed after others have used their memory."""
    plain, recorded = (
        keeping(model_of("qwen3"), layout, compile=compiled, cuda_graphs=cuda_graphs) for cuda_graphs in (False, True)
    )
    documents = [f"cats purr {i} " + "and sleep " * (i % 40) for i in range(120)]
    queries = ["cats", "what do cats do when they are content", QUERY]
    for count, query in [(count, query) for count in (100, 9, 120, 30, 100) for query in queries]:
        one, other = (ranker.rank(query, documents[:count], evidence="token") for ranker in (recorded, plain))
        np.testing.assert_allclose(by_place(one), by_place(other), atol=0.02 * abs(by_place(other)).max())
        again = recorded.rank(query, documents[:count], evidence="token")
        assert by_place(again).tolist() == by_place(one).tolist(), "a replay changes no bit"
    assert 0 < len(recorded._readout.graphs) <= 12


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_recording_that_fails_leaves_torch_as_it_was(model_of, monkeypatch, seen_before):
    """Whether it is refused before it begins, or fails in the middle."""
    if not seen_before and torch.__version__ < "2.12":
        pytest.skip("torch does not clean up its allocator, and records no more in this process")
    documents = [f"cats purr {i} " + "and sleep " * (i % 40) for i in range(20)]
    plain, recorded = (keeping(model_of("qwen3"), cuda_graphs=cuda_graphs) for cuda_graphs in (False, True))
    expected = by_place(plain.rank(QUERY, documents))
    if not seen_before:
        monkeypatch.setattr(graphs, "_Recordable", contextlib.nullcontext)
    layer = recorded.decoder.model.layers[0]
    handle = layer.register_forward_hook(lambda module, args, out: out + 0 * out.amax().item())
    what = "waits for numbers on the host" if seen_before else "not permitted when stream is capturing"
    with pytest.raises(ModelError, match=what):
        recorded.rank(QUERY, documents)
    handle.remove()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert by_place(plain.rank(QUERY, documents)).tolist() == expected.tolist()
    torch.cuda.empty_cache()
    np.testing.assert_allclose(by_place(recorded.rank(QUERY, documents)), expected, atol=0.02 * abs(expected).max())


def test_threads_share_recorded_passes(model_of):
    documents = [f"cats purr {i} " + "and sleep " * (i % 40) for i in range(60)]
    ranker = keeping(model_of("qwen3"), cuda_graphs=True)
    queries = [f"what do cats do {'often ' * n}" for n in range(8)]
    expected = [by_place(ranker.rank(query, documents)).tolist() for query in queries]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda query: by_place(ranker.rank(query, documents)).tolist(), queries * 5))
    assert got == expected * 5
