"""The study of small token states: every form has a row, and exact forms lose nothing."""

import json

import numpy as np
import pytest

from sightline.kernels.states.keys import to_float
from sightline.recipes import states

from .test_fusion import collection as tiny  # noqa: F401 - a fixture


def test_every_form_has_a_row_and_half_precision_is_the_baseline(tiny, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("faiss")
    states.study([f"{tiny}:dev"], work=tmp_path / "work", queries=2, candidates=5, out=tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    said = capsys.readouterr().out
    assert all(name in said for name in figures) and {"fp16", "int8", "int4", "pq48", "pq48, in pairs"} <= set(figures)
    assert figures["fp16"]["difference"] == 0
    assert figures["int8"]["bytes per passage"] / figures["fp16"]["bytes per passage"] == pytest.approx(392 / 772)
    assert figures["pq48"]["bytes per passage"] / figures["fp16"]["bytes per passage"] == pytest.approx(52 / 772)


def test_pairs_and_components_are_what_they_say():
    first = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    ways = states.forms(first)
    pairs = to_float(ways["int4, in pairs"][1](first[:5])).numpy()
    assert len(pairs) == 3
    np.testing.assert_allclose(pairs[2], first[4], atol=0.03)
    mean = first[0] + first[1]
    np.testing.assert_allclose(pairs[0], mean / np.linalg.norm(mean), atol=0.03)
    few = to_float(ways["96 components"][1](first)).numpy()
    assert np.linalg.matrix_rank(few, tol=1e-3) == 96
    nearest = np.linalg.svd(first, full_matrices=False)
    best = (nearest[0][:, :96] * nearest[1][:96]) @ nearest[2][:96]
    assert np.abs(few - best).max() < 0.02
