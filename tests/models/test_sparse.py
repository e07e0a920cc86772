"""Learned sparse encoders give what sentence-transformers gives, and those that are not trained are refused."""

import concurrent.futures
import shutil

import numpy as np
import pytest

from sightline.errors import ModelError
from sightline.models.sparse import SparseVectors, load_sparse_encoder

from .model_folders import SENTENCES, sparse_encoder

TEXTS = [*SENTENCES, "", "cats " * 300, "Iron."]
QUERIES = ["who purrs at strangers?", "iron rusts"]


@pytest.fixture(scope="module", params=["splade", "inference-free", "cosine"])
def saved(request, tmp_path_factory):
    return sparse_encoder(
        tmp_path_factory.mktemp("sparse"),
        inference_free=request.param == "inference-free",
        similarity="cosine" if request.param == "cosine" else "dot",
        prompts={"query": "find ", "document": "text "} if request.param == "splade" else None,
    )


def dense(vectors, dim):
    out = np.zeros((len(vectors), dim))
    for row in range(len(vectors)):
        own = slice(vectors.offsets[row], vectors.offsets[row + 1])
        assert (np.diff(vectors.terms[own]) > 0).all()
        out[row, vectors.terms[own]] = vectors.weights[own]
    return out


def test_products_are_the_similarity_of_sentence_transformers(saved):
    from sentence_transformers import SparseEncoder

    theirs = SparseEncoder(str(saved), device="cpu")
    expected = theirs.similarity(theirs.encode_query(QUERIES), theirs.encode_document(TEXTS)).numpy()
    encoder = load_sparse_encoder(str(saved), device="cpu")
    queries, documents = encoder.encode_queries(QUERIES), encoder.encode_documents(TEXTS)
    assert 0 < len(documents.terms) < 0.5 * encoder.dim * len(TEXTS)
    found = dense(queries, encoder.dim) @ dense(documents, encoder.dim).T
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert encoder.max_length == 128 and len(encoder.revision) == 16


def test_a_text_has_one_vector_whatever_it_is_read_with(saved):
    encoder = load_sparse_encoder(str(saved), device="cpu")
    together = dense(encoder.encode_documents(TEXTS), encoder.dim)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # and whoever reads beside it
        alone = list(pool.map(lambda text: dense(encoder.encode_documents([text]), encoder.dim)[0], TEXTS))
    assert np.array(alone) == pytest.approx(together, rel=1e-4, abs=1e-5)
    assert len(encoder.encode_documents([])) == 0


def test_a_model_that_is_no_trained_sparse_encoder_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved = sparse_encoder(tmp_path)
    shutil.copytree(tmp_path / "backbone", tmp_path / "no_head")
    weights = load_file(tmp_path / "no_head" / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("cls.")}
    save_file(kept, tmp_path / "no_head" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="is not a trained SparseEncoder"):
        load_sparse_encoder(str(tmp_path / "no_head"))
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded as SparseEncoder"):
        load_sparse_encoder(str(saved))
    with pytest.raises(ModelError, match="no such folder"):
        load_sparse_encoder(str(tmp_path / "missing"))


def test_sparse_vectors_of_dense_ones():
    array = np.random.default_rng(0).random((4, 7)).astype(np.float32)
    array[array < 0.5] = 0
    array[2] = 0
    assert dense(SparseVectors.of(array), 7) == pytest.approx(array)
    assert len(SparseVectors.of(np.zeros((0, 7), np.float32))) == 0


@pytest.mark.parametrize(
    "fault", ["table", "table size", "network", "pooling", "tokenizer", "one tokenizer", "modules", "empty"]
)
def test_a_damaged_model_is_refused_with_what_is_wrong(tmp_path, fault):
    from safetensors.torch import load_file, save_file

    saved = sparse_encoder(tmp_path, inference_free=True)
    [table] = saved.rglob("*SparseStaticEmbedding/model.safetensors")
    if fault == "table":
        table.unlink()
    elif fault == "table size":
        save_file({"weight": load_file(table)["weight"][:-5]}, table)
    elif fault == "network":
        [network] = saved.rglob("*Transformer/model.safetensors")
        network.write_bytes(network.read_bytes()[:999])
    elif fault == "pooling":
        [config] = saved.rglob("*SpladePooling/config.json")
        config.write_text('{"pooling_strategy": "median"}')
    elif fault == "tokenizer":
        for file in [*saved.rglob("tokenizer.json"), *saved.rglob("vocab*")]:
            file.unlink()
    elif fault == "one tokenizer":
        folder = next(saved.glob("document_0*"))
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    elif fault == "modules":
        (saved / "modules.json").write_text("[1]")
    else:
        shutil.rmtree(saved)
        saved.mkdir()
    with pytest.raises(ModelError) as caught:
        load_sparse_encoder(str(saved))
    assert str(saved) in str(caught.value)
