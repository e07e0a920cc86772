"""Stores in Qdrant: whether they give the results of a folder, and what becomes of them under load.

    python -m sightline.benchmarks.stores compare data/scifact scifact.index qdrant-edge:scifact.q --rerank minilm
    python -m sightline.benchmarks.stores two-servers --requests 10000    (needs httpx and the extras qdrant, serve)

``compare`` searches two copies of an index for the queries of a judged collection, and compares the results of each
query. If one of them is on a server, it reports the requests and bytes of a search.

``two-servers`` runs two servers on one store, with clients that search both while others write through both. Every
answer is compared with what may be right at that time. A document that was there, by a confirmed write, before a
request was sent, and that nobody changed until it was answered, must be found; one that was not there must not. While a
write goes on, the state before it and the state after it are both right, but nothing in between. Texts, passages and
evidence must be those of one of these states.

Without ``--url``, the store is the local mode of its client behind an HTTP server, in a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..cli.running import Command
from ..documents import Document
from ..errors import InputError
from ..eval.loading import load_dataset
from ..eval.metrics import measure_rankings
from ..extras import importing
from ..rerank.loading import load_reranker
from ..retrieval.fusion import RRF_CONSTANT
from ..retrieval.store import Traffic
from ..retrieval.stores import build_store, open_store
from ..search.candidates import CandidateList
from ..search.first_stage import DENSE_WEIGHT
from ..search.results import Hit, SearchResult
from ..search.searcher import Searcher
from .timing import print_report

__all__ = ["History", "compare", "same_ranking", "two_servers"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_KEY = "a key for this benchmark alone"
_NAME = "sightline-two-servers"
_TOPICS = ("volcanoes", "rivers", "engines", "bakers", "comets", "violins", "soldiers", "glaciers")
_VERBS = ("smoke", "flood", "roar", "knead", "glow", "sing", "march", "melt")
_CANDIDATES = 20
_SHOWN = 10  # wrong answers
_TOLERANCE = 1e-4  # between equal scores, for scores above 1 relative to them


@app.callback()
def main() -> None:
    """Measure stores that other processes keep."""


@app.command(cls=Command)
def compare(
    collection: Annotated[str, typer.Argument(help="The judged collection that both indexes were built from.")],
    expected: Annotated[str, typer.Argument(help="The index whose results are right, such as a folder.")],
    compared: Annotated[str, typer.Argument(help="The index to compare with it, such as a store in Qdrant.")],
    queries: Annotated[int | None, typer.Option(help="Number of queries. All of them by default.")] = None,
    first_stage: Annotated[str, typer.Option(help="First stage.")] = "hybrid",
    fusion: Annotated[str, typer.Option(help="How hybrids fuse: 'rrf', or the weight of dense.")] = str(DENSE_WEIGHT),
    candidates: Annotated[int, typer.Option(help="Candidates for each query.")] = 100,
    rerank: Annotated[str, typer.Option(help="Reranker, or 'none'.")] = "none",
) -> None:
    """Compare the candidates, hits, evidence and nDCG@10 of two indexes, query by query."""
    dataset = load_dataset(collection, max_queries=queries)
    reranker = None if rerank == "none" else load_reranker(rerank)
    options: dict[str, Any] = {"first_stage": first_stage, "candidates": candidates}
    options["fusion"] = fusion if fusion == "rrf" else float(fusion)
    evidence: Any = "sentence" if reranker is not None and reranker.has_evidence else None
    differing: Counter[str] = Counter({"candidates": 0, "hits": 0, "evidence": 0})
    runs: list[dict[str, list[str]]] = [{}, {}]
    times: list[list[float]] = [[], []]
    asked = Traffic()
    with open_store(expected) as one, open_store(compared) as other:
        searchers = [Searcher(store, reranker, **options) for store in (one, other)]
        deeper, words = Searcher(one, None, candidates=2 * candidates), one.manifest.lexical.name.stage or "bm25"
        for number, (id, query) in enumerate(dataset.queries.items()):
            results: list[tuple[CandidateList, SearchResult]] = []
            for side, searcher in enumerate(searchers):
                before = dataclasses.replace(searcher.index.traffic or Traffic())
                started = time.perf_counter()
                [found] = searcher.candidates([query])
                results.append((found, searcher.rank(found, k=10, evidence=evidence)))
                times[side].append(time.perf_counter() - started)
                runs[side][id] = [hit.id for hit in results[side][1].hits]
                if (now := searcher.index.traffic) is not None:
                    asked.requests += now.requests - before.requests
                    asked.bytes += now.bytes - before.bytes
            parts: list[dict[str, float]] = []
            if fusion == "rrf" and first_stage == "hybrid":
                [lists] = deeper.candidates_each([query], ["dense", words])
                parts = [_scores(part) for part in lists.values()]
            for what in _differences(results[0], results[1], parts, candidates):
                differing[what] += 1
                typer.echo(f"query {id}: other {what}", err=True)
            if not (number + 1) % 50:
                typer.echo(f"{number + 1} queries, {dict(differing)}", err=True)
    means = [measure_rankings(dataset.qrels, run, ["nDCG@10"])[0]["nDCG@10"] for run in runs]
    print_report(
        {
            "queries": len(dataset.queries),
            "first stage": first_stage,
            "fusion": fusion,
            "reranker": rerank,
            "queries with other results": dict(differing),
            "nDCG@10": means,
            "median milliseconds": [statistics.median(spent) * 1e3 for spent in times],
            "requests per search": asked.requests / len(dataset.queries),
            "bytes received per search": asked.bytes / len(dataset.queries),
        }
    )
    raise typer.Exit(1 if sum(differing.values()) else 0)


def _differences(
    expected: tuple[CandidateList, SearchResult],
    compared: tuple[CandidateList, SearchResult],
    parts: Sequence[Mapping[str, float]],
    depth: int,
) -> Iterator[str]:
    """What differs by more than ties and rounding: ``candidates``, ``hits`` and ``evidence``.

    Args:
        expected: the right candidates and results.
        compared: those to compare.
        parts: the right lists, if the candidates are their fusion by reciprocal rank; see `same_fusion`.
        depth: the length of these lists.
    """
    first, second = (_scores(found) for found, _ in (expected, compared))
    if not (same_fusion(parts, depth, second) if parts else same_ranking(first, second)):
        yield "candidates"
    hits, others = ({hit.id: hit for hit in result.hits} for _, result in (expected, compared))
    scores, other_scores = ({hit.id: hit.score for hit in some.values()} for some in (hits, others))
    if compared[1].reranker is not None and not same_ranking(scores, other_scores):
        yield "hits"
    both = [(hits[id], others[id]) for id in hits.keys() & others.keys()]
    if any(_marked(hit) != _marked(same) for hit, same in both):
        yield "evidence"


def _scores(found: CandidateList) -> dict[str, float]:
    return {id: score for id, (_, score) in found.first.items()}


def _marked(hit: Hit) -> list[tuple[str, int, int]]:
    return [(mark.field, mark.start, mark.end) for mark in hit.evidence or ()]


def same_ranking(expected: Mapping[str, float], compared: Mapping[str, float]) -> bool:
    """Whether two rankings are the same up to rounding and the order of ties, also where they were cut off.

    Args:
        expected: scores by id, best first.
        compared: other scores.

    Example:
        >>> same_ranking({"a": 2.0, "b": 1.0}, {"a": 2.0, "c": 1.0}), same_ranking({"a": 2.0}, {"a": 1.0})
        (True, False)
    """
    scores, others = list(expected.values()), list(compared.values())
    return (
        len(scores) == len(others)
        and all(map(_near, scores, others))
        and all(_near(expected[id], compared[id]) for id in expected.keys() & compared.keys())
        and all(_near(expected[id], scores[-1]) for id in expected.keys() - compared.keys())
        and all(_near(compared[id], others[-1]) for id in compared.keys() - expected.keys())
    )


def same_fusion(parts: Sequence[Mapping[str, float]], depth: int, compared: Mapping[str, float]) -> bool:
    """Whether a ranking is the fusion of lists by reciprocal rank, with ties within the lists in whatever order.

    Args:
        parts: scores by id, best first, of each list and of what comes after it.
        depth: the length of the lists.
        compared: fused scores by id, best first, of as many as were kept.

    Example:
        >>> parts = [{"a": 3.0, "b": 2.0, "c": 2.0}, {"b": 9.0}]
        >>> same_fusion(parts, 3, {"b": 1 / 63 + 1 / 61, "a": 1 / 61, "c": 1 / 62})
        True
        >>> same_fusion(parts, 3, {"b": 1 / 61 + 1 / 61, "a": 1 / 62, "c": 1 / 63})
        False
    """
    least: defaultdict[str, float] = defaultdict(float)
    most: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        scores = list(part.values())
        for id, score in part.items():
            tied = [rank for rank, other in enumerate(scores, start=1) if _near(score, other)]
            least[id] += 1 / (RRF_CONSTANT + tied[-1]) if tied[-1] <= depth else 0
            most[id] += 1 / (RRF_CONSTANT + tied[0]) if tied[0] <= depth else 0
    rounding, last = 1e-7, min(compared.values(), default=0.0)
    return all(least[id] - rounding <= score <= most[id] + rounding for id, score in compared.items()) and all(
        least[id] <= last + rounding for id in least.keys() - compared.keys()
    )


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one), abs(other))


@dataclass(slots=True)
class State:
    """What a write made of a document: None where it was deleted.

    Args:
        document: the document.
        began: when the write was sent, in seconds.
        ended: when it was confirmed; infinity before.
    """

    document: Document | None
    began: float
    ended: float = float("inf")


class History:
    """All states of all documents, and which answers they allow.

    Example:
        >>> history = History([Document("a", "Old.")])
        >>> with history.writing("a", None):
        ...     during = time.monotonic()
        >>> after = time.monotonic()
        >>> [state.document is None for state in history.possible("a", during, during)]
        [False, True]
        >>> [state.document is None for state in history.possible("a", after, after)]
        [True]
    """

    def __init__(self, documents: list[Document]) -> None:
        self._lock = threading.Lock()
        self._states = {document.id: [State(document, 0.0, 0.0)] for document in documents}

    def ids(self) -> list[str]:
        """The ids of all documents that ever were."""
        with self._lock:
            return list(self._states)

    def now(self, id: str) -> Document | None:
        """The document as of the last write, confirmed or not."""
        with self._lock:
            return self._states[id][-1].document

    @contextlib.contextmanager
    def writing(self, id: str, document: Document | None) -> Iterator[None]:
        """Put around a write, which is confirmed when the block ends."""
        state = State(document, time.monotonic())
        with self._lock:
            self._states.setdefault(id, [State(None, 0.0, 0.0)]).append(state)
        yield
        state.ended = time.monotonic()

    def possible(self, id: str, sent: float, answered: float) -> list[State]:
        """The states that a request may have seen, oldest first.

        Args:
            id: of the document.
            sent: when the request was sent.
            answered: when its answer was there.
        """
        with self._lock:
            states = list(self._states.get(id, [State(None, 0.0, 0.0)]))
        following = [*(state.ended for state in states[1:]), float("inf")]
        return [state for state, end in zip(states, following, strict=True) if state.began <= answered and end >= sent]

    def faults(
        self, found: Mapping[str, Mapping[str, Any]], sent: float, answered: float, expected: Callable[[Document], bool]
    ) -> Iterator[str]:
        """What is wrong with the hits of a search.

        Args:
            found: the hits by id.
            sent: see `possible`.
            answered: see `possible`.
            expected: whether a document, as it is in some state, must be found.
        """
        for id in self.ids():
            states = [state.document for state in self.possible(id, sent, answered)]
            hit = found.get(id)
            if hit is None:
                if all(document is not None and expected(document) for document in states):
                    yield f"{id} is missing"
            elif not any(document is not None and _shows(hit, document) for document in states):
                yield f"{id} was found as {hit['title']!r}, a version that the search could not see"
        yield from (f"{id} never was" for id in found.keys() - set(self.ids()))


def _shows(hit: Mapping[str, Any], document: Document) -> bool:
    """Whether a hit is a passage of a document, with evidence in it."""
    fields = {"title": document.title, "text": document.text}
    marks = hit.get("evidence") or ()
    return (
        hit["title"] == document.title
        and hit["metadata"] == document.metadata
        and hit["text"] == document.text[hit["start"] : hit["end"]]
        and all(mark["text"] == fields[mark["field"]][mark["start"] : mark["end"]] for mark in marks)
    )


@app.command(cls=Command)
def two_servers(
    requests: Annotated[int, typer.Option(help="Requests of the clients.", min=1)] = 10_000,
    url: Annotated[
        str | None, typer.Option(help="A Qdrant server, such as http://localhost:6333; its key in QDRANT_API_KEY.")
    ] = None,
    documents: Annotated[int, typer.Option(help="Documents at the beginning.")] = 120,
    clients: Annotated[int, typer.Option(help="Clients at once.")] = 8,
    writers: Annotated[int, typer.Option(help="Clients that write, each its own documents.")] = 2,
    writes: Annotated[float, typer.Option(help="Writes beside, for each request of the clients.")] = 0.1,
    rerank: Annotated[str, typer.Option(help="The reranker of the servers, or 'none'.")] = "minilm",
    seed: Annotated[int, typer.Option(help="Decides documents, queries and writes.")] = 0,
) -> None:
    """Search and write through two servers at once, and count the wrong answers."""
    with importing("httpx", extra="dev"):
        import httpx

    draw = random.Random(seed)
    history = History([_document(draw, number, 0) for number in range(documents)])
    numbers, left, stopped = itertools.count(documents), iter(range(requests)), threading.Event()
    taking, counted = threading.Lock(), threading.Lock()
    asked: Counter[str] = Counter()
    wrong: list[str] = []
    with contextlib.ExitStack() as stack:
        store = _store(url, stack)
        built = [document for id in history.ids() if (document := history.now(id)) is not None]
        build_store(store, built, overwrite=True, max_tokens=24).close()
        addresses = [stack.enter_context(_server(store, rerank)) for _ in range(2)]

        def count(kind: str, faults: list[str]) -> None:
            with counted:
                asked[kind] += 1
                wrong.extend(f"{kind}: {fault}" for fault in faults[:1])
                if not sum(asked[name] for name in _KINDS) % 1000:
                    typer.echo(f"{dict(asked)}, {len(wrong)} wrong", err=True)

        def client(number: int) -> None:
            own = random.Random(f"{seed} {number}")
            with httpx.Client(timeout=120) as http:
                while not stopped.is_set():
                    with taking:
                        if next(left, None) is None:
                            return
                    count(*_ask(http, own.choice(addresses), own, history, rerank != "none"))

        def writer(number: int) -> None:
            own = random.Random(f"{seed} writer {number}")
            with httpx.Client(timeout=120, headers={"Authorization": f"Bearer {_KEY}"}) as http:
                while not stopped.wait(own.uniform(0, 0.1)):
                    with counted:
                        if sum(asked[kind] for kind in _WRITES) >= writes * sum(asked[kind] for kind in _KINDS):
                            continue
                    mine = [id for id in history.ids() if int(id[1:]) % writers == number]
                    with taking:
                        new = next(numbers)
                    kind = _write(http, own.choice(addresses), own, history, mine, f"d{new * writers + number}")
                    with counted:
                        asked[kind] += 1

        failed: list[BaseException] = []

        def guarded(work: Callable[[int], None], number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                failed.append(error)
                stopped.set()

        searching = [threading.Thread(target=guarded, args=(client, number)) for number in range(clients)]
        writing = [threading.Thread(target=guarded, args=(writer, number)) for number in range(writers)]
        started = time.perf_counter()
        for thread in (*searching, *writing):
            thread.start()
        for thread in searching:
            thread.join()
        spent = time.perf_counter() - started
        stopped.set()
        for thread in writing:
            thread.join()
    if failed:
        raise failed[0]
    for line in wrong[:_SHOWN]:
        typer.echo(line, err=True)
    print_report(
        {
            "Qdrant": url or "the local mode of its client, over HTTP",
            "clients": clients,
            **dict(sorted(asked.items())),
            "requests": sum(asked[kind] for kind in _KINDS),
            "wrong answers": len(wrong),
            "requests per second": sum(asked[kind] for kind in _KINDS) / spent,
        }
    )
    raise typer.Exit(1 if wrong else 0)


_WRITES = ("documents added", "documents updated", "documents deleted")
_KINDS = ("searches by a filter", "searches for a word", "documents by id")


def _ask(http: Any, address: str, draw: random.Random, history: History, evidence: bool) -> tuple[str, list[str]]:
    """Send a request, and judge its answer: its kind, and what is wrong."""
    kind, topic, id = draw.choice(_KINDS), draw.choice(_TOPICS), draw.choice(history.ids())
    sent = time.monotonic()
    if kind == "documents by id":
        answer = http.get(f"{address}/documents/{id}")
        answered = time.monotonic()
        there = None if answer.status_code == 404 else answer.raise_for_status().json()
        if there is not None:
            there = Document(there["id"], there["text"], there["title"], there["metadata"])
        right = any(state.document == there for state in history.possible(id, sent, answered))
        return kind, [] if right else [
            f"{id} was returned as {there and there.title!r}, a version that the request could not see"
        ]
    body: dict[str, Any] = {"k": _CANDIDATES} | ({"evidence": "sentence"} if evidence else {})
    document = history.now(id)
    if kind == "searches by a filter" or document is None:
        kind = "searches by a filter"
        body |= {"query": f"{topic} that {draw.choice(_VERBS)}", "where": {"topic": topic}}
    else:
        body |= {"query": _own_word(document)}
    answer = http.post(f"{address}/search", json=body)
    answered = time.monotonic()
    found = {hit["id"]: hit for hit in answer.raise_for_status().json()["hits"]}
    if kind == "searches for a word":
        return kind, list(history.faults(found, sent, answered, lambda one: _own_word(one) == body["query"]))
    faults = [f"{id} is of another topic" for id, hit in found.items() if hit["metadata"]["topic"] != topic]
    all_shown = len(found) < _CANDIDATES
    return kind, faults + list(
        history.faults(found, sent, answered, lambda one: all_shown and one.metadata["topic"] == topic)
    )


def _write(http: Any, address: str, draw: random.Random, history: History, mine: list[str], new: str) -> str:
    """Add, update or delete a document; gives what was done."""
    there = [id for id in mine if history.now(id) is not None]
    kind = draw.choice(["add", "delete", "update", "update"])
    if kind == "delete" and len(there) > 3:
        id = draw.choice(there)
        with history.writing(id, None):
            http.delete(f"{address}/documents/{id}").raise_for_status()
        return "documents deleted"
    id, before = new, None
    if kind != "add":
        id = draw.choice(there)
        before = history.now(id)
    document = _document(draw, int(id[1:]), 0 if before is None else int(before.metadata["version"]) + 1)
    fields = {"id": id, "title": document.title, "text": document.text, "metadata": dict(document.metadata)}
    method = "POST" if before is None else "PUT"
    with history.writing(id, document):
        http.request(method, f"{address}/documents", json={"documents": [fields]}).raise_for_status()
    return "documents added" if before is None else "documents updated"


def _document(draw: random.Random, number: int, version: int) -> Document:
    """A document of one to five passages, whose last sentence alone has its own word."""
    topic, count = draw.choice(_TOPICS), draw.randint(1, 14)
    sentences = [f"The {topic} of town {draw.randrange(100)} {draw.choice(_VERBS)}." for _ in range(count)]
    metadata = {"topic": topic, "version": version}
    id = f"d{number}"
    return Document(id, " ".join([*sentences, f"It is only{number}x{version}."]), f"{id} version {version}", metadata)


def _own_word(document: Document) -> str:
    return document.text.rpartition(" ")[2].rstrip(".")


def _store(url: str | None, stack: contextlib.ExitStack) -> str:
    """The name of the store, on a server that is there or is started."""
    if url is not None:
        return f"{url.replace('http', 'qdrant', 1).rstrip('/')}/{_NAME}"
    command = [sys.executable, "-m", "sightline.tests.qdrant_api"]
    process = stack.enter_context(_process(command, {}))
    assert process.stdout is not None
    return f"qdrant://{process.stdout.readline().strip()}/{_NAME}"


@contextlib.contextmanager
def _server(store: str, rerank: str) -> Iterator[str]:
    """The address of a server on the store."""
    arguments = ["serve", store, "--port", "0", "--rerank", rerank, "--candidates", str(_CANDIDATES)]
    command = [sys.executable, "-c", "from sightline.cli import main; main()", *arguments]
    with _process(command, {"SIGHTLINE_API_KEY": _KEY, "PYTHONUNBUFFERED": "1", "COLUMNS": "500"}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"http://\S+", line)
        if match is None:
            raise InputError(f"the server did not start; it said {line!r}")
        yield match[0]


@contextlib.contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    app()
