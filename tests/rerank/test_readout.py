"""Readouts against their formulas in float64, document by document, and whoever made the reading."""

import itertools

import numpy as np
import pytest
import torch

from sightline import load_layout
from sightline.kernels import Context, Packing, block_lse, block_max
from sightline.rerank.readout import (
    Reading,
    document_scores,
    head_scores,
    joint_normaliser,
    read_states,
    row_shares,
)

LENGTHS = (3, 1, 7, 4)


def spec_of(**changes):
    plain = {"calibration": "none", "outliers": None, "normalisation": "documents"}
    return load_layout("icr", **(plain | changes)).readout


def logits(rows=5, heads=2, seed=0):
    """(S, H, K) over all tokens of all documents."""
    return torch.randn(rows, heads, sum(LENGTHS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reading_of(x, **more):
    parts = x.split(LENGTHS, dim=2)
    lse = torch.stack([part.logsumexp(2) for part in parts], 2)
    return Reading(lse, joint_normaliser(lse), LENGTHS, torch.stack([part.amax(2) for part in parts], 2), **more)


@pytest.mark.parametrize("length", ["sum", "mean"])
@pytest.mark.parametrize("readout", ["mass", "log_mass", "maxsim"])
def test_a_score_is_the_formula_of_its_readout(readout, length):
    if (readout, length) == ("maxsim", "mean"):
        pytest.skip("refused: no length dilutes a maximum")
    x, ends = logits(), np.cumsum((0, *LENGTHS))
    expected = np.zeros((2, 4))
    for head in range(2):
        for row in x[:, head].numpy():
            parts = [row[a:b] for a, b in itertools.pairwise(ends)]
            if readout == "maxsim":
                expected[head] += [part.max() / 5 for part in parts]
                continue
            masses = np.array([np.exp(part).mean() if length == "mean" else np.exp(part).sum() for part in parts])
            if readout == "mass":  # a logarithm leaves out what all documents of the list share
                masses /= masses.sum()
            expected[head] += (np.log(masses) if readout == "log_mass" else masses) / 5
    spec = spec_of(readout=readout, length=length)
    np.testing.assert_allclose(head_scores(reading_of(x), spec).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(document_scores(reading_of(x), spec).numpy(), expected.mean(0), rtol=1e-12)


@pytest.mark.parametrize("length", ["sum", "mean"])
@pytest.mark.parametrize("outliers", [None, 0.5])
def test_calibration_takes_off_what_the_null_query_pays_and_leaves_outliers_out(length, outliers):
    own, null = (logits(1, 3, seed)[0].exp() for seed in (1, 2))
    spec = load_layout("icr", length=length, outliers=outliers).readout
    expected = np.zeros((3, 4))
    for head in range(3):
        for place, part in enumerate((own - null)[head].split(LENGTHS)):
            tokens = part.numpy()
            if outliers is not None and len(tokens) > 1:
                tokens = tokens[tokens >= tokens.mean() - outliers * tokens.std(ddof=1)]
            expected[head, place] = tokens.mean() if length == "mean" else tokens.sum()
    apart = reading_of(logits(), tokens=own, null_tokens=null)
    np.testing.assert_allclose(head_scores(apart, spec).numpy(), expected, rtol=1e-12)
    together = reading_of(logits(), tokens=own[0], null_tokens=null[0])
    np.testing.assert_allclose(document_scores(together, spec).numpy(), expected[0], rtol=1e-12)


def test_shares_of_a_row_sum_to_one_whatever_else_competes():
    x = logits()
    alone = row_shares(reading_of(x), spec_of())
    lse = reading_of(x).lse
    among = Reading(lse, joint_normaliser(torch.cat([lse, lse[..., :1] + 2], 2)), LENGTHS)
    shares = row_shares(among, spec_of(normalisation="all_keys"))
    for rows in (alone, shares):
        torch.testing.assert_close(rows.sum(1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("readout", ["mass", "log_mass", "maxsim"])
def test_either_reader_gives_the_same_scores(readout):
    """The kernels over a packed context, and those over kept states, of the same vectors."""
    draw = torch.Generator().manual_seed(3)
    q, keys = torch.randn(5, 16, generator=draw), [torch.randn(n, 16, generator=draw) for n in LENGTHS]
    packing, k = Packing([Context(LENGTHS, [5])]), torch.cat([*keys, q])[:, None]
    lse = block_lse(q[:, None], k, packing, scale=0.3)
    packed = Reading(lse, joint_normaliser(lse), LENGTHS, block_max(q[:, None], k, packing, scale=1.0))
    states = read_states(q, keys, scale=0.3, largest=True)
    spec = spec_of(readout=readout)
    torch.testing.assert_close(document_scores(states, spec), document_scores(packed, spec), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(row_shares(states, spec), row_shares(packed, spec), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("readout", ["mass", "log_mass", "maxsim"])
def test_the_order_of_documents_changes_no_bit(readout):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    draw = torch.Generator().manual_seed(5)
    lse, largest = (torch.randn(6, 3, 40, generator=draw) for _ in range(2))

    def scores(lse, largest):
        return document_scores(Reading(lse, joint_normaliser(lse), (1,) * 40, largest), spec_of(readout=readout))

    assert torch.equal(scores(lse[..., order], largest[..., order]), scores(lse, largest)[order])
