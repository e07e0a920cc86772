"""Rerankers whose bias is known, and lists to try them on."""

import pytest

from sightline.documents import Document
from sightline.eval.bias import CandidateList
from sightline.rerank.base import as_documents
from sightline.rerank.results import Ranked, Ranking


class KnownReranker:
    """Scores each document by ``score(place, documents, query)``; ties go by text, so that no order decides them."""

    def __init__(self, score, name="known"):
        self.name, self.score = name, score
        self.calls = []

    def rank(self, query, documents, top_n=None, *, evidence=None, states=None, best_per_id=False):
        blocks = as_documents(documents)
        self.calls.append(blocks)
        scores = [float(self.score(place, blocks, query)) for place in range(len(blocks))]
        order = sorted(range(len(blocks)), key=lambda i: (-scores[i], blocks[i].contents))
        items = tuple(Ranked(blocks[i], i, scores[i], 0.0, 0, None, ()) for i in order)
        return Ranking(query, items[:top_n], len(blocks), (), 0, self.name, "", "", "", "", 0.0, ())

    def rank_batch(self, lists, top_n=None, *, evidence=None):
        return [self.rank(query, documents, top_n) for query, documents in lists]


@pytest.fixture
def known():
    return KnownReranker


@pytest.fixture
def make_list():
    """A list of documents ``d0`` to ``dN``: text i for id i."""

    def make(texts, query="q", titles=None):
        titles = titles or [""] * len(texts)
        return CandidateList(query, tuple(Document(f"d{i}", text, titles[i]) for i, text in enumerate(texts)))

    return make
