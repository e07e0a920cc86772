"""A compiled decoder gives the scores that it gives without a compiler, with one graph for whatever it reads."""

import numpy as np
import pytest
import torch

from sightline import load_reranker
from sightline.errors import InputError, ModelError
from sightline.models.cache import DocumentCache

from .test_engine import DOCUMENTS, QUERY, by_place

LISTS = [DOCUMENTS, DOCUMENTS[:2], [*DOCUMENTS[::-1], "cats purr " * 40]]


@pytest.fixture(autouse=True)
def counters():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize(("family", "graphs"), [("qwen3", 1), ("gemma3", 2)])
def test_scores_are_the_same_with_one_graph_for_all_lists(model_of, family, graphs, counters):
    plain, compiled = (load_reranker(model_of(family), layout="icr-block", cache=DocumentCache()) for _ in range(2))
    compiled.decoder.compile("aot_eager")
    for documents in LISTS:
        expected, got = (by_place(reranker.rank(QUERY, documents)) for reranker in (plain, compiled))
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs, "layers with a sliding window have a graph of their own"
    assert not counters["graph_break"]


def test_a_compiler_that_fails_is_told_of(model_of):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    reranker = load_reranker(model_of("qwen3"), layout="icr-block")
    reranker.decoder.compile(broken)
    with pytest.raises(ModelError, match=r"cannot be compiled: .*no compiler here; load it without compile"):
        reranker.rank(QUERY, DOCUMENTS)


def test_only_decoders_are_compiled(model_of):
    assert load_reranker(model_of("qwen3"), layout="icr-block", compile=True).decoder._compiled
    with pytest.raises(InputError, match="'minilm' is not a decoder, and only decoders can be compiled"):
        load_reranker("minilm", compile=True)
