"""GGUF files: what a name means, that loading gives what transformers gives, and what is refused."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoModel

from sightline import load_reranker
from sightline.documents import Document
from sightline.errors import InputError, MissingExtraError, ModelError, UnknownNameError
from sightline.models import gguf as module
from sightline.models.checkpoints import load_config, load_decoder, load_weights, revision_of
from sightline.models.gguf import find_gguf
from sightline.training import load_learner
from sightline.training.learner import TrainingList

from .gguf_files import CONTROL, LAYERS, WIDTH, write_folder, write_gguf

QUERY, TEXTS = "what do cats do", ["Iron rusts.", "Cats purr, and sleep a lot.", "Dogs bark.", "é 猫"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, file):
    return write_folder(tmp_path_factory.mktemp("gguf") / "folder", file)


def scores(name, **options):
    ranking = load_reranker(name, **options).rank(QUERY, TEXTS)
    return np.array([item.score for item in sorted(ranking, key=lambda item: item.index)])


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tiny.gguf", "a:b.gguf", "C:tiny.GGUF", "own/x:tiny.gguf", "one#two.gguf", "é ü.gguf"]
)
def test_a_file_that_is_there_is_itself(file, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, tmp_path / name)
    assert find_gguf(name).samefile(tmp_path / name)
    reranker = load_reranker(f"hf:{name}#icr-block")
    assert (reranker.name, reranker.layout, reranker.model) == (f"hf:{name}#icr-block", "icr-block", name)
    assert reranker.revision == revision_of(name, None) and len(reranker.revision) == 16


@given(st.text(min_size=1, max_size=30).filter(lambda text: not text.lower().endswith(".gguf")))
@settings(max_examples=50)
def test_other_names_mean_no_file(name):
    assert find_gguf(name + "x") is None


@pytest.mark.parametrize(
    "name", ["none.gguf", "/none/x.gguf", "C:\\models\\x.gguf", "C:/models/x.gguf", "\\\\host\\x.gguf", "a/b/c:x.gguf"]
)
def test_paths_are_not_asked_of_the_hub(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no such file.*REPOSITORY:FILE"):
        find_gguf(name)
    with pytest.raises(ModelError, match="no such file"):
        load_reranker(f"hf:{name}#icr")


def test_a_file_of_the_hub(monkeypatch, file):
    asked = []

    def hf_hub_download(repository, name, *, revision=None):
        asked.append((repository, name, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert find_gguf("bartowski/X-GGUF:sub/X-Q4_K_M.gguf", "v1") == file
    assert asked == [("bartowski/X-GGUF", "sub/X-Q4_K_M.gguf", "v1")]
    reranker = load_reranker("hf:bartowski/X-GGUF:X-Q4_K_M.gguf#icr-block")
    assert reranker.name == "hf:bartowski/X-GGUF:X-Q4_K_M.gguf#icr-block"
    assert reranker.revision == revision_of(str(file), None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EntryNotFoundError("404"), "the repository has no such file"),
        (LocalEntryNotFoundError("offline"), "not in the hub cache, and the hub cannot be reached"),
        (OSError("disk full"), "disk full"),
    ],
)
def test_what_the_hub_does_not_give_is_told(monkeypatch, error, said):
    def hf_hub_download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(ModelError, match=f"'owner/name:x.gguf'.*{said}"):
        load_config("owner/name:x.gguf")


def test_a_repository_that_is_not_there_is_told(monkeypatch):
    def hf_hub_download(*args, **kwargs):
        raise RepositoryNotFoundError("no such repository", response=_Response())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    with pytest.raises(ModelError, match="no such repository"):
        find_gguf("owner/name:x.gguf")


class _Response:
    headers, request, status_code = {}, None, 404


def test_a_file_without_hf_says_how_it_is_written(file):
    with pytest.raises(UnknownNameError, match=f"write 'hf:{file}'"):
        load_reranker(str(file))
    assert load_reranker(str(file), layout="icr-block").name == f"{file}#icr-block"


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["icr", "icr-block", "blockrank"])
def test_scores_are_those_of_the_model_that_was_converted(file, folder, layout):
    from_file = scores(f"hf:{file}#{layout}", dtype="float32")  # a quantized file's own default has 16 bits
    from_folder = scores(f"hf:{folder}#{layout}")
    assert np.ptp(from_file) > 1e-4
    np.testing.assert_allclose(from_file, from_folder, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("layers", [1, 2, None])
def test_weights_are_those_that_transformers_loads_by_itself(tmp_path, layers):
    file = write_gguf(tmp_path / "quantized.gguf", quantized=("attn_q", "ffn_down", "token_embd"))
    model, tokenizer = load_weights(str(file), layers=layers)
    plain = AutoModel.from_pretrained(str(tmp_path), gguf_file=file.name, dtype=torch.float32).state_dict()
    own = model.state_dict()
    kept = {name for name in plain if not name.startswith("layers.") or int(name.split(".")[1]) < (layers or LAYERS)}
    assert set(own) == kept and all(torch.equal(own[name], plain[name]) for name in kept)
    assert model.dtype == torch.float32 and model.config.num_hidden_layers == (layers or LAYERS)
    assert tokenizer.is_fast and tokenizer.chat_template and tokenizer.eos_token == CONTROL[0]


def test_layers_above_are_not_dequantized(file, monkeypatch):
    sizes = []
    dequantize = gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda data, kind: sizes.append(data.size) or dequantize(data, kind))
    load_decoder(str(file), signal_layer=0)
    low = len(sizes)
    load_decoder(str(file))
    assert (len(sizes) - low - 2) == LAYERS * (low - 2)  # two are of no layer


def test_the_number_format_is_chosen(file):
    assert load_decoder(str(file), dtype="bfloat16").dtype == torch.bfloat16
    model, _ = load_weights(str(file), head=True)
    assert model.get_output_embeddings().weight.dtype == torch.float32
    with pytest.raises(InputError, match="leave quantization_config out"):
        load_decoder(str(file), quantization_config=object())


def test_the_file_is_parsed_once_for_each_version(file, tmp_path, monkeypatch):
    copy = tmp_path / "copy.gguf"
    shutil.copy(file, copy)
    parsed = []
    monkeypatch.setattr(module, "_parse", lambda path, parse=module._parse: parsed.append(path) or parse(path))
    load_config(str(copy)).num_hidden_layers = 7  # the caller's own
    load_decoder(str(copy), signal_layer=1)
    assert load_config(str(copy)).num_hidden_layers == LAYERS and parsed == [copy]
    os.utime(copy, ns=(1, 1))
    load_config(str(copy))
    assert parsed == [copy, copy]


def test_what_is_replaced_while_loading_is_put_back(file, tmp_path):
    own = gguf.GGUFReader, gguf.get_tensor_name_map
    with ThreadPoolExecutor(4) as pool:
        revisions = set(pool.map(lambda _: load_decoder(str(file)).revision, range(8)))
    assert len(revisions) == 1 and (gguf.GGUFReader, gguf.get_tensor_name_map) == own
    broken = write_gguf(tmp_path / "broken.gguf", without=("attn_q",))
    with pytest.raises(ModelError, match="3 of its weights are missing, such as 'layers.0.self_attn.q_proj.weight'"):
        load_decoder(str(broken))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own


def test_the_revision_is_of_the_content(file, tmp_path):
    copy = tmp_path / file.name
    shutil.copy(file, copy)
    assert revision_of(str(copy), None) == revision_of(str(file), None)
    with copy.open("r+b") as opened:
        opened.seek(-3, 2)
        opened.write(b"\x01")
    assert revision_of(str(copy), None) != revision_of(str(file), None)


@pytest.mark.parametrize("lora", [None, 2])
def test_what_is_learnt_from_a_file_is_saved_and_loaded(file, tmp_path, lora):
    learner = load_learner(f"hf:{file}", layout="icr-block", lora=lora)
    documents = tuple(Document(str(i), text) for i, text in enumerate(TEXTS))
    output = learner([TrainingList(QUERY, documents, (False, True, False, False))])
    output.scores[0][1].backward()
    with torch.no_grad():
        for parameter in learner.parameters().values():
            parameter += 0.1 * parameter.grad.sign()
    learner.save(tmp_path / "learnt")
    config = json.loads((tmp_path / "learnt" / "config.json").read_text())
    assert config["model_type"] == "llama" and config["hidden_size"] == WIDTH and "quantization_config" not in config
    learnt = scores(f"hf:{tmp_path / 'learnt'}")
    np.testing.assert_allclose(learnt, [item.score for item in _in_order(learner.reranker())], rtol=1e-4, atol=1e-7)
    assert np.abs(learnt - scores(f"hf:{file}#icr-block")).max() > 1e-4


def _in_order(reranker):
    return sorted(reranker.rank(QUERY, TEXTS), key=lambda item: item.index)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 not this", b"\x80\x04."])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.gguf': it is not a GGUF file"):
        load_reranker(f"hf:{tmp_path / 'x.gguf'}")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(file, tmp_path, share):
    content = file.read_bytes()
    (tmp_path / "x.gguf").write_bytes(content[: 4 + int(share * len(content))])
    with pytest.raises(ModelError, match="cut off or damaged"):
        load_reranker(f"hf:{tmp_path / 'x.gguf'}")


@pytest.mark.parametrize("name", ["x-00001-of-00003.gguf", "X-00002-OF-00003.GGUF"])
def test_a_part_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF")
    for given_name in (str(tmp_path / name), f"owner/name:{name}"):
        with pytest.raises(ModelError, match=r"part . of 3.*--merge"):
            load_config(given_name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"extra": lambda writer: writer.add_uint16("split.count", 2)}, "one of 2 parts"),
        ({"architecture": "clip"}, "no language model, but 'clip'"),
        ({"extra": lambda writer: writer.add_type("mmproj")}, "no language model, but 'mmproj'"),
        ({"extra": lambda writer: writer.add_type("adapter")}, "no language model, but 'adapter'"),
        ({"tokenizer": False}, "there is no tokenizer"),
        ({"architecture": "plamo9"}, "architecture plamo9 is not supported"),
    ],
)
def test_what_is_no_model_that_can_be_loaded_is_refused(tmp_path, options, said):
    file = write_gguf(tmp_path / "x.gguf", **options)
    with pytest.raises(ModelError, match=said):
        load_config(str(file))


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_without_the_extra_its_name_is_told(file, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"'{missing}' is not installed.*sightline-search\[gguf\]"):
        load_reranker(f"hf:{file}")
