"""The tables that others publish: what they may hold, what is measured, and what is skipped and said."""

import json

import pytest
from typer.testing import CliRunner

from sightline.errors import DataError, InputError
from sightline.eval.catalogues import CATALOGUES
from sightline.recipes.tables import Published, Table, app, fill, load_tables, markdown

QUERIES = {"q1": "cats that purr", "q2": "dogs that bark"}
TEXTS = {"d1": "Cats purr when they are content.", "d2": "Dogs bark at strangers.", "d3": "Fish are silent."}


@pytest.fixture
def data(tmp_path):
    """A folder with one collection, ``zoo``, whose run of BM25 has the right document of the first query last."""
    folder = tmp_path / "data" / "zoo"
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", TEXTS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"_id": id, "text": text}) + "\n" for id, text in texts.items())
        )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    (folder / "bm25.test.tsv").write_text("q1\td3 d2 d1\nq2\td2 d1 d3\n")
    return folder.parent


def table(**changes):
    fields = {
        "id": "toy",
        "title": "A toy",
        "about": "Nothing to learn here.",
        "measure": "RR@10",
        "candidates": 2,
        "collections": {"Zoo": "zoo", "Ark": "ark"},
        "systems": ("given", "given+minilm"),
        "published": (Published("Theirs", {"Zoo": 0.8}),),
        "mean": "mean of 2",
    }
    return Table(**(fields | changes))


def test_given_candidates_are_reranked_and_what_is_not_here_is_told(data, tmp_path):
    filled = fill(table(), tmp_path / "out", data=data)
    # With two candidates, the right document of q1 is lost for every reranker.
    assert [(row.system, row.ours, row.values) for row in filled.rows] == [
        ("Theirs", False, {"Zoo": 0.8}),
        ("given", True, {"Zoo": 0.5}),
        ("given+minilm", True, {"Zoo": 0.5}),
    ]
    assert filled.queries == {"Zoo": 2}
    assert list(filled.skipped) == ["Ark"] and "ark" in filled.skipped["Ark"]
    text = markdown([filled])
    assert "| Theirs | published by others | | 0.8 | |" in text
    assert "| given+minilm | measured here | | 0.5000 (0.000 to 1.000) | |" in text
    assert "Ark was skipped: " in text and "mean of 2: none of ours" in text


def test_more_candidates_let_the_reranker_find_what_is_right(data, tmp_path):
    filled = fill(table(candidates=3, collections={"Zoo": "zoo"}, mean=""), tmp_path / "out", data=data)
    assert [row.system for row in filled.rows] == ["given+minilm", "Theirs", "given"]
    assert filled.rows[0].values == {"Zoo": 1.0} and not filled.skipped
    assert "skipped" not in markdown([filled])


def test_a_mean_over_all_collections_is_ours_too(data, tmp_path):
    both = {"Zoo": "zoo", "Again": "zoo"}
    filled = fill(table(collections=both, systems=("given",), candidates=3), tmp_path / "out", data=data)
    [ours] = [row for row in filled.rows if row.ours]
    assert ours.values["mean of 2"] == ours.values["Zoo"] == pytest.approx(2 / 3)


def test_a_catalogue_that_cannot_be_reached_is_skipped_with_the_reason(tmp_path, monkeypatch):
    def away(name, split):
        raise DataError("cannot be loaded; fetching it for the first time needs a network", path=f"nano:{name}")

    monkeypatch.setitem(CATALOGUES, "nano", away)
    [nano] = load_tables(ids=["nanobeir"])
    filled = fill(nano, tmp_path)
    assert list(filled.skipped) == list(nano.collections) and len(filled.skipped) == 13
    assert all("needs a network" in why for why in filled.skipped.values())
    assert {row.system for row in filled.rows if row.values} == {other.system for other in nano.published}
    text = markdown([filled])
    assert "nothing was run here" in text
    assert f"- {', '.join(nano.collections)} were skipped: cannot be loaded; " in text  # all for one reason


def test_without_a_data_folder_collections_in_folders_are_skipped(tmp_path):
    filled = fill(table(), tmp_path)
    assert filled.skipped["Zoo"] == "zoo: needs the judged collections: --data, or SIGHTLINE_DATA"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collections": {}}, "needs collections and systems"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"systems": ("tfidf",)}, "no system 'tfidf'"),
        ({"measure": "beauty"}, "beauty"),
        ({"published": (Published("Theirs", {"Sea": 0.5}),)}, "a figure for 'Sea', which is no column"),
    ],
)
def test_a_malformed_table_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        table(**changes)


def test_a_file_of_tables_is_checked(tmp_path):
    with pytest.raises(InputError, match="no table is called 'beir'; there are bm25-top-30, nanobeir"):
        load_tables(ids=["beir"])
    path = tmp_path / "tables.yaml"
    path.write_text("version: 1\ntables: [{id: a}]\n")
    with pytest.raises(DataError, match=r"tables\.yaml"):
        load_tables(path)


def test_the_command_prints_and_writes(data, tmp_path):
    path = tmp_path / "tables.yaml"
    path.write_text(
        "version: 1\ntables:\n"
        "- {id: toy, title: A toy, about: Nothing., measure: RR@10, candidates: 3, collections: {Zoo: zoo},\n"
        "   systems: [given, given+minilm], published: [{system: Theirs, values: {Zoo: 0.8}}]}\n"
    )
    done = CliRunner().invoke(
        app, ["--tables", str(path), "--data", str(data), "--out", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout)
    assert [row["system"] for row in found["rows"]] == ["given+minilm", "Theirs", "given"]
    assert [row["measured_here"] for row in found["rows"]] == [True, False, True]
    assert "# A toy" in (tmp_path / "out" / "tables.md").read_text()
    assert (tmp_path / "out" / "toy-Zoo" / "results.json").is_file()
