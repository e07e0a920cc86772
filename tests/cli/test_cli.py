"""The command line as its users meet it: what it prints, what it returns, and what it does not let through."""

import importlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from sightline import load_reranker
from sightline.cli import searching
from sightline.cli.console import visible
from sightline.eval.trec import parse_run

COMMANDS = ["index", "add", "delete", "info", "search", "serve", "mcp", "rerank", "eval", "bias", "heads"]
COMMANDS += ["calibrate", "matrix", "bench", "report", "mine", "train", "rerankers"]
EVIL = (
    "Terminal [bold red]x[/] markup [/] and \x1b[2J\x1b]0;owned\x07 escapes \x9b31m here \u202e\u2066. "
    "[link=x]Unbalanced."
)
DOCUMENTS = [
    {
        "_id": "cat",
        "title": "Cats",
        "text": "Iron rusts in wet air. Cats purr when they are content. Cars need fuel.",
        "metadata": {"lang": "en", "year": 2001},
    },
    {"_id": "dog", "title": "Dogs", "text": "Dogs bark at strangers. They guard it.", "metadata": {"year": 2010}},
    {"_id": "[b]evil[/b]\x1b[1m", "title": "[bold]Title[/] \x1b[31mred", "text": EVIL, "metadata": {"lang": "de"}},
    {"_id": "long", "title": "", "text": " ".join(f"Town {i} has a market on day {i}." for i in range(40))},
]
STEERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return lines(tmp_path_factory.mktemp("cli") / "corpus.jsonl", DOCUMENTS)


@pytest.fixture(scope="session")
def shared_index(corpus):
    from sightline.retrieval.index import Index
    from sightline.retrieval.sources import load_documents

    Index.build(corpus.parent / "index", load_documents(corpus), token_states="fp16").close()
    return corpus.parent / "index"


@pytest.fixture
def index(shared_index, tmp_path):
    return shutil.copytree(shared_index, tmp_path / "index")


@pytest.fixture(scope="session")
def beir(corpus):
    folder = corpus.parent / "zoo"
    (folder / "qrels").mkdir(parents=True)
    shutil.copy(corpus, folder / "corpus.jsonl")
    lines(folder / "queries.jsonl", [{"_id": "q1", "text": "happy cats"}, {"_id": "q2", "text": "what do dogs do"}])
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tcat\t1\nq2\tdog\t1\n")
    (folder / "given.trec").write_text("q1 Q0 dog 1 2 x\nq1 Q0 cat 2 1 x\nq2 Q0 dog 1 2 x\nq2 Q0 long 2 1 x\n")
    return folder


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(searching, "console", Console(force_terminal=True, width=80, color_system="256"))


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: sightline {command} " in " ".join(out.split())


def test_help_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(re.search(rf"\b{command}\b", out) for command in COMMANDS)


# -- index, info, add, delete ------------------------------------------------------------------------------------------


def test_index_makes_what_search_finds(run, corpus, tmp_path):
    code, out, err = run("index", corpus, "--out", tmp_path / "made", "--lexical", "none", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["documents"], report["deleted_documents"], report["skipped"]) == (4, 0, [])
    assert report["bytes"] == sum(report["files"].values()) > 0
    code, out, _ = run("search", tmp_path / "made", "happy cats", "-k", 1, "--json")
    assert json.loads(out)["hits"][0]["id"] == "cat"


def test_index_of_a_folder_goes_on_without_a_bad_file_and_lists_what_it_left_out(run, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("Cats purr.")
    (folder / "b.png").write_text("PNG")
    (folder / "c.txt").write_bytes(b"caf\xe9")
    code, out, err = run("index", folder, "--out", tmp_path / "made", "--encoder", "minilm")
    assert code == 0 and "1 document, 1 passage" in out
    assert f"skipped: {folder}/c.txt:1: not UTF-8" in err
    assert "left out 2 files: 1 .png (not a format that is read), 1 not UTF-8 (c.txt)" in err
    code, out, err = run("add", tmp_path / "made", folder, "--update", "--encoding", "cp1252", "--json")
    assert json.loads(out)["left_out"] == {".png (not a format that is read)": 1}
    code, _, err = run("index", folder, "--out", tmp_path / "strict", "--strict")
    assert code == 3 and f"{folder}/c.txt:1: not UTF-8" in err


def test_a_finished_build_run_again_says_so_and_overwrite_replaces_it(run, tmp_path):
    first = lines(tmp_path / "first.jsonl", [{"_id": "a", "text": "Cats purr."}])
    other = lines(tmp_path / "other.jsonl", [{"_id": "b", "text": "Dogs bark."}])
    assert run("index", first, "--out", tmp_path / "made")[0] == 0
    code, out, _ = run("index", first, "--out", tmp_path / "made")
    assert code == 0 and "finished already" in out
    assert run("index", other, "--out", tmp_path / "made")[0] == 4
    code, out, _ = run("index", other, "--out", tmp_path / "made", "--overwrite")
    assert code == 0 and "finished already" not in out
    code, out, _ = run("search", tmp_path / "made", "dogs", "--rerank", "none", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["b"]


def test_a_bad_record_stops_and_the_message_names_the_option(run, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id;text;year\n1;Cats purr.;2020\n2;Dogs bark.\n")
    code, _, err = run("index", path, "--out", tmp_path / "made")
    assert code == 3 and "x.csv:3: the row has 2 cells, the header 3; --skip-bad continues without it" in err
    code, _, _ = run("index", path, "--out", tmp_path / "made", "--skip-bad", "--delimiter", ";")
    assert code == 0
    code, out, _ = run("search", tmp_path / "made", "cats", "--where", "year>=2000", "--rerank", "none", "--json")
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ["1"]


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys, monkeypatch):
    console = importlib.import_module("sightline.cli.console")
    monkeypatch.setattr(console, "_LINE_EVERY", 0)
    with console.progress_bar("indexing") as tell:
        tell(1000, detail="41% of 12.0 MB")
        tell("finishing", 2000, total=3000)
        tell("finishing", 3000, total=3000)
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.search(r", about \d+ s left$", second) and "left" not in first + third
    assert first.startswith("indexing: 1,000, 41% of 12.0 MB, ") and second.startswith("finishing: 2,000 of 3,000")


@pytest.mark.parametrize("as_json", [True, False])
def test_skip_bad_counts_and_lists(run, tmp_path, as_json):
    path = tmp_path / "some.jsonl"
    path.write_text('{"_id": "a", "text": "fine"}\nnot json\n{"_id": "b", "text": 5}\n{"_id": "c", "text": "fine"}\n')
    json_option = ["--json"] if as_json else []
    code, out, err = run("index", path, "--out", tmp_path / "made", "--skip-bad", *json_option)
    assert code == 0
    if as_json:
        assert [place.split(": ")[0] for place in json.loads(out)["skipped"]] == [f"{path}:2", f"{path}:3"]
    else:
        assert "2 documents" in out
        assert f"skipped: {path}:2: " in err
        assert f"skipped: {path}:3: " in err
        assert "2 bad records skipped" in err


def test_a_bad_record_stops_the_build_and_is_named(run, tmp_path):
    path = lines(tmp_path / "some.jsonl", [{"_id": "a", "text": "fine"}, {"_id": "b"}])
    code, _, err = run("index", path, "--out", tmp_path / "made")
    assert code == 3
    assert f"{path}:2" in err


def test_shards_go_into_one_store(run, corpus, tmp_path):
    pytest.importorskip("qdrant_edge", reason="the extra qdrant is not installed")
    code, _, err = run("index", corpus, "--out", tmp_path / "made", "--shard-id", 0, "--num-shards", 2)
    assert code == 2 and "--driver ray" in err
    assert run("index", corpus, "--out", tmp_path / "made", "--shard-id", 0)[0] == 2
    assert run("index", corpus, "--out", tmp_path / "made", "--workers", 2)[0] == 2
    store = f"qdrant-edge:{tmp_path}/q"
    for number in (1, 0):
        shard = ["--encoder", "none", "--shard-id", number, "--num-shards", 2, "--json"]
        code, out, err = run("index", corpus, "--store", store, *shard)
        assert code == 0, err
        assert json.loads(out)["shards"] == {"done": 2 - number, "of": 2, "complete": number == 0}


def test_info_tells_the_settings(run, index):
    code, out, _ = run("info", index)
    assert code == 0
    assert "4 documents" in out
    assert "faiss: factory Flat" in out
    assert "{" not in out
    code, out, _ = run("info", index, "--json")
    assert json.loads(out)["settings"]["token_states"]["kind"] == "fp16"


def test_add_update_and_delete(run, index, tmp_path):
    more = lines(tmp_path / "more.jsonl", [{"_id": "owl", "text": "Owls hoot at night."}])
    assert json.loads(run("add", index, more, "--json")[1])["documents"] == 5
    assert run("add", index, more)[0] == 3  # it is there already
    lines(more, [*DOCUMENTS[:2], {"_id": "owl", "text": "Owls hunt without a sound."}])
    report = json.loads(run("add", index, more, "--update", "--json")[1])
    assert (report["written"], report["left_unchanged"]) == (1, 2)
    assert run("add", index, more, "--update")[1].splitlines()[1:] == ["written: 0", "left unchanged: 3"]
    assert json.loads(run("search", index, "owls", "-k", 1, "--json")[1])["hits"][0]["text"].endswith("a sound.")
    code, out, _ = run("delete", index, "owl", "dog", "--json")
    assert (code, json.loads(out)["documents"]) == (0, 3)
    assert "dog" not in {hit["id"] for hit in json.loads(run("search", index, "dogs", "--json")[1])["hits"]}


# -- search ------------------------------------------------------------------------------------------------------------


def test_the_first_stage_is_what_the_index_has(run, shared_index, corpus, tmp_path):
    assert json.loads(run("search", shared_index, "happy cats", "--json")[1])["first_stage"] == "hybrid"
    for number, (options, stage) in enumerate(((["--lexical", "none"], "dense"), (["--encoder", "none"], "bm25"))):
        assert run("index", corpus, "--out", tmp_path / str(number), *options)[0] == 0
        assert json.loads(run("search", tmp_path / str(number), "happy cats", "--json")[1])["first_stage"] == stage


def test_min_score_cuts_some_all_and_none(run, shared_index):
    whole = json.loads(run("search", shared_index, "happy cats", "--json")[1])["hits"]
    relevances = [hit["relevance"] for hit in whole]
    assert relevances == sorted(relevances, reverse=True) and all(0 <= relevance <= 1 for relevance in relevances)
    for min_score, left in ((0, 4), (relevances[1], 2)):
        answer = json.loads(run("search", shared_index, "happy cats", "--min-score", min_score, "--json")[1])
        assert answer["hits"] == whole[:left] and answer["warnings"] == []
    code, out, _ = run("search", shared_index, "happy cats", "--min-score", 1, "--json")
    answer = json.loads(out)
    assert (code, answer["hits"], answer["passages"]) == (0, [], 5)
    best = f"{relevances[0]:.3g}"
    assert answer["warnings"] == [f"nothing scored above min_score 1; the best relevance is {best}"]


@pytest.mark.parametrize("more", [[], ["--explain"], ["--evidence"]], ids=str)
def test_an_empty_list_is_said_plainly(run, shared_index, more):
    code, out, _ = run("search", shared_index, "happy cats", "--min-score", 1, *more)
    assert code == 0
    assert "note: nothing scored above min_score 1; the best relevance is" in out and "nothing found" not in out
    assert "relevance 0." in run("search", shared_index, "happy cats", "-k", 1, *more)[1]
    assert "nothing found with this filter" in run("search", shared_index, "cats", "--where", "lang=fr", *more)[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--rerank", "minilm-mass"],
            "--min-score is compared with the relevance, and minilm-mass has none: its scores are relative",
        ),
        (["--rerank", "minilm-log-mass"], "minilm-log-mass has none: its scores are not calibrated"),
        (["--rerank", "none"], "--min-score needs a reranker"),
        (["--min-score", "1.5"], "--min-score must be a number from 0 to 1"),
        (["--min-score", "nan"], "--min-score must be a number from 0 to 1"),
        (["--explain", "--rerank", "minilm-mass"], "minilm-mass has none"),
    ],
    ids=str,
)
def test_a_min_score_that_means_nothing_is_refused(run, shared_index, options, said):
    code, out, err = run("search", shared_index, "happy cats", "--min-score", 0.5, *options)
    assert (code, out) == (2, "") and said in " ".join(err.split())


@pytest.mark.parametrize("stage", ["dense", "bm25", "hybrid"])
@pytest.mark.parametrize("rerank", ["minilm", "none"])
def test_search_finds_in_every_way(run, shared_index, stage, rerank):
    code, out, _ = run("search", shared_index, "happy cats", "--first-stage", stage, "--rerank", rerank, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["hits"][0]["id"] == "cat"
    assert answer["reranker"] == (None if rerank == "none" else rerank)
    assert (answer["hits"][0]["mass"] is None) == (rerank == "none")


def test_evidence_is_shown_and_the_best_sentence_is_marked(run, shared_index, terminal):
    code, out, _ = run("search", shared_index, "why do happy cats purr", "-k", 1, "--evidence")
    assert code == 0
    assert re.search(r"\x1b\[1;33mCats purr when they are content\.\x1b\[0m", out)
    assert re.search(r"\[\d+%\]", out)


def test_evidence_by_token_marks_words_of_the_whole_passage(run, shared_index, terminal):
    out = run("search", shared_index, "purr", "-k", 1, "--evidence", "--evidence-grain", "token")[1]
    assert re.search(r"\x1b\[1;30;43m(pu|rr|purr)\x1b", out)
    assert "Iron rusts in wet air. Cats" in STYLES.sub("", out)


def test_evidence_in_json_has_offsets_of_the_text(run, shared_index):
    hit = json.loads(run("search", shared_index, "happy cats", "-k", 1, "--evidence", "--json")[1])["hits"][0]
    assert hit["evidence"]
    for span in hit["evidence"]:
        assert {"title": "Cats", "text": DOCUMENTS[0]["text"]}[span["field"]][span["start"] : span["end"]] == span[
            "text"
        ]


def test_without_evidence_an_excerpt_is_shown(run, shared_index):
    out = run("search", shared_index, "market in town", "-k", 1)[1]
    assert re.search(r"Town \d+ has a market", out)
    assert "…" in out


def test_lines_fit_a_terminal_and_stay_indented(run, shared_index, terminal):
    out = STYLES.sub("", run("search", shared_index, "market in town", "--evidence", "-k", 4)[1])
    assert max(map(len, out.splitlines())) <= 80
    body = [line for line in out.splitlines() if line and not re.match(r" *\d+  |\d+ passages", line)]
    assert body
    assert all(line.startswith("     ") for line in body)


def test_a_pipe_gets_every_text_in_one_line(run, shared_index):
    out = run("search", shared_index, "market in town", "-k", 1)[1]
    assert max(map(len, out.splitlines())) > 200


def test_explain_tells_stages_and_tokens(run, shared_index):
    out = run("search", shared_index, "purr loudly", "--explain", "-k", 2)[1]
    assert "dense #1, bm25 #1" in out
    assert re.search(r"each query token pays: \S+ \d+\.\d%, ", out)
    hits = json.loads(run("search", shared_index, "purr loudly", "--explain", "-k", 2, "--json")[1])["hits"]
    assert hits[0]["stages"]["bm25"][0] == 1


@pytest.mark.parametrize("more", [[], ["--explain"]])
def test_passages_are_shown_where_asked(run, shared_index, more):
    hits = json.loads(run("search", shared_index, "market in town", "--passages", "--json", *more)[1])["hits"]
    assert [hit["id"] for hit in hits].count("long") > 1


@pytest.mark.parametrize(
    ("where", "ids"),
    [(["lang=en"], {"cat"}), (["year>=2001", "year<2010"], {"cat"}), (["year!=2001"], {"dog"}), (["lang=xx"], set())],
)
def test_where_filters(run, shared_index, where, ids):
    options = [part for text in where for part in ("--where", text)]
    answer = json.loads(run("search", shared_index, "cats", "--json", *options)[1])
    assert {hit["id"] for hit in answer["hits"]} >= ids
    assert (answer["hits"] == []) == (ids == set())


def test_nothing_found_is_said(run, shared_index):
    code, out, _ = run("search", shared_index, "cats", "--where", "lang=xx")
    assert code == 0
    assert "nothing found with this filter" in out


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("yeer>2000", "no document has a field 'yeer'"),
        ('year="2001"', "field 'year' holds numbers, and '2001' is a text"),
        ("year=>2000", "there is no operator =>; write >="),
    ],
)
def test_filter_that_compares_nothing_is_refused_in_words(run, shared_index, where, message):
    code, _, err = run("search", shared_index, "cats", "--where", where)
    assert code == 2
    assert message in " ".join(err.split())


# -- text that would steer a terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [[], ["--evidence"], ["--evidence", "--evidence-grain", "token"], ["--explain"], ["--rerank", "none"]],
    ids=str,
)
def test_documents_cannot_steer_the_terminal(run, shared_index, terminal, options):
    code, out, _ = run("search", shared_index, "terminal markup escapes \x1b[31m", *options)
    assert code == 0
    shown = STYLES.sub("", out)
    assert not STEERS.search(shown)
    flat = " ".join(shown.split())
    for literal in ("[bold]Title[/]", "[bold red]x[/]", "[/] and ␛[2J␛]0;owned␇", "[b]evil[/b]␛[1m"):
        assert literal in flat


def test_json_cannot_steer_the_terminal_either_and_keeps_the_text(run, shared_index):
    out = run("search", shared_index, "terminal markup escapes", "-k", 1, "--json")[1]
    assert not STEERS.search(out)
    assert json.loads(out)["hits"][0]["text"] == EVIL


def test_errors_cannot_steer_the_terminal(run, tmp_path):
    code, _, err = run("info", tmp_path / "no[bold]such\x1b[31m")
    assert code == 4
    assert "no[bold]such␛[31m" in err
    assert not STEERS.search(err)


def test_visible_leaves_plain_text_alone():
    plain = "Čapek’s 猫 “nyā” 🐈 naïve ½ [b]x[/b]"
    assert visible(plain) == plain
    assert visible("a\r\nb\tc\x00\x7f\ud800") == "a  b c␀␡\ufffd"


# -- rerank, eval ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_rerank_writes_a_better_run(run, beir, tmp_path, as_json):
    options = ["--data", beir, "--run", beir / "given.trec", "--out", tmp_path / "out.trec"]
    code, out, _ = run("rerank", *options, *(["--json"] if as_json else []))
    assert code == 0
    assert (json.loads(out)["queries"] == 2) if as_json else ("2 queries reranked by minilm" in out)
    assert next(iter(parse_run(tmp_path / "out.trec")["q1"])) == "cat"


@pytest.mark.parametrize("as_json", [True, False])
def test_rerank_cuts_by_min_score(run, beir, tmp_path, as_json):
    def rerank(min_score):
        options = ["--data", beir, "--run", beir / "given.trec", "--out", tmp_path / "out.trec"]
        options += ["--min-score", min_score, *(["--json"] if as_json else [])]
        code, out, _ = run("rerank", *options)
        assert code == 0
        return out, parse_run(tmp_path / "out.trec")

    reranker = load_reranker("minilm")
    out, whole = rerank(0)
    assert [len(scores) for scores in whole.values()] == [2, 2]
    relevances = sorted(reranker.relevance(score) for scores in whole.values() for score in scores.values())
    assert sum(map(len, rerank((relevances[1] + relevances[2]) / 2)[1].values())) == 2
    out, one = rerank(relevances[-1])
    assert sum(map(len, one.values())) == len(one) == 1
    if as_json:
        assert json.loads(out)["queries_without_documents"] == 1
    else:
        assert "note: for 1 of them nothing scored above min_score 0." in out


def test_rerank_refuses_a_min_score_that_means_nothing(run, beir, tmp_path):
    options = ["--data", beir, "--run", beir / "given.trec", "--out", tmp_path / "out.trec", "--min-score", 0.5]
    code, _, err = run("rerank", *options, "--min-score", 1)
    assert code == 2 and "nothing scored above --min-score 1 for any query" in " ".join(err.split())
    code, _, err = run("rerank", *options, "--rerank", "minilm-mass")
    assert code == 2 and "minilm-mass has none: its scores are relative" in " ".join(err.split())
    assert not (tmp_path / "out.trec").exists()


def test_rerank_scores_words_by_the_index_that_it_is_given(run, beir, tmp_path):
    from sightline.retrieval.index import Index
    from sightline.retrieval.sources import load_documents

    Index.build(tmp_path / "index", load_documents(beir / "corpus.jsonl"), encoder="minilm").close()
    runs = []
    for options in ([], ["--index", tmp_path / "index"]):
        path = tmp_path / "out.trec"
        code, _, _ = run("rerank", "--data", beir, "--run", beir / "given.trec", "--out", path, *options)
        runs.append(parse_run(path))
        assert code == 0
    assert runs[0].keys() == runs[1].keys() and runs[0] != runs[1]


def test_eval_prints_a_table_and_writes_the_same(run, beir, tmp_path):
    systems = "bm25,dense+minilm,given"
    options = ["--systems", systems, "--run", f"given={beir / 'given.trec'}", "--out", tmp_path / "out"]
    code, out, _ = run("eval", beir, *options)
    assert code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["systems"]["given"]["RR@10"] == 0.75
    for name in systems.split(","):
        row = next(line for line in out.splitlines() if f" {name} " in line)
        assert f"{results['systems'][name]['nDCG@10']:.4f}" in row
        assert (tmp_path / "out" / f"{name}.trec").is_file()
    by = results["comparisons"][0]["difference"]["mean"]
    assert f"{by:+.4f}" in next(line for line in out.splitlines() if "dense+minilm - bm25" in line)
    code, out, _ = run("eval", beir, *options, "--json", "--measures", "RR@10")
    assert json.loads(out)["systems"]["given"] == {"RR@10": 0.75}


def test_eval_shows_how_far_relevance_can_be_trusted_or_why_there_is_none(run, beir, tmp_path):
    options = ["--systems", "dense,dense+minilm,dense+minilm-mass", "--out", tmp_path / "out"]
    code, out, _ = run("eval", beir, *options)
    assert code == 0 and "AUROC, lists" in out and "ECE, 15 bins" in out
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    error = written["relevance"]["dense+minilm"]["calibration_error"]["mean"]
    rows = out[out.index("AUROC, lists") :].splitlines()
    assert f"{error:.4f}" in next(line for line in rows if " dense+minilm " in line)
    assert "relative to their list" in next(line for line in rows if " dense+minilm-mass " in line)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>Relevance</h3>" in page and page.count('class="plot reliability"') == 1
    assert "AUROC, lists" not in run("eval", beir, "--systems", "bm25", "--out", tmp_path / "bm25")[1]


# -- calibrate ---------------------------------------------------------------------------------------------------------


def test_calibrate_fits_prints_and_writes_a_layout(run, beir, tmp_path):
    from sightline.rerank import load_layout

    options = ["--out", tmp_path / "mine.yaml", "--work", tmp_path / "work"]
    code, out, _ = run("calibrate", "minilm-log-mass", beir, *options)
    assert code == 0 and "unjudged candidates count as not relevant" in " ".join(out.split())
    relevance = load_layout(tmp_path / "mine.yaml").relevance
    assert f"slope {relevance.slope:.6g}, offset {relevance.offset:.6g}" in out
    code, out, _ = run("calibrate", tmp_path / "mine.yaml", f"{beir}:test", "--work", tmp_path / "work", "--json")
    again = json.loads(out)
    assert code == 0 and again["slope"] == pytest.approx(relevance.slope) and again["file"] is None
    assert list(again["collections"]) == [beir.name]
    for arguments, reason in (
        (["minilm-mass", beir], "relative to their list"),
        (["minilm", beir, "--save"], "not a folder from sightline train"),
        (["sightline-mini", beir, "--out", tmp_path / "x.yaml"], "use --save"),
    ):
        code, _, err = run("calibrate", *arguments)
        assert code == 2 and reason in " ".join(err.split())


# -- bias --------------------------------------------------------------------------------------------------------------


def test_bias_prints_tables_and_writes_the_same(run, beir, tmp_path, monkeypatch):
    wide = Console(width=110)
    monkeypatch.setattr(importlib.import_module("sightline.cli.console"), "console", wide)
    folder = shutil.copytree(beir, tmp_path / "zoo")
    header = "query-id\tcorpus-id\tanswer_start\tanswer_len\tpassage_len\toccurrences\n"
    (folder / "spans.tsv").write_text(f"{header}q1\tcat\t23\t9\t71\t1\nq2\tdog\t0\t9\t38\t1\n")
    options = ["--systems", "given,given+minilm", "--run", f"given={beir / 'given.trec'}", "--out", tmp_path / "out"]
    code, out, _ = run("bias", folder, *options, "--permutations", 3)
    assert code == 0
    written = json.loads((tmp_path / "out" / "bias.json").read_text())
    assert [entry["system"] for entry in written["order"]] == ["given+minilm"]
    assert written["order"][0]["score_variance"] == 0.0 and written["command"].startswith(
        "sightline bias zoo --systems"
    )
    assert str(tmp_path) not in json.dumps(written)
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "1.0000 (1.0000 1.0000)" in rows["Kendall's tau"] and rows["rank variance"].split("│")[2].strip() == "0"
    for entry in written["position"]:
        row = rows[f"{entry['system']}, {'first character' if entry['axis'] == 'start' else 'relative position'}"]
        assert f"{entry['mean']:.4f}" in row
        assert ("undefined" if entry["psi"]["value"] is None else f"p {entry['psi']['p']:.4f}") in row
    assert {"ends minus middle", "PSI over slots", "changed by exchanged ids", "PSI over lengths"} < set(rows)
    assert len(out.splitlines()) < 40 and str(tmp_path / "out" / "report.html") in out
    assert "Place of the evidence in the document" in (tmp_path / "out" / "report.html").read_text()
    code, out, _ = run("bias", folder, *options, "--kind", "order", "--max-queries", 1, "--json")
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "out" / "bias.json").read_text()) and printed["queries"] == 1
    assert printed["position"] == printed["documents"] == []


def test_eval_of_two_folders_reports_them_together(run, beir, tmp_path):
    other = shutil.copytree(beir, tmp_path / "other")
    code, out, _ = run("eval", beir, other, "--systems", "bm25", "--out", tmp_path / "out", "--max-queries", "1")
    assert code == 0 and "other" in out
    assert (tmp_path / "out" / "other" / "results.json").is_file() and (tmp_path / "out" / "report.html").is_file()
    code, _, err = run("eval", beir, other, "--systems", "bm25", "--out", tmp_path / "o", "--index", tmp_path)
    assert code == 2 and "for one collection" in err


def test_matrix_runs_a_plan(run, beir, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"first_stages: [bm25]\nrerankers: [minilm]\ncollections: [{{folder: {beir.name}}}]\n")
    code, out, _ = run("matrix", beir.parent, "--plan", plan, "--out", tmp_path / "out", "--json")
    [summary] = json.loads(out)
    assert code == 0 and list(summary["systems"]) == ["bm25", "bm25+minilm"]


def test_bench_puts_cost_beside_quality_and_report_renders_it_again(run, beir, tmp_path):
    out = tmp_path / "out"
    code, text, _ = run("bench", beir, "--systems", "bm25,dense+minilm", "--out", out, "--cost-queries", "1")
    assert code == 0 and "p99" in text and "dense+minilm" in text
    results = json.loads((out / "results.json").read_text())
    assert results["cost"]["queries"] == 1 and str(tmp_path) not in json.dumps(results)
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    code, text, _ = run("report", out, "--json")
    assert code == 0 and len(json.loads(text)["files"]) == 3
    assert (out / "report.html").read_text() == page


def test_every_table_says_that_positives_were_added(run, beir, tmp_path):
    arguments = [
        "eval",
        beir,
        "--systems",
        "given,given+minilm",
        "--run",
        f"given={beir / 'given.trec'}",
        "--candidates",
        1,
    ]
    code, plain, _ = run(*arguments, "--out", tmp_path / "honest")
    assert code == 0 and "POSITIVES" not in plain
    assert json.loads((tmp_path / "honest" / "results.json").read_text())["positives_added"] is False
    code, said, _ = run(*arguments, "--out", tmp_path / "added", "--add-positives")
    assert code == 0 and " ".join(said.split()).count("POSITIVES ADDED to what was reranked") == 3
    results = json.loads((tmp_path / "added" / "results.json").read_text())
    assert results["positives_added"] is True
    assert results["systems"]["given"]["RR@10"] == 0.5 < results["systems"]["given+minilm"]["RR@10"]


def test_any_measure_and_a_missing_baseline(run, beir, tmp_path):
    arguments = ["eval", beir, "--run", f"given={beir / 'given.trec'}", "--out", tmp_path / "out"]
    measures = "nDCG(dcg='log2', gains={1: 5})@10,AP(rel=1)@5, Judged@2"
    code, out, _ = run(*arguments, "--systems", "given", "--measures", measures, "--json")
    assert code == 0
    values = json.loads(out)["systems"]["given"]
    assert values == pytest.approx(
        {"nDCG(dcg='log2', gains={1: 5})@10": (1 + 1 / math.log2(3)) / 2, "AP(rel=1)@5": 0.75, "Judged@2": 0.5}
    )
    code, _, err = run(*arguments, "--systems", f"given+cross-encoder:{tmp_path}/none")
    assert code == 5 and f"the weights of '{tmp_path}/none' cannot be loaded" in "".join(err.split("\n"))


# -- what goes wrong ---------------------------------------------------------------------------------------------------

WRONG = {
    "no such bias": (["bias", "{beir}", "--systems", "bm25", "--kind", "colour", "--out", "{tmp}/o"], 2),
    "no places of answers": (["bias", "{beir}", "--systems", "bm25", "--kind", "position", "--out", "{tmp}/o"], 2),
    "nothing to reorder": (["bias", "{beir}", "--systems", "bm25", "--kind", "order", "--out", "{tmp}/o"], 2),
    "no collection": (["bias", "{tmp}/absent", "--systems", "bm25", "--out", "{tmp}/o"], 3),
    "no index": (["info", "{tmp}/absent"], 4),
    "not an index": (["search", "{tmp}", "cats"], 4),
    "an index is there": (["index", "{corpus}", "--out", "{index}"], 4),
    "empty query": (["search", "{index}", " "], 2),
    "bad filter": (["search", "{index}", "cats", "--where", "lang"], 2),
    "filter given twice": (["search", "{index}", "cats", "--where", "a=1", "--where", "a=2"], 2),
    "evidence of nothing": (["search", "{index}", "cats", "--rerank", "none", "--evidence"], 2),
    "unknown reranker": (["search", "{index}", "cats", "--rerank", "nothing"], 2),
    "bad number": (["search", "{index}", "cats", "-k", "0"], 2),
    "unknown option": (["search", "{index}", "cats", "--colour"], 2),
    "no such corpus": (["index", "{tmp}/absent.jsonl", "--out", "{tmp}/x"], 3),
    "unknown format": (["index", "{corpus}", "--format", "xml", "--out", "{tmp}/x"], 2),
    "bad faiss": (["index", "{corpus}", "--faiss", "Nonsense7", "--out", "{tmp}/x"], 2),
    "bad overlap": (["index", "{corpus}", "--overlap", "-1", "--out", "{tmp}/x"], 2),
    "id there": (["add", "{index}", "{corpus}"], 3),
    "id not there": (["delete", "{index}", "ghost"], 2),
    "no such run": (["rerank", "--data", "{beir}", "--run", "{tmp}/no.trec", "--out", "{tmp}/o.trec"], 3),
    "no such split": (["eval", "{beir}", "--systems", "bm25", "--split", "dev", "--out", "{tmp}/o"], 3),
    "unknown system": (["eval", "{beir}", "--systems", "splade", "--out", "{tmp}/o"], 2),
    "no results": (["report", "{tmp}"], 3),
    "unknown collection": (
        ["matrix", "{tmp}", "--plan", "{tmp}/plan.yaml", "--only", "nothing", "--out", "{tmp}/o"],
        2,
    ),
    "a cost of what was given": (["bench", "{beir}", "--systems", "given", "--out", "{tmp}/o"], 2),
    "unknown measure": (["eval", "{beir}", "--systems", "bm25", "--measures", "fun", "--out", "{tmp}/o"], 2),
    "bad run option": (["eval", "{beir}", "--systems", "bm25", "--run", "x", "--out", "{tmp}/o"], 2),
}


def test_rerank_reads_requests_and_writes_every_format(run, beir, tmp_path):
    from sightline.eval.runs import load_run

    rerank = ["rerank", "--data", beir, "--run", beir / "given.trec", "--json", "--out"]
    for name in ("run.trec", "run.tsv", "run.json", "requests.jsonl"):
        code, _, err = run(*rerank, tmp_path / name)
        assert (code, err) == (0, "")
    expected = load_run(tmp_path / "run.trec")
    assert load_run(tmp_path / "run.json") == load_run(tmp_path / "requests.jsonl") == expected
    order = {id: list(scores) for id, scores in expected.items()}
    assert {id: list(scores) for id, scores in load_run(tmp_path / "run.tsv").items()} == order
    code, out, _ = run("rerank", "--requests", tmp_path / "requests.jsonl", "--out", tmp_path / "again.jsonl", "--json")
    assert (code, json.loads(out)["queries"]) == (0, 2)
    again = load_run(tmp_path / "again.jsonl")
    assert {id: list(scores) for id, scores in again.items()} == order
    (tmp_path / "bad.jsonl").write_text((tmp_path / "requests.jsonl").read_text() + '{"query": "x"}\n')
    code, _, err = run("rerank", "--requests", tmp_path / "bad.jsonl", "--out", tmp_path / "again.jsonl")
    assert code == 3 and "bad.jsonl:3: not a request" in "".join(err.split("\n"))


@pytest.mark.parametrize(
    "options", [[], ["--data"], ["--run"], ["--data", "--requests"], ["--run", "--requests"]], ids=str
)
def test_rerank_wants_either_data_and_run_or_requests(run, tmp_path, options):
    arguments = [value for name in options for value in (name, tmp_path / "x")]
    code, _, err = run("rerank", "--out", tmp_path / "out.trec", *arguments)
    assert code == 2 and "either --data and --run, or --requests alone" in " ".join(err.split())


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("as_json", [False, True])
def test_what_goes_wrong_is_told_in_a_line_with_its_exit_code(run, shared_index, corpus, beir, tmp_path, case, as_json):
    arguments, expected = WRONG[case]
    places = {"tmp": tmp_path, "index": shared_index, "corpus": corpus, "beir": beir}
    (tmp_path / "plan.yaml").write_text("first_stages: [bm25]\nrerankers: []\ncollections: [{folder: zoo}]\n")
    code, out, err = run(*(argument.format(**places) for argument in arguments), *(["--json"] if as_json else []))
    assert code == expected
    assert out == ""
    assert "Traceback" not in err
    if case in {"bad number", "unknown option"}:
        assert "Usage" in err
    elif as_json:
        assert set(json.loads(err)) == {"error", "message"}
    else:
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_a_missing_backend_has_its_own_exit_code(run, shared_index, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_BACKEND", "abacus")
    code, _, err = run("search", shared_index, "cats")
    assert code == 5
    assert "abacus" in err


@pytest.fixture
def command():
    return [sys.executable, "-c", "from sightline.cli import main; main()"]


def test_the_process_ends_with_the_exit_code_and_no_traceback(command, tmp_path):
    done = subprocess.run([*command, "info", tmp_path], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_quietly_with_what_to_do(command, tmp_path):
    corpus, made = tmp_path / "corpus.jsonl", tmp_path / "made"
    corpus.write_text("".join(f'{{"_id": "{i}", "text": "passage {i}"}}\n' for i in range(200_000)))
    started = subprocess.Popen(
        [*command, "index", corpus, "--out", made, "--encoder", "none"], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    until = time.monotonic() + 60
    while not (made / "manifest.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
