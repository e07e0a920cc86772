"""The choice of tile sizes."""

import pytest
import torch

from sightline.kernels import Context, Packing

tuning = pytest.importorskip("sightline.kernels.tuning", reason="triton is not installed", exc_type=ImportError)

DEFAULT, FAST, TOO_LARGE = tuning.Tile(64, 64, 4, 2), tuning.Tile(128, 64, 8, 3), tuning.Tile(256, 256, 8, 4)
LAYOUT = Packing([Context([200] * 10, [8], 4)])
Q = torch.zeros(LAYOUT.tokens, 4, 64, dtype=torch.bfloat16)


@pytest.fixture
def timed(monkeypatch):
    """As on a GPU, with a stopwatch that knows the answer."""
    calls = []
    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(tuning, "_best", {})

    def time(run, tile):
        calls.append(tile)
        return {DEFAULT: 2.0, FAST: 1.0, TOO_LARGE: float("inf")}[tile]

    monkeypatch.setattr(tuning, "_time", time)
    return calls


def pick(layout=LAYOUT, q=Q):
    return tuning.tuned("forward", DEFAULT, (FAST, TOO_LARGE), q, layout, 2, lambda tile: None)


def test_the_static_table_is_the_default(timed, monkeypatch):
    monkeypatch.delenv("SIGHTLINE_AUTOTUNE", raising=False)
    assert pick() == DEFAULT and not timed


def test_tuning_on_request_happens_once_per_kind(timed, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_AUTOTUNE", "1")
    assert pick() == FAST and timed == [DEFAULT, FAST, TOO_LARGE]
    longer = Packing([Context([190] * 300, [64], 100)])  # more documents and tokens: the same kind
    assert pick(longer, torch.zeros(longer.tokens, 4, 64, dtype=torch.bfloat16)) == FAST and len(timed) == 3
    short = Packing([Context([20] * 10, [8], 4)])
    pick(short, torch.zeros(short.tokens, 4, 64, dtype=torch.bfloat16))
    assert len(timed) == 6
    pick(q=Q[..., :32])
    assert len(timed) == 9


def test_a_tile_holds_all_heads_of_a_group():
    assert DEFAULT.holding(8) == DEFAULT
    assert DEFAULT.holding(71).rows == 128
