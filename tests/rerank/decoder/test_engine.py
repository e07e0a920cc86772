"""The engine against transformers' own eager attention, given ids, positions and masks that are written out here."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline import load_layout, load_reranker
from sightline.rerank.decoder.prompt import Template

from ..conftest import FAMILIES, WINDOWED, save_model
from .published import LATE, covered, prompt_of, published_scores

QUERY = "What do cats do?"
DOCUMENTS = [
    {"id": "a", "title": "Cats", "text": "Cats purr when they are content, and sleep a lot."},
    {"id": "b", "text": "Iron rusts in the rain."},
    {"id": "c", "title": "Dogs", "text": "Dogs bark at strangers; they like long walks. They are loud."},
    {"id": "d", "text": "x"},
]
BLOCKRANK = (
    "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | CONTENT: "
    "<content> | END ID: <id>. You need to read carefully and understand all of them and your goal is to find all "
    "document(s) from the list that can help answer the query."
)


def written_out(layout, tokenizer, query, documents):
    """Ids, positions, block of each token, and signal tokens, as the papers and their code lay them out."""

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def joined(document, by):
        return (document["title"] + by if document.get("title") else "") + document["text"]

    if layout == "blockrank":
        first = ids(f"<s>[INST]{BLOCKRANK}\nQuery: {query}\n\nDocuments:")
        blocks = [ids(f"\nID: {i} | CONTENT: {joined(d, ' ')} | END ID: {i}") for i, d in enumerate(documents)]
        last = ids(
            "\n\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out the "
            f"ID of the document.\nQuery: {query}\nThe following document(s) can help answer the query:[/INST]"
            "Final Answer: "
        ) + ids("[")
        ends = [(last, [len(last) - 2, len(last) - 1])]
    else:  # icr-block; two newlines before each block, which count as none of it
        first = ids("<s>[INST] Here are some paragraphs:")
        blocks = [ids("\n\n" + joined(d, "\n")) for d in documents]
        ends = []
        for text in (query, "N/A"):
            block = ids(f"\n\n{LATE}\n\nQuery: {text}[/INST]")
            ends.append((block, list(range(2, len(block)))))
    return first, blocks, ends


def eager(folder, layout, query, documents):
    """Attention of all layers (L, H, rows, T) of each query block alone behind the documents; lengths of the blocks."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    first, blocks, ends = written_out(layout, tokenizer, query, documents)
    out = []
    for last, rows in ends:
        owner = [-1] * len(first) + [i for i, block in enumerate(blocks) for _ in block] + [len(blocks)] * len(last)
        ids = first + [i for block in blocks for i in block] + last
        offset = 16_384 if layout == "blockrank" else len(first) + 512
        positions = [
            *range(len(first)),
            *(len(first) + at for block in blocks for at in range(len(block))),
            *(offset + at for at in range(len(last))),
        ]
        group, place = torch.tensor(owner), torch.arange(len(ids))
        seen = place[None] <= place[:, None]
        document = (group >= 0) & (group < len(blocks))
        seen &= ~(document[:, None] & document[None] & (group[:, None] != group[None]))
        at = torch.tensor(positions)

        def mask(window, seen=seen, at=at):
            near = seen if window is None else seen & (at[None] > at[:, None] - window)
            return torch.zeros(near.shape).masked_fill(~near, torch.finfo(torch.float32).min)[None, None]

        window = getattr(model.config, "sliding_window", None)
        masks = mask(window)
        if "full_attention" in (getattr(model.config, "layer_types", None) or []) and window:
            masks = {"full_attention": mask(None), "sliding_attention": masks}
        with torch.no_grad():
            output = model(
                input_ids=torch.tensor([ids]),
                position_ids=torch.tensor([positions]),
                attention_mask=masks,
                output_attentions=True,
                use_cache=False,
            )
        start = len(ids) - len(last)
        out.append(torch.stack([a[0] for a in output.attentions])[:, :, [start + row for row in rows]].double())
    return out, len(first), [len(block) for block in blocks]


def expected_scores(folder, layout, query, documents):
    attentions, start, lengths = eager(folder, layout, query, documents)
    inside = slice(start, start + sum(lengths))
    if layout == "blockrank":
        depth = len(attentions[0])
        shares = attentions[0][int(0.64 * depth)][..., inside]  # (H, R, K)
        shares = shares / shares.sum(-1, keepdim=True)
        return [float(part.sum(-1).mean()) for part in shares.split(lengths, dim=-1)]
    own, null = (a[..., inside].mean(2) for a in attentions)  # (L, H, K)
    scores = []
    for part in (own - null).mean((0, 1)).split(lengths):
        part = part[2:]  # newlines are tokens of this tokenizer
        if len(part) > 1:
            part = part[part > part.mean() - 2 * part.std()]
        scores.append(float(part.sum()))
    return scores


def by_place(ranking):
    return np.array([item.score for item in sorted(ranking, key=lambda item: item.index)])


def of_eager(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["blockrank", "icr-block"])
def test_scores_are_those_of_eager_attention_with_a_written_out_mask(model_of, family, layout):
    folder = model_of(family)
    stand = DOCUMENTS
    if layout == "icr-block":  # order leaves no trace; the canonical one keeps the last bits alike
        stand = sorted(DOCUMENTS, key=lambda d: d["id"])
    expected = expected_scores(folder, layout, QUERY, stand)
    scores = by_place(load_reranker(f"hf:{folder}", layout=layout).rank(QUERY, DOCUMENTS))
    assert np.ptp(scores) > 1e-4
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_go_by_the_positions_that_restart(model_of, family):
    """Read at once, and with documents kept: every window cuts some documents, in some layers whole ones."""
    from sightline.rerank.decoder import DocumentCache

    stand = sorted(DOCUMENTS, key=lambda d: d["id"])
    expected = expected_scores(model_of(family), "icr-block", QUERY, stand)
    ranker = load_reranker(model_of(family), layout="icr-block")
    wide = expected_scores(model_of("mistral"), "icr-block", QUERY, stand)
    np.testing.assert_allclose(by_place(ranker.rank(QUERY, DOCUMENTS)), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-4 and (family != "mistral-window" or np.abs(np.subtract(wide, expected)).max() > 1e-4)
    keeping = load_reranker(model_of(family), layout="icr-block", cache=DocumentCache(host_bytes=1 << 24))
    for _ in range(2):
        np.testing.assert_allclose(by_place(keeping.rank(QUERY, DOCUMENTS)), expected, atol=1e-5)


@pytest.mark.parametrize(("family", "window"), [("gemma3", 30), ("gemma3", 100), ("mistral-window", 100)])
def test_a_windowed_model_in_a_dense_prompt_is_transformers_own(tmp_path, family, window):
    folder = save_model(tmp_path, family, sliding_window=window)
    expected = published_scores("icr", *of_eager(folder), QUERY, DOCUMENTS[1:], "<s>[INST]", "[/INST]")
    scores = by_place(load_reranker(folder, layout="icr").rank(QUERY, DOCUMENTS[1:]))
    assert np.ptp(scores) > 1e-4
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_icr_is_what_its_published_code_computes(model_of, family):
    expected = published_scores("icr", *of_eager(model_of(family)), QUERY, DOCUMENTS, "<s>[INST]", "[/INST]")
    scores = by_place(load_reranker(model_of(family), layout="icr").rank(QUERY, DOCUMENTS))
    assert np.ptp(scores) > 1e-4
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layout", ["qrhead", "core"])
def test_selected_heads_are_the_only_ones_read(model_of, layout):
    heads = [(2, 3), (0, 1), (2, 0)]
    folder = model_of("llama")
    reranker = load_reranker(folder, layout=layout, heads=[f"{layer}-{head}" for layer, head in heads])
    assert reranker.decoder.signal_layer == 2
    expected = published_scores(layout, *of_eager(folder), QUERY, DOCUMENTS, "<s>[INST]", "[/INST]", heads)
    np.testing.assert_allclose(by_place(reranker.rank(QUERY, DOCUMENTS)), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_layers_above_the_signal_layer_are_not_loaded_and_change_nothing(model_of, layer):
    folder = model_of("qwen3")
    cut = load_reranker(folder, layout="blockrank", layers=layer)
    assert len(cut.decoder.model.layers) == layer + 1
    names = {name for name, _ in cut.decoder.model.named_parameters()}
    assert not any(f"layers.{above}." in name for above in range(layer + 1, 4) for name in names)
    assert not any("lm_head" in name for name in names)
    from sightline.rerank.decoder import DecoderReranker, load_decoder

    whole = DecoderReranker(load_decoder(folder), cut.spec)
    assert len(whole.decoder.model.layers) == 4
    np.testing.assert_allclose(by_place(whole.rank(QUERY, DOCUMENTS)), by_place(cut.rank(QUERY, DOCUMENTS)), atol=1e-6)


def test_the_signal_layer_computes_keys_of_documents_and_queries_of_signal_tokens_only(model_of):
    reranker = load_reranker(model_of("qwen3"), layout="blockrank")
    attention = reranker.decoder.model.layers[-1].layer.self_attn
    rows = {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        getattr(attention, name).register_forward_hook(
            lambda module, args, out, name=name: rows.setdefault(name, []).append(args[0].shape[1])
        )
    reranker.rank(QUERY, DOCUMENTS)
    documents = sum(len(block.ids) for block in reranker.template.documents([*map(_document, DOCUMENTS)]))
    assert rows == {"q_proj": [2], "k_proj": [documents]}


def _document(fields):
    from sightline import Document

    return Document(fields["id"], fields["text"], fields.get("title", ""))


@pytest.mark.parametrize("layout", ["icr", "qrhead", "core"])
def test_a_causal_prompt_is_tokenised_at_once(model_of, layout):
    reranker = load_reranker(model_of("qwen3"), layout=layout, **({} if layout == "icr" else {"heads": ["0-0"]}))
    prompt = reranker.prompt(QUERY, [*map(_document, DOCUMENTS)], 0)
    for asked, query in zip((QUERY, "N/A"), prompt.queries, strict=True):
        text, spans, rows = prompt_of(layout, asked, DOCUMENTS, "<s>[INST]", "[/INST]")
        encoded = reranker.decoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [*prompt.instruction, *(i for block in prompt.documents for i in block.ids), *query.ids]
        assert ids == encoded["input_ids"]
        at, counted = len(prompt.instruction), []
        for block in prompt.documents:
            counted.append((at + block.counted[0], at + block.counted[1]))
            at += len(block.ids)
        assert counted == [covered(encoded["offset_mapping"], span) for span in spans]
        first, last = covered(encoded["offset_mapping"], rows)
        assert [at + place for place in query.signal] == list(range(first, last))


@pytest.mark.parametrize("layout", ["blockrank", "icr-block", "blockrank-cached"])
def test_ids_positions_and_signal_tokens_are_as_written_out(model_of, layout):
    from sightline.rerank.decoder.forward import positions_of

    reranker = load_reranker(model_of("qwen3"), layout=layout)
    prompt = reranker.prompt(QUERY, [*map(_document, DOCUMENTS)], 0)
    positions = positions_of(prompt.context, reranker.spec)
    assert len(positions) == prompt.size
    if layout == "blockrank-cached":
        again = reranker.prompt("Why?", [*map(_document, DOCUMENTS)], 0)
        assert again.instruction == prompt.instruction
        assert [b.ids for b in again.documents] == [b.ids for b in prompt.documents]
        return
    tokenizer = AutoTokenizer.from_pretrained(model_of("qwen3"))
    first, blocks, ends = written_out(layout, tokenizer, QUERY, DOCUMENTS)
    assert list(prompt.instruction) == first
    assert [list(block.ids) for block in prompt.documents] == blocks
    assert [(list(q.ids), list(q.signal)) for q in prompt.queries] == ends
    starts = np.cumsum([len(first), *map(len, blocks)])
    assert [positions[start] for start in starts[:-1]] == [len(first)] * 4
    offset = reranker.spec.prompt.query_position or len(first) + 512
    assert [positions[starts[-1]], positions[-1]] == [offset, offset + len(ends[-1][0]) - 1]


def test_blockrank_signal_tokens_survive_a_long_query_and_long_documents(model_of):
    reranker = load_reranker(model_of("mistral"), layout="blockrank", max_block_tokens=40)
    long = {"id": "long", "text": "Cats purr. " * 200}
    ranking = reranker.rank("why " * 300, [long, *DOCUMENTS])
    assert ranking.query_tokens == (" ", "[")
    assert ranking.truncated == 2
    block = reranker.template.documents([_document(long)])[0]
    assert len(block.ids) <= 40
    assert reranker.decoder.tokenizer.decode(block.ids).endswith("| END ID: 0")
    whole = len(reranker.template.token_offsets(long["text"]))
    kept = int(((block.spans[:, 1] > block.spans[:, 0]) & (block.spans[:, 0] >= 0)).sum())
    assert abs(block.truncated + kept - whole) <= 3  # tokens that straddle template and text


def test_a_title_that_leaves_no_room_is_refused_by_id(model_of):
    from sightline.errors import InputError

    reranker = load_reranker(model_of("mistral"), layout="blockrank", max_block_tokens=30)
    with pytest.raises(InputError, match="'long'.*title"):
        reranker.rank(QUERY, [{"id": "long", "title": "word " * 50, "text": "x"}])


def test_logits_are_scaled_once(model_of):
    """The published sdpa path forgot 1/sqrt(d); granite's own multiplier would show it too."""
    reranker = load_reranker(model_of("granite"), layout="blockrank")
    sharp = load_reranker(model_of("granite"), layout="blockrank", scale=4.0)
    assert np.ptp(by_place(sharp.rank(QUERY, DOCUMENTS))) > np.ptp(by_place(reranker.rank(QUERY, DOCUMENTS)))


@pytest.mark.parametrize("readout", ["mass", "log_mass", "maxsim"])
@pytest.mark.parametrize("length", ["sum", "mean"])
@pytest.mark.parametrize(("scale", "ssmax"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.43)])
def test_readouts_are_their_formulas_over_eager_attention(model_of, readout, length, scale, ssmax):
    if readout == "maxsim" and length == "mean":
        pytest.skip("refused: no length dilutes a maximum")
    folder = model_of("llama")
    changes = {"readout": readout, "length": length, "scale": scale, "ssmax": ssmax}
    scores = by_place(load_reranker(folder, layout="blockrank", **changes).rank(QUERY, DOCUMENTS))
    [attention], start, lengths = eager(folder, "blockrank", QUERY, DOCUMENTS)
    log = attention[2][..., start : start + sum(lengths)].log()  # logits up to a constant of the row
    logits = log * scale * (ssmax * np.log(len(DOCUMENTS)) if ssmax else 1.0)
    parts = logits.split(lengths, dim=-1)
    if readout == "maxsim":
        # Known up to the row's constant: differences between documents.
        best = np.array([float(part.amax(-1).mean()) for part in parts])
        np.testing.assert_allclose(scores - scores[0], best - best[0], atol=2e-4)
        return
    mass = torch.stack([part.logsumexp(-1) - (np.log(len(part[0, 0])) if length == "mean" else 0) for part in parts])
    if readout == "log_mass":  # without the term that all documents share: again differences
        expected = mass.mean((1, 2)).numpy()
        np.testing.assert_allclose(scores - scores[0], expected - expected[0], atol=2e-4)
        return
    share = mass - mass.logsumexp(0, keepdim=True)
    np.testing.assert_allclose(scores, share.exp().mean((1, 2)).numpy(), atol=1e-5)


def test_a_layout_with_a_wrong_layer_or_head_is_refused_by_name(model_of):
    from sightline.errors import ModelError

    with pytest.raises(ModelError, match="layer 20.*0 to 3"):
        load_reranker(model_of("qwen3"), layout="blockrank", layers=20)
    with pytest.raises(ModelError, match="heads 0 to 3"):
        load_reranker(model_of("qwen3"), layout="icr", heads=["1-9"])


def test_template_of_layout_is_data(model_of):
    tokenizer = AutoTokenizer.from_pretrained(model_of("qwen3"))
    layout = load_layout("icr", chat=False, instruction="", separator="", block="{text}", ids="none")
    template = Template(layout, tokenizer, "mine")
    assert template.instruction("q") == ()
    [block] = template.documents([_document({"id": "a", "text": "Cats purr."})])
    assert tokenizer.decode(block.ids) == "Cats purr."
