"""A longer trial of kills and disk errors than the suite's, run by hand.

    python -m sightline.tests.retrieval.trial_faults --kills 200 --errors 200

Every trial makes one change to an index (build, add, update, delete, overwrite) in a process of its own, which is
killed at a random moment or at one of its storage calls, or one of whose storage calls fails. The index must then open,
with every byte verified, hold what was committed and nothing else, and take the change when it is made again. The last
lines say how many trials there were and how many of them lost something.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sightline.documents import Document
from sightline.errors import IndexStoreError, SightlineError
from sightline.retrieval import files, multivector, writing
from sightline.retrieval import index as index_module
from sightline.retrieval.index import Index
from sightline.retrieval.store import DocumentStore
from sightline.tests.conftest import ToyDecoder, ToyEncoder

BASE, BATCH = 24, 8
MODES = ("build", "add", "update", "delete", "overwrite")
TOY, DECODER = ToyEncoder(), ToyDecoder()
SETTINGS: dict[str, Any] = {"faiss": "HNSW8", "token_states": "int8", "decoder_states": DECODER}


def document(number: int, version: int = 1) -> Document:
    return Document(f"d{number}", f"common word{number} version{version}.", metadata={"number": number})


OLD = [document(number) for number in range(BASE)]
NEW = {
    "build": OLD,
    "add": [*OLD, *(document(number) for number in range(BASE, 2 * BASE))],
    "update": [document(number, 2) for number in range(BASE)],
    "delete": OLD[10:],
    "overwrite": [document(number, 3) for number in range(BASE)],
}


def by_id(documents: Iterable[Document]) -> dict[str, Document]:
    return {each.id: each for each in documents}


def change(mode: str, path: Path) -> None:
    """Make the change, or what is left of it."""
    if mode in ("build", "overwrite"):
        Index.build(path, NEW[mode], encoder=TOY, overwrite=mode == "overwrite", **SETTINGS).close()
        return
    with Index.open(path, encoder=TOY, decoder_states=DECODER) as index:
        stored = by_id(index.documents())
        if mode == "add":
            index.add([new for new in NEW[mode] if new.id not in stored])
        elif mode == "update":
            index.update([new for new in NEW[mode] if stored.get(new.id) != new])
        elif gone := [old.id for old in OLD[:10] if old.id in stored]:
            index.delete(gone)


def check(mode: str, path: Path) -> list[Document] | None:
    """The documents of a sound index, all of which every kind of search finds; None where there is no index yet."""
    try:
        index = Index.open(path, encoder=TOY)
    except IndexStoreError as error:
        assert mode == "build" and "no manifest.json" in str(error), error
        return None
    with index:
        index.verify()
        documents = list(index.documents())
        ids = {stored.id for stored in documents}
        if documents:
            rows = index.search_dense(["common"], 1000)[0][0]
            assert set(index.document_ids(rows).values()) == ids, "dense"
        assert set(index.document_ids(index.search_lexical("common", 1000)[0]).values()) == ids, "lexical"
        if documents:  # which also lets the writers of later trials keep the centroids in step
            rows = index.search_multivector(["common"], 1000)[0][0]
            assert set(index.document_ids(rows).values()) == ids, "multivector"
        for stored in random.sample(documents, min(3, len(documents))):
            word = stored.text.split()[1]
            [row] = index.search_lexical(word, 5)[0].tolist()
            assert index.passages([row])[0].passage.document == stored, "passage"
            [block] = index.decoder_states(index.passages([row])) or [None]
            [[expected]] = DECODER.read_stored([stored], DECODER.form("int8"))
            assert block is not None and np.array_equal(block.data, expected), "decoder states"
            keys = index.token_keys(index.passages([row]))
            assert keys is not None and len(keys[0].values) == 3, "token states"
            np.testing.assert_allclose(index.vectors()[row], TOY.encode_documents([stored.text])[0], atol=1e-6)
    return documents


def allowed(mode: str, documents: list[Document] | None) -> bool:
    """Whether whole batches of the change were made, in order, and nothing else."""
    if documents is None:
        return True
    stored = by_id(documents)
    old, new = ([] if mode == "build" else OLD), NEW[mode]
    if mode in ("delete", "overwrite"):
        return stored in (by_id(old), by_id(new))
    done = 0
    while done < len(new) and stored.get(new[done].id) == new[done]:
        done += 1
    return stored == by_id(old) | by_id(new[:done])


class Calls:
    """Counts the storage calls of this process, and does something at one of them."""

    def __init__(self, at: int, act: Any) -> None:
        self.count, self._at, self._act = 0, at, act

    def __call__(self, sqlite: bool = False) -> None:
        self.count += 1
        if self.count == self._at:
            self._act(sqlite)

    def install(self) -> None:
        for owner, name in (
            (files.os, "fsync"), (files.os, "open"), (Path, "replace"), (Path, "unlink"), (Path, "touch"),
            (Path, "mkdir"), (files.AppendFile, "append"), (index_module, "exchange"), (shutil, "rmtree"),
            (writing, "build_structure"),
        ):  # fmt: skip
            setattr(owner, name, self._around(getattr(owner, name)))
        real, calls = DocumentStore.__init__, self

        def init(store: DocumentStore, *arguments: Any, **options: Any) -> None:
            real(store, *arguments, **options)
            store.connection = _Connection(store.connection, calls)  # type: ignore[assignment]

        DocumentStore.__init__ = init  # type: ignore[method-assign]

    def _around(self, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self()
            return real(*arguments, **options)

        return call


class _Connection:
    def __init__(self, real: sqlite3.Connection, calls: Calls) -> None:
        self._real, self._calls = real, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if not sql.startswith(("SELECT", "PRAGMA", "ROLLBACK")):
            self._calls(sqlite=True)
        return self._real.execute(sql, *values)

    def executemany(self, sql: str, values: Any) -> Any:
        self._calls(sqlite=True)
        return self._real.executemany(sql, values)


def kill(sqlite: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(sqlite: bool) -> None:
    if sqlite:
        raise sqlite3.OperationalError(random.choice(["database or disk is full", "disk I/O error"]))
    code = random.choice([errno.ENOSPC, errno.EIO])
    raise OSError(code, os.strerror(code))


def run(mode: str, path: Path, at: int, act: Any, seconds: float = 0.0) -> tuple[int, int]:
    """Make the change in a child; returns how it ended (0 well, 3 with a `SightlineError`, 4 otherwise) and calls."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 4
        calls = Calls(at, act)
        try:
            calls.install()
            change(mode, path)
            status = 0
        except SightlineError:
            status = 3
        except BaseException:
            traceback.print_exc()
        finally:
            os.write(writing, b"%d" % calls.count)
            os._exit(status)
    os.close(writing)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        count = pipe.read()
    return (os.waitstatus_to_exitcode(ended), int(count or 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--errors", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    writing.BATCH_PASSAGES = BATCH
    multivector._TAIL = 4
    folder = Path(tempfile.mkdtemp())
    with Index.build(folder / "base", OLD, encoder=TOY, **SETTINGS) as base:
        base.search_multivector(["common"], 1)

    def fresh(mode: str) -> Path:
        shutil.rmtree(folder / "trial", ignore_errors=True)
        (folder / "trial").mkdir()
        if mode != "build":
            shutil.copytree(folder / "base", folder / "trial" / "index")
        return folder / "trial" / "index"

    calls, took = {}, {}
    for mode in MODES:
        started = time.monotonic()
        status, calls[mode] = run(mode, fresh(mode), 0, kill)
        assert status == 0, (mode, status)
        took[mode] = time.monotonic() - started
    trials: Counter[str] = Counter()
    losses: list[str] = []
    plan = [("kill", number) for number in range(options.kills)] + [("error", n) for n in range(options.errors)]
    for kind, number in plan:
        mode = MODES[number % len(MODES)]
        path, place = fresh(mode), number // len(MODES)
        at, seconds = 1 + place % calls[mode], 0.0
        if kind == "kill" and place >= calls[mode]:
            at, seconds = 0, random.uniform(0.001, took[mode])
        name = f"{kind} {number}: {mode}, " + (f"call {at} of {calls[mode]}" if at else f"after {seconds:.4f} s")
        try:
            status, _ = run(mode, path, at, kill if kind == "kill" else fail, seconds)
            trials[f"{kind}, {'ended well' if status == 0 else 'killed' if status == -9 else 'refused'}"] += 1
            assert status != 4, "ended with an error that is not Sightline's"
            documents = check(mode, path)
            assert allowed(mode, documents), f"holds {[stored.id for stored in documents or []]}"
            if kind == "error" and status == 3 and mode == "delete":
                assert documents == OLD, "a change that reported failure was committed"
            change(mode, path)
            remade = check(mode, path)
            assert by_id(remade or []) == by_id(NEW[mode]), "the change made again"
            left = [entry.name for entry in path.parent.iterdir()]
            assert left == ["index"], f"left over: {left}"
        except (AssertionError, SightlineError, OSError, sqlite3.Error) as error:
            losses.append(f"{name}: {type(error).__name__}: {error}")
            print(losses[-1], flush=True)  # noqa: T201
    for what, count in sorted(trials.items()):
        print(f"{count:5} {what}")  # noqa: T201
    print(f"{len(plan)} trials ({options.kills} kills, {options.errors} errors), {len(losses)} losses")  # noqa: T201
    shutil.rmtree(folder)
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
