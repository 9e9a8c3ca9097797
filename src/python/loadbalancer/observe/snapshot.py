"""What a worker has seen, as a value that travels and adds up.  Pure."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import msgspec

from loadbalancer.observe.telemetry import BucketCounts, TrafficStats
from servekit.metrics.engine_load import EngineLoad
from servekit.routing.decision import Decision

_K = TypeVar("_K", bound=Hashable)

DECISIONS_KEPT = 200

# From well to ill.
_BREAKERS = ("closed", "half-open", "open")


class HistogramTotals(msgspec.Struct, frozen=True):
    """A histogram: observations by bucket, and their sum."""

    counts: tuple[int, ...]
    total: float


class ReplicaSeen(msgspec.Struct, frozen=True):
    """One replica, as one worker or all of them see it.

    Attributes:
        label: what clients are told of it, where its name is its address.
        in_flight: requests sent and not ended.
        breaker: what the circuit breaker does: `closed`, `half-open` or `open`.
        ejected_for: the fault that it was ejected for; empty once it is well again.
        load: the last poll; None where it is stale or never came.
    """

    url: str
    label: str
    models: tuple[str, ...]
    healthy: bool
    breaker: str
    ejected_for: str
    in_flight: int
    load: EngineLoad | None


class PastDecision(msgspec.Struct, frozen=True):
    """One decision, when it was made, and what the shadow policy would have chosen."""

    at_s: float
    decision: Decision
    shadow: str | None


class StatsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and what is the case now.

    Attributes:
        waiting: requests that wait for room, by model.
        lately: the last decisions, oldest first.
    """

    overhead_s: HistogramTotals
    ttft_s: HistogramTotals
    duration_s: HistogramTotals
    queue_s: HistogramTotals
    requests: dict[tuple[str, str], int]
    decisions: dict[tuple[str, str], int]
    shadow: dict[tuple[str, str], int]
    retries: dict[str, int]
    refusals: dict[int, int]
    ejections: dict[str, int]
    faults: dict[tuple[str, str], int]
    waiting: dict[str, int]
    replicas: dict[str, ReplicaSeen]
    lately: tuple[PastDecision, ...]


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(StatsSnapshot).decode


def merged(snapshots: Sequence[StatsSnapshot]) -> StatsSnapshot:
    """Return *snapshots*, of which there is at least one, as if one worker had seen it all."""
    lately = sorted((d for s in snapshots for d in s.lately), key=lambda decided: decided.at_s)
    return StatsSnapshot(
        overhead_s=_stats([s.overhead_s for s in snapshots]),
        ttft_s=_stats([s.ttft_s for s in snapshots]),
        duration_s=_stats([s.duration_s for s in snapshots]),
        queue_s=_stats([s.queue_s for s in snapshots]),
        requests=_sums([s.requests for s in snapshots]),
        decisions=_sums([s.decisions for s in snapshots]),
        shadow=_sums([s.shadow for s in snapshots]),
        retries=_sums([s.retries for s in snapshots]),
        refusals=_sums([s.refusals for s in snapshots]),
        ejections=_sums([s.ejections for s in snapshots]),
        faults=_sums([s.faults for s in snapshots]),
        waiting=_sums([s.waiting for s in snapshots]),
        replicas=_replicas(snapshots),
        lately=tuple(lately[-DECISIONS_KEPT:]),
    )


def resume(telemetry: TrafficStats, before: StatsSnapshot) -> None:
    """Count on from *before*, which a worker that died has left: a counter never goes back."""
    for histogram, observed in (
        (telemetry.overhead_s, before.overhead_s),
        (telemetry.ttft_s, before.ttft_s),
        (telemetry.duration_s, before.duration_s),
        (telemetry.queue_s, before.queue_s),
    ):
        histogram.counts[:] = observed.counts
        histogram.total = observed.total
    telemetry.requests.update(before.requests)
    telemetry.decisions.update(before.decisions)
    telemetry.shadow.update(before.shadow)
    telemetry.retries.update(before.retries)
    telemetry.refusals.update(before.refusals)
    telemetry.ejections.update(before.ejections)
    telemetry.faults.update(before.faults)


def observed(histogram: BucketCounts) -> HistogramTotals:
    return HistogramTotals(tuple(histogram.counts), histogram.total)


def _stats(observed: Sequence[HistogramTotals]) -> HistogramTotals:
    counts = zip(*(one.counts for one in observed), strict=True)
    return HistogramTotals(tuple(map(sum, counts)), sum(one.total for one in observed))


def _sums(counts: Sequence[dict[_K, int]]) -> dict[_K, int]:
    total: Counter[_K] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _replicas(snapshots: Sequence[StatsSnapshot]) -> dict[str, ReplicaSeen]:
    seen: dict[str, list[ReplicaSeen]] = {}
    for one in snapshots:
        for name, replica in one.replicas.items():
            seen.setdefault(name, []).append(replica)
    return {name: _one_replica(views) for name, views in seen.items()}


def _one_replica(views: Sequence[ReplicaSeen]) -> ReplicaSeen:
    """A replica is as well as the worker that sees it worst says."""
    return ReplicaSeen(
        url=views[0].url,
        label=views[0].label,
        models=views[0].models,
        healthy=all(view.healthy for view in views),
        breaker=max((view.breaker for view in views), key=_BREAKERS.index),
        ejected_for=next((view.ejected_for for view in views if view.ejected_for), ""),
        in_flight=sum(view.in_flight for view in views),
        load=next((view.load for view in views if view.load is not None), None),
    )
