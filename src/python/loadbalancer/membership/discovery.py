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
    hosts = _Hosts(resolver)

    async def resolve(source: DnsSource) -> frozenset[Address]:
        if source.port is None:
            return await _services(resolver, hosts, source.name)
        return frozenset(Address(host, source.port) for host in await hosts.of(source.name))

    return resolve


async def _services(
    resolver: dns.asyncresolver.Resolver, hosts: "_Hosts", name: str
) -> frozenset[Address]:
    """Return where the SRV records of *name* lead."""
    records = await _records(resolver, name, "SRV")
    if not records:
        raise ReplicaMissing(f"{name} has no SRV record; look at the Service's named ports")
    targets = [(r.target.to_text(omit_final_dot=True), r.port) for r in records]
    names = sorted({target for target, _ in targets})
    hosts.forget_all_but(set(names))
    # A pod that leaves keeps its SRV record for a moment longer than its address.
    answers = await asyncio.gather(*map(hosts.of, names), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ReplicaMissing):
            raise answer
    hosts_of = dict(zip(names, answers, strict=True))
    found = frozenset(
        Address(host, port)
        for target, port in targets
        if not isinstance(at := hosts_of[target], BaseException)
        for host in at
    )
    if not found:
        raise ReplicaMissing(f"no target of {name} has an address; look at the Service's endpoints")
    return found


class _Hosts:
    """The IPv4 and IPv6 addresses of names.

    Each family is asked for by itself: some name servers fail on AAAA, or deny the whole name,
    where they have answered A.  A family that cannot be looked up keeps what it had.
    """

    def __init__(self, resolver: dns.asyncresolver.Resolver) -> None:
        self._resolver = resolver
        self._last: dict[tuple[str, str], list[str]] = {}

    async def of(self, name: str) -> list[str]:
        """Return every address of *name*.

        Raises:
            ReplicaMissing: neither family could be looked up, or there is no address.
        """
        answers = await asyncio.gather(
            *(self._family(name, kind) for kind in ("A", "AAAA")), return_exceptions=True
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(failures) == len(answers) or any(
            not isinstance(failure, ReplicaMissing) for failure in failures
        ):
            raise failures[0]
        hosts = [host for kind in ("A", "AAAA") for host in self._last.get((name, kind), ())]
        if not hosts:
            raise ReplicaMissing(f"{name} has no address; look at its Service's endpoints")
        return hosts

    def forget_all_but(self, names: set[str]) -> None:
        """Targets come and go with their pods."""
        self._last = {key: hosts for key, hosts in self._last.items() if key[0] in names}

    async def _family(self, name: str, kind: str) -> None:
        records = await _records(self._resolver, name, kind)
        self._last[name, kind] = [record.address for record in records]


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
