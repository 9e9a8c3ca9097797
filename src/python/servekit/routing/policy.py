"""What a routing policy is.  Pure: the clock and the random generator are arguments."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar, Protocol

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.prefix_index import Path, held_on, longest_readers, path_hits
from servekit.routing.request import RouteRequest


class Policy(Protocol):
    """Chooses a replica, and hears what became of it.

    `choose` remembers nothing but whose turn it is: a policy that only shadows another is asked
    too, and then told what was really sent.

    Attributes:
        name: as in the registry.
        reads_prompt: whether it wants the request's blocks.
        reads_size: whether it wants to know how many tokens the prompt has.
        reads_session: whether it wants to know whose conversation this is.
    """

    name: ClassVar[str]
    reads_prompt: ClassVar[bool]
    reads_size: ClassVar[bool]
    reads_session: ClassVar[bool]

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        """Return a decision for one of *pool*, which is not empty."""

    def hit_blocks(self, request: RouteRequest, replica: str) -> int:
        """Return how many of the first blocks of *request* are thought to be cached there."""

    def sent(self, request: RouteRequest, replica: ReplicaLoad, now_s: float) -> None:
        """*request* was sent to *replica*."""

    def answered(self, request: RouteRequest, replica: ReplicaLoad, ttft_s: float) -> None:
        """The first byte came, *ttft_s* after it was sent."""

    def forget(self, replica: str) -> None:
        """*replica* was restarted or removed: what was learnt of it holds no more."""


class StatelessPolicy:
    """A policy that learns nothing from what it hears."""

    reads_prompt: ClassVar[bool] = False
    reads_size: ClassVar[bool] = False
    reads_session: ClassVar[bool] = False

    def hit_blocks(self, request: RouteRequest, replica: str) -> int:
        del request, replica
        return 0

    def sent(self, request: RouteRequest, replica: ReplicaLoad, now_s: float) -> None:
        pass

    def answered(self, request: RouteRequest, replica: ReplicaLoad, ttft_s: float) -> None:
        pass

    def forget(self, replica: str) -> None:
        pass


def lowest(
    policy: str, scores: Sequence[tuple[str, float | None]], rng: Random, reason: str = "least"
) -> Decision:
    """Return the decision for the lowest score; ties are broken by chance, unknown comes last."""
    # A loop: of two or eight scores it takes half as long as min() of a generator.
    best, chosen, ties = None, scores[0][0], 1
    for name, score in scores:
        if score is None:
            continue
        if best is None or score < best:
            best, chosen, ties = score, name, 1
        elif score == best:
            ties += 1
    if best is None:
        reason, ties = "unknown", len(scores)
    if ties > 1:
        winners = [name for name, score in scores if score == best]
        chosen = winners[int(rng.random() * ties)]
    return Decision(chosen, policy, reason, tuple(scores))


# Above this many replicas a policy looks at a sample: eight random choices come within a few per
# cent of the best of all (Mitzenmacher, "The power of two choices", 2001, table 1), and the cost
# of a choice does not grow with the fleet.
LOOK_AT_ALL = 32
SAMPLE = 8
# Beside the sample, so many of the replicas that have read the most of the prompt are looked at.
MOST_HOLDERS = 8


def looked_at(pool: Pool, rng: Random) -> Sequence[ReplicaLoad]:
    """Return the replicas to compare: all of a small pool, a random sample of a large one."""
    if len(pool) <= LOOK_AT_ALL:
        return pool
    return [pool[index] for index in rng.sample(range(len(pool)), SAMPLE)]


def with_holders(
    pool: Pool, path: Path, rng: Random, also: ReplicaLoad | None = None
) -> tuple[Sequence[ReplicaLoad], dict[str, int]]:
    """Return the replicas to compare, and how many blocks of *path* they hold.

    Holders of the longest prefix are always among them, however large the fleet is; so is *also*.
    """
    if len(pool) <= LOOK_AT_ALL:
        return pool, path_hits(path) if path else _NO_HITS
    replicas = {replica.name: replica for replica in looked_at(pool, rng)}
    if also is not None and pool.named(also.name) is also:
        replicas[also.name] = also
    if not path:
        return list(replicas.values()), _NO_HITS
    for name in longest_readers(path, rng, MOST_HOLDERS):
        holder = pool.named(name)
        if holder is not None:
            replicas[name] = holder
    hits = {name: length for name in replicas if (length := held_on(path, name))}
    return list(replicas.values()), hits


_NO_HITS: dict[str, int] = {}
