"""The manifest keeps its format: what was written before is loaded, byte for byte, and what is wrong is named."""

import copy

import pytest

from sightline.errors import IndexCorruptError
from sightline.retrieval.manifest import Manifest, _serialised

# The fields and their order as version 0.1.0 wrote them first, before manifests had types.
BUILT = {
    "encoder": {
        "name": "toy",
        "revision": "toy-1",
        "dim": 3,
        "max_length": 64,
        "options": {"device": None, "deep": {"a": [1, 2.5]}},
        "probe": [0.6, -0.0, 0.8],
    },
    "passages": {"max_tokens": 62, "overlap": 0},
    "faiss": {
        "factory": "HNSW8",
        "parameters": "",
        "version": "1.15.1",
        "device": "cpu",
        "file": "vectors-60.faiss",
        "rows": 60,
        "digest": "9402ebe902cdc87153c0f0fc79f45ebe",
        "trained": 60,
    },
    "lexical": {"engine": "fts5"},
    "token_states": {"kind": "int8", "model": "toy", "revision": "toy-1", "dim": 3, "max_length": 64},
    "complete": True,
    "counts": {"documents": 60, "passages": 60, "deleted_documents": 0},
    "store": {"counter": 7, "digest": "0f0837575054651a3ed33dd6833f13fd"},
    "sightline": "0.1.0",
    "format": 2,
}
BEGUN = BUILT | {
    "encoder": {"name": "none", "revision": "", "dim": 0, "max_length": 256, "options": {}, "probe": []},
    "faiss": {"factory": "Flat", "parameters": ""},
    "token_states": {"kind": "none"},
    "complete": False,
    "counts": {},
    "store": {},
}


@pytest.mark.parametrize("body", [BUILT, BEGUN], ids=["built", "begun"])
def test_manifest_of_before_is_loaded_and_saved_byte_for_byte(body, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(_serialised(body))
    before = path.read_bytes()
    manifest = Manifest.load(tmp_path)
    path.unlink()
    manifest.save(tmp_path)
    assert path.read_bytes() == before
    assert Manifest.load(tmp_path) == manifest
    assert (manifest.encoder.dim, manifest.faiss.file) == (body["encoder"]["dim"], body["faiss"].get("file"))


def test_settings_leave_out_what_came_of_them(tmp_path):
    (tmp_path / "manifest.json").write_bytes(_serialised(BUILT))
    settings = Manifest.load(tmp_path).settings()
    assert list(settings) == ["encoder", "passages", "faiss", "lexical", "token_states"]
    assert settings["faiss"] == {"factory": "HNSW8", "parameters": ""}
    assert settings["encoder"] == {name: value for name, value in BUILT["encoder"].items() if name != "probe"}
    assert settings["token_states"] == BUILT["token_states"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", {"dim": "3"}, r"the field encoder\.dim must be a valid integer, not '3'"),
        ("encoder", {"probe": [0.6, None]}, r"the field encoder\.probe\[1\] must be a valid number"),
        ("faiss", {"rows": True}, r"the field faiss\.rows must be a valid integer"),
        ("faiss", {"file": "../elsewhere"}, "the field faiss.file names a file elsewhere"),
        ("faiss", {"strange": 1}, r"has a field 'faiss\.strange', which is not one it can have"),
        ("token_states", {"dim": None}, "the field token_states lacks the model, its revision, dim or max_length"),
        ("store", {"counter": "7"}, r"the field store\.counter must be a valid integer"),
    ],
)
def test_wrong_field_is_named_with_the_file_and_what_to_do(part, change, message, tmp_path):
    body = copy.deepcopy(BUILT)
    body[part] |= change
    (tmp_path / "manifest.json").write_bytes(_serialised(body))
    with pytest.raises(IndexCorruptError, match=rf"manifest\.json: {message}.*restore the index from a copy"):
        Manifest.load(tmp_path)
