"""Run pieces of work side by side, in threads of which only one goes on at a time, in an order that a test chooses."""

import threading
from collections.abc import Callable, Iterable, Sequence

_STUCK = 60.0  # seconds after which a piece of work that takes no step is a fault


class Interleaved:
    """Pieces of work whose steps are taken in turn.

    Each piece calls `step` before whatever others may see, such as a request to a server.

    Args:
        works: the pieces of work, each a function without arguments.

    Attributes:
        steps: for each step taken, the number of the piece that took it.
        failures: what pieces raised, by their numbers.

    Example:
        >>> said = []
        >>> def work(name):
        ...     for number in range(2):
        ...         turns.step()
        ...         said.append(f"{name}{number}")
        >>> turns = Interleaved([lambda: work("a"), lambda: work("b")])
        >>> turns.run([1, 0, 0])
        >>> said
        ['b0', 'a0', 'a1', 'b1']
    """

    def __init__(self, works: Sequence[Callable[[], object]]) -> None:
        self.steps: list[int] = []
        self.failures: dict[int, BaseException] = {}
        self._works = works
        self._own = threading.local()
        self._go = [threading.Semaphore(0) for _ in works]
        self._stopped = threading.Semaphore(0)
        self._left = set(range(len(works)))

    def step(self) -> None:
        """Wait for the turn of this thread's piece of work. In other threads, it does nothing."""
        number = getattr(self._own, "number", None)
        if number is not None:
            self._stopped.release()
            self._go[number].acquire()
            self.steps.append(number)

    def run(self, order: Iterable[int]) -> None:
        """Take steps of the pieces in this order, and then what is left of each, from the first piece to the last.

        Raises:
            TimeoutError: if a piece waits for something else than its turn.
        """
        threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(len(self._go))]
        for thread in threads:
            thread.start()
            self._wait()
        for number in order:
            if number in self._left:
                self._let(number)
        for number in range(len(threads)):
            while number in self._left:
                self._let(number)

    def _work(self, number: int) -> None:
        self._own.number = number
        try:
            self._works[number]()
        except BaseException as error:
            self.failures[number] = error
        self._left.discard(number)
        self._stopped.release()

    def _let(self, number: int) -> None:
        self._go[number].release()
        self._wait()

    def _wait(self) -> None:
        if not self._stopped.acquire(timeout=_STUCK):
            raise TimeoutError("a piece of work waits for something else than its turn")
