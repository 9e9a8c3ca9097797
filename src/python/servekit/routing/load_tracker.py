"""What one load balancer knows of its replicas.  Pure: time is an argument.

The tracker counts requests from the moment they are sent to the moment they end, and keeps each
replica's last poll with its age.  A poll older than three periods is unknown, and unknown is not
zero.
"""

from collections.abc import Iterable

from servekit.metrics.engine_load import EngineLoad

# A poll that is late once is jitter; twice is a slow scrape; after three the load is unknown.
STALE_PERIODS = 3.0

# A replica that comes back empty is the least loaded of all, and would get everything at once.
SLOW_START_S = 10.0
SLOW_START_FACTOR = 4.0

# How much of each new sample goes into a running mean.  Between an engine's count and ours lie
# requests that have just come or gone: half of a sample's weight is gone after 3 polls, of a
# speed's, which belongs to the machine and hardly changes, after 34.
_EXTERNAL_EWMA = 0.2
_SPEED_EWMA = 0.02


class ReplicaLoad:
    """What one replica holds.  Policies read it; only the tracker writes it.

    Attributes:
        in_flight: requests sent and not ended, by this process (count).
        other_workers: the same, by the other worker processes of this load balancer.
        prefilling: prompt tokens of requests sent whose first byte has not come.
        tokens_per_s: tokens that one running request gets per second, by the last polls; None
            until two polls saw the engine at work.
    """

    __slots__ = (
        "_back_at_s",
        "_external_load",
        "_external_mean",
        "_polled_at_s",
        "_stale_after_s",
        "in_flight",
        "last_load",
        "name",
        "other_workers",
        "prefilling",
        "tokens_per_s",
    )

    def __init__(self, name: str, stale_after_s: float) -> None:
        self.name = name
        self.in_flight = 0
        self.other_workers = 0
        self.prefilling = 0
        self.tokens_per_s: float | None = None
        self.last_load: EngineLoad | None = None
        self._polled_at_s = float("-inf")
        self._stale_after_s = stale_after_s
        # Others' requests, as a running mean, and in whole ones.
        self._external_mean = 0.0
        self._external_load = 0
        self._back_at_s = float("-inf")

    @property
    def ours(self) -> int:
        """Requests in flight by every worker of this load balancer."""
        return self.in_flight + self.other_workers

    def engine_load(self, now_s: float) -> EngineLoad | None:
        """Return the last poll; None where it is stale or never came."""
        if now_s - self._polled_at_s > self._stale_after_s:
            return None
        return self.last_load

    def slow_start_factor(self, now_s: float) -> float:
        """Return what its work counts for: more than 1 while it starts slowly after an absence."""
        left = 1.0 - (now_s - self._back_at_s) / SLOW_START_S
        return 1.0 if left <= 0.0 else 1.0 + (SLOW_START_FACTOR - 1.0) * left

    def held(self, now_s: float) -> int:
        """Return how many requests the engine holds: ours, and others' by its last polls."""
        if now_s - self._polled_at_s > self._stale_after_s:
            return self.in_flight + self.other_workers
        return self.in_flight + self.other_workers + self._external_load

    def external(self, now_s: float) -> int:
        """Return how many of those are others', as its polls claim."""
        if now_s - self._polled_at_s > self._stale_after_s:
            return 0
        return self._external_load

    def _record(self, load: EngineLoad, now_s: float) -> None:
        speed = _tokens_per_s(self.last_load, load, now_s - self._polled_at_s)
        if speed is not None:
            before = self.tokens_per_s
            self.tokens_per_s = speed if before is None else before + _SPEED_EWMA * (speed - before)
        held = (load.running or 0) + (load.waiting or 0)
        others = held - self.ours
        weight = _EXTERNAL_EWMA if self.engine_load(now_s) is not None else 1.0
        self._external_mean += weight * (others - self._external_mean)
        self._external_load = max(0, round(self._external_mean))
        self.last_load = load
        self._polled_at_s = now_s


def _tokens_per_s(before: EngineLoad | None, after: EngineLoad, seconds: float) -> float | None:
    if before is None or before.generation_tokens is None or after.generation_tokens is None:
        return None
    running = ((before.running or 0) + (after.running or 0)) / 2
    tokens = after.generation_tokens - before.generation_tokens
    # Fewer tokens than before means that the engine was restarted.
    if running < 1 or tokens <= 0 or not 0 < seconds < float("inf"):
        return None
    return tokens / seconds / running


class InFlight:
    """One request that was sent: what the tracker needs in order to forget it."""

    __slots__ = ("ended", "prefilling", "replica")

    def __init__(self, replica: ReplicaLoad, prompt_tokens: int) -> None:
        self.replica = replica
        self.prefilling = prompt_tokens
        self.ended = False


class Pool(tuple[ReplicaLoad, ...]):
    """The replicas that a request may go to: built when that changes, not per request."""

    _by_name: dict[str, ReplicaLoad]

    def __new__(cls, replicas: Iterable[ReplicaLoad]) -> "Pool":
        pool = super().__new__(cls, replicas)
        pool._by_name = {replica.name: replica for replica in pool}
        return pool

    def named(self, name: str) -> ReplicaLoad | None:
        """Return the load called *name*; None where it is no candidate."""
        return self._by_name.get(name)

    def without(self, names: Iterable[str]) -> "Pool":
        """Return the pool that is left without *names*."""
        gone = frozenset(names)
        return Pool(replica for replica in self if replica.name not in gone)


class LoadTracker:
    """Every replica's load.  Requests are conserved: what begins ends once."""

    def __init__(self, period_s: float) -> None:
        self._stale_after_s = STALE_PERIODS * period_s
        self._loads: dict[str, ReplicaLoad] = {}

    def load_of(self, name: str) -> ReplicaLoad:
        """Return the load of *name*, made where there is none."""
        replica = self._loads.get(name)
        if replica is None:
            replica = self._loads[name] = ReplicaLoad(name, self._stale_after_s)
        return replica

    def loads(self) -> list[ReplicaLoad]:
        """Return every load, in the order they were made."""
        return list(self._loads.values())

    def close(self, name: str) -> None:
        """Forget a replica.  Requests that it still holds end as if it were there."""
        self._loads.pop(name, None)

    def begin(self, replica: ReplicaLoad, prompt_tokens: int = 0) -> InFlight:
        """Count a request that is being sent."""
        replica.in_flight += 1
        replica.prefilling += prompt_tokens
        return InFlight(replica, prompt_tokens)

    def first_byte(self, request: InFlight) -> None:
        """The prompt has been read; what is left is generation."""
        request.replica.prefilling -= request.prefilling
        request.prefilling = 0

    def end(self, request: InFlight) -> None:
        """Count it no more.  Ending twice is ending once."""
        if request.ended:
            return
        self.first_byte(request)
        request.ended = True
        request.replica.in_flight -= 1

    def returned(self, name: str, now_s: float) -> None:
        """A replica was away and is back: its caches are cold, and it starts slowly."""
        replica = self._loads.get(name)
        if replica is not None:
            replica._back_at_s = now_s
            replica.tokens_per_s = None

    def polled(self, name: str, load: EngineLoad, now_s: float) -> None:
        """Keep what a poll of *name* said; a poll of a replica that is gone is dropped."""
        replica = self._loads.get(name)
        if replica is not None:
            replica._record(load, now_s)
