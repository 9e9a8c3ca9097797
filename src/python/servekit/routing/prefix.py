"""`prefix`: where the beginning of the prompt has been read before, unless that is too busy.  Pure.

On traffic that shares prefixes, routing by load alone throws most of the caches' work away; routing
by prefix alone sends everyone who shares a system prompt to one replica.  Both are a wait for the
first token, so they are added up: the tokens that must still be read, and the work that is queued.
"""

from random import Random
from typing import ClassVar

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import lowest, with_holders
from servekit.routing.prefix_index import PrefixIndex, blocks_held
from servekit.routing.queueing import TOKENS_LIKE_A_REQUEST, queue_score, typical_speed
from servekit.routing.request import RouteRequest

# A replica is too busy for its prefixes to matter where it holds this many more requests' work than
# the least loaded one, and this many times as much.
GAP = 8.0
RATIO = 1.5


class Prefix:
    """The least work plus uncached prompt, among replicas that are not overloaded."""

    name: ClassVar[str] = "prefix"
    reads_prompt: ClassVar[bool] = True
    reads_size: ClassVar[bool] = True
    reads_session: ClassVar[bool] = False

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._index = PrefixIndex()

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        replicas, hits = with_holders(pool, self._index.path(request.blocks), self._rng)
        speed = typical_speed(replicas)
        loads = {a.name: queue_score(a, speed, now_s) for a in replicas}
        least = min(loads.values())
        gate = max(least + GAP, least * RATIO)
        scores = [
            (a.name, loads[a.name] + self._unread(request, hits, a.name, loads[a.name] > gate))
            for a in replicas
        ]
        decision = lowest(self.name, scores, self._rng)
        if decision.replica in hits:
            return Decision(decision.replica, self.name, "prefix", decision.scores)
        return decision

    def hit_blocks(self, request: RouteRequest, replica: str) -> int:
        return self._index.held_by(replica, request.blocks)

    def sent(self, request: RouteRequest, replica: ReplicaLoad, now_s: float) -> None:
        del now_s
        if request.blocks:
            capacity = blocks_held(replica, request.block_tokens)
            self._index.add(replica.name, request.blocks, capacity)

    def answered(self, request: RouteRequest, replica: ReplicaLoad, ttft_s: float) -> None:
        pass

    def forget(self, replica: str) -> None:
        self._index.forget(replica)

    def _unread(self, request: RouteRequest, hits: dict[str, int], name: str, busy: bool) -> float:
        """Return the prompt tokens that *name* must still read, in requests' work."""
        cached = 0 if busy else hits.get(name, 0) * request.block_tokens
        exact = request.exact
        if exact is not None and not busy and (known := exact.tokens_at(name)) is not None:
            cached = known
        return max(0, request.prompt_tokens - cached) / TOKENS_LIKE_A_REQUEST
