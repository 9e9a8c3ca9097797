"""The replicas behind a load balancer, and the models they serve."""

from dataclasses import dataclass, field

import msgspec

from loadbalancer.balancing.admission import Admission
from loadbalancer.balancing.health import Health
from servekit.errors.tree import ReplicaMissing
from servekit.relay.upstream_pool import UpstreamPool
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import Policy
from servekit.routing.request import RouteRequest

# The largest share of a model's replicas that failed requests may take out.
MOST_EJECTED = 0.5


@dataclass(slots=True)
class ReplicaState:
    """One engine: what is known of it, and how to reach it.

    Attributes:
        models: the ids it serves; empty until it was asked.
    """

    name: str
    upstream: UpstreamPool
    load: ReplicaLoad
    health: Health
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class ModelService:
    """One model: its replicas and who chooses among them.

    Attributes:
        pool: the replicas that may be chosen now; replaced whole when that changes.
    """

    model: str
    policy: Policy
    admission: Admission
    shadow: Policy | None = None
    replicas: tuple[ReplicaState, ...] = ()
    pool: Pool = field(default_factory=lambda: Pool(()))

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
        good = [r for r in up if not r.health.ejected(now_s)]
        # Where requests fail everywhere, the fault is seldom the replicas'; and with no replica
        # left, the end of the fault could not be noticed.
        if len(up) - len(good) > MOST_EJECTED * len(self.replicas):
            good = up
        loads = tuple(r.load for r in good)
        if loads != self.pool:
            self.pool = Pool(loads)


class RoutableRequest(msgspec.Struct, frozen=True):
    """A request that can be routed."""

    service: ModelService
    policy: Policy
    route: RouteRequest
