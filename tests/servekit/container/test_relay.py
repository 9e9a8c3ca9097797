"""Bytes between a client and the engine, through a real front on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.container.front import FrontServer
from servekit.container.progress import Progress
from servekit.timing.clock import SystemClock
from tests.support.clock import FakeClock

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v1/models HTTP/1.1\r\nHost: example\r\n\r\n"


class Engine:
    """A server that keeps every byte and answers as told, one answer to a request.

    Attributes:
        got: what each connection has sent.
        closed: how many connections have ended.
    """

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
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
            while seen < got.count(b"\r\n\r\n") and seen < len(self._answers):
                writer.write(self._answers[seen])
                seen += 1
        self.closed += 1
        writer.close()


class Front:
    """A front before an engine, and a client's connection to it."""

    def __init__(self, server: FrontServer, port: int, progress: Progress) -> None:
        self.server = server
        self.progress = progress
        self.writers: list[Writer] = []
        self._port = port

    async def connect(self) -> tuple[Reader, Writer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, request: bytes, size: int = 65536) -> bytes:
        """Send *request* on a connection of its own; return what comes back until it is closed."""
        reader, writer = await self.connect()
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(size), 10)
        writer.close()
        return answer


@asynccontextmanager
async def fronted(engine: Engine, *, ready: bool = True) -> AsyncIterator[Front]:
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    progress = Progress(FakeClock())
    progress.ready = ready
    port = int(listening.sockets[0].getsockname()[1])
    server = FrontServer(progress, SystemClock(), engine_port=port)
    front = Front(server, await server.start("127.0.0.1", 0), progress)
    try:
        yield front
    finally:
        server.close()
        listening.close()
        for writer in (*front.writers, *engine.writers):
            writer.transport.abort()
        # Aborted transports end on the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)


async def test_answer_is_passed_on_byte_for_byte() -> None:
    """Head and body, whatever the engine says."""
    answer = b"HTTP/1.1 418 Teapot\r\nX-Odd:  kept \r\nContent-Length: 3\r\n\r\n\x00\xff\n"
    async with fronted(Engine(answer)) as front:
        assert await front.ask(GET) == answer


async def test_request_is_passed_on_without_what_concerns_the_connection() -> None:
    """Path, query, headers and body stay; Host and Connection are the engine's."""
    engine = Engine(OK)
    request = (
        b"POST /v1/x?a=%20b HTTP/1.1\r\nHost: example\r\nConnection: keep-alive\r\n"
        b"Authorization: Bearer k\r\nContent-Length: 4\r\n\r\nbody"
    )
    async with fronted(engine) as front:
        await front.ask(request)

    got = bytes(engine.got[0])
    assert got.startswith(b"POST /v1/x?a=%20b HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert b"Authorization: Bearer k\r\n" in got
    assert b"Connection" not in got
    assert got.endswith(b"Content-Length: 4\r\n\r\nbody")


async def test_chunked_request_stays_chunked() -> None:
    """Its length is not known, and it is not waited for."""
    engine = Engine(OK)
    request = (
        b"POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with fronted(engine) as front:
        assert await front.ask(request) == OK

    assert bytes(engine.got[0]).endswith(b"3\r\nabc\r\n0\r\n\r\n")


@given(cuts=st.lists(st.integers(1, 60), max_size=6))
def test_request_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    """A network cuts where it likes."""
    request = b"POST /x HTTP/1.1\r\nHost: e\r\nContent-Length: 10\r\n\r\n0123456789"

    async def sent_in_pieces() -> bytes:
        engine = Engine(OK)
        async with fronted(engine) as front:
            reader, writer = await front.connect()
            rest = request
            for cut in cuts:
                writer.write(rest[:cut])
                await writer.drain()
                rest = rest[cut:]
                await asyncio.sleep(0)
            writer.write(rest)
            await asyncio.wait_for(reader.readexactly(len(OK)), 10)
            writer.close()
        return bytes(engine.got[0])

    assert asyncio.run(sent_in_pieces()).endswith(b"Content-Length: 10\r\n\r\n0123456789")


async def test_connection_is_kept_for_the_next_request() -> None:
    """On both sides: one connection to the engine for one of a client."""
    engine = Engine(OK, OK)
    async with fronted(engine) as front:
        reader, writer = await front.connect()
        for _ in range(2):
            writer.write(GET)
            assert await asyncio.wait_for(reader.readexactly(len(OK)), 10) == OK
        writer.close()

    assert len(engine.got) == 1


async def test_answer_to_head_ends_with_its_head() -> None:
    """Its Content-Length is that of a body which does not come."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    async with fronted(Engine(answer)) as front:
        reader, writer = await front.connect()
        writer.write(b"HEAD /x HTTP/1.1\r\nHost: e\r\n\r\n")

        assert await asyncio.wait_for(reader.read(), 10) == answer
        writer.close()


async def test_client_that_leaves_is_not_worked_for() -> None:
    """The engine sees its connection end, and stops generating."""
    engine = Engine(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    async with fronted(engine) as front:
        reader, writer = await front.connect()
        writer.write(GET)
        await reader.readuntil(b"hi\r\n")
        writer.transport.abort()
        for _ in range(500):
            if engine.closed:
                break
            await asyncio.sleep(0.01)

    assert engine.closed == 1


async def test_engine_that_is_not_there_is_a_bad_gateway() -> None:
    """502 in OpenAI's envelope."""
    async with fronted(Engine()) as front:
        front.server.engine_port = 9

        answer = await front.ask(GET)

    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 502


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_what_is_not_http_is_refused(garbage: bytes) -> None:
    """TLS on a plain port, for one."""
    engine = Engine(OK)
    async with fronted(engine) as front:
        assert (await front.ask(garbage)).startswith(b"HTTP/1.1 400 ")

    assert engine.got == []


async def test_pipelined_request_is_not_answered_out_of_turn() -> None:
    """The first is answered and the connection closed; whoever pipelines sends the rest again."""
    async with fronted(Engine(OK, OK)) as front:
        reader, writer = await front.connect()
        writer.write(GET + GET)

        assert await asyncio.wait_for(reader.read(), 10) == OK
        writer.close()


async def test_before_readiness_the_engine_hears_nothing() -> None:
    """503 with Retry-After on every path, and the front's own pages."""
    engine = Engine(OK)
    async with fronted(engine, ready=False) as front:
        refused = await front.ask(GET)
        page = await front.ask(b"GET /startup HTTP/1.1\r\nHost: e\r\n\r\n")

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 5\r\n" in refused
    assert page.startswith(b"HTTP/1.1 200 ")
    assert engine.got == []


async def test_connection_of_the_start_serves_after_it() -> None:
    """A client that waited need not connect again."""
    async with fronted(Engine(OK), ready=False) as front:
        reader, writer = await front.connect()
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
        front.progress.ready = True
        writer.write(GET)

        assert await asyncio.wait_for(reader.readexactly(len(OK)), 10) == OK
        writer.close()


async def test_drain_waits_for_what_runs_and_closes_what_is_idle() -> None:
    """And nobody new gets in."""
    engine = Engine(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    async with fronted(engine) as front:
        idle_reader, _ = await front.connect()
        reader, writer = await front.connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")

        lost = await front.server.drain(0.2)

        assert lost == 1
        assert await asyncio.wait_for(idle_reader.read(), 10) == b""
        with pytest.raises(ConnectionRefusedError):
            await front.connect()
        writer.close()
