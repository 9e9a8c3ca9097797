"""The replicas behind a load balancer, and the models they serve."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import msgspec
import xxhash

from loadbalancer.balancing.admission import Admission
from loadbalancer.balancing.health import CONNECTION, Health
from loadbalancer.balancing.progress import FirstBytes
from loadbalancer.balancing.siblings import SiblingComparison
from loadbalancer.kvevents.exact import TokenQuestion
from servekit.errors.tree import ReplicaMissing
from servekit.relay.upstream_pool import UpstreamPool
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import Policy
from servekit.routing.request import RouteRequest
from servekit.routing.token_estimate import TokenEstimate

# The largest share of a model's replicas that failed requests may take out.
MOST_EJECTED = 0.5

# For how long siblings that gave the same answer need not be asked again, and how many such answers
# are remembered.
AGREED_S = 2.0
MOST_AGREEMENTS = 1000


@dataclass(slots=True)
class ReplicaState:
    """One engine: what is known of it, and how to reach it.

    Attributes:
        models: the ids it serves; empty until it was asked, and where it serves others than those
            that were declared.
        label: what clients are told of it: its name, unless that is its address.
        declared: the ids that the fleet says it serves; empty where it is asked.
    """

    name: str
    upstream: UpstreamPool
    load: ReplicaLoad
    health: Health
    models: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    label: str = ""

    def __post_init__(self) -> None:
        self.label = self.name
        if self.upstream.address.authority in self.name:
            self.label = f"replica-{self.number & 0xFFFFFFFF:08x}"

    @property
    def number(self) -> int:
        """What it is called in memory that several processes share."""
        return xxhash.xxh3_64_intdigest(self.name.encode())


class Agreements:
    """Errors that siblings lately answered alike: they are the caller's."""

    __slots__ = ("_until_s",)

    def __init__(self) -> None:
        self._until_s: dict[Hashable, float] = {}

    def add(self, key: Hashable, now_s: float) -> None:
        """Siblings agreed about *key*, unless it is None."""
        if key is not None:
            if len(self._until_s) >= MOST_AGREEMENTS:
                self._until_s.clear()
            self._until_s[key] = now_s + AGREED_S

    def holds(self, key: Hashable, now_s: float) -> bool:
        """Whether siblings agreed about *key* a moment ago."""
        return key is not None and now_s < self._until_s.get(key, 0.0)


@dataclass(slots=True)
class ModelService:
    """One model: its replicas and who chooses among them.

    Attributes:
        pool: the replicas that may be chosen now; replaced whole when that changes.
        tokens: how many tokens its prompts have, learnt from the engines' answers.
        affinity: who chooses for a request that names its session; None: the policy.
    """

    model: str
    policy: Policy
    admission: Admission
    shadow: Policy | None = None
    replicas: tuple[ReplicaState, ...] = ()
    pool: Pool = field(default_factory=lambda: Pool(()))
    answers: SiblingComparison = field(default_factory=SiblingComparison)
    first_bytes: FirstBytes = field(default_factory=FirstBytes)
    agreed: Agreements = field(default_factory=Agreements)
    tokens: TokenEstimate = field(default_factory=TokenEstimate)
    affinity: Policy | None = None

    def missing(self, now_s: float) -> ReplicaMissing:
        """Return why no replica can be chosen."""
        rests_s = [r.health.rest_s(now_s) for r in self.replicas if r.health.reachable]
        if not any(rests_s):
            return ReplicaMissing(f"model {self.model!r} has no healthy replica; retry later")
        return ReplicaMissing(
            f"every replica of model {self.model!r} is at its limit; retry after Retry-After",
            retry_after_s=min(rests_s),
        )

    def refresh(self, now_s: float) -> None:
        """Build the pool of the healthy replicas anew, where it has changed."""
        up = [r for r in self.replicas if r.health.reachable and not r.health.resting(now_s)]
        out = [r for r in up if r.health.ejected(now_s)]
        # Where connections fail everywhere, the fault is seldom the replicas'; and with no replica
        # left, the end of the fault could not be noticed.  Answers were compared already.
        unconnected = [r for r in out if r.health.ejected_for == CONNECTION]
        if len(unconnected) > MOST_EJECTED * len(self.replicas):
            out = [r for r in out if r.health.ejected_for != CONNECTION]
        good = [r for r in up if r not in out] or up
        loads = tuple(r.load for r in good)
        if loads != self.pool:
            self.pool = Pool(loads)


class RoutableRequest(msgspec.Struct, frozen=True):
    """A request that can be routed.

    Attributes:
        parts: the prompt's text and media by rule, and its token ids, in tokens.
        question: how to learn the prompt's tokens, where caches are followed.
        owner: the one replica that can answer it; empty where any can.
    """

    service: ModelService
    policy: Policy
    route: RouteRequest
    parts: tuple[int, int, int] = (0, 0, 0)
    question: TokenQuestion | None = None
    owner: str = ""
