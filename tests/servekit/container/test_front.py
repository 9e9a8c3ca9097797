"""What the front says until the engine is warm, while it is, and once the container leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from servekit.container.front import FrontServer
from servekit.container.gate import Gate
from servekit.container.startup_progress import StartupProgress
from servekit.errors.tree import SettingInvalid
from servekit.timing.clock import SystemClock
from tests.support.clock import FakeClock
from tests.support.raw_engine import GET, LIMIT_S, OK, Engine, ask

HEALTH = b"GET /health HTTP/1.1\r\nHost: e\r\n\r\n"


@dataclass
class Front:
    server: FrontServer
    progress: StartupProgress
    port: int


@asynccontextmanager
async def fronted(engine: Engine, *, ready: bool = True) -> AsyncIterator[Front]:
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    progress = StartupProgress(FakeClock())
    progress.ready = ready
    port = int(listening.sockets[0].getsockname()[1])
    server = FrontServer(progress, SystemClock(), engine_port=port, gate=Gate((), {}))
    try:
        yield Front(server, progress, await server.start("127.0.0.1", 0))
    finally:
        server.close()
        listening.close()
        for writer in engine.writers:
            writer.transport.abort()
        # Aborted transports end on the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)


async def test_before_readiness_the_engine_hears_nothing() -> None:
    """503 with Retry-After on every path, and the front's own pages."""
    engine = Engine(OK)
    async with fronted(engine, ready=False) as front:
        refused = await ask(front.port, GET)
        page = await ask(front.port, b"GET /startup HTTP/1.1\r\nHost: e\r\n\r\n")
        metrics = await ask(front.port, b"GET /startup/metrics HTTP/1.1\r\nHost: e\r\n\r\n")

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5\r\n" in refused
    assert b'"stage": "Container initialization"' in refused
    assert page.startswith(b"HTTP/1.1 200 ")
    assert metrics.startswith(b"HTTP/1.1 200 ")
    assert engine.got == []


async def test_once_ready_every_byte_is_the_engines() -> None:
    """Its answer is passed on as it is."""
    async with fronted(Engine(OK)) as front:
        assert await ask(front.port, GET) == OK


async def test_schema_that_would_end_the_engine_is_refused() -> None:
    """vLLM's server allocates by its item counts, and is aborted; it never sees the request."""
    body = b'{"response_format": {"json_schema": {"schema": {"minItems": 1000000000}}}}'
    engine = Engine(OK)
    async with fronted(engine) as front:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
        refused = await ask(front.port, head % len(body) + body)

    assert refused.startswith(b"HTTP/1.1 400 ")
    assert b"counts 1e+09 items" in refused
    assert engine.got == []


async def test_connection_of_the_start_serves_after_it() -> None:
    """A client that waited need not connect again."""
    async with fronted(Engine(OK), ready=False) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(GET)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_S)
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        front.progress.ready = True
        writer.write(GET)

        assert await asyncio.wait_for(reader.readexactly(len(OK)), LIMIT_S) == OK
        writer.close()


async def test_head_of_a_page_has_no_body() -> None:
    """What follows on the connection would be read as the next answer."""
    async with fronted(Engine(OK), ready=False) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"HEAD /health HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")

        answer = await asyncio.wait_for(reader.read(), LIMIT_S)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_while_it_drains_health_says_so_and_work_is_done() -> None:
    """Whoever routes to us goes elsewhere; whoever has not heard yet is still served."""
    engine = Engine(OK)
    async with fronted(engine) as front:
        draining = asyncio.ensure_future(front.server.drain(LIMIT_S, linger_s=LIMIT_S / 2))
        await asyncio.sleep(0)
        health = await ask(front.port, HEALTH)
        answer = await ask(front.port, GET)
        draining.cancel()

    assert health.startswith(b"HTTP/1.1 503 ")
    assert b'"stage": "Draining"' in health
    assert answer.endswith(b"connection: close\r\n\r\nok")


async def test_port_that_is_taken_is_said() -> None:
    """One line with the port, not an errno from the depths."""
    async with fronted(Engine()) as front:
        other = FrontServer(front.progress, SystemClock(), engine_port=9, gate=Gate((), {}))

        with pytest.raises(SettingInvalid, match=f"{front.port}.*in use"):
            await other.start("127.0.0.1", front.port)
