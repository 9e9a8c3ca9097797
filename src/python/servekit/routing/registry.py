"""The policies by name.  Pure."""

from collections.abc import Callable
from random import Random

from servekit.errors.tree import PolicyUnknown
from servekit.routing.latency import Latency
from servekit.routing.policy import Policy
from servekit.routing.prefix import Prefix
from servekit.routing.queueing import Queue
from servekit.routing.session import Session
from servekit.routing.simple import (
    LeastInflight,
    LeastWaiting,
    PowerOfTwo,
    RandomPolicy,
    RoundRobin,
)

_POLICIES: tuple[Callable[[Random], Policy], ...] = (
    RoundRobin,
    RandomPolicy,
    LeastWaiting,
    LeastInflight,
    PowerOfTwo,
    Queue,
    Prefix,
    Session,
    Latency,
)

POLICY_NAMES: tuple[str, ...] = tuple(policy.name for policy in _POLICIES)  # type: ignore[attr-defined]


def policy_named(name: str, rng: Random) -> Policy:
    """Return a new policy called *name*, with nothing learnt yet.

    Raises:
        PolicyUnknown: there is no such policy.
    """
    for known, make in zip(POLICY_NAMES, _POLICIES, strict=True):
        if known == name:
            return make(rng)
    raise PolicyUnknown(f"policy {name!r} is unknown; there are: {', '.join(POLICY_NAMES)}")
