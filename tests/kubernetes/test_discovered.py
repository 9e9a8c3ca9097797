"""The load balancer before model servers that it has found by name, as `replicated` runs them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.discovery import Discovery
from loadbalancer.membership.dns_source import DnsSource
from loadbalancer.server.server import Server
from servekit.client.client import Client
from servekit.client.outcome import Outcome
from servekit.relay.listening import listen
from servekit.timing.clock import SystemClock
from servekit.wire.address import Address
from servekit.wire.openai import CompletionRequest, read_models
from tests.model_server.node import model_server
from tests.support.container_program import MODEL, write_snapshot
from tests.support.waiting import until

SERVED_AS = "llama-3.2-3b"


@asynccontextmanager
async def balancing(*ports: int) -> AsyncIterator[tuple[Client, Balancer]]:
    """A client of a load balancer whose name servers know of *ports* on loopback."""

    async def resolve(source: DnsSource) -> frozenset[Address]:
        assert source.name == "pods"
        return frozenset(Address("127.0.0.1", port) for port in ports)

    clock = SystemClock()
    balancer = Balancer(Rules(policy="round-robin"), Random(0), clock.now)
    server = Server(balancer, clock, Random(0))
    await Discovery(DnsSource("pods", 1), resolve, balancer, server.pollers.follow).once()
    listening = listen("127.0.0.1", 0)
    await server.start(listening)
    client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", clock)
    try:
        yield client, balancer
    finally:
        await client.aclose()
        await server.stop(1.0)


async def ask(client: Client, model: str) -> Outcome:
    return await client.complete(CompletionRequest(model=model, prompt="hi", max_tokens=2))


async def test_a_pod_that_loads_keeps_nobody_from_one_that_serves(tmp_path: Path) -> None:
    """Each says itself what it serves, under every name that the model server has for it."""
    for name in ("serves", "loads"):
        write_snapshot(tmp_path / name / "hf")
    async with (
        model_server(tmp_path / "serves", SERVED_MODEL_NAME=SERVED_AS) as serves,
        model_server(tmp_path / "loads", FAKE_NEVER_READY="1") as loads,
    ):
        await serves.url()
        async with balancing(await serves.port(), await loads.port()) as (client, balancer):
            await until(lambda: SERVED_AS in balancer.services)
            outcomes = [await ask(client, name) for name in (SERVED_AS, MODEL) for _ in "ab"]
            _, listed = await client.get("/v1/models")

    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert {SERVED_AS, MODEL} <= {card.id for card in read_models(listed).data}


async def test_while_every_pod_loads_callers_are_asked_to_come_back(tmp_path: Path) -> None:
    """503: the model is not unknown, it is not there yet."""
    write_snapshot(tmp_path / "hf")
    async with (
        model_server(tmp_path, FAKE_NEVER_READY="1") as loads,
        balancing(await loads.port()) as (client, _),
    ):
        outcome = await ask(client, SERVED_AS)

    assert outcome.error == "http 503"
