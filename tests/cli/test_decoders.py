"""Decoders from the command line: heads are found, kept, and used by every command."""

import json
from pathlib import Path

import pytest
import yaml

from sightline.eval.trec import parse_qrels, parse_run
from sightline.recipes.tiny_decoder import TINY_DECODER
from sightline.recipes.tiny_decoder.lists import write_lists


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    write_lists(folder, queries=12, count=8)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))


def reranked(run, lists, out, layout):
    name = f"hf:{TINY_DECODER}#{layout}"
    return run("rerank", "--data", lists, "--run", lists / "run.trec", "--out", out, "--rerank", name)


def right(lists, path):
    gold = parse_qrels(lists / "qrels" / "test.tsv")
    ranked = parse_run(path)
    return sum(max(scores, key=scores.get) in gold[query] for query, scores in ranked.items()) / len(gold)


def test_heads_are_found_kept_and_used(run, lists, tmp_path):
    code, _, err = reranked(run, lists, tmp_path / "none.trec", "qrhead")
    assert code == 5
    assert "sightline heads" in err
    call = ["heads", TINY_DECODER, "--data", lists, "--split", "test", "--run", lists / "run.trec", "--candidates", 8]
    code, out, _ = run(*call, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["queries"] == 12 and len(report["best"]) == 16
    kept = yaml.safe_load(Path(report["file"]).read_text())
    assert kept["layout"] == "qrhead" and kept["best"][:4] == report["best"][:4]
    assert Path(report["picture"]).read_text().startswith("<svg")
    assert run(*call, "--json")[1] == out  # the same again
    code, out, _ = run(*call, "--data", lists, "--words", 2, "--queries", 5, "--out", tmp_path / "two.yaml", "--json")
    assert code == 0 and json.loads(out)["queries"] == 5  # three and two
    assert (
        yaml.safe_load((tmp_path / "two.yaml").read_text())["data"] == "lists0/test, lists0/test, 2 words of each text"
    )
    code, out, _ = run(*call, "--method", "core")
    assert code == 0 and "best heads by core" in " ".join(out.split())
    # The layout asks for sixteen heads, all that there are; these four are the ones that retrieve.
    heads = tmp_path / "layout.yaml"
    from sightline import load_layout

    heads.write_text(yaml.safe_dump(load_layout("qrhead", name="four", heads="qr:4").as_dict()))
    code, _, _ = reranked(run, lists, tmp_path / "four.trec", heads)
    assert code == 0
    assert right(lists, tmp_path / "four.trec") >= 0.9


@pytest.mark.parametrize("layout", ["icr", "icr-block", "blockrank"])
def test_a_run_is_reranked_by_a_decoder(run, lists, tmp_path, layout):
    code, out, _ = reranked(run, lists, tmp_path / "out.trec", layout)
    assert code == 0
    assert f"reranked by hf:{TINY_DECODER}#{layout}" in out
    assert right(lists, tmp_path / "out.trec") >= 0.9


def test_systems_name_model_and_layout(run, lists, tmp_path):
    systems = f"given,given+hf:{TINY_DECODER}#icr,given+hf:{TINY_DECODER}#icr-block"
    options = ["--run", f"given={lists / 'run.trec'}", "--out", tmp_path / "out", "--measures", "RR@10", "--json"]
    code, out, _ = run("eval", lists, "--systems", systems, *options)
    assert code == 0
    values = list(json.loads(out)["systems"].values())
    assert values[0]["RR@10"] < 0.6 < 0.9 < min(values[1]["RR@10"], values[2]["RR@10"])


def test_search_and_its_evidence_by_a_decoder(run, lists, tmp_path):
    assert run("index", lists / "corpus.jsonl", "--out", tmp_path / "index")[0] == 0
    query = json.loads((lists / "queries.jsonl").read_text().splitlines()[0])["text"]
    options = ["--rerank", f"hf:{TINY_DECODER}#icr-block", "--first-stage", "bm25"]
    options += ["--candidates", 8, "--evidence"]
    code, out, _ = run("search", tmp_path / "index", query, *options, "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["reranker"] == f"hf:{TINY_DECODER}#icr-block"
    assert query.split()[-1] in answer["hits"][0]["text"]
    assert answer["hits"][0]["evidence"]


def test_an_index_keeps_what_a_decoder_reads(run, lists, tmp_path, monkeypatch):
    name, index = f"hf:{TINY_DECODER}#icr-block", tmp_path / "index"
    monkeypatch.chdir(TINY_DECODER.parent)
    relative = f"hf:./{TINY_DECODER.name}#icr-block"
    lines = (lists / "corpus.jsonl").read_text().splitlines()
    (tmp_path / "first.jsonl").write_text("\n".join(lines[:-2]))
    (tmp_path / "rest.jsonl").write_text("\n".join(lines[-2:]))
    options = ["--encoder", "none", "--decoder-states", relative, "--decoder-form", "fp16"]
    assert run("index", tmp_path / "first.jsonl", "--out", index, *options)[0] == 0
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("add", index, tmp_path / "rest.jsonl", "--json")
    assert code == 0 and json.loads(out)["documents"] == len(lines)
    code, out, _ = run("info", index, "--json")
    kept = json.loads(out)["settings"]["decoder_states"]
    assert kept["kind"] == "fp16" and kept["reading"]["name"] == name
    assert json.loads(out)["files"]["decoder.fp16"] > 0
    query = json.loads((lists / "queries.jsonl").read_text().splitlines()[0])["text"]
    code, out, _ = run("search", index, query, "--rerank", name)
    assert code == 0 and "read anew" not in " ".join(out.split())
    assert query.split()[-1] in out
    code, out, _ = run("search", index, query, "--rerank", f"hf:{TINY_DECODER}#blockrank-cached")
    assert code == 0
    text = " ".join(out.split())
    assert f"cannot use the decoder states of {name}" in text and "--decoder-states hf:" in text
    code, _, err = run("index", tmp_path / "first.jsonl", "--out", tmp_path / "other", "--decoder-states", "minilm")
    assert code != 0 and "takes a reranker by a decoder" in " ".join(err.split())


def test_a_decoder_is_trained_and_its_folder_is_taken_by_every_command(run, lists, tmp_path):
    """Above the layer that the shipped weights were trained at, attention finds nothing: there adapters learn to."""
    from sightline import load_layout

    layout = tmp_path / "layout.yaml"
    layout.write_text(yaml.safe_dump(load_layout("blockrank", layers=3).as_dict()))
    write_lists(tmp_path / "learn.jsonl", queries=240, count=4, seed=5)
    command = ["train", f"hf:{TINY_DECODER}", tmp_path / "learn.jsonl", "--layout", layout, "--lora", 16, "--lr", 3e-3]
    command += ["--documents", "2-4", "--steps", 30, "--evaluate-every", 0, "--out", tmp_path / "made", "--json"]
    code, out, _ = run(*command, "--dev", f"{lists}:test", "--dev-run", f"{lists.name}={lists / 'run.trec'}")
    assert code == 0
    start, end = (past["mean"] for past in json.loads(out)["history"])
    assert start < 0.6  # of eight documents one answers, in any order: .5
    assert end > 0.95
    trained = f"hf:{tmp_path / 'made'}"
    code, out, _ = run(
        "rerank", "--data", lists, "--run", lists / "run.trec", "--out", tmp_path / "out.trec", "--rerank", trained
    )
    assert code == 0 and f"reranked by {trained}" in out
    assert right(lists, tmp_path / "out.trec") >= 0.9
    options = ["--run", f"given={lists / 'run.trec'}", "--out", tmp_path / "out", "--measures", "P@1", "--json"]
    code, out, _ = run("eval", lists, "--systems", f"given,given+{trained}", *options)
    assert code == 0
    values = list(json.loads(out)["systems"].values())
    assert values[0]["P@1"] < 0.5 and values[1]["P@1"] >= 0.9
    assert run("index", lists / "corpus.jsonl", "--out", tmp_path / "index")[0] == 0
    query = json.loads((lists / "queries.jsonl").read_text().splitlines()[0])["text"]
    options = ["--rerank", trained, "--first-stage", "bm25", "--candidates", 8, "--json"]
    code, out, _ = run("search", tmp_path / "index", query, *options)
    assert code == 0
    assert query.split()[-1] in json.loads(out)["hits"][0]["text"]
