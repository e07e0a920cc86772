"""The run of everything on a GPU: parts fail apart, a report is renewed part by part, aims are judged by figures."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from sightline.benchmarks import tiles
from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval.dataset import Dataset
from sightline.kernels import tuning
from sightline.recipes import gpu, precision
from sightline.recipes.gpu import AIMS, PARTS, Part, judge, run_parts

WRITES = "import json, sys; json.dump({'n': 1}, open(sys.argv[1], 'w'))"


def test_parts_fail_apart_and_keep_what_others_gave(tmp_path):
    parts = {
        "file": Part("", ("-c", WRITES, "{out}"), 20),
        "printed": Part("", ("-c", "print('{\"n\": 2}')"), 20, printed=True),
        "words": Part("", ("-c", "print('3 passed')"), 20, figures=False),
        "fails": Part("", ("-c", "import sys; sys.exit('boom 7')"), 20),
        "hangs": Part("", ("-c", "import time; print('so far', flush=True); time.sleep(30)"), 1.0),
        "silent": Part("", ("-c", "pass"), 20),
    }
    out = tmp_path / "gpu.json"
    report = run_parts(["file", "printed", "words", "fails", "hangs"], out, parts)["parts"]
    assert [report[name]["figures"] for name in ("file", "printed", "words")] == [{"n": 1}, {"n": 2}, "3 passed"]
    assert report["fails"]["error"] == "exit code 1: boom 7"
    assert report["hangs"]["error"].startswith("stopped after 1 s") and "so far" in report["hangs"]["error"]
    again = run_parts(["printed"], out, parts | {"printed": Part("", ("-c", "print(5)"), 20, printed=True)})
    assert again["parts"]["printed"]["figures"] == 5 and again["parts"]["file"] == report["file"]
    assert json.loads(out.read_text()) == again
    quiet = run_parts(["silent", "file"], out, parts)["parts"]
    assert "error" in quiet["silent"] and quiet["file"]["figures"] == {"n": 1}


def test_the_run_is_under_ten_minutes_and_its_modules_exist():
    assert sum(part.limit for part in PARTS.values()) < 600
    for part in PARTS.values():
        assert importlib.util.find_spec(part.arguments[1]), part


def test_aims_are_judged_by_the_figures():
    case = {"shape": "mistral-7b", "documents": 500, "lengths": "ragged"}
    rates = {"documents": {"useful_tflops": 310.0}, "query block": {"useful_tflops": 440.0}}
    kernels = {"results": [{"case": case, "parts": rates, "ratio": {"SDPA, dense": 61.0}}]}
    rows = [
        {"model": "Qwen3-0.6B", "list": "100 x 200", "variant": "block-sparse, exit at 18, compiled", "ms": 20.0},
        {"model": "Qwen3-0.6B", "list": "100 x 200", "variant": "block-sparse, exit at 18, compiled, FP8", "ms": 2.0},
        {"model": "Qwen3-0.6B", "list": "100 x 200", "variant": "block-sparse, all layers", "ms": 40.0},
    ]
    parts = {"kernels": {"figures": kernels}, "qwen3": {"figures": {"rows": rows}}}
    judged = {aim.about: value for aim, value in judge({"parts": parts})}
    assert judged["documents, useful TFLOP/s"] == 310 and judged["query block, useful TFLOP/s"] == 440
    assert judged["times as fast as dense attention"] == 61 and judged["times as fast as FlexAttention"] is None
    assert judged["Qwen3-0.6B, 100 documents, ms"] == 20 and judged["Mistral-7B, 500 documents, ms"] is None
    by_name = {aim.about: aim for aim in AIMS}
    assert by_name["documents, useful TFLOP/s"].holds(310) and not by_name["query block, useful TFLOP/s"].holds(440)
    assert by_name["Qwen3-0.6B, 100 documents, ms"].holds(20) and not by_name["Qwen3-0.6B, 100 documents, ms"].holds(23)
    assert all(value is None for _, value in judge({"parts": {"kernels": {"error": "boom"}}}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = CliRunner().invoke(gpu.app, [])
    assert done.exit_code == 2 and "no GPU" in done.output
    assert CliRunner().invoke(gpu.app, ["kernel"]).exit_code == 2
    assert "torch sees none" in CliRunner().invoke(tiles.app, []).output


def test_tiles_are_told_with_the_tables_first():
    slow, fast, none = tuning.Tile(64, 64, 4, 2), tuning.Tile(128, 64, 8, 2, 128), tuning.Tile(256, 64, 8, 4)
    kind = ("attention forward", "sm90", 128, 4, "torch.bfloat16", True)
    row = tiles._row(kind, {str(tuple(t)): ms for t, ms in {slow: 3.0, fast: 2.0, none: float("inf")}.items()})
    assert row["table"] == "(64, 64, 4, 2, None)" and row["best"] == "(128, 64, 8, 2, 128)"
    assert row["times_as_fast"] == 1.5 and row["ms"]["(256, 64, 8, 4, None)"] is None and row["group"] == 4


def test_precision_of_lists():
    class Fixed:
        def __init__(self, noise):
            self.noise = noise

        def rank(self, query, documents):
            scored = [(float(d.id) + self.noise * (d.id == "0"), d) for d in documents]
            return [SimpleNamespace(document=d, score=s) for s, d in sorted(scored, key=lambda pair: -pair[0])]

    corpus = [Document(str(i), f"text {i}") for i in range(12)]
    dataset = Dataset.in_memory(corpus, {"q": "which", "r": "what"}, {"q": {"3": 1}, "r": {"5": 1}})
    lists = precision.lists_of(dataset, 2, size=12)
    assert [query for query, _ in lists] == ["which", "what"] and all(len(documents) == 12 for _, documents in lists)
    same = {"lists": 2, "tau": 1.0, "least_tau": 1.0, "largest_difference": 0.0, "same_best": 1.0}
    assert precision.compare(Fixed(0), Fixed(0), lists) == pytest.approx(same)
    off = precision.compare(Fixed(0), Fixed(22), lists)
    assert off["largest_difference"] == 2.0 and off["same_best"] == 0.0 and off["least_tau"] < 1
    with pytest.raises(InputError, match="gives 2 lists"):
        precision.lists_of(dataset, 3, size=12)
