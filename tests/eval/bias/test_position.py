"""Evidence position: bins against their definition and pandas, figures against PosIR's own computation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import InputError
from sightline.eval.bias import Bins, Span, measure_position
from sightline.eval.bias.position import CHARACTERS, LENGTHS, RELATIVE


@given(st.integers(0, 10_000))
def test_every_start_is_in_one_bin(start):
    edges = [0, 100, 200, 300, 400, 500, float("inf")]
    inside = [i for i in range(6) if edges[i] <= start < edges[i + 1]]
    assert inside == [CHARACTERS.place(start)]


@given(st.integers(0, 400), st.integers(1, 400))
def test_every_share_is_in_one_bin(part, whole):
    share = min(1.0, part / whole)
    inside = [i for i in range(20) if (RELATIVE.edges[i] < share or i == 0) and share <= RELATIVE.edges[i + 1]]
    assert inside == [RELATIVE.place(share)]


def test_edges_by_hand():
    assert [CHARACTERS.place(x) for x in (-1, 0, 99.9, 100, 499, 500, 1e9)] == [None, 0, 0, 1, 4, 5, 5]
    assert [LENGTHS.place(x) for x in (1, 512, 513, 1536, 1537, 10**6)] == [0, 0, 1, 2, 3, 3]
    assert [RELATIVE.place(x) for x in (0, 0.05, 0.06, 1.0, 1.01)] == [0, 0, 1, 19, None]


def test_shares_go_where_pandas_puts_them():
    pandas = pytest.importorskip("pandas")
    values = np.concatenate([np.random.default_rng(0).random(500), np.arange(21) / 20, np.linspace(0, 1, 21)])
    theirs = pandas.cut(values, bins=np.linspace(0, 1, 21), include_lowest=True, labels=False)
    assert [RELATIVE.place(value) for value in values] == theirs.tolist()


def test_bad_bins_and_spans():
    with pytest.raises(InputError, match="ascending"):
        Bins((0, 1, 1), ("a", "b"), "left")
    with pytest.raises(InputError, match="ascending"):
        Bins((0, 1), ("a", "b"), "left")
    for start, end, length in [(-1, 3, 5), (4, 3, 5), (0, 0, 0)]:
        with pytest.raises(InputError, match="not a place"):
            Span(start, end, length)
    assert Span(90, 120, 100).relative == 1.0


def test_who_reads_100_characters_only_is_found_out():
    """Accuracy 1 where the answer is read, 0 elsewhere: PSI 1; if half is guessed, .5; without queries, no bin."""
    starts = [0, 40, 99, 100, 150, 250, 450, 500, 2000]
    spans = {f"q{i}": Span(start, start + 5, 2500) for i, start in enumerate(starts)}
    for blind in (0.0, 0.5):
        values = {id: 1.0 if span.start < 100 else blind for id, span in spans.items()}
        bias = measure_position("100", "Success@1", values, spans, resamples=499)[0]
        assert [(bin.label, bin.queries, bin.mean) for bin in bias.bins] == [
            ("0-99", 3, 1.0), ("100-199", 2, blind), ("200-299", 1, blind), ("400-499", 1, blind), ("500-", 2, blind),
        ]  # fmt: skip
        assert bias.psi.value == 1 - blind and bias.psi.high == 1 - blind
        assert bias.mean == pytest.approx((1 + 4 * blind) / 5)
        assert (bias.axis, bias.length, bias.queries, bias.trend) == ("start", "all", 9, None)
    nothing = measure_position("none", "Success@1", dict.fromkeys(spans, 0.0), spans)[0]
    assert nothing.psi.value is nothing.psi.low is nothing.psi.high is nothing.psi.p is None


def test_queries_without_a_place_are_left_out():
    spans = {"a": Span(0, 1, 10)}
    (start, relative) = measure_position("x", "RR", {"a": 0.5, "b": 1.0}, spans)
    assert start.queries == relative.queries == 1 and start.mean == 0.5
    assert start.psi.value is None  # one group has no worst and best
    with pytest.raises(InputError, match="none of 1 measured queries"):
        measure_position("x", "RR", {"b": 1.0}, spans)


def test_agrees_with_posirs_own_analysis():
    """The steps of its ndcg_PSI_analysis.py: pandas.cut, groupby, scipy."""
    pandas = pytest.importorskip("pandas")
    from scipy import stats

    rng = np.random.default_rng(3)
    spans, values = {}, {}
    for i in range(3000):
        length = int(rng.integers(200, 9000))
        start = int(rng.integers(0, length - 100))
        spans[f"q{i}"] = Span(start, start + int(rng.integers(5, 90)), length, length // 4)
        values[f"q{i}"] = float(np.clip(0.9 - 0.4 * start / length + rng.normal(0, 0.2), 0, 1))
    frame = pandas.DataFrame(
        [((s.start + s.end) / 2 / s.length, s.tokens, values[id]) for id, s in spans.items()],
        columns=["relpos", "tokens", "score"],
    )
    frame["length"] = pandas.cut(frame.tokens, [0, 512, 1024, 1536, np.inf], labels=list(LENGTHS.labels), right=True)
    frame["bin"] = pandas.cut(frame.relpos, np.linspace(0, 1, 21), include_lowest=True, labels=False)
    by_length = {
        bias.length: bias for bias in measure_position("x", "nDCG@10", values, spans, resamples=99) if bias.trend
    }
    assert list(by_length) == ["all", *LENGTHS.labels]
    for length, bias in by_length.items():
        part = frame if length == "all" else frame[frame.length == length]
        means = part.groupby("bin", observed=True).score.mean()
        centres = means.index.to_numpy() / 20 + 0.025
        assert [bin.mean for bin in bias.bins] == pytest.approx(means.tolist())
        assert bias.psi.value == pytest.approx(1 - means.min() / means.max())
        assert bias.mean == pytest.approx(means.mean()) and bias.queries == len(part)
        assert bias.trend.slope == pytest.approx(stats.linregress(centres, means).slope)
        assert bias.trend.pearson == pytest.approx(np.corrcoef(centres, means)[0, 1])
        assert bias.trend.spearman == pytest.approx(stats.spearmanr(centres, means).statistic)
        assert bias.trend.kendall == pytest.approx(stats.kendalltau(centres, means).statistic)


def test_a_known_slope():
    """Value 1 - relative position, one query in the middle of each bin: slope and correlations are -1."""
    spans = {f"q{i}": Span(50 * i + 25, 50 * i + 25, 1000) for i in range(20)}
    falling = measure_position("x", "RR", {id: 1 - span.relative for id, span in spans.items()}, spans, resamples=99)[1]
    trend = falling.trend
    assert (trend.slope, trend.pearson, trend.spearman, trend.kendall) == pytest.approx((-1, -1, -1, -1))
    assert falling.psi.value == pytest.approx(1 - 0.025 / 0.975)
    level = measure_position("x", "RR", dict.fromkeys(spans, 0.5), spans, resamples=99)[1]
    assert level.trend.slope == 0.0 and level.trend.pearson is None and level.psi.value == level.psi.high == 0.0
