"""The study of the default's weights, on a collection of a handful of texts."""

from __future__ import annotations

import json
import re

import pytest

from sightline.eval.loading import load_dataset
from sightline.eval.tuning import document_order, read_candidates, weights_grid
from sightline.recipes import fusion
from sightline.rerank import LateInteractionReranker
from sightline.rerank.layout import FusionWeights, load_layout
from sightline.rerank.signals import fused_scores
from sightline.search import Searcher

TEXTS = {"cats": "Cats purr when content.", "dogs": "Dogs bark at strangers.", "iron": "Iron rusts in damp air."}
QUERIES = {"q1": ("why do cats purr", "cats"), "q2": ("what makes metal corrode", "iron")}


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    lines = {
        "corpus.jsonl": [{"_id": id, "text": text} for id, text in TEXTS.items()],
        "queries.jsonl": [{"_id": id, "text": text} for id, (text, _) in QUERIES.items()],
    }
    for name, rows in lines.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    qrels = "".join(f"{query}\t{document}\t1\n" for query, (_, document) in QUERIES.items())
    (folder / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return folder


def test_the_shipped_weights_are_among_those_that_are_tried():
    assert load_layout("minilm").readout.weights in set(weights_grid(load_layout("minilm").readout.scale))


def test_a_row_is_the_ranking_that_a_searcher_with_these_weights_gives(collection, tmp_path):
    dataset = load_dataset(collection, "dev")
    weights = FusionWeights(log_mass=1.0, cosine=5.0, bm25=0.25)
    searcher = Searcher(fusion._index(dataset, tmp_path / "index"), "minilm")
    changed = load_layout("minilm", weights={"log_mass": 1.0, "cosine": 5.0, "bm25": 0.25})

    reranker = LateInteractionReranker(changed)
    for candidates in searcher.candidates(list(dataset.queries.values())):
        _, signals = read_candidates(candidates, searcher.reranker.reader, changed.readout.scale)
        ranked = document_order(candidates, fused_scores(signals, weights).numpy())
        assert ranked == [hit.id for hit in searcher.rank(candidates, reranker).hits]


def test_it_prints_the_baselines_and_the_best_weights(collection, tmp_path, capsys):
    fusion.study([f"{collection}:dev"], work=tmp_path / "work", queries=2, best=3)
    said = capsys.readouterr().out
    assert re.search(r"dense: mean 1\.0000", said) and re.search(r"hybrid: mean \d\.\d{4}", said)
    assert "tiny" in said and (tmp_path / "work" / "tiny" / "manifest.json").exists()
