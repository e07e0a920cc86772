"""The examples run as they stand, and stay short."""

import json
import runpy
import sys
from pathlib import Path

import pytest

import sightline

_EXAMPLES = Path(sightline.__file__).parent / "examples"
_NEEDS = {"rag_langchain": "langchain_core", "rag_llamaindex": "llama_index.core", "rag_haystack": "haystack"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """What an example prints."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(_EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tested_and_short():
    examples = {path.stem: path.read_text(encoding="utf-8") for path in _EXAMPLES.glob("*.py")}
    assert set(examples) == {*_NEEDS, "rerank_run"}
    assert all(len(text.splitlines()) < 40 for text in examples.values())
    assert all("class EchoGenerator" in examples[name] for name in _NEEDS)
    assert all("stands in for a language model" in examples[name] for name in _NEEDS)


@pytest.mark.parametrize("name", _NEEDS)
def test_rag(run, name):
    pytest.importorskip(_NEEDS[name], reason=f"the extra for {_NEEDS[name]} is not installed")
    said = run(name)
    assert said.index("Iron rusts in wet air.") < min(said.index("Dogs bark"), said.index("Cats purr"))
    assert "why does iron rust?" in said


def test_rerank_run(run, tmp_path):
    texts = {"cat": "Cats purr when content.", "dog": "Dogs bark at strangers.", "iron": "Iron rusts in wet air."}
    for name, rows in (("corpus", texts), ("queries", {"q": "why does iron rust"})):
        lines = [json.dumps({"_id": id, "text": text}) for id, text in rows.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tiron\t1\n")
    given, out = tmp_path / "given.trec", tmp_path / "out.trec"
    given.write_text("q Q0 cat 1 3 x\nq Q0 dog 2 2 x\nq Q0 iron 3 1 x\n")
    assert run("rerank_run", tmp_path, given, out) == "given: nDCG@10 0.5000\nreranked: nDCG@10 1.0000\n"
    assert out.read_text().split()[:4] == ["q", "Q0", "iron", "1"]
