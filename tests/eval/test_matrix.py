"""Several collections at once: the plan, the folders, and that sharing work between systems changes nothing."""

import json
from pathlib import Path

import pytest
import yaml

import sightline
from sightline.errors import DataError, InputError
from sightline.eval import systems as module
from sightline.eval.experiment import evaluate_systems
from sightline.eval.loading import load_dataset
from sightline.eval.matrix import Collection, evaluate_collections, load_matrix
from sightline.eval.pool import search_pool
from sightline.eval.trec import write_run
from sightline.rerank import LateInteractionReranker, load_layout

from .test_experiment import TEXTS, make

MATRIX = Path(sightline.__file__).parent / "recipes" / "matrix.yaml"


@pytest.fixture
def toy_everywhere(monkeypatch, toy):
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(module, "load_reranker", lambda name: LateInteractionReranker(load_layout(name), reader=toy))
    monkeypatch.setattr(toy, "name", "minilm")
    return toy


SYSTEMS = [
    f"{stage}{reranker}"
    for stage in ("bm25", "dense", "hybrid")
    for reranker in ("", "+minilm", "+minilm-mass", "+minilm-maxsim")
]


def test_what_is_shared_changes_nothing(tmp_path, toy_everywhere):
    dataset = load_dataset(make(tmp_path / "zoo"))
    together = evaluate_systems(dataset, SYSTEMS, tmp_path / "all", candidates=4)
    for system in SYSTEMS:
        alone = evaluate_systems(dataset, [system], tmp_path / "alone", candidates=4, index=tmp_path / "all" / "index")
        assert alone.runs[system] == together.runs[system]
        assert alone.summary.systems[system] == together.summary.systems[system]


def test_first_stages_and_fetches_happen_once(tmp_path, toy_everywhere, monkeypatch):
    from sightline.retrieval.index import Index

    calls = {"search_dense": 0, "search_lexical": 0, "token_states": 0}

    def counted(name, original):
        def call(self, *arguments, **options):
            calls[name] += 1
            return original(self, *arguments, **options)

        return call

    for name in calls:
        monkeypatch.setattr(Index, name, counted(name, getattr(Index, name)))
    dataset = load_dataset(make(tmp_path / "zoo"))
    evaluate_systems(dataset, SYSTEMS, tmp_path / "out", candidates=4)
    assert calls == {"search_dense": 1, "search_lexical": 3, "token_states": 3}  # a batch; each of three queries


def test_rerankers_of_a_given_run_read_each_document_once(tmp_path, toy_everywhere, monkeypatch):
    dataset = load_dataset(make(tmp_path / "zoo"))
    write_run(tmp_path / "g.trec", {q: {d: 1.0 + i for i, d in enumerate(TEXTS)} for q in dataset.queries}, "g")
    systems = ["g", "g+minilm", "g+minilm-mass", "g+minilm-maxsim"]
    texts, read = [], toy_everywhere.read
    monkeypatch.setattr(toy_everywhere, "read", lambda t, **o: texts.extend(t) or read(t, **o))
    together = evaluate_systems(dataset, systems, tmp_path / "all", runs={"g": tmp_path / "g.trec"})
    assert sorted(set(texts) - set(dataset.queries.values())) == sorted(TEXTS.values())
    assert len([text for text in texts if text in TEXTS.values()]) == len(TEXTS)
    for system in systems:
        alone = evaluate_systems(dataset, [system], tmp_path / "alone", runs={"g": tmp_path / "g.trec"})
        assert alone.runs[system] == together.runs[system]


def test_a_system_twice_is_one_and_two_of_one_name_are_refused(tmp_path, toy_everywhere):
    dataset = load_dataset(make(tmp_path / "zoo"))
    assert list(evaluate_systems(dataset, ["bm25", "bm25"], tmp_path / "o").summary.systems) == ["bm25"]
    with pytest.raises(InputError, match="both be called"):
        evaluate_systems(dataset, ["dense+/a/hot.yaml", "dense+/b/hot.yaml"], tmp_path / "o")


def test_collections_are_reported_together(tmp_path, toy_everywhere):
    folders = [make(tmp_path / name) for name in ("one", "two")]
    collections = [Collection(folder, ("bm25", "dense+minilm")) for folder in folders]
    reported = evaluate_collections(collections, tmp_path / "out", command=["sightline", "eval", str(folders[0])])
    assert [results.summary.dataset for results in reported] == ["one", "two"]
    for name in ("one", "two"):
        results = json.loads((tmp_path / "out" / name / "results.json").read_text())
        assert results["command"] == "sightline eval one" and str(tmp_path) not in json.dumps(results)
    assert "2 collections" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.timeout(120)
def test_several_processes_answer_as_one(tmp_path):
    dataset = load_dataset(make(tmp_path / "zoo"))
    systems = ["bm25", "hybrid+minilm"]
    alone = evaluate_systems(dataset, systems, tmp_path / "one")
    with search_pool(2) as pool:
        shared = evaluate_systems(dataset, systems, tmp_path / "two", index=tmp_path / "one" / "index", pool=pool)
    assert shared.runs == alone.runs and shared.summary.systems == alone.summary.systems
    assert all(milliseconds > 0 for milliseconds in shared.summary.milliseconds_per_query.values())


def test_no_job_is_refused():
    with pytest.raises(InputError, match="at least 1"), search_pool(0):
        pass


def test_what_cannot_be_reported_together_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one"):
        evaluate_collections([], tmp_path / "out")
    same = [Collection(tmp_path / "a" / "x", ("bm25",)), Collection(tmp_path / "b" / "x", ("bm25",))]
    with pytest.raises(InputError, match="the same name"):
        evaluate_collections(same, tmp_path / "out")


def test_the_plan_of_the_readme():
    plan = {collection.folder.name: collection for collection in load_matrix("data", MATRIX)}
    assert set(plan) == {"scifact", "nfcorpus", "cranfield", "trec_dl19", "nq_litm", "squad_dev"}
    rerankers = ("", "+minilm", "+minilm-log-mass", "+minilm-mass", "+minilm-maxsim")
    assert set(plan["scifact"].systems) == {
        stage + reranker for stage in ("bm25", "dense", "hybrid") for reranker in rerankers
    }
    assert plan["trec_dl19"].systems == tuple(f"bm25{reranker}" for reranker in rerankers)
    assert str(plan["trec_dl19"].runs["bm25"]) == "data/trec_dl19/run.bm25.trec"


def test_part_of_a_plan():
    [only] = load_matrix("data", MATRIX, only=["cranfield"], rerankers=["smollm2", "minilm"], max_queries=7)
    assert only.systems == (
        *load_matrix("data", MATRIX, only=["cranfield"])[0].systems,
        "bm25+smollm2",
        "dense+smollm2",
        "hybrid+smollm2",
    )
    assert (only.folder.name, only.max_queries) == ("cranfield", 7)
    with pytest.raises(InputError, match="no collection 'msmarco'"):
        load_matrix("data", MATRIX, only=["msmarco"])


_PLAN = {"first_stages": ["bm25"], "rerankers": [], "collections": [{"folder": "a"}]}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"more": 1}, "has a field 'more'"),
        ({"rerankers": "minilm"}, "the field rerankers must be"),
        ({"first_stages": [1]}, r"the field first_stages\[0\] must be"),
        ({"collections": []}, "with something in it"),
        ({"collections": ["a"]}, r"the field collections\[0\] must be"),
        ({"collections": [{}]}, r"lacks the field collections\[0\].folder"),
        ({"collections": [{"folder": "a", "colour": 1}]}, r"has a field 'collections\[0\].colour'"),
        ({"collections": [{"folder": "a"}, {"folder": "a"}]}, "a is listed twice"),
    ],
    ids=str,
)
def test_a_malformed_plan_says_where(tmp_path, fields, match):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(_PLAN))
    assert load_matrix("data", path)[0].systems == ("bm25",)
    path.write_text(yaml.safe_dump({**_PLAN, **fields}))
    with pytest.raises(DataError, match=match) as raised:
        load_matrix("data", path)
    assert "plan.yaml" in str(raised.value)
