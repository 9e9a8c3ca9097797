"""Policies that need no model of the engine.  Pure."""

from random import Random
from typing import ClassVar

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import StatelessPolicy, lowest
from servekit.routing.request import RouteRequest


class RoundRobin(StatelessPolicy):
    """Each model's replicas in turn."""

    name: ClassVar[str] = "round-robin"

    def __init__(self, rng: Random) -> None:
        del rng
        self._turns: dict[str, int] = {}

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del now_s
        turn = self._turns.get(request.model, 0)
        self._turns[request.model] = turn + 1
        name = pool[turn % len(pool)].name
        return Decision(name, self.name, "turn", ((name, None),))


class RandomPolicy(StatelessPolicy):
    """Any replica, each as likely."""

    name: ClassVar[str] = "random"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request, now_s
        name = pool[int(self._rng.random() * len(pool))].name
        return Decision(name, self.name, "chance", ((name, None),))


class LeastWaiting(StatelessPolicy):
    """The original rule: the lowest polled `num_requests_waiting`, the first on ties.

    Kept as a warning.  While no request is queued, each replica reads 0 and `lowest` means `first`;
    between two polls all requests go to the same replica.
    """

    name: ClassVar[str] = "least-waiting"

    def __init__(self, rng: Random) -> None:
        del rng

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request
        scores = tuple((replica.name, _waiting(replica, now_s)) for replica in pool)
        known = [(score, name) for name, score in scores if score is not None]
        if not known:
            return Decision(scores[0][0], self.name, "unknown", scores)
        _, name = min(known, key=lambda pair: pair[0])
        return Decision(name, self.name, "least", scores)


def _waiting(replica: ReplicaLoad, now_s: float) -> float | None:
    load = replica.engine_load(now_s)
    return None if load is None else load.waiting


class LeastInflight(StatelessPolicy):
    """The fewest requests in flight by our own count, which is never late; ties by chance."""

    name: ClassVar[str] = "least-inflight"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request
        return lowest(self.name, [(a.name, _held(a, now_s)) for a in pool], self._rng)


def _held(replica: ReplicaLoad, now_s: float) -> float:
    """Return what a further request would make of its load; more where it is starting slowly."""
    return (1 + replica.ours) * replica.slow_start_factor(now_s)


class PowerOfTwo(StatelessPolicy):
    """The less loaded of two random replicas: a constant cost, however large the fleet."""

    name: ClassVar[str] = "p2c"

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request
        size = len(pool)
        first = int(self._rng.random() * size)
        if size == 1:
            return Decision(
                pool[0].name, self.name, "only", ((pool[0].name, _held(pool[0], now_s)),)
            )
        second = (first + 1 + int(self._rng.random() * (size - 1))) % size
        pair = (pool[first], pool[second])
        return lowest(self.name, [(a.name, _held(a, now_s)) for a in pair], self._rng)
