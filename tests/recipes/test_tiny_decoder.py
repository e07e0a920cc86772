"""The tiny decoder really retrieves, wherever the answer stands, and detection finds the heads that do it."""

import random

import numpy as np
import pytest

from sightline import load_layout, load_reranker
from sightline.recipes.tiny_decoder import TINY_DECODER
from sightline.recipes.tiny_decoder.lists import make_list
from sightline.recipes.tiny_decoder.train import train
from sightline.rerank.decoder import DecoderReranker, load_decoder
from sightline.rerank.detection import detect_heads

COUNT = 16  # documents in a list: more than the recipe trains with


@pytest.fixture(scope="module")
def decoder():
    return load_decoder(str(TINY_DECODER))


def lists(seed, count=COUNT):
    """Lists whose answer stands at each place in turn: query, documents, place."""
    draw = random.Random(seed)
    for place in range(count):
        documents, queries, _ = make_list(count, draw)
        gold = draw.randrange(count)
        documents[place], documents[gold] = documents[gold], documents[place]
        yield queries[gold], documents, place


def right(reranker, seed=1000, rounds=2):
    """Of the lists, by place of the answer: how often it is ranked first."""
    drawn = [drawn_list for number in range(rounds) for drawn_list in lists(seed + number)]
    rankings = reranker.rank_batch([(query, documents) for query, documents, _ in drawn])
    hits = [ranking[0].index == place for ranking, (_, _, place) in zip(rankings, drawn, strict=True)]
    return np.array(hits).reshape(rounds, -1).mean(axis=0)


def test_it_is_small():
    assert sum(path.stat().st_size for path in TINY_DECODER.glob("*.safetensors")) < 5 << 20


@pytest.mark.parametrize(
    ("layout", "least", "anywhere"), [("icr", 0.95, 0.9), ("blockrank", 0.95, 0.9), ("icr-block", 0.9, 0.5)]
)
def test_the_answer_is_ranked_first_wherever_it_stands(decoder, layout, least, anywhere):
    shares = right(DecoderReranker(decoder, layout), rounds=4)
    assert shares.mean() >= least
    assert shares.min() >= anywhere - 0.16  # one list of the four of a place may go wrong


def judged(seed, count):
    for number in range(-(-count // COUNT)):
        for query, documents, place in lists(seed + number):
            yield query, documents, [int(i == place) for i in range(COUNT)]


@pytest.mark.parametrize(("method", "layout"), [("qr", "qrhead"), ("core", "core"), ("ndcg", "qrhead")])
def test_detection_finds_heads_that_rank_the_answer_first_and_random_heads_do_not(decoder, method, layout):
    whole = DecoderReranker(decoder, load_layout(layout, heads="all", layers="all"))
    heads = detect_heads(whole, judged(2000, 32), method, data="made up")
    assert right(DecoderReranker(decoder, load_layout(layout), heads=heads.top(4))).mean() >= 0.95
    alone = {
        f"{layer}-{head}": right(
            DecoderReranker(decoder, load_layout(layout), heads=[f"{layer}-{head}"]), rounds=1
        ).mean()
        for layer in range(4)
        for head in range(4)
    }
    assert min(alone[head] for head in heads.top(4)) >= 0.75
    assert np.median([score for head, score in alone.items() if head not in heads.top(4)]) < 0.5
    # A layer that has not yet looked back: sixteen documents, one right.
    assert np.mean([alone[f"0-{head}"] for head in range(4)]) < 0.2


def test_a_causal_reading_depends_on_order_and_a_block_reading_does_not(decoder):
    query, documents, _ = next(lists(5))
    spread = {}
    for layout in ("icr", "icr-block"):
        ranker = DecoderReranker(decoder, layout)
        scores = []
        for seed in range(4):
            shuffled = random.Random(seed).sample(documents, len(documents))
            scores.append({item.document.text: item.score for item in ranker.rank(query, shuffled)})
        spread[layout] = max(np.ptp([by_text[document.text] for by_text in scores]) for document in documents)
    assert spread["icr-block"] == 0
    assert spread["icr"] > 1e-3


def test_the_recipe_runs(tmp_path):
    figures = train(tmp_path / "made", steps=4, lists=2, queries=2)
    assert all(np.isfinite(value) for value in figures.values())
    query, documents, _ = next(lists(0, 3))
    assert len(load_reranker(f"hf:{tmp_path / 'made'}", layout="icr").rank(query, documents)) == 3
