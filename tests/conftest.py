"""Shared test tools: a bi-encoder and block reader without a model, and the folder of judged collections."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.errors import InputError
from sightline.models.reader import BlockReader, DecoderForm, DecoderReading, TokenStates

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when haystack is imported
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: its kernels then run on CPU tensors


class ToyEncoder(BlockReader):
    """Words are fixed random vectors; a text is their mean. Deterministic, instant, and right about shared words."""

    name = "toy"
    revision = "toy-1"
    max_length = 64

    def __init__(self, dim=32, name="toy", revision="toy-1"):
        self.dim, self.name, self.revision = dim, name, revision

    def _word(self, word):
        seed = int.from_bytes(hashlib.sha256(f"{self.name} {word}".encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def token_offsets(self, text):
        return [m.span() for m in re.finditer(r"\w+", text)]

    def read(self, texts, *, kind="document", states=True, behind=""):
        room = self.room
        words = [self.token_offsets(text) for text in texts]
        kept = [spans[:room] for spans in words]
        offsets = np.concatenate([[0], np.cumsum([len(spans) for spans in kept])]).astype(np.int64)
        vectors = [self._word(t[a:b].lower()) for t, spans in zip(texts, kept, strict=True) for a, b in spans]
        packed = np.array(vectors, dtype=np.float32).reshape(-1, self.dim)
        pooled = np.zeros((len(texts), self.dim), dtype=np.float32)
        for i in range(len(texts)):
            mean = packed[offsets[i] : offsets[i + 1]].sum(axis=0) + 1e-3
            pooled[i] = mean / np.linalg.norm(mean)
        spans = np.array([s for spans in kept for s in spans], dtype=np.int32).reshape(-1, 2)
        truncated = np.array([len(w) - len(k) for w, k in zip(words, kept, strict=True)], dtype=np.int64)
        return TokenStates(packed if states else None, offsets, spans, pooled, truncated)

    def encode_queries(self, texts):
        return self.read(texts, states=False).pooled

    encode_documents = encode_queries


class ToyDecoder:
    """Keeps of each word bytes that follow from it and its place: two passages at a time, with a title's words."""

    def __init__(self, revision="r1", fingerprint="f1", layer=2):
        self.reading = DecoderReading("hf:toy#words", "toy", revision, "words", fingerprint, layer)
        self.passages = 0

    def __repr__(self):  # names tests, so it must not differ between the processes that run them
        return f"ToyDecoder({self.reading.layer})"

    def form(self, kind):
        if not self.reading.fingerprint:
            raise InputError("documents cannot be kept")
        return DecoderForm(self.reading, kind, heads=2, key_dim=3, value_dim=3)

    def read_stored(self, documents, form):
        for start in range(0, len(documents), 2):
            group = documents[start : start + 2]
            self.passages += len(group)
            yield [self._read(re.findall(r"\w+", document.contents), form) for document in group]

    def _read(self, words, form):
        parts = [
            hashlib.shake_256(f"{word} {place} {part}".encode()).digest(size)
            for part, size in enumerate(form.slot_bytes(form.reading.layer))
            for place, word in enumerate(words)
        ]
        return np.frombuffer(b"".join(parts), dtype=np.uint8)


@pytest.fixture
def toy():
    return ToyEncoder()


@pytest.fixture(scope="session")
def shared_toy():
    """For fixtures that outlive a test; not to be changed."""
    return ToyEncoder()


@pytest.fixture
def collections():
    """The folder of judged collections, or a skip."""
    folder = os.environ.get("SIGHTLINE_DATA")
    if not folder:
        pytest.skip("SIGHTLINE_DATA does not name the folder of judged collections")
    return Path(folder)


@pytest.fixture(scope="session")
def scorer_folders(tmp_path_factory):
    """By kind, a cross-encoder and a late-interaction model of one small layer; ``bare`` has no head."""
    from sentence_transformers import MultiVectorEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    from sightline.models.minilm import find_minilm

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(3)
    made = {}
    for kind, architecture in (("cross-encoder", BertForSequenceClassification), ("bare", BertModel)):
        made[kind] = tmp_path_factory.mktemp(kind)
        labels = {"num_labels": 1} if kind == "cross-encoder" else {}
        config = BertConfig.from_pretrained(find_minilm(), initializer_range=0.5, **small, **labels)
        architecture(config).save_pretrained(made[kind])
        AutoTokenizer.from_pretrained(find_minilm()).save_pretrained(made[kind])
    made["late-interaction"] = tmp_path_factory.mktemp("late-interaction")
    MultiVectorEncoder(str(made["bare"])).save_pretrained(str(made["late-interaction"]))
    return made


@pytest.fixture(scope="session")
def _rerank_api():
    from sightline.tests.rerank_api import RerankApi

    api = RerankApi()
    yield api
    api.close()


@pytest.fixture
def rerank_api(_rerank_api, monkeypatch):
    """A rerank API in this process, which no key is meant for."""
    monkeypatch.delenv("SIGHTLINE_REMOTE_KEY", raising=False)
    _rerank_api.replies, _rerank_api.seen = [], []
    return _rerank_api
