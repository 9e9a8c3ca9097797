"""What is learnt of replicas by asking them; the engines are real servers, the clock is fake."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from structlog.testing import capture_logs

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.polling import ASK_AGAIN_S, Poller
from tests.loadbalancer.engine import METRICS, whole
from tests.support.clock import FakeClock


class Talkative:
    """Says what it serves, unless it hides it, and may be away."""

    def __init__(self, *models: str) -> None:
        self.models = models
        self.status = 200
        self.away = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if self.away:
                    break
                writer.write(self._answer(head.split(b" ")[1]))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _answer(self, path: bytes) -> bytes:
        if path == b"/v1/models":
            cards = [{"id": model} for model in self.models]
            return whole(json.dumps({"data": cards}).encode(), self.status)
        return whole(METRICS if path == b"/metrics" else b"")


@asynccontextmanager
async def polled(
    engine: Talkative, *planned: str
) -> AsyncIterator[tuple[Poller, Balancer, FakeClock]]:
    """Give a poller of *engine*, of which a fleet says that it serves *planned*."""
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    clock = FakeClock()
    balancer = Balancer(Rules(policy="round-robin"), Random(0), clock.now)
    port = server.sockets[0].getsockname()[1]
    replica = balancer.add("r", f"http://127.0.0.1:{port}", planned)
    try:
        yield Poller(balancer, replica, clock, Random(0)), balancer, clock
    finally:
        replica.upstream.close()
        server.close()


async def test_models_that_are_loaded_later_are_found() -> None:
    """LoRA adapters come and go while an engine serves."""
    engine = Talkative("base")
    async with polled(engine) as (poller, balancer, clock):
        await poller.once()
        engine.models = ("base", "adapter")
        await poller.once()
        assert set(balancer.services) == {"base"}

        clock.advance(ASK_AGAIN_S)
        await poller.once()

        assert set(balancer.services) == {"base", "adapter"}


async def test_replica_that_comes_back_may_serve_another_model() -> None:
    """It is asked before it is sent anything."""
    engine = Talkative("old")
    async with polled(engine) as (poller, balancer, _):
        await poller.once()
        engine.away, engine.models = True, ("new",)
        while balancer.replicas["r"].health.reachable:
            await poller.once()
        engine.away = False
        await poller.once()

        assert set(balancer.services) == {"new"}


async def test_what_a_fleet_says_is_not_asked_for() -> None:
    """It holds, whatever the engine calls its models."""
    async with polled(Talkative("other"), "planned") as (poller, balancer, clock):
        await poller.once()
        clock.advance(ASK_AGAIN_S)
        await poller.once()

        assert set(balancer.services) == {"planned"}


async def test_engine_that_hides_its_models_is_named_once() -> None:
    """One that wants a key for them, say; what it said before holds."""
    engine = Talkative("m")
    engine.status = 401
    with capture_logs() as logs:
        async with polled(engine) as (poller, balancer, clock):
            for _ in range(3):
                await poller.once()
            assert not balancer.services
            engine.status = 200
            await poller.once()
            engine.status = 401
            clock.advance(ASK_AGAIN_S)
            await poller.once()

            assert set(balancer.services) == {"m"}

    told = [line["status"] for line in logs if line["event"] == "replica does not list its models"]
    assert told == [401, 401]
