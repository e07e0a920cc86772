"""The benchmark times what it says: its arithmetic is counted independently, and its float8 layer multiplies."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from sightline.benchmarks import decoders as bench

TINY = bench.Shape("tiny", "qwen3", 64, 96, 4, 4, 2, 16, 2)


def test_every_variant_is_timed_on_every_list():
    rows = bench.bench(TINY, [3], "cpu", torch.float32, 1)
    variants = [
        "dense SDPA, all layers",
        "block-sparse, all layers",
        "block-sparse, exit at 2",
        "documents cached, exit at 2",
    ]
    assert sorted({row["variant"] for row in rows}) == sorted(variants)
    assert {row["list"] for row in rows} == {"3 x 200", "3 x 20-400"}
    assert len(rows) == 8
    assert all(row["ms"] > 0 and row["limit_ms"] > 0 for row in rows)
    assert all(row["matmul_by"] in ("torch float32", "oneDNN float32") for row in rows)
    dense = next(row for row in rows if row["variant"].startswith("dense"))
    assert dense["times_dense"] is None and dense["tokens"] == 128 + 600 + 64


def test_flops_are_those_that_torch_counts():
    lengths = [30, 12]
    tokens = 128 + 42 + 64
    model = bench._model(TINY, 3, "sdpa", "cpu", torch.float32)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    linear = sum(count for op, count in counts.items() if "mm" in op)
    # Of rotary positions torch also counts the product that makes the angles.
    assert linear == pytest.approx(3 * 2 * TINY.linear * tokens, rel=0.01)
    attention = bench._flops(TINY, lengths, 3, dense=True) - 3 * 2 * TINY.linear * tokens
    assert attention == 3 * 4 * TINY.heads * TINY.head_dim * tokens * (tokens + 1) / 2


def test_float8_multiplies_within_its_precision():
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)
    small = bench.Float8Linear(linear)
    x = torch.randn(2, 32, 64, dtype=torch.bfloat16)
    try:
        product = small(x)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        pytest.skip(f"torch has no float8 product on this device: {str(error)[:80]}")
    assert product.shape == (2, 32, 48)
    expected = linear(x)
    error = (product - expected).float().norm() / expected.float().norm()
    assert 1e-4 < error < 0.06


def test_the_command_writes_its_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "small", TINY)
    result = CliRunner().invoke(bench.app, ["--documents", "2", "--repeats", "1", "--json", str(tmp_path / "b.json")])
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 8
    assert CliRunner().invoke(bench.app, ["--model", "nothing"]).exit_code == 2
