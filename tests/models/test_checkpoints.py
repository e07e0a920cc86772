"""The number format that a decoder computes in, if none is asked for."""

import json
import shutil

import pytest
import torch

from sightline.models import checkpoints
from sightline.models.checkpoints import load_decoder
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
