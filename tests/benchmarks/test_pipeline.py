"""The benchmark of reading compares the same states, read in different ways."""

import json

import pytest
from typer.testing import CliRunner

from sightline.benchmarks import pipeline, timing
from sightline.eval.timing import MatmulRate


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
