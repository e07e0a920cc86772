"""What ``results.json`` holds, as types that `sightline.parsing.as_type` checks.

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
    """What an answer of one system costs; figures without another unit are means per query.

    Args:
        latency_ms: the latency of queries that are answered one by one.
        passages_per_second: passages that the reranker scores.
        tokens_per_second: their tokens.
        flops_per_query: model FLOPs: reading the query, and unless states are kept the candidates; inner products of
            exact search; attention over the candidates' tokens. None if the model tells no configuration. What another
            machine computes, which keeps the index, is not in it.
        bytes_per_query: embeddings and token states that must be read on this machine.
        limit_ms: what FLOPs and bytes take at the machine's rates.
        memory: the memory used while the system answered, see `sightline.eval.cost.peak_memory`.
        stages_ms: the median of each stage.
        candidates: how many passages the reranker scores.
        tokens: how many tokens these passages have.
        network_requests: requests to the machine that keeps the index; None where it is on this one.
        network_bytes: bytes of its answers; None likewise.
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
    """What answers cost.

    Args:
        queries: how many were timed.
        machine: the rates of the machine.
        index_bytes: the size of the index by part.
        systems: what each system costs, by name.
        pareto: systems that no other beats in both quality and median time, fastest first.
        backend: what computed the encoder and the rerankers that read token states.
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
        low: the lower bound.
        high: the upper bound.
        documents: how many there are, above 0.
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
        answered: how many lists have a relevant document.
        unanswered: how many lists have none: each list without its relevant documents.
        documents: how many candidates there are in all lists.
        relevant: how many of them are relevant.
        auroc_lists: how often the highest relevance of a list with a relevant document is above that of a list without;
            None if there are no such lists.
        false_accepts: share of lists without a relevant document whose highest relevance reaches ``threshold``; None
            likewise.
        threshold: the highest ``min_score`` that leaves something of 90 % of the lists with a relevant document; None
            likewise.
        auroc_documents: how often the relevance of a relevant document is above that of another; None likewise.
        calibration_error: expected calibration error over documents, in 15 bins of equal width.
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
    """What an evaluation found, without the values of single queries.

    Args:
        dataset: the name of the collection.
        split: the split of the judgements.
        queries: how many were judged.
        candidates: how many candidates each query has.
        measures: the names of the measures, as ir_measures has them. Systems are compared by the first.
        ignore_identical_ids: whether a document with the id of the query was left out when measuring.
        identical_ids: how many such documents were found.
        positives_added: whether rerankers also read relevant documents that the first stage did not find.
        systems: the mean by system and measure.
        milliseconds_per_query: the mean by system.
        intervals: 95 % bootstrap interval of the mean of the first measure, by system.
        comparisons: every two systems, by the first measure.
        changes: for every two systems, the queries on which they differ most.
        index: the index that was searched; None where all systems are given runs.
        given_runs: the file's name by the run's name, for runs that were given as files.
        relevance: how far the relevance of each system can be trusted, by its name.
        no_relevance: why a system has no relevance, by its name.
        cost: what `sightline.eval.cost.bench_systems` measured; None if it was not measured.
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
        """What ``results.json`` holds of it; there is a field ``cost`` only where it was measured."""
        fields = dataclasses.asdict(self)
        if self.cost is None:
            del fields["cost"]
        return fields
