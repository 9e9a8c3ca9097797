"""An engine of raw bytes, and a front before it, both on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from servekit.relay.client_connection import ConnectionLimits, Responder
from servekit.relay.exchange import PassThrough
from servekit.relay.heads import HttpRequestHead
from servekit.relay.listening import Listener, listen
from servekit.relay.responses import LocalResponse
from servekit.relay.upstream_pool import UpstreamPool
from servekit.timing.clock import SystemClock
from servekit.wire.address import Address

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v1/models HTTP/1.1\r\nHost: example\r\n\r\n"

# A busy machine is slow; what takes this long does not happen.
LIMIT_S = 30.0


class Engine:
    """A server that keeps every byte and answers as told, one answer to a request.

    Attributes:
        got: what each connection has sent.
        closed: how many connections have ended.
        closes_after: how many requests of a connection it answers before it closes it; it does not
            say so beforehand.
    """

    def __init__(self, *answers: bytes, closes_after: int = 1000) -> None:
        self._answers = answers
        self._said = 0
        self._closes_after = closes_after
        self.got: list[bytearray] = []
        self.closed = 0
        self.writers: list[Writer] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.writers.append(writer)
        got = bytearray()
        self.got.append(got)
        seen = 0
        while piece := await reader.read(65536):
            got += piece
            if seen >= self._closes_after:
                break
            while seen < got.count(b"\r\n\r\n") and self._said < len(self._answers):
                writer.write(self._answers[self._said])
                seen += 1
                self._said += 1
        self.closed += 1
        writer.close()


class Dying(Engine):
    """An engine that is gone after it said so much, whatever was asked."""

    async def serve(self, reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answers[0])
        writer.close()


@dataclass
class PlainHost:
    """Relays everything, and refuses what it is told to."""

    upstream: UpstreamPool
    limits: ConnectionLimits
    now: Callable[[], float] = field(default=SystemClock.now)
    draining: bool = False
    refused: LocalResponse | None = None

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        del head
        return self.refused

    def refusal_for(self, head: HttpRequestHead | None, answer: LocalResponse) -> LocalResponse:
        del head
        return answer

    def serve(self, client: Responder, head: HttpRequestHead, body: bytes) -> PassThrough:
        return PassThrough(self, self.upstream, client, head, body)


@dataclass
class Fronted:
    """A front on loopback, and what talks to it."""

    port: int
    host: PlainHost
    listener: Listener
    writers: list[Writer] = field(default_factory=list)

    async def connect(self) -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, request: bytes) -> bytes:
        """Send *request* on a connection of its own; return what comes back, once it stops."""
        return await ask(self.port, request)


async def ask(port: int, request: bytes) -> bytes:
    """Send *request*, say that nothing follows, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = bytearray()
    try:
        async with asyncio.timeout(LIMIT_S):
            while not _is_whole(bytes(answer)):
                piece = await reader.read(65536)
                if not piece:
                    break
                answer += piece
    finally:
        writer.transport.abort()
    return bytes(answer)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return bool(end and length) and len(body) >= int(length)


@asynccontextmanager
async def fronted(engine: Engine, limits: ConnectionLimits | None = None) -> AsyncIterator[Fronted]:
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    port = int(listening.sockets[0].getsockname()[1])
    upstream = UpstreamPool(Address("127.0.0.1", port), 2.0)
    host = PlainHost(upstream, limits or ConnectionLimits())
    listener = Listener(host, SystemClock())
    socket = listen("127.0.0.1", 0)
    await listener.start(socket)
    front = Fronted(int(socket.getsockname()[1]), host, listener)
    try:
        yield front
    finally:
        listener.close()
        upstream.close()
        listening.close()
        for writer in (*front.writers, *engine.writers):
            writer.transport.abort()
        # Aborted transports end on the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
