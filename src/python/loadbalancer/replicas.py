"""The replicas behind a load balancer, and the models they serve."""

from dataclasses import dataclass, field

from loadbalancer.health import Health
from loadbalancer.upstream import Upstream
from servekit.routing.ledger import Account, Pool
from servekit.routing.policy import Policy


@dataclass(slots=True)
class Replica:
    """One engine: what is known of it, and how to reach it.

    Attributes:
        models: the ids it serves; empty until it was asked.
    """

    name: str
    upstream: Upstream
    account: Account
    health: Health
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class Service:
    """One model: its replicas and who chooses among them.

    Attributes:
        pool: the replicas that may be chosen now; replaced whole when that changes.
        in_flight: requests of this model that were sent and have not ended.
    """

    model: str
    policy: Policy
    shadow: Policy | None = None
    replicas: tuple[Replica, ...] = ()
    pool: Pool = field(default_factory=lambda: Pool(()))
    in_flight: int = 0

    def refresh(self, now_s: float) -> None:
        """Build the pool of the healthy replicas anew, where it has changed."""
        accounts = tuple(r.account for r in self.replicas if r.health.available(now_s))
        if accounts != self.pool[:]:
            self.pool = Pool(accounts)
