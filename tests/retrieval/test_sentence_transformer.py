import json
import shutil

import numpy as np
import pytest

from sightline.errors import ModelError
from sightline.models.minilm import find_minilm
from sightline.models.sentence_transformer import load_sentence_transformer

TEXTS = [
    "",
    "Cats purr.",
    "Dogs bark at strangers. " * 80,
    "日本語 ünïcode 🙂",
    "short",
    "A text of middling length, then.",
]


@pytest.fixture(scope="module")
def folder():
    return find_minilm()


@pytest.fixture(scope="module")
def encoder(folder):
    return load_sentence_transformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def reference(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def encode(reference, texts, **options):
    return reference.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, **options)


def test_embeddings_are_those_of_plain_encode(encoder, reference):
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), encode(reference, TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), encode(reference, TEXTS), atol=1e-5)


def test_embeddings_do_not_depend_on_the_token_budget(encoder, folder):
    narrow = load_sentence_transformer(str(folder), device="cpu", token_budget=1)
    np.testing.assert_allclose(narrow.encode_documents(TEXTS), encoder.encode_documents(TEXTS), atol=1e-5)


def test_no_texts_give_no_embeddings(encoder):
    assert encoder.encode_documents([]).shape == (0, 384)


def test_truncated_embeddings_are_unit_beginnings(folder, encoder):
    short = load_sentence_transformer(str(folder), device="cpu", truncate_dim=64)
    whole = encoder.encode_documents(TEXTS)[:, :64]
    assert short.dim == 64
    np.testing.assert_allclose(
        short.encode_documents(TEXTS), whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5
    )


def test_token_offsets_cover_the_whole_text(encoder):
    text = TEXTS[2]
    offsets = encoder.token_offsets(text)
    assert len(offsets) > encoder.max_length
    assert text[offsets[-1][0] : offsets[-1][1]] == "."


@pytest.fixture
def prompted(tmp_path, folder):
    """The model's folder with prompts; returns a function that takes them."""

    def prompted(prompts):
        copy = tmp_path / "prompted"
        shutil.copytree(folder, copy)
        (copy / "config_sentence_transformers.json").write_text(
            json.dumps({"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"})
        )
        return load_sentence_transformer(str(copy), device="cpu")

    return prompted


def test_prompts_of_the_model_are_used(prompted, reference, encoder):
    model = prompted({"query": "search query: ", "document": "text of the record: "})
    some = TEXTS[1:]
    queries = encode(reference, ["search query: " + text for text in some])
    documents = encode(reference, ["text of the record: " + text for text in some])
    np.testing.assert_allclose(model.encode_queries(some), queries, atol=1e-5)
    np.testing.assert_allclose(model.encode_documents(some), documents, atol=1e-5)
    assert model.max_length == encoder.max_length - 5  # text of the record :


def test_unknown_name_is_a_clear_error(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/no-such-model' cannot be loaded as SentenceTransformer"):
        load_sentence_transformer("nobody/no-such-model", device="cpu")


def test_folder_without_a_model_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be loaded as SentenceTransformer"):
        load_sentence_transformer(str(tmp_path), device="cpu")


def test_model_with_another_similarity_is_refused(tmp_path, folder):
    copy = tmp_path / "euclidean"
    shutil.copytree(folder, copy)
    (copy / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "euclidean"}))
    with pytest.raises(ModelError, match="'euclidean'; an index needs 'cosine' or 'dot'"):
        load_sentence_transformer(str(copy), device="cpu")


def test_dot_product_model_keeps_its_lengths(tmp_path, folder):
    copy = tmp_path / "dot"
    shutil.copytree(folder, copy)
    (copy / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "dot"}))
    model = load_sentence_transformer(str(copy), device="cpu")
    lengths = np.linalg.norm(model.encode_documents(["Cats purr."]), axis=1)
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(copy), device="cpu").encode(["Cats purr."], normalize_embeddings=False)
    np.testing.assert_allclose(lengths, np.linalg.norm(plain, axis=1), rtol=1e-5)
