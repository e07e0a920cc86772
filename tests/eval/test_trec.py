import bz2
import gzip
import lzma
import math
import os
import pathlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.errors import DataError, InputError
from sightline.eval.trec import parse_qrels, parse_queries, parse_run, trec_order, untie, write_run

READERS = {"qrels": parse_qrels, "queries": parse_queries, "run": parse_run}


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


BAD = [
    ("run", "run.trec", "q Q0 d 1 0.5 t\n", bad)
    for bad in [
        "q Q0 e 2 0.5",
        "q Q0 e 2 0.5 t more",
        "q",
        "q Q0 e 2 nan t",
        "q Q0 e 2 inf t",
        "q Q0 e 2 -Infinity t",
        "q Q0 e 2 1e999 t",
        "q Q0 e 2 0x1 t",
        "q Q0 e 2 1_0 t",
        "q Q0 e 2 x t",
        "q Q0 e 2 1,5 t",
        "q Q0 e 2 ٣ t",
        "q Q0 d 2 0.5 t",
        "q Q0 d 2 0.4 t",
        "q Q0 e\0 2 0.5 t",
        b"q Q0 caf\xe9 2 0.5 t",
        b"q Q0 \xed\xa0\x80 2 0.5 t",
    ]
]
BAD += [
    ("run", "run.tsv", "q\td\t1\n", bad)
    for bad in [
        "q\te",
        "q\te\t0",
        "q\te\t-1",
        "q\te\t2.0",
        "q\te\tx",
        "q\te\t1",
        "q\td\t2",
        "q\te\t1234567890",
        "q Q0 e 2 0.5 t",
    ]
]
BAD += [
    ("qrels", "qrels.txt", "q 0 d 1\n", bad)
    for bad in [
        "q 0 e",
        "q 0 e 1 x",
        "q\te\t1",
        "q 0 e 1.5",
        "q 0 e nan",
        "q 0 e x",
        "q 0 e 1_0",
        "q 0 e ٣",
        "q 0 d 2",
        "q 0 e 1234567890",
        "q 0 e\0 1",
        b"q 0 \xff 1",
    ]
]
BAD += [
    ("qrels", "test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n", bad)
    for bad in [
        "q\te",
        "q\te\t1\tx",
        "q e f 1",
        "q\t\t1",
        "\te\t1",
        "q\te\t",
        "q\te\t1.5",
        "q\td\t0",
        "query-id\tcorpus-id\tscore",
        b"q\t\xe9\t1",
    ]
]
BAD += [
    ("queries", "queries.tsv", "q\ttext\n", bad)
    for bad in [
        "r",
        "r text",
        "r\ttext\tmore",
        "r\t",
        "r\t ",
        "\ttext",
        "q\tother",
        "q\ttext",
        "r\ta\0b",
        b"r\tcaf\xe9",
    ]
]
BAD += [
    ("queries", "queries.jsonl", '{"_id": "q", "text": "text"}\n', bad)
    for bad in [
        "x",
        "[]",
        '"q"',
        "null",
        '{"_id": "r"}',
        '{"text": "t"}',
        '{"_id": "q", "text": "t"}',
        '{"_id": "", "text": "t"}',
        '{"_id": "r", "text": ""}',
        '{"_id": "r", "text": 1}',
        '{"_id": 1.5, "text": "t"}',
        '{"_id": true, "text": "t"}',
        '{"_id": null, "text": "t"}',
        '{"_id": "r", "text": "\\ud800"}',
        '{"_id": "r\\u0000", "text": "t"}',
        "[" * 100_000,
        b'{"_id": "r", "text": "caf\xe9"}',
    ]
]


@pytest.mark.parametrize(("kind", "name", "good", "bad"), BAD, ids=[f"{b[1]}-{b[3]!r:.50}" for b in BAD])
def test_bad_line(kind, name, good, bad, tmp_path):
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path = write(tmp_path / name, good.encode() + b"\n" + bad + b"\n")
    with pytest.raises(DataError) as caught:
        READERS[kind](path)
    line = good.count("\n") + 2
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert (caught.value.path, caught.value.line) == (path, line)
    assert READERS[kind](write(tmp_path / name, good))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("data", ["", "\n", " \n\r\n", b"\xef\xbb\xbf"])
def test_empty_file(kind, data, tmp_path):
    for name in ("x.txt", "x.jsonl"):
        with pytest.raises(DataError, match=rf"{name}: holds no "):
            READERS[kind](write(tmp_path / name, data))


def test_header_alone(tmp_path):
    with pytest.raises(DataError, match="holds no judgement"):
        parse_qrels(write(tmp_path / "x.tsv", "query-id\tcorpus-id\tscore\n"))


@pytest.mark.parametrize("kind", READERS)
def test_missing_file(kind, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            READERS[kind](path)


def test_queries(tmp_path):
    path = write(
        tmp_path / "queries.jsonl", '\ufeff{"_id": 1, "text": " a b ", "x": {}}\n\n{"id": "b", "text": "日本"}'
    )
    assert parse_queries(path) == {"1": " a b ", "b": "日本"}
    assert list(parse_queries(write(tmp_path / "q.tsv", "2\ttwo words\r\n1\tone\r\n")).items()) == [
        ("2", "two words"),
        ("1", "one"),
    ]


def test_qrels(tmp_path):
    beir = write(tmp_path / "test.tsv", "query-id\tcorpus-id\tscore\r\nq 1\td 1\t2\r\nq 1\td2\t0\r\nq 1\td 1\t2\r\n")
    assert parse_qrels(beir) == {"q 1": {"d 1": 2, "d2": 0}}
    trec = write(tmp_path / "qrels", "\ufeffq1 Q0 d1 -1\n\nq2\t0   d1\t+3 \nq2 0 d\u00a02 1\nq1 0 d1 -1\n")
    assert parse_qrels(trec) == {"q1": {"d1": -1}, "q2": {"d1": 3, "d\u00a02": 1}}


VARIANTS = {
    "no header": "q1\td1\t1\nq1\td2\t0\n",
    "underscores": "query_id\tcorpus_id\tscore\nq1\td1\t1\nq1\td2\t0\n",
    "blanks": "query-id corpus-id score\nq1 d1 1\nq1 d2 0\n",
    "qid and cid": "qid\tcid\tscore\nq1\td1\t1\nq1\td2\t0\n",
    "other order": "corpus-id\tquery-id\tscore\nd1\tq1\t1\nd2\tq1\t0\n",
    "four columns with a header": "qid\titer\tdocid\trel\nq1\t0\td1\t1\nq1\t0\td2\t0\n",
    "MS MARCO": "q1\t0\td1\t1\nq1\t0\td2\t0\n",
    "capitals and quotes": '"Query-ID"\t"Corpus-ID"\t"Score"\nq1\td1\t1\nq1\td2\t0\n',
    "CRLF and a byte order mark": "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td2\t0\r\n",
    "floats": "q1\td1\t1.0\nq1\td2\t0.0\n",
    "header by blanks, rows by tabs": "query-id corpus-id score\nq1\td1\t1\nq1\td2\t0\n",
}


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_judgements_in_many_forms_are_the_same(text, tmp_path):
    assert parse_qrels(write(tmp_path / "test.tsv", text)) == {"q1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize("text", ["query document grade\nq d 1\n", "a\tb\tc\nq\td\t1\n", "a b\nq d\n", "who, what\n"])
def test_a_first_line_that_is_neither_header_nor_judgement_says_what_is_needed(text, tmp_path):
    text = text.replace("query document grade", "question answer mark")
    with pytest.raises(DataError, match=r"tsv:1: .*header query-id, corpus-id, score"):
        parse_qrels(write(tmp_path / "test.tsv", text))


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_compressed_files_are_read(suffix, tmp_path):
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix]
    run = write(tmp_path / f"run.trec{suffix}", pack(b"q Q0 d 1 0.5 t\n"))
    assert parse_run(run) == {"q": {"d": 0.5}}
    assert parse_qrels(write(tmp_path / f"test.tsv{suffix}", pack(b"q\td\t2\n"))) == {"q": {"d": 2}}
    jsonl = write(tmp_path / f"queries.jsonl{suffix}", pack(b'{"_id": "q", "text": "t"}\n'))
    assert parse_queries(jsonl) == {"q": "t"}
    if suffix:
        for name in ("run.trec", "test.tsv", "queries.jsonl"):
            damaged = (tmp_path / f"{name}{suffix}").read_bytes()[:-7]
            reader = {"run.trec": parse_run, "test.tsv": parse_qrels, "queries.jsonl": parse_queries}[name]
            with pytest.raises(DataError):
                reader(write(tmp_path / f"{name}{suffix}", damaged))


def test_a_header_of_queries_is_no_query(tmp_path):
    assert parse_queries(write(tmp_path / "queries.tsv", "query_id\ttext\nq1\tcats\n")) == {"q1": "cats"}
    assert parse_queries(write(tmp_path / "queries.tsv", "q0\tquery\nq1\tcats\n")) == {"q0": "query", "q1": "cats"}


def test_ids_with_blanks_come_back(tmp_path):
    run = {"what is it?": {"user guide.md": 2.0, " d": 1.0, "d ": 0.5}, "q": {"d 1 2 0.5 t": 1.0}}
    write_run(tmp_path / "x.trec", run, "mine")
    assert parse_run(tmp_path / "x.trec") == run
    ranks = {query: {d: 1 / n for n, d in enumerate(trec_order(scores), 1)} for query, scores in run.items()}
    write_run(tmp_path / "x.tsv", run, "mine", "msmarco")
    assert parse_run(tmp_path / "x.tsv") == ranks
    assert parse_qrels(write(tmp_path / "qrels", "what is it?\t0\tuser guide.md\t1\n")) == {
        "what is it?": {"user guide.md": 1}
    }


def test_a_run_is_not_written_under_the_name_of_a_compressed_file(tmp_path):
    with pytest.raises(InputError, match="without compression"):
        write_run(tmp_path / "x.trec.gz", {"q": {"d": 1.0}}, "t")


def test_run(tmp_path):
    path = write(tmp_path / "run", "q1 Q0 d:1/ä\u3000\x1c 1 1.5 t\r\n\nq2\tQ0\td1  7\t-2e-3 t\nq1 Q0 d2 x .5 t\n")
    assert parse_run(path) == {"q1": {"d:1/ä\u3000\x1c": 1.5, "d2": 0.5}, "q2": {"d1": -0.002}}


def test_msmarco_run(tmp_path):
    path = write(tmp_path / "run.tsv", "q1\td2\t2\r\nq1 d1 1\n\nq2\td1\t1\n")
    assert parse_run(path) == {"q1": {"d1": 1.0, "d2": 0.5}, "q2": {"d1": 1.0}}


@pytest.mark.parametrize("format", ["kilt", "", None])
def test_a_format_that_there_is_not(tmp_path, format):
    with pytest.raises(InputError, match=r"'trec' or 'msmarco'"):
        write_run(tmp_path / "run", {"q": {"d": 1.0}}, "t", format)


@given(st.dictionaries(st.integers(0, 99).map(str), st.integers(0, 3).map(float), min_size=1))
def test_an_msmarco_run_keeps_the_order(scores):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "run.tsv")
        write_run(path, {"q": scores}, "t", "msmarco")
        assert list(parse_run(path)["q"]) == trec_order(scores)
        assert path.read_text() == "".join(f"q\t{d}\t{n}\n" for n, d in enumerate(trec_order(scores), 1))


close = st.sampled_from([0.0, 1.0, 1.0 + 1e-12, 1.0 + 1e-6, 2.5, -3.0, 1e-30, 1e300, 1e301])


def trec_eval_order(scores):
    """What trec_eval takes for the order, found by asking it for the rank of one document after another."""
    ranks = {}
    for document in scores:
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {document: 1}}, {"recip_rank"})
        ranks[round(1 / evaluator.evaluate({"q": dict(scores)})["q"]["recip_rank"])] = document
    return [ranks[rank] for rank in sorted(ranks)]


@given(st.dictionaries(st.text("ab0é日🂡", min_size=1, max_size=3), close, min_size=1, max_size=9))
def test_the_order_is_that_of_trec_eval(scores):
    assert trec_order(scores) == trec_eval_order(scores)


@given(st.dictionaries(st.text("ab0é日🂡", min_size=1, max_size=3), close, min_size=1, max_size=9), st.randoms())
def test_untied_scores_are_in_the_order_shown(scores, random):
    shown = list(scores)
    random.shuffle(shown)
    shown.sort(key=scores.__getitem__, reverse=True)  # best first, ties in any order
    untied = untie({document: scores[document] for document in shown})
    assert list(untied) == shown == trec_eval_order(untied)
    assert untie(untied) == untied
    for document, score in untied.items():
        assert score <= scores[document]
        if scores[document] < 1e38:
            assert score == pytest.approx(scores[document], rel=1e-5, abs=1e-5)


@given(st.dictionaries(st.text("ab0é日", min_size=1, max_size=3), close, min_size=1, max_size=9))
def test_what_needs_no_untying_is_kept_to_the_last_bit(scores):
    there = {document: scores[document] for document in trec_order(scores)}
    assert untie(there) == there


names = st.text(
    alphabet=st.characters(exclude_characters="\0 \t\n\r\v\f", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name[0] != "\ufeff")
blank_names = st.text(
    alphabet=st.one_of(
        st.sampled_from(" 1a.\v"), st.characters(exclude_characters="\0\t\n\r", exclude_categories=["Cs"])
    ),
    min_size=1,
    max_size=8,
).filter(lambda name: name[0] != "\ufeff" and name.strip(" \v\f"))
scores = st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(names, st.dictionaries(names, scores, min_size=1, max_size=6), min_size=1, max_size=4), names)
def test_run_round_trip(tmp_path, run, tag):
    path = tmp_path / "x.trec"
    write_run(path, run, tag)
    assert list(tmp_path.iterdir()) == [path]
    read = parse_run(path)
    assert read == run and list(read) == list(run)
    for query, by_document in read.items():
        with np.errstate(over="ignore"):
            single = {document: float(np.float32(score)) for document, score in run[query].items()}
        assert list(by_document) == sorted(single, key=lambda document: (single[document], document), reverse=True)
    columns = [line.split(" ") for line in path.read_bytes().decode().split("\n")[:-1]]
    ranks = {}
    for query, q0, _, rank, _, name in columns:
        ranks[query] = ranks.get(query, 0) + 1
        assert (q0, int(rank), name) == ("Q0", ranks[query], tag)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        blank_names, st.dictionaries(blank_names, st.floats(-9, 9), min_size=1, max_size=4), min_size=1, max_size=4
    )
)
def test_any_ids_that_fit_on_a_line_come_back(tmp_path, run):
    write_run(tmp_path / "x.trec", run, "t")
    assert parse_run(tmp_path / "x.trec") == run


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({}, "t", "no result"),
        ({"q": {}}, "t", "no result"),
        ({"q": {"d": math.nan}}, "t", "not finite"),
        ({"q": {"e": 1.0, "d": math.inf}}, "t", "not finite"),
        ({"q": {"d\t1": 1.0}}, "t", "document id"),
        ({"q": {" ": 1.0}}, "t", "document id ' '"),
        ({"q": {"": 1.0}}, "t", "document id ''"),
        ({"q\n": {"d": 1.0}}, "t", "query id"),
        ({"q": {"\ud800": 1.0}}, "t", "surrogate"),
        ({"q": {"\0": 1.0}}, "t", "NUL"),
        ({"\ufeffq": {"d": 1.0}}, "t", "byte order mark"),
        ({"q": {"d": 1.0}}, "", "tag ''"),
        ({"q": {"d": 1.0}}, "a b", "tag 'a b'"),
    ],
)
def test_run_that_cannot_be_written(run, tag, message, tmp_path):
    path = write(tmp_path / "x.trec", "former")
    with pytest.raises(InputError, match=message):
        write_run(path, run, tag)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_run_into_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"none/x.trec: cannot be written"):
        write_run(tmp_path / "none" / "x.trec", {"q": {"d": 1.0}}, "t")


def test_query_without_documents_and_numpy_scores(tmp_path):
    import numpy as np

    write_run(tmp_path / "x", {"p": {}, "q": {"d": np.float32(0.1), "e": 2}}, "t")
    assert parse_run(tmp_path / "x") == {"q": {"e": 2.0, "d": float(np.float32(0.1))}}


@pytest.mark.data
def test_real_collection():
    root = os.environ.get("SIGHTLINE_DATA")
    if not root:
        pytest.skip("SIGHTLINE_DATA is not set: no judged collections to read")
    folder = Path(root, "trec_dl19")
    queries, qrels = parse_queries(folder / "queries.jsonl"), parse_qrels(folder / "qrels" / "test.tsv")
    run, full = parse_run(folder / "run.bm25.trec"), parse_qrels(folder / "qrels.full.trec")
    assert len(qrels) == 43 and qrels.keys() <= queries.keys() and run.keys() <= queries.keys()
    assert all(full[query][document] == grade for query in qrels for document, grade in qrels[query].items())
