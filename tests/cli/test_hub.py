"""Trained rerankers go to the hub and come back: against a hub that is a folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

from sightline import LateInteractionReranker, load_layout, load_reranker, push_to_hub
from sightline.errors import InputError, ModelError, UnknownNameError
from sightline.rerank.learnt import LearntReadout

DOCUMENTS = ["Cats purr when they are content.", "Dogs bark at strangers.", "Rust is iron oxide."]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Repositories by name and branch; ``reachable`` is whether they are found."""
    state = SimpleNamespace(root=tmp_path / "hub", reachable=True, private={})

    def place(repository, revision):
        folder = state.root / repository / (revision or "main")
        if not state.reachable:
            raise LocalEntryNotFoundError("cannot reach the hub")
        if not folder.is_dir():
            raise EntryNotFoundError(f"404: {repository} at {revision}")
        return folder

    def hf_hub_download(repository, file, *, revision=None):
        found = place(repository, revision) / file
        if not found.is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(found)

    def snapshot_download(repository, *, revision=None, **options):
        if options:
            raise LocalEntryNotFoundError("the default model comes from its package")
        return str(place(repository, revision))

    class HfApi:
        def create_repo(self, repository, *, private, exist_ok):
            if not state.reachable:
                raise httpx.ConnectError("[Errno -2] Name or service not known")
            if repository.startswith("others/"):
                asked = httpx.Request("POST", "https://hub")
                raise HfHubHTTPError("403 Forbidden: no right to write", response=httpx.Response(403, request=asked))
            assert exist_ok
            state.private.setdefault(repository, private)
            (state.root / repository / "main").mkdir(parents=True, exist_ok=True)

        def create_branch(self, repository, *, branch, exist_ok):
            assert exist_ok
            (state.root / repository / branch).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message, ignore_patterns):
            target = state.root / repo_id / (revision or "main")
            shutil.copytree(folder_path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignore_patterns))
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/{revision or 'main'}: {commit_message}")

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


@pytest.fixture
def trained():
    torch.manual_seed(0)
    readout = LearntReadout(["weights"], scale=20.0)
    return LateInteractionReranker(load_layout("minilm-log-mass", name="mine", readout="learnt"), readout=readout)


def scores(reranker):
    return {item.document.text: item.score for item in reranker.rank("what do cats do", DOCUMENTS)}


def test_what_is_pushed_is_what_comes_back(hub, trained):
    assert "me/mine/main: Sightline reranker, layout mine" in trained.push_to_hub("me/mine", private=True)
    assert hub.private == {"me/mine": True}
    back = load_reranker("hf:me/mine")
    assert (back.name, back.layout) == ("hf:me/mine", "mine")
    assert scores(back) == pytest.approx(scores(trained), abs=1e-3)  # weights are kept in half precision
    again = LateInteractionReranker.from_pretrained("me/mine", scale=30.0)
    assert again.spec.readout.scale == 30.0


def test_revisions_are_branches(hub, trained, tmp_path):
    trained.push_to_hub("me/mine")
    changed = LateInteractionReranker(
        load_layout("minilm-log-mass", name="other", readout="learnt"), readout=trained.learnt
    )
    changed.save_pretrained(tmp_path / "new" / "folder")
    push_to_hub(tmp_path / "new" / "folder", "me/mine", revision="v2")
    assert load_reranker("hf:me/mine").layout == "mine"
    assert load_reranker("hf:me/mine", revision="v2").layout == "other"


def test_a_runs_state_stays_at_home(hub, trained, tmp_path):
    trained.save_pretrained(tmp_path / "run")
    for name in ("state.pt", ".lock", "train.log"):
        (tmp_path / "run" / name).write_text("x")
    push_to_hub(tmp_path / "run", "me/mine")
    assert sorted(path.name for path in (hub.root / "me/mine/main").iterdir()) == ["layout.yaml", "model.safetensors"]


def test_a_folder_goes_before_the_hub(hub, trained, tmp_path, monkeypatch):
    trained.push_to_hub("me/mine")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(hub.root / "me/mine/main", Path("me/mine"))
    hub.reachable = False
    assert load_reranker("me/mine").layout == "mine"


def test_what_cannot_be_is_said(hub, trained, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="cannot write 'others/mine' on the hub: 403 Forbidden"):
        trained.push_to_hub("others/mine")
    for name in ("mine", "a/b/c", "../x/y", ""):
        with pytest.raises(InputError, match="is written OWNER/NAME"):
            trained.push_to_hub(name)
    with pytest.raises(InputError, match=r"there is no layout\.yaml, which sightline train writes"):
        push_to_hub(tmp_path, "me/mine")
    hub.reachable = False
    with pytest.raises(ModelError, match="cannot write 'me/mine' on the hub: .* not known"):
        trained.push_to_hub("me/mine")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="me/mine"):
        load_reranker("hf:me/mine")
    with pytest.raises(UnknownNameError, match="no such folder; if you mean"):
        load_reranker("me/mine")


def test_the_command_pushes_a_folder(hub, trained, tmp_path, run):
    trained.save_pretrained(tmp_path / "run")
    code, said, _ = run("push", tmp_path / "run", "me/mine", "--private", "--revision", "v1")
    assert code == 0 and said.startswith("https://hub/me/mine/v1") and hub.private == {"me/mine": True}
    code, said, _ = run("push", tmp_path / "run", "me/mine", "--json")
    assert code == 0 and json.loads(said)["commit"].startswith("https://hub/me/mine/main")
    code, _, error = run("push", tmp_path, "me/mine")
    assert code == 2 and "no layout.yaml" in error
