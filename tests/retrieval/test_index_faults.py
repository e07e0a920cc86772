"""What a kill, a full disk or a flipped byte may do to an index: nothing that goes unseen, and nothing to what is kept.

``SIGHTLINE_KILLS=50`` kills that often in each mode instead of four times; ``SIGHTLINE_SEED`` chooses other moments.
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from sightline.documents import Document
from sightline.errors import IndexCorruptError, IndexStoreError
from sightline.retrieval import files, writing
from sightline.retrieval.files import AppendFile
from sightline.retrieval.index import Index

KILLS = int(os.environ.get("SIGHTLINE_KILLS", "4"))
ERRORS = int(os.environ.get("SIGHTLINE_ERRORS", "40"))
SEED = int(os.environ.get("SIGHTLINE_SEED", "7"))
BATCH, BASE, STREAM = 8, 40, 160
SETTINGS = {"faiss": "HNSW8", "token_states": "int8"}


def document(number, version=1):
    text = f"common word{number} word{number % 7} version{version}."
    return Document(f"d{number}", text, metadata={"number": number})


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(writing, "BATCH_PASSAGES", BATCH)


# -- kill -9 ---------------------------------------------------------------------------------------------------------

# Imports once, then forks a writer per line of input, kills it after the given time, and answers when it is dead.
_ZYGOTE = """
import importlib.util, os, signal, sys, time

import faiss
from sightline.retrieval import writing
from sightline.retrieval.index import Index

def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

toy = load("toys", sys.argv[1]).ToyEncoder()
tests = load("faults", sys.argv[2])
writing.BATCH_PASSAGES = tests.BATCH

def stream(first, stop, version=1):
    for number in range(first, stop):
        time.sleep(0.0005)
        yield tests.document(number, version)

def write(mode, path):
    report = os.open(path + ".progress", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    progress = lambda taken: os.write(report, b"%d\\n" % taken)
    if mode == "build":
        Index.build(path, stream(0, tests.STREAM), progress=progress, encoder=toy, **tests.SETTINGS).close()
        return
    index = Index.open(path, encoder=toy)
    if mode == "add":
        index.add(stream(tests.BASE, tests.STREAM), progress=progress)
    else:
        index.update(stream(0, tests.BASE, version=2), progress=progress)

for line in sys.stdin:
    mode, seconds, path = line.rstrip("\\n").split(" ", 2)
    started = time.monotonic()
    writer = os.fork()
    if not writer:
        status = 1
        try:
            write(mode, path)
            status = 0
        finally:
            os._exit(status)
    if float(seconds):
        time.sleep(float(seconds))
        os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    print(status, time.monotonic() - started, flush=True)
"""


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """``writer(mode, path, seconds)``: write in another process, killed after ``seconds`` (0: never)."""
    script = tmp_path_factory.mktemp("zygote") / "zygote.py"
    script.write_text(textwrap.dedent(_ZYGOTE))
    conftest = Path(__file__).parents[1] / "conftest.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(conftest), __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def write(mode, path, seconds):
        process.stdin.write(f"{mode} {seconds} {path}\n")
        process.stdin.flush()
        status, took = process.stdout.readline().split()
        return int(status), float(took)

    yield write
    process.stdin.close()
    process.wait(timeout=30)


def reported(path):
    """Documents that the killed writer had told to be committed."""
    log = Path(f"{path}.progress")
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1]) if lines else 0


def contents(index):
    """All that can be asked of an index, in comparable form."""
    queries = ["word3 word17", "common", "word150 version2"]
    dense = [index.document_ids(rows) for rows in index.search_dense(queries, 12)[0]]
    lexical = [[tuple(x.tolist()) for x in index.search_lexical(query, 200)] for query in queries]
    stored = index.passages(np.flatnonzero(index._files.now().live))
    states = [
        (key.values.tolist(), key.scales.tolist(), None if spans is None else spans.tolist())
        for key, spans in zip(index.token_keys(stored), index.token_spans(stored), strict=True)
    ]
    return list(index.documents()), index.vectors().tolist(), dense, lexical, states


@pytest.fixture(scope="module")
def whole(writer, tmp_path_factory):
    """Indexes that nobody interrupted, and how long each mode takes to write."""
    folder = tmp_path_factory.mktemp("whole")
    base = folder / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BATCH_PASSAGES", BATCH)
        toy = _toy()
        Index.build(base, map(document, range(BASE)), encoder=toy, **SETTINGS).close()
    outcomes = {}
    for mode in ("build", "add", "update"):
        path = folder / mode
        if mode != "build":
            shutil.copytree(base, path)
        status, took = writer(mode, path, 0)
        assert status == 0
        with Index.open(path, encoder=toy) as index:
            outcomes[mode] = (contents(index), took)
    return base, outcomes


def _toy():
    conftest = Path(__file__).parents[1] / "conftest.py"
    space = {}
    exec(compile(conftest.read_text(), str(conftest), "exec"), space)
    return space["ToyEncoder"]()


def _check_build(path, toy, kill):
    try:
        index = Index.open(path, encoder=toy)
    except IndexStoreError as error:
        assert "no manifest.json" in str(error) and not reported(path), kill
    else:
        with index:
            _is_prefix(index, 0, reported(path), kill)
            done = index.manifest.complete
        if done:  # killed on its way out
            return Index.open(path, encoder=toy)
    return Index.build(path, map(document, range(STREAM)), encoder=toy, **SETTINGS)


def _check_add(path, toy, kill):
    index = Index.open(path, encoder=toy)
    committed = _is_prefix(index, BASE, reported(path), kill)
    index.add(map(document, range(committed, STREAM)))
    return index


def _is_prefix(index, base, committed, kill):
    stored = list(index.documents())
    assert stored == [document(number) for number in range(len(stored))], kill
    assert base + committed <= len(stored) <= base + committed + BATCH, kill
    if stored:
        last = len(stored) - 1
        assert index.document_ids(index.search_dense([document(last).text], 1)[0][0]) == {last: f"d{last}"}, kill
        assert len(index.search_lexical("common", 1000)[0]) == len(stored), kill
    return len(stored)


def _check_update(path, toy, kill):
    index = Index.open(path, encoder=toy)
    there = {stored.id: stored for stored in index.documents()}
    new = next((number for number in range(BASE) if there[f"d{number}"] != document(number, 2)), BASE)
    assert list(there.values()) == [*map(document, range(new, BASE)), *(document(n, 2) for n in range(new))], kill
    assert reported(path) <= new <= reported(path) + BATCH, kill
    assert len(index.search_lexical("version2", 1000)[0]) == new, kill
    assert len(index.search_lexical("version1", 1000)[0]) == BASE - new, kill
    index.update(document(number, 2) for number in range(new, BASE))
    return index


@pytest.mark.timeout(0 if KILLS > 20 else 120)
@pytest.mark.parametrize(
    ("mode", "check"),
    [("build", _check_build), ("add", _check_add), ("update", _check_update)],
    ids=["build", "add", "update"],
)
def test_kill_loses_at_most_the_batch_in_flight(mode, check, writer, whole, tmp_path, toy, small_batches):
    base, uninterrupted = whole
    expected, took = uninterrupted[mode]
    moments, landed = random.Random(SEED), 0
    for kill in range(KILLS):
        path = tmp_path / str(kill)
        if mode != "build":
            shutil.copytree(base, path)
        status, _ = writer(mode, path, moments.uniform(0.002, 1.05 * took))
        landed += status != 0
        if status == 0 and mode == "build":  # it was done before the kill
            with Index.open(path, encoder=toy) as index:
                assert contents(index) == expected
            continue
        with check(path, toy, f"kill {kill} of {mode}") as index:
            assert index.manifest.complete
            assert contents(index) == expected
        with Index.open(path, encoder=toy) as index:
            assert contents(index) == expected
        shutil.rmtree(path)
    assert landed >= KILLS / 2


def test_kill_between_commit_and_manifest_opens_and_still_checks_the_vectors(tmp_path, toy, monkeypatch):
    index = Index.build(tmp_path / "index", map(document, range(20)), encoder=toy)
    monkeypatch.setattr(index._writer, "finish", lambda: None)
    index.add(map(document, range(20, 30)))
    index.close()
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert len(index) == 30 == index.manifest.counts["documents"]
    flip(tmp_path / "index" / "vectors.f32", -5)
    with pytest.raises(IndexCorruptError, match="vectors.f32"):
        Index.open(tmp_path / "index")


@pytest.fixture
def cut_off(tmp_path, toy, monkeypatch):
    """An index whose last writer was killed after its commit, before it wrote the checksums."""
    index = Index.build(tmp_path / "index", map(document, range(40)), encoder=toy, token_states="int8")
    with monkeypatch.context() as patch:
        patch.setattr(index._writer, "finish", lambda: None)
        index.update(document(number, 2) for number in range(20))
    index.close()
    return tmp_path / "index"


def test_flip_after_a_kill_changes_no_answer_unnoticed(cut_off, toy, tmp_path):
    with Index.open(shutil.copytree(cut_off, tmp_path / "sound"), encoder=toy) as index:
        expected = contents(index)
    moments, noticed = random.Random(SEED), 0
    size = (cut_off / "documents.sqlite").stat().st_size
    for flipped in range(60):
        path = tmp_path / str(flipped)
        shutil.copytree(cut_off, path)
        flip(path / "documents.sqlite", moments.randrange(100, size), moments.randrange(1, 256))
        try:
            with Index.open(path, encoder=toy) as index:
                assert contents(index) == expected, flipped
        except IndexStoreError:
            noticed += 1
        shutil.rmtree(path)
    assert noticed


def test_cut_off_index_on_a_read_only_disk_is_searched(cut_off, toy, monkeypatch):
    real = os.open

    def read_only(path, flags, *mode, **options):
        if flags & os.O_RDWR and str(path).startswith(str(cut_off)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with Index.open(cut_off, encoder=toy) as index:
        assert len(index.search_lexical("version2", 99)[0]) == 20 == len(index.search_lexical("version1", 99)[0])


# -- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {tried.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["Flat", "HNSW8, int8"])
def test_full_disk_is_told_and_the_build_goes_on_when_there_is_space(small_disk, toy, small_batches, settings):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(250_000))
    path, count = small_disk / "index", 1500
    with pytest.raises(IndexStoreError, match="no space left on the device") as error:
        Index.build(path, map(document, range(count)), encoder=toy, **settings)
    assert str(path) in str(error.value) and "kept" in str(error.value)
    with Index.open(path, encoder=toy) as index:
        committed = list(index.documents())
        assert committed == [document(number) for number in range(len(committed))]
        assert 0 < len(committed) < count
        assert index.search_dense([document(3).text], 1)[0].tolist() == [[3]]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    with Index.build(path, map(document, range(count)), encoder=toy, **settings) as index:
        assert list(index.documents()) == [document(number) for number in range(count)]
    Index.open(path).close()


def test_disk_that_fills_up_under_the_faiss_structure_keeps_the_documents(tmp_path, toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "build_structure", _raise_full)
        with pytest.raises(IndexStoreError, match="no space left on the device"):
            Index.build(tmp_path / "index", map(document, range(20)), encoder=toy, faiss="HNSW8")
    with Index.open(tmp_path / "index", encoder=toy) as index:
        assert len(index) == 20 and not index.manifest.complete
        assert index.search_dense([document(3).text], 1)[0].tolist() == [[3]]


def _raise_full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("rows", [3, 5000])
def test_a_structure_that_does_not_fit_is_no_structure(rows):
    # FAISS itself overlooks this for small files, whose bytes leave its buffer only when it closes them.
    from sightline.retrieval.faiss_index import build_structure

    vectors = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    with pytest.raises(OSError, match="No space left"):
        build_structure(vectors, "SQ8", Path("/dev/full"))


@pytest.mark.parametrize("fails", [(AppendFile, "append"), (files.os, "fsync")], ids=["append", "fsync"])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_failing_write_is_told_and_the_index_stays_as_committed(
    fails, after, tmp_path, toy, small_batches, monkeypatch
):
    path = tmp_path / "index"
    Index.build(path, map(document, range(20)), encoder=toy, token_states="fp16").close()
    owner, name = fails
    real, calls = getattr(owner, name), []

    def failing(*arguments):
        calls.append(1)
        return _raise_full() if len(calls) > after else real(*arguments)

    with Index.open(path, encoder=toy) as index:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            with pytest.raises(IndexStoreError, match="no space left on the device"):
                index.add(map(document, range(20, 60)))
        kept = len(index)
        assert list(index.documents()) == [document(number) for number in range(kept)]
        index.add(map(document, range(kept, 60)))
    with Index.open(path, encoder=toy) as index:
        assert list(index.documents()) == [document(number) for number in range(60)]
        assert index.search_dense([document(55).text], 1)[0].tolist() == [[55]]


_STORAGE = (
    (os, "open"),
    (os, "fsync"),
    (os, "stat"),
    (fcntl, "flock"),
    (Path, "open"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "mkdir"),
    (Path, "touch"),
    (Path, "read_bytes"),
    (AppendFile, "append"),
    (Path, "rename"),
)


def _write_something(kind, path, toy):
    """One of the ways to write, and the documents that are right after it."""
    if kind == "build":
        Index.build(path, map(document, range(24)), encoder=toy, **SETTINGS).close()
        return [document(number) for number in range(24)]
    if kind == "overwrite":
        Index.build(path, map(document, range(30, 40)), overwrite=True, encoder=toy, **SETTINGS).close()
        return [document(number) for number in range(30, 40)]
    with Index.open(path, encoder=toy) as index:
        there = {stored.id for stored in index.documents()}
        if kind == "add":
            index.add(document(number) for number in range(30) if f"d{number}" not in there)
            return [document(number) for number in range(30)]
        if kind == "update":
            index.update(document(number, 2) for number in range(10))
            return [document(number, 2 if number < 10 else 1) for number in range(20)]
        index.delete([id for id in ("d3", "d4") if id in there])
        return [document(number) for number in range(20) if number not in (3, 4)]


def test_disk_errors_are_told_and_lose_nothing(tmp_path, toy, monkeypatch):
    """``SIGHTLINE_ERRORS=250`` injects that many."""
    monkeypatch.setattr(writing, "BATCH_PASSAGES", BATCH)
    base, moments, injected = tmp_path / "base", random.Random(SEED), 0
    Index.build(base, map(document, range(20)), encoder=toy, **SETTINGS).close()
    for trial in range(ERRORS):
        kind = moments.choice(["build", "add", "update", "delete", "overwrite"])
        path = tmp_path / f"{trial}"
        if kind != "build":
            shutil.copytree(base, path)
        number = moments.choice([errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
        owner, name = moments.choice(_STORAGE)
        after, calls, real = moments.randrange(12), [], getattr(owner, name)

        def failing(*arguments, real=real, calls=calls, after=after, number=number, path=path, **options):
            about = isinstance(arguments[0], int) or str(path) in str(getattr(arguments[0], "path", arguments[0]))
            calls.extend([1] * about)
            if about and len(calls) == after + 1:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        what = f"trial {trial}: {kind}, call {after} of {name} fails with {errno.errorcode[number]}"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            try:
                _write_something(kind, path, toy)
            except IndexStoreError:
                injected += 1
            except Exception as error:
                raise AssertionError(what) from error
        try:
            expected = _write_something(kind, path, toy)  # the same command again
            with Index.open(path, encoder=toy) as index:
                assert sorted(index.documents(), key=str) == sorted(expected, key=str), what
        except IndexStoreError as error:
            raise AssertionError(what) from error
        shutil.rmtree(path)
    assert injected >= ERRORS / 5


@pytest.mark.parametrize("pages", [1, 3, 6, 9, 12, 14])
def test_database_that_cannot_grow_is_told(pages, tmp_path, toy, monkeypatch):
    real = sqlite3.connect

    def small(*arguments, **options):
        connection = real(*arguments, **options)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(IndexStoreError, match="no space left on the device"):
        Index.build(tmp_path / "index", map(document, range(200)), encoder=toy)
    monkeypatch.undo()
    with Index.build(tmp_path / "index", map(document, range(200)), encoder=toy) as index:
        assert len(index) == 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["", "manifest.json", "documents.sqlite", "vectors.f32", ".commit.lock"])
def test_files_that_may_not_be_read_are_named(name, sound, tmp_path):
    path = shutil.copytree(sound, tmp_path / "copy") / name
    path.chmod(0)
    try:
        with pytest.raises(IndexStoreError, match="denied"):
            Index.open(tmp_path / "copy")
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize("name", ["manifest.json", "vectors.f32", "vectors-60.faiss"])
def test_refused_permission_is_told(name, sound, toy, monkeypatch):
    real = io.open

    def denied(file, *arguments, **options):
        if str(file).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr(io, "open", denied)
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(IndexStoreError, match="denied"):
        Index.open(sound, encoder=toy)


def test_error_of_the_users_stream_is_left_as_it_is(tmp_path, toy):
    def stream():
        yield document(1)
        raise FileNotFoundError("the user's file")

    with pytest.raises(FileNotFoundError, match="the user's file"):
        Index.build(tmp_path / "index", stream(), encoder=toy)


# -- flipped, cut and lost bytes -------------------------------------------------------------------------------------

FILES = ("manifest.json", "documents.sqlite", "vectors.f32", "states.int8", "states.spans", "vectors-60.faiss")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "index"
    Index.build(path, map(document, range(60)), encoder=_toy(), **SETTINGS).close()
    assert {file.name for file in path.iterdir() if not file.name.startswith(".")} == set(FILES)
    return path


@contextlib.contextmanager
def damaged(path):
    """Put the file back, and see that nothing else in the folder was touched."""
    neighbours = {file: file.read_bytes() for file in path.parent.iterdir() if file != path}
    data = path.read_bytes()
    try:
        yield data
        now = {file: file.read_bytes() for file in path.parent.iterdir() if file != path}
        assert now == neighbours
    finally:
        path.write_bytes(data)


def flip(path, offset, mask=0xFF):
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def refused(path):
    with pytest.raises(IndexStoreError) as error:
        Index.open(path.parent).close()
    assert path.name in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_flipped_byte_is_refused_by_name(name, sound):
    path, moments = sound / name, random.Random(name)
    for _ in range(25):
        with damaged(path) as data:
            flip(path, moments.randrange(len(data)), moments.randrange(1, 256))
            refused(path)
    Index.open(sound).close()


def test_flipped_byte_of_the_sqlite_header_is_refused_by_name(sound):
    # Among them: page size, write-ahead mode, change counter, schema format, text encoding.
    path = sound / "documents.sqlite"
    for offset in range(100):
        with damaged(path) as data:
            flip(path, offset, 1 if offset in (18, 19) else 0x03)
            assert path.read_bytes() != data
            refused(path)


def test_flipped_byte_of_the_schema_is_refused_by_name(sound):
    path = sound / "documents.sqlite"
    data = path.read_bytes()
    for word in (b"segments", b"lexical", b"live_ids", b"passages", b"CREATE TABLE documents"):
        places = [i for i in range(4096) if data.startswith(word, i)]
        assert places
        for place in places:
            with damaged(path):
                flip(path, place + 2, 0x01)
                refused(path)


@pytest.mark.parametrize("mask", [0x2A, 0x29, 0x2D])
def test_blank_of_the_manifest_that_became_another_blank_is_refused(mask, sound):
    path = sound / "manifest.json"
    with damaged(path) as data:
        flip(path, data.index(b" "), mask)
        refused(path)


@pytest.mark.parametrize("name", ["documents.sqlite", "vectors.f32", "states.int8", "states.spans", "vectors-60.faiss"])
def test_damage_that_nobody_looked_for_raises_no_foreign_error(name, sound, toy):
    path, moments = sound / name, random.Random(name)
    for _ in range(25):
        with damaged(path) as data:
            flip(path, moments.randrange(len(data)), moments.randrange(1, 256))
            with contextlib.suppress(IndexStoreError), Index.open(sound, encoder=toy, verify=False) as index:
                contents(index)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": 7},
        {"encoder": {"name": "minilm"}},
        {"faiss": {"factory": "Flat", "parameters": "", "file": "../../etc/passwd", "digest": "", "rows": 1}},
        {"passages": {"max_tokens": "many", "overlap": 0}},
        {"token_states": []},
        {"store": {"counter": "1"}},
        {"strange": 1},
        {"format": None},
        {"complete": "yes"},
    ],
    ids=str,
)
def test_forged_manifest_is_refused(change, sound):
    from sightline.retrieval.manifest import _serialised

    path = sound / "manifest.json"
    with damaged(path) as data:
        body = json.loads(data)
        del body["digest"]
        path.write_bytes(_serialised(body | change))
        with pytest.raises(IndexStoreError):
            Index.open(sound)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "null", "[]", '"x"', "7", "", "\0"], ids=lambda t: t[:6]
)
def test_manifest_that_is_no_manifest_is_refused(text, sound):
    with damaged(sound / "manifest.json"):
        (sound / "manifest.json").write_text(text)
        refused(sound / "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused_by_name(name, share, sound):
    path = sound / name
    with damaged(path) as data:
        path.write_bytes(data[: int(share * len(data))])
        refused(path)


def test_database_that_lost_its_last_page_is_refused_by_name(sound):
    path = sound / "documents.sqlite"
    with damaged(path) as data:
        path.write_bytes(data[:-4096])
        refused(path)


@pytest.mark.parametrize("name", FILES)
def test_lost_file_is_refused_by_name_and_not_made_anew(name, sound):
    path = sound / name
    with damaged(path):
        path.unlink()
        refused(path)
        assert not path.exists()


@pytest.mark.parametrize("name", ["documents.sqlite", "vectors.f32"])
def test_lost_file_of_an_interrupted_build_is_refused_by_name(name, tmp_path, toy, small_batches):
    def stream():
        yield from map(document, range(20))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index.build(tmp_path / "index", stream(), encoder=toy)
    (tmp_path / "index" / name).unlink()
    with pytest.raises(IndexCorruptError, match=name):
        Index.build(tmp_path / "index", map(document, range(20)), encoder=toy)


@pytest.mark.parametrize("name", ["documents.sqlite", "vectors.f32", "states.int8", "states.spans", "vectors-60.faiss"])
def test_lost_file_is_named_without_verification_too(name, sound):
    path = sound / name
    with damaged(path):
        path.unlink()
        with pytest.raises(IndexCorruptError, match=name):
            Index.open(sound, verify=False)


def test_lock_files_are_no_content(sound, tmp_path, toy):
    copy = tmp_path / "copy"
    shutil.copytree(sound, copy, ignore=shutil.ignore_patterns(".*"))
    with Index.open(copy, encoder=toy) as index:
        index.delete(["d3"])
        assert len(index) == 59
