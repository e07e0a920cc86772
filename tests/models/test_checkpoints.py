"""The number format that a decoder computes in, if none is asked for, and the revision of what was loaded."""

import json
import shutil

import pytest
import torch

from sightline.models import checkpoints
from sightline.models.checkpoints import load_decoder, revision_of
from sightline.models.trained import saved_revision
from sightline.recipes.tiny_decoder import TINY_DECODER


@pytest.fixture
def folder(tmp_path):
    def make(dtype):
        shutil.copytree(TINY_DECODER, tmp_path / dtype)
        config = json.loads((tmp_path / dtype / "config.json").read_text())
        config.pop("torch_dtype", None)
        (tmp_path / dtype / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
        return str(tmp_path / dtype)

    return make


@pytest.mark.parametrize(
    ("stored", "native", "computed"),
    [
        ("bfloat16", "bfloat16", torch.bfloat16),
        ("bfloat16", "float32", torch.float32),
        ("float16", "bfloat16", torch.float32),  # bfloat16 is coarser
        ("float32", "bfloat16", torch.float32),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_loses_nothing_and_gains_speed(monkeypatch, folder, stored, native, computed):
    monkeypatch.setattr(checkpoints, "native_dtype", lambda device: native)
    path = folder(stored)
    assert load_decoder(path, device="cpu", signal_layer=0).dtype == computed
    assert load_decoder(path, device="cpu", signal_layer=0, dtype="float32").dtype == torch.float32


class Config:
    def __init__(self, commit):
        self._commit_hash = commit


class Network(torch.nn.Module):
    def __init__(self, commit, *parts):
        super().__init__()
        self.config, self.parts = Config(commit), torch.nn.ModuleList(parts)


@pytest.mark.parametrize(
    ("loaded", "revision"),
    [
        (Config("c1"), "c1"),
        (Config(None), "main"),
        (Network("c2"), "c2"),
        (Network(None, torch.nn.Linear(1, 1), Network("c3"), Network("c4")), "c3"),
        (torch.nn.Linear(1, 1), "main"),
    ],
)
def test_the_revision_is_the_commit_that_the_hub_told_or_else_what_was_asked_for(loaded, revision, tmp_path):
    assert saved_revision("owner/name", loaded, "main") == revision_of("owner/name", loaded, "main") == revision
    (tmp_path / "config.json").write_text("{}")
    assert len(saved_revision(str(tmp_path), loaded, None)) == 16  # of a folder, a hash
