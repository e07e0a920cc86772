"""The fused score: its terms and their sum against float64 numpy, order-free to the last bit, free of the list."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError
from sightline.kernels.states.keys import QuantizedKeys, to_float
from sightline.models.reader import DocumentStates
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.rerank.layout import FusionWeights
from sightline.rerank.results import NOTHING
from sightline.rerank.signals import Signals, fused_scores, read_signals

ALL = FusionWeights(log_mass=1.0, maxsim=3.0, cosine=8.0, bm25=0.1, length=-0.25)
NAMES = [field.name for field in dataclasses.fields(Signals)]


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def as_kind(key, kind):
    if kind == "int8":
        scales = key.abs().amax(dim=1).clamp_min(1e-12) / 127
        return QuantizedKeys((key / scales[:, None]).round().to(torch.int8), scales)
    return key.half() if kind == "fp16" else key


def by_hand(rows, keys, bm25, scale):
    """Each term by its definition in `Signals`, float64."""
    q = rows.double().numpy()
    mean = q.mean(axis=0)
    terms = {name: [] for name in NAMES}
    for key, words in zip(keys, bm25, strict=True):
        k = to_float(key).double().numpy()
        cosines = q @ k.T
        terms["log_mass"].append(np.log(np.exp(scale * cosines).sum(axis=1)).mean())
        terms["maxsim"].append(cosines.max(axis=1).mean())
        terms["cosine"].append((k @ mean / np.linalg.norm(mean)).mean())
        terms["bm25"].append(words)
        terms["length"].append(np.log(len(k)))
    return {name: np.array(values) for name, values in terms.items()}


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_signals_and_their_sum_are_those_of_the_definitions(kind, scale):
    rows, lengths = unit(6, 48), (1, 3, 40, 200, 7)
    keys = [as_kind(unit(n, 48, seed=n), kind) for n in lengths]
    bm25 = [0.0, 3.25, 17.5, -0.5, 8.0]
    _, signals = read_signals(rows, keys, bm25, ALL, scale=scale)
    expected = by_hand(rows, keys, bm25, scale)
    for name in NAMES:
        found = getattr(signals, name)
        assert (found.dtype, found.shape) == (torch.float64, (5,))
        np.testing.assert_allclose(found.numpy(), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    total = sum(getattr(ALL, name) * expected[name] for name in NAMES)
    np.testing.assert_allclose(fused_scores(signals, ALL).numpy(), total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_one_weight_alone_is_its_signal(name):
    rows, keys = unit(3, 16), [unit(n, 16, seed=n) for n in (2, 5)]
    weights = FusionWeights(**{name: 2.0})
    _, signals = read_signals(rows, keys, [1.0, 2.0], weights, scale=20.0)
    assert torch.equal(fused_scores(signals, weights), 2.0 * getattr(signals, name))
    np.testing.assert_allclose(getattr(signals, name), by_hand(rows, keys, [1.0, 2.0], 20.0)[name], rtol=1e-4)


def test_a_sum_is_never_below_that_of_a_document_without_tokens():
    rows, keys = unit(3, 16), [unit(2, 16)]
    weights = FusionWeights(bm25=-1.0)
    _, signals = read_signals(rows, keys, [1e6], weights, scale=20.0)
    assert fused_scores(signals, weights).tolist() == [NOTHING]


def test_no_documents_have_no_signals():
    _, signals = read_signals(unit(3, 16), [], [], ALL, scale=20.0)
    assert [getattr(signals, name).shape for name in NAMES] == [(0,)] * 5
    assert fused_scores(signals, ALL).shape == (0,)


# -- the reranker ------------------------------------------------------------------------------------------------------

QUERY = "what sound do happy cats make"
DRAW = np.random.default_rng(7)
POOL = "cats purr dogs bark cows moo iron rusts happy sound milk grass town market".split()
DOCUMENTS = [Document(f"d{i:02}", " ".join(DRAW.choice(POOL, size=DRAW.integers(1, 30)))) for i in range(24)]
DOCUMENTS += [Document("z-copy", DOCUMENTS[3].text), Document("y-copy", DOCUMENTS[3].text), Document("empty", " ")]


@pytest.fixture(scope="module")
def minilm():
    return LateInteractionReranker("minilm")


@pytest.fixture(scope="module")
def states(minilm):
    """Kept states by dtype; copies have the same."""
    by_text, kept = {}, {"fp32": [], "fp16": [], "int8": []}
    for document in DOCUMENTS:
        if document.text not in by_text:
            by_text[document.text] = torch.from_numpy(minilm.reader.read([document.contents]).states)
        for kind, column in kept.items():
            column.append(DocumentStates(as_kind(by_text[document.text].clone(), kind), 0))
    return kept


def table(ranking):
    return [(i.document.id, i.score, i.relevance, i.mass, i.token_mass, i.evidence) for i in ranking]


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("given_bm25", [True, False])
@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(len(DOCUMENTS))), bm25=st.lists(st.floats(0, 40), min_size=27, max_size=27))
def test_the_order_of_the_list_changes_no_bit(minilm, states, kind, given_bm25, order, bm25):
    kept, words = states[kind], bm25 if given_bm25 else None
    before = minilm.rank(QUERY, DOCUMENTS, states=kept, bm25=words, evidence="token")
    after = minilm.rank(
        QUERY,
        [DOCUMENTS[i] for i in order],
        states=[kept[i] for i in order],
        bm25=None if words is None else [words[i] for i in order],
        evidence="token",
    )
    assert table(after) == table(before)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_copies_are_tied_with_and_without_an_index(minilm, states, kind):
    words = [float(len(document.text)) for document in DOCUMENTS]
    for bm25 in (words, None):
        ranking = minilm.rank(QUERY, DOCUMENTS, states=states[kind], bm25=bm25)
        copies = [item for item in ranking if item.document.text == DOCUMENTS[3].text]
        assert [item.document.id for item in copies] == ["d03", "y-copy", "z-copy"]
        assert len({item.score for item in copies}) == 1
        assert [item.index for item in copies] == [*sorted(i.index for i in copies)[:1], 25, 24]


def test_merged_lists_are_the_ranking_of_the_union(minilm, states):
    kept = states["fp16"]
    whole = minilm.rank(QUERY, DOCUMENTS, states=kept)
    parts = [
        minilm.rank(QUERY, DOCUMENTS[part], states=kept[part]) for part in (slice(0, 5), slice(5, 20), slice(20, None))
    ]
    merged = sorted((item for part in parts for item in part), key=lambda item: (-item.score, item.document.id))
    assert [(i.document.id, i.score, i.relevance) for i in merged] == [
        (i.document.id, i.score, i.relevance) for i in whole
    ]


def test_bm25_that_is_given_counts_by_its_weight(minilm, states):
    plain, more = (
        {i.document.id: i.score for i in minilm.rank(QUERY, DOCUMENTS[:3], states=states["fp32"][:3], bm25=bm25)}
        for bm25 in ([0.0, 0.0, 0.0], [0.0, 8.0, 0.0])
    )
    weight = minilm.spec.readout.weights.bm25
    assert minilm.uses_bm25 and weight > 0
    assert more["d01"] - plain["d01"] == pytest.approx(8 * weight)
    assert (more["d00"], more["d02"]) == (plain["d00"], plain["d02"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), None, "3"])
def test_bm25_that_is_no_number_is_refused_with_the_document(minilm, bad):
    with pytest.raises(InputError, match="document 'd01' came with the BM25 score .*; give a finite number"):
        minilm.rank(QUERY, DOCUMENTS[:3], bm25=[1.0, bad, 2.0])


def test_bm25_comes_for_every_document_and_list(minilm):
    with pytest.raises(InputError, match="3 documents came with 2 BM25 scores"):
        minilm.rank(QUERY, DOCUMENTS[:3], bm25=[1.0, 2.0])
    with pytest.raises(InputError, match="2 lists came with 1 lists of BM25 scores"):
        minilm.rank_batch([(QUERY, ["a"]), (QUERY, ["b"])], bm25=[[1.0]])


@pytest.mark.parametrize("name", ["minilm-log-mass", "minilm-mass", "minilm-maxsim"])
def test_bm25_is_nothing_to_those_that_do_not_use_it(name, states):
    reranker, kept = LateInteractionReranker(name), states["fp16"]
    assert not reranker.uses_bm25
    given = reranker.rank(QUERY, DOCUMENTS, states=kept, bm25=[9.0] * len(DOCUMENTS))
    assert table(given) == table(reranker.rank(QUERY, DOCUMENTS, states=kept))


def test_evidence_and_mass_are_those_of_the_attention_alone(minilm, states):
    attention = LateInteractionReranker("minilm-log-mass")
    for level in ("token", "sentence"):
        fused, alone = (r.rank(QUERY, DOCUMENTS, states=states["fp16"], evidence=level) for r in (minilm, attention))
        by_id = {item.document.id: (item.mass, item.token_mass, item.evidence) for item in alone}
        assert {item.document.id: (item.mass, item.token_mass, item.evidence) for item in fused} == by_id


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20), st.integers(1, 8), st.integers(0, 99))
def test_the_attention_alone_ranks_as_its_share_among_the_list(lengths, rows, seed):
    """Scores were once the mean logarithm of a document's share in its list: the same, less what all have in common."""
    from sightline.rerank.readout import document_scores, log_shares, read_states

    q, keys = unit(rows, 24, seed=seed), [unit(n, 24, seed=seed + i) for i, n in enumerate(lengths)]
    reading = read_states(q, keys, scale=20.0)
    scores = document_scores(reading, load_layout("minilm-log-mass").readout)
    shares = log_shares(reading)[:, 0].mean(dim=0)
    assert (scores - shares).std() < 1e-9
    assert torch.equal(scores.argsort(descending=True, stable=True), shares.argsort(descending=True, stable=True)) or (
        torch.diff(scores.sort().values).min() < 1e-9
    )


def test_what_is_not_read_has_no_part_but_its_words(minilm):
    long = "Cats purr when they are happy. " * 100
    cut = minilm.rank(QUERY, [Document("a", long)], bm25=[5.0])[0]
    longer = minilm.rank(QUERY, [Document("a", long + "Iron rusts. " * 50)], bm25=[5.0])[0]
    assert 0 < cut.truncated < longer.truncated
    assert longer.score == pytest.approx(cut.score, abs=1e-5)


def test_documents_without_tokens_come_last_with_relevance_0(minilm):
    ranking = minilm.rank(QUERY, ["Iron rusts.", "", "\u200b", "Cats purr."], bm25=[0.0, 99.0, 99.0, 1.0])
    assert [(item.score, item.relevance) for item in ranking[2:]] == [(NOTHING, 0.0)] * 2
    assert all(0 < item.relevance < 1 for item in ranking[:2])
