"""`queue`: the shortest queue, in time.  Pure.

A replica's score is the work it holds over the speed at which it drains it.  Work is our own
requests in flight, which we count and which is never late; what others hold, by the last poll;
and the prompts that are still to be read, because a long prompt holds up everyone behind it.
`num_requests_waiting` by itself says little: on a real engine it still reads 1 when hundreds run.
How full the KV cache is says less: the fast replicas of an unequal fleet fill theirs first, and
a policy that avoids them sends everything to the slowest.
"""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import StatelessPolicy, looked_at, lowest
from servekit.routing.request import RouteRequest

# Reading this many prompt tokens costs an engine about as much as one more request in its batch:
# on an H200 2,000 tokens take 45 ms, and one of 100 sequences takes its share of 600 steps of 7 ms.
TOKENS_LIKE_A_REQUEST = 2000.0


class Queue(StatelessPolicy):
    """The least work over drain rate; ties by chance."""

    name: ClassVar[str] = "queue"
    reads_size: ClassVar[bool] = True

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request
        replicas = looked_at(pool, self._rng)
        speed = typical_speed(replicas)
        scores = [(a.name, queue_score(a, speed, now_s)) for a in replicas]
        return lowest(self.name, scores, self._rng)


def typical_speed(replicas: Sequence[ReplicaLoad]) -> float:
    """Return the mean of the known drain rates; 1.0 where none is known."""
    known = [a.tokens_per_s for a in replicas if a.tokens_per_s is not None]
    return sum(known) / len(known) if known else 1.0


def queue_score(replica: ReplicaLoad, typical: float, now_s: float) -> float:
    """Return the work that a further request would find, one request at *typical* speed being 1.

    Never None: a replica whose poll is stale is judged by what we sent it ourselves.
    """
    work = 1.0 + replica.held(now_s)
    work += replica.prefilling / TOKENS_LIKE_A_REQUEST
    work *= replica.slow_start_factor(now_s)
    return work if replica.tokens_per_s is None else work * typical / replica.tokens_per_s
