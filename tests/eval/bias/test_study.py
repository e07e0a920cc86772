"""The whole of it: lists as the pipeline makes them, and one bias.json."""

import json
import math

import pytest

from sightline.errors import InputError
from sightline.eval import systems as evaluating
from sightline.eval.bias import load_positions, measure_bias, study
from sightline.eval.candidates import GivenLists, rank_lists, searched_lists
from sightline.eval.reranking import rerank_run
from sightline.eval.trec import write_run
from sightline.rerank import LateInteractionReranker, load_layout
from sightline.retrieval.index import Index
from sightline.search import Searcher

# The answer of query i, "wordi", stands at character 0, 120 or 600 of document i; 8 distractors have no answer.
STARTS = [0, 120, 600] * 2
FILLER = "lorem ipsum dolor sit amet " * 40


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "zoo"
    (folder / "qrels").mkdir(parents=True)
    texts = {f"d{i}": FILLER[:start] + f"word{i} " + FILLER[start:] for i, start in enumerate(STARTS)}
    texts |= {f"e{i}": f"other{i} " + FILLER for i in range(2)}
    rows = [json.dumps({"_id": id, "title": "", "text": text}) for id, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    rows = [json.dumps({"_id": f"q{i}", "text": f"word{i}"}) for i in range(len(STARTS))]
    (folder / "queries.jsonl").write_text("\n".join(rows))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(len(STARTS)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    header = "query-id\tcorpus-id\tanswer_start\tanswer_len\tpassage_len\toccurrences\n"
    spans = "".join(f"q{i}\td{i}\t{start}\t5\t{len(texts[f'd{i}'])}\t1\n" for i, start in enumerate(STARTS))
    (folder / "spans.tsv").write_text(header + spans)
    return load_positions(folder)


@pytest.fixture
def given(dataset, tmp_path):
    """Every query's gold is last, behind the two distractors."""
    run = {f"q{i}": {"e0": 3.0, "e1": 2.0, f"d{i}": 1.0} for i in range(len(STARTS))}
    write_run(tmp_path / "given.trec", run, "given")
    return {"given": tmp_path / "given.trec"}


@pytest.fixture
def rerankers(monkeypatch, known):
    """``near`` reads 100 characters, ``first`` adds a bonus to the first slot, ``free`` reads all and no places."""

    def near(place, blocks, query):
        return query in blocks[place].text[:100].split()

    def free(place, blocks, query):
        return query in blocks[place].text.split()

    def first(place, blocks, query):
        return free(place, blocks, query) + 2 * (place == 0)

    made = {"near": known(near, "near"), "free": known(free, "free"), "first": known(first, "first")}
    for module in (study, evaluating):
        monkeypatch.setattr(module, "load_reranker", made.__getitem__)
    return made


def test_bias_is_found_in_who_has_it_and_in_nobody_else(dataset, given, rerankers, tmp_path):
    systems = ["given", "given+near", "given+free", "given+first"]
    bias = measure_bias(
        dataset,
        systems,
        tmp_path / "out",
        runs=given,
        permutations=4,
        slots=3,
        command=["sightline", "/x/y/zoo", "--seed", "0"],
    )
    assert json.loads((tmp_path / "out" / "bias.json").read_text()) == bias.as_json()
    assert (bias.version, bias.dataset, bias.seed) == (1, "zoo", 0)
    assert bias.provenance.command == "sightline zoo --seed 0"

    start = {entry.system: entry for entry in bias.position if entry.axis == "start"}
    assert list(start) == systems
    values = {name: [bin.mean for bin in entry.bins] for name, entry in start.items()}
    third = 1 / math.log2(4)  # the gold is the third of three where its answer is not read: nDCG is a half
    # Ties go by text: unread golds begin with FILLER, and "lorem" is before "other".
    assert values["given"] == pytest.approx([third] * 3)
    assert values["given+near"] == [1.0, 1.0, 1.0] and values["given+free"] == [1.0] * 3
    assert [bin.label for bin in start["given"].bins] == ["0-99", "100-199", "500-"]

    order = {entry.system: entry for entry in bias.order}
    assert list(order) == systems[1:]
    free = order["given+free"]
    assert free.tau.mean == 1.0
    assert free.score_variance == free.rank_variance == free.slot_psi.value == 0.0
    first = order["given+first"]
    # Of three, the gold is first at the top (2 + 1 points), else second, behind the 2 points of the first slot.
    assert [slot.value for slot in first.gold_at] == pytest.approx([1.0, 1 / math.log2(3), 1 / math.log2(3)])
    assert first.slot_psi.value == pytest.approx(1 - 1 / math.log2(3))
    assert first.score_variance > 0 and first.tau.mean < 1

    documents = {entry.system: entry for entry in bias.documents}
    assert list(documents) == systems
    assert documents["given+free"].facts["ids_exchanged_changed"] == 0.0
    assert documents["given+free"].facts["copy_unequal"] == 0.0
    assert "copy_unequal" not in documents["given"].facts


def test_the_reader_of_100_characters_falls_to_the_place_that_ties_leave_it(dataset, given, rerankers, tmp_path, known):
    """With ties going to distractors: third of three, nDCG one half, PSI one half."""

    def near(place, blocks, query):
        return 2 * (query in blocks[place].text[:100].split()) + blocks[place].text.startswith("other")

    rerankers["near"].score = near
    bias = measure_bias(dataset, ["given+near"], tmp_path / "out", kinds=["position"], runs=given)
    start, relative = bias.position
    assert [bin.mean for bin in start.bins] == [1.0, 0.5, 0.5]
    assert (start.psi.value, start.psi.high, relative.axis) == (0.5, 0.5, "relative")
    assert bias.order == bias.documents == []
    rerankers["near"].score = lambda place, blocks, query: 2 * (place == 0) - place
    bad = measure_bias(
        dataset, ["given+near"], tmp_path / "out", kinds=["position"], runs=given, measure="Success@1"
    ).position[0]
    assert bad.mean == 0.0 and bad.psi.value is None and bad.psi.low is None


@pytest.fixture
def toy_everywhere(monkeypatch, toy):
    from sightline.retrieval import planning

    made = LateInteractionReranker(load_layout("minilm"), reader=toy)
    monkeypatch.setattr(planning, "load_encoder", lambda name, **options: toy)
    monkeypatch.setattr(toy, "name", "minilm")
    for module in (study, evaluating):
        monkeypatch.setattr(module, "load_reranker", lambda name: made)
    return made


@pytest.mark.parametrize("first_stage", ["dense", "bm25", "hybrid"])
def test_lists_are_what_the_searcher_ranks(dataset, toy_everywhere, tmp_path, toy, first_stage):
    with Index.build(tmp_path / "ix", dataset.documents(), encoder=toy, token_states="fp16") as index:
        searcher = Searcher(index, toy_everywhere, first_stage=first_stage, candidates=5)
        plain = Searcher(index, None, first_stage=first_stage, candidates=5)
        lists = dict(searched_lists(searcher, dataset.queries))
        assert list(lists) == list(dataset.queries)
        for id, query in dataset.queries.items():
            assert all(state is not None for state in lists[id].states)
            assert lists[id].ids == [hit.id for hit in plain.search(query, 5).hits]
            (ranked,) = rank_lists(toy_everywhere, [lists[id]])
            assert list(ranked.items()) == [(hit.id, hit.score) for hit in searcher.search(query, 5).hits]
            assert lists[id].top(2).ids == lists[id].ids[:2]
        bare = dict(searched_lists(plain, dataset.queries))
        assert all(bare_list.states is None for bare_list in bare.values())


def test_lists_of_a_given_run_are_what_rerank_run_ranks(dataset, toy_everywhere, given):
    from sightline.eval.trec import parse_run

    run = parse_run(given["given"])
    lists = dict(GivenLists(dataset, run, 2).lists(toy_everywhere.window))
    expected = rerank_run(dataset, run, toy_everywhere, 2)
    assert {id: rank_lists(toy_everywhere, [candidates])[0] for id, candidates in lists.items()} == expected
    assert lists["q0"].ids == ["e0", "e1"]


def test_with_an_index_the_default_layout_minds_no_order(dataset, toy_everywhere, tmp_path):
    steps = []
    bias = measure_bias(
        dataset, ["dense", "dense+minilm"], tmp_path / "out", list_length=5, permutations=3, slots=3,
        progress=lambda step, done: steps.append((step, done)),
    )  # fmt: skip
    (order,) = bias.order
    assert order.score_variance == order.rank_variance == order.tau_psi == 0.0
    assert [slot.slot for slot in order.gold_at] == ["top", "50 %", "bottom"]
    assert [entry.system for entry in bias.documents] == ["dense", "dense+minilm"]
    assert bias.documents[1].facts["ids_exchanged_largest_difference"] == 0.0
    assert ("dense+minilm: order", len(STARTS)) in steps
    again = measure_bias(
        dataset, ["dense+minilm"], tmp_path / "other", kinds=["order"], list_length=5, permutations=3, slots=3,
        index=tmp_path / "out" / "index",
    )  # fmt: skip
    assert again.order == bias.order and not (tmp_path / "other" / "index").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"systems": []}, "at least one system"),
        ({"kinds": []}, "at least one system and one kind"),
        ({"kinds": ["order", "colour"]}, "no bias 'colour'; there are order, position, documents"),
        ({"systems": ["given"], "kinds": ["order"]}, r"name a system FIRST\+RERANKER"),
        ({"list_length": 1}, "at least 2"),
        ({"systems": ["nothing+free"]}, "no system"),
    ],
)
def test_what_is_refused(dataset, given, rerankers, tmp_path, changes, said):
    arguments = {"systems": ["given+free"], "kinds": ["order"], **changes}
    with pytest.raises(InputError, match=said):
        measure_bias(dataset, out=tmp_path / "out", runs=given, **arguments)
    assert not (tmp_path / "out").exists()


def test_places_that_are_not_known(dataset, given, rerankers, tmp_path):
    (dataset.folder / "spans.tsv").unlink()
    bare = load_positions(dataset.folder)
    with pytest.raises(InputError, match="leave out the kind 'position'"):
        measure_bias(bare, ["given+free"], tmp_path / "out", runs=given)
    assert measure_bias(bare, ["given+free"], tmp_path / "out", runs=given, kinds=["order"]).position == []


def test_every_kind_gets_a_page_with_its_index(dataset, given, rerankers, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("of an older evaluation")  # is not read where nothing is evaluated
    for kinds, shown in (
        (["order"], ["Order of the candidates", "Place of the relevant document in the list", "place in the list"]),
        (["documents"], ["Length of the relevant document", "Length, duplicates, ids"]),
        (["position"], ["Place of the evidence in the document", "Relative position of the answer", "Quality"]),
    ):
        command = ["sightline", "bias", "--kind", *kinds]
        bias = measure_bias(dataset, ["given+free"], tmp_path / "out", runs=given, kinds=kinds, command=command)
        page = (tmp_path / "out" / "report.html").read_text()
        for text in (*shown, "given+free", f"sightline bias --kind {kinds[0]}", "python", "<svg"):
            assert text in page, (kinds, text)
        assert "Position Sensitivity Index" in page and "chance" in page
        for entry in bias.position:
            for bin in entry.bins:
                assert f"({bin.low:.3f} to {bin.high:.3f})".replace("0.", ".") in page


def test_an_impossible_measure_is_refused_first(dataset, given, rerankers, tmp_path):
    with pytest.raises(InputError, match="impossible cutoff"):
        measure_bias(dataset, ["given+free"], tmp_path / "out", runs=given, measure="nDCG@0")
    assert not (tmp_path / "out").exists()


def test_results_name_no_folder(dataset, given, rerankers, tmp_path):
    place = str(tmp_path / "hot.yaml")
    rerankers[place] = rerankers["free"]
    bias = measure_bias(
        dataset, [f"given+{place}"], tmp_path / "out", runs=given, command=["sightline", f"--run=given={place}"]
    )
    assert (
        str(tmp_path) not in json.dumps(bias.as_json()) and bias.provenance.command == "sightline --run=given=hot.yaml"
    )
    assert {entry.system for row in (bias.order, bias.position, bias.documents) for entry in row} == {"given+hot.yaml"}
