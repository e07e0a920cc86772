"""The score that RAG clients see: between 0 and 1, and in the order of the ranking."""

import math

import pytest

from sightline import load_reranker
from sightline.rerank.relevance import relevance

DOCUMENTS = ["Cats purr.", "Dogs bark at night.", "Iron rusts.", "A cat is a small animal that purrs.", "x"]


def test_it_is_the_geometric_mean_of_the_shares():
    reranker = load_reranker("minilm")
    for item in reranker.rank("what do cats do", DOCUMENTS):
        mean = math.prod(item.token_mass) ** (1 / len(item.token_mass))
        assert relevance(reranker, item.score) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("name", ["minilm", "minilm-mass", "minilm-maxsim", "sightline-mini"])
def test_it_keeps_the_order(name):
    reranker = load_reranker(name)
    values = [relevance(reranker, item.score) for item in reranker.rank("what do cats do", DOCUMENTS)]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values)
    assert all(0 <= value <= 1 for value in values)


def test_a_single_document_has_all_of_it():
    reranker = load_reranker("minilm")
    assert relevance(reranker, reranker.rank("cats", ["Cats purr."])[0].score) == pytest.approx(1.0)
