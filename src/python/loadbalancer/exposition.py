"""What happened, as Prometheus metrics.  Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from loadbalancer.balancer import Balancer
from loadbalancer.telemetry import Histogram

_PREFIX = "servekit_lb_"


def exposition(balancer: Balancer) -> bytes:
    """Return the body of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(balancer))
    return generate_latest(registry)


class _Collected:
    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        seen = self._balancer.telemetry
        yield _histogram("overhead_seconds", "own work per request", seen.overhead_s)
        yield _histogram("queue_seconds", "wait for room", seen.queue_s)
        yield _histogram("ttft_seconds", "request in to first byte out", seen.ttft_s)
        yield _histogram("duration_seconds", "request in to last byte out", seen.duration_s)
        yield _counter("requests", "requests that ended", ("replica", "outcome"), seen.requests)
        yield _counter("decisions", "choices made", ("policy", "reason"), seen.decisions)
        yield _counter("shadow", "what the shadow policy chose", ("policy", "choice"), seen.shadow)
        retries = {(why,): count for why, count in seen.retries.items()}
        yield _counter("retries", "requests sent again", ("why",), retries)
        yield from self._replicas()

    def _replicas(self) -> Iterable[Metric]:
        now_s = self._balancer.now()
        waiting = GaugeMetricFamily(
            _PREFIX + "waiting", "requests that wait here for room", labels=["model"]
        )
        for model, service in self._balancer.services.items():
            waiting.add_metric([model], service.admission.waiting)
        in_flight = _gauge("in_flight", "requests at the replica")
        healthy = _gauge("healthy", "1 where the replica may be chosen")
        ejections = CounterMetricFamily(
            _PREFIX + "ejections", "times taken out by failed requests", labels=["replica"]
        )
        for replica in self._balancer.replicas.values():
            in_flight.add_metric([replica.name], replica.account.in_flight)
            healthy.add_metric([replica.name], float(replica.health.available(now_s)))
            ejections.add_metric([replica.name], replica.health.ejections)
        yield from (waiting, in_flight, healthy, ejections)


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, what, labels=["replica"])


def _counter(
    name: str, what: str, labels: tuple[str, ...], counts: Mapping[Any, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, what, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(name: str, what: str, histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(_PREFIX + name, what)
    buckets: list[tuple[str, float]] = []
    total = 0
    bounds = [*map(str, histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([], buckets, histogram.total)
    return family
