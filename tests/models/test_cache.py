"""The cache of what was read of documents: budgets, threads, damage, killed writers, several processes."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import torch

from sightline.errors import InputError
from sightline.models.cache import CacheSettings, DocumentCache, cache_key, shared_cache


def entry(number, floats=100):
    """Tensors of several kinds that follow from a number."""
    numbers = torch.Generator().manual_seed(number)
    small = torch.tensor([[number % 100]], dtype=torch.int8)
    return torch.randn(floats, generator=numbers), torch.tensor(number), small


def key(number):
    return cache_key("test", number)


def same(one, other):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_memory_and_disk_give_back_the_same_bits(tmp_path):
    writer = DocumentCache(host_bytes=1 << 20, disk_bytes=1 << 20, folder=tmp_path)
    writer.put(key(1), entry(1))
    later = DocumentCache(host_bytes=1 << 20, disk_bytes=1 << 20, folder=tmp_path)
    assert same(writer.get(key(1)), entry(1)) and same(later.get(key(1)), entry(1))
    assert later.get(key(2)) is None and (later.hits, later.misses) == (1, 1)
    next(tmp_path.glob("*/*.read")).unlink()
    assert same(later.get(key(1)), entry(1))  # by now in memory


@pytest.mark.parametrize("where", ["host_bytes", "disk_bytes"])
def test_a_random_history_stays_within_the_budget_and_forgets_what_was_not_used_for_longest(tmp_path, where):
    size, place = 1000, where.removesuffix("_bytes")
    cache = DocumentCache(**{where: size * 20}, folder=tmp_path)
    chance = random.Random(5)
    used = []
    for _ in range(120):
        number = chance.randrange(60)
        found = cache.get(key(number))
        assert found is None or same(found, entry(number, 50 + number))
        if found is None:
            cache.put(key(number), entry(number, 50 + number))
        used = [*(n for n in used if n != number), number]
        assert 0 < cache.bytes()[place] <= size * 20
        files = list(tmp_path.glob("*/*"))
        assert sum(file.stat().st_size for file in files) == cache.bytes()["disk"]
    assert all(cache.get(key(number)) is not None for number in used[-15:])
    cache.put(key(999), entry(999, 10_000))  # larger than the budget
    assert cache.get(key(999)) is None


def test_damaged_entries_are_not_trusted_and_are_replaced(tmp_path):
    cache = DocumentCache(disk_bytes=1 << 20, folder=tmp_path)
    for number in range(4):
        cache.put(key(number), entry(number))
    files = [tmp_path / key(number)[:2] / f"{key(number)}.read" for number in range(4)]
    data = files[0].read_bytes()
    files[0].write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])  # a bit that only a digest sees
    files[1].write_bytes(data[:50])
    files[2].write_bytes(b"")
    files[3].write_bytes(data)  # whole, and of another document
    for number in range(4):
        assert cache.get(key(number)) is None
        cache.put(key(number), entry(number))
        assert same(cache.get(key(number)), entry(number))


def test_threads_share_a_cache(tmp_path):
    cache = DocumentCache(host_bytes=4000, disk_bytes=9000, folder=tmp_path)
    wrong = []

    def work(seed):
        chance = random.Random(seed)
        try:
            for _ in range(100):
                number = chance.randrange(30)
                found = cache.get(key(number))
                if found is None:
                    cache.put(key(number), entry(number))
                elif not same(found, entry(number)):
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.hits + cache.misses == 600
    assert cache.bytes()["host"] <= 4000 and cache.bytes()["disk"] <= 9000


def _write(folder, start, progress):
    cache = DocumentCache(disk_bytes=30_000_000, folder=folder)
    for number in range(start, 1_000_000):
        cache.put(key(number), entry(number, 100_000))
        progress.value = number - start


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_killed_writers_leave_whole_entries_and_another_process_goes_on(tmp_path):
    """Two processes write into one folder until kill -9 ends them in the middle of it."""
    context = multiprocessing.get_context("fork")
    progress = [context.Value("q", -1), context.Value("q", -1)]
    writers = [context.Process(target=_write, args=[tmp_path, 10 * i, progress[i]]) for i in range(2)]
    for writer in writers:
        writer.start()
    until = time.monotonic() + 60
    while min(value.value for value in progress) < 25 and time.monotonic() < until:
        time.sleep(0.001)
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    cache = DocumentCache(disk_bytes=30_000_000, folder=tmp_path)
    # However long they wrote, the last entries that there is room for are there.
    numbers = range(12 + max(value.value for value in progress))
    found = [number for number in numbers if (kept := cache.get(key(number))) and same(kept, entry(number, 100_000))]
    assert len(found) >= 25 and cache.bytes()["disk"] == sum(f.stat().st_size for f in tmp_path.glob("*/*.read"))
    # What it left half written goes away when it is surely nobody's any more.
    beside = tmp_path / key(0)[:2] / f".{key(0)}.read.12345"
    beside.parent.mkdir(exist_ok=True)
    beside.write_bytes(b"half")
    DocumentCache(disk_bytes=1 << 20, folder=tmp_path)
    assert beside.exists()
    os.utime(beside, (0, 0))
    foreign = tmp_path / "ab" / ".profile"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_bytes(b"")
    os.utime(foreign, (0, 0))
    DocumentCache(disk_bytes=1 << 20, folder=tmp_path)
    assert not beside.exists() and foreign.exists()


def test_processes_that_share_a_folder_keep_to_its_budget(tmp_path):
    caches = [DocumentCache(disk_bytes=50_000, folder=tmp_path) for _ in range(3)]
    for number in range(120):
        caches[number % 3].put(key(number), entry(number))
        used = sum(file.stat().st_size for file in tmp_path.glob("*/*"))
        assert used <= 50_000 * (1 + 3 / 16) + 3 * 1000
    assert used > 25_000


def test_settings_make_one_cache_for_all_who_ask_for_the_same(tmp_path):
    assert shared_cache(CacheSettings(mb=0)) is None
    one = shared_cache(CacheSettings(mb=3, folder=tmp_path / "new"))
    assert one is shared_cache(CacheSettings(mb=3, folder=tmp_path / "new")) is not shared_cache(CacheSettings(mb=3))
    assert (tmp_path / "new").is_dir()
    with pytest.raises(InputError, match="mb must be 0 or more"):
        CacheSettings(mb=-1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="no folder can be made there"):
        DocumentCache(disk_bytes=1, folder=tmp_path / "file")
