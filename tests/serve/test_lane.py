"""Threads, a bounded queue, and callers who may leave."""

import asyncio
import contextlib
import random
import threading
import time

import pytest

from sightline.models.batching import interruptible, token_budget_batches
from sightline.serve.lane import ClosedError, Lane, QueueFullError, TimeLimitError, _Job


def each(works):
    """Does calls; their errors are results."""
    results = []
    for work in works:
        try:
            results.append(work())
        except ValueError as error:
            results.append(error)
    return results


@pytest.fixture
def lane():
    lane = Lane("test", each, capacity=2)
    yield lane
    lane.close()


class Gate:
    """Work that begins, and ends when it is let through."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(10)
        return "through"


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not come true")


def test_results_and_errors_come_back_to_their_callers(lane):
    def fail():
        raise ValueError("mine")

    async def main():
        done = await asyncio.gather(lane.do(lambda: 1, seconds=9), lane.do(fail, seconds=9), return_exceptions=True)
        assert done[0] == 1 and str(done[1]) == "mine"
        assert await lane.do(lambda: 2, seconds=9) == 2

    asyncio.run(main())


def test_an_unforeseen_error_does_not_end_the_thread(lane):
    async def main():
        with pytest.raises(ZeroDivisionError):
            await lane.do(lambda: 1 / 0, seconds=9)
        assert lane.alive() and await lane.do(lambda: 3, seconds=9) == 3

    asyncio.run(main())


def test_a_full_queue_refuses_and_says_when_to_come_again(lane):
    async def main():
        gate = Gate()
        first = asyncio.create_task(lane.do(gate, seconds=9))
        await until(gate.begun.is_set)
        waiting = [asyncio.create_task(lane.do(lambda: None, seconds=9)) for _ in range(2)]
        await until(lambda: lane.waiting() == 2)
        with pytest.raises(QueueFullError) as refused:
            await lane.do(lambda: None, seconds=9)
        assert refused.value.retry_after >= 1
        gate.open.set()
        assert await first == "through"
        await asyncio.gather(*waiting)

    asyncio.run(main())


def test_who_leaves_the_queue_makes_room_at_once_and_is_never_worked_for(lane):
    async def main():
        gate, done = Gate(), []
        first = asyncio.create_task(lane.do(gate, seconds=9))
        await until(gate.begun.is_set)
        leaver = asyncio.create_task(lane.do(lambda: done.append("leaver"), seconds=9))
        await until(lambda: lane.waiting() == 1)
        leaver.cancel()
        await until(lambda: lane.waiting() == 0)
        gate.open.set()
        await first
        await lane.do(lambda: done.append("next"), seconds=9)
        assert done == ["next"]

    asyncio.run(main())


def test_work_whose_caller_has_left_ends_before_its_next_pass(lane):
    passes = []

    def work():
        for batch in token_budget_batches([5] * 1000, budget=5):
            passes.append(batch)
            time.sleep(0.01)

    async def main():
        task = asyncio.create_task(lane.do(work, seconds=99))
        await until(lambda: passes)
        task.cancel()
        started = time.monotonic()
        await lane.do(lambda: None, seconds=9)
        assert time.monotonic() - started < 2 and len(passes) < 300

    asyncio.run(main())


def test_a_time_limit_ends_the_waiting_and_the_work(lane):
    passes = []

    def work():
        for batch in token_budget_batches([5] * 1000, budget=5):
            passes.append(batch)
            time.sleep(0.01)

    async def main():
        with pytest.raises(TimeLimitError):
            await lane.do(work, seconds=0.1)
        await lane.do(lambda: None, seconds=9)
        assert len(passes) < 300

    asyncio.run(main())


def test_some_work_is_not_to_be_interrupted(lane):
    passes = []

    def work():
        with interruptible(None):
            passes.extend(token_budget_batches([5] * 50, budget=5))

    async def main():
        gate = Gate()
        task = asyncio.create_task(lane.do(lambda: (gate(), work()), seconds=9))
        await until(gate.begun.is_set)
        task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await lane.do(lambda: None, seconds=9)
        assert len(passes) == 50

    asyncio.run(main())


def test_what_waits_is_done_together_within_the_budget():
    handed = []

    def handle(works):
        handed.append([name for name, _ in works])
        for _, call in works:
            call()
        return [name for name, _ in works]

    lane = Lane("test", handle, capacity=9, budget=10)

    async def main():
        gate = Gate()
        first = asyncio.create_task(lane.do(("first", gate), seconds=9, weight=4))
        await until(gate.begun.is_set)
        rest = [("a", 4), ("b", 6), ("c", 1), ("d", 11), ("e", 1)]
        tasks = [asyncio.create_task(lane.do((name, lambda: None), seconds=9, weight=weight)) for name, weight in rest]
        await until(lambda: lane.waiting() == 5)
        gate.open.set()
        assert await asyncio.gather(first, *tasks) == ["first", "a", "b", "c", "d", "e"]
        assert handed == [["first"], ["a", "b"], ["c"], ["d"], ["e"]]

    asyncio.run(main())
    lane.close()


def test_together_work_goes_on_for_those_who_stay():
    def handle(works):
        for work in works:
            work()
        return [sum(1 for _ in token_budget_batches([5] * 20, budget=5)) for _ in works]

    lane = Lane("test", handle, capacity=9, budget=10)

    async def main():
        gate, inner = Gate(), Gate()
        first = asyncio.create_task(lane.do(gate, seconds=9, weight=11))
        await until(gate.begun.is_set)
        leaver = asyncio.create_task(lane.do(inner, seconds=9))
        stayer = asyncio.create_task(lane.do(lambda: None, seconds=9))
        await until(lambda: lane.waiting() == 2)
        gate.open.set()
        await until(inner.begun.is_set)
        leaver.cancel()
        await asyncio.sleep(0)
        inner.open.set()
        assert await stayer == 20 and await first == 20

    asyncio.run(main())
    lane.close()


def test_a_closed_lane_refuses_and_drops_what_waits():
    lane = Lane("test", each, capacity=2)

    async def main():
        gate = Gate()
        first = asyncio.create_task(lane.do(gate, seconds=9))
        await until(gate.begun.is_set)
        waiting = asyncio.create_task(lane.do(lambda: None, seconds=9))
        await until(lambda: lane.waiting() == 1)
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await lane.do(lambda: None, seconds=9)
        gate.open.set()
        assert await first == "through"
        await closing
        assert not lane.alive()

    asyncio.run(main())


def test_time_that_runs_out_in_the_queue_is_a_time_limit_too(lane):
    async def main():
        gate = Gate()
        first = asyncio.create_task(lane.do(gate, seconds=9))
        await until(gate.begun.is_set)
        with pytest.raises(TimeLimitError):
            await lane.do(lambda: None, seconds=0.05)
        assert lane.waiting() == 0
        gate.open.set()
        assert await first == "through"

    asyncio.run(main())


def test_a_timeout_that_the_work_raises_is_not_the_limit(lane):
    def fail():
        raise TimeoutError("mine")

    async def main():
        with pytest.raises(TimeoutError, match="mine"):
            await lane.do(fail, seconds=9)

    asyncio.run(main())


def test_a_lane_closes_while_a_caller_is_leaving():
    lane = Lane("test", each, capacity=2)

    async def main():
        gate = Gate()
        first = asyncio.create_task(lane.do(gate, seconds=9))
        await until(gate.begun.is_set)
        job = lane._put(_Job(lambda: None, 1))
        job.future.cancel()  # its caller has gone, and had no time to take it from the queue
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        await until(lambda: not lane.alive())
        gate.open.set()
        assert await first == "through"
        await closing

    asyncio.run(main())


@pytest.fixture
def wide():
    lane = Lane("wide", each, capacity=9, threads=3)
    yield lane
    lane.close()


def test_threads_work_side_by_side_and_work_alone_waits_for_all_before_it(wide):
    async def main():
        gates, write, log = [Gate(), Gate()], Gate(), []
        reads = [asyncio.create_task(wide.do(gate, seconds=9)) for gate in gates]
        for gate in gates:
            await until(gate.begun.is_set)  # both are worked on at once
        writing = asyncio.create_task(wide.do(write, seconds=9, alone=True))
        await until(lambda: wide.waiting() == 1)
        later = [asyncio.create_task(wide.do(lambda: log.append("read"), seconds=9)) for _ in range(2)]
        await until(lambda: wide.waiting() == 3)
        gates[0].open.set()
        await reads[0]
        await asyncio.sleep(0.05)
        assert not write.begun.is_set() and log == []  # though two threads have nothing to do
        gates[1].open.set()
        await until(write.begun.is_set)
        await asyncio.sleep(0.05)
        assert wide.waiting() == 2 and log == []
        write.open.set()
        await asyncio.gather(writing, *reads, *later)
        assert log == ["read", "read"]

    asyncio.run(main())


def test_what_waits_behind_work_alone_begins_when_that_is_given_up(wide):
    async def main():
        gate = Gate()
        read = asyncio.create_task(wide.do(gate, seconds=9))
        await until(gate.begun.is_set)
        writing = asyncio.create_task(wide.do(lambda: None, seconds=9, alone=True))
        later = asyncio.create_task(wide.do(lambda: "read", seconds=9))
        await until(lambda: wide.waiting() == 2)
        writing.cancel()
        assert await later == "read" and not read.done()
        gate.open.set()
        await read

    asyncio.run(main())


def test_nothing_ever_runs_beside_work_that_runs_alone(wide):
    """Many reads and writes at random, some of which are given up."""
    chance, running, wrong, lock = random.Random(3), [], [], threading.Lock()

    def work(alone):
        with lock:
            running.append(alone)
            wrong.extend([True] * (len(running) > 1 and any(running)))
        time.sleep(chance.random() * 0.002)
        with lock:
            running.remove(alone)
        return alone

    async def ask(alone):
        with contextlib.suppress(TimeLimitError, QueueFullError):
            assert await wide.do(lambda: work(alone), seconds=chance.choice([0.001, 9]), alone=alone) is alone

    async def main():
        for _ in range(30):
            await asyncio.gather(*(ask(chance.random() < 0.3) for _ in range(9)))

    asyncio.run(main())
    assert wide.alive()
    wide.close()  # work whose caller has left may still run until here
    assert not wrong and not running
