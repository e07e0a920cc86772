"""Evaluation in memory, and results that go into a folder and come back."""

import dataclasses
import json
import subprocess
import sys

import pytest

from sightline.documents import Document
from sightline.errors import DataError, InputError
from sightline.eval import Dataset, evaluate, load_results, write_report
from sightline.eval.experiment import save_with_report
from sightline.retrieval.index import Index
from sightline.search import Searcher

DOCUMENTS = [Document("cat", "The cat purrs."), Document("dog", "The dog barks."), Document("cow", "The cow moos.")]
RUN = {"q1": {"dog": 2.0, "cat": 1.0}, "q2": {"dog": 1.0}}


@pytest.fixture
def dataset():
    queries = {"q1": "who purrs", "q2": "who barks", "q3": "nobody judged this"}
    return Dataset.in_memory(DOCUMENTS, queries, {"q1": {"cat": 1}, "q2": {"dog": 1}})


@pytest.fixture(autouse=True)
def toy_everywhere(monkeypatch, toy):
    from sightline.eval import systems
    from sightline.rerank import LateInteractionReranker, load_layout
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(systems, "load_reranker", lambda name: LateInteractionReranker(load_layout(name), reader=toy))
    monkeypatch.setattr(toy, "name", "minilm")


def test_systems_are_measured_in_memory(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = evaluate(["bm25", "dense+minilm"], dataset, ["RR", "R@1"])
    assert results.systems["bm25"] == {"RR": 1.0, "R@1": 1.0}
    assert list(results.per_query["dense+minilm"]) == ["q1", "q2"]
    assert results.runs["bm25"]["q1"].keys() == {"cat"}
    assert results.summary.index.counts["documents"] == 3 and results.summary.dataset == "in memory"
    assert list(tmp_path.iterdir()) == []


def test_runs_searchers_and_functions_are_systems_too(dataset, tmp_path):
    def shouting(query):
        return {"cow": 1.0, "cat" if "purrs" in query else "dog": 2.0}

    with Index.build(tmp_path / "index", DOCUMENTS) as index:
        results = evaluate(
            {
                "mine": RUN,
                "mine+minilm": "mine+minilm",
                "searcher": Searcher(index, None, first_stage="bm25"),
                "function": shouting,
                "again": "bm25",
            },
            dataset,
            ["RR"],
        )
    assert list(results.systems) == ["mine", "mine+minilm", "searcher", "function", "again"]
    assert results.systems["mine"] == {"RR": 0.75} and results.systems["mine+minilm"] == {"RR": 1.0}
    assert results.runs["searcher"] == results.runs["again"]
    assert list(results.runs["function"]["q1"]) == ["cat", "cow"] and results.systems["function"] == {"RR": 1.0}
    assert {(pair.a, pair.b) for pair in results.pairs} == {("mine+minilm", "mine")}


def test_a_function_is_cut_at_the_depth_by_its_scores(dataset):
    results = evaluate({"all": lambda query: {"cow": 1.0, "dog": 3.0, "cat": 2.0}}, dataset, ["RR"], candidates=2)
    assert {id: list(scores) for id, scores in results.runs["all"].items()} == {
        "q1": ["dog", "cat"],
        "q2": ["dog", "cat"],
    }


def test_what_is_no_system_is_refused(dataset):
    with pytest.raises(InputError, match="named by a text"):
        evaluate({"odd": 7}, dataset)
    with pytest.raises(InputError, match="at least one system"):
        evaluate({}, dataset)
    with pytest.raises(InputError, match="both be called 'a_b'"):
        evaluate({"a/b": RUN, "a:b": RUN}, dataset)


def test_results_come_back_from_their_folder(dataset, tmp_path):
    results = evaluate({"mine": RUN, "bm25": "bm25", "nothing": {"q1": {}, "q2": {}}}, dataset)
    results.save(tmp_path / "out")
    again = load_results(tmp_path / "out")
    assert again == dataclasses.replace(results, runs={**results.runs, "nothing": {}})
    assert load_results(tmp_path / "out", runs=False) == dataclasses.replace(results, runs={})
    again.save(tmp_path / "copy")
    for file in ("results.json", "per_query.json", "mine.trec"):
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_run_that_was_removed_is_missed(dataset, tmp_path):
    evaluate({"mine": RUN}, dataset).save(tmp_path)
    (tmp_path / "mine.trec").unlink()
    with pytest.raises(DataError, match=r"mine\.trec: the run of the system 'mine' is missing"):
        load_results(tmp_path)


def test_a_report_of_what_is_in_memory_is_that_of_what_was_saved(dataset, tmp_path):
    results = evaluate({"mine": RUN, "function": lambda query: {"cat": 1.0}}, dataset)
    results.save(tmp_path / "saved")
    files = [
        write_report([reported], tmp_path / name)
        for name, reported in (("a", results), ("b", load_results(tmp_path / "saved")))
    ]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert len(files[0]) == 3 and not (tmp_path / "a" / "results.json").exists()


def test_biases_that_are_in_the_folder_are_in_its_report(dataset, tmp_path):
    row = {"system": "mine", "length_tau": {"mean": 0.125, "low": 0.0, "high": 0.25}}
    (tmp_path / "bias.json").write_text(json.dumps({"version": 1, "documents": [row]}))
    results = save_with_report(evaluate({"mine": RUN}, dataset), tmp_path)
    assert results.bias.as_json()["documents"] == [{**row, "bins": [], "psi": None}]
    assert results.bias.documents[0].facts == {"length_tau": row["length_tau"]}
    assert ".125 (.000 to .250)" in (tmp_path / "report.html").read_text()


def test_a_file_of_an_older_version_may_lack_what_was_added_later(dataset, tmp_path):
    results = evaluate({"mine": RUN}, dataset)
    results.save(tmp_path)
    body = json.loads((tmp_path / "results.json").read_text())
    kept = ("dataset", "split", "queries", "candidates", "systems", "intervals", "comparisons")
    (tmp_path / "results.json").write_text(json.dumps({**{name: body[name] for name in kept}, "unknown": 1}))
    loaded = load_results(tmp_path)
    assert loaded.systems == results.systems and loaded.provenance.command is None
    assert [file.name for file in write_report([loaded], tmp_path / "out")] == [
        "report.html",
        "results.csv",
        "table.tex",
    ]


def test_a_judged_query_without_a_text_is_refused():
    with pytest.raises(DataError, match="'q2' has no text"):
        Dataset.in_memory(DOCUMENTS, {"q1": "who"}, {"q1": {"cat": 1}, "q2": {"cat": 1}})


def test_what_is_public_is_there_and_is_imported_only_when_used():
    code = (
        "import sys, sightline.eval as e; heavy = {'torch', 'numpy', 'pydantic'} & set(sys.modules); "
        "from sightline.eval import reranking, significance; "
        "print(sorted(heavy), [n for n in e.__all__ if not callable(getattr(e, n))], set(e.__all__) <= set(dir(e)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] [] True"
