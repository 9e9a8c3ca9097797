"""`session`: a conversation stays where it is, by consistent hashing with bounded load.  Pure.

Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", 2016; the bound is
taken over the replicas that are met on the ring, so that a choice does not look at the whole fleet.
"""

from bisect import bisect_left
from random import Random
from typing import ClassVar

import xxhash

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import StatelessPolicy, lowest
from servekit.routing.request import RouteRequest

# A replica takes a session's request while it holds at most this many times the mean.
BOUND = 1.25
# A handful of requests is no overload, whatever the mean.
ALWAYS_ROOM_FOR = 4

# Points per replica: with 64 the shares of the ring differ by about 12 %.
POINTS = 64
# Replicas that are met before the least loaded of them is taken.
MOST_MET = 8


class Session(StatelessPolicy):
    """The replica that a session's hash meets first and that has room."""

    name: ClassVar[str] = "session"
    reads_session: ClassVar[bool] = True

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._pool: Pool | None = None
        self._points: list[int] = []
        self._owners: list[ReplicaLoad] = []

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        if request.session is None:
            replicas = [pool[int(self._rng.random() * len(pool))] for _ in range(2)]
            return lowest(self.name, _scores(replicas, now_s), self._rng, "stranger")
        met = self._met(request.session, pool)
        bound = max(ALWAYS_ROOM_FOR, BOUND * (1 + sum(a.ours for a in met)) / len(met))
        scores = tuple(_scores(met, now_s))
        for place, replica in enumerate(met):
            if replica.ours * replica.slow_start_factor(now_s) < bound:
                reason = "spilled" if place else "home"
                return Decision(replica.name, self.name, reason, scores)
        return lowest(self.name, scores, self._rng, "spilled")

    def _met(self, session: str, pool: Pool) -> list[ReplicaLoad]:
        """Return the first replicas on the ring after the hash of *session*."""
        if pool is not self._pool:
            self._build(pool)
        start = bisect_left(self._points, xxhash.xxh3_64_intdigest(session.encode()))
        met: dict[str, ReplicaLoad] = {}
        for step in range(len(self._points)):
            replica = self._owners[(start + step) % len(self._owners)]
            met[replica.name] = replica
            if len(met) == min(MOST_MET, len(pool)):
                break
        return list(met.values())

    def _build(self, pool: Pool) -> None:
        ring = sorted(
            (xxhash.xxh3_64_intdigest(f"{replica.name}#{number}".encode()), replica.name)
            for replica in pool
            for number in range(POINTS)
        )
        self._pool = pool
        self._points = [point for point, _ in ring]
        by_name = {replica.name: replica for replica in pool}
        self._owners = [by_name[name] for _, name in ring]


def _scores(replicas: list[ReplicaLoad], now_s: float) -> list[tuple[str, float | None]]:
    # A replica that starts slowly after an absence counts as fuller than it is.
    return [(a.name, (1 + a.ours) * a.slow_start_factor(now_s)) for a in replicas]
