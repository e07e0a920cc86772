"""Readouts of hidden states against a plain transformers computation: one prompt a document, no packing, no engine."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline import load_layout, load_reranker
from sightline.errors import InputError, ModelError
from sightline.models.decoder import load_decoder
from sightline.rerank.decoder import DecoderReranker

from ..conftest import save_model

QUERY = "What do cats do?"
TEXTS = [
    "Cats purr when they are content, and sleep a lot.",
    "Iron rusts in the rain.",
    "Dogs bark at strangers; they like long walks. They are loud, and they run along the long road in the rain.",
    "x",
    "Iron rusts in the rain.",
]
PREFIX = "[INST]Judge the document.\nQuery: {query}\n"
BLOCK = "Document: {text}[/INST]Answer:"
YES_NO = load_layout(
    "icr-block",
    name="judge",
    readout="yes_no",
    answers=["Y", "N"],
    calibration="none",
    outliers=None,
    normalisation="documents",
    instruction=PREFIX,
    block=BLOCK.replace("{text}", "{title} {text}"),
    query="",
    signal_tokens="",
    chat=False,
    relevance={"slope": 1.0, "offset": 0.0},
)
FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "granite")


@pytest.fixture(scope="module")
def whole(model_of):
    """Loaded once: tokenizer and model of a family, as transformers has them."""
    loaded = {}

    def load(family="qwen3"):
        if family not in loaded:
            folder = model_of(family)
            model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64)
            loaded[family] = AutoTokenizer.from_pretrained(folder), model.eval()
        return loaded[family]

    return load


def last_logits(loaded, *pieces):
    """Logits behind the last of some pieces of text that are tokenised apart."""
    tokenizer, model = loaded
    ids = [id for piece in pieces for id in tokenizer(piece, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()


def log_odds(loaded, yes, no=None):
    """Of each of `TEXTS`, one prompt for each."""
    ids = loaded[0].get_vocab()
    scores = []
    for text in TEXTS:
        logits = last_logits(loaded, PREFIX.format(query=QUERY), BLOCK.format(text=text))
        scores.append(float(logits[ids[yes]] - (logits[ids[no]] if no else 0.0)))
    return np.array(scores)


def by_place(ranking, attribute="score"):
    return np.array([getattr(item, attribute) for item in sorted(ranking, key=lambda item: item.index)])


@pytest.mark.parametrize("family", FAMILIES)
def test_yes_no_scores_are_those_of_one_plain_prompt_a_document(model_of, whole, family):
    expected = log_odds(whole(family), "Y", "N")
    reranker = load_reranker(model_of(family), layout=YES_NO, dtype="float64")
    ranking = reranker.rank(QUERY, TEXTS)
    np.testing.assert_allclose(by_place(ranking), expected, atol=1e-5)
    np.testing.assert_allclose(by_place(ranking, "relevance"), 1 / (1 + np.exp(-expected)), atol=1e-5)
    assert np.ptp(expected) > 0.1  # else equality would show little
    assert reranker.list_free
    assert all(item.mass is None and item.token_mass == () for item in ranking)


def test_one_answer_is_its_logit_and_scale_is_an_inverse_temperature(model_of, whole):
    expected = log_odds(whole(), "Y") / 5
    reranker = load_reranker(model_of(), layout=load_layout(YES_NO, answers=["Y"], scale=0.2), dtype="float64")
    np.testing.assert_allclose(by_place(reranker.rank(QUERY, TEXTS)), expected, atol=1e-5)


def test_a_score_depends_on_query_and_document_only(model_of):
    reranker = load_reranker(model_of(), layout=YES_NO)
    together = by_place(reranker.rank(QUERY, TEXTS))
    assert together[1] == together[4]  # equal documents
    for text, score in zip(TEXTS, together, strict=True):
        [alone] = reranker.rank(QUERY, [text])
        assert alone.score == pytest.approx(score, abs=1e-5)
    np.testing.assert_array_equal(by_place(reranker.rank(QUERY, TEXTS[::-1])), together[::-1])
    probabilities = reranker.predict([(QUERY, text) for text in TEXTS])
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-together)), atol=1e-5)
    assert len(reranker.rank(QUERY, TEXTS, min_score=float(np.median(probabilities)))) == 4


@pytest.mark.parametrize("budget", [150, 260])
def test_a_list_beyond_one_pass_keeps_its_scores(model_of, budget):
    decoder = load_decoder(model_of(), outputs=["N", "Y"])
    whole = DecoderReranker(decoder, YES_NO).rank(QUERY, TEXTS * 4)
    split = DecoderReranker(decoder, YES_NO, token_budget=budget).rank(QUERY, TEXTS * 4)
    np.testing.assert_allclose(by_place(split), by_place(whole), atol=1e-5)
    assert not split.warnings or all("tied" in warning for warning in split.warnings)
    assert len(set(by_place(split).tolist())) == 4  # equal documents have equal scores in whatever pass they were


def test_lists_in_one_pass_do_not_see_one_another(model_of):
    reranker = load_reranker(model_of(), layout=YES_NO)
    queries = [QUERY, "Why?", "Who barks at strangers, and why?"]
    together = reranker.rank_batch([(query, TEXTS[: 2 + i]) for i, query in enumerate(queries)])
    for i, query in enumerate(queries):
        np.testing.assert_allclose(by_place(together[i]), by_place(reranker.rank(query, TEXTS[: 2 + i])), atol=1e-5)


def test_evidence_is_what_the_scored_token_attends_to(model_of, whole):
    tokenizer, model = whole()
    with torch.no_grad():
        pieces = [PREFIX.format(query=QUERY), BLOCK.format(text=TEXTS[0])]
        first, block = (tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True) for piece in pieces)
        ids = torch.tensor([[*first["input_ids"], *block["input_ids"]]])
        attentions = torch.stack(model(ids, output_attentions=True, use_cache=False).attentions)
    row = attentions[:, 0, :, -1].mean(dim=(0, 1))[len(first["input_ids"]) :]
    start = len("Document: ")
    own = [a < start + len(TEXTS[0]) and b > start for a, b in block["offset_mapping"]]
    expected = row[torch.tensor(own)]
    ranking = load_reranker(model_of(), layout=YES_NO).rank(QUERY, TEXTS, evidence="token")
    [marks] = [item.evidence for item in ranking if item.index == 0]
    np.testing.assert_allclose([mark.mass for mark in marks], expected / expected.sum(), atol=1e-5)
    for item in ranking:
        assert sum(mark.mass for mark in item.evidence) == pytest.approx(1)


def test_only_the_rows_of_the_answers_are_kept_of_the_head(model_of):
    decoder = load_decoder(model_of(), outputs=["Y", "N"])
    shapes = {tuple(parameter.shape) for parameter in decoder._head.parameters()}
    assert shapes == {(2, decoder.config.hidden_size)}
    names = [name for name, _ in decoder.model.named_parameters()]
    assert not any("head" in name for name in names)
    assert load_decoder(model_of()).outputs is None


def test_tied_embeddings_are_a_head_too(tmp_path):
    folder = save_model(tmp_path / "tied", "qwen2", tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    expected = log_odds((AutoTokenizer.from_pretrained(folder), model), "Y", "N")
    np.testing.assert_allclose(by_place(load_reranker(folder, layout=YES_NO).rank(QUERY, TEXTS)), expected, atol=1e-5)


def test_half_precision_ranks_as_float32_does_without_ties(model_of):
    expected = by_place(load_reranker(model_of(), layout=YES_NO).rank(QUERY, TEXTS))
    scores = by_place(load_reranker(model_of(), layout=YES_NO, dtype="bfloat16").rank(QUERY, TEXTS))
    np.testing.assert_allclose(scores, expected, atol=0.15 * np.ptp(expected))
    assert len(set(scores.tolist())) == 4


def test_what_does_not_go_together_is_refused_in_words(model_of):
    from sightline.rerank.decoder import DocumentCache

    decoder = load_decoder(model_of(), outputs=["Y", "N"])
    with pytest.raises(InputError, match="hidden states.*no cache"):
        DecoderReranker(decoder, YES_NO, cache=DocumentCache(host_bytes=1))
    with pytest.raises(InputError, match="hidden states.*no route"):
        DecoderReranker(decoder, YES_NO, route=2)
    with pytest.raises(InputError, match="hidden states"):
        DecoderReranker(decoder, YES_NO).head_scores(QUERY, TEXTS)
    with pytest.raises(ModelError, match="attention only.*outputs"):
        DecoderReranker(load_decoder(model_of()), YES_NO)
    with pytest.raises(ModelError, match=r"without the logits of \['N'\]"):
        DecoderReranker(load_decoder(model_of(), outputs=["Y"]), YES_NO)
    with pytest.raises(ModelError, match="not one token"):
        load_reranker(model_of(), layout=load_layout(YES_NO, answers=["purring", "N"]))
    with pytest.raises(InputError, match="ask something"):
        load_reranker(model_of(), layout=YES_NO).rank(" ", TEXTS)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"calibration": "null_query"}, "calibration must be 'none' with readout 'yes_no'"),
        ({"normalisation": "all_keys"}, "normalisation"),
        ({"heads": ["0-0"]}, "heads must be 'all'"),
        ({"layers": 2}, "layers must be 'all'"),
        ({"answers": []}, "answers goes with"),
        ({"answers": ["Y", "Y"]}, "different"),
        ({"readout": "mass"}, "answers goes with"),
        ({"query": "{query}", "signal_tokens": "block"}, "put {query} into the instruction"),
        ({"instruction": "Judge."}, "place {query}"),
        ({"chat": True}, "write them into block"),
        ({"signal_tokens": "last:1"}, "signal_tokens"),
        ({"document_token": "end"}, "document_token"),
        ({"max_documents": 1}, "max_documents"),
        ({"mask": "causal", "relevance": {"slope": 1.0, "offset": 0.0}}, "relevance needs"),
    ],
)
def test_a_layout_that_cannot_be_meant_is_refused(changes, match):
    with pytest.raises(InputError, match=match):
        load_layout(YES_NO, **changes)
