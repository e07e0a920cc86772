"""On a GPU the engine gives the scores that it gives on the CPU."""

import numpy as np
import pytest
import torch

from sightline import load_reranker

from .test_engine import DOCUMENTS, QUERY, by_place

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
