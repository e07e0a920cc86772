"""Head detection: its criteria, its file, and that it finds a head that was planted."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline import Document, load_layout, load_reranker
from sightline.errors import InputError, ModelError
from sightline.eval.metrics import measure_rankings
from sightline.rerank.decoder import DecoderReranker, load_decoder
from sightline.rerank.detection import core_score, detect_heads, ndcg_score, qr_score
from sightline.rerank.heads import Heads, find_heads, heads_path, shipped_heads

FIELDS = {
    "model": "m",
    "revision": "r",
    "layout": "qrhead",
    "fingerprint": "f",
    "method": "qr",
    "data": "d",
    "queries": 3,
    "candidates": 4,
    "seed": 0,
    "temperature": None,
    "scores": ((0.1, 0.5), (0.3, 0.5)),
}


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(0, 1000))
def test_ndcg_by_head_is_that_of_the_evaluation_tool(heads, grades, seed):
    if not any(grades):
        grades[0] = 1
    scores = np.random.default_rng(seed).permutation(heads * len(grades)).reshape(heads, -1).astype(float)
    qrels = {"q": {str(i): grade for i, grade in enumerate(grades)}}
    for row, ndcg in zip(scores, ndcg_score(scores, np.array(grades, dtype=float)), strict=True):
        order = [str(i) for i in np.argsort(-row)]
        assert ndcg == pytest.approx(measure_rankings(qrels, {"q": order}, ["nDCG@10"])[0]["nDCG@10"])


def test_core_is_the_softmax_of_each_gold_document_against_all_negatives():
    scores, gold = np.array([[0.2, 0.1, 0.05], [0.0, 0.3, 0.2]]), np.array([True, False, True])
    expected = []
    for row in np.exp(scores / 0.1):
        expected.append(np.mean([row[i] / (row[i] + row[1]) for i in (0, 2)]))
    np.testing.assert_allclose(core_score(scores, gold, 0.1), expected)
    assert np.isfinite(core_score(scores, gold, 1e-6)).all()
    np.testing.assert_allclose(qr_score(scores, gold), [0.25, 0.2])


def test_best_heads_come_first_and_ties_by_place():
    heads = Heads(**FIELDS)
    assert heads.top(3) == ("0-1", "1-1", "1-0")
    with pytest.raises(InputError, match="4 heads"):
        heads.top(5)


def test_the_file_reads_back_and_the_picture_shows_every_head(tmp_path):
    heads = Heads(**FIELDS | {"data": '<hostile> & "co"'})
    heads.save(tmp_path / "deep" / "heads.yaml")
    assert Heads.load(tmp_path / "deep" / "heads.yaml") == heads
    root = ElementTree.parse(tmp_path / "deep" / "heads.svg").getroot()
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["0-0: 0.1", "0-1: 0.5", "1-0: 0.3", "1-1: 0.5"]


@pytest.mark.parametrize("text", ["", "a: 1", "[1, 2]", "a: [", "\x00"])
def test_what_is_no_file_of_heads_is_refused(tmp_path, text):
    path = tmp_path / "heads.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(str(path))):
        Heads.load(path)


@pytest.mark.parametrize(
    ("field", "value"), [("method", "magic"), ("scores", []), ("scores", [[1], [1, 2]]), ("scores", 3)]
)
def test_a_file_with_a_wrong_field_is_refused(tmp_path, field, value):
    path = tmp_path / "heads.yaml"
    path.write_text(yaml.safe_dump(FIELDS | {"scores": [[0.1]], field: value}))
    with pytest.raises(InputError, match="not a file of heads"):
        Heads.load(path)


def lists(count=6):
    words = "cats dogs iron rain purr bark sleep walks strangers rusts".split()
    for number in range(count):
        draw = np.random.default_rng(number)
        documents = [Document(str(i), " ".join(draw.choice(words, 5)) + f" {i}") for i in range(5)]
        yield f"{words[number]} {words[-number]}", documents, [2 if i == number % 5 else 0 for i in range(5)]


@pytest.mark.parametrize("method", ["qr", "core", "ndcg"])
def test_detection_is_reproducible_and_its_heads_are_found_again(model_of, method, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    folder = model_of("qwen3")
    layout = "core" if method == "core" else "qrhead"
    with pytest.raises(ModelError, match=f"sightline heads .* --layout {layout} --method"):
        load_reranker(folder, layout=layout)
    reranker = DecoderReranker(load_decoder(folder), load_layout(layout, heads="all", layers="all"))
    heads, same = (detect_heads(reranker, lists(), method, data="made up", seed=3) for _ in range(2))
    assert heads == same
    assert np.shape(heads.scores) == (4, 4)
    assert heads.queries == 6
    other = detect_heads(reranker, lists(), method, data="made up", seed=4)
    assert heads.scores != other.scores  # other shuffles
    heads.save(heads_path(heads.model, heads.revision, heads.fingerprint, method))
    count = 8 if layout == "core" else 16
    if method != "ndcg":  # which no shipped layout asks for
        assert load_reranker(folder, layout=layout).spec.readout.heads == heads.top(count)
    picky = DecoderReranker(folder, load_layout(layout, heads=f"{method}:2"))
    assert picky.spec.readout.heads == heads.top(2)


def test_a_file_of_another_model_or_layout_is_refused(model_of, tmp_path):
    folder = model_of("qwen3")
    reranker = DecoderReranker(load_decoder(folder), load_layout("qrhead", heads="all", layers="all"))
    detect_heads(reranker, lists(2), "qr", data="made up").save(tmp_path / "heads.yaml")
    with pytest.raises(InputError, match="revision"):
        load_reranker(model_of("llama"), layout="qrhead", heads=str(tmp_path / "heads.yaml"))
    with pytest.raises(InputError, match="method|layout"):
        load_reranker(folder, layout="core", heads=str(tmp_path / "heads.yaml"))
    with pytest.raises(InputError, match="layout"):
        load_reranker(folder, layout="qrhead", max_block_tokens=99, heads=str(tmp_path / "heads.yaml"))


def test_lists_that_tell_nothing_are_passed_over(model_of):
    reranker = DecoderReranker(load_decoder(model_of("qwen3")), load_layout("qrhead", heads="all", layers="all"))
    documents = [Document("a", "cats purr"), Document("b", "iron rusts")]
    with pytest.raises(InputError, match="none of the lists"):
        detect_heads(reranker, [("cats", documents, [1, 1]), ("cats", documents, [0, 0])], "qr", data="made up")
    with pytest.raises(InputError, match="magic"):
        detect_heads(reranker, [], "magic", data="made up")


def test_shipped_files_are_of_one_model_and_layout_each():
    shipped = shipped_heads()
    assert len({(heads.model, heads.layout, heads.method) for heads in shipped}) == len(shipped) >= 5
    for heads in shipped:
        layout = load_layout(heads.layout)
        assert heads.serves(layout), heads.model
        assert heads.is_of(heads.model) and heads.attribution
        method, _, count = layout.readout.heads.partition(":")
        assert method == heads.method and len(heads.top(int(count))) == int(count)


@pytest.mark.parametrize(
    "model",
    ["meta-llama/Llama-3.1-8B-Instruct", "models/llama-3.1-8b-instruct/", "x/y:Llama-3.1-8B-Instruct.Q4_K_M.gguf"],
)
def test_published_heads_are_found_by_the_models_name(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    layout = load_layout("qrhead")
    assert find_heads(None, layout, model, "any")[:2] == ("14-22", "13-16")
    assert find_heads(None, load_layout("qrhead", separator=" \n\n"), model, "any")[:2] == ("14-22", "13-16")
    for other in ("meta-llama/Llama-3.1-8B", "mine/Llama-3.1-8B-Instruct-tuned"):
        with pytest.raises(ModelError, match="none have been found"):
            find_heads(None, layout, other, "any")
    with pytest.raises(ModelError, match="none have been found"):
        find_heads(None, load_layout("core"), model, "any")
    with pytest.raises(InputError, match="the best 16 are known, not 17"):
        find_heads(None, load_layout("qrhead", heads="qr:17"), model, "any")


def test_heads_that_you_found_go_before_those_that_ship(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    model, layout = "meta-llama/Llama-3.2-1B-Instruct", load_layout("qrhead", heads="qr:2")
    own = Heads(**FIELDS | {"model": model, "fingerprint": layout.fingerprint})
    own.save(heads_path(model, "r", layout.fingerprint, "qr"))
    assert find_heads(None, layout, model, "r") == own.top(2)
    assert find_heads(None, layout, model, "other") == ("8-21", "8-14")


def test_a_file_without_scores_has_heads(tmp_path):
    published = Heads(**FIELDS | {"scores": (), "best": ("3-1", "0-2"), "candidates": None})
    published.save(tmp_path / "heads.yaml")
    assert Heads.load(tmp_path / "heads.yaml") == published
    assert not (tmp_path / "heads.svg").exists()
    for best in ((), ("3",), ("a-b",)):
        with pytest.raises(InputError):
            Heads(**FIELDS | {"scores": (), "best": best})
