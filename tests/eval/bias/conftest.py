"""Rerankers whose bias is known, and lists to try them on."""

import numpy as np
import pytest

from sightline.documents import Document
from sightline.rerank import Reranker, Scored
from sightline.search import CandidateList


class KnownReranker(Reranker):
    """Scores each document by ``score(place, documents, query)``; ties stand by id."""

    layout = model = "known"

    def __init__(self, score, name="known"):
        self.name, self.score = name, score
        self.calls = []

    def _score(self, lists):
        self.calls += [list(candidates.documents) for candidates in lists]
        return [self._scored(list(candidates.documents), candidates.query) for candidates in lists]

    def _scored(self, blocks, query):
        return Scored(np.array([self.score(i, blocks, query) for i in range(len(blocks))], dtype=float))


@pytest.fixture
def known():
    return KnownReranker


@pytest.fixture
def make_list():
    """A list of documents ``d0`` to ``dN``: text i for id i."""

    def make(texts, query="q", titles=None):
        titles = titles or [""] * len(texts)
        return CandidateList.of(query, [Document(f"d{i}", text, titles[i]) for i, text in enumerate(texts)])

    return make
