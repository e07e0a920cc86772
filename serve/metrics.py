"""Counters for Prometheus, in a registry of their own, because one process may run several applications."""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Collection, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..models.cache import DocumentCache
from .lane import Lane

__all__ = ["Metrics"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counts requests and documents, and reports the length of the queues."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "sightline_requests",
            "Requests by route and status; 499 is a client that went away.",
            ["route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "sightline_request_seconds",
            "From the first byte to the last.",
            ["route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._waiting = Gauge("sightline_waiting", "Requests in a queue.", ["lane"], registry=self.registry)
        self.ranked = Counter("sightline_documents_ranked", "Documents reranked.", registry=self.registry)
        self.truncated = Counter(
            "sightline_documents_truncated", "Of these, documents not read to their end.", registry=self.registry
        )

    def watch(self, lane: Lane[Any, Any]) -> None:
        """Report the number of requests that wait in a lane."""
        self._waiting.labels(lane.name).set_function(lane.waiting)

    def watch_caches(self, caches: Collection[DocumentCache]) -> None:
        """Report the total size of these caches, and how often they had the document that was asked for."""
        self.registry.register(_CacheCollector(caches))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def page(self) -> bytes:
        """Return all counters, in the text format of Prometheus."""
        return generate_latest(self.registry)


class _CacheCollector(Collector):
    def __init__(self, caches: Collection[DocumentCache]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        hits, misses = (sum(getattr(cache, name) for cache in self._caches) for name in ("hits", "misses"))
        yield CounterMetricFamily("sightline_cache_hits", "Documents that were not read again.", value=hits)
        yield CounterMetricFamily("sightline_cache_misses", "Documents that were read.", value=misses)
        held = GaugeMetricFamily("sightline_cache_bytes", "Bytes of what was read, by place.", labels=["place"])
        total: Sums[str] = Sums()
        for cache in self._caches:
            total.update(cache.bytes())
        for place, size in total.items():
            held.add_metric([place], size)
        yield held
