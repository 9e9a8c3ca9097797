"""What engines and load balancers say of themselves while they are measured.  Input and output."""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from bench.target.arms import Arm
from servekit.client.client import Client
from servekit.errors.tree import MetricsInvalid
from servekit.metrics.engine_load import EngineLoad, read_engine_load
from servekit.metrics.exposition import samples
from servekit.metrics.names import REQUEST_TIMES
from servekit.timing.clock import Clock

# Twelve engines take 10 ms of our time to read; every two seconds that is nothing.
EVERY_S = 2.0

_TIMEOUT_S = 1.0

_ENGINE_TIMES = frozenset(f"{name}_{part}" for name in REQUEST_TIMES for part in ("sum", "count"))


class ServerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One scrape.

    Attributes:
        at_s: seconds from the start of the run, on the same clock as the requests.
        target: a replica's name; empty for the load balancer.
        load: what an engine said; None for a load balancer.
        values: what it said by sample name and labels, without histograms' buckets: everything of
            a load balancer, sums and counts of request times of an engine.
    """

    at_s: float
    arm: str
    target: str
    load: EngineLoad | None = None
    values: dict[str, float] = {}


class ServerMetricsPoller:
    """Scrapes everything that the arms consist of, all at the same moments."""

    def __init__(self, arms: Sequence[Arm], clock: Clock, start_s: float) -> None:
        self.snapshots: list[ServerSnapshot] = []
        self._clock = clock
        self._start_s = start_s
        self._targets = [
            (arm.name, name, Client(url, clock, timeout_s=_TIMEOUT_S))
            for arm in arms
            for name, url in {"": arm.url, **arm.replicas}.items()
        ]

    async def watch(self) -> None:
        """Scrape until cancelled."""
        while True:
            await self.scrape()
            await self._clock.sleep(EVERY_S)

    async def scrape(self) -> None:
        """Scrape once."""
        at_s = self._clock.now() - self._start_s
        taken = await asyncio.gather(*(self._take(at_s, *t) for t in self._targets))
        self.snapshots += [snapshot for snapshot in taken if snapshot is not None]

    async def aclose(self) -> None:
        for _, _, client in self._targets:
            await client.aclose()

    async def _take(
        self, at_s: float, arm: str, target: str, client: Client
    ) -> ServerSnapshot | None:
        """None where it did not answer, or not with an exposition: an engine may be anything."""
        status, body = await client.get("/metrics")
        if status != 200:
            return None
        try:
            text = body.decode("utf-8", "replace")
            if target:
                return ServerSnapshot(
                    at_s=at_s,
                    arm=arm,
                    target=target,
                    load=read_engine_load(text),
                    values=_values(text, _ENGINE_TIMES),
                )
            return ServerSnapshot(at_s=at_s, arm=arm, target=target, values=_values(text))
        except MetricsInvalid:
            return None


def _values(text: str, wanted: frozenset[str] | None = None) -> dict[str, float]:
    return {
        sample.name + str(sample.labels or ""): sample.value
        for sample in samples(text, wanted)
        if not sample.name.endswith("_bucket")
    }


def write_snapshots(snapshots: Iterable[ServerSnapshot]) -> bytes:
    """Return *snapshots* as JSON lines."""
    return b"".join(msgspec.json.encode(snapshot) + b"\n" for snapshot in snapshots)


class ReplicaUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's snapshots say of one replica; None where it did not say."""

    arm: str
    replica: str
    running_mean: float | None
    waiting_max: int | None
    kv_usage_max: float | None
    prefix_hit_share: float | None
    preemptions: int | None


def replica_loads(snapshots: Iterable[ServerSnapshot]) -> list[ReplicaUsage]:
    """Return a line per replica, in order of arm and name."""
    loads: dict[tuple[str, str], list[EngineLoad]] = {}
    for snapshot in snapshots:
        if snapshot.load is not None:
            loads.setdefault((snapshot.arm, snapshot.target), []).append(snapshot.load)
    return [_summed(arm, replica, own) for (arm, replica), own in sorted(loads.items())]


def _summed(arm: str, replica: str, loads: Sequence[EngineLoad]) -> ReplicaUsage:
    running = [load.running for load in loads if load.running is not None]
    first, last = loads[0], loads[-1]
    asked = _grown(first.prefix_queries, last.prefix_queries)
    hits = _grown(first.prefix_hits, last.prefix_hits)
    return ReplicaUsage(
        arm=arm,
        replica=replica,
        running_mean=sum(running) / len(running) if running else None,
        waiting_max=max((x.waiting for x in loads if x.waiting is not None), default=None),
        kv_usage_max=max((x.kv_usage for x in loads if x.kv_usage is not None), default=None),
        prefix_hit_share=hits / asked if asked and hits is not None else None,
        preemptions=_grown(first.preemptions, last.preemptions),
    )


def _grown(before: int | None, after: int | None) -> int | None:
    """Counters start anew when an engine does; then nothing is known."""
    if before is None or after is None or after < before:
        return None
    return after - before
