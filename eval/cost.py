"""The cost of answers: time, memory, bytes and FLOPs, and what the machine could do at best."""

from __future__ import annotations

import dataclasses
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack, cast

import numpy as np

from ..errors import InputError
from ..names import EMBEDDED_STAGES, MULTIVECTOR_STAGES, SystemName
from ..rerank.loading import load_reranker, reader_options
from ..retrieval.store import Traffic
from ..retrieval.stores import Store, open_store
from ..retrieval.token_states import states_form
from ..search import FirstStage, Searcher
from .dataset import Dataset
from .experiment import EvaluateOptions, evaluate_systems, save_with_report
from .provenance import portable_name
from .report import pareto_front
from .results import Results
from .summary import Cost, Latency, Limits, Machine, Memory, SystemCost
from .timing import copy_rate, matmul_rate

__all__ = ["bench_systems", "index_bytes", "measure_cost", "peak_memory", "transformer_flops"]

_COUNTED = 20  # queries whose candidates are tokenised to count them, and whose memory is watched
_WARM_UP = 3
# Folders of engines of words within an index, by part.
_ENGINES = dict.fromkeys(("lucene", "tantivy"), "documents, BM25, metadata") | {"sparse": "learned sparse vectors"}
_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "model_type")
_GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")  # three matrices in feed-forward


def bench_systems(
    dataset: Dataset,
    systems: Sequence[str],
    out: str | Path,
    *,
    cost_queries: int = 200,
    **options: Unpack[EvaluateOptions],
) -> Results:
    """Evaluate systems, and measure what they cost on the same queries.

    Args:
        dataset: the collection to search and to measure on.
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them. Their first stages search an
            index.
        out: the folder for the results; see `evaluate_systems`. Results have a ``cost``, and the report shows its
            Pareto plot.
        cost_queries: the number of queries that are timed, the first ones.
        options: further options of `evaluate`.

    Returns:
        The results that were also written to ``out``; see `measure_cost` for ``summary.cost``.

    Raises:
        InputError: if a system is a given run, whose time cannot be measured here.
        SightlineError: see `evaluate_systems`.
    """
    if options.get("runs"):
        raise InputError("the cost of a given run cannot be measured; name first stages that search an index")
    if cost_queries < 1:
        raise InputError(f"cost_queries must be at least 1, not {cost_queries}")
    results = evaluate_systems(dataset, systems, out, **options)
    texts = list(dataset.queries.values())[:cost_queries]
    backend = options.get("backend")
    with open_store(options.get("index") or Path(out) / "index", backend=backend) as opened:
        candidates, progress = results.summary.candidates, options.get("progress")
        cost = measure_cost(opened, systems, texts, candidates=candidates, backend=backend, progress=progress)
    points = {
        name: (spent.latency_ms.p50, results.systems[name][results.measure]) for name, spent in cost.systems.items()
    }
    cost = dataclasses.replace(
        cost, backend=backend or "torch", pareto=sorted(pareto_front(points), key=lambda name: points[name])
    )
    summary = dataclasses.replace(results.summary, cost=cost)
    return save_with_report(dataclasses.replace(results, summary=summary), out)


def measure_cost(
    index: Store,
    systems: Sequence[str],
    queries: Sequence[str],
    *,
    candidates: int = 100,
    k: int = 10,
    backend: str | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Cost:
    """Time systems query by query on a warm index.

    The systems take turns on each query, so that a machine whose speed drifts favours none. A query is tokenised and
    read anew every time.

    Args:
        index: the index that all systems search, wherever it is kept.
        systems: the names of systems, as `sightline.names.SystemName.parse` takes them.
        queries: the texts of N queries, at least one.
        candidates: the number of candidates that a first stage hands on.
        k: the number of documents that are returned.
        backend: the library that computes the rerankers that read token states; None for torch. Open the index with the
            same.
        progress: a function that is called with the current step and the number of its queries that are done.

    Raises:
        InputError: if there is no query, or a system cannot be used.
    """
    if not queries:
        raise InputError("there is no query to time")
    tell = progress or (lambda step, done: None)
    searchers = {}
    for name in systems:
        stage, second = SystemName.parse(name)
        reranker = load_reranker(second, **reader_options(second, backend)) if second else None
        searchers[portable_name(name)] = Searcher(
            index, reranker, first_stage=cast(FirstStage, stage), candidates=candidates
        )
    timings = _timed(index, searchers, queries, k, partial(tell, "timing"))
    rate = matmul_rate()
    machine = Machine(rate.flops, copy_rate(), rate.by)
    costs = {}
    for name, searcher in searchers.items():
        costs[name] = _system_cost(searcher, timings[name], queries[:_COUNTED], k, machine)
        tell("counting", len(costs))
    return Cost(len(queries), machine, {**_store_bytes(index)}, costs)


@dataclass(slots=True)
class _Timing:
    """What one system took for each query."""

    seconds: list[float] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)


def _timed(
    index: Store, searchers: Mapping[str, Searcher], queries: Sequence[str], k: int, progress: Callable[[int], None]
) -> dict[str, _Timing]:
    forget = getattr(index.encoder, "forget_queries", lambda: None)
    for searcher in searchers.values():
        _answer(searcher, queries[:_WARM_UP], k)
    timings = {name: _Timing() for name in searchers}
    for number, query in enumerate(queries, start=1):
        for name, searcher in searchers.items():
            forget()
            before = dataclasses.replace(index.traffic or Traffic())
            started = time.perf_counter()
            result = searcher.search(query, k)
            timings[name].seconds.append(time.perf_counter() - started)
            timings[name].stages.append(result.milliseconds)
            timings[name].candidates.append(result.passages if searcher.reranker else 0)
            if (now := index.traffic) is not None:
                timings[name].traffic.append(Traffic(now.requests - before.requests, now.bytes - before.bytes))
        progress(number)
    return timings


def _system_cost(searcher: Searcher, timing: _Timing, queries: Sequence[str], k: int, machine: Machine) -> SystemCost:
    work = _work(searcher, queries)
    memory = peak_memory(partial(_answer, searcher, queries, k))
    mean, candidates = statistics.fmean(timing.seconds), statistics.fmean(timing.candidates)
    p50, p90, p99 = (float(np.percentile(timing.seconds, p)) * 1e3 for p in (50, 90, 99))
    return SystemCost(
        latency_ms=Latency(p50, p90, p99, mean * 1e3),
        stages_ms={part: statistics.median(stages[part] for stages in timing.stages) for part in timing.stages[0]},
        candidates=candidates,
        tokens=work.tokens,
        passages_per_second=candidates / mean or None,
        tokens_per_second=work.tokens / mean or None,
        flops_per_query=work.flops,
        bytes_per_query=work.bytes,
        limit_ms=Limits(
            None if work.flops is None else work.flops / machine.gemm_flops * 1e3,
            work.bytes / machine.copy_bytes_per_second * 1e3,
        ),
        memory=memory,
        network_requests=_mean(one.requests for one in timing.traffic),
        network_bytes=_mean(one.bytes for one in timing.traffic),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


def _answer(searcher: Searcher, queries: Sequence[str], k: int) -> None:
    for query in queries:
        searcher.search(query, k)


class _Work(NamedTuple):
    """Means per query: tokens scored, model FLOPs (None if not known), and bytes that must be read."""

    tokens: float
    flops: float | None
    bytes: float


def _work(searcher: Searcher, queries: Sequence[str]) -> _Work:
    index, reranker = searcher.index, searcher.reranker
    rows, dim = index.counts()["passages"], index.manifest.encoder.dim
    embeds = searcher.first_stage in EMBEDDED_STAGES
    exact = embeds and index.manifest.faiss.factory == "Flat" and index.traffic is None  # else another machine's work
    # What a sparse encoder computes is not known here, nor how many token states a search by them reads.
    by_sparse = searcher.first_stage not in ("dense", "multivector") and index.manifest.lexical.name.stage == "sparse"
    unknown = by_sparse or searcher.first_stage in MULTIVECTOR_STAGES
    kept = index.manifest.token_states
    encoder = index.encoder
    reader = None if reranker is None else reranker.reader  # None for one whose FLOPs are not known here
    tokens, flops, read = [], [], []
    for query in queries:
        length = len(encoder.token_offsets(query))
        size, total = rows * dim * 4 if exact else 0, 0
        work: float | None = None if unknown else 2.0 * rows * dim if exact else 0.0
        if embeds or reranker is not None:
            # One reading serves the bi-encoder and the reranker where they are one model.
            models: Any = (encoder if embeds else None, reader)
            for model in {id(model): model for model in models if model}.values():
                work = _plus(work, model, [min(length + 2, model.max_length)])
        if reranker is not None:
            [candidates] = searcher.candidates([query])
            texts = [passage.contents for passage in candidates.passages]
            counts = [min(len(encoder.token_offsets(text)), encoder.max_length - 2) for text in texts]
            total = sum(counts)
            if reader is None or candidates.states is None:
                work = None if reader is None else _plus(work, reader, [count + 2 for count in counts])
            else:
                size += total * states_form(kept.kind, kept.dim or 0).dtype.itemsize
            if work is not None and reader is not None:
                work += 2.0 * min(length, reader.max_length - 2) * total * reader.dim
        tokens.append(total)
        flops.append(work)
        read.append(size)
    known = [value for value in flops if value is not None]
    return _Work(
        tokens=statistics.fmean(tokens),
        flops=statistics.fmean(known) if len(known) == len(flops) else None,
        bytes=statistics.fmean(read),
    )


def _plus(work: float | None, model: Any, lengths: Sequence[int]) -> float | None:
    config = getattr(model, "config", None)
    known = all(hasattr(config, field) for field in _SHAPE)
    return None if work is None or not known else work + transformer_flops(config, lengths)


def transformer_flops(config: Any, lengths: Sequence[int]) -> int:
    """FLOPs of a forward pass without a head: matrix products only, a multiplication and an addition being two.

    Per layer and text of L tokens: 2 L times the weights of the linear maps, and 4 L^2 times the width of all heads for
    queries by keys and weights by values (Kaplan et al., 2020, table 1; Hoffmann et al., 2022, appendix F; a causal
    mask is not discounted, as there). Padding is not counted.

    Args:
        config: the configuration of a transformers model, like BERT, or like Llama with a gated feed-forward and
            grouped keys.
        lengths: the number of tokens of each text that is read alone, special tokens included.

    Example:
        >>> from types import SimpleNamespace
        >>> minilm = SimpleNamespace(
        ...     hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12, model_type="bert"
        ... )
        >>> transformer_flops(minilm, [256]) / 1e9
        6.03979776
    """
    width, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    matrices = 3 if config.model_type in _GATED else 2
    weights = width * head * (2 * heads + 2 * keys) + matrices * width * config.intermediate_size
    per_layer: int = sum(2 * length * weights + 4 * length * length * heads * head for length in lengths)
    layers: int = config.num_hidden_layers
    return layers * per_layer


def _store_bytes(index: Store) -> dict[str, int]:
    """Bytes of an index by part, of what is on this machine."""
    if isinstance(index.path, Path):
        return index_bytes(index.path)
    named = {"passages": "documents, words, embeddings", "states": "token states"}
    parts = dict.fromkeys([*named.values(), "other"], 0)
    for file, size in index.size().items():
        parts[named.get(file.partition("/")[0], "other")] += size
    return {part: size for part, size in parts.items() if size}


def index_bytes(path: str | Path) -> dict[str, int]:
    """Bytes of an index by part: documents with BM25 and metadata, sparse vectors, embeddings, states, and so on."""
    named = {
        "documents": "documents, BM25, metadata",
        "vectors": "embeddings",
        "states": "token states",
        "multivector": "centroids of token states",
        "decoder": "decoder states",
    }
    parts = dict.fromkeys([*named.values(), *_ENGINES.values(), "other"], 0)
    for file in Path(path).rglob("*"):
        if file.is_file():
            relative = file.relative_to(path)
            part = named.get(re.split(r"[.-]", file.name)[0], "other")
            part = _ENGINES.get(relative.parts[0], part)
            parts[part] += file.stat().st_size
    return {part: size for part, size in parts.items() if size}


def peak_memory(work: Callable[[], Any]) -> Memory:
    """How high the resident memory of this process goes during some work.

    Resident are also pages of memory-mapped files, such as an index's token states, which the system can take back.
    On Linux the high-water mark is set back before the work. Elsewhere it cannot be: then ``rise_bytes`` is how much
    the work raised the highest ever, which may be nothing although it used memory.

    Args:
        work: the function to call.

    Returns:
        ``peak_bytes`` during the work, and ``rise_bytes`` above what was resident at its start.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        peak = _status("VmHWM")
    except OSError:  # no Linux, or not allowed
        before = _highest()
        work()
        peak = _highest()
    return Memory(peak, max(0, peak - before))


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise OSError(f"no {field} in /proc/self/status")
    return int(match[1]) * 1024


def _highest() -> int:
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
