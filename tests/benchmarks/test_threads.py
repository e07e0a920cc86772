"""The benchmark of threads computes on as many as it says."""

import json
import os

import pytest
import torch
from typer.testing import CliRunner

from sightline.benchmarks import threads as bench
from sightline.kernels.threads import idle_threads
from sightline.recipes.tiny_decoder import TINY_DECODER


@pytest.fixture(autouse=True)
def two(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_policies_are_what_they_are_called(monkeypatch):
    monkeypatch.setattr("sightline.kernels.threads._running", lambda: 1 + (os.cpu_count() or 1))
    monkeypatch.setattr("sightline.kernels.threads._running_here", lambda: 1)
    found = {}
    for name in ("one", "all", "idle"):
        with bench._policy(name, 2), idle_threads():
            found[name] = torch.get_num_threads()
    assert found == {"one": 1, "all": 2, "idle": 1}
    assert torch.get_num_threads() == 2 and "OMP_NUM_THREADS" not in os.environ


def test_every_list_is_timed_quiet_and_beside_a_busy_process(monkeypatch):
    monkeypatch.setattr(bench, "_LISTS", {"2 x 5 words": (2, 5)})
    done = CliRunner().invoke(bench.app, ["--reranker", f"hf:{TINY_DECODER}#icr-block", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["figures"]
    assert [row["busy"] for row in rows] == [0, 1]
    assert all(row["ms"][name]["median"] > 0 for row in rows for name in ("one", "all", "idle"))
