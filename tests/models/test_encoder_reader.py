"""Token states of bi-encoders of every family, against what transformers and sentence-transformers compute."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.documents import Document
from sightline.errors import InputError
from sightline.models.encoder import load_encoder
from sightline.models.loading import absolute_name, load_reader
from sightline.rerank.loading import load_reranker
from sightline.retrieval.index import Index
from sightline.search import Searcher

from .model_folders import SENTENCES, bi_encoder

TEXTS = ["", "Cats purr.", *SENTENCES, "日本語 ünï 🙂 cats", "dogs bark " * 100]
IDENTITY, TANH = torch.nn.Identity(), torch.nn.Tanh()
FAMILIES = {
    "bert": {},
    "mpnet": {"prompts": {"query": "query: ", "document": "a passage: "}},
    "xlm-r": {"prompts": {"query": "query: ", "document": "title: none | text: "}, "include_prompt": False},
    "modernbert": {"pooling": "cls", "heads": [(32, 24, TANH)]},
    "qwen3": {"pooling": "lasttoken", "prompts": {"query": "Instruct: find passages\nQuery:"}},
    "gemma3": {
        "prompts": {"query": "task: search | query: ", "document": "title: none | text: "},
        "heads": [(32, 48, IDENTITY), (48, 32, IDENTITY)],
    },
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return bi_encoder(family, tmp_path_factory.mktemp(family), **FAMILIES[family])


@pytest.fixture(scope="module")
def reader(folder):
    return load_reader(f"encoder:{folder}", device="cpu")


@pytest.fixture(scope="module")
def reference(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def prompt_of(family, kind):
    prompts = FAMILIES[family].get("prompts", {})
    return prompts.get(kind, "")


def plain_states(reference, prompt, text):
    """Each token of the text: transformers' own last hidden state, through the dense heads, of unit length."""
    asked = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "truncation": True}
    encoding = reference.tokenizer(prompt + text, **asked)
    [hidden] = reference[0].model(input_ids=torch.tensor([encoding["input_ids"]])).last_hidden_state
    for module in reference:
        if type(module).__name__ == "Dense":
            hidden = module.activation_function(hidden @ module.linear.weight.T)
    special = encoding["special_tokens_mask"]
    start = len(prompt)
    spans, rows = [], []
    for place, (begin, end) in enumerate(encoding["offset_mapping"]):
        if not special[place] and end > start:
            spans.append((max(0, begin - start), end - start))
            rows.append(hidden[place] / hidden[place].norm())
    return spans, (torch.stack(rows).detach().numpy() if rows else np.empty((0, hidden.shape[1])))


@pytest.mark.parametrize("kind", ["query", "document"])
def test_states_are_those_of_the_text_and_embeddings_those_of_the_model(reader, reference, family, kind):
    read = reader.read(TEXTS, kind=kind)
    prompt = prompt_of(family, kind)
    for i, text in enumerate(TEXTS):
        spans, states = plain_states(reference, prompt, text)
        rows = slice(read.offsets[i], read.offsets[i + 1])
        assert read.spans[rows].tolist() == [list(span) for span in spans]
        np.testing.assert_allclose(read.states[rows], states, atol=1e-5)
    encode = reference.encode_query if kind == "query" else reference.encode_document
    expected = encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(read.pooled, expected, atol=1e-5)
    embed = reader.encode_queries if kind == "query" else reader.encode_documents
    np.testing.assert_allclose(embed(TEXTS), expected, atol=1e-5)
    assert (read.truncated > 0).tolist() == [False] * (len(TEXTS) - 1) + [family != "modernbert"]
    assert read.offsets[1] == 0 and np.diff(read.offsets)[-1] + read.truncated[-1] >= 200


def test_a_text_alone_is_read_as_among_others(reader):
    together = reader.read(TEXTS)
    for i in (1, 3, 5):
        alone = reader.read([TEXTS[i]])
        np.testing.assert_allclose(
            alone.states, together.states[together.offsets[i] : together.offsets[i + 1]], atol=1e-5
        )
    assert [len(spans) for spans in reader.spans(TEXTS)] == np.diff(together.offsets).tolist()
    assert len(reader.tokens("Cats purr.")) == len(reader.read(["Cats purr."], kind="query").states)


def test_threads_read_side_by_side(reader):
    with ThreadPoolExecutor(4) as pool:
        several = list(pool.map(lambda text: reader.read([text] * 3).states, TEXTS[1:4] * 4))
    for i, states in enumerate(several):
        np.testing.assert_allclose(states, several[i % 3], atol=1e-5)
        assert len(states) == 3 * len(reader.spans([TEXTS[1 + i % 3]])[0])


def test_passages_fit_into_the_room_that_the_prompt_leaves(reader, family):
    offsets = reader.token_offsets(TEXTS[-1])
    last = min(reader.room, len(offsets)) - 1
    assert reader.read([TEXTS[-1][: offsets[last - 2][1]]]).truncated.tolist() == [0]
    if family != "modernbert":
        assert reader.room < 128 and reader.read([TEXTS[-1]]).truncated[0] > 0


def test_an_index_keeps_the_states_of_the_reading_that_embeds(folder, family, tmp_path, monkeypatch):
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS[1:6])]
    monkeypatch.chdir(folder.parent)
    with Index.build(tmp_path / "index", documents, encoder=folder.name, token_states="fp16") as index:
        kept = index.manifest.token_states
        reader = load_reader(str(folder))
        assert index.encoder is reader  # one model in memory
        assert (kept.model, kept.revision, kept.dim) == (str(folder), reader.revision, reader.dim)
        searcher = Searcher(index, f"encoder:{folder}#minilm-maxsim")
        assert searcher.uses_kept_states and searcher.reranker.reader is reader
        monkeypatch.setattr(reader, "_tokenised", refuse_documents(reader._tokenised))
        result = searcher.search("where do cows eat", k=3, evidence="token")
        monkeypatch.undo()
        again = Searcher(index, f"encoder:{folder}#minilm-maxsim", kept_states=False).search("where do cows eat", k=3)
    assert [hit.id for hit in result.hits] == [hit.id for hit in again.hits]
    assert [hit.score for hit in result.hits] == pytest.approx([hit.score for hit in again.hits], abs=2e-3)
    assert not Searcher(tmp_path / "index", "minilm").uses_kept_states


def refuse_documents(tokenise):
    def guarded(texts, kind, behind):
        assert kind == "query", "a document was read although the index keeps its states"
        return tokenise(texts, kind, behind)

    return guarded


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return bi_encoder("bert", tmp_path_factory.mktemp("small"))


def test_every_readout_ranks_and_tells_evidence(small):
    for layout in ("minilm-log-mass", "minilm-mass", "minilm-maxsim", "minilm"):
        reranker = load_reranker(f"encoder:{small}#{layout}")
        ranking = reranker.rank("cats and dogs", SENTENCES, evidence="sentence")
        assert reranker.spec.relevance is None  # it was fitted to another reader
        assert (ranking.layout, reranker.name) == (layout, f"encoder:{small}#{layout}")
        assert sum(mark.mass for item in ranking for mark in item.evidence) == pytest.approx(1.0, abs=1e-4)
    default = load_reranker(f"encoder:{small}")
    assert (default.layout, default.spec.reader, default.spec.readout.readout) == (
        "encoder",
        f"encoder:{small}",
        "log_mass",
    )
    short = load_reranker(f"encoder:{small}", max_block_tokens=5, scale=3.0)
    assert (short.reader.room, short.spec.readout.scale) == (3, 3.0)


def test_a_layout_names_its_reader(small, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"name: mine\nreader: encoder:{small}\nmax_block_tokens: 0\nreadout: {{readout: maxsim, scale: 20.0}}\n"
    )
    mine, same = load_reranker(path), load_reranker(f"encoder:{small}#minilm-maxsim")
    assert mine.reader is same.reader
    assert [i.score for i in mine.rank("cats", SENTENCES)] == [i.score for i in same.rank("cats", SENTENCES)]


def test_parts_of_embeddings_are_parts_of_states(small):
    whole, part = load_reader(str(small)), load_reader(str(small), truncate_dim=8)
    first = whole.read(SENTENCES).states[:, :8]
    np.testing.assert_allclose(
        part.read(SENTENCES).states, first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-5
    )
    assert part.dim == 8 and part.revision != whole.revision


def test_readers_are_shared_by_what_they_are(small, monkeypatch):
    monkeypatch.chdir(small.parent)
    assert load_encoder(str(small)) is load_reader(f"encoder:{small}")
    assert absolute_name(f"encoder:{small.name}") == f"encoder:{small}"
    assert absolute_name("minilm") == "minilm" and absolute_name("nobody/model") == "nobody/model"


def test_what_cannot_be_is_refused(small, tmp_path):
    with pytest.raises(InputError, match="has no option 'layers'; it has max_length"):
        load_reader(str(small), layers=3)
    with pytest.raises(InputError, match="must be at least 3, not 2"):
        load_reader(str(small), max_length=2)
    with pytest.raises(InputError, match="reads each text alone"):
        load_reader(str(small)).read(["a"], behind="q")
    with pytest.raises(InputError, match="names no model"):
        load_reader("late-interaction:")
    with pytest.raises(InputError, match="layout 'icr' is for decoders"):
        load_reranker(f"encoder:{small}#icr")


@pytest.mark.data
def test_a_published_encoder_reads_as_it_embeds():
    from sentence_transformers import SentenceTransformer

    folder = Path(os.environ.get("SIGHTLINE_ENCODERS", "encoders")) / "mpnet"
    if not folder.is_dir():
        pytest.skip("SIGHTLINE_ENCODERS names no folder with all-mpnet-base-v2 as mpnet")
    reader = load_reader(f"encoder:{folder}", device="cpu")
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    read = reader.read(TEXTS)
    np.testing.assert_allclose(read.pooled, expected, atol=1e-5)
    assert (reader.dim, reader.max_length, read.states.shape[1]) == (768, 384, 768)
    best = load_reranker(f"encoder:{folder}").rank("corroding metal", SENTENCES, evidence="token")[0]
    assert best.document.text == SENTENCES[1]
    assert max(best.evidence, key=lambda mark: mark.mass).text in ("Iron", "rust", "rusts")
