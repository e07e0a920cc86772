"""On real documents and real judgements."""

import os
import random
from pathlib import Path

import pytest
import torch

from sightline.eval.loading import load_dataset
from sightline.eval.metrics import measure_rankings
from sightline.eval.reranking import rerank_run
from sightline.rerank import DocumentStates, load_reranker

pytestmark = pytest.mark.data

# About 200 abstracts: 40 s on two slow cores. More queries, or depth 20, tell the same at many times the cost.
QUERIES, DEPTH = 16, 10


@pytest.fixture(scope="module")
def candidates():
    """SciFact's first queries, and the BM25 candidates that come with it, best first."""
    if "SIGHTLINE_DATA" not in os.environ:
        pytest.skip("SIGHTLINE_DATA does not name the folder of judged collections")
    folder = Path(os.environ["SIGHTLINE_DATA"]) / "scifact"
    dataset = load_dataset(folder, max_queries=QUERIES)
    rankings = {}
    for line in (folder / "bm25.test.tsv").read_text().splitlines():
        id, documents = line.split("\t")
        rankings[id] = documents.split()[:DEPTH]
    return dataset, {id: rankings[id] for id in dataset.queries}


@pytest.fixture(scope="module")
def reranked(candidates):
    dataset, rankings = candidates
    run = {id: {document: -float(rank) for rank, document in enumerate(order)} for id, order in rankings.items()}
    return rerank_run(dataset, run, load_reranker(), DEPTH)


def test_reranking_beats_the_order_of_bm25(candidates, reranked):
    dataset, rankings = candidates
    before = measure_rankings(dataset.qrels, rankings)[0]["nDCG@10"]
    after = measure_rankings(dataset.qrels, {id: list(scores) for id, scores in reranked.items()})[0]["nDCG@10"]
    assert after >= before + 0.03


def test_no_candidate_is_lost_or_added(candidates, reranked):
    _, rankings = candidates
    assert {id: set(scores) for id, scores in reranked.items()} == {id: set(order) for id, order in rankings.items()}


@pytest.mark.timeout(60)
def test_the_order_of_real_documents_leaves_no_trace(candidates):
    dataset, rankings = candidates
    reranker = load_reranker()
    id, order = next(iter(rankings.items()))
    documents = list(dataset.documents(only=set(order[:8])))
    read = reranker.reader.read([document.contents for document in documents])
    states = [
        DocumentStates(torch.from_numpy(read.states[a:b]), int(cut))
        for a, b, cut in zip(read.offsets, read.offsets[1:], read.truncated, strict=False)
    ]
    before = reranker.rank(dataset.queries[id], documents, states=states, evidence="sentence")
    for seed in range(5):
        places = random.Random(seed).sample(range(len(documents)), len(documents))
        after = reranker.rank(
            dataset.queries[id],
            [documents[i] for i in places],
            states=[states[i] for i in places],
            evidence="sentence",
        )
        assert [(i.document, i.score, i.mass, i.evidence) for i in after] == [
            (i.document, i.score, i.mass, i.evidence) for i in before
        ]
