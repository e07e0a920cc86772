"""The server under load, on loopback: a process of its own, and clients beside it.

python -m sightline.benchmarks.server load BEIR_FOLDER --index INDEX      (needs wrk)
python -m sightline.benchmarks.server chunks BEIR_FOLDER [--before DIR]   (needs httpx, and Linux)
python -m sightline.benchmarks.server crosstalk                           (needs httpx)
python -m sightline.benchmarks.server memory BEIR_FOLDER --index INDEX    (needs wrk, and Linux)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cli.running import Command
from ..errors import InputError
from ..eval.loading import load_dataset
from ..extras import importing
from ..rerank.loading import load_reranker
from ..rerank.results import relevance_or_score
from ..retrieval.index import Index
from .timing import own_kilobytes, print_report

__all__ = ["chunks", "crosstalk", "load", "memory"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_PASSAGES = 20
_SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local i = 0
function request()
  i = i % #bodies + 1
  return wrk.format("POST", os.getenv("ROUTE"), {["Content-Type"] = "application/json"}, bodies[i])
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %d, "seconds": %.3f, "p50_ms": %.1f, "p99_ms": %.1f, "failed": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
Folder = Annotated[Path, typer.Argument(help="BEIR folder with the queries.")]
IndexPath = Annotated[Path, typer.Option(help="Index of its corpus.")]


@app.command(cls=Command)
def load(
    folder: Folder,
    index: IndexPath,
    seconds: Annotated[int, typer.Option(help="Seconds of each measurement.")] = 60,
    clients: Annotated[str, typer.Option(help="Numbers of clients, comma-separated.")] = "1,8,32",
) -> None:
    """Throughput and latency of reranking 20 passages, and of searches with evidence, no body twice in a row.

    The server keeps nothing of what it reads: `chunks` measures what that saves.
    """
    figures: dict[str, Any] = {}
    with _server(str(index), "--cache-mb", "0") as (_, address), tempfile.TemporaryDirectory() as scratch:
        bodies = _bodies(folder, index, Path(scratch))
        for route, count in itertools.product(bodies, map(int, clients.split(","))):
            _wrk(address, route, bodies[route], count, 3)
            figures[f"{route}, {count} clients"] = _wrk(address, route, bodies[route], count, seconds)
    print_report(figures)


@app.command(cls=Command)
def chunks(
    folder: Folder,
    before: Annotated[
        Path | None, typer.Option(help="Measure another version in turns with this one: the folder above its package.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 20,
    clients: Annotated[int, typer.Option(help="Clients at once.")] = 8,
    rounds: Annotated[int, typer.Option(help="Measurements of each version; medians count.")] = 3,
    dtype: Annotated[str | None, typer.Option(help="Also measure this version in another number format.")] = None,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Also measure this version with the layers of its decoder compiled.")
    ] = False,
    rerank: Annotated[str, typer.Option(help="The reranker of the servers.")] = "minilm",
) -> None:
    """Reranking of 20 passages that the server has never seen, and of 20 that come again with other queries.

    Versions take turns, since other work on the machine disturbs wall times. CPU seconds a request are disturbed less.
    """
    dataset = load_dataset(folder)
    passages = [document.contents for document in itertools.islice(dataset.documents(), 40 * _PASSAGES)]
    queries, number = list(dataset.queries.values()), itertools.count()

    def body(fresh: bool) -> dict[str, Any]:
        at = next(number)
        first = at % (40 if fresh else 2) * _PASSAGES
        sent = passages[first : first + _PASSAGES]
        return {
            "query": f"{queries[at % len(queries)]} {at}",
            "documents": [f"{at} {passage}" for passage in sent] if fresh else sent,
        }

    versions: dict[str, tuple[Path | None, list[str]]] = {"now": (None, [])}
    if before is not None:
        versions["before"] = (before, [])
    if dtype is not None:
        versions[f"now, {dtype}"] = (None, ["--dtype", dtype])
    if compiled:
        versions["now, compiled"] = (None, ["--compile"])
    rows: dict[str, list[dict[str, float]]] = {}
    with contextlib.ExitStack() as running:
        servers = {
            name: running.enter_context(_server("--rerank", rerank, "--max-seconds", "3600", *more, package=at))
            for name, (at, more) in versions.items()
        }
        for process, address in servers.values():  # the chunks that will come again
            _ask(address, process.pid, functools.partial(body, False), 1, 0, requests=2)
        for _ in range(rounds):
            for fresh, (name, (process, address)) in itertools.product((True, False), servers.items()):
                measured = _ask(address, process.pid, functools.partial(body, fresh), clients, seconds)
                rows.setdefault(f"{name}, {'fresh' if fresh else 'repeated'} chunks", []).append(measured)
    figures: dict[str, Any] = {
        name: {key: statistics.median(row[key] for row in measured) for key in measured[0]}
        for name, measured in rows.items()
    }
    for kind, name in itertools.product(("fresh", "repeated"), [name for name in versions if name != "before"]):
        if before is not None:
            old, new = figures[f"before, {kind} chunks"], figures[f"{name}, {kind} chunks"]
            figures[f"{name}, {kind} chunks, times the requests a second of before"] = (
                new["requests_per_second"] / old["requests_per_second"]
            )
            figures[f"{name}, {kind} chunks, of the CPU seconds a request of before"] = (
                new["cpu_seconds_per_request"] / old["cpu_seconds_per_request"]
            )
    print_report(figures)


@app.command(cls=Command)
def crosstalk(
    requests: Annotated[int, typer.Option(help="How many requests.")] = 10_000,
    clients: Annotated[int, typer.Option(help="Clients at once.")] = 32,
) -> None:
    """Requests with distinct answers, many at once; each answer is compared with that of its list ranked alone here."""
    with importing("httpx", extra="dev"):
        import httpx

    lists = [_list(random.Random(number), number) for number in range(requests)]
    answers: list[Any] = [None] * requests

    async def ask_all(address: str) -> None:
        numbers = iter(range(requests))
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:

            async def ask() -> None:
                for number in numbers:
                    query, documents = lists[number]
                    body = {"query": query, "documents": documents, "return_documents": True}
                    answer = await client.post("/v1/rerank", json=body)
                    answers[number] = answer.json()["results"] if answer.status_code == 200 else answer.status_code

            await asyncio.gather(*(ask() for _ in range(clients)))

    with _server() as (_, address):
        started = time.perf_counter()
        asyncio.run(ask_all(address))
        spent = time.perf_counter() - started
    reranker = load_reranker("minilm")
    wrong, largest = 0, 0.0
    for (query, documents), results in zip(lists, answers, strict=True):
        expected = {item.index: relevance_or_score(item) for item in reranker.rank(query, documents)}
        if not isinstance(results, list) or sorted(result["index"] for result in results) != list(
            range(len(documents))
        ):
            wrong += 1
            continue
        off = max(abs(result["relevance_score"] - expected[result["index"]]) for result in results)
        largest = max(largest, off)
        echoed = all(result["document"]["text"] == documents[result["index"]] for result in results)
        wrong += not (echoed and off < 1e-4)
    distinct = len({json.dumps(answer) for answer in answers})
    print_report(
        {
            "requests": requests,
            "clients": clients,
            "distinct answers": distinct,
            "wrong": wrong,
            "largest difference of a relevance score": largest,
            "requests per second": requests / spent,
        }
    )


@app.command(cls=Command)
def memory(
    folder: Folder,
    index: IndexPath,
    minutes: Annotated[float, typer.Option(help="Minutes under load.")] = 10,
    clients: Annotated[int, typer.Option(help="Clients of each route.")] = 4,
) -> None:
    """Memory of the server while it searches and reranks, without the mapped index and what it keeps of requests."""
    samples: list[tuple[float, int]] = []
    with _server(str(index), "--cache-mb", "0") as (process, address), tempfile.TemporaryDirectory() as scratch:
        bodies = _bodies(folder, index, Path(scratch))
        figures: dict[str, Any] = {}

        def run(route: str) -> None:
            figures[route] = _wrk(address, route, bodies[route], clients, int(minutes * 60))

        loads = [threading.Thread(target=run, args=[route]) for route in bodies]
        started = time.monotonic()
        for thread in loads:
            thread.start()
        while any(thread.is_alive() for thread in loads):
            samples.append((time.monotonic() - started, own_kilobytes(process.pid)))
            time.sleep(2)
    by_minute: dict[int, list[int]] = {}
    for when, kilobytes in samples:
        by_minute.setdefault(int(when // 60), []).append(kilobytes)
    print_report(
        {"MB, mean of each minute": [round(statistics.mean(v) / 1024, 1) for v in by_minute.values()], **figures}
    )


@contextlib.contextmanager
def _server(*arguments: str, package: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of this version or of that in another folder."""
    command = [sys.executable, "-c", "from sightline.cli import main; main()", "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "500"}
    if package is not None:
        environment["PYTHONPATH"] = str(package.absolute())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=package)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.match(r"http://\S+", line)
        if match is None:
            raise InputError(f"the server did not start; it said {line!r}")
        yield process, match[0]
    finally:
        process.terminate()
        process.wait()


def _ask(
    address: str, process: int, body: Callable[[], dict[str, Any]], clients: int, seconds: float, requests: int = 0
) -> dict[str, float]:
    """Clients that rank as fast as they are answered, each at least so many lists, and for so many seconds."""
    with importing("httpx", extra="dev"):
        import httpx

    spent: list[float] = []

    async def ask_all() -> float:
        async with httpx.AsyncClient(base_url=address, timeout=600) as client:
            started = time.perf_counter()

            async def ask() -> None:
                done = 0
                while done < requests or time.perf_counter() - started < seconds:
                    began = time.perf_counter()
                    (await client.post("/v1/rerank", json=body())).raise_for_status()
                    spent.append(time.perf_counter() - began)
                    done += 1

            await asyncio.gather(*(ask() for _ in range(clients)))
            return time.perf_counter() - started

    before = _cpu_seconds(process)
    took = asyncio.run(ask_all())
    return {
        "requests_per_second": len(spent) / took,
        "p50_ms": 1000 * statistics.median(spent),
        "cpu_seconds_per_request": (_cpu_seconds(process) - before) / len(spent),
    }


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _bodies(folder: Path, index: Path, scratch: Path) -> dict[str, Path]:
    """A file of requests for each route: a query each, for reranking with the passages that BM25 finds for it."""
    queries = list(load_dataset(folder).queries.values())
    files = {route: scratch / f"{number}.jsonl" for number, route in enumerate(("/v1/rerank", "/search"))}
    with Index.open(index, verify=False) as opened, files["/v1/rerank"].open("w") as out:
        for query in queries:
            passages = opened.passages(opened.search_lexical(query, _PASSAGES)[0])
            if len(passages) == _PASSAGES:
                documents = [stored.passage.contents for stored in passages]
                out.write(json.dumps({"query": query, "documents": documents}) + "\n")
    with files["/search"].open("w") as out:
        # The server remembers recent queries; numbered ones are new to it.
        for number, query in enumerate(itertools.islice(itertools.cycle(queries), 20_000)):
            out.write(json.dumps({"query": f"{query} {number}", "k": 10, "evidence": "sentence"}) + "\n")
    return files


def _wrk(address: str, route: str, bodies: Path, clients: int, seconds: int) -> dict[str, Any]:
    program = shutil.which("wrk")
    if program is None:
        raise InputError("wrk is not installed; it is in the package wrk of Debian and Homebrew")
    script = bodies.with_suffix(".lua")
    script.write_text(_SCRIPT)
    command = [program, "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "120s", "-s", str(script), address]
    environment = {**os.environ, "BODIES": str(bodies), "ROUTE": route}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    match = re.search(r"RESULT (\{.*\})", said)
    if match is None:
        raise InputError(f"wrk gave no result; it said {said[-500:]!r}")
    result = json.loads(match[1])
    return {**result, "requests_per_second": round(result["requests"] / result["seconds"], 2)}


_THINGS = [
    ("cat", "purrs"), ("dog", "barks"), ("volcano", "smokes"), ("river", "floods"), ("engine", "roars"),
    ("baker", "kneads"), ("comet", "glows"), ("violin", "sings"), ("soldier", "marches"), ("glacier", "melts"),
]  # fmt: skip


def _list(random: random.Random, number: int) -> tuple[str, list[str]]:
    """A query and three to eight short documents, unlike those of any other number."""
    things = random.sample(_THINGS, random.randint(3, 8))
    documents = [f"The {thing} of town {number} {verb} in year {random.randint(1, 2000)}." for thing, verb in things]
    return f"what {random.choice(things)[1]} in town {number}", documents


if __name__ == "__main__":
    app()
