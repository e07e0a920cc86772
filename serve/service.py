"""What the routes share: the lanes of work, the limits on it, and the counters.

One lane runs searches side by side and writes alone, so an index never changes during a search. Reranking has a lane of
its own, so a long list does not delay the search page.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi import FastAPI, Request

from ..errors import IndexStoreError, InputError, SightlineError
from ..models.devices import processors
from ..rerank.base import Reranker
from ..retrieval.analysis import document_terms
from ..search import Searcher
from ..sentences import sentence_spans
from ..tracing import flush, span
from .lane import ClosedError, Lane
from .limits import Limits
from .memory import keep_giving_back
from .metrics import Metrics
from .ranking import RankedList, RankingWork, rank_all
from .schemas import IndexCounts

__all__ = ["GoneError", "Service"]

T = TypeVar("T")

# Lists that wait are read together up to about two of the model's batches; beyond that nobody gains.
_CHARACTERS_TOGETHER = 16_384

_MOST_THREADS = 16  # beyond that, Python's own part of the work leaves processors idle

_COUNTING_SECONDS = 0.5
_FLUSH_SECONDS = 5.0

# The example searches of the search page.
_EXAMPLES = 3
_SAMPLE = 64  # documents that they are chosen from
_WORDS, _CHARACTERS = 8, 80
_SEARCHED = 500  # characters in which the first sentence is looked for
_CODE = re.compile(r"[()\[\]{}<>=_*|\\@#`]|\w\.[A-Za-z]")  # names of files, functions, modules: nobody asks so


class Service:
    """What the routes share: lanes, limits and counters."""

    def __init__(
        self, searcher: Searcher | None, reranker: Reranker | None, limits: Limits, threads: int | None = None
    ) -> None:
        self.searcher, self.reranker, self.limits = searcher, reranker, limits
        self.threads = min(processors(), _MOST_THREADS) if threads is None else threads
        self.metrics = Metrics()
        used = {ranks.cache for ranks in (reranker, searcher and searcher.reranker) if ranks and ranks.cache}
        self.metrics.watch_caches(used)
        self.counts = IndexCounts(documents=0, passages=0)
        self.examples: list[str] | None = None
        self.problem: str | None = None
        self._count_again = 0.0
        self._searches: Lane[Callable[[], Any], Any] | None = None
        self._rankings: Lane[RankingWork, RankedList] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Run the lanes while the application runs."""
        waiting = self.limits.waiting
        if self.searcher is not None:
            threads = self.threads if self.searcher.concurrent else 1
            self._searches = Lane("search", lambda calls: [call() for call in calls], capacity=waiting, threads=threads)
            self.count(self.searcher)
        if self.reranker is not None:
            handle = functools.partial(rank_all, self.reranker)
            threads = self.threads if self.reranker.concurrent else 1
            self._rankings = Lane("rerank", handle, capacity=waiting, budget=_CHARACTERS_TOGETHER, threads=threads)
        lanes = [lane for lane in (self._searches, self._rankings) if lane is not None]
        for lane in lanes:
            self.metrics.watch(lane)
        trimming = asyncio.create_task(keep_giving_back())
        try:
            yield
        finally:
            trimming.cancel()
            for lane in lanes:
                await asyncio.to_thread(lane.close)
            if self.searcher is not None:
                self.searcher.index.close()
            await asyncio.to_thread(flush, _FLUSH_SECONDS)

    def count(self, searcher: Searcher) -> None:
        """Remember the size of the index, for `now_counted` and the search page."""
        started = time.monotonic()
        try:
            counts = searcher.index.counts()
        except IndexStoreError as error:
            self.problem = str(error).removeprefix(f"{searcher.index.path}: ")  # paths and addresses are the log's
            raise
        self.problem = None
        self.counts = IndexCounts(documents=counts["documents"], passages=counts["passages"])
        self.examples = _examples(searcher)
        # Counting a large index takes time: it may take a twentieth of the lane's.
        self._count_again = time.monotonic() + 20 * (time.monotonic() - started)

    async def now_counted(self) -> IndexCounts | None:
        """Return the size of the index: counted now if the lane of searches has time for it, else the last count."""
        if self.searcher is None:
            return None
        if self._searches is not None and time.monotonic() > self._count_again:
            with contextlib.suppress(SightlineError):
                await self._searches.do(functools.partial(self.count, self.searcher), seconds=_COUNTING_SECONDS)
        return self.counts

    def healthy(self) -> bool:
        """Whether all lanes work."""
        return all(lane.alive() for lane in (self._searches, self._rankings) if lane is not None)

    async def search(self, request: Request, call: Callable[[], T], *, alone: bool = False) -> T:
        """Run a call in the lane of searches. Set ``alone`` if it writes."""
        if self._searches is None:
            raise ClosedError("the server is not running")
        return await _while_there(request, self._searches.do(call, seconds=self.limits.seconds, alone=alone))

    async def rank(self, request: Request, work: RankingWork) -> RankedList:
        """Rank a list in the lane of rankings."""
        if self._rankings is None:
            raise ClosedError("the server is not running")
        self.check_count(len(work.documents))
        self.check_length("query", work.query)
        for place, (title, text) in enumerate(work.documents):
            self.check_length(f"document {place}", f"{title} {text}" if title else text)
        weight = sum(len(title) + len(text) for title, text in work.documents)
        with span("rerank") as step:  # from the queue on
            done = await _while_there(request, self._rankings.do(work, seconds=self.limits.seconds, weight=weight))
            step.set(
                reranker=done.ranking.reranker,
                passages=len(work.documents),
                tokens=done.tokens,
                truncated=done.truncated,
                evidence=work.evidence,
            )
        self.metrics.ranked.inc(len(work.documents))
        self.metrics.truncated.inc(done.truncated)
        return done

    def check_count(self, documents: int) -> None:
        """Refuse a list that would take too long."""
        if documents > self.limits.documents:
            raise InputError(f"{documents} documents are more than the {self.limits.documents} that a request may have")

    def check_length(self, what: str, text: str) -> None:
        """Refuse a text that would take the tokenizer too long."""
        if len(text) > self.limits.characters:
            raise InputError(f"{what} has {len(text)} characters, and at most {self.limits.characters} are allowed")


def _examples(searcher: Searcher) -> list[str]:
    """Up to three different texts to search for: titles of documents, or else the first words of documents."""
    documents = searcher.index.sample(_SAMPLE)
    titles = _usable(" ".join(document.title.split()) for document in documents)
    if len(titles) >= _EXAMPLES:
        return _spread(titles, _EXAMPLES)
    beginnings = _usable([*titles, *(_first_words(document.text) for document in documents)])[len(titles) :]
    return titles + _spread(beginnings, _EXAMPLES - len(titles))


def _usable(texts: Iterable[str]) -> list[str]:
    """Different texts of two to eight words, which are neither numbers alone nor code."""
    return [text for text in {text.casefold(): text for text in texts}.values() if _worth_searching(text)]


def _worth_searching(text: str) -> bool:
    words = len(text.split())
    # Chinese, Japanese and Thai put no spaces between words.
    several = words > 1 or (not text.isascii() and len(document_terms(text)) > 1)
    letters = any(char.isalpha() for char in text)
    return several and words <= _WORDS and len(text) <= _CHARACTERS and letters and not _CODE.search(text)


def _first_words(text: str) -> str:
    """The first words of the first sentence, without signs of markup."""
    beginning = text[:_SEARCHED]
    start, end = next(iter(sentence_spans(beginning)), (0, 0))
    words = [word for word in beginning[start:end].split() if any(char.isalnum() for char in word)]
    return " ".join(words[:_WORDS])


def _spread(texts: list[str], count: int) -> list[str]:
    """So many of the texts, from the middle of as many parts of the list, or all if there are fewer."""
    return [texts[(2 * part + 1) * len(texts) // (2 * count)] for part in range(count)] if texts[count:] else texts


class GoneError(Exception):
    """The client has disconnected."""


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is given up when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise GoneError
        return await doing
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)
