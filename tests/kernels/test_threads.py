"""How many threads a computation takes: by idle processors, never above torch's own number, and without a trace."""

import os
import threading

import pytest
import torch

from sightline.kernels import threads
from sightline.kernels.threads import idle_threads, one_thread


@pytest.fixture(autouse=True)
def four(monkeypatch):
    """Four processors, of which this process may take all, and nothing in the environment."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def machine(monkeypatch, running, here=1):
    samples = iter(running) if isinstance(running, list) else None
    monkeypatch.setattr(threads, "_running", lambda: running if samples is None else next(samples))
    monkeypatch.setattr(threads, "_running_here", lambda: here)


def taken():
    with idle_threads():
        return torch.get_num_threads()


@pytest.mark.parametrize(("running", "expected"), [(0, 4), (1, 4), (2, 3), (3, 2), (4, 1), (50, 1)])
def test_one_thread_for_each_idle_processor(monkeypatch, running, expected):
    machine(monkeypatch, running)
    assert taken() == expected
    assert torch.get_num_threads() == 4


def test_own_threads_that_wait_for_work_are_not_busy(monkeypatch):
    machine(monkeypatch, running=4, here=4)
    assert taken() == 4
    machine(monkeypatch, running=5, here=4)
    assert taken() == 3


def test_what_runs_for_a_moment_only_is_not_busy(monkeypatch):
    machine(monkeypatch, [4, 1])
    assert taken() == 4
    machine(monkeypatch, [4, 3, 4])
    assert taken() == 2


def test_torchs_number_is_the_limit_and_the_environment_pins_it(monkeypatch):
    machine(monkeypatch, running=1)
    torch.set_num_threads(2)
    assert taken() == 2
    machine(monkeypatch, running=4)
    assert taken() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert taken() == 2


def test_nested_it_looks_anew_and_leaves_no_trace(monkeypatch):
    machine(monkeypatch, running=4)
    with idle_threads():
        assert torch.get_num_threads() == 1
        machine(monkeypatch, running=2)
        with idle_threads():
            assert torch.get_num_threads() == 3
            with one_thread():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
        with pytest.raises(ZeroDivisionError), idle_threads():
            _ = 1 / 0
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    assert not threads._open


def test_what_others_take_here_is_not_idle_and_new_threads_do_not_inherit_it(monkeypatch):
    machine(monkeypatch, running=2, here=1)
    inside, found = {}, threading.Event()

    def other():
        with idle_threads():
            inside["count"] = torch.get_num_threads()
        inside["after"] = torch.get_num_threads()
        found.set()

    with idle_threads():
        assert torch.get_num_threads() == 3
        threading.Thread(target=other).start()
        assert found.wait(60)
    assert inside == {"count": 1, "after": 4}  # one busy elsewhere, three taken here
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="Linux says what runs")  # noqa: PTH110
def test_linux_says_what_runs():
    assert threads._running() >= 1 and threads._running_here() >= 1
