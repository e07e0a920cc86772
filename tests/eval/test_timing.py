"""Times are medians of what was counted, and rates follow from them."""

import time

import pytest
import torch

from sightline.eval import timing
from sightline.eval.timing import copy_rate, matmul_rate, median_seconds
from sightline.models import devices


def test_the_first_call_does_not_count_and_the_median_does():
    pauses = iter([0.2, 0.0, 0.03, 0.1])
    assert 0.03 <= median_seconds(lambda: time.sleep(next(pauses)), 3) < 0.1
    assert next(pauses, None) is None


def test_rates_are_work_by_time(monkeypatch):
    done = []
    monkeypatch.setattr(timing, "median_seconds", lambda call, times, device: done.append(call()) or 0.5)
    assert matmul_rate(3, 4, 5).flops == 2 * 3 * 4 * 5 / 0.5
    assert copy_rate(1 << 12) == (1 << 12) / 0.5
    *products, copy = done
    assert {product.shape for product in products} == {(3, 5)} and torch.equal(copy, torch.ones(1 << 10))
    assert {product.dtype for product in products} <= {torch.float32, torch.bfloat16}


def test_the_fastest_product_is_the_limit_and_says_whose_it_is(monkeypatch):
    seconds = iter([2.0, 1.0, 0.5, 4.0])
    monkeypatch.setattr(timing, "median_seconds", lambda call, times, device: next(seconds))
    monkeypatch.setattr(devices, "native_dtype", lambda device: "bfloat16")
    monkeypatch.setattr(timing, "_products", lambda a, b: [("torch", None), ("oneDNN", None)])
    assert matmul_rate(1, 1, 1) == (4.0, "torch bfloat16")
    seconds = iter([2.0, 1.0])
    assert matmul_rate(1, 1, 1, dtype=torch.float32) == (2.0, "oneDNN float32")


def test_the_rates_of_this_machine_are_plausible():
    assert 1e8 < copy_rate() < 1e13 and 1e8 < matmul_rate().flops < 1e16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_clock_waits_for_the_result():
    assert matmul_rate(4096, 4096, 4096, device="cuda", dtype=torch.float32).flops < 1e15
