"""Readouts of hidden states against a plain transformers computation: one prompt a document, no packing, no engine."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sightline import Document, load_layout, load_reranker
from sightline.errors import InputError, ModelError
from sightline.models.checkpoints import load_decoder
from sightline.rerank.decoder import DecoderReranker
from sightline.rerank.decoder.prompt import Template, candidate_id

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
    separator="",
    block=BLOCK.replace("{text}", "{title} {text}"),
    span="block",
    query="",
    signal_tokens="",
    chat=False,
    relevance={"slope": 1.0, "offset": 0.0},
)
FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "granite", "gemma3", "mistral-narrow")
# Windows that cut the short texts here; of "qwen3-narrow" only the last two layers have one, as in jina-reranker-v3.5.
NARROW = {
    "mistral-narrow": ("mistral-window", {"sliding_window": 20}),
    "qwen3-narrow": ("qwen3", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
}


@pytest.fixture(scope="module")
def folder_of(model_of, tmp_path_factory):
    """A folder with a random model, made once."""
    made = {}

    def make(family="qwen3"):
        if family not in NARROW:
            return model_of(family)
        if family not in made:
            base, shape = NARROW[family]
            made[family] = save_model(tmp_path_factory.mktemp(family), base, **shape)
        return made[family]

    return make


@pytest.fixture(scope="module")
def whole(folder_of):
    """Loaded once: tokenizer and model of a family, as transformers has them."""
    loaded = {}

    def load(family="qwen3"):
        if family not in loaded:
            folder = folder_of(family)
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
def test_yes_no_scores_are_those_of_one_plain_prompt_a_document(folder_of, whole, family):
    expected = log_odds(whole(family), "Y", "N")
    reranker = load_reranker(folder_of(family), layout=YES_NO, dtype="float64")
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


@pytest.mark.parametrize("family", ["qwen3", "qwen3-narrow"])
def test_evidence_is_what_the_scored_token_attends_to(folder_of, whole, family):
    tokenizer, model = whole(family)
    with torch.no_grad():
        pieces = [PREFIX.format(query=QUERY), BLOCK.format(text=TEXTS[0])]
        first, block = (tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True) for piece in pieces)
        ids = torch.tensor([[*first["input_ids"], *block["input_ids"]]])
        attentions = torch.stack(model(ids, output_attentions=True, use_cache=False).attentions)
    row = attentions[:, 0, :, -1].mean(dim=(0, 1))[len(first["input_ids"]) :]
    start = len("Document: ")
    own = [a < start + len(TEXTS[0]) and b > start for a, b in block["offset_mapping"]]
    expected = row[torch.tensor(own)]
    ranking = load_reranker(folder_of(family), layout=YES_NO).rank(QUERY, TEXTS, evidence="token")
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
    with pytest.raises(InputError, match="give a query with a word in it"):
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


# -- cosine, as in jina-reranker-v3 -----------------------------------------------------------------------------------

ASK = "Rank {count} passages by: {query}\n"
PASSAGE = '<passage id="{id}">\n{text}<s>\n</passage>\n'
ASKED = "<query>\n{query}</s>\n</query>[/INST]"
COSINE = load_layout(
    "jina-reranker-v3",
    name="near",
    instruction=ASK,
    block=PASSAGE.replace("{text}", "{title} {text}"),
    query=ASKED,
    signal_tokens="marker:</s>",
    document_token="marker:<s>",
)


def add_projector(source, folder):
    """Copy a model, and add two matrices to its file that transformers knows nothing of."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(5)
    weights |= {"projector.0.weight": torch.randn(24, 48), "projector.2.weight": torch.randn(16, 24)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def with_projector(model_of, tmp_path_factory):
    return add_projector(model_of(), tmp_path_factory.mktemp("projector"))


def projected(loaded, weights, texts):
    """Vectors of the documents and of the query in one prompt that is tokenised at once."""
    tokenizer, model = loaded
    passages = [PASSAGE.format(id=i, text=text) for i, text in enumerate(texts)]
    prompt = ASK.format(count=len(texts), query=QUERY) + "".join(passages) + ASKED.format(query=QUERY)
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        states = model.model(ids, use_cache=False).last_hidden_state[0]
    rows = [states[ids[0] == tokenizer.convert_tokens_to_ids(marker)] for marker in ("<s>", "</s>")]
    first, second = (weights[f"projector.{i}.weight"].double() for i in (0, 2))
    documents, query = ((row.double() @ first.T).clamp_min(0) @ second.T for row in rows)
    assert len(documents) == len(texts) and len(query) == 1
    return documents.numpy(), query[0].numpy()


def cosines(documents, query):
    return documents @ query / np.linalg.norm(documents, axis=1) / np.linalg.norm(query)


@pytest.mark.parametrize("family", ["qwen3", "qwen3-narrow"])
def test_cosine_scores_are_those_of_one_plain_prompt(folder_of, whole, tmp_path, family):
    folder = add_projector(folder_of(family), tmp_path / "projector")
    expected = cosines(*projected(whole(family), load_file(f"{folder}/model.safetensors"), TEXTS))
    reranker = load_reranker(folder, layout=COSINE, dtype="float64")
    ranking = reranker.rank(QUERY, TEXTS)
    np.testing.assert_allclose(by_place(ranking), expected, atol=1e-5)
    assert not reranker.list_free and any("order" in warning for warning in ranking.warnings)
    assert by_place(ranking)[1] != by_place(ranking)[4]  # what stands before a document is seen
    assert all(item.relevance is None for item in ranking)


def test_a_list_of_several_passes_is_merged_by_weighted_query_vectors(with_projector, whole):
    weights = load_file(f"{with_projector}/model.safetensors")
    groups = [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]
    parts = [projected(whole(), weights, group) for group in groups]
    weight = [((1 + cosines(*part)) / 2).max() for part in parts]
    query = np.average([query for _, query in parts], axis=0, weights=weight)
    expected = np.concatenate([cosines(documents, query) for documents, _ in parts])
    reranker = load_reranker(with_projector, layout=load_layout(COSINE, max_documents=2), dtype="float64")
    np.testing.assert_allclose(by_place(reranker.rank(QUERY, TEXTS)), expected, atol=1e-5)
    [alone, _] = reranker.rank_batch([(QUERY, TEXTS[:1]), (QUERY, [])])
    assert alone[0].score == pytest.approx(float(cosines(*projected(whole(), weights, TEXTS[:1]))[0]), abs=1e-5)


def test_a_document_too_long_for_any_pass_is_refused_by_id(with_projector):
    reranker = load_reranker(with_projector, layout=COSINE, token_budget=120)
    with pytest.raises(InputError, match=r"'long'.*120.*max_block_tokens"):
        reranker.rank(QUERY, [TEXTS[3], {"id": "long", "text": "Cats purr. " * 60}])


def test_evidence_of_cosine_is_the_query_tokens_attention(with_projector):
    ranking = load_reranker(with_projector, layout=COSINE).rank(QUERY, TEXTS, evidence="sentence")
    for item in ranking:
        assert sum(mark.mass for mark in item.evidence) == pytest.approx(1)
        assert "".join(sorted(mark.text for mark in item.evidence)).count("<s>") == 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"projector": ["projector.1.weight"]}, "no weight 'projector.1.weight'"),
        ({"projector": ["projector.2.weight"]}, r"shape \(16, 24\)"),
        ({"document_token": "marker:<pad>"}, "no token '<pad>' in a block"),
        ({"document_token": "marker:<|embed_token|>"}, "not one token"),
    ],
)
def test_what_the_checkpoint_lacks_is_told_by_name(with_projector, changes, match):
    with pytest.raises(ModelError, match=match):
        load_reranker(with_projector, layout=load_layout(COSINE, **changes)).rank(QUERY, TEXTS)


# -- id_logits, as in FIRST -------------------------------------------------------------------------------------------


def letter_logits(loaded, texts):
    first = load_layout("first").prompt
    blocks = [
        first.block.format(id=chr(65 + i), title="", text=text).replace("]  ", "] ") for i, text in enumerate(texts)
    ]
    ask, asked = (part.format(count=len(texts), query=QUERY) for part in (first.instruction, first.query))
    logits = last_logits(loaded, f"<s>[INST]{ask}{''.join(blocks)}{asked}[/INST]", "[")
    return np.array([float(logits[loaded[0].get_vocab()[chr(65 + i)]]) for i in range(len(texts))])


def test_id_logits_are_the_first_tokens_of_the_answer(model_of, whole):
    expected = letter_logits(whole("llama"), TEXTS)
    ranking = load_reranker(model_of("llama"), layout="first", dtype="float64").rank(QUERY, TEXTS)
    np.testing.assert_allclose(by_place(ranking), expected, atol=1e-5)
    assert any("order" in warning for warning in ranking.warnings)


def test_more_documents_than_letters_meet_in_groups(model_of, whole):
    texts = [f"{text} {i}" for i, text in enumerate(TEXTS)]
    layout = load_layout("first", max_documents=3)
    ranking = load_reranker(model_of("llama"), layout=layout, dtype="float64").rank(QUERY, texts)
    assert any("met again" in warning for warning in ranking.warnings)
    groups = ([0, 2, 4], [1, 3])
    going = sorted(
        group[i]
        for group in groups
        for i in np.argsort(-letter_logits(whole("llama"), [texts[j] for j in group]))[: -(-len(group) // 2)]
    )
    expected = letter_logits(whole("llama"), [texts[i] for i in going])
    np.testing.assert_allclose(by_place(ranking)[going], expected, atol=1e-5)
    assert by_place(ranking)[[i for i in range(5) if i not in going]].max() < expected.min()


def test_letters_go_on_behind_z():
    names = [candidate_id("letters", place) for place in (0, 25, 26, 27, 51, 52, 701, 702)]
    assert names == ["A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"]


# -- published layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "qwen3-reranker",
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
            'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n<Query>: Q?\n"
            "<Document>: D.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        (
            "mxbai-rerank",
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nquery: Q?\ndocument: D.\nYou are a search relevance expert who evaluates how well "
            "documents match search queries. For each query-document pair, carefully analyze the semantic relationship "
            "between them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\n"
            "Relevance:<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "zerank",
            "<|im_start|>system\nQ?<|im_end|>\n<|im_start|>user\nD.<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_published_prompts_read_as_published(model_of, name, expected):
    tokenizer = AutoTokenizer.from_pretrained(model_of())
    template = Template(load_layout(name), tokenizer, "mine")
    prompt = template.prompt("Q?", [Document("a", "D.")])
    assert tokenizer.decode([*prompt.instruction, *prompt.documents[0].ids]) == expected
    assert load_layout(name).list_free and load_layout(name).relevance.probability(0.0) == 0.5


def test_pieces_that_are_tokenised_apart_stay_apart(model_of):
    tokenizer = AutoTokenizer.from_pretrained(model_of())
    layout = load_layout(YES_NO, block="{title} {text}", block_end=". Cats purr", max_block_tokens=30)
    template = Template(layout, tokenizer, "mine")
    end = tokenizer(". Cats purr", add_special_tokens=False)["input_ids"]
    for text in ("Cats", "Cats purr when they are content. " * 9):
        [block] = template.documents([Document("a", text)])
        assert list(block.ids[-len(end) :]) == end
        assert len(block.ids) == len(block.spans) <= 30
        assert (block.spans[-len(end) :] == -1).all() and block.counted[1] <= len(block.ids) - len(end)
    assert block.truncated > 0
    with pytest.raises(InputError, match="block_end"):
        load_layout("icr", block_end=".")


# -- strided visibility, as in CompRank -------------------------------------------------------------------------------


def strided_shares(loaded, layout, prompt, stride, window):
    """Shares of the attention at layer 2, with a mask that is written out."""
    _, model = loaded
    blocks = [block.ids for block in prompt.documents]
    first, last = prompt.instruction, prompt.queries[0].ids
    ids = [*first, *(i for block in blocks for i in block), *last]
    owner = torch.tensor([-1] * len(first) + [i for i, b in enumerate(blocks) for _ in b] + [len(blocks)] * len(last))
    seen = torch.tensor(
        [True] * len(first) + [(j + 1) % stride == 0 or j == len(b) - 1 for b in blocks for j in range(len(b))]
    )
    seen = torch.cat([seen, torch.ones(len(last), dtype=torch.bool)])
    positions = [
        *range(len(first)),
        *(len(first) + at for block in blocks for at in range(len(block))),
        *(layout.prompt.query_position + at for at in range(len(last))),
    ]
    place = torch.arange(len(ids))
    document = (owner >= 0) & (owner < len(blocks))
    mask = place[None] <= place[:, None]
    mask &= ~(document[:, None] & document[None] & (owner[:, None] != owner[None]))
    mask &= ~((owner == len(blocks))[:, None] & ~seen[None])
    place = torch.tensor(positions)
    mask &= place[None] > place[:, None] - window
    with torch.no_grad():
        attention = model(
            torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            attention_mask=torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e300)[None, None],
            output_attentions=True,
            use_cache=False,
        ).attentions[2][0, :, -2:]
    shares = torch.stack([attention[..., owner == i].sum(-1) for i in range(len(blocks))], dim=-1)
    return (shares / shares.sum(-1, keepdim=True)).mean((0, 1)).numpy()


@pytest.mark.parametrize(("family", "window"), [("qwen3", 99_999), ("mistral-window", 540)])
def test_the_query_sees_every_tenth_token_of_a_document_and_no_other(model_of, whole, family, window):
    # Where there is a window, it hides the first tokens of the documents from the last of the query.
    instruction = len(Template(load_layout("comprank"), whole(family)[0], "mine").instruction(""))
    options = {"layout": "comprank", "dtype": "float64", "query_position": instruction + 540 - 82 + 7}
    reranker = load_reranker(model_of(family), **options)
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS[:4])]
    prompt = reranker.prompt(QUERY, documents, 0)
    expected = strided_shares(whole(family), reranker.spec, prompt, 10, window)
    np.testing.assert_allclose(by_place(reranker.rank(QUERY, documents)), expected, atol=1e-5)
    everything = load_reranker(model_of(family), **options, visible_tokens="all").rank(QUERY, documents)
    assert np.abs(by_place(everything) - expected).max() > 1e-3
    heads = reranker.head_scores(QUERY, documents)
    np.testing.assert_allclose(heads.mean(axis=0), expected, atol=1e-5)


def test_a_tenth_of_a_document_is_kept_and_evidence_is_of_that_tenth(model_of):
    from sightline.rerank.decoder import DocumentCache

    caches = {name: DocumentCache(host_bytes=1 << 30) for name in ("comprank", "blockrank-cached")}
    rankers = {name: load_reranker(model_of(), layout=name, cache=cache) for name, cache in caches.items()}
    long = " ".join(TEXTS)
    fresh = load_reranker(model_of(), layout="comprank").rank(QUERY, [long, *TEXTS], evidence="token")
    for _ in range(2):
        ranking = rankers["comprank"].rank(QUERY, [long, *TEXTS], evidence="token")
        np.testing.assert_allclose(by_place(ranking), by_place(fresh), atol=1e-6)
    rankers["blockrank-cached"].rank(QUERY, [long, *TEXTS])
    used = {name: cache.bytes()["host"] for name, cache in caches.items()}
    instruction = len(rankers["comprank"].template.instruction("")) / sum(
        len(block.ids) for block in rankers["comprank"].template.documents([Document("a", long)])
    )
    assert instruction < 3 and used["comprank"] < 0.6 * used["blockrank-cached"]
    [item] = [item for item in ranking if item.index == 0]
    everything = rankers["blockrank-cached"].rank(QUERY, [long, *TEXTS], evidence="token")
    assert len(item.evidence) < 0.2 * max(len(other.evidence) for other in everything)


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("comprank", {"visible_tokens": "stride:0"}, "visible_tokens"),
        ("comprank", {"mask": "causal"}, "visible_tokens"),
        ("icr", {"visible_tokens": "stride:10"}, "visible_tokens"),
        ("first", {"ids": "none", "block": "{text}"}, "needs ids"),
        ("first", {"max_documents": None}, "max_documents"),
        ("jina-reranker-v3", {"answers": ["a"]}, "answers"),
        ("first", {"projector": ["a"]}, "projector"),
        ("minilm-mass", {"readout": "cosine"}, "needs a prompt"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(name, changes, match):
    with pytest.raises(InputError, match=match):
        load_layout(name, **changes)


def test_training_refuses_what_it_cannot_learn(model_of):
    from sightline.training.decoder import DecoderLearner

    for layout in (YES_NO, "comprank"):
        with pytest.raises(InputError, match="training cannot"):
            DecoderLearner(model_of(), layout)
