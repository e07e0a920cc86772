"""What must not change a score, and what must be told when it does."""

import importlib.util
import itertools
import pickle
import random
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline import Document, load_layout, load_reranker
from sightline.errors import InputError, MissingExtraError, ModelError
from sightline.kernels import Context
from sightline.rerank.decoder import DecoderReranker, DocumentCache, load_decoder
from sightline.rerank.decoder.forward import last_position, positions_of
from sightline.rerank.layout import layout_fields

from ..conftest import save_model
from .test_engine import DOCUMENTS, QUERY, by_place

WORDS = "cats dogs iron rain purr bark sleep long walks strangers content rusts they are like".split()
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
LISTS = st.lists(TEXTS, min_size=2, max_size=7)
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def decoder(model_of):
    return load_decoder(model_of("qwen3"))


def reranker(decoder, layout, **options):
    changes = {key: options.pop(key) for key in list(options) if key in layout_fields()}
    return DecoderReranker(decoder, load_layout(layout, **changes), **options)


def documents(texts):
    return [Document(str(i), text) for i, text in enumerate(texts)]


@SLOW
@given(LISTS, st.randoms())
@pytest.mark.parametrize("layout", ["blockrank-cached", "icr-block"])
def test_permuting_the_candidates_changes_no_score_by_a_bit(decoder, layout, texts, draw):
    ranker = reranker(decoder, layout)
    given_ = documents(texts)
    shuffled = draw.sample(given_, len(given_))
    first = {item.document.id: item.score for item in _rank(ranker, given_)}
    assert {item.document.id: item.score for item in _rank(ranker, shuffled)} == first


def _rank(ranker, given_):
    ranking = ranker.rank(QUERY, given_)
    if any("same score" in warning for warning in ranking.warnings):
        assert len({document.text for document in given_}) == 1
    return ranking


@SLOW
@given(LISTS, st.randoms())
def test_shuffling_makes_any_layout_free_of_the_given_order(decoder, texts, draw):
    ranker = reranker(decoder, "icr", shuffles=3)
    given_ = documents(texts)
    first = {item.document.id: item.score for item in _rank(ranker, given_)}
    again = _rank(ranker, draw.sample(given_, len(given_)))
    # Equal texts may change places with one another; every text keeps its score.
    of = {document.id: document.text for document in given_}
    assert sorted((of[i], s) for i, s in first.items()) == sorted((of[x.document.id], x.score) for x in again)


def test_a_causal_layout_depends_on_order_and_says_so(decoder):
    ranker = reranker(decoder, "icr")
    one, other = ranker.rank(QUERY, DOCUMENTS), ranker.rank(QUERY, DOCUMENTS[::-1])
    scores = [{item.document.id: item.score for item in ranking} for ranking in (one, other)]
    assert max(abs(scores[0][i] - scores[1][i]) for i in "abcd") > 1e-6
    assert any("order of the candidates" in warning for warning in one.warnings)
    assert not reranker(decoder, "icr-block").rank(QUERY, DOCUMENTS).warnings
    assert not reranker(decoder, "icr", shuffles=2).rank(QUERY, DOCUMENTS).warnings


@SLOW
@given(st.lists(st.tuples(TEXTS, LISTS), min_size=2, max_size=4))
@pytest.mark.parametrize("layout", ["blockrank", "icr", "icr-block"])
def test_lists_in_one_pass_do_not_see_one_another(decoder, layout, lists):
    ranker = reranker(decoder, layout)
    lists = [(query, documents(texts)) for query, texts in lists if len(set(texts)) > 1]
    together = ranker.rank_batch(lists)
    for (query, given_), ranking in zip(lists, together, strict=True):
        np.testing.assert_allclose(by_place(ranking), by_place(ranker.rank(query, given_)), atol=2e-6)
        assert ranking.query == query


@pytest.mark.parametrize("layout", ["blockrank", "blockrank-cached", "icr-block"])
@pytest.mark.parametrize("budget", [260, 180])
def test_a_list_read_in_groups_gets_the_scores_of_one_pass(decoder, layout, budget):
    texts = [" ".join(random.Random(i).choices(WORDS, k=3 + 5 * i % 23)) for i in range(12)]
    whole = by_place(reranker(decoder, layout).rank(QUERY, documents(texts)))
    passes = []
    ranker = reranker(decoder, layout, token_budget=budget)
    run = ranker.decoder.run
    ranker.decoder.run = lambda ids, positions, call: (passes.append(len(ids)), run(ids, positions, call))[1]
    try:
        split = by_place(ranker.rank(QUERY, documents(texts)))
    finally:
        ranker.decoder.run = run
    assert len(passes) > 2
    assert max(passes[:-1]) <= max(budget, passes[0])
    np.testing.assert_allclose(split, whole, atol=2e-6)


@pytest.mark.parametrize("where", ["device_bytes", "host_bytes", "disk_bytes"])
def test_documents_that_were_kept_give_the_same_scores_and_are_not_read_again(decoder, tmp_path, where):
    cache = DocumentCache(**{where: 1 << 30}, folder=tmp_path)
    ranker = reranker(decoder, "blockrank-cached", cache=cache)
    plain = reranker(decoder, "blockrank-cached")
    fresh = ranker.rank(QUERY, DOCUMENTS)
    assert cache.misses == 5  # four documents and the instruction
    again = ranker.rank(QUERY, DOCUMENTS)
    assert (cache.hits, cache.misses) == (5, 5)
    assert by_place(again).tolist() == by_place(fresh).tolist()
    np.testing.assert_allclose(by_place(fresh), by_place(plain.rank(QUERY, DOCUMENTS)), atol=2e-6)
    # Another query over the same documents, and one more.
    more = [*DOCUMENTS, {"id": "e", "text": "Rain again."}]
    ranking = ranker.rank("When does iron rust?", more)
    assert cache.misses == 6
    np.testing.assert_allclose(by_place(ranking), by_place(plain.rank("When does iron rust?", more)), atol=2e-6)
    assert cache.bytes()[where.removesuffix("_bytes")] > 0


def test_the_cache_keeps_to_its_budgets_and_lets_the_least_recently_used_go(decoder, tmp_path):
    texts = [f"cats purr {i}" for i in range(8)]
    probe = DocumentCache(host_bytes=1 << 30)
    reranker(decoder, "icr-block", cache=probe).rank(QUERY, documents(texts))
    each = probe.bytes()["host"] // 9
    cache = DocumentCache(device_bytes=3 * each, host_bytes=3 * each, disk_bytes=int(2.5 * each), folder=tmp_path)
    ranker = reranker(decoder, "icr-block", cache=cache)
    expected = by_place(reranker(decoder, "icr-block").rank(QUERY, documents(texts)))
    for _ in range(3):
        np.testing.assert_allclose(by_place(ranker.rank(QUERY, documents(texts))), expected, atol=2e-6)
        used = cache.bytes()
        assert used["device"] <= 3 * each and used["host"] <= 3 * each and used["disk"] <= 2.5 * each
        assert min(used.values()) > 0


def test_a_damaged_file_of_the_cache_is_read_anew(decoder, tmp_path):
    cache = DocumentCache(disk_bytes=1 << 30, folder=tmp_path)
    ranker = reranker(decoder, "icr-block", cache=cache)
    first = by_place(ranker.rank(QUERY, DOCUMENTS))
    files = sorted(tmp_path.glob("??/*.read"))
    (tmp_path / "other").write_bytes(b"")
    assert {file.stat().st_mode for file in files} == {(tmp_path / "other").stat().st_mode}  # as of any new file
    files[0].write_bytes(b"nonsense")
    files[1].write_bytes(files[1].read_bytes()[:100])
    assert by_place(ranker.rank(QUERY, DOCUMENTS)).tolist() == first.tolist()
    assert cache.misses == 7  # the two are read again, and are whole again
    assert by_place(ranker.rank(QUERY, DOCUMENTS)).tolist() == first.tolist() and cache.misses == 7


def test_another_model_never_gets_documents_of_this_one(decoder, tmp_path):
    cache = DocumentCache(host_bytes=1 << 30)
    reranker(decoder, "icr-block", cache=cache).rank(QUERY, DOCUMENTS)
    other = load_decoder(save_model(tmp_path / "other", seed=1))
    ranking = reranker(other, "icr-block", cache=cache).rank(QUERY, DOCUMENTS)
    np.testing.assert_allclose(
        by_place(ranking), by_place(reranker(other, "icr-block").rank(QUERY, DOCUMENTS)), atol=2e-6
    )


def test_a_layout_that_reads_documents_with_the_query_takes_no_cache(decoder):
    with pytest.raises(InputError, match="cannot be kept"):
        reranker(decoder, "blockrank", cache=DocumentCache(host_bytes=1))


def test_a_causal_list_beyond_one_pass_is_a_tournament_that_says_so(decoder):
    texts = [" ".join(random.Random(i).choices(WORDS, k=6)) + f" {i}" for i in range(24)]
    ranker = reranker(decoder, "icr", token_budget=420)
    ranking = ranker.rank(QUERY, documents(texts), evidence="token")
    assert len(ranking) == 24
    assert sorted(item.index for item in ranking) == list(range(24))
    assert any("groups were ranked apart" in warning for warning in ranking.warnings)
    final = [item for item in ranking if item.mass > 0]
    assert 2 <= len(final) < 24
    assert [item.index for item in ranking[: len(final)]] == [item.index for item in final]
    assert sum(item.mass for item in ranking) == pytest.approx(1.0)
    # Who met in the final has the scores of a list of their own.
    finalists = sorted(final, key=lambda item: item.index)
    alone = by_place(reranker(decoder, "icr").rank(QUERY, [item.document for item in finalists]))
    np.testing.assert_allclose([item.score for item in finalists], alone, atol=2e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_a_tournament_of_few_documents_ends(decoder, count):
    blocks = documents([" ".join(random.Random(i).choices(WORDS, k=6)) + f" {i}" for i in range(count)])
    pairs = [reranker(decoder, "icr").prompt(QUERY, pair, 0).size for pair in itertools.combinations(blocks, 2)]
    whole = reranker(decoder, "icr").prompt(QUERY, blocks, 0).size
    with pytest.raises(InputError, match="cannot be read in one pass: token_budget is"):
        reranker(decoder, "icr", token_budget=min(pairs) - 1).rank(QUERY, blocks)
    for budget in {max(pairs), whole - 1} if count > 2 else {whole}:
        ranking = reranker(decoder, "icr", token_budget=budget).rank(QUERY, blocks)
        assert sorted(item.index for item in ranking) == list(range(count))


def test_a_list_beyond_the_models_positions_is_a_tournament_too(tmp_path):
    small = load_decoder(save_model(tmp_path, max_position_embeddings=200))
    texts = [f"cats purr and sleep a lot {i}" for i in range(12)]
    ranking = reranker(small, "icr", max_block_tokens=64).rank(QUERY, documents(texts))
    assert any("do not fit" in warning for warning in ranking.warnings)
    with pytest.raises(ModelError, match="16384.*200"):
        reranker(small, "blockrank")
    with pytest.raises(InputError, match="position"):
        reranker(small, "blockrank-cached", max_block_tokens=48).rank("cats purr " * 30, documents(texts))


@pytest.mark.parametrize(("asked", "stands"), [(16_384, 800), (801, 800), (700, 700), (None, None)])
def test_a_query_stands_within_the_models_positions(tmp_path, asked, stands):
    small = load_decoder(save_model(tmp_path, max_position_embeddings=1000))
    ranker = reranker(small, "blockrank-cached", query_position=asked, max_block_tokens=200)
    assert ranker.spec.prompt.query_position == stands
    assert len(ranker.rank(QUERY, DOCUMENTS)) == 4
    again = DecoderReranker(small, ranker.spec)  # nothing changes twice
    assert again.spec == ranker.spec


@pytest.mark.parametrize("cached", [False, True])
def test_routing_ranks_the_documents_with_the_largest_logits(decoder, cached):
    texts = [" ".join(random.Random(i).choices(WORDS, k=6)) + f" {i}" for i in range(20)]
    options = {"cache": DocumentCache(host_bytes=1 << 30)} if cached else {}
    ranker = reranker(decoder, "icr-block", route=5, route_layer=1, **options)
    ranking = ranker.rank(QUERY, documents(texts))
    first = reranker(decoder, "icr-block", readout="maxsim", calibration="none", outliers=None, layers=1).rank(
        QUERY, documents(texts)
    )
    best = [item.document for item in first[:5]]
    assert {item.document.id for item in ranking[:5]} == {document.id for document in best}
    assert [item.document.id for item in ranking[5:]] == [item.document.id for item in first[5:]]
    alone = {item.document.id: item.score for item in reranker(decoder, "icr-block").rank(QUERY, best)}
    for item in ranking[:5]:
        assert item.score == pytest.approx(alone[item.document.id], abs=2e-6)
    assert any("largest logits at layer 1" in warning for warning in ranking.warnings)


@pytest.mark.parametrize("layout", ["blockrank", "icr", "icr-block", "blockrank-cached"])
@pytest.mark.parametrize("level", ["sentence", "token"])
def test_evidence_is_of_the_documents_own_text_and_within_its_mass(decoder, layout, level):
    ranking = reranker(decoder, layout).rank(QUERY, DOCUMENTS, evidence=level)
    assert sum(item.mass for item in ranking) == pytest.approx(1.0)
    for item in ranking:
        assert item.evidence
        assert np.mean(item.token_mass) == pytest.approx(item.mass)
        assert 0 < sum(span.mass for span in item.evidence) <= item.mass + 1e-9
        for span in item.evidence:
            source = item.document.title if span.field == "title" else item.document.text
            assert span.text == source[span.start : span.end]


def test_equal_documents_get_equal_scores(decoder):
    for layout in ("blockrank-cached", "icr-block"):
        texts = ["cats purr", "iron rusts", "cats purr", "dogs bark at strangers", "cats purr"]
        scores = by_place(reranker(decoder, layout).rank(QUERY, documents(texts)))
        assert scores[0] == scores[2] == scores[4] != scores[1]


def test_documents_of_one_token_get_a_number(decoder):
    scores = by_place(reranker(decoder, "icr-block", block="{text}").rank(QUERY, documents(["x", "y", "cats purr"])))
    assert np.isfinite(scores).all()


def test_random_ids_are_drawn_by_seed_and_within_a_list_only_once(decoder):
    changes = {"ids": "random", "shuffles": 2}
    one = reranker(decoder, "icr", **changes).rank(QUERY, DOCUMENTS)
    same = reranker(decoder, "icr", **changes).rank(QUERY, DOCUMENTS)
    other = reranker(decoder, "icr", **changes, seed=5).rank(QUERY, DOCUMENTS)
    assert by_place(one).tolist() == by_place(same).tolist() != by_place(other).tolist()
    names = reranker(decoder, "icr", ids="random").template._names(500, 3)
    assert len(set(names)) == 500


def test_no_documents_rank_to_nothing_and_one_document_ranks(decoder):
    ranker = reranker(decoder, "icr")
    assert len(ranker.rank(QUERY, [])) == 0
    assert len(ranker.rank(QUERY, ["only one"])) == 1
    assert ranker.rank_batch([]) == []


@pytest.mark.parametrize("layout", ["icr", "icr-block", "blockrank", "blockrank-cached"])
@pytest.mark.parametrize("empty", ["", " \n", {"text": None}], ids=repr)
def test_documents_without_text_come_last_and_change_nothing_for_the_others(decoder, layout, empty):
    ranker = reranker(decoder, layout)
    alone = [(item.document.text, item.score, item.mass, item.token_mass) for item in ranker.rank(QUERY, WORDS[:4])]
    ranking = ranker.rank(QUERY, [empty, *WORDS[:2], empty, *WORDS[2:4]], evidence="sentence")
    assert [(item.document.text, item.score, item.mass, item.token_mass) for item in ranking][:4] == alone
    assert [(item.index, item.mass, item.evidence) for item in ranking][4:] == [(0, 0.0, ()), (3, 0.0, ())]
    assert "2 documents have no text to read; ranked last" in ranking.warnings
    batch = ranker.rank_batch([(QUERY, [empty]), (QUERY, WORDS[:4]), (QUERY, [])])
    assert [[item.mass for item in batch[0]], len(batch[1]), len(batch[2])] == [[0.0], 4, 0]


def test_a_title_without_a_text_is_cut_where_the_block_ends(decoder):
    ranker = reranker(decoder, "icr-block", max_block_tokens=40)
    ranking = ranker.rank(QUERY, [Document("long", "", title="cats purr " * 80), Document("short", "iron rusts")])
    by_id = {item.document.id: item for item in ranking}
    assert by_id["long"].truncated > 0 and by_id["short"].truncated == 0
    with pytest.raises(InputError, match="shorten the title"):
        ranker.rank(QUERY, [Document("both", "text", title="cats purr " * 80)])


def test_weights_that_torch_refuses_are_a_model_error(model_of, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(model_of("qwen3"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": folder}))
    with pytest.raises(ModelError, match="pickle that torch refuses"):
        load_reranker(f"hf:{folder}")


@pytest.mark.parametrize("query", ["", "   ", 5, "\ud800"])
def test_a_query_with_nothing_to_ask_is_refused(decoder, query):
    with pytest.raises(InputError, match="quer"):
        reranker(decoder, "icr").rank(query, DOCUMENTS)


def test_a_model_without_chat_template_is_refused_by_name(tmp_path):
    folder = save_model(tmp_path, chat=False)
    with pytest.raises(ModelError, match="no chat template") as error:
        load_reranker(f"hf:{folder}#icr")
    lines = re.findall(r"'([^']+: [^']+)'", str(error.value))
    (tmp_path / "plain.yaml").write_text("\n".join(lines))  # what the message says, from any command
    plain = load_reranker(f"hf:{folder}#{tmp_path / 'plain.yaml'}")
    assert plain.spec == load_layout("icr", name="plain", chat=False)
    assert len(load_reranker(f"hf:{folder}", layout="icr", chat=False).rank(QUERY, DOCUMENTS)) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kept_documents_score_as_those_that_are_read_again(model_of, dtype):
    """Query blocks go through the same computation behind both, so that near ties keep their order in bfloat16, too."""
    decoder = load_decoder(model_of("qwen3"), dtype=dtype)
    keeping = DecoderReranker(decoder, "icr-block", cache=DocumentCache(host_bytes=1 << 24))
    keeping.rank(QUERY, DOCUMENTS[1:3])
    plain = by_place(DecoderReranker(decoder, "icr-block").rank(QUERY, DOCUMENTS))
    for _ in range(2):
        np.testing.assert_allclose(by_place(keeping.rank(QUERY, DOCUMENTS)), plain, rtol=0, atol=1e-6)


def test_windows_that_hide_documents_where_attention_is_read(tmp_path, model_of):
    narrow = f"hf:{save_model(tmp_path, 'mistral-window', sliding_window=60)}"
    with pytest.raises(ModelError, match="puts the query at position 16384, but the layers .* see 60 positions back"):
        load_reranker(narrow, layout="blockrank")
    with pytest.raises(InputError, match="layout 'icr-block' cannot rank this list: .* leaves out 4 of 4 documents"):
        load_reranker(narrow, layout="icr-block").rank(QUERY, DOCUMENTS)
    near = load_reranker(narrow, layout="icr-block", max_block_tokens=40)
    assert len(near.rank(QUERY, DOCUMENTS)) == 4
    # In one prompt fewer documents are nearer to the query, and a list of two cannot become shorter.
    dense = load_reranker(narrow, layout="icr")
    assert any("2 groups were ranked apart" in warning for warning in dense.rank(QUERY, DOCUMENTS).warnings)
    with pytest.raises(InputError, match="cannot be read in one pass: the layers .* leaves out 1 of 2"):
        dense.rank(QUERY, [Document("near", "Cats purr. " * 30), Document("far", "Iron rusts.")])
    # One layer that sees everything is enough for a mean over layers, but not for one over logarithms.
    gemma = model_of("gemma3")
    assert len(load_reranker(f"hf:{gemma}", layout="icr").rank(QUERY, DOCUMENTS).warnings) == 1  # that order counts
    changes = {"readout": "log_mass", "calibration": "none", "outliers": None}
    with pytest.raises(InputError, match="see 40 positions back"):
        load_reranker(f"hf:{gemma}", layout="icr-block", **changes).rank(QUERY, DOCUMENTS)


def test_a_model_that_caps_its_logits_is_refused(tmp_path):
    from transformers import Gemma2Config

    from ..conftest import FAMILIES

    FAMILIES["caps"] = lambda **k: Gemma2Config(**k, head_dim=16, attn_logit_softcapping=5.0)
    try:
        ranker = load_reranker(f"hf:{save_model(tmp_path, 'caps')}", layout="icr")
    finally:
        del FAMILIES["caps"]
    with pytest.raises(ModelError, match="caps its logits"):
        ranker.rank(QUERY, DOCUMENTS)


def test_what_cannot_be_loaded_is_told_by_name(tmp_path):
    with pytest.raises(ModelError, match="nowhere"):
        load_reranker(f"hf:{tmp_path}/nowhere", layout="icr")
    with pytest.raises(InputError, match="dtype"):
        load_decoder(save_model(tmp_path), dtype="float7")
    with pytest.raises(InputError, match="minilm"):
        load_reranker(f"hf:{tmp_path}", layout="minilm")


def test_bfloat16_and_float16_rank_as_float32_does(model_of):
    folder = model_of("llama")
    exact = by_place(load_reranker(folder, layout="blockrank").rank(QUERY, DOCUMENTS))
    for dtype, tolerance in (("bfloat16", 0.05), ("float16", 0.01)):
        half = load_reranker(folder, layout="blockrank", dtype=dtype)
        assert half.decoder.dtype == getattr(torch, dtype)
        ranking = half.rank(QUERY, DOCUMENTS)
        assert ranking.dtype == dtype
        np.testing.assert_allclose(by_place(ranking), exact, atol=tolerance)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_backends_agree(decoder, backend, monkeypatch):
    expected = by_place(reranker(decoder, "blockrank").rank(QUERY, DOCUMENTS[1::2]))
    monkeypatch.setenv("SIGHTLINE_BACKEND", backend)
    if backend == "triton":
        pytest.importorskip("triton")
    ranker = reranker(decoder, "blockrank")
    assert ranker.backend == backend
    np.testing.assert_allclose(by_place(ranker.rank(QUERY, DOCUMENTS[1::2])), expected, atol=1e-5)


def test_heads_and_layout_are_options_of_the_loader(model_of):
    selective = load_reranker(model_of("qwen3"), layout="qrhead", heads=["1-0"])
    assert isinstance(selective, DecoderReranker)
    assert selective.spec.readout.heads == ("1-0",)
    assert selective.rank(QUERY, DOCUMENTS).layout == "qrhead"


def test_a_layout_saved_with_a_model_is_its_default(tmp_path):
    import yaml

    folder = save_model(tmp_path / "model")
    assert load_reranker(f"hf:{folder}").spec.name == "icr"
    saved = load_layout("blockrank", name="mine", layers=1)
    (tmp_path / "model" / "layout.yaml").write_text(yaml.safe_dump(saved.as_dict()))
    assert load_reranker(f"hf:{folder}").spec == saved
    assert load_reranker(f"hf:{folder}", layout="icr").spec.name == "icr"


def test_a_device_map_is_passed_on(model_of, monkeypatch):
    pytest.importorskip("accelerate")
    folder = model_of("llama")
    mapped = load_reranker(folder, layout="blockrank", device_map="auto", device=None)
    expected = by_place(load_reranker(folder, layout="blockrank").rank(QUERY, DOCUMENTS))
    np.testing.assert_allclose(
        by_place(mapped.rank(QUERY, DOCUMENTS)), expected, atol=2e-6 if not torch.cuda.is_available() else 0.05
    )
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else find(name, *rest)
    )
    with pytest.raises(MissingExtraError, match="decoders"):
        load_decoder(folder, device_map="auto")


def test_options_that_cannot_be_meant_are_refused(decoder, tmp_path):
    for options in ({"token_budget": 0}, {"route": 0}, {"route_layer": -1}, {"heads": tmp_path / "heads.yaml"}):
        with pytest.raises(InputError, match="token_budget|heads of a file"):
            DecoderReranker(decoder, "icr", **options)
    with pytest.raises(InputError, match="token states"):
        reranker(decoder, "icr").rank(QUERY, DOCUMENTS, states=[None] * 4)
    with pytest.raises(InputError, match="budget"):
        DocumentCache(host_bytes=-1)
    with pytest.raises(InputError, match="folder"):
        DocumentCache(disk_bytes=1)


def test_a_layer_whose_hooks_are_bound_elsewhere_is_computed_whole(model_of):
    """accelerate binds modules to devices; then the layer itself is run, and gives the same."""
    from sightline.models import decoder as model

    layer = load_decoder(model_of("qwen3")).model.layers[-1].layer
    assert model._without(layer, "q_proj")[0] is not layer
    layer.self_attn._hf_hook = object()
    assert model._without(layer, "q_proj")[0] is layer


@given(
    st.lists(st.integers(0, 50), max_size=6),
    st.lists(st.integers(1, 30), min_size=1, max_size=2),
    st.integers(0, 40),
    st.sampled_from([None, 1, 70]),
)
@pytest.mark.parametrize("positions", ["restart", "sequential"])
def test_the_last_position_is_the_largest(positions, lengths, queries, instruction, query_position):
    changes = {"positions": positions, "query_position": query_position if positions == "restart" else None}
    layout = load_layout("icr", **changes)
    context = Context(lengths, queries, instruction)
    assert last_position(context, layout) == max(positions_of(context, layout))
