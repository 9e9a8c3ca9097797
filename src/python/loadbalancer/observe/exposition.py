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

from loadbalancer.observe.snapshot import HistogramTotals, StatsSnapshot
from loadbalancer.observe.telemetry import OVERHEAD_BOUNDS_S, WAIT_BOUNDS_S

_PREFIX = "servekit_lb_"


def exposition(snapshot: StatsSnapshot) -> bytes:
    """Return the body of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(snapshot))
    return generate_latest(registry)


class _Collected:
    def __init__(self, seen: StatsSnapshot) -> None:
        self._seen = seen

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        seen = self._seen
        own, wait = OVERHEAD_BOUNDS_S, WAIT_BOUNDS_S
        yield _histogram("overhead_seconds", "own work per request", own, seen.overhead_s)
        yield _histogram("queue_seconds", "wait for room", wait, seen.queue_s)
        yield _histogram("ttft_seconds", "request in to first byte out", wait, seen.ttft_s)
        yield _histogram("duration_seconds", "request in to last byte out", wait, seen.duration_s)
        yield _counter("requests", "requests that ended", ("replica", "outcome"), seen.requests)
        yield _counter("decisions", "choices made", ("policy", "reason"), seen.decisions)
        yield _counter("shadow", "what the shadow policy chose", ("policy", "choice"), seen.shadow)
        retries = {(why,): count for why, count in seen.retries.items()}
        yield _counter("retries", "requests sent again", ("why",), retries)
        refusals = {(str(status),): count for status, count in seen.refusals.items()}
        yield _counter("refusals", "errors answered here", ("status",), refusals)
        yield from self._replicas()

    def _replicas(self) -> Iterable[Metric]:
        seen = self._seen
        waiting = GaugeMetricFamily(
            _PREFIX + "waiting", "requests that wait here for room", labels=["model"]
        )
        for model, count in seen.waiting.items():
            waiting.add_metric([model], count)
        in_flight = _gauge("in_flight", "requests at the replica")
        healthy = _gauge("healthy", "1 where the replica may be chosen")
        breaker = _gauge("breaker", "the circuit breaker: 0 closed, 0.5 half open, 1 open")
        ejections = CounterMetricFamily(
            _PREFIX + "ejections", "times taken out by failed requests", labels=["replica"]
        )
        for name, replica in seen.replicas.items():
            in_flight.add_metric([name], replica.in_flight)
            healthy.add_metric([name], float(replica.healthy))
            breaker.add_metric([name], _OPEN[replica.breaker])
            ejections.add_metric([name], seen.ejections.get(name, 0))
        yield from (waiting, in_flight, healthy, breaker, ejections)


_OPEN = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, what, labels=["replica"])


def _counter(
    name: str, what: str, labels: tuple[str, ...], counts: Mapping[Any, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, what, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(
    name: str, what: str, bounds: tuple[float, ...], observed: HistogramTotals
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(_PREFIX + name, what)
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*map(str, bounds), "+Inf"], observed.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([], buckets, observed.total)
    return family
