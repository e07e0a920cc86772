"""The benchmark: what it calls a peer computes the same, and what it reports follows from what it measured."""

import json

import pytest
import torch
from typer.testing import CliRunner

from sightline.benchmarks import kernels as bench
from sightline.benchmarks import timing
from sightline.eval.timing import MatmulRate
from sightline.kernels import Context, Packing
from sightline.kernels.attention.reference import block_attention

from ..kernels.shapes import tensors

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SECONDS", 0.001)
    monkeypatch.setattr(bench, "rates", lambda device, dtype: (MatmulRate(1e11, "torch float32"), 1e10))
    monkeypatch.setitem(bench.SHAPES, "tiny", bench.Shape(4, 2, 16, 32, 64, 3, True))
    monkeypatch.setattr(bench, "_CPU_CASES", [bench.Case("tiny", 5, "ragged", 30, 12, 7)])


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("instruction", [0, 12])
@pytest.mark.parametrize("name", ["sightline", "SDPA, boolean mask", "SDPA, padded batch"])
def test_peers_compute_the_same(name, causal, instruction):
    layout = Packing([Context([30, 7, 51, 1], [9], instruction)], causal=causal)
    q, k, v = tensors(layout)
    out = bench.PEERS[name](q, k, v, layout, 0.25)()
    torch.testing.assert_close(out, block_attention(q, k, v, layout, 0.25)[0], rtol=1e-5, atol=1e-5)


def test_cases_are_as_announced():
    layout = bench.Case("mistral-7b", 500, "uniform", 200, 128, 64).layout("cpu")
    assert layout.tokens == 128 + 500 * 200 + 64 and layout.causal
    ragged = bench.Case("minilm", 500, "ragged", 200, 128, 64).layout("cpu")
    counts = ragged.contexts[0].documents
    assert min(counts) >= 20 and max(counts) <= 400 and len(set(counts)) > 100 and not ragged.causal
    assert {case.documents for case in bench._GPU_CASES} == {20, 100, 500}


def test_a_report(tmp_path):
    out = tmp_path / "report.json"
    peers = ["SDPA, boolean mask", "varlen_attn + merge", "SDPA, dense"]
    options = [argument for name in peers for argument in ("--peer", name)]
    done = CliRunner().invoke(bench.app, ["--device", "cpu", "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(out.read_text())["results"]
    assert result["backend"] == "cpu" and set(result["ratio"]) == {"SDPA, boolean mask", "SDPA, dense"}
    assert result["unable"] == {"varlen_attn + merge": "it runs on CUDA only"}
    ms, ratio = result["ms"], result["ratio"]["SDPA, boolean mask"]
    assert ratio == pytest.approx(ms["SDPA, boolean mask"] / ms["sightline"])
    pairs = bench._CPU_CASES[0].layout("cpu").pairs
    assert result["useful_tflops"]["sightline"] == pytest.approx(4 * 16 * 4 * pairs / ms["sightline"] / 1e9)
    moved = 4 * (2 * 4 * 16 + 2 * 2 * 16 + 4) * result["case"]["total_tokens"]
    assert result["least_bytes"] == moved
    assert result["share_of_bandwidth"] == pytest.approx(moved / ms["sightline"] / 1e7)
    assert "could not run" in done.output and "layer's linear work" in done.output


def test_a_wrong_peer_is_not_timed(monkeypatch):
    monkeypatch.setitem(bench.PEERS, "wrong", lambda q, k, v, layout, scale: lambda: q * 0.5)
    with pytest.raises(AssertionError, match="wrong is wrong on"):
        bench.run(bench._CPU_CASES[0], "cpu", torch.float32, ["sightline", "wrong"])


def test_unknown_names_are_refused():
    assert CliRunner().invoke(bench.app, ["--peer", "FA9"]).exit_code == 2
    assert CliRunner().invoke(bench.app, ["--documents", "7"]).exit_code == 2
