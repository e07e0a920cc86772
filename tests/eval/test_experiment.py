"""Evaluation end to end, on a collection small enough to judge by eye."""

import json
from dataclasses import replace

import pytest
import pytrec_eval

from sightline.documents import Document
from sightline.errors import DataError, InputError, SightlineError
from sightline.eval import systems as module
from sightline.eval.experiment import evaluate_systems
from sightline.eval.loading import load_dataset
from sightline.eval.metrics import measure_rankings
from sightline.eval.runs import load_run
from sightline.eval.trec import parse_run, write_run
from sightline.names import SystemName
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.retrieval.index import Index
from sightline.search import Searcher

from ..conftest import ToyDecoder

TEXTS = {
    "cat": "The cat purrs loudly and sleeps all day.",
    "dog": "The dog barks at strangers.",
    "cow": "The cow eats grass and gives milk.",
    "fish": "A fish swims in cold water.",
    "bird": "A bird sings in spring.",
}
QUERIES = {"q1": "cat purrs", "q2": "dog barks", "q3": "milk of a cow", "q4": "unjudged"}
QRELS = {"q1": {"cat": 1}, "q2": {"dog": 2, "cat": 0}, "q3": {"cow": 1, "fish": 1}}


def make(folder, texts=TEXTS):
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    rows = [{"_id": id, "title": "", "text": text} for id, text in texts.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": id, "text": text} for id, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{q}\t{d}\t{g}\n" for q, grades in QRELS.items() for d, g in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


@pytest.fixture
def dataset(tmp_path):
    return load_dataset(make(tmp_path / "zoo"))


@pytest.fixture(autouse=True)
def toy_everywhere(monkeypatch, toy):
    """The index and the rerankers read with the toy; the rest is as it is."""
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(module, "load_reranker", lambda name: LateInteractionReranker(load_layout(name), reader=toy))
    # So that the manifest names what the settings ask for by default.
    monkeypatch.setattr(toy, "name", "minilm")


@pytest.fixture
def given(tmp_path):
    run = {
        "q1": {"dog": 3.0, "cat": 2.0},
        "q2": {"dog": 9.0, "fish": 1.0},
        "q3": {"bird": 5.0, "cow": 4.0, "fish": 3.0},
    }
    write_run(tmp_path / "given.trec", run, "given")
    return tmp_path / "given.trec"


SYSTEMS = ["bm25", "dense", "hybrid", "dense+minilm", "mine", "mine+minilm-mass"]


@pytest.fixture
def outcome(dataset, given, tmp_path):
    return evaluate_systems(dataset, SYSTEMS, tmp_path / "out", runs={"mine": given})


def test_results_have_their_shape(outcome, tmp_path):
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results == outcome.as_json()
    assert (results["dataset"], results["split"]) == ("zoo", "test")
    assert list(results["systems"]) == SYSTEMS
    for values in results["systems"].values():
        assert list(values) == ["nDCG@10", "RR@10", "R@100"]
        assert all(0 <= value <= 1 for value in values.values())
    assert results["queries"] == 3


def test_means_are_those_of_the_queries(outcome, tmp_path):
    per_query = json.loads((tmp_path / "out" / "per_query.json").read_text())
    assert per_query == outcome.per_query
    for system, means in outcome.summary.systems.items():
        assert set(per_query[system]) == set(QRELS)
        for name, mean in means.items():
            assert mean == pytest.approx(sum(v[name] for v in per_query[system].values()) / len(QRELS))


def test_systems_are_compared_by_the_first_measure(outcome):
    means = {name: values["nDCG@10"] for name, values in outcome.summary.systems.items()}
    for name, between in outcome.summary.intervals.items():
        assert between.mean == pytest.approx(means[name]) and between.low <= means[name] <= between.high
    pairs = outcome.summary.comparisons
    assert len(pairs) == len(SYSTEMS) * (len(SYSTEMS) - 1) // 2
    for pair in pairs:
        assert pair.measure == "nDCG@10"
        assert pair.difference.mean == pytest.approx(means[pair.a] - means[pair.b], abs=1e-12)
        assert pair.wins + pair.ties + pair.losses == len(QRELS)


def test_runs_read_back_give_the_same_figures(outcome, dataset, tmp_path):
    for system, means in outcome.summary.systems.items():
        run = parse_run(tmp_path / "out" / f"{system}.trec")
        assert run == outcome.runs[system]
        again, _ = measure_rankings(
            dataset.qrels, {id: sorted(scores, key=lambda d: -scores[d]) for id, scores in run.items()}
        )
        assert again == pytest.approx(means)


def test_a_given_run_is_measured_in_its_own_order(outcome):
    values = outcome.per_query["mine"]
    assert [values[id]["RR@10"] for id in ("q1", "q2", "q3")] == [0.5, 1.0, 0.5]
    assert outcome.summary.given_runs == {"mine": "given.trec"}


def test_reranking_a_given_run_adds_no_candidate_and_drops_none(outcome, given):
    reranked = outcome.runs["mine+minilm-mass"]
    assert {id: set(scores) for id, scores in reranked.items()} == {id: set(s) for id, s in parse_run(given).items()}
    assert outcome.per_query["mine+minilm-mass"]["q1"]["RR@10"] == 1.0


def test_trec_eval_finds_the_same_in_what_is_written(outcome, dataset, tmp_path):
    # Without -c, trec_eval passes over queries that found nothing; here every query found something.
    evaluator = pytrec_eval.RelevanceEvaluator(dataset.qrels, {"ndcg_cut.10"})
    for system, values in outcome.per_query.items():
        run = parse_run(tmp_path / "out" / f"{system}.trec")
        theirs = {id: by_measure["ndcg_cut_10"] for id, by_measure in evaluator.evaluate(run).items()}
        assert {id: by_measure["nDCG@10"] for id, by_measure in values.items()} == pytest.approx(theirs, abs=1e-6)


def test_ties_are_written_in_the_order_that_was_judged(tmp_path):
    # Of equal texts the first in the corpus comes first; trec_eval would put the last id first.
    folder = make(tmp_path / "twins", {**TEXTS, "cat2": TEXTS["cat"], "cat3": TEXTS["cat"]})
    outcome = evaluate_systems(load_dataset(folder), ["dense"], tmp_path / "out")
    with Index.open(tmp_path / "out" / "index") as index:
        hits = Searcher(index, None).search(QUERIES["q1"]).hits
    assert [hit.id for hit in hits[:3]] == ["cat", "cat2", "cat3"] and len({hit.score for hit in hits[:3]}) == 1
    written = parse_run(tmp_path / "out" / "dense.trec")["q1"]
    assert list(written) == list(outcome.runs["dense"]["q1"]) == [hit.id for hit in hits]
    assert outcome.per_query["dense"]["q1"]["RR@10"] == 1.0


def test_a_given_run_with_ties_is_judged_as_trec_eval_judges_it(dataset, tmp_path):
    (tmp_path / "ties.trec").write_text("q1 Q0 bird 1 2 x\nq1 Q0 cat 2 2 x\nq1 Q0 cow 3 2.00000001 x\n")
    outcome = evaluate_systems(dataset, ["ties"], tmp_path / "out", runs={"ties": tmp_path / "ties.trec"})
    assert list(outcome.runs["ties"]["q1"]) == ["cow", "cat", "bird"]
    assert outcome.per_query["ties"]["q1"]["RR@10"] == 0.5


def test_queries_of_a_given_run_that_are_unknown_or_missing_are_told(dataset, tmp_path, caplog):
    options = {"runs": {"run": tmp_path / "run.trec"}}
    write_run(tmp_path / "run.trec", {"q1": {"cat": 1.0}, "q77": {"cat": 1.0}}, "run")
    outcome = evaluate_systems(dataset, ["run"], tmp_path / "out", **options)
    assert outcome.summary.systems["run"]["RR@10"] == pytest.approx(1 / 3)
    assert "1 of the run's 2 queries are not in the data set" in caplog.text
    assert "lacks 2 of 3 judged queries; they count as 0" in caplog.text
    write_run(tmp_path / "run.trec", {"q77": {"cat": 1.0}}, "run")
    with pytest.raises(DataError, match="none of the run's 1 queries is in zoo, split test"):
        evaluate_systems(dataset, ["run"], tmp_path / "out", **options)


def test_positives_are_added_only_if_asked_for(dataset, tmp_path):
    write_run(tmp_path / "poor.trec", {"q1": {"dog": 1.0}, "q3": {"fish": 2.0, "bird": 1.0}}, "poor")
    options = {"runs": {"poor": tmp_path / "poor.trec"}, "candidates": 2}
    systems = ["poor", "poor+minilm", "bm25+minilm"]
    honest = evaluate_systems(dataset, systems, tmp_path / "honest", **options)
    assert honest.summary.positives_added is False
    assert set(honest.runs["poor+minilm"]["q1"]) == {"dog"} and "q2" not in honest.runs["poor+minilm"]
    added = evaluate_systems(dataset, systems, tmp_path / "added", add_positives=True, **options)
    assert json.loads((tmp_path / "added" / "results.json").read_text())["positives_added"] is True
    assert added.runs["poor"] == honest.runs["poor"]
    assert {id: set(scores) for id, scores in added.runs["poor+minilm"].items()} == {
        "q1": {"dog", "cat"},
        "q2": {"dog"},
        "q3": {"fish", "bird", "cow"},
    }
    for id, scores in added.runs["bm25+minilm"].items():
        assert set(scores) >= {d for d, grade in QRELS[id].items() if grade > 0}


def test_results_with_the_querys_own_id_are_counted(tmp_path):
    folder = make(tmp_path / "zoo", {**TEXTS, "q1": "Who purrs is a cat."})
    run = tmp_path / "run.trec"
    run.write_text("q1 Q0 q1 1 2 x\nq1 Q0 cat 2 1 x\n")
    outcome = evaluate_systems(load_dataset(folder), ["mine"], tmp_path / "out", runs={"mine": run})
    assert outcome.summary.ignore_identical_ids is True and outcome.summary.identical_ids == 1
    assert outcome.per_query["mine"]["q1"]["RR@10"] == 1.0


def test_words_find_what_has_them(outcome):
    assert outcome.per_query["bm25"]["q1"]["RR@10"] == 1.0


def test_depth_cuts_what_is_measured(dataset, given, tmp_path):
    outcome = evaluate_systems(dataset, ["dense", "mine"], tmp_path / "out", runs={"mine": given}, candidates=1)
    assert all(len(scores) == 1 for run in outcome.runs.values() for scores in run.values())
    assert outcome.per_query["mine"]["q1"]["RR@10"] == 0.0


def test_the_index_is_built_once(dataset, tmp_path, monkeypatch):
    evaluate_systems(dataset, ["dense+minilm"], tmp_path / "out")
    monkeypatch.setattr(Index, "build", None)
    again = evaluate_systems(dataset, ["dense", "bm25+minilm"], tmp_path / "out")
    assert again.summary.index.counts["documents"] == len(TEXTS)


def test_given_runs_need_no_index(dataset, given, tmp_path):
    outcome = evaluate_systems(dataset, ["mine"], tmp_path / "out", runs={"mine": given})
    assert outcome.summary.index is None
    assert not (tmp_path / "out" / "index").exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"lexical": "none"}, {}),
        ({}, {"faiss": "HNSW8"}),
        ({"max_tokens": 20}, {}),
        ({}, {"max_tokens": 20}),
        ({}, {"token_states": "int8"}),
        ({"overlap": 3}, {}),
        ({}, {"decoder_states": ToyDecoder()}),
        ({"decoder_states": ToyDecoder(layer=1)}, {"decoder_states": ToyDecoder(layer=2)}),
        ({"decoder_form": "fp16", "decoder_states": ToyDecoder()}, {"decoder_states": ToyDecoder()}),
    ],
    ids=str,
)
def test_an_index_with_other_settings_is_built_anew_and_says_so(dataset, tmp_path, first, second, caplog):
    evaluate_systems(dataset, ["dense"], tmp_path / "out", settings=first)
    assert "built again" not in caplog.text
    evaluate_systems(dataset, ["dense"], tmp_path / "out", settings=second)
    assert "built again" in caplog.text and next(iter(first | second)) in caplog.text


def test_an_index_of_the_users_own_is_not_removed(dataset, tmp_path):
    Index.build(tmp_path / "out" / "index", dataset.documents(), faiss="HNSW8").close()
    with pytest.raises(InputError, match="not made by an evaluation"):
        evaluate_systems(dataset, ["dense"], tmp_path / "out")
    with Index.open(tmp_path / "out" / "index") as opened:
        assert opened.manifest.faiss.factory == "HNSW8"


def test_a_system_is_added_in_the_same_folder(dataset, tmp_path, caplog):
    evaluate_systems(dataset, ["dense"], tmp_path / "out")
    both = evaluate_systems(dataset, ["dense", "dense+minilm"], tmp_path / "out")
    assert "token_states" in caplog.text and list(both.per_query) == ["dense", "dense+minilm"]
    caplog.clear()
    again = evaluate_systems(dataset, ["dense+minilm", "hybrid"], tmp_path / "out")
    assert "built again" not in caplog.text
    assert again.runs["dense+minilm"] == both.runs["dense+minilm"]


def test_a_baseline_of_words_embeds_nothing(dataset, tmp_path, monkeypatch, toy):
    from sightline.models import encoder
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", encoder.load_encoder)
    monkeypatch.setattr(toy, "encode", lambda *given, **options: pytest.fail("embedded"), raising=False)
    alone = evaluate_systems(dataset, ["bm25"], tmp_path / "out", settings={"encoder": "minilm", "faiss": "HNSW8"})
    kept = {path.name for path in (tmp_path / "out" / "index").iterdir()}
    assert "documents.sqlite" in kept and not kept & {"vectors.f32", "states.fp16", "states.int8"}
    monkeypatch.undo()
    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(toy, "name", "minilm")
    both = evaluate_systems(dataset, ["bm25", "dense"], tmp_path / "out")
    assert both.runs["bm25"].keys() == alone.runs["bm25"].keys()
    again = evaluate_systems(dataset, ["bm25"], tmp_path / "out")
    assert again.runs["bm25"] == both.runs["bm25"]


def test_a_changed_collection_is_indexed_anew(tmp_path, caplog):
    folder = make(tmp_path / "zoo", TEXTS)
    evaluate_systems(load_dataset(folder), ["dense"], tmp_path / "out")
    make(folder, TEXTS | {"cow": "A cow in space."})
    evaluate_systems(load_dataset(folder), ["dense"], tmp_path / "out")
    assert "has changed" in caplog.text
    with Index.open(tmp_path / "out" / "index") as opened:
        assert opened.document("cow").text == "A cow in space."


def test_naming_a_default_is_no_other_setting(dataset, tmp_path):
    evaluate_systems(dataset, ["dense"], tmp_path / "out")
    settings = {"encoder": "minilm", "encoder_options": None, "faiss": "Flat", "max_tokens": None, "overlap": 0}
    evaluate_systems(dataset, ["dense"], tmp_path / "out", settings=settings)


def test_an_unknown_setting_is_named(dataset, tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match="'colour'"):
            evaluate_systems(dataset, ["dense"], tmp_path / "out", settings={"colour": "red"})
        evaluate_systems(dataset, ["dense"], tmp_path / "out")


@pytest.mark.parametrize("texts", [{"other": "Nothing of the zoo."}, {**TEXTS, "cat": "Another text for the same id."}])
def test_an_index_of_another_collection_is_refused(dataset, tmp_path, texts):
    other = load_dataset(make(tmp_path / "other", texts))
    evaluate_systems(other, ["dense"], tmp_path / "out")
    with pytest.raises(InputError, match="another collection"):
        evaluate_systems(dataset, ["dense"], tmp_path / "elsewhere", index=tmp_path / "out" / "index")


def test_a_given_index_is_searched(dataset, tmp_path):
    evaluate_systems(dataset, ["dense"], tmp_path / "out")
    outcome = evaluate_systems(dataset, ["dense"], tmp_path / "two", index=tmp_path / "out" / "index")
    assert outcome.summary.systems["dense"]["nDCG@10"] > 0
    assert not (tmp_path / "two" / "index").exists()


@pytest.mark.parametrize(
    "system", ["", "learned", "dense+", "+minilm", "dense+nothing", "dense+minilm+minilm", "Dense"]
)
def test_an_unknown_system_is_refused_before_anything_is_made(dataset, tmp_path, system):
    with pytest.raises(InputError):
        evaluate_systems(dataset, ["dense", system], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"candidates": 0}, {"measures": ["nonsense"]}, {"measures": []}])
def test_a_bad_argument_is_refused_before_anything_is_made(dataset, tmp_path, options):
    with pytest.raises(InputError):
        evaluate_systems(dataset, ["dense"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_no_system_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="at least one system"):
        evaluate_systems(dataset, [], tmp_path / "out")


def test_a_missing_run_is_named(dataset, tmp_path):
    with pytest.raises(SightlineError, match="absent.trec"):
        evaluate_systems(dataset, ["mine"], tmp_path / "out", runs={"mine": tmp_path / "absent.trec"})


def test_a_rerankers_path_gives_a_run_one_can_write(dataset, tmp_path):
    layout = tmp_path / "my layouts" / "hot.yaml"
    layout.parent.mkdir()
    layout.write_text("name: hot\nmax_block_tokens: 64\nreadout:\n  readout: mass\n  scale: 5.0\n")
    system = f"dense+{layout}"
    outcome = evaluate_systems(dataset, [system], tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.trec")
    assert parse_run(file) == outcome.runs["dense+hot.yaml"]  # the folder stays on this machine


def test_names_split_at_the_first_plus():
    assert SystemName.parse("dense") == ("dense", None)
    assert SystemName.parse("bm25+minilm-mass") == ("bm25", "minilm-mass")
    assert SystemName.parse("mine+minilm", {"mine": 0}) == ("mine", "minilm")


@pytest.mark.parametrize("id", ["user guide.md", "a/b c\\d", "tab\there", "line\nbreak", " edge ", "100%25", "é ü"])
def test_ids_of_any_kind_give_results_and_come_back(dataset, tmp_path, id):
    corpus = [Document(id, TEXTS["cat"]), Document("b", TEXTS["dog"])]
    query = f"q {id}"
    dataset = replace(dataset, queries={query: QUERIES["q1"]}, qrels={query: {id: 1}}, corpus=lambda: corpus)
    outcome = evaluate_systems(dataset, ["dense"], tmp_path / "out")
    [written] = [path for path in (tmp_path / "out").iterdir() if path.stem == "dense"]
    assert load_run(written) == outcome.runs["dense"] and id in outcome.runs["dense"][query]
    again = evaluate_systems(dataset, ["mine"], tmp_path / "again", runs={"mine": written})
    assert again.summary.systems["mine"] == outcome.summary.systems["dense"]


def test_an_output_that_cannot_be_is_refused_before_the_work(dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Index, "build", lambda *given, **options: pytest.fail("the work began"))
    with pytest.raises(InputError, match="is a file"):
        evaluate_systems(dataset, ["dense"], tmp_path / "file")
    with pytest.raises(InputError, match="impossible cutoff"):
        evaluate_systems(dataset, ["dense"], tmp_path / "out", measures=["nDCG@0"])


def test_a_system_that_finds_nothing_gets_nothing_and_stops_nobody(dataset, tmp_path, caplog):
    silent = replace(dataset, queries=dict.fromkeys(dataset.queries, "zzz qqq"))
    outcome = evaluate_systems(silent, ["bm25", "dense"], tmp_path / "out", settings={"encoder": "minilm"})
    assert outcome.summary.systems["bm25"]["nDCG@10"] == 0 and "bm25 found nothing" in caplog.text
    assert (tmp_path / "out" / "dense.trec").exists() and not (tmp_path / "out" / "bm25.trec").exists()


def test_a_long_name_of_a_system_still_names_a_file(dataset, tmp_path):
    write_run(tmp_path / "r", {"q1": {"cat": 1.0}}, "t")
    evaluate_systems(dataset, ["n" * 240], tmp_path / "out", runs={"n" * 240: tmp_path / "r"})
    assert len(list((tmp_path / "out").glob("n*.trec"))) == 1
