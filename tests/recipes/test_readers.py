"""Block readers side by side: figures are those of a searcher, files are taken up, other rerankers are refused."""

import json

import pytest

from sightline.errors import InputError
from sightline.eval import evaluate
from sightline.eval.loading import load_dataset
from sightline.recipes import readers

from .test_fusion import collection as tiny  # noqa: F401 - a fixture


def test_every_system_has_figures_and_a_second_run_adds_what_is_missing(tiny, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("faiss")
    out = tmp_path / "figures.json"
    options = {"work": tmp_path / "work", "queries": 2, "candidates": 3, "out": out}
    readers.study([f"{tiny}:dev"], system=["minilm@fp16"], **options)
    rows = json.loads(out.read_text())["collections"]["tiny"]
    first = dict(rows["minilm@fp16"])
    readers.study([f"{tiny}:dev"], system=["minilm@fp16", "minilm-maxsim@int8"], **options)
    rows = json.loads(out.read_text())["collections"]["tiny"]
    assert list(rows) == ["hybrid", "minilm@fp16", "minilm-maxsim@int8"] and rows["minilm@fp16"] == first
    assert first["bytes"] / rows["minilm-maxsim@int8"]["bytes"] == pytest.approx(772 / 392)
    dataset = load_dataset(tiny, "dev")
    expected = evaluate(["hybrid", "hybrid+minilm"], dataset, ["nDCG@10"], candidates=3).systems
    assert rows["hybrid"]["mean"] == pytest.approx(expected["hybrid"]["nDCG@10"])
    assert first["mean"] == pytest.approx(expected["hybrid+minilm"]["nDCG@10"])
    assert first["ms"] > 0 and "minilm-maxsim@int8" in capsys.readouterr().out
    with pytest.raises(InputError, match="other settings"):
        readers.study([f"{tiny}:dev"], system=["minilm@fp16"], **{**options, "candidates": 2})


def test_what_reads_no_states_is_refused(tiny, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="RERANKER@FORM"):
        readers.ReaderSystem.parse("minilm")
    systems = [readers.ReaderSystem("cross-encoder:mine", "int8")]
    with pytest.raises(InputError, match="reads no token states"):
        list(readers.compare_readers(load_dataset(tiny, "dev"), tmp_path, systems))
