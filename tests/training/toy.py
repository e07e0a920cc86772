"""A learner small enough to train in a test: words weigh what it learns, and shared words score.

As a program, ``python toy.py OUT SECONDS``, it trains at a pace at which it can be killed.
"""

import functools
import json
import random
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from sightline.models.scorers import Scorer
from sightline.rerank.pointwise import PointwiseReranker
from sightline.training.config import Sampling, TrainingConfig
from sightline.training.dev import load_dev_sets
from sightline.training.examples import Source, load_examples
from sightline.training.learner import Output
from sightline.training.trainer import train

FILLER = [f"filler{i}" for i in range(12)]
TOPICS = [f"topic{i}" for i in range(40)]
WORDS = {word: place for place, word in enumerate((*FILLER, *TOPICS))}


def collection(folder, queries=40, seed=0, split="train"):
    """A BEIR folder in which fillers mislead and topics tell: only who weighs words by kind ranks well."""
    rng = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": f"d{i}", "title": f"Title {i}", "text": f"{words(rng, 6)} {TOPICS[i]}. Number {i}. {words(rng, 4)}."}
        for i in range(40)
    ]
    texts = [{"_id": f"q{i}", "text": f"{words(rng, 5)} {TOPICS[i]}"} for i in range(queries)]
    for name, rows in (("corpus", corpus), ("queries", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"q{i}\td{i}\t1\n" for i in range(queries))
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    ids = [f"d{i}" for i in range(40)]
    runs = "".join(f"q{i}\t{' '.join(rng.sample(ids, 40))}\n" for i in range(queries))
    (folder / f"bm25.{split}.tsv").write_text(runs)
    return folder


def words(rng, count):
    return " ".join(rng.choices(FILLER, k=count))


class ToyLearner(Scorer):
    """Score = sum over shared words of their weight. ``dropout`` makes it random, ``delay`` slow."""

    temperature = 0.05
    learning_rate = 1e-4

    def __init__(self, name="toy", dropout=0.0, delay=0.0, next_token=False, dtype=torch.float32, half=False):
        self.name, self.dropout, self.delay, self.next_token, self.half = name, dropout, delay, next_token, half
        self.weights = torch.nn.Parameter(torch.full((len(WORDS),), 0.1, dtype=dtype))
        self.calls = []

    def parameters(self):
        return {"weights": self.weights}

    def __call__(self, lists):
        time.sleep(self.delay)
        self.calls.append(lists)
        out = []
        for training_list in lists:
            weights = functional.dropout(self.weights, self.dropout)
            bags = torch.stack([bag(training_list.query) * bag(d.contents) for d in training_list.documents]).to(
                weights.dtype
            )
            out.append(bags @ weights)
        return Output(out, self.weights.square().mean() if self.next_token else None)

    def score(self, query, texts):
        with torch.no_grad():
            bags = torch.stack([bag(query) * bag(text) for text in texts]).double()
            # Ties are no signal to a reranker; what breaks them here has nothing to do with relevance.
            noise = torch.tensor([random.Random(text).random() * 1e-6 for text in texts], dtype=torch.float64)
            return (bags @ self.weights.double() + noise).tolist(), [0] * len(texts)

    def reranker(self):
        return PointwiseReranker(self, "toy", "toy")

    def save(self, folder):
        save_file({"weights": self.weights.detach().clone()}, folder / "model.safetensors")
        (folder / "layout.yaml").write_text("name: toy\n")


@functools.cache
def bag(text):
    counts = torch.zeros(len(WORDS))
    for word in text.lower().replace(".", " ").split():
        if word in WORDS:
            counts[WORDS[word]] = 1.0
    return counts


def world(folder):
    """Examples, and what to measure on."""
    train, dev = folder / "train", folder / "dev"
    if not train.exists():
        collection(train)
        collection(dev, 12, seed=1, split="dev")
    return load_examples(Source(str(train))), load_dev_sets([Source(str(dev), "dev")])


def main(out, delay=0.0):
    examples, dev = world(out.parent)
    train(
        ToyLearner(dropout=0.2, delay=delay),
        examples,
        out,
        config=TrainingConfig(steps=40, lists=4, learning_rate=0.05, save_every=7, evaluate_every=10),
        sampling=Sampling(documents=(4, 12), in_batch=0.2),
        dev=dev,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
