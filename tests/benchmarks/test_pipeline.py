"""The benchmarks of reading compare the same states, and the same list, read in different ways."""

import json

import pytest
from typer.testing import CliRunner

from sightline.benchmarks import pipeline, timing
from sightline.eval.loading import load_dataset
from sightline.eval.timing import MatmulRate
from sightline.retrieval.index import Index


def test_packed_and_padded_reading_give_the_same_states(collection, monkeypatch):
    texts = ["Cats purr.", "Dogs bark loudly.", "The Danube flows through ten countries. " * 9]
    folder = collection(texts, "who barks")
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "matmul_rate", lambda: MatmulRate(1e11, "torch float32"))
    done = CliRunner().invoke(pipeline.app, ["encoding", str(folder)])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["documents"] == 3
    ways = {name: figures[name] for name in ("padded float32", "packed float32", "padded bfloat16", "packed bfloat16")}
    assert ways["packed float32"]["lowest cosine of a token"] == pytest.approx(1, abs=1e-5)
    assert all(0.99 < way["lowest cosine of a token"] < 1.0001 for way in ways.values())
    assert ways["padded float32"]["documents, times faster"] == 1


def test_cross_encoders_of_two_depths_stand_beside_the_default(collection, monkeypatch):
    folder = collection(["Cats purr.", "Dogs bark loudly."], "who barks", "who purrs")
    monkeypatch.setattr(pipeline, "matmul_rate", lambda: MatmulRate(1e11, "oneDNN float32"))
    monkeypatch.setattr(pipeline, "_BACKENDS", {"torch": "torch", "onnx": "a_package_that_nobody_has"})
    done = CliRunner().invoke(pipeline.app, ["cross-encoders", str(folder), "--rounds", "1"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["cross-encoder, 6 layers, onnx"] == "left out: a_package_that_nobody_has is not installed"
    six, twelve = (figures[f"cross-encoder, {layers} layers, torch"] for layers in (6, 12))
    assert twelve["limit, ms"] == pytest.approx(2 * six["limit, ms"])
    # [CLS] who purrs [SEP] cats purr . [SEP] and so on: 19 tokens; the default reads 4 + 5 of the documents alone
    assert six["limit, ms"] > figures["minilm, texts read anew"]["limit, ms"] > 0
    assert "limit, ms" not in figures["minilm, texts read before"]
    assert figures["limit: measured matmul rate (oneDNN float32), GFLOP/s"] == 100


def test_systems_answer_the_same_queries_in_turns(collection, tmp_path):
    folder = collection(["Cats purr.", "Dogs bark loudly.", "Cows eat grass."], "who barks", "who purrs", "who eats")
    with Index.build(tmp_path / "index", load_dataset(folder).documents(), token_states="int8"):
        pass
    arguments = ["systems", str(folder), "--index", str(tmp_path / "index"), "--queries", "2", "--slow", "1"]
    done = CliRunner().invoke(pipeline.app, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    counts = {name: spent["queries"] for name, spent in figures.items() if isinstance(spent, dict) and "ms" in spent}
    quick = ["bm25", "dense", "hybrid", "dense+minilm-log-mass", "hybrid+minilm"]
    slow = ["hybrid+minilm, candidates read anew", "bm25+cross-encoder of 6 layers"]
    assert counts == dict.fromkeys(quick, 2) | dict.fromkeys(slow, 1)
    assert all(figures[name]["ms"] > 0 and figures[name]["CPU ms"] > 0 for name in counts)
