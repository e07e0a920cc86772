"""Relevance of systems: closed forms, what an evaluation says of it, and fitting from collections to a layout."""

import csv
import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate, stats

from sightline.documents import Document
from sightline.errors import InputError
from sightline.eval import Dataset, Judged, calibrate_reranker, evaluate, load_results, write_report
from sightline.eval.relevance import check_layout_file, measure_relevance, save_calibration
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.retrieval.index import Index
from sightline.search import Searcher

WORDS = "cat dog cow fish bird frog wolf bear lion deer".split()
DOCUMENTS = [Document(word, f"The {word} is what this text tells about.") for word in WORDS]
DOCUMENTS += [Document(f"{word}-again", f"Nobody saw a {word} here.") for word in WORDS[:5]]


def collection(name, words=WORDS):
    queries = {f"q{i}": f"what tells about the {word}" for i, word in enumerate(words)}
    made = Dataset.in_memory(DOCUMENTS, queries, {f"q{i}": {word: 1} for i, word in enumerate(words)})
    return dataclasses.replace(made, name=name)


@pytest.fixture(autouse=True)
def toy_everywhere(monkeypatch, toy):
    from sightline.eval import systems
    from sightline.retrieval import planning

    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(systems, "load_reranker", lambda name: LateInteractionReranker(load_layout(name), reader=toy))
    monkeypatch.setattr(toy, "name", "minilm")


def test_closed_form():
    lists = [[(0.9, True), (0.2, False)], [(0.3, True), (0.4, False)], [(0.6, False)], []]
    quality = measure_relevance(Judged.of(lists))
    assert (quality.answered, quality.unanswered, quality.documents, quality.relevant) == (2, 3, 5, 2)
    # Lists with an answer: .9, .4; without: .2, .4, .6. The threshold of .4 accepts both, and .4 and .6.
    assert quality.auroc_lists.mean == pytest.approx((3 + 1 + 0.5) / 6)
    assert (quality.false_accepts.mean, quality.threshold) == (pytest.approx(2 / 3), 0.4)
    assert quality.auroc_documents.mean == pytest.approx((3 + 1) / 6)
    assert quality.calibration_error.mean == pytest.approx((0.1 + 0.2 + 0.7 + 0.4 + 0.6) / 5)
    first = quality.reliability[0]
    assert (first.documents, first.relevance, first.relevant) == (1, 0.2, 0.0)
    assert sum(bin.documents for bin in quality.reliability) == 5


def test_a_list_of_relevant_documents_only_leaves_an_empty_one_that_nothing_accepts():
    quality = measure_relevance(Judged.of([[(0.5, True)], [(0.7, True)]]))
    assert (quality.auroc_lists.mean, quality.false_accepts.mean, quality.auroc_documents) == (1.0, 0.0, None)


def test_without_relevant_documents_only_the_calibration_is_measured():
    quality = measure_relevance(Judged.of([[(0.5, False)], [(0.7, False)]]))
    assert quality.auroc_lists is quality.false_accepts is quality.threshold is quality.auroc_documents is None
    assert quality.calibration_error.mean == pytest.approx(0.6)
    with pytest.raises(InputError, match="no query has a candidate"):
        measure_relevance(Judged.of([[], []]))


def test_intervals_hold_the_truth_and_the_order_of_queries_does_not_matter():
    rng = np.random.default_rng(0)
    lists = [[(rng.beta(2 + 2 * (i == 0), 3), i == 0) for i in range(9)] for _ in range(200)]
    one, other = (measure_relevance(Judged.of(part)) for part in (lists, lists[::-1]))
    for name in ("auroc_lists", "false_accepts", "auroc_documents", "calibration_error"):
        value, same = getattr(one, name), getattr(other, name)
        assert value.mean == pytest.approx(same.mean)
        assert value.low < value.high < value.low + 0.35
    for value in (one.auroc_lists, one.false_accepts, one.auroc_documents):
        assert value.low < value.mean < value.high
    truth = integrate.quad(lambda x: stats.beta(4, 3).pdf(x) * stats.beta(2, 3).cdf(x), 0, 1)[0]
    assert one.auroc_documents.low < truth < one.auroc_documents.high


def test_an_evaluation_measures_it_of_every_system_that_has_it(tmp_path):
    dataset = collection("zoo")
    with Index.build(tmp_path / "index", DOCUMENTS) as index:
        searcher = Searcher(index, LateInteractionReranker(load_layout("minilm"), reader=index.encoder))
        systems = {
            **{name: name for name in ("dense", "dense+minilm", "dense+minilm-mass", "dense+minilm-log-mass")},
            "searcher": dataclasses.replace(searcher) if dataclasses.is_dataclass(searcher) else searcher,
            "function": lambda query: {"cat": 1.0},
        }
        results = evaluate(systems, dataset, ["RR"], index=tmp_path / "index")
    summary = results.summary
    assert summary.relevance.keys() == {"dense+minilm", "searcher"}
    assert summary.relevance.keys() | summary.no_relevance.keys() == summary.systems.keys()
    assert (
        "not a reranker's" in summary.no_relevance["dense"] and "not a reranker's" in summary.no_relevance["function"]
    )
    assert "relative to their list" in summary.no_relevance["dense+minilm-mass"]
    assert "sightline calibrate" in summary.no_relevance["dense+minilm-log-mass"]
    quality = summary.relevance["dense+minilm"]
    assert (quality.answered, quality.unanswered, quality.relevant) == (10, 10, 10)
    # What was measured is what a ranking shows: relevance does not change where documents are dropped.
    reranker = LateInteractionReranker(load_layout("minilm"), reader=searcher.index.encoder)
    best = [max(map(reranker.relevance, scores.values())) for scores in results.runs["dense+minilm"].values()]
    without = [
        max(reranker.relevance(score) for id, score in scores.items() if id not in dataset.qrels[query])
        for query, scores in results.runs["dense+minilm"].items()
    ]
    assert quality.auroc_lists.mean == pytest.approx(np.mean([[(a > b) + (a == b) / 2 for b in without] for a in best]))
    results.save(tmp_path / "out")
    assert load_results(tmp_path / "out").summary.relevance == summary.relevance
    write_report([results], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<h3>Relevance</h3>" in page and page.count('class="plot reliability"') == 2
    assert "no relevance: its scores are relative to their list" in page
    rows = list(csv.DictReader((tmp_path / "report" / "results.csv").open()))
    [ece] = [row for row in rows if row["system"] == "dense+minilm" and row["measure"] == "ECE(bins=15)"]
    assert float(ece["mean"]) == quality.calibration_error.mean and float(ece["low"]) == quality.calibration_error.low


def test_fitted_numbers_go_into_a_layout_that_has_them(tmp_path, toy):
    datasets = [collection("zoo"), collection("farm", WORDS[:3])]
    fitted = calibrate_reranker("minilm-log-mass", datasets, candidates=15, work=tmp_path / "work")
    assert fitted.relevance.slope > 0 and math.isfinite(fitted.relevance.offset)
    assert list(fitted.collections) == ["zoo", "farm"]
    assert fitted.collections["zoo"].quality.auroc_documents.mean > 0.9
    assert fitted.collections["zoo"].held_out_error > 0
    save_calibration(fitted, tmp_path / "mine.yaml")
    layout = load_layout(tmp_path / "mine.yaml")
    assert layout.relevance == fitted.relevance
    assert dataclasses.replace(layout, relevance=None) == load_layout("minilm-log-mass")
    ranking = LateInteractionReranker(layout, reader=toy).rank("what tells about the cat", DOCUMENTS)
    assert ranking[0].relevance == fitted.relevance.probability(ranking[0].score) > ranking[-1].relevance
    again = calibrate_reranker("minilm-log-mass", datasets, candidates=15, work=tmp_path / "work")
    assert again.relevance == fitted.relevance
    [alone] = calibrate_reranker("minilm-log-mass", datasets[:1], candidates=15).collections.values()
    assert alone.held_out_error is None


def test_what_cannot_be_calibrated_is_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match="relative to their list"):
        calibrate_reranker("minilm-mass", [collection("zoo")])
    for datasets in ([], [collection("zoo"), collection("zoo")]):
        with pytest.raises(InputError, match="different names"):
            calibrate_reranker("minilm", datasets)
    with pytest.raises(InputError, match="candidates"):
        calibrate_reranker("minilm", [collection("zoo")], candidates=0)


def test_the_file_is_checked_before_the_work(tmp_path):
    assert check_layout_file("minilm", None, False) is None
    assert check_layout_file("minilm", tmp_path / "mine.yaml", False) == tmp_path / "mine.yaml"
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "layout.yaml").write_text("name: x\n")
    trained = str(tmp_path / "trained")
    assert check_layout_file(trained, None, True) == tmp_path / "trained" / "layout.yaml"
    for name, out, save, reason in (
        ("minilm", tmp_path / "mine.txt", False, "ends in .yaml"),
        ("minilm", tmp_path / "no" / "mine.yaml", False, "does not exist"),
        ("minilm", None, True, "not a folder from sightline train"),
        (trained, tmp_path / "mine.yaml", False, "use --save"),
        (trained, tmp_path / "mine.yaml", True, "give one"),
        ("cross-encoder:some/model", tmp_path / "mine.yaml", False, "no layout"),
    ):
        with pytest.raises(InputError, match=reason):
            check_layout_file(name, out, save)
