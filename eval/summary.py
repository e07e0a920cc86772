"""The types of ``results.json``, which `sightline.parsing.as_type` checks.

Fields of a file that are not named here are not loaded. Fields with a default are ones that an older file may lack.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from .significance import Comparison, Interval, Number

__all__ = [
    "Change",
    "Changes",
    "Cost",
    "IndexFacts",
    "Latency",
    "Limits",
    "Machine",
    "Memory",
    "RelevanceQuality",
    "ReliabilityBin",
    "Summary",
    "SystemCost",
]


@dataclass(frozen=True, slots=True)
class Change:
    """A query, and its value under two systems ``a`` and ``b``."""

    id: str
    text: str
    a: Number
    b: Number

    def swapped(self) -> Change:
        """The same with the two systems exchanged."""
        return dataclasses.replace(self, a=self.b, b=self.a)


@dataclass(frozen=True, slots=True)
class Changes:
    """The queries on which the systems ``a`` and ``b`` differ most."""

    a: str
    b: str
    queries: list[Change]


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per query: percentiles and the mean."""

    p50: Number
    p90: Number
    p99: Number
    mean: Number | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Milliseconds that a query's FLOPs and bytes take at the rates of the machine; None where it is not known."""

    flops: Number | None
    bytes: Number | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the process: its peak, and how far it rose, in bytes."""

    peak_bytes: Number
    rise_bytes: Number | None = None


@dataclass(frozen=True, slots=True)
class SystemCost:
    """The cost of an answer of one system. Figures without another unit are means per query.

    Args:
        latency_ms: the latency of queries that are answered one by one.
        passages_per_second: the number of passages that the reranker scores in a second.
        tokens_per_second: the number of tokens of these passages.
        flops_per_query: the model FLOPs: reading the query, and the candidates unless states are kept; inner products
            of exact search; attention over the candidates' tokens. What another machine computes, which keeps the
            index, is not counted. None if the model has no configuration.
        bytes_per_query: the bytes of embeddings and token states that must be read on this machine.
        limit_ms: the milliseconds that these FLOPs and bytes take at the machine's rates.
        memory: the memory used while the system answered; see `sightline.eval.cost.peak_memory`.
        stages_ms: the median milliseconds of each stage.
        candidates: the number of passages that the reranker scores.
        tokens: the number of tokens of these passages.
        network_requests: the number of requests to the machine that keeps the index; None if it is this machine.
        network_bytes: the number of bytes in its answers; None if it is this machine.
    """

    latency_ms: Latency
    passages_per_second: Number | None
    tokens_per_second: Number | None
    flops_per_query: Number | None
    bytes_per_query: Number | None
    limit_ms: Limits
    memory: Memory
    stages_ms: dict[str, Number] = field(default_factory=dict)
    candidates: Number | None = None
    tokens: Number | None = None
    network_requests: Number | None = None
    network_bytes: Number | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured rates of the machine, see `sightline.eval.timing`.

    Args:
        gemm_flops: FLOPs per second of the fastest matrix product.
        copy_bytes_per_second: bytes per second that are copied from memory to memory.
        gemm: the library and number format of that product; "" in results of versions that measured one only.
    """

    gemm_flops: Number
    copy_bytes_per_second: Number
    gemm: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of answers.

    Args:
        queries: the number of queries that were timed.
        machine: the rates of the machine.
        index_bytes: the size of the index by part.
        systems: the cost of each system, by name.
        pareto: the systems that no other beats in both quality and median time, fastest first.
        backend: the library that computed the encoder and the rerankers that read token states.
    """

    queries: int
    machine: Machine
    index_bytes: dict[str, Number]
    systems: dict[str, SystemCost]
    pareto: list[str] = field(default_factory=list)
    backend: str = "torch"


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The candidates whose relevance is in one bin: from ``low`` to below ``high``.

    Args:
        low: the lower bound of the bin.
        high: the upper bound of the bin.
        documents: the number of candidates in the bin, above 0.
        relevance: the mean of their relevance.
        relevant: the share of them that is relevant.
    """

    low: Number
    high: Number
    documents: int
    relevance: Number
    relevant: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class RelevanceQuality:
    """How far a system's ``relevance`` can be trusted, see `sightline.eval.relevance.measure_relevance`.

    The ``mean`` of each interval is the value itself. Candidates that nobody judged count as not relevant.

    Args:
        answered: the number of lists with a relevant document.
        unanswered: the number of lists without one: each list without its relevant documents.
        documents: the number of candidates in all lists.
        relevant: the number of them that are relevant.
        auroc_lists: how often the highest relevance in a list with a relevant document is above that in a list without.
            None if there are no such lists.
        false_accepts: the share of lists without a relevant document whose highest relevance reaches ``threshold``.
            None if there are no such lists.
        threshold: the highest ``min_score`` that leaves something in 90 % of the lists with a relevant document. None
            if there are no such lists.
        auroc_documents: how often the relevance of a relevant document is above that of another one. None if there are
            not both.
        calibration_error: the expected calibration error over documents, in 15 bins of equal width.
        reliability: these bins, without empty ones.
    """

    answered: int
    unanswered: int
    documents: int
    relevant: int
    auroc_lists: Interval | None
    false_accepts: Interval | None
    threshold: Number | None
    auroc_documents: Interval | None
    calibration_error: Interval
    reliability: list[ReliabilityBin]


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """The index that was searched: number of documents and passages, settings, and XXH3-128 of its manifest."""

    counts: dict[str, int]
    settings: dict[str, Any]
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The results of an evaluation, without the values of single queries.

    Args:
        dataset: the name of the collection.
        split: the name of the split of the judgements.
        queries: the number of judged queries.
        candidates: the number of candidates of each query.
        measures: the names of the measures, as ir_measures has them. Systems are compared by the first one.
        ignore_identical_ids: whether a document with the id of the query was left out when measuring.
        identical_ids: the number of such documents that were found.
        positives_added: whether rerankers also read relevant documents that the first stage did not find.
        systems: the mean by system and measure.
        milliseconds_per_query: the mean time by system.
        intervals: the 95 % bootstrap interval of the mean of the first measure, by system.
        comparisons: the comparisons of every two systems, by the first measure.
        changes: for every two systems, the queries on which they differ most.
        index: the index that was searched; None if all systems are given runs.
        given_runs: for runs that were given as files, the file's name by the run's name.
        relevance: how far the relevance of each system can be trusted, by its name.
        no_relevance: why a system has no relevance, by its name.
        cost: the cost that `sightline.eval.cost.bench_systems` measured; None if it was not measured.
    """

    dataset: str
    split: str
    queries: int
    candidates: int
    measures: list[str] = field(default_factory=list)
    ignore_identical_ids: bool = True
    identical_ids: int = 0
    positives_added: bool = False
    systems: dict[str, dict[str, Number]]
    milliseconds_per_query: dict[str, Number] = field(default_factory=dict)
    intervals: dict[str, Interval]
    comparisons: list[Comparison]
    changes: list[Changes] = field(default_factory=list)
    index: IndexFacts | None = None
    given_runs: dict[str, str] = field(default_factory=dict)
    relevance: dict[str, RelevanceQuality] = field(default_factory=dict)
    no_relevance: dict[str, str] = field(default_factory=dict)
    cost: Cost | None = None

    def as_json(self) -> dict[str, Any]:
        """Return its part of ``results.json``. There is a field ``cost`` only if it was measured."""
        fields = dataclasses.asdict(self)
        if self.cost is None:
            del fields["cost"]
        return fields
