"""Reading in Ray's workers: order, deaths and limits by a stand-in for Ray, and with SIGHTLINE_RAY=1 Ray itself."""

import dataclasses
import itertools
import math
import os
import pickle
import random
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest

from sightline import Document, Index
from sightline.errors import DataError, InputError, MissingExtraError, ModelError, WorkerError
from sightline.retrieval import writing
from sightline.retrieval.reading import StoredBatch
from sightline.scale import ray_reading
from sightline.scale.ray_reading import RayReading


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """What `RayReading` uses of Ray, in this process: an actor works when it is asked for an answer, or is dead."""

    class exceptions:  # noqa: N801
        RayError, RayTaskError = RayError, RayTaskError

    def __init__(self, processors=2, gpus=0.0, dies=lambda work: False, seed=0):
        self.resources = {"CPU": processors} | ({"GPU": gpus} if gpus else {})
        self.dies, self.random = dies, random.Random(seed)
        self.made = self.killed = self.works = self.most = 0
        self.waiting, self.options_given = [], None

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return self.resources

    def put(self, job):
        return pickle.dumps(job)

    def remote(self, kind):
        ray = self

        class Ref:
            def __init__(self, actor, arguments):
                self.actor, self.arguments = actor, arguments
                ray.waiting.append(self)
                ray.most = max(ray.most, len(ray.waiting))

        class Method:
            def __init__(self, actor):
                self.actor = actor

            def remote(self, *arguments):
                return Ref(self.actor, pickle.loads(pickle.dumps(arguments)))

        class Actor:
            def __init__(self, job):
                ray.made += 1
                self.alive, self.real = True, kind(pickle.loads(job))
                self.work = Method(self)

        class Maker:
            remote = Actor

            def options(self, **options):
                ray.options_given = options
                return self

        return Maker()

    def wait(self, refs, num_returns, timeout):
        return [self.random.choice(refs)], []

    def get(self, ref):
        self.waiting.remove(ref)
        self.works += 1
        if not ref.actor.alive or self.dies(self.works):
            ref.actor.alive = False
            raise RayError("the worker is gone")
        try:
            return ref.actor.real.work(*ref.arguments)
        except Exception as error:
            raise RayTaskError(error) from error

    def kill(self, actor):
        self.killed += 1
        actor.alive = False


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(writing, "BATCH_PASSAGES", 8)


@pytest.fixture
def with_ray(monkeypatch):
    def make(ray, **options):
        monkeypatch.setitem(sys.modules, "ray", ray)
        return RayReading(**options)

    return make


def some_documents(count, start=0):
    draw = random.Random(start)
    words = "cats purr dogs bark cows moo owls hoot".split()
    return [
        Document(f"d{n}", " ".join([f"only{n}", *draw.choices(words, k=n % 9)]), metadata={"n": n})
        for n in range(start, start + count)
    ]


def files(path):
    return {
        file.name: file.read_bytes() for file in sorted(Path(path).iterdir()) if file.name.startswith(("vec", "states"))
    }


def ids(index):
    return [document.id for document in index.documents()]


@pytest.mark.parametrize(("form", "seed"), [("int8", 0), ("pq4", 1), ("pq4", 2), ("none", 3)])
def test_an_index_is_the_one_that_is_built_without(toy, tmp_path, with_ray, form, seed):
    options = {"encoder": toy, "token_states": form, "max_tokens": 6}
    Index.build(tmp_path / "plain", some_documents(60), **options).close()
    told = []
    ray = FakeRay(workers := 2 + seed, seed=seed)
    with with_ray(ray) as reading:
        Index.build(tmp_path / "ray", some_documents(60), reading=reading, progress=told.append, **options).close()
    assert files(tmp_path / "plain") == files(tmp_path / "ray")
    assert (tmp_path / "plain/documents.sqlite").read_bytes() == (tmp_path / "ray/documents.sqlite").read_bytes()
    assert told == sorted(told) and told[-1] == 60
    assert ray.made == workers and ray.most <= 2 * workers


@pytest.mark.parametrize("seed", range(3))
def test_batches_of_workers_that_die_go_to_others(toy, tmp_path, with_ray, seed):
    draw = random.Random(seed)
    deaths = set(draw.sample(range(1, 14), 2))
    ray = FakeRay(dies=deaths.__contains__, seed=seed)
    with with_ray(ray) as reading:
        index = Index.build(tmp_path / "ray", some_documents(80), encoder=toy, max_tokens=0, reading=reading)
    with index, Index.build(tmp_path / "plain", some_documents(80), encoder=toy, max_tokens=0):
        assert files(tmp_path / "plain") == files(tmp_path / "ray")
        assert ids(index) == [document.id for document in some_documents(80)]
        assert ray.made > 2


def test_a_batch_that_every_worker_dies_of_ends_the_build_and_keeps_what_was_written(toy, tmp_path, with_ray):
    ray = FakeRay(1, dies=lambda work: work > 3)
    with with_ray(ray) as reading, pytest.raises(WorkerError, match="3 workers died with documents 'd24' to 'd31'"):
        Index.build(tmp_path / "i", some_documents(80), encoder=toy, max_tokens=0, reading=reading)
    assert ray.made == 3
    with Index.open(tmp_path / "i") as index:
        assert len(index) == 24 and not index.manifest.complete
    with with_ray(FakeRay()) as reading:
        index = Index.build(tmp_path / "i", some_documents(80), encoder=toy, max_tokens=0, reading=reading)
    with index, Index.build(tmp_path / "plain", some_documents(80), encoder=toy, max_tokens=0):
        assert files(tmp_path / "i") == files(tmp_path / "plain")


def test_a_build_goes_on_replaces_what_has_changed_and_deletes_what_is_gone(toy, tmp_path, with_ray):
    def broken_off():
        yield from some_documents(30)
        raise OSError("the disk is gone")

    with with_ray(FakeRay()) as reading, pytest.raises(OSError, match="disk"):
        Index.build(tmp_path / "i", broken_off(), encoder=toy, max_tokens=0, reading=reading)
    with Index.open(tmp_path / "i") as index:
        assert len(index) == 24  # as without workers: the last batch was not full
    changed = [
        dataclasses.replace(d, text=d.text + " cats") if n % 5 == 0 else d for n, d in enumerate(some_documents(50))
    ]
    changed = changed[3:]
    with with_ray(ray := FakeRay()) as reading:
        index = Index.build(tmp_path / "i", changed, encoder=toy, max_tokens=0, reading=reading)
    with index:
        assert sorted(ids(index)) == sorted(document.id for document in changed)
        assert {d.id: d.text for d in index.documents()} == {d.id: d.text for d in changed}
    with with_ray(ray := FakeRay()) as reading:  # a finished index needs no Ray
        Index.build(tmp_path / "i", changed, encoder=toy, max_tokens=0, reading=reading).close()
    assert ray.made == 0


def test_an_id_that_is_there_twice_is_refused_however_far_apart(toy, tmp_path, with_ray):
    for place, gap in enumerate((1, 5, 9, 40)):
        documents = some_documents(60)
        documents[10 + gap] = dataclasses.replace(documents[10 + gap], id="d10")
        with with_ray(FakeRay()) as reading, pytest.raises(DataError, match="two documents have the id 'd10'"):
            Index.build(tmp_path / str(place), documents, encoder=toy, max_tokens=0, reading=reading)
        with Index.open(tmp_path / str(place)) as index:
            assert len(ids(index)) == len(set(ids(index)))


def test_what_fails_in_a_worker_is_raised_here(toy, tmp_path, with_ray, monkeypatch):
    errors = [ModelError("the weights are gone"), MissingExtraError("faiss", "cpu"), MemoryError("no room")]
    for place, error in enumerate(errors):
        broken = pickle.loads(pickle.dumps(error))
        assert str(broken) == str(error)

        def refuse(self, batch, table, broken=broken):
            raise broken

        monkeypatch.setattr(ray_reading._Worker, "work", refuse)
        with with_ray(FakeRay()) as reading, pytest.raises(type(error), match=str(error)[:10]):
            Index.build(tmp_path / str(place), some_documents(20), encoder=toy, max_tokens=0, reading=reading)


def test_reading_waits_for_writing():
    """No more batches are taken from the source than four for each worker, however slow the consumer is."""
    ray = FakeRay(2)
    pool = ray_reading._Pool(ray, ray.remote(Echo), ray.put(()), 2, "i")
    taken = 0

    def source():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield [(Document(f"d{number}", "text"), [])]

    reading = RayReading.__new__(RayReading)
    reading._start = lambda plan: pool
    plan = type("Plan", (), {"table": staticmethod(lambda: None)})
    for number, batch in enumerate(RayReading.__call__(reading, source(), plan)):
        assert batch.documents[0][0].id == f"d{number}"
        assert taken <= number + 1 + pool.ahead
    assert taken == 100


class Echo:
    def __init__(self, job):
        pass

    def work(self, batch, table):
        empty = np.zeros(1, dtype=np.int64)
        return StoredBatch((), None, None, None, empty, empty)


def test_options_are_checked(with_ray, toy, tmp_path, monkeypatch):
    for options in ({"workers": 0}, {"gpus": -1.0}, {"gpus": 1.5}, {"gpus": float("nan")}):
        with pytest.raises(InputError):
            with_ray(FakeRay(), **options)
    with with_ray(FakeRay(gpus=1), gpus=2) as reading, pytest.raises(InputError, match="Ray has 1"):
        Index.build(tmp_path / "i", some_documents(9), encoder=toy, reading=reading)
    with with_ray(ray := FakeRay(8, gpus=2), gpus=0.5) as reading:
        Index.build(tmp_path / "j", some_documents(9), encoder=toy, reading=reading).close()
    assert ray.made == 4 and ray.options_given == {"num_cpus": 2, "num_gpus": 0.5}
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"sightline-search\[ray\]"):
        RayReading()


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_reading.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ray_reading, "_LONGEST", 1000)
    left = tmp_path / f"{ray_reading._FOLDER}left"
    left.mkdir()
    (left / "lock").touch()
    written = tmp_path / f"{ray_reading._FOLDER}written"  # by processes that outlived the first removal for a moment
    written.mkdir()
    os.utime(written, (1, 1))
    with ray_reading._temporary_folder() as first:
        assert not left.exists() and not written.exists()
        with ray_reading._temporary_folder() as second:
            assert first.exists() and second.exists() and first != second
    assert list(tmp_path.iterdir()) == []


def killed_at_random(build, seed, kills, count):
    """Build in processes that are killed at random moments (SIGKILL), until one ends; how many were killed."""
    draw, killed = random.Random(seed), 0
    while True:
        moment = draw.randrange(count) if killed < kills else math.inf
        child = os.fork()
        if child == 0:
            try:

                def progress(done, moment=moment):
                    if done >= moment:
                        os.kill(os.getpid(), signal.SIGKILL)

                build(progress, draw.random() if killed < kills else None)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        draw.random()
        _, status = os.waitpid(child, 0)
        if status == 0:
            return killed
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        killed += 1


def test_a_build_that_is_killed_twenty_times_has_every_document_once(toy, tmp_path, with_ray, monkeypatch):
    count, options = 200, {"encoder": toy, "max_tokens": 0}
    documents = some_documents(count)

    def build(progress, chance):
        if chance is not None:  # killed within a commit too: at its files, before it, and when it is signed
            owner, name = [(writing, "committing"), (writing.Writer, "_append"), (writing.Writer, "_sign")][
                int(chance * 3)
            ]
            real, steps = getattr(owner, name), itertools.count()

            def step(*arguments, **more):
                if next(steps) == int(chance * 1000) % 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **more)

            if chance * 100 % 1 < 0.5:
                monkeypatch.setattr(owner, name, step)
        ray = FakeRay(dies=lambda work: random.Random(f"{chance} {work}").random() < 0.05, seed=0)
        with with_ray(ray) as reading:
            Index.build(tmp_path / "i", documents, reading=reading, progress=progress, **options).close()

    assert killed_at_random(build, 0, 20, count) == 20
    with Index.open(tmp_path / "i", encoder=toy) as index, Index.build(tmp_path / "plain", documents, **options):
        assert index.manifest.complete and ids(index) == [document.id for document in documents]
        assert files(tmp_path / "i") == files(tmp_path / "plain")
        for document in documents:
            [row], _ = index.search_lexical(document.text.split()[0], 5)
            assert index.passages([row])[0].passage.document.id == document.id


@pytest.mark.skipif(
    not os.environ.get("SIGHTLINE_RAY"), reason="starting Ray takes a while; set SIGHTLINE_RAY=1 for it"
)
def test_ray_itself_with_workers_that_are_killed(tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from sightline.benchmarks.interruptions import _Known, documents

    marks = tmp_path / "marks"
    marks.mkdir()
    killed = itertools.count()

    def kill(done):
        alive = [mark for mark in marks.iterdir() if Path(f"/proc/{mark.name}").exists()]
        if alive and done > 100 * (next(killed) + 1):
            os.kill(int(alive[0].name), signal.SIGKILL)

    encoder = _Known(marks)
    with RayReading(workers=2) as reading:
        Index.build(
            tmp_path / "ray", documents(300), encoder=encoder, max_tokens=0, reading=reading, progress=kill
        ).close()
    Index.build(tmp_path / "plain", documents(300), encoder=encoder, max_tokens=0).close()
    assert files(tmp_path / "plain") == files(tmp_path / "ray")
