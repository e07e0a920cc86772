"""Candidate order: known biases are caught and quantified, and what is order-free shows zero."""

import math
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval.bias import measure_order
from sightline.eval.bias.order import kendall_tau, relevant_document, variance
from sightline.eval.candidates import rank_lists, read_lists
from sightline.rerank import LateInteractionReranker, load_layout, load_reranker
from sightline.search import CandidateList

N = 5
TEXTS = [f"text {i}" for i in range(N)]


def quality(place, blocks, query):
    """The document's own worth: text 0 is the best."""
    return -float(blocks[place].text.split()[-1])


def first_slot_wins(place, blocks, query):
    return quality(place, blocks, query) + (100 if place == 0 else 0)


@given(st.integers(2, 30), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_tau_is_scipys(n, k, seed):
    rng = np.random.default_rng(seed)
    ranks = np.stack([rng.permutation(n) for _ in range(k)])
    taus = kendall_tau(ranks)
    for i in range(k):
        for j in range(k):
            assert taus[i, j] == pytest.approx(stats.kendalltau(ranks[i], ranks[j]).statistic, abs=1e-12)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=12))
def test_variance_is_the_populations(rows):
    values = np.array(rows)
    assert variance(values) == pytest.approx(np.var(values, axis=0), rel=1e-6, abs=1e-6)
    assert (variance(np.stack([values[0]] * 10)) == 0.0).all()


def test_relevant_document():
    assert relevant_document(["a", "b"], {"a": 0, "c": 1}) is None
    assert relevant_document([], {}) is None
    assert relevant_document(["a", "b", "c"], {"a": 1, "b": 2, "c": 2}) == "b"


def test_order_free_is_exactly_zero(known, make_list):
    lists = [(f"q{i}", make_list(TEXTS)) for i in range(3)]
    bias = measure_order("free", known(quality), lists, {f"q{i}": {f"d{i}": 1} for i in range(3)})
    assert (bias.queries, bias.relevant_queries, bias.documents, bias.permutations) == (3, 3, 5.0, 10)
    assert (bias.tau.mean, bias.tau.low, bias.tau.high, bias.tau_psi) == (1.0, 1.0, 1.0, 0.0)
    assert bias.score_variance == bias.score_variance_share == bias.rank_variance == bias.gold_rank_variance == 0.0
    assert bias.reversal_tau.mean == 1.0 and bias.slot_psi.value == bias.slot_psi.high == 0.0
    assert (bias.ends_minus_middle.mean, bias.ends_minus_middle.high) == (0.0, 0.0)
    ndcg = np.mean([1 / math.log2(rank + 1) for rank in (1, 2, 3)])
    values = [bias.ndcg.mean, bias.ndcg.min, bias.ndcg.max, *bias.per_permutation, *bias.arrangements.values()]
    assert values == pytest.approx([ndcg] * len(values)) and len(set(bias.per_permutation)) == 1
    assert [slot.slot for slot in bias.gold_at] == ["top", "25 %", "50 %", "75 %", "bottom"]
    assert len({slot.value for slot in bias.gold_at}) == 1


@given(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=2, max_size=8, unique=True), st.integers(0, 99))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_of_the_text_alone_are_never_blamed(known, make_list, texts, seed):
    reranker = known(lambda place, blocks, query: len(blocks[place].text) + hash(blocks[place].text) % 97 / 10)
    bias = measure_order("x", reranker, [("q", make_list(texts))], {"q": {"d1": 1}}, seed=seed, permutations=3)
    assert bias.score_variance == bias.rank_variance == bias.tau_psi == bias.slot_psi.value == 0.0


def test_a_bonus_for_the_first_slot_in_closed_form(known, make_list):
    """Whoever stands first is ranked first, and the others by their worth: with documents i and j of worth-ranks i != j
    in front, i + j pairs are ordered differently; over uniform i and j, tau is 1 - 4 (n - 1) / n^2."""
    reranker = known(first_slot_wins)
    k = 12
    bias = measure_order("first", reranker, [("q", make_list(TEXTS))], {"q": {"d4": 1}}, measure="RR", permutations=k)
    fronts = [int(blocks[0].text.split()[-1]) for blocks in reranker.calls[:k]]
    pairs = [(i, j) for a, i in enumerate(fronts) for j in fronts[a + 1 :]]
    tau = np.mean([1 - 2 * (i + j) / (N * (N - 1) / 2) if i != j else 1.0 for i, j in pairs])
    assert bias.tau.mean == pytest.approx(tau) and bias.tau_psi == pytest.approx((1 - tau) / 2)
    shares = np.array([fronts.count(i) / k for i in range(N)])
    assert bias.score_variance == pytest.approx((100**2 * shares * (1 - shares)).mean())
    assert bias.score_variance_share == pytest.approx((shares * (1 - shares)).mean() / 0.16, rel=0.02)
    # The relevant document is the worst of its list: it is first if it is put there, else last.
    assert [slot.value for slot in bias.gold_at] == pytest.approx([1, 0.2, 0.2, 0.2, 0.2])
    assert bias.ends_minus_middle.mean == pytest.approx((1 + 0.2) / 2 - 0.2)
    assert bias.slot_psi.value == pytest.approx(0.8)
    assert bias.gold_rank_variance == pytest.approx(16 * shares[4] * (1 - shares[4]))
    assert (bias.arrangements["best_first"], bias.arrangements["worst_first"]) == (0.2, 1.0)
    assert bias.reversal_tau.mean == pytest.approx(1 - 2 * 4 / 10)
    assert bias.per_permutation == pytest.approx([1.0 if front == 4 else 0.2 for front in fronts])
    assert (bias.ndcg.min, bias.ndcg.max) == pytest.approx((min(bias.per_permutation), max(bias.per_permutation)))


def test_equal_slots_differ_by_exactly_nothing(known, make_list):
    """Also where the mean of three equal values is not that value, as with a tenth."""
    lists = [("q", make_list([f"text {i}" for i in range(10)]))]
    bias = measure_order("free", known(quality), lists, {"q": {"d9": 1}}, measure="RR")
    assert [slot.value for slot in bias.gold_at] == [0.1] * 5
    assert bias.ends_minus_middle.mean == bias.ends_minus_middle.low == bias.ends_minus_middle.high == 0.0


def test_the_same_bonus_over_many_queries_meets_its_expectation(known, make_list):
    lists = [(f"q{i}", make_list(TEXTS)) for i in range(150)]
    bias = measure_order("first", known(first_slot_wins), lists, {}, permutations=8)
    assert bias.tau.low <= 1 - 4 * (N - 1) / N**2 <= bias.tau.high
    assert bias.score_variance == pytest.approx(100**2 / N * (1 - 1 / N) * (1 - 1 / 8), rel=0.03)  # of a sample of 8
    assert bias.relevant_queries == 0
    assert bias.gold_rank_variance is bias.ends_minus_middle is bias.slot_psi.value is None and bias.gold_at == ()


def test_lost_in_the_middle(known, make_list):
    def ends(place, blocks, query):
        return quality(place, blocks, query) + (100 if place in (0, len(blocks) - 1) else 0)

    bias = measure_order("ends", known(ends), [("q", make_list(TEXTS))], {"q": {"d4": 1}}, measure="RR")
    # At an end, behind the other end's better document; between, behind all.
    assert [slot.value for slot in bias.gold_at] == pytest.approx([0.5, 0.2, 0.2, 0.2, 0.5])
    assert bias.ends_minus_middle.mean == pytest.approx(0.3) and bias.slot_psi.value == pytest.approx(0.6)


def test_one_relevant_document_moves_and_the_others_keep_their_order(known, make_list):
    reranker = known(quality)
    measure_order("x", reranker, [("q", make_list(TEXTS))], {"q": {"d1": 1, "d3": 2}}, permutations=2, slots=3)
    orders = [[block.id for block in blocks] for blocks in reranker.calls]
    ids = [f"d{i}" for i in range(N)]
    rng = random.Random("0 q")
    assert orders[:2] == [rng.sample(ids, N), rng.sample(ids, N)]
    assert orders[2:] == [
        ids, ids[::-1], ["d3", "d0", "d1", "d2", "d4"], ["d0", "d1", "d3", "d2", "d4"], ["d0", "d1", "d2", "d4", "d3"],
    ]  # fmt: skip


def test_a_querys_permutations_do_not_depend_on_the_others(known, make_list):
    one, other = known(quality), known(quality)
    measure_order("x", one, [("a", make_list(TEXTS)), ("b", make_list(TEXTS))], {})
    measure_order("x", other, [("b", make_list(TEXTS))], {})
    assert one.calls[len(one.calls) // 2 :] == other.calls
    again = known(quality)
    measure_order("x", again, [("b", make_list(TEXTS))], {}, seed=1)
    assert again.calls[:10] != other.calls[:10]


def test_passages_of_a_document_move_together(known):
    blocks = tuple(Document(id, text) for id, text in [("a", "text 3"), ("b", "text 1"), ("a", "text 0")])
    reranker = known(quality)
    bias = measure_order("x", reranker, [("q", CandidateList.of("q", blocks))], {"q": {"a": 1}}, measure="RR")
    assert {tuple(block.id for block in call) for call in reranker.calls} == {("a", "a", "b"), ("b", "a", "a")}
    assert bias.ndcg.min == 1.0 and bias.documents == 2  # the best passage makes the document's score


def test_kept_states_move_with_their_documents(toy, make_list):
    reranker = LateInteractionReranker(load_layout("minilm"), reader=toy)
    plain = make_list(["cats purr", "dogs bark", "cows moo loudly"], query="what do cats do")
    [kept] = read_lists(toy, [plain])
    assert all(states is not None for states in kept.states_for(reranker))
    for order in (["d2", "d0", "d1"], ["d1", "d2"]):
        assert rank_lists(reranker, [kept.arranged(order)]) == rank_lists(reranker, [plain.arranged(order)])


def test_the_default_reranker_minds_no_order_to_the_last_bit():
    texts = ["Cats purr when they are content.", "Dogs bark at strangers.", "Cats sleep a lot.", "Cows eat grass."]
    lists = [("q", CandidateList.of("what do happy cats do", tuple(Document(t[:8], t) for t in texts)))]
    bias = measure_order("minilm", load_reranker(), lists, {"q": {"Cats pur": 1}})
    assert bias.score_variance == bias.rank_variance == bias.gold_rank_variance == bias.tau_psi == 0.0


def test_what_cannot_be_measured(known, make_list):
    with pytest.raises(InputError, match="no list has two documents"):
        measure_order("x", known(quality), [("q", make_list(TEXTS[:1])), ("r", CandidateList.of("r", ()))], {})
    with pytest.raises(InputError, match="at least 2, not 1"):
        measure_order("x", known(quality), [], {}, permutations=1)
    with pytest.raises(InputError, match="at least 3, not 2"):
        measure_order("x", known(quality), [], {}, slots=2)


def test_nor_in_lists_of_more_than_sixteen():
    texts = [f"Cats {'purr and ' * (i % 7)}sleep under tree number {i}." for i in range(30)]
    lists = [("q", CandidateList.of("under which tree do cats sleep", tuple(Document(t, t) for t in texts)))]
    bias = measure_order("minilm", load_reranker(), lists, {"q": {texts[3]: 1}})
    assert bias.score_variance == bias.rank_variance == bias.gold_rank_variance == bias.tau_psi == 0.0
