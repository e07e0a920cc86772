"""Two processes on one folder, in chosen orders: one does all it can at a step of the other that can be seen outside.

``SIGHTLINE_TURNS=1`` tries each step, instead of one in three.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from sightline.documents import Document
from sightline.errors import IndexLockedError, IndexMismatchError, IndexStoreError
from sightline.retrieval import files, writing
from sightline.retrieval import index as index_module
from sightline.retrieval.files import AppendFile
from sightline.retrieval.index import Index
from sightline.retrieval.manifest import Manifest
from sightline.tests.conftest import ToyEncoder
from sightline.tests.interleaving import Interleaved

TOY = ToyEncoder()
STRIDE = int(os.environ.get("SIGHTLINE_TURNS", "3"))


def document(number, version=1):
    return Document(f"d{number}", f"common word{number} version{version}.")


OLD = [document(number) for number in range(3)]
A, B = [document(1, 2), document(4)], [document(5), document(6), document(7)]


def build(path, documents, **settings):
    return Index.build(path, documents, **{"encoder": TOY, "token_states": "int8", "max_tokens": 16, **settings})


def contents(index):
    """The documents of an index, which every search finds."""

    def work():
        documents = list(index.documents())
        for rows in (index.search_dense(["common"], 50)[0][0], index.search_lexical("common", 50)[0]):
            found = index.passages(rows)
            assert {stored.passage.document.id for stored in found} == {stored.id for stored in documents}
            for stored in found:
                assert stored.passage.document in documents
                [vector] = TOY.encode_documents([stored.passage.contents])
                assert abs(index.vectors()[stored.row] - vector).max() < 1e-5
        return sorted((stored.id, stored.text) for stored in documents)

    return index.read(work)


def holds(documents):
    return sorted((stored.id, stored.text) for stored in documents)


def opened(path):
    with Index.open(path, encoder=TOY) as index:
        index.verify()
        return contents(index)


def in_turns(order, *works):
    """Run pieces of work, which stop before what others may see, in an order; returns what each returned or raised."""
    results = [None] * len(works)

    def run(number):
        try:
            results[number] = works[number]()
        except IndexStoreError as error:
            results[number] = error

    turns = Interleaved([functools.partial(run, number) for number in range(len(works))])

    def stopping(real):
        def call(*arguments, **options):
            turns.step()
            return real(*arguments, **options)

        return call

    def lock(handle, kind, wait):
        turns.step()
        while True:
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(handle, kind | fcntl.LOCK_NB)
            turns.step()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "_flock", lock)
        patched.setattr(Manifest, "load", stopping(Manifest.load))
        seen = (
            (AppendFile, "map"),
            (AppendFile, "append"),
            (index_module, "exchange"),
            (Path, "rename"),
            (Path, "mkdir"),
        )
        for owner, name in seen:
            patched.setattr(owner, name, stopping(getattr(owner, name)))
        # Waiting for the disk takes most of the time, and no process sees it.
        patched.setattr(os, "fsync", lambda handle: None)
        patched.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=_Unsynced))
        turns.run([*order, *[0, 1] * 200])  # in turns at the end, for one may wait for a lock of the other
    assert not turns.failures
    return results, turns.steps


class _Unsynced(sqlite3.Connection):
    def execute(self, sql, *values):
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *values)


def each_at_steps(prepare, one, two, judge):
    """Let each of two pieces of work do all it can at steps of the other."""
    _, steps = in_turns([0] * 1000, *prepare(one, two))
    first = steps.index(1) if 1 in steps else len(steps)
    _, steps = in_turns([1] * 1000, *prepare(one, two))
    second = steps.index(0) if 0 in steps else len(steps)
    assert min(first, second) > 4
    orders = [[0] * stop + [1] * 80 for stop in range(0, first, STRIDE)]
    orders += [[1] * stop + [0] * 80 for stop in range(0, second, STRIDE)]
    for order in orders:
        results, _ = in_turns(order, *prepare(one, two))
        judge(results, order)


@pytest.fixture
def place(tmp_path):
    """``prepare``: give two pieces of work a fresh folder with the old documents; and the path of its index."""
    path = tmp_path / "trial" / "index"
    build(tmp_path / "base", OLD).close()
    left = []

    def prepare(*works, base=True):
        for index in left:
            index.close()
        left.clear()
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        if base:
            shutil.copytree(tmp_path / "base", path)
            left.extend(Index.open(path, encoder=TOY) for _ in works)
            return [functools.partial(work, index) for work, index in zip(works, left, strict=True)]
        return works

    return prepare, path


def test_two_builds_make_one_index_and_the_second_is_told_if_it_is_another(place):
    prepare, path = place

    def built(documents, **settings):
        with build(path, documents, **settings) as index:
            return contents(index)

    def judge(results, order):
        [[documents]] = [[one for one in results if isinstance(one, list)]]
        [[refusal]] = [[one for one in results if isinstance(one, IndexStoreError)]]
        assert "other" in str(refusal) and opened(path) == documents in (holds(A), holds(B)), order

    fresh = functools.partial(prepare, base=False)
    each_at_steps(fresh, lambda: built(A), lambda: built(B), judge)
    each_at_steps(fresh, lambda: built(A), lambda: built(A, max_tokens=9), judge)


def overwritten(path, documents):
    with build(path, documents, overwrite=True) as index:
        return contents(index)


def test_what_reads_while_an_index_is_replaced_sees_the_old_or_the_new_one(place):
    prepare, path = place

    def looking(index):
        seen = [opened(path), contents(index), [] if index.verify() else contents(index)]
        assert index.size() and index.search_dense(["common"], 9)[0].min() >= 0
        return seen

    def judge(results, order):
        assert isinstance(results[0], list), order
        assert results[1] == sorted(results[1], key=[holds(OLD), holds(A)].index), order  # and never back
        assert opened(path) == holds(A) and [entry.name for entry in path.parent.iterdir()] == ["index"], order

    each_at_steps(prepare, lambda _: overwritten(path, A), looking, judge)


def test_a_change_while_an_index_is_replaced_is_in_the_old_or_the_new_one(place):
    prepare, path = place

    def judge(results, order):
        assert results[1] == 1 and results[0] in (holds(A), holds(A[1:])), (order, results)
        assert opened(path) in (holds(A), holds(A[1:])), order

    each_at_steps(prepare, lambda _: overwritten(path, A), lambda index: index.delete(["d1"]), judge)


def test_who_replaces_an_index_does_not_search_with_its_encoder_in_another(place):
    prepare, path = place
    encoders = [ToyEncoder(), ToyEncoder(name="other", revision="other-1")]

    def built(encoder):
        with build(path, A, overwrite=True, encoder=encoder) as index:
            assert index.encoder.revision == index.manifest.encoder.revision
            return index.encoder

    def judge(results, order):
        assert any(one in encoders for one in results), (order, results)
        assert all(one in encoders or isinstance(one, IndexMismatchError) for one in results), (order, results)
        with Index.open(path) as index:
            index.verify()
            assert len(index) == len(A), order

    works = [lambda _, encoder=encoder: built(encoder) for encoder in encoders]
    each_at_steps(prepare, *works, judge)


def test_what_was_made_while_a_folder_was_looked_at_is_no_foreign_file(tmp_path, monkeypatch):
    path, real = tmp_path / "index", Path.iterdir
    path.mkdir()

    def listed(folder):
        monkeypatch.undo()
        build(path, A).close()
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    with build(path, A) as index:
        assert contents(index) == holds(A)


def test_two_copies_to_one_place_make_one(place):
    prepare, path = place
    target = path.with_name("copy")

    def copied(index):
        with Index.copy(index, target) as copy:
            return contents(copy)

    def judge(results, order):
        assert [one for one in results if isinstance(one, list)] == [holds(OLD)], (order, results)
        assert opened(target) == holds(OLD), order

    each_at_steps(prepare, copied, copied, judge)


def test_a_copy_in_the_making_is_not_removed_by_another(place, tmp_path):
    prepare, path = place
    [index] = prepare(lambda index: index)
    target = path.with_name("copy")

    def at_work(count):
        with build(tmp_path / "other", A, max_tokens=9) as other, pytest.raises(IndexLockedError):
            Index.copy(other, target)

    Index.copy(index(), target, progress=at_work).close()
    assert opened(target) == holds(OLD)


def test_nobody_else_may_write_to_an_index_until_it_has_its_place(place, monkeypatch):
    prepare, path = place
    [index] = prepare(lambda index: index)
    real, places = index_module._take_place, []

    def moved(to, beside, **options):
        with pytest.raises(IndexLockedError), files.locked(beside / files.WRITER_LOCK, wait=0):
            pass
        places.append(to)
        real(to, beside, **options)

    monkeypatch.setattr(index_module, "_take_place", moved)
    Index.copy(index(), path.with_name("copy")).close()
    overwritten(path, A)
    assert places == [path.with_name("copy"), path]


def test_a_copy_does_not_replace_what_was_made_in_its_place_meanwhile(place):
    prepare, path = place
    [work] = prepare(lambda index: Index.copy(index, path.with_name("copy"), progress=built))

    def built(count):
        build(path.with_name("copy"), A).close()

    with pytest.raises(IndexStoreError, match=r"finished in .*copy\.building"):
        work()
    assert opened(path.with_name("copy")) == holds(A)


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_a_replacement_that_was_killed_while_it_removed_the_old_index_is_no_obstacle(stop, place, monkeypatch):
    prepare, path = place
    prepare(lambda _: None)
    exchange, unlink, calls = index_module.exchange, os.unlink, []

    def exchanged(*folders):
        exchange(*folders)
        monkeypatch.setattr(os, "unlink", unlinked)

    def unlinked(file, **options):
        calls.append(file)
        if len(calls) >= stop:
            raise OSError  # now, and so for all that follows
        unlink(file, **options)

    with monkeypatch.context() as patched:
        patched.setattr(index_module, "exchange", exchanged)
        overwritten(path, A)
    monkeypatch.undo()
    assert len(calls) >= stop and path.with_name("index.building").exists()
    assert overwritten(path, B) == holds(B) == opened(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["index"]


def test_a_reader_of_a_replaced_index_leaves_the_journal_of_the_new_one_alone(place):
    prepare, path = place
    [reading, replaced] = prepare(contents, lambda _: overwritten(path, A))
    reading()
    replaced()
    with Index.open(path, encoder=TOY) as writer:
        store = writer._files.store
        with store.transaction():
            store.connection.execute("PRAGMA cache_size = 1")
            store.delete([f"d{number}" for number in (1, 4)])
            store.connection.executemany(
                "INSERT INTO segments VALUES (?, 0, 1, ?)", [(str(number), "x" * 4000) for number in range(50)]
            )
            journal = path / "documents.sqlite-journal"
            assert journal.stat().st_size
            follower = threading.Thread(target=reading)
            follower.start()
            follower.join(0.1)  # it waits for the writer from here on
            assert journal.exists()
            store.connection.execute("ROLLBACK")
            store.connection.execute("BEGIN")
        follower.join(30)
        assert contents(writer) == holds(A)


def test_a_reader_that_looks_while_the_structure_is_built_takes_it_when_it_is_done(tmp_path, monkeypatch):
    readers, real = [], writing.build_structure

    def looked_at(*arguments):
        readers.append(Index.open(tmp_path / "index", encoder=TOY))
        assert readers[0].manifest.faiss.file is None
        real(*arguments)

    monkeypatch.setattr(writing, "build_structure", looked_at)
    build(tmp_path / "index", OLD, faiss="HNSW8").close()
    with readers[0] as reader:
        assert reader.manifest.complete and reader.manifest.faiss.file == "vectors-3.faiss"
        assert reader._files.now().structure is not None


def test_other_threads_search_by_words_while_one_takes_the_replacement(place, monkeypatch):
    prepare, path = place
    [reading] = prepare(lambda index: (index, contents(index)))
    index, _ = reading()
    overwritten(path, A)
    real, found = Manifest.load, []

    def loaded(folder):
        found.append(len(index._files.words.engine.search("common", 9)[0]))  # as another thread may
        return real(folder)

    monkeypatch.setattr(Manifest, "load", loaded)
    assert contents(index) == holds(A) and found == [3, 2]


def test_a_writer_that_waited_for_a_lock_has_that_of_the_folder_that_is_there_now(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    got = threading.Event()

    def wait():
        with files.locked(one / "lock"):
            got.set()
            done.wait(30)

    done, waiting = threading.Event(), threading.Thread(target=wait)
    with files.locked(one / "lock"), files.locked(other / "lock"):
        waiting.start()
        assert not got.wait(0.05)
        files.exchange(one, other)
    assert got.wait(30)
    with pytest.raises(IndexLockedError), files.locked(one / "lock", wait=0):
        pass
    with files.locked(other / "lock", wait=0):
        pass
    done.set()
    waiting.join(30)


def test_documents_that_are_replaced_while_their_passages_are_looked_up_are_left_out(place, monkeypatch):
    prepare, _ = place
    [reading] = prepare(lambda index: index)
    index = reading()
    real = index._files.store.passages

    def after_a_change(rows):
        with Index.open(index.path, encoder=TOY) as writer:
            writer.delete(["d1"])
        monkeypatch.undo()
        return real(rows)

    monkeypatch.setattr(index._files.store, "passages", after_a_change)
    assert [stored.passage.document.id for stored in index.passages_of(["d0", "d1"])] == ["d0"]


@pytest.mark.parametrize("stat", [1, 2])
def test_files_that_a_writer_removes_are_no_error_of_the_size(stat, place, monkeypatch):
    prepare, path = place
    [reading] = prepare(lambda index: index)
    index = reading()
    journal, real, calls = path / "documents.sqlite-journal", Path.stat, []
    journal.write_bytes(b"")

    def removing(file, **options):
        if file == journal:
            calls.append(file)
            if len(calls) == stat:
                journal.unlink()
        return real(file, **options)

    monkeypatch.setattr(Path, "stat", removing)
    assert "documents.sqlite" in index.size() and calls
