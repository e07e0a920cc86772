"""Late-interaction checkpoints as block readers, against sentence-transformers' own vectors and MaxSim."""

import json
import shutil
import string

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.documents import Document
from sightline.errors import ModelError
from sightline.models.loading import load_reader
from sightline.rerank.loading import load_reranker
from sightline.retrieval.index import Index
from sightline.search import Searcher

from .model_folders import SENTENCES, bi_encoder, multi_vector, pylate, stanford

QUERIES = ["cats", "where do cows eat grass, and who said it?", "cats and dogs " * 30]
TEXTS = ["Cats purr!", *SENTENCES, "...", "日本語 ünï 🙂 cats", "dogs bark, " * 200]
MARKERS = {"query": "[Q] ", "document": "[D] "}
PUNCTUATION = list(string.punctuation)
FIXED = {"strategy": "fixed", "length": 16}
CHECKPOINTS = {
    "bert": (multi_vector, "bert", {"expansion": FIXED, "skip": PUNCTUATION, "prompts": MARKERS, "length": 40}),
    "modernbert": (
        multi_vector,
        "modernbert",
        {"expansion": {"strategy": "min", "length": 12}, "skip": [".", ","], "prompts": MARKERS, "query_length": 20},
    ),
    "qwen3": (multi_vector, "qwen3", {"expansion": FIXED, "length": 60}),
    "pylate": (
        pylate,
        "bert",
        {"query_prefix": "[unused0] ", "document_prefix": "[unused1] ", "query_length": 14, "document_length": 45},
    ),
    "pylate-attends": (
        pylate,
        "modernbert",
        {"query_prefix": "", "attend_to_expansion_tokens": True, "query_length": 12, "skiplist_words": ["!"]},
    ),
    "stanford": (stanford, "bert", {"query_maxlen": 18, "doc_maxlen": 50, "mask_punctuation": True}),
    "pylate-unexpanded": (
        pylate,
        "bert",
        {"document_prefix": "[unused1] ", "do_query_expansion": False, "query_length": 12, "skiplist_words": []},
    ),
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request, tmp_path_factory):
    make, family, settings = CHECKPOINTS[request.param]
    return make(family, tmp_path_factory.mktemp(request.param), **settings)


@pytest.fixture(scope="module")
def reference(checkpoint):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def reader(checkpoint):
    return load_reader(f"late-interaction:{checkpoint}", device="cpu")


def test_states_are_the_model_s_own_vectors(reader, reference):
    read = reader.read(TEXTS)
    for i, text in enumerate(TEXTS):
        rows = read.states[read.offsets[i] : read.offsets[i + 1]]
        np.testing.assert_allclose(rows, reference.encode_document(text).numpy(), atol=1e-5)
    for query, states in zip(QUERIES, reader.read_queries(QUERIES), strict=True):
        np.testing.assert_allclose(states.states, reference.encode_query(query).numpy(), atol=1e-5)
        assert len(reader.tokens(query)) == len(states.states)
    assert [len(spans) for spans in reader.spans(TEXTS)] == np.diff(read.offsets).tolist()


def test_maxsim_is_that_of_sentence_transformers(checkpoint, reference):
    reranker = load_reranker(f"late-interaction:{checkpoint}")
    for query in QUERIES:
        vectors = reference.encode_query([query])
        expected = reference.similarity(vectors, reference.encode_document(TEXTS))[0] / len(vectors[0])
        ranking = reranker.rank(query, TEXTS, evidence="token")
        scores = {item.index: item.score for item in ranking}
        assert [scores[i] for i in range(len(TEXTS))] == pytest.approx(expected.tolist(), abs=1e-5)
        for item in ranking:
            for mark in item.evidence:
                assert mark.text and item.document.text[mark.start : mark.end] == mark.text
    assert (reranker.layout, ranking.layout, reranker.has_evidence) == ("late-interaction",) * 2 + (True,)


def test_spans_are_of_the_text_or_empty(reader, reference):
    text = SENTENCES[0]
    read = reader.read([text])
    covered = "".join(text[start:end] for start, end in read.spans.tolist())
    masked = reference[2] if len(reference) > 2 else None
    skipped = set(getattr(masked, "skiplist_words", []))
    kept = [c for c in text.replace(" ", "") if c not in skipped]
    assert covered.replace(" ", "") == "".join(kept)
    assert (np.diff(read.spans[:, 0]) >= 0).all() and (read.spans[:, 1] >= read.spans[:, 0]).all()
    assert (read.spans[:, 1] == read.spans[:, 0]).sum() < len(read.spans)


def test_what_is_cut_is_counted(reader):
    read = reader.read(TEXTS)
    assert (read.truncated[:-1] == 0).all() and np.isfinite(read.pooled).all()
    kept = read.spans[read.offsets[-2] :]
    assert (read.truncated[-1] > 0) == (int(kept[-1, 1]) < len(TEXTS[-1].rstrip()) - 1)
    empty = reader.read([""])
    assert empty.offsets.tolist() == [0, 0] and not empty.pooled.any()


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    folder = multi_vector("modernbert", tmp_path_factory.mktemp("long"), prompts=MARKERS, length=8192)
    file = folder / "model.safetensors"
    weights = load_file(file)  # quiet layers: a random model's states then say which token it is
    save_file({name: value * (0.02 if name.endswith("Wo.weight") else 1) for name, value in weights.items()}, file)
    return f"late-interaction:{folder}"


@pytest.fixture(scope="module")
def long_reader(long_model):
    return load_reader(long_model, device="cpu")


def test_long_documents_are_read(long_reader):
    read = long_reader.read(["grass " * 1500])
    assert read.truncated.tolist() == [0] and len(read.states) > 1500 and long_reader.room > 8180


def test_a_passage_of_5000_words_is_read_whole_and_marked_at_its_end(long_model, tmp_path):
    meadows = [f"The cow eats grass in meadow {number}, said the farmer." for number in range(500)]
    last = "Ships sail to Lisbon."
    documents = [Document("long", " ".join([*meadows, last])), Document("short", meadows[0])]
    assert len(documents[0].text.split()) > 5000
    settings = {"encoder": long_model, "token_states": "fp16", "max_tokens": 8000}
    with Index.build(tmp_path / "index", documents, **settings) as index:
        assert index.counts()["passages"] == 2  # one each
        searcher = Searcher(index, long_model)
        assert searcher.uses_kept_states
        result = searcher.search(last, k=2, evidence="sentence")
    assert not result.truncated
    [hit] = [hit for hit in result.hits if hit.id == "long"]
    assert max(hit.evidence, key=lambda mark: mark.mass).text == last


def test_an_index_keeps_vectors_of_another_model_than_its_encoder(tmp_path_factory, toy, tmp_path):
    folder = multi_vector("bert", tmp_path_factory.mktemp("kept"), **CHECKPOINTS["bert"][2])
    name = f"late-interaction:{folder}"
    documents = [Document(str(i), text) for i, text in enumerate(TEXTS)]
    with Index.build(tmp_path / "index", documents[:4], encoder=toy, reader=name, token_states="fp16") as index:
        index.add(documents[4:])
        kept = index.manifest.token_states
        assert (kept.model, kept.dim) == (name, 16)
        searcher = Searcher(index, name)
        assert searcher.uses_kept_states
        result = searcher.search("where do cows eat", k=4, evidence="token")
        anew = Searcher(index, name, kept_states=False).search("where do cows eat", k=4, evidence="token")
        assert [(hit.id, [mark[:2] for mark in marks(hit)]) for hit in result.hits] == [
            (hit.id, [mark[:2] for mark in marks(hit)]) for hit in anew.hits
        ]
        assert [hit.score for hit in result.hits] == pytest.approx([hit.score for hit in anew.hits], abs=1e-3)
    with Index.build(tmp_path / "alone", documents, encoder=name) as index:  # the mean of its vectors embeds
        assert Searcher(index, name, first_stage="dense").search("cats", k=1).hits


def marks(hit):
    return [(mark.start, mark.end, mark.mass) for mark in hit.evidence]


def damaged(folder, tmp_path, damage):
    copy = tmp_path / "damaged"
    shutil.copytree(folder, copy)
    damage(copy)
    return copy


def set_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "weights": (lambda f: (f / "model.safetensors").unlink(), r"cannot be loaded as MultiVectorEncoder"),
    "short weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x08"), r"cannot be loaded"),
    "projection": (lambda f: (f / "1_Dense/model.safetensors").unlink(), r"1_Dense: the projection's weights are miss"),
    "projection settings": (lambda f: (f / "1_Dense/config.json").unlink(), r"1_Dense.config\.json is missing"),
    "projection damaged": (
        lambda f: (f / "1_Dense/model.safetensors").write_bytes(b"no"),
        r"cannot be read as weights",
    ),
    "dims": (
        lambda f: set_json(f / "1_Dense/config.json", out_features=8),
        r"'linear\.weight' has the shape \[16, 32\], but .*1_Dense.config\.json says \[8, 32\]",
    ),
    "dims that do not fit": (
        lambda f: (
            set_json(f / "1_Dense/config.json", in_features=31),
            save(f / "1_Dense/model.safetensors", torch.randn(16, 31)),
        ),
        r"do not fit together.*module 1 \(Dense\) takes 31 numbers and gives 16.*: copy",
    ),
    "bad JSON": (
        lambda f: (f / "config_sentence_transformers.json").write_text("{"),
        r"transformers\.json: not valid J",
    ),
    "bad modules": (lambda f: (f / "modules.json").write_text('["Dense"]'), r"modules\.json: not a list of modules"),
    "no tokenizer": (
        lambda f: [(f / t).unlink() for t in ("tokenizer.json", "tokenizer_config.json")],
        "no tokenizer there",
    ),
    "lengths": (lambda f: drop_normalize(f), r"not of unit length.*add a Normalize module"),
    "other layers": (
        lambda f: set_json(f / "config.json", num_hidden_layers=3),
        r"is not a trained MultiVec.*layer\.2\.",
    ),
}


def save(path, weight):
    save_file({"linear.weight": weight}, path)


def drop_normalize(folder):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([m for m in modules if not m["type"].endswith("Normalize")]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return multi_vector("bert", tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_ranks_nothing(whole, tmp_path, damage):
    break_it, message = DAMAGES[damage]
    folder = damaged(whole, tmp_path, break_it)
    with pytest.raises(ModelError, match=message) as raised:
        load_reranker(f"late-interaction:{folder}")
    assert str(tmp_path) in str(raised.value)


def test_a_bi_encoder_is_no_late_interaction_model(tmp_path):
    folder = bi_encoder("bert", tmp_path)
    with pytest.raises(ModelError, match=r"not a trained MultiVectorEncoder: \S+linear\.weight"):
        load_reranker(f"late-interaction:{folder}")
    with pytest.raises(ModelError, match="no such folder"):
        load_reranker(f"encoder:{tmp_path}/none")
