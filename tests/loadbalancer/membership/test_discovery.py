"""Replicas found by name, from a real DNS server on a loopback port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.discovery import Discovery, resolver_of
from loadbalancer.membership.dns_source import DnsSource, read_source
from servekit.errors.tree import ReplicaMissing, SettingInvalid
from servekit.wire.address import Address
from tests.support.clock import FakeClock

NAME = "pods.ns.svc.cluster.local"


@dataclass
class Zone(asyncio.DatagramProtocol):
    """A name server for what is in `records`; told to, it fails.

    Attributes:
        records: texts of records by name and type.
        odd: what becomes of a record type: `SERVFAIL`, `NXDOMAIN` or `silence`.
        questions: how many questions came (count).
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    failing: bool = False
    odd: dict[str, str] = field(default_factory=dict)
    questions: int = 0
    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.questions += 1
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.flags |= dns.flags.RA
        question = answer.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = question.to_text().split()[-1]
        texts = self.records.get((name, kind), [])
        odd = self.odd.get(kind)
        if odd == "silence":
            return
        if odd is not None:
            answer.set_rcode(dns.rcode.from_text(odd))
        elif self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif texts:
            answer.answer.append(dns.rrset.from_text(question.name, 5, "IN", kind, *texts))
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def serving(zone: Zone) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """Give a resolver that asks *zone*."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: zone, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield resolver
    finally:
        transport.close()


def empty_balancer() -> Balancer:
    return Balancer(Rules(policy="round-robin"), Random(0), FakeClock().now)


async def test_name_stands_for_every_address_it_has() -> None:
    """Both families, each at the port that was given."""
    zone = Zone({(NAME, "A"): ["10.0.0.1", "10.0.0.2"], (NAME, "AAAA"): ["fd00::1"]})
    async with serving(zone) as resolver:
        found = await resolver_of(resolver)(DnsSource(NAME, 8000))

    assert found == {Address(host, 8000) for host in ("10.0.0.1", "10.0.0.2", "fd00::1")}


async def test_service_records_bring_their_own_ports() -> None:
    """As Kubernetes has them for named ports: a target for each pod."""
    service = "_http._tcp." + NAME
    zone = Zone(
        {
            (service, "SRV"): [f"0 50 8001 a.{NAME}.", f"0 50 8002 b.{NAME}."],
            (f"a.{NAME}", "A"): ["10.0.0.1"],
            (f"b.{NAME}", "A"): ["10.0.0.2"],
        }
    )
    async with serving(zone) as resolver:
        found = await resolver_of(resolver)(read_source(f"srv://{service}"))

    assert found == {Address("10.0.0.1", 8001), Address("10.0.0.2", 8002)}


async def test_replicas_join_and_leave_with_the_answer() -> None:
    """Those that stay are the same objects: their connections and counts are kept."""
    zone = Zone({(NAME, "A"): ["10.0.0.1", "10.0.0.2"]})
    balancer, changes = empty_balancer(), []
    async with serving(zone) as resolver:
        discovery = Discovery(
            DnsSource(NAME, 8000), resolver_of(resolver), balancer, lambda: changes.append(1)
        )
        await discovery.once()
        stays = balancer.replicas["10.0.0.2:8000"]
        zone.records[NAME, "A"] = ["10.0.0.2", "10.0.0.3"]
        await discovery.once()
        await discovery.once()

    assert set(balancer.replicas) == {"10.0.0.2:8000", "10.0.0.3:8000"}
    assert balancer.replicas["10.0.0.2:8000"] is stays
    assert len(changes) == 2


async def test_model_is_known_while_all_its_replicas_are_replaced() -> None:
    """Those that have joined are asked first what they serve; nobody is told that it is gone."""
    zone = Zone({(NAME, "A"): ["10.0.0.1"]})
    balancer = empty_balancer()
    async with serving(zone) as resolver:
        discovery = Discovery(DnsSource(NAME, 8000), resolver_of(resolver), balancer, lambda: None)
        await discovery.once()
        balancer.serves(balancer.replicas["10.0.0.1:8000"], ("m",))
        before = balancer.services["m"]
        zone.records[NAME, "A"] = ["10.0.0.2"]
        await discovery.once()
        meanwhile = balancer.services.get("m")
        balancer.serves(balancer.replicas["10.0.0.2:8000"], ("m",))

    assert meanwhile is before
    assert [load.name for load in balancer.services["m"].pool] == ["10.0.0.2:8000"]


@pytest.mark.parametrize("what", ["fails", "knows no such name", "has no address"])
async def test_answer_that_does_not_come_changes_nothing(what: str) -> None:
    """The last one holds, and the next good one counts again."""
    zone = Zone({(NAME, "A"): ["10.0.0.1"]})
    balancer = empty_balancer()
    async with serving(zone) as resolver:
        discovery = Discovery(DnsSource(NAME, 8000), resolver_of(resolver), balancer, lambda: None)
        assert await discovery.once()
        if what == "fails":
            zone.failing = True
        else:
            zone.records = {} if what == "knows no such name" else {(NAME, "TXT"): ["x"]}
        assert not await discovery.once()
        standing = set(balancer.replicas)
        zone.failing, zone.records = False, {(NAME, "A"): ["10.0.0.9"]}
        assert await discovery.once()

    assert standing == {"10.0.0.1:8000"}
    assert set(balancer.replicas) == {"10.0.0.9:8000"}


async def test_name_is_asked_for_again_at_uneven_times() -> None:
    """Every 5 s, give or take a fifth."""
    questions: list[float] = []
    clock = FakeClock()

    async def resolve(source: DnsSource) -> frozenset[Address]:
        questions.append(clock.now())
        if len(questions) == 50:
            raise asyncio.CancelledError
        raise ReplicaMissing(source.name)

    discovery = Discovery(DnsSource(NAME, 1), resolve, empty_balancer(), lambda: None, again_s=5.0)
    with pytest.raises(asyncio.CancelledError):
        await discovery.run(clock, Random(0))

    pauses = [after - before for before, after in pairwise(questions)]
    assert all(4.0 <= pause <= 6.0 for pause in pauses)
    assert len(set(pauses)) > 40


async def test_one_target_without_an_address_does_not_hide_the_others() -> None:
    """A pod that has left is in the SRV records for a while; where none has any, the last holds."""
    service = f"_http._tcp.{NAME}"
    zone = Zone(
        {
            (service, "SRV"): [f"0 50 8001 a.{NAME}.", f"0 50 8002 gone.{NAME}."],
            (f"a.{NAME}", "A"): ["10.0.0.1"],
        }
    )
    async with serving(zone) as resolver:
        resolve = resolver_of(resolver)
        found = await resolve(read_source(f"srv://{service}"))
        zone.records[service, "SRV"] = [f"0 50 8002 gone.{NAME}."]
        with pytest.raises(ReplicaMissing, match="no target"):
            await resolve(read_source(f"srv://{service}"))

    assert found == {Address("10.0.0.1", 8001)}


@pytest.mark.parametrize("text", ["pods:80", "dns://pods", "srv://x:80", "http://x:1", "dns://a:x"])
def test_other_sources_are_refused(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(SettingInvalid, match="dns://name:port"):
        read_source(text)


@pytest.mark.parametrize("odd", ["SERVFAIL", "NXDOMAIN", "silence"])
@pytest.mark.parametrize(("failing", "other"), [("AAAA", "A"), ("A", "AAAA")])
async def test_a_family_that_fails_keeps_its_last_answer(
    failing: str, other: str, odd: str
) -> None:
    """The other one counts, as it is now: replicas join and leave by it."""
    addresses = {"A": ["10.0.0.1", "10.0.0.2"], "AAAA": ["fd00::1", "fd00::2"]}
    zone = Zone({(NAME, kind): texts[:1] for kind, texts in addresses.items()})
    async with serving(zone) as resolver:
        resolve = resolver_of(resolver)
        before = await resolve(DnsSource(NAME, 8000))
        zone.odd[failing] = odd
        zone.records[NAME, other] = addresses[other][1:]
        after = await resolve(DnsSource(NAME, 8000))
        zone.odd[other] = "SERVFAIL"
        with pytest.raises(ReplicaMissing):
            await resolve(DnsSource(NAME, 8000))

    assert before == {Address(texts[0], 8000) for texts in addresses.values()}
    assert after == {Address(addresses[failing][0], 8000), Address(addresses[other][1], 8000)}


@pytest.mark.parametrize("odd", ["SERVFAIL", "NXDOMAIN", "silence"])
async def test_a_family_that_never_answered_is_done_without(odd: str) -> None:
    """A cluster without IPv6 whose name server fails on AAAA has all its IPv4 replicas."""
    zone = Zone({(NAME, "A"): ["10.0.0.1"]}, odd={"AAAA": odd})
    async with serving(zone) as resolver:
        found = await resolver_of(resolver)(DnsSource(NAME, 8000))

    assert found == {Address("10.0.0.1", 8000)}
