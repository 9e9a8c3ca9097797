"""Replicas found by name: a DNS name, asked again and again -> replicas that join and leave."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.resolver
import structlog

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.membership.dns_source import DnsSource
from servekit.errors.tree import ReplicaMissing
from servekit.timing.clock import Clock
from servekit.wire.address import Address

# Pods of a headless Service come and go in seconds; CoreDNS answers from memory.
AGAIN_S = 5.0
# Load balancers that start together must not ask together for ever.
JITTER = 0.2
# Shorter than the pause between two questions, so that they never overlap.
TIMEOUT_S = 3.0

log = structlog.get_logger()


Resolve = Callable[[DnsSource], Awaitable[frozenset[Address]]]


def resolver_of(resolver: dns.asyncresolver.Resolver) -> Resolve:
    """Return a function that asks the name servers of *resolver*."""

    async def resolve(source: DnsSource) -> frozenset[Address]:
        if source.port is None:
            return await _services(resolver, source.name)
        hosts = await _hosts(resolver, source.name)
        return frozenset(Address(host, source.port) for host in hosts)

    return resolve


async def _services(resolver: dns.asyncresolver.Resolver, name: str) -> frozenset[Address]:
    """Return where the SRV records of *name* lead."""
    records = await _records(resolver, name, "SRV")
    if not records:
        raise ReplicaMissing(f"{name} has no SRV record; look at the Service's named ports")
    found: set[Address] = set()
    for record in records:
        target = record.target.to_text(omit_final_dot=True)
        found |= {Address(host, record.port) for host in await _hosts(resolver, target)}
    return frozenset(found)


async def _hosts(resolver: dns.asyncresolver.Resolver, name: str) -> list[str]:
    """Return every IPv4 and IPv6 address of *name*."""
    answers = await asyncio.gather(
        _records(resolver, name, "A"), _records(resolver, name, "AAAA"), return_exceptions=True
    )
    hosts = [record.address for a in answers if not isinstance(a, BaseException) for record in a]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    # Half an answer would take the other half's replicas out.
    if failures:
        raise failures[0]
    if not hosts:
        raise ReplicaMissing(f"{name} has no address; look at its Service's endpoints")
    return hosts


async def _records(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> list[Any]:
    """Return the records; none where the name has none of this *kind*."""
    try:
        answer = await resolver.resolve(name, kind, search=True, lifetime=TIMEOUT_S)
    except dns.resolver.NoAnswer:
        return []
    except (dns.exception.DNSException, OSError) as error:
        raise ReplicaMissing(f"{name} ({kind}) cannot be looked up: {error}") from error
    return list(answer)


class Discovery:
    """Keeps a balancer's replicas those that a name stands for.

    Where no name server answers, or with nothing, the last answer holds: replicas that are really
    gone are found out by polls, and a name server that fails must not take a fleet down.
    """

    def __init__(
        self,
        source: DnsSource,
        resolve: Resolve,
        balancer: Balancer,
        changed: Callable[[], None],
        again_s: float = AGAIN_S,
    ) -> None:
        """*changed* is called when replicas have joined or left."""
        self._source = source
        self._resolve = resolve
        self._balancer = balancer
        self._changed = changed
        self._again_s = again_s
        self._failing = False

    async def run(self, clock: Clock, rng: Random) -> None:
        while True:
            await self.once()
            await clock.sleep(self._again_s * (1.0 + JITTER * (2.0 * rng.random() - 1.0)))

    async def once(self) -> bool:
        """Ask; return whether there was an answer."""
        try:
            found = await self._resolve(self._source)
        except ReplicaMissing as error:
            if not self._failing:
                log.warning("discovery failed; the last answer holds", why=str(error))
            self._failing = True
            return False
        if self._failing:
            log.info("discovery works again", name=self._source.name)
        self._failing = False
        self._follow(found)
        return True

    def _follow(self, found: frozenset[Address]) -> None:
        wanted = {address.authority: address for address in found}
        standing = self._balancer.replicas.keys()
        gone, new = standing - wanted.keys(), wanted.keys() - standing
        with self._balancer.changing():
            for name in gone:
                self._balancer.remove(name)
            for name in sorted(new):
                self._balancer.add(name, wanted[name].url)
        if gone or new:
            log.info("replicas changed", joined=sorted(new), left=sorted(gone))
            self._changed()
