"""The choice of tile sizes."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
tuning = pytest.importorskip("sightline.kernels.tuning", reason="triton is not installed", exc_type=ImportError)

DEFAULT, FAST, TOO_LARGE = tuning.Tile(64, 64, 4, 2), tuning.Tile(128, 64, 8, 3), tuning.Tile(256, 256, 8, 4)
Q = torch.zeros(2012, 4, 64, dtype=torch.bfloat16)


@pytest.fixture
def timed(monkeypatch):
    """As on a GPU, with a stopwatch that knows the answer."""
    calls = []
    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(tuning, "TIMED", {})

    def time(run, tile):
        calls.append(tile)
        return {DEFAULT: 2.0, FAST: 1.0, TOO_LARGE: float("inf")}[tile]

    monkeypatch.setattr(tuning, "_time", time)
    return calls


def pick(q=Q, causal=True):
    return tuning.tuned("forward", DEFAULT, (FAST, TOO_LARGE), q, 2, causal, lambda tile: None)


def test_the_static_table_is_the_default(timed, monkeypatch):
    monkeypatch.delenv("SIGHTLINE_AUTOTUNE", raising=False)
    assert pick() == DEFAULT and not timed


def test_tuning_on_request_happens_once_per_kind(timed, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_AUTOTUNE", "1")
    assert pick() == FAST and timed == [DEFAULT, FAST, TOO_LARGE]
    assert pick(torch.zeros(90_000, 4, 64, dtype=torch.bfloat16)) == FAST and len(timed) == 3, "a list changes nothing"
    pick(causal=False)
    assert len(timed) == 6
    pick(Q[..., :32])
    assert len(timed) == 9


@pytest.mark.parametrize(
    "error",
    [
        triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory"),
        triton.runtime.errors.PTXASError("too many registers"),
        triton.CompilationError("", None, "no such instruction"),
    ],
)
def test_a_tile_that_does_not_compile_is_passed_over(error, monkeypatch):
    monkeypatch.setattr(triton.testing, "do_bench", lambda run, **options: run())  # it wants a GPU

    def run(tile):
        raise error

    assert tuning._time(run, TOO_LARGE) == float("inf")


def test_a_tile_holds_all_heads_of_a_group():
    assert DEFAULT.holding(8) == DEFAULT
    assert DEFAULT.holding(71).rows == 128
