"""Policies that see the engines themselves: what others are measured by.  Pure.

`clairvoyant` sends each request where its first token would come first by the engines' own queues,
caches and step times, as they are at that moment; `oracle` where most of the prompt is cached.  A
load balancer can know neither, and as both are greedy, neither is the best that there is.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar

from bench.fleetsim.replica import VirtualReplica
from bench.fleetsim.world import World
from servekit.enginesim.sequence import EngineRequest
from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import StatelessPolicy, lowest
from servekit.routing.request import RouteRequest


class _Seeing(StatelessPolicy):
    reads_prompt: ClassVar[bool] = True
    name: ClassVar[str] = ""

    def __init__(self, rng: Random, worlds: Sequence[World]) -> None:
        """*worlds* has the one to look at, once it is made."""
        self._rng = rng
        self._worlds = worlds

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        asked = EngineRequest(-1, request.prompt_tokens, 1, request.blocks)
        engines = self._worlds[0].replicas
        scores = [(a.name, self._score(engines[a.name], asked, a, now_s)) for a in pool]
        return lowest(self.name, scores, self._rng)

    def _score(
        self, replica: VirtualReplica, asked: EngineRequest, load: ReplicaLoad, now_s: float
    ) -> float:
        raise NotImplementedError


class Clairvoyant(_Seeing):
    """The soonest first token."""

    name: ClassVar[str] = "clairvoyant"

    def _score(
        self, replica: VirtualReplica, asked: EngineRequest, load: ReplicaLoad, now_s: float
    ) -> float:
        # What is on its way to an engine is not in its queue yet.
        coming = sum(1 for trip in replica.trips.values() if trip.first_s < 0)
        return replica.engine.first_token_s(asked, now_s) - now_s + 1e-4 * (coming + load.ours)


class Oracle(_Seeing):
    """The longest cached prefix, and the fewest requests of those that have it."""

    name: ClassVar[str] = "oracle"

    def _score(
        self, replica: VirtualReplica, asked: EngineRequest, load: ReplicaLoad, now_s: float
    ) -> float:
        del now_s
        return load.ours / 1000.0 - replica.engine.cached_tokens(asked)


SEEING: dict[str, Callable[[Random, Sequence[World]], _Seeing]] = {
    policy.name: policy for policy in (Clairvoyant, Oracle)
}
