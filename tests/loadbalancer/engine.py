"""A real HTTP server that speaks as much of vLLM as a load balancer hears, and fails on request."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.server.keys import KeyRing
from loadbalancer.server.server import Server
from servekit.relay.listening import listen
from servekit.secrets.secret import Secret
from servekit.timing.clock import SystemClock

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Tracing

MODELS = json.dumps({"object": "list", "data": [{"id": "m"}]}).encode()
METRICS = b'vllm:num_requests_running{engine="0",model_name="m"} 0.0\n'
WHOLE = json.dumps({"choices": [{"text": "hello"}], "usage": {"completion_tokens": 1}}).encode()
EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'


@dataclass
class Engine:
    """One engine on a loopback port.

    Attributes:
        script: what /v1/completions does: `whole`, `stream`, `die` before the head, `die-silent`
            after the head, `die-mid-stream`, `die-mid-chunk`, `stall`, `endless`, or a status.
        bodies: the request bodies that came.
        key: what it asks for under /v1, as vLLM does with --api-key.
        left: set once a client went away before the answer's end.
    """

    script: str = "whole"
    events: int = 5
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    key: bytes = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = head.split(b" ")[1]
        if path == b"/v1/models" and b"Bearer " + self.key not in head and self.key:
            writer.write(whole(b'{"error":"Unauthorized"}', 401))
        elif path == b"/v1/models":
            writer.write(whole(MODELS))
        elif path == b"/metrics":
            writer.write(whole(METRICS))
        elif path == b"/health":
            writer.write(whole(b""))
        else:
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.heads.append(head)
            self.bodies.append(await reader.readexactly(length))
            await self._complete(reader, writer)
        await writer.drain()

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.script == "whole":
            writer.write(whole(WHOLE))
            return
        if self.script.isdigit():
            writer.write(whole(b'{"error":{}}', int(self.script), b"retry-after: 7\r\n"))
            return
        if self.script == "die":
            writer.transport.abort()
            return
        if self.script != "stall":
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
        await self._stream(reader, writer)

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.script == "die-silent":
            await writer.drain()
            writer.transport.abort()
            return
        if self.script in ("stall", "endless"):
            if self.script == "endless":
                writer.write(chunk(EVENT))
            if not await reader.read(1):
                self.left.set()
            return
        for _ in range(self.events):
            writer.write(chunk(EVENT))
            await writer.drain()
        if self.script == "die-mid-chunk":
            writer.write(b"ff\r\ndata: {")
            await writer.drain()
        if self.script.startswith("die"):
            await asyncio.sleep(0.02)
            writer.transport.abort()
            return
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


@dataclass
class Held(Engine):
    """Answers nobody until *go* is set."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.go.wait()
        await super()._complete(reader, writer)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes, status: int = 200, lines: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


@asynccontextmanager
async def serving(*engines: Engine) -> AsyncIterator[list[str]]:
    """Give the URLs of *engines*."""
    servers = [await asyncio.start_server(engine.serve, "127.0.0.1", 0) for engine in engines]
    try:
        yield [f"http://127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers]
    finally:
        for server in servers:
            server.close()


@asynccontextmanager
async def running(
    *engines: Engine,
    keys: KeyRing | None = None,
    admin_keys: KeyRing | None = None,
    tracing: "Tracing | None" = None,
    engine_key: str = "",
    drain_s: float = 0.2,
    **rules: Any,
) -> AsyncIterator[tuple[Balancer, int]]:
    """Give a balancer over *engines*, and the port where it listens."""
    clock = SystemClock()
    usual = Rules(policy="round-robin", poll_s=0.05)
    balancer = Balancer(
        msgspec.structs.replace(usual, **rules), Random(0), clock.now, engine_key=Secret(engine_key)
    )
    listening = listen("127.0.0.1", 0)
    client = Server(balancer, clock, Random(0))
    client.use_keys(keys or KeyRing())
    client.use_admin_keys(admin_keys or KeyRing())
    if tracing is not None:
        client.use_tracing(tracing)
    async with serving(*engines) as urls:
        for number, (engine, url) in enumerate(zip(engines, urls, strict=True)):
            engine.url = url
            balancer.add(f"r{number}", url)
        await client.start(listening)
        try:
            yield balancer, listening.getsockname()[1]
        finally:
            await client.stop(drain_s)


def request(body: bytes = b'{"model":"m","prompt":"x"}', lines: bytes = b"") -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        lines,
        len(body),
        body,
    )


async def talk(port: int, data: bytes, *, wait_s: float = 30.0) -> bytes:
    """Return everything that comes back for *data* before the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(wait_s):
            return await reader.read(-1)
    finally:
        writer.close()


async def post(
    port: int,
    body: bytes = b'{"model":"m","prompt":"x"}',
    lines: bytes = b"",
    *,
    wait_s: float = 30.0,
) -> bytes:
    """Return the whole answer to one request, on a connection of its own."""
    return await talk(port, request(body, lines + b"connection: close\r\n"), wait_s=wait_s)
