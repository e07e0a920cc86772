"""What the reranker promises: order leaves no trace, nothing leaks between lists, and what reads alike is tied."""

import random
import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.documents import Document
from sightline.errors import InputError, ModelError, RankingError
from sightline.models.cache import DocumentCache
from sightline.models.minilm import load_minilm
from sightline.rerank import DocumentStates, LateInteractionReranker, load_layout, load_reranker
from sightline.rerank.loading import load_reranker as eval_reranker
from sightline.rerank.requests import as_documents
from sightline.retrieval.token_states import states_form

QUERY = "what sound do cats make when they are happy"
DOCUMENTS = [
    Document("purr", "Cats purr when they are content. They sleep most of the day.", title="Cats"),
    Document("bark", "Dogs bark at strangers."),
    Document("moo", "Cows moo and eat grass all day long. Their milk is white.", title="About cows"),
    Document("rust", "Iron rusts in wet air."),
    Document("emoji", "Čapek’s 猫 says “nyā” 🐈‍⬛. Naïve ﬁne print, e.g. ½.", title="Ünïcode"),
    Document("long", " ".join(f"Town {i} has a market every {i % 7}th day." for i in range(80)), title="Markets"),
    Document("happy", "A happy cat makes a sound called purring"),
]
SHORT = [document for document in DOCUMENTS if document.id != "long"]  # quick to read anew
READOUTS = ["minilm", "minilm-log-mass", "minilm-mass", "minilm-maxsim"]
LIST_FREE = [name for name in READOUTS if name != "minilm-mass"]


@pytest.fixture(scope="module", params=READOUTS)
def reranker(request):
    return LateInteractionReranker(request.param)


@pytest.fixture(scope="module")
def minilm():
    return LateInteractionReranker()


def toy_reranker(toy, name="minilm"):
    return LateInteractionReranker(load_layout(name), reader=toy)


def kept(reranker, documents, kind=None):
    read = reranker.reader.read([document.contents for document in documents])
    rows = [read.states[a:b] for a, b in zip(read.offsets, read.offsets[1:], strict=False)]
    keys = [torch.from_numpy(r) if kind is None else _keys(r, kind) for r in rows]
    return [DocumentStates(key, int(cut)) for key, cut in zip(keys, read.truncated, strict=True)]


def _keys(states, kind):
    form = states_form(kind, states.shape[1])
    [keys] = form.decode(form.encode(states), [(0, len(states))])
    return keys


def scores(ranking):
    return {item.document.id: item.score for item in ranking}


def table(ranking):
    return [(item.document, item.score, item.mass, item.truncated, item.evidence, item.token_mass) for item in ranking]


# -- order, batches, lists --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states_once():
    reranker = LateInteractionReranker()
    return {kind: kept(reranker, DOCUMENTS, kind) for kind in (None, "fp16", "int8")}


@pytest.mark.parametrize("kind", [None, "fp16", "int8"])
@settings(max_examples=12, deadline=None)
@given(order=st.permutations(range(len(DOCUMENTS))))
def test_permutation_of_kept_states_permutes_the_ranking_to_the_last_bit(reranker, states_once, kind, order):
    states = states_once[kind]
    before = reranker.rank(QUERY, DOCUMENTS, states=states, evidence="token")
    after = reranker.rank(QUERY, [DOCUMENTS[i] for i in order], states=[states[i] for i in order], evidence="token")
    assert table(after) == table(before)
    assert [order[item.index] for item in after] == [item.index for item in before]


@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(len(SHORT))))
def test_permutation_of_texts_changes_no_score_beyond_rounding(minilm, order):
    before, after = minilm.rank(QUERY, SHORT), minilm.rank(QUERY, [SHORT[i] for i in order])
    assert [item.document.id for item in after] == [item.document.id for item in before]
    assert scores(after) == pytest.approx(scores(before), abs=1e-5)


@pytest.mark.parametrize("kind", [None, "fp16", "int8"])
@pytest.mark.parametrize("name", LIST_FREE)
def test_a_score_is_the_same_in_every_list_and_shares_are_not(name, states_once, kind):
    reranker, states = LateInteractionReranker(name), states_once[kind]
    assert reranker.list_free
    together = reranker.rank(QUERY, DOCUMENTS, states=states)
    for item in together:
        place = item.index
        (alone,) = reranker.rank(QUERY, [DOCUMENTS[place]], states=[states[place]])
        assert (alone.score, alone.relevance) == (item.score, item.relevance)  # to the last bit
        assert alone.mass == pytest.approx(1) and item.mass < 0.9
    pair = reranker.rank(QUERY, DOCUMENTS[:2], states=states[:2])
    assert scores(pair).items() <= scores(together).items()


@pytest.mark.parametrize("name", LIST_FREE)
def test_texts_read_anew_score_alike_in_every_list_within_rounding(name):
    reranker = LateInteractionReranker(name)
    together = scores(reranker.rank(QUERY, SHORT))
    alone = {document.id: reranker.rank(QUERY, [document])[0].score for document in SHORT}
    assert alone == pytest.approx(together, abs=1e-5)


def test_a_share_of_attention_depends_on_the_list(states_once):
    reranker, states = LateInteractionReranker("minilm-mass"), states_once[None]
    assert not reranker.list_free
    together = scores(reranker.rank(QUERY, DOCUMENTS, states=states))
    pair = scores(reranker.rank(QUERY, DOCUMENTS[:2], states=states[:2]))
    assert pair["purr"] > together["purr"]


@pytest.mark.parametrize("budget", [16, 100_000])
def test_batch_size_changes_no_score_beyond_rounding(minilm, monkeypatch, budget):
    from sightline.models import network_reader as module

    before = scores(minilm.rank(QUERY, SHORT))
    monkeypatch.setattr(module, "tokens_at_once", lambda device: budget)
    assert scores(minilm.rank(QUERY, SHORT)) == pytest.approx(before, abs=1e-5)


def test_batch_ranks_every_list_as_if_it_were_alone(reranker):
    lists = [
        (QUERY, SHORT),
        ("iron and water", SHORT[1:4]),
        (QUERY, ["Cats purr.", "Dogs bark."]),
        ("cows", [SHORT[2]]),
        ("nothing there", []),
    ]
    together = reranker.rank_batch(lists, 3, evidence="sentence")
    assert [ranking.query for ranking in together] == [query for query, _ in lists]
    for (query, documents), ranking in zip(lists, together, strict=True):
        alone = reranker.rank(query, documents, 3, evidence="sentence")
        assert [item.document for item in ranking] == [item.document for item in alone]
        assert [item.score for item in ranking] == pytest.approx([item.score for item in alone], abs=1e-5)
        assert ranking.total == len(documents)


def test_batch_does_not_mix_documents_that_share_an_id(toy):
    one, other = toy_reranker(toy).rank_batch([("cat", ["cat", "dog"]), ("cat", ["tree", "cat cat"])])
    assert {item.document.text for item in one} == {"cat", "dog"}
    assert {item.document.text for item in other} == {"tree", "cat cat"}


def test_an_empty_batch_is_an_empty_list(toy):
    assert toy_reranker(toy).rank_batch([]) == []


def test_duplicates_get_equal_scores(minilm):
    copies = [Document(f"copy{i}", SHORT[0].text, title=SHORT[0].title) for i in range(3)]
    ranking = minilm.rank(QUERY, [copies[0], *SHORT[1:], *copies[1:]])
    assert len({item.score for item in ranking if item.document.id.startswith("copy")}) == 1
    assert ranking.warnings == ()


# -- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READOUTS[1:])
@pytest.mark.parametrize("scale", [0.5, 20.0, 300.0])
def test_scores_are_those_of_the_formula_in_float64(toy, name, scale):
    reranker = LateInteractionReranker(load_layout(name, scale=scale), reader=toy)
    rng = random.Random(3)
    words = "cat dog tree rain milk iron road song".split()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(12)]
    q = toy.read(["dog song cat"]).states.astype(np.float64)
    keys = [toy.read([text]).states.astype(np.float64) for text in texts]
    cosines = [q @ key.T for key in keys]
    everything = np.exp(scale * np.concatenate(cosines, axis=1)).sum(axis=1)
    shares = np.stack([np.exp(scale * c).sum(axis=1) / everything for c in cosines], axis=1)
    expected = {
        "minilm-log-mass": np.log([np.exp(scale * c).sum(axis=1) for c in cosines]).mean(axis=1),
        "minilm-mass": shares.mean(axis=0),
        "minilm-maxsim": np.stack([c.max(axis=1) for c in cosines], axis=1).mean(axis=0),
    }[name]
    ranking = reranker.rank("dog song cat", texts)
    for item in ranking:
        assert item.score == pytest.approx(expected[item.index], rel=1e-4, abs=1e-5)
        assert item.token_mass == pytest.approx(shares[:, item.index], rel=1e-3, abs=1e-6)
        assert item.mass == pytest.approx(shares[:, item.index].mean(), rel=1e-3, abs=1e-6)
    assert [item.score for item in ranking] == sorted((item.score for item in ranking), reverse=True)


def test_scores_of_the_real_model_are_those_of_the_formula():
    reranker = LateInteractionReranker("minilm-log-mass")
    model, scale = reranker.reader, reranker.spec.readout.scale
    q = model.read([QUERY]).states.astype(np.float64)
    lse = []
    for document in SHORT:
        cosines = q @ model.read([document.contents]).states.astype(np.float64).T
        lse.append(np.log(np.exp(scale * cosines).sum(axis=1)))
    log_shares = np.stack(lse) - np.log(np.exp(np.stack(lse)).sum(axis=0))
    ranking = reranker.rank(QUERY, SHORT)
    for item in ranking:
        assert item.score == pytest.approx(lse[item.index].mean(), abs=1e-4)
    # The share among the list, of which the score once was the logarithm, gives the same order.
    assert [item.index for item in ranking] == np.argsort(-log_shares.mean(axis=1)).tolist()


def test_masses_sum_to_one(reranker):
    ranking = reranker.rank(QUERY, SHORT)
    assert sum(item.mass for item in ranking) == pytest.approx(1, abs=1e-5)
    assert np.sum([item.token_mass for item in ranking], axis=0) == pytest.approx(1, abs=1e-5)
    assert len(ranking.query_tokens) == len(ranking[0].token_mass)


def test_a_steep_scale_does_not_tie_what_is_different(toy):
    reranker = LateInteractionReranker(load_layout("minilm-log-mass", scale=900.0), reader=toy)
    ranking = reranker.rank("cat", ["cat", "dog", "tree", "milk", "road"])
    assert len({item.score for item in ranking}) == 5
    assert ranking.warnings == ()


def test_the_reference_backend_gives_the_same_ranking(reranker, states_once, monkeypatch):
    before = reranker.rank(QUERY, DOCUMENTS, evidence="sentence", states=states_once[None])
    monkeypatch.setenv("SIGHTLINE_BACKEND", "reference")
    after = reranker.rank(QUERY, DOCUMENTS, evidence="sentence", states=states_once[None])
    assert (before.backend, after.backend) == ("cpu", "reference")
    assert [item.document.id for item in after] == [item.document.id for item in before]
    assert scores(after) == pytest.approx(scores(before), abs=1e-5)
    for a, b in zip(before, after, strict=True):
        assert [e.mass for e in a.evidence] == pytest.approx([e.mass for e in b.evidence], abs=1e-5)


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_the_obvious_document_wins(reranker):
    assert {item.document.id for item in reranker.rank(QUERY, SHORT, 2)} == {"purr", "happy"}


def test_top_n_cuts_what_is_returned_and_not_what_is_ranked(minilm):
    whole, top = minilm.rank(QUERY, SHORT), minilm.rank(QUERY, SHORT, 2)
    assert (len(top), top.total) == (2, len(SHORT))
    assert [item.document for item in top] == [item.document for item in whole[:2]]
    assert [item.score for item in top] == pytest.approx([item.score for item in whole[:2]], abs=1e-5)
    assert len(minilm.rank(QUERY, SHORT, 99)) == len(SHORT)


def test_strings_mappings_and_documents_score_alike(minilm):
    texts = ["Cats purr.", "Dogs bark."]
    as_strings = minilm.rank("cats", texts)
    as_mappings = minilm.rank("cats", [{"id": i, "text": text} for i, text in zip("ab", texts, strict=True)])
    as_documents = minilm.rank("cats", [Document(i, text) for i, text in zip("ab", texts, strict=True)])
    assert [i.score for i in as_strings] == [i.score for i in as_mappings] == [i.score for i in as_documents]
    assert [i.document.id for i in as_strings] == ["0", "1"]
    assert [i.document.id for i in as_mappings] == ["a", "b"]


def test_a_mappings_title_is_read(minilm):
    titled = minilm.rank("cats", [{"text": "They purr.", "title": "Cats"}, {"text": "They bark.", "title": "Dogs"}])
    assert titled[0].document.title == "Cats"
    assert "Cats" in {e.text for e in minilm.rank("cats", [titled[0].document], evidence="sentence")[0].evidence}


@pytest.mark.parametrize("bad", [None, 5, b"bytes", {"id": "x"}, {"text": 5}, {"text": "a", "id": 7}, ["a"]])
def test_a_bad_candidate_is_named_by_its_place(minilm, bad):
    with pytest.raises(InputError, match="candidate 1"):
        minilm.rank("cats", ["Cats purr.", bad])


@pytest.mark.parametrize("single", ["Cats purr.", DOCUMENTS[0], {"text": "Cats purr."}, None, 5])
def test_something_that_is_no_list_is_refused(minilm, single):
    with pytest.raises(InputError, match="must be a list"):
        minilm.rank("cats", single)


@pytest.mark.parametrize("query", ["", "   ", "\n\t", None, 5, "\ud800"])
def test_a_query_without_a_token_is_refused(minilm, query):
    with pytest.raises(InputError, match="query"):
        minilm.rank(query, DOCUMENTS)


def test_a_long_query_is_cut_and_told(minilm):
    ranking = minilm.rank("cats purr " * 1000, SHORT)
    assert len(ranking.query_tokens) == 254
    assert any("tokens of the query were not read" in warning for warning in ranking.warnings)
    assert ranking[0].document.id in {"purr", "happy"}


@pytest.mark.parametrize("options", [{"top_n": 0}, {"top_n": -1}, {"evidence": "word"}, {"evidence": True}])
def test_a_bad_argument_is_refused(minilm, options):
    with pytest.raises(InputError):
        minilm.rank("cats", DOCUMENTS, **options)


def test_no_documents_give_an_empty_ranking(reranker):
    ranking = reranker.rank("cats", [], evidence="sentence")
    assert (len(ranking), ranking.total, list(ranking)) == (0, 0, [])


def test_one_document_gets_all_the_attention(reranker):
    (item,) = reranker.rank("cats", ["Dogs bark."])
    assert item.mass == pytest.approx(1, abs=1e-6)


def test_truncation_is_counted_and_takes_the_end_of_the_text_only(minilm):
    document = DOCUMENTS[5]
    ranking = minilm.rank("market", [document, DOCUMENTS[0]], evidence="token")
    whole = len(minilm.reader.token_offsets(document.contents))
    (item,) = [item for item in ranking if item.document.id == "long"]
    assert (item.truncated, ranking.truncated) == (whole - 254, 1)
    assert [e.text for e in item.evidence if e.field == "title"] == ["Markets"]
    read = [e for e in item.evidence if e.field == "text"]
    assert read[0].start == 0
    assert read[-1].end == minilm.reader.token_offsets(document.contents)[253][1] - len("Markets ")


def test_a_rerankers_name_is_the_one_asked_for():
    assert load_reranker("minilm-mass").name == "minilm-mass"
    assert load_reranker("minilm", name="hot", scale=40.0).name == "hot"
    ranking = load_reranker("minilm", scale=40.0).rank(QUERY, DOCUMENTS)
    assert (ranking.reranker, ranking.layout, ranking.model) == ("minilm", "minilm", "minilm")


def test_what_keeps_nothing_is_read_as_fast_as_the_processor_can(monkeypatch):
    monkeypatch.setattr("sightline.rerank.late_interaction.native_dtype", lambda device: "bfloat16")
    assert load_reranker().rank(QUERY, DOCUMENTS).dtype == "float32"
    assert load_reranker("minilm", dtype="bfloat16").rank(QUERY, DOCUMENTS).dtype == "bfloat16"
    fast = load_reranker("minilm", documents_see_query=True).rank(QUERY, DOCUMENTS)
    exact = load_reranker("minilm", documents_see_query=True, dtype="float32").rank(QUERY, DOCUMENTS)
    assert (fast.dtype, exact.dtype) == ("bfloat16", "float32")
    assert scores(fast) == pytest.approx(scores(exact), abs=0.05)


# -- kept states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "close", "dtype"), [(None, 1e-5, "float32"), ("fp16", 0.02, "float16"), ("int8", 0.1, "int8")]
)
def test_kept_states_rank_as_fresh_ones(minilm, states_once, kind, close, dtype):
    fresh, again = minilm.rank(QUERY, DOCUMENTS), minilm.rank(QUERY, DOCUMENTS, states=states_once[kind])
    assert again.dtype == dtype
    assert scores(again) == pytest.approx(scores(fresh), abs=close)
    assert [i.document.id for i in again][:2] == [i.document.id for i in fresh][:2]
    assert again.truncated == fresh.truncated == 1


def test_some_kept_and_some_fresh(minilm, states_once):
    some = [state if i % 2 else None for i, state in enumerate(states_once[None])]
    assert scores(minilm.rank(QUERY, DOCUMENTS, states=some)) == pytest.approx(
        scores(minilm.rank(QUERY, DOCUMENTS)), abs=1e-5
    )


def test_kept_states_are_used_and_the_text_is_not_read(minilm, states_once, monkeypatch):
    minilm.rank(QUERY, DOCUMENTS[:1])  # the query is remembered now
    monkeypatch.setattr(minilm.reader, "read", None)
    monkeypatch.setattr(
        minilm.reader, "read_queries", lambda texts, real=minilm.reader._queries: [real[t] for t in texts]
    )
    minilm.rank(QUERY, DOCUMENTS, states=states_once["fp16"])


@pytest.mark.parametrize("count", [0, len(DOCUMENTS) - 1, len(DOCUMENTS) + 1])
def test_a_wrong_number_of_kept_states_is_refused(minilm, states_once, count):
    with pytest.raises(InputError, match="kept states"):
        minilm.rank(QUERY, DOCUMENTS, states=(states_once[None] * 2)[:count])


@pytest.mark.parametrize("shape", [(3, 1), (3, 383), (384,)])
def test_kept_states_of_another_shape_are_refused(minilm, shape):
    with pytest.raises(InputError, match="purr.*shape"):
        minilm.rank(QUERY, DOCUMENTS[:2], states=[DocumentStates(torch.ones(shape), 0), None])


def test_kept_states_of_another_text_are_found_when_evidence_is_asked_for(minilm, states_once):
    with pytest.raises(InputError, match="another text"):
        minilm.rank(QUERY, DOCUMENTS[:2], states=states_once[None][1::-1], evidence="token")


@pytest.mark.parametrize("grain", ["token", "sentence"])
@pytest.mark.parametrize("kind", [None, "fp16", "int8"])
def test_evidence_by_kept_spans_is_that_by_tokenising(minilm, states_once, kind, grain, monkeypatch):
    states = states_once[kind]
    expected = minilm.rank(QUERY, DOCUMENTS, states=states, evidence=grain)
    spans = minilm.reader.spans([document.contents for document in DOCUMENTS])
    known = [
        DocumentStates(state.keys, state.truncated, span.astype(np.uint16))
        for state, span in zip(states, spans, strict=True)
    ]
    monkeypatch.setattr(minilm.reader, "spans", lambda texts: pytest.fail("a text was tokenised again"))
    found = minilm.rank(QUERY, DOCUMENTS, states=known, evidence=grain)
    assert [(item.document.id, item.evidence) for item in found] == [
        (item.document.id, item.evidence) for item in expected
    ]
    minilm.rank(QUERY, DOCUMENTS, evidence=grain)  # what was read just now has its spans, too


def test_kept_spans_of_a_longer_text_are_refused(minilm, states_once):
    keys, length = states_once[None][0].keys, len(DOCUMENTS[0].contents)
    spans = np.array([(place, length + 1) for place in range(len(keys))])
    with pytest.raises(InputError, match="another text"):
        minilm.rank(QUERY, DOCUMENTS[:1], states=[DocumentStates(keys, 0, spans)], evidence="token")


# -- ties, no text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 2])
def test_damaged_states_are_an_error(reranker, states_once, damage, place):
    states = [DocumentStates(state.keys.clone(), 0) for state in states_once[None][:3]]
    direction = np.sign(reranker.reader.read([QUERY]).states[0, 7])
    states[place].keys[1, 7] = damage * float(direction)
    with pytest.raises(RankingError, match="NaN or infinite"):
        reranker.rank(QUERY, DOCUMENTS[:3], states=states)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_damaged_kept_states_of_every_form_are_an_error(reranker, kind):
    (state,) = kept(reranker, DOCUMENTS[:1], kind)
    if kind == "int8":
        state.keys.scales[0] = float("nan")
    else:
        state.keys[0, 0] = float("nan")
    with pytest.raises(RankingError):
        reranker.rank(QUERY, DOCUMENTS[:2], states=[state, None])


def test_equal_scores_for_all_texts_are_ties_with_a_warning(toy):
    toy._word = lambda word: np.eye(toy.dim, dtype=np.float32)[0]
    documents = [Document("b", "cat"), Document("c", "dog"), Document("a", "tree")]
    ranking = toy_reranker(toy, "minilm-log-mass").rank("cat", documents)
    assert [item.document.id for item in ranking] == ["a", "b", "c"]
    assert len({item.score for item in ranking}) == 1
    [warning] = ranking.warnings
    assert warning.startswith("all 3 documents got the same score")
    # Words tell them apart, where they count.
    assert [item.document.id for item in toy_reranker(toy).rank("cat", documents)] == ["b", "a", "c"]


_LONG = "This agreement is made between the two parties named below. " * 40
READ_ALIKE = {
    "case": ["Refunds take 5 days.", "REFUNDS TAKE 5 DAYS."],
    "blanks": ["Refunds take 5 days.", "Refunds  take 5 days.\n"],
    "accents": ["Café opens at 9.", "Cafe opens at 9."],
    "beginning": [_LONG + "Alpha may leave after 30 days.", _LONG + "Beta pays in advance."],
    "emoji": ["\U0001f600", "\U0001f622"],
    "script": ["แมวกำลังนอน", "หมากำลังเห่า"],
    "copies": ["Cats purr."] * 3,
}


@pytest.mark.parametrize("texts", READ_ALIKE.values(), ids=READ_ALIKE)
def test_texts_that_the_model_cannot_tell_apart_are_tied(reranker, texts):
    documents = [Document(id, text) for id, text in zip("cab", texts, strict=False)]
    states = [reranker.reader.read([document.contents]).states for document in documents]
    rankings = [
        reranker.rank(QUERY, documents),
        reranker.rank(QUERY, documents, states=[DocumentStates(torch.from_numpy(kept), 0) for kept in states]),
        *reranker.rank_batch([(QUERY, documents), ("cats", ["iron"])])[:1],
    ]
    for ranking in rankings:
        assert [item.document.id for item in ranking] == sorted(document.id for document in documents)
        assert len({item.score for item in ranking}) == 1
        assert any("same score" in warning for warning in ranking.warnings)


@pytest.mark.parametrize("texts", [["\u200b", "\u200b\u200b"], [""], ["", " ", "  "]], ids=repr)
def test_a_list_without_a_text_is_ranked_with_a_warning(reranker, texts):
    ranking = reranker.rank("cat", texts, evidence="sentence")
    assert [(item.index, item.mass, item.evidence) for item in ranking] == [(i, 0.0, ()) for i in range(len(texts))]
    assert any("no text to read" in warning for warning in ranking.warnings)


@pytest.mark.parametrize(
    "empty", ["", "   ", "\u200b", {"text": None}, {"text": float("nan"), "title": None}], ids=repr
)
def test_documents_without_text_come_last_and_change_nothing_for_the_others(reranker, empty):
    texts = ["Iron rusts in wet air.", "Cats purr.", "Dogs bark."]
    alone = reranker.rank(QUERY, texts)
    for places in ([0], [3], [1, 4]):
        documents = list(texts)
        for place in places:
            documents.insert(place, empty)
        for ranking in (reranker.rank(QUERY, documents), *reranker.rank_batch([(QUERY, documents)])):
            items = [(item.document.text, item.score, item.mass, item.token_mass) for item in ranking]
            assert items[:3] == [(item.document.text, item.score, item.mass, item.token_mass) for item in alone]
            assert all(mass == sum(shares) == 0.0 for _, _, mass, shares in items[3:])
            assert sum("no text to read" in warning for warning in ranking.warnings) == 1


def test_a_title_alone_is_read(reranker):
    documents = [Document("iron", "Iron rusts."), Document("cats", "", title="Cats purr")]
    ranking = reranker.rank("what do cats do", documents, evidence="sentence")
    assert ranking[0].document.id == "cats"
    assert [(mark.field, mark.text) for mark in ranking[0].evidence] == [("title", "Cats purr")]


@given(st.lists(st.sampled_from(["0", "1", "0'", None]), max_size=5))
def test_invented_ids_meet_no_given_one(ids):
    names = [document.id for document in as_documents([{"id": id, "text": "a"} for id in ids])]
    assert all(id in (None, name) for id, name in zip(ids, names, strict=True))
    invented = [name for id, name in zip(ids, names, strict=True) if id is None]
    assert len(set(invented)) == len(invented) and not set(invented) & {id for id in ids if id is not None}


@pytest.mark.parametrize("top_n", [0, -1, True, 2.5, "3"])
def test_a_count_that_is_none_is_refused(minilm, top_n):
    with pytest.raises(InputError, match="top_n must be a whole number"):
        minilm.rank("cats", ["a", "b"], top_n)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["icr", "blockrank", "blockrank-cached", "icr-block", "qrhead", "core"])
def test_a_decoder_layout_is_refused_with_the_name_that_would_do(tmp_path, name):
    remedy = rf"layout '{name}' is for decoders; name the model too: hf:MODEL#{name}"
    layout = load_layout(name)
    calls = [
        lambda: load_reranker(name),
        lambda: load_reranker("minilm", layout=name),
        lambda: load_reranker("minilm", layout=layout),
        lambda: LateInteractionReranker(name),
        lambda: LateInteractionReranker(layout),
        lambda: eval_reranker(name),
    ]
    for call in calls:
        with pytest.raises(InputError, match=remedy):
            call()
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(layout.as_dict()))
    with pytest.raises(InputError, match=rf"hf:MODEL#{re.escape(str(path))}"):
        load_reranker(str(path))
    with pytest.raises(InputError, match="is for decoders"):
        load_reranker("minilm", chat=True)


@pytest.mark.parametrize("name", ["hf:Qwen/Qwen3-0.6B#minilm", "hf:nowhere/at-all#minilm-mass"])
def test_a_layout_of_minilm_is_refused_for_decoders(name):
    with pytest.raises(InputError, match="has no prompt, so it is not for decoders"):
        load_reranker(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minlm", "did you mean 'minilm'"),
        ("MiniLM", "did you mean 'minilm'"),
        ("sightline-min", "did you mean 'sightline-mini'"),
        (
            "gpt",
            "there are minilm, minilm-log-mass, minilm-mass, minilm-maxsim, sightline-mini, "
            "sightline-135m, smollm2, hf:MODEL#blockrank, .*, FOLDER, FILE.yaml",
        ),
        ("", "no reranker ''"),
        ("Qwen/Qwen3-0.6B", "write 'hf:Qwen/Qwen3-0.6B'"),
        ("Qwen/Qwen3-0.6B#icr", "write 'hf:Qwen/Qwen3-0.6B#icr'"),
        ("minilm#icr", "'minilm' is a layout itself"),
        ("hf:", "names no model"),
        ("./nowhere", "no such folder"),
        ("/no/such/folder", "no such folder"),
        ("hf:/no/such/folder", "no such folder"),
        ("hf:runs/not/there", "no such folder"),
        ("hf:minilm", "ships with Sightline"),
        ("nowhere.yaml", "no layout 'nowhere.yaml'"),
        ("x" * 5000, "no reranker"),
        ("hf:/" + "x" * 5000, "no such folder"),
        ("cross-encoder:", "names no model"),
        ("late-interaction:/no/such/folder", "no such folder|cannot be loaded"),
    ],
)
def test_a_name_of_nothing_is_told_what_there_is_without_asking_the_hub(name, said, monkeypatch):
    import transformers

    def ask_hub(*args, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", ask_hub)
    with pytest.raises((InputError, ModelError), match=said):
        load_reranker(name)


def test_a_folder_of_something_else_is_told(tmp_path):
    with pytest.raises(ModelError, match="no layout.yaml"):
        load_reranker(str(tmp_path))
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match="is a file"):
        load_reranker(str(tmp_path / "file.txt"))


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(InputError, match="the device 'nowhere' cannot be used"):
        load_reranker("minilm", device="nowhere")


@pytest.mark.parametrize("evidence", [None, "sentence"])
def test_ties_are_told_and_stand_by_id_whatever_the_order(toy, evidence):
    reranker = toy_reranker(toy, "minilm-maxsim")
    tied = [Document(id, f"cat {word}") for id, word in [("c", "milk"), ("a", "tree"), ("b", "road"), ("d", "song")]]
    documents = [*tied, Document("e", "iron")]
    for seed in range(8):
        random.Random(seed).shuffle(documents)
        ranking = reranker.rank("cat", documents, evidence=evidence)
        assert [item.document.id for item in ranking] == ["a", "b", "c", "d", "e"]
        assert ranking.warnings == ("3 documents are tied with others of different text; ordered by id, then by text",)


def test_ties_of_texts_without_an_id_do_not_stand_in_the_order_of_the_input(toy):
    reranker = toy_reranker(toy, "minilm-maxsim")
    texts = ["cat milk", "cat tree", "cat road", "iron"]
    orders = {
        tuple(item.document.text for item in ranking)
        for order in (texts, texts[::-1], texts[2:] + texts[:2])
        for ranking in (reranker.rank("cat", order), *reranker.rank_batch([("cat", order)]))
    }
    assert len(orders) == 1


def test_a_tie_beside_unequal_copies_is_still_told(toy):
    reranker = toy_reranker(toy, "minilm-maxsim")
    other = DocumentStates(torch.from_numpy(toy.read(["iron"]).states), 0)
    ranking = reranker.rank("cat", ["cat milk", "cat tree", "song", "song"], states=[None, None, None, other])
    assert len(ranking.warnings) == 1


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["sentence", "token"])
def test_evidence_carries_the_documents_text_and_all_its_mass(reranker, states_once, level):
    for item in reranker.rank(QUERY, DOCUMENTS, evidence=level, states=states_once[None]):
        sources = {"text": item.document.text, "title": item.document.title}
        for e in item.evidence:
            assert 0 <= e.start < e.end <= len(sources[e.field])
            assert e.text == sources[e.field][e.start : e.end]
            assert e.mass >= 0
        assert sum(e.mass for e in item.evidence) == pytest.approx(item.mass, rel=1e-3, abs=1e-7)


def test_sentences_come_strongest_first_and_tokens_in_the_order_of_the_text(minilm):
    by_sentence = minilm.rank(QUERY, SHORT, evidence="sentence")[0].evidence
    assert [e.mass for e in by_sentence] == sorted((e.mass for e in by_sentence), reverse=True)
    by_token = minilm.rank(QUERY, SHORT[:1], evidence="token")[0].evidence
    assert [(e.field, e.start) for e in by_token] == sorted(
        ((e.field, e.start) for e in by_token), key=lambda p: (p[0] != "title", p[1])
    )


def test_a_sentences_mass_is_that_of_its_tokens(minilm, states_once):
    sentences = minilm.rank(QUERY, DOCUMENTS, evidence="sentence", states=states_once[None])
    tokens = {
        item.document.id: item.evidence
        for item in minilm.rank(QUERY, DOCUMENTS, evidence="token", states=states_once[None])
    }
    for item in sentences:
        for sentence in item.evidence:
            inside = [
                token.mass
                for token in tokens[item.document.id]
                if token.field == sentence.field and sentence.start <= token.start < sentence.end
            ]
            assert sum(inside) == pytest.approx(sentence.mass, rel=1e-3, abs=1e-7)


def test_evidence_points_to_the_answer(minilm):
    text = "Iron rusts in wet air. Cats purr when they are content. Cows eat grass."
    best = minilm.rank(QUERY, [text, "Dogs bark."], evidence="sentence")[0].evidence[0]
    assert best.text == "Cats purr when they are content."


def test_sentences_that_were_not_read_are_left_out(minilm):
    (item,) = [i for i in minilm.rank(QUERY, DOCUMENTS, evidence="sentence") if i.document.id == "long"]
    assert item.truncated > 0
    shown = [e for e in item.evidence if e.field == "text"]
    assert 0 < len(shown) < 80
    assert max(e.end for e in shown) < len(item.document.text)


def test_a_title_longer_than_the_model_reads_leaves_no_text_evidence(minilm):
    document = Document("t", "Never read.", title="cat " * 300)
    item = minilm.rank("cat", [document, "dog"], evidence="sentence")[0]
    assert {e.field for e in item.evidence} == {"title"}


def test_evidence_only_for_what_is_returned(minilm):
    assert [item.evidence is None for item in minilm.rank(QUERY, SHORT)] == [True] * len(SHORT)
    assert all(item.evidence for item in minilm.rank(QUERY, SHORT, 2, evidence="sentence"))


# -- passages of one document -----------------------------------------------------------------------------------------


def test_passages_of_one_document_collapse_to_the_best(minilm):
    passages = [
        Document("mixed", "Iron rusts in wet air."),
        Document("dogs", "Dogs bark at strangers."),
        Document("mixed", "Cats purr when they are content."),
        Document("dogs", "Dogs guard the house."),
    ]
    every, best = minilm.rank(QUERY, passages), minilm.rank(QUERY, passages, 2, best_per_id=True)
    assert [item.document.id for item in best] == ["mixed", "dogs"]
    assert best[0].index == 2
    assert best.total == 4
    top = {id: max(item.score for item in every if item.document.id == id) for id in ("mixed", "dogs")}
    assert scores(best) == pytest.approx(top, abs=1e-6)


def test_collapsed_passages_fill_up_to_top_n(toy):
    passages = [Document("a", "cat"), Document("a", "cat cat"), Document("a", "cat milk"), Document("b", "dog")]
    assert len(toy_reranker(toy).rank("cat", passages, 2, best_per_id=True)) == 2


def test_the_default_model_is_shared():
    assert LateInteractionReranker().reader is load_minilm(256)


# -- documents that come again -----------------------------------------------------------------------------------------


@pytest.fixture
def counted(toy):
    """The texts that a toy reads as documents, list after list."""
    reads, read = [], toy.read

    def counting(texts, *, kind="document", states=True, behind=""):
        if kind == "document":
            reads.append(list(texts))
        return read(texts, kind=kind, states=states, behind=behind)

    toy.read = counting
    yield reads
    del toy.read


def test_a_document_that_comes_again_is_not_read_again(toy, counted, tmp_path):
    cache = DocumentCache(host_bytes=1 << 20, disk_bytes=1 << 20, folder=tmp_path)
    ranker, plain = (LateInteractionReranker("minilm", reader=toy, cache=c) for c in (cache, None))
    first = ranker.rank(QUERY, SHORT, evidence="token")
    again = ranker.rank(QUERY, [*reversed(SHORT), "A text that is new."], evidence="token")
    assert counted == [[d.contents for d in SHORT], ["A text that is new."]]
    assert {i.document.id: i.score for i in first}.items() <= {i.document.id: i.score for i in again}.items()
    assert [(i.score, i.evidence) for i in plain.rank(QUERY, SHORT, evidence="token")] == [
        (i.score, i.evidence) for i in first
    ]
    # Another process finds them on disk; the cache of another reader, or of one with other weights, does not.
    later = DocumentCache(host_bytes=1 << 20, disk_bytes=1 << 20, folder=tmp_path)
    counted.clear()
    ranker.keep_documents(later)
    assert [i.score for i in ranker.rank(QUERY, SHORT)] == [i.score for i in first] and counted == []
    for field, value in {"name": "other", "revision": "2", "dtype": "bfloat16", "max_length": 33}.items():
        before = getattr(toy, field)
        setattr(toy, field, value)
        ranker.rank(QUERY, SHORT)
        setattr(toy, field, before)
    assert len(counted) == 4
    toy.revision, before = "", toy.revision  # weights that nobody can name
    for _ in range(2):
        ranker.rank(QUERY, SHORT)
    toy.revision = before
    assert len(counted) == 6


def test_hits_are_equal_to_the_last_bit(minilm):
    """The same lists, read anew and kept, with a document that is cut; the kept ones in another order and company."""
    fresh = minilm.rank(QUERY, DOCUMENTS, evidence="sentence")
    keeping = LateInteractionReranker(cache=DocumentCache(host_bytes=1 << 24))
    for documents in (DOCUMENTS, DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[2:5]):
        for item in keeping.rank(QUERY, documents, evidence="sentence"):
            [same] = [other for other in fresh if other.document.id == item.document.id]
            assert (item.score, item.truncated) == (same.score, same.truncated)
            if len(documents) == len(DOCUMENTS):
                assert item.evidence == same.evidence
    assert (keeping.cache.misses, keeping.cache.hits) == (7, 17)


@pytest.mark.parametrize(("form", "share"), [("fp16", 0.5), ("int8", 0.27)])
def test_smaller_forms_round_once_before_anything_is_read(minilm, form, share):
    exact, small = (LateInteractionReranker(cache=DocumentCache(host_bytes=1 << 24, form=f)) for f in ("exact", form))
    expected, first, again = (r.rank(QUERY, SHORT) for r in (exact, small, small))
    assert [i.score for i in first] == [i.score for i in again]
    assert [i.score for i in first] == pytest.approx([i.score for i in expected], abs=0.02)
    assert small.cache.bytes()["host"] < (share + 0.01) * exact.cache.bytes()["host"]


def test_what_is_read_behind_the_query_is_not_kept(toy):
    behind = load_layout("minilm", documents_see_query=True)
    with pytest.raises(InputError, match="cannot be kept"):
        LateInteractionReranker(behind, reader=toy, cache=DocumentCache(host_bytes=1))
    ranker = LateInteractionReranker(behind, reader=toy)
    ranker.keep_documents(DocumentCache(host_bytes=1))
    assert ranker.cache is None


def test_a_cascade_keeps_for_both(toy):
    from sightline.rerank import CascadeReranker

    first, second = (LateInteractionReranker(name, reader=toy) for name in ("minilm-maxsim", "minilm"))
    cascade = CascadeReranker(first, second, top=2)
    cascade.keep_documents(cache := DocumentCache(host_bytes=1 << 20))
    assert cascade.concurrent and first.cache is second.cache is cascade.cache is cache
