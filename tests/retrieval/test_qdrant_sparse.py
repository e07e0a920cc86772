"""Learned sparse vectors in Qdrant: the same results as in a folder, through changes, and with another model."""

import pickle
import shutil

import pytest

from sightline import Document, Index, Searcher
from sightline.benchmarks.stores import same_ranking
from sightline.errors import IndexMismatchError, InputError
from sightline.models import sparse

from ..models.model_folders import sparse_encoder
from .test_sparse_index import TEXTS, document

pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
pytest.importorskip("qdrant_client", reason="the extra qdrant is not installed")

from qdrant_client import QdrantClient

from sightline.retrieval.qdrant_store import QdrantStore


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_encoder(tmp_path_factory.mktemp("sparse"), inference_free=True)


@pytest.fixture(params=["edge", "client"])
def build(request, tmp_path):
    made = []

    def build(documents, name="store", **options):
        if request.param == "client":
            options["client"] = QdrantClient(":memory:")
        place = f"qdrant-edge:{tmp_path}" if request.param == "edge" else "qdrant://host"
        made.append(QdrantStore.build(f"{place}/{name}", documents, **options))
        return made[-1]

    yield build
    for store in made:
        store.close()


def lists(index, stage):
    searcher = Searcher(index, None, first_stage=stage, candidates=20)
    queries = ["cats at strangers", "the farmer", "grass shines", "?"]
    return [{id: score for id, (_, score) in found.first.items()} for found in searcher.candidates(queries)]


def test_searches_give_the_same_lists_as_a_folder_through_changes(build, tmp_path, toy, model):
    options = {"encoder": toy, "lexical": f"sparse:{model}", "max_tokens": 0}
    documents = [*map(document, range(5)), Document("empty", "")]
    with Index.build(tmp_path / "index", documents, **options) as local:
        store = build(documents, **options)
        assert store.manifest.lexical == local.manifest.lexical and store.counts() == local.counts()
        store.verify()
        for change in (
            lambda index: None,
            lambda index: index.add([document(5, "grass in the meadow")]),
            lambda index: index.update([document(1, "a star shines"), document(6, "cows at the farmer")]),
            lambda index: index.delete(["d0"]),
        ):
            for index in (local, store):
                change(index)
            for stage in ("sparse", "hybrid"):
                assert all(map(same_ranking, lists(local, stage), lists(store, stage)))
        with pytest.raises(InputError, match="keeps learned sparse vectors of .* in the place of BM25"):
            Searcher(store, None, first_stage="bm25").search("cats")
        assert Searcher(store, None).first_stage == "hybrid"


def test_another_model_is_refused_and_one_that_was_moved_is_taken(tmp_path, toy, model):
    name, moved = f"qdrant-edge:{tmp_path / 'store'}", shutil.copytree(model, tmp_path / "model")
    QdrantStore.build(name, [document(0)], encoder=toy, lexical=f"sparse:{moved}").close()
    elsewhere = shutil.move(moved, tmp_path / "elsewhere")
    sparse._load.cache_clear()
    with QdrantStore.open(name, encoder=toy, sparse_encoder=str(elsewhere)) as store:
        assert len(store.search_lexical(" ".join(TEXTS), 3)[0]) == 1
        with pickle.loads(pickle.dumps(store)) as again:
            assert len(again.search_lexical(" ".join(TEXTS), 3)[0]) == 1
    config = tmp_path / "elsewhere" / "config_sentence_transformers.json"
    config.write_text(config.read_text() + " ")
    sparse._load.cache_clear()
    with pytest.raises(IndexMismatchError, match="open it with its own, or build it again"):
        QdrantStore.open(name, encoder=toy, sparse_encoder=str(elsewhere))
    QdrantStore.build(f"{name}.bm25", [document(0)], encoder=toy).close()
    with pytest.raises(IndexMismatchError, match="keeps no learned sparse vectors"):
        QdrantStore.open(f"{name}.bm25", encoder=toy, sparse_encoder=str(model))
