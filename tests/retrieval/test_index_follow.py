"""Two processes on one index: an open reader answers from the writer's last commit, and from one commit only."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sightline.documents import Document
from sightline.errors import DataError, IndexLockedError, IndexStoreError
from sightline.retrieval import files, writing
from sightline.retrieval.faiss_index import import_faiss
from sightline.retrieval.filters import Filter
from sightline.retrieval.index import Index
from sightline.search import Searcher

# Another process: it opens the index, does what each line says, and answers when it is done.
_WRITER = """
import importlib.util, sys
from sightline.documents import Document
from sightline.retrieval.filters import Filter
from sightline.retrieval.index import Index

spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
document = lambda number, word="common": Document(f"d{number}", f"{word} word{number}.", metadata={"number": number})
last = index = None
for line in sys.stdin:
    path, line = line.split("\t", 1)
    if not line.startswith("Index.") and path != last:
        index = Index.open(path, encoder=toys.ToyEncoder())
        last = path
    eval(line)
    print("done", flush=True)
"""


def document(number, word="common"):
    return Document(f"d{number}", f"{word} word{number}.", metadata={"number": number})


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
    script = tmp_path_factory.mktemp("writer") / "writer.py"
    script.write_text(_WRITER)
    conftest = Path(__file__).parents[1] / "conftest.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(conftest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    yield process
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture
def writer(tmp_path, other_process):
    """``writer(line)``: run a line of Python in another process, where ``index`` is the index."""

    def write(line):
        other_process.stdin.write(f"{tmp_path / 'index'}\t{line}\n")
        other_process.stdin.flush()
        assert other_process.stdout.readline() == "done\n"

    return write


def seen(index):
    """What each road into an index finds."""
    searcher = Searcher(index, None)
    return {
        "documents": sorted(stored.id for stored in index.documents()),
        "bm25": sorted(hit.id for hit in Searcher(index, None, first_stage="bm25").search("common fresh", 50).hits),
        "dense": sorted(hit.id for hit in searcher.search("common", 50).hits),
        "filtered": sorted(hit.id for hit in searcher.search("common", 50, where={"number": {">=": 0}}).hits),
        "states": len(index.token_keys(index.passages(range(len(index.vectors()))))),
        "texts": sorted(hit.passage.text for hit in searcher.search("common", 50).hits),
    }


@pytest.mark.parametrize("structure", ["Flat", "HNSW8"])
@pytest.mark.parametrize(
    "change",
    [
        "index.add([document(9)])",
        "index.update([document(1, 'fresh')])",
        "index.update([document(number, 'fresh') for number in range(4)])",
        "index.delete(['d2'])",
        "index.delete(['d0', 'd1', 'd2', 'd3'])",
        "(index.delete(['d2']), index.add([document(2, 'fresh')]))",
        "Index.build(path, [document(7), document(8)], overwrite=True, encoder=toys.ToyEncoder(), faiss=STRUCTURE)",
    ],
)
def test_reader_sees_every_kind_of_change(change, structure, tmp_path, toy, writer):
    Index.build(tmp_path / "index", map(document, range(4)), encoder=toy, faiss=structure).close()
    with Index.open(tmp_path / "index", encoder=toy) as reader:
        before = seen(reader)
        assert before["documents"] == before["bm25"] == before["dense"] == ["d0", "d1", "d2", "d3"]
        writer(change.replace("STRUCTURE", repr(structure)))
        with Index.open(tmp_path / "index", encoder=toy) as fresh:
            expected = seen(fresh)
        assert seen(reader) == expected != before
        assert expected["documents"] == expected["bm25"] == expected["dense"] == expected["filtered"]


def test_reader_follows_a_build_that_goes_on(tmp_path, toy, writer, monkeypatch):
    def interrupted():
        yield from map(document, range(600))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path / "index", interrupted(), encoder=toy)
    with Index.open(tmp_path / "index", encoder=toy) as reader:
        assert not reader.manifest.complete and len(reader) == 512
        writer("Index.build(path, map(document, range(700)), encoder=toys.ToyEncoder()).close()")
        assert reader.manifest.complete and len(reader) == 700
        assert reader.search_dense(["word650"], 1)[0].tolist() == reader.search_lexical("word650", 1)[0][None].tolist()


def test_an_answer_is_of_one_commit(tmp_path, toy, writer):
    Index.build(tmp_path / "index", map(document, range(4)), encoder=toy).close()
    with Index.open(tmp_path / "index", encoder=toy) as reader:
        searcher, find, calls = Searcher(reader, None), reader.search_dense, []

        def with_a_write_behind_it(*arguments):
            answer = find(*arguments)
            calls.append(len(calls))
            if len(calls) == 1:
                writer("index.update([document(number, 'fresh') for number in range(4)])")
            return answer

        reader.search_dense = with_a_write_behind_it
        hits = searcher.search("common", 9).hits
        assert sorted(hit.id for hit in hits) == ["d0", "d1", "d2", "d3"] and len(calls) == 2
        assert all(hit.passage.text.startswith("fresh") for hit in hits)


def test_a_writer_that_never_rests_is_kept_out_in_the_end(tmp_path, toy, writer):
    Index.build(tmp_path / "index", map(document, range(4)), encoder=toy).close()
    with Index.open(tmp_path / "index", encoder=toy) as reader:
        tries = []

        def work():
            tries.append(len(reader))
            if len(tries) <= 3:
                writer(f"index.add([document({10 + len(tries)})])")
            return reader.counts()["documents"]

        assert reader.read(work) == 7 and len(tries) == 4


def test_searches_beside_a_writing_thread_are_whole(tmp_path, toy):
    index = Index.build(tmp_path / "index", map(document, range(40)), encoder=toy)
    searcher, errors, done = Searcher(index, None, candidates=200), [], threading.Event()

    def search():
        while not done.is_set():
            try:
                ids = [hit.id for hit in searcher.search("common", 200).hits]
                assert len(set(ids)) == len(ids) >= 40, ids
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(40, 60):
        index.add([document(number)])
        index.update([document(number - 40, "fresh")])
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    index.close()


def test_forked_child_answers_and_leaves_the_parent_alone(tmp_path, toy):
    index = Index.build(tmp_path / "index", map(document, range(4)), encoder=toy)
    expected = index.search_dense(["word2"], 3)[0].tolist()
    child = os.fork()
    if not child:
        status = 1
        try:
            same = index.search_dense(["word2"], 3)[0].tolist() == expected
            index.add([document(9)])
            status = 0 if same and len(index) == 5 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(index) == 5 and index.search_lexical("word9", 1)[0].tolist() == [4]
    index.close()


def test_failed_write_that_says_locked_was_not_committed(tmp_path, toy, monkeypatch):
    index = Index.build(tmp_path / "index", map(document, range(4)), encoder=toy)
    other = Index.open(tmp_path / "index", encoder=toy)
    # At every lock that a write takes, another writer tries to get in between.
    real, refused = files.locked, []

    def with_a_rival(path, **options):
        if path.name != files.WRITER_LOCK and not options.get("shared") and not refused:
            refused.append(True)
            with pytest.raises(IndexLockedError):
                other.add([document(50)])
        return real(path, **options)

    monkeypatch.setattr(files, "locked", with_a_rival)
    index.add([document(9)])
    assert refused and len(index) == len(other) == 5 and other.document("d50") is None
    other.add([document(50)])
    assert len(index) == 6


def test_read_only_copy_without_lock_files_opens(tmp_path, toy, monkeypatch):
    Index.build(tmp_path / "index", map(document, range(4)), encoder=toy).close()
    for name in files.LOCKS:
        (tmp_path / "index" / name).unlink()
    real = os.open

    def read_only(path, flags, *mode, **options):
        if flags & os.O_CREAT and str(path).startswith(str(tmp_path)):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", read_only)
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert index.search_lexical("word2", 1)[0].tolist() == [2]
        with pytest.raises(IndexStoreError, match="Read-only file system"):
            index.add([document(9)])


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "EDEADLK", "EINTR"])
def test_file_systems_without_locks_are_named(number, tmp_path, toy, monkeypatch):
    import errno
    import fcntl

    index = Index.build(tmp_path / "index", map(document, range(4)), encoder=toy)

    def refuse(*arguments):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for call in (lambda: Index.open(index.path, encoder=toy), lambda: index.add([document(9)])):
        with pytest.raises(IndexStoreError, match=r"the file system cannot lock .*keep the index on a local disk"):
            call()
    monkeypatch.undo()
    assert len(index) == 4
    index.close()


def test_readers_that_come_and_go_do_not_starve_a_writer(tmp_path):
    folder, stop, entered = tmp_path, threading.Event(), []

    def read():
        while not stop.is_set():
            with files.loading(folder):
                stop.wait(0.01)

    readers = [threading.Thread(target=read) for _ in range(6)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        with files.committing(folder):
            entered.append(True)
    stop.set()
    for reader in readers:
        reader.join()
    assert len(entered) == 20


def test_exchange_swaps_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "was").write_text(name)
    files.exchange(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "was").read_text() for name in ("a", "b")] == ["b", "a"]


def test_following_asks_one_thing_of_the_database(tmp_path, toy):
    index = Index.build(tmp_path / "index", map(document, range(4)), encoder=toy)
    calls = []
    index._files.store.connection.set_trace_callback(calls.append)
    index._files.now()
    assert calls == ["PRAGMA data_version"]
    index.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_does_not_wait_for_the_threads_of_its_parent(tmp_path, toy):
    faiss = import_faiss()
    index = Index.build(tmp_path / "index", [document(number) for number in range(2000)], encoder=toy, max_tokens=0)
    queries = [f"word{number}" for number in range(64)]
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        expected = index.search_dense(queries, 20)[0].tolist()
        child = os.fork()
        if not child:
            signal.alarm(30)
            os._exit(0 if index.search_dense(queries, 20)[0].tolist() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        faiss.omp_set_num_threads(threads)
        index.close()


def test_change_that_was_made_is_no_failure_where_the_structure_cannot_be_written(tmp_path, toy, monkeypatch, caplog):
    with Index.build(tmp_path / "index", [document(1), document(2)], encoder=toy, faiss="HNSW8") as index:
        monkeypatch.setattr(writing, "build_structure", _full)
        assert index.add([document(3)]) == 1
        assert "the change was made" in caplog.text
        assert index.document_ids(index.search_dense(["word3"], 1)[0][0]) == {2: "d3"}
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert len(index) == 3 and index.manifest.faiss.rows == 2


def _full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_reader_that_meets_a_writer_at_work_does_not_get_in_its_way(tmp_path, toy, monkeypatch):
    path = tmp_path / "index"
    index = Index.build(path, [document(1)], encoder=toy)
    real = writing.Writer.finish

    def finish(self):
        Index.open(path, encoder=toy).close()  # between commit and checksums
        real(self)

    monkeypatch.setattr(writing.Writer, "finish", finish)
    assert index.add([document(2)]) == 1 and index.delete(["d1"]) == 1
    assert len(Index.open(path, encoder=toy)) == 1


@pytest.mark.parametrize("id", [".", ".."])
def test_ids_that_look_like_folders_are_ids_like_others(id, tmp_path, toy):
    with Index.build(tmp_path / "index", [Document(id, "a text")], encoder=toy) as index:
        assert index.document(id) == Document(id, "a text")
        assert index.delete([id]) == 1


def test_metadata_deeper_than_sqlite_reads_is_refused(tmp_path, toy):
    def nested(levels):
        value = 1
        for _ in range(levels):
            value = [value]
        return {"a": value}

    with Index.build(tmp_path / "index", [Document("a", "words", metadata=nested(499))], encoder=toy) as index:
        assert index.search_lexical("words", 1, {"a": {"!=": None}})[0].tolist() == [0]
        with pytest.raises(DataError, match="nested deeper than 500 levels"):
            index.add([Document("b", "words", metadata=nested(500))])


def test_rows_of_a_filter_are_found_once_between_commits(tmp_path, toy, monkeypatch):
    index = Index.build(tmp_path / "index", map(document, range(4)), encoder=toy)
    asked, real = [], Filter.meets
    monkeypatch.setattr(Filter, "meets", lambda filter, metadata: asked.append(metadata) or real(filter, metadata))
    for where in ({"number": [1, 2]}, {"number": {"in": (1, 2)}}):
        assert sorted(index.search_dense(["common"], 4, where)[0][0].tolist()) == [-1, -1, 1, 2]
    assert len(asked) == 4
    index.update([document(1, "fresh")])
    assert sorted(index.search_dense(["common"], 4, {"number": [1, 2]})[0][0].tolist()) == [-1, -1, 2, 4]
    assert len(asked) == 8
    index.close()
