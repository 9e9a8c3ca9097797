"""Bytes between a client and the one engine there is, through a real front on loopback."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.relay.client_connection import ConnectionLimits
from servekit.relay.responses import refuse
from servekit.relay.upstream_pool import UpstreamPool
from servekit.wire.address import Address
from tests.support.raw_engine import GET, LIMIT_S, OK, Dying, Engine, ask, fronted
from tests.support.waiting import until


async def test_answer_is_passed_on_byte_for_byte() -> None:
    """Head and body, whatever the engine says."""
    answer = b"HTTP/1.1 418 Teapot\r\nX-Odd:  kept \r\nContent-Length: 3\r\n\r\n\x00\xff\n"
    async with fronted(Engine(answer)) as client:
        assert await client.ask(GET) == answer


async def test_request_is_passed_on_without_what_concerns_the_connection() -> None:
    """Path, query, headers and body stay; Host, Connection and the length are the engine's."""
    engine = Engine(OK)
    request = (
        b"POST /v1/x?a=%20b HTTP/1.1\r\nHost: example\r\nConnection: keep-alive, X-Hop\r\n"
        b"X-Hop: 1\r\nAuthorization: Bearer k\r\nContent-Length: 4\r\n\r\nbody"
    )
    async with fronted(engine) as client:
        await client.ask(request)

    got = bytes(engine.got[0])
    assert got.startswith(b"POST /v1/x?a=%20b HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"Authorization: Bearer k\r\n" in got
    assert b"Connection" not in got
    assert b"X-Hop" not in got
    assert got.endswith(b"content-length: 4\r\n\r\nbody")


async def test_request_without_a_body_states_no_length() -> None:
    """A GET that states one is odd enough for some servers to refuse it."""
    engine = Engine(OK)
    async with fronted(engine) as client:
        await client.ask(GET)

    assert b"content-length" not in bytes(engine.got[0])


async def test_chunked_request_arrives_with_its_length() -> None:
    """It is whole before it is sent."""
    engine = Engine(OK)
    request = (
        b"POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with fronted(engine) as client:
        assert await client.ask(request) == OK

    assert bytes(engine.got[0]).endswith(b"content-length: 3\r\n\r\nabc")


@given(cuts=st.lists(st.integers(1, 60), max_size=6))
def test_request_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    """A network cuts where it likes."""
    request = b"POST /x HTTP/1.1\r\nHost: e\r\nContent-Length: 10\r\n\r\n0123456789"

    async def sent_in_pieces() -> bytes:
        engine = Engine(OK)
        async with fronted(engine) as client:
            reader, writer = await client.connect()
            rest = request
            for cut in cuts:
                writer.write(rest[:cut])
                await writer.drain()
                rest = rest[cut:]
                await asyncio.sleep(0)
            writer.write(rest)
            await asyncio.wait_for(reader.readexactly(len(OK)), LIMIT_S)
        return bytes(engine.got[0])

    assert asyncio.run(sent_in_pieces()).endswith(b"content-length: 10\r\n\r\n0123456789")


async def test_connection_is_kept_for_the_next_request() -> None:
    """On both sides: one connection to the engine for one of a client."""
    engine = Engine(OK, OK)
    async with fronted(engine) as client:
        reader, writer = await client.connect()
        for _ in range(2):
            writer.write(GET)
            assert await asyncio.wait_for(reader.readexactly(len(OK)), LIMIT_S) == OK

    assert len(engine.got) == 1


async def test_pipelined_requests_are_answered_in_turn() -> None:
    """The second is sent once the first is answered."""
    other = OK.replace(b"ok", b"OK")
    async with fronted(Engine(OK, other)) as client:
        reader, writer = await client.connect()
        writer.write(GET + GET)

        whole = await asyncio.wait_for(reader.readexactly(2 * len(OK)), LIMIT_S)

    assert whole == OK + other


async def test_request_that_met_the_end_of_an_idle_connection_is_sent_again() -> None:
    """The engine closed it at that moment; that is no fault, and the client hears of nothing."""
    engine = Engine(OK, OK, closes_after=1)
    async with fronted(engine) as client:
        reader, writer = await client.connect()
        for _ in range(2):
            writer.write(GET)
            assert await asyncio.wait_for(reader.readexactly(len(OK)), LIMIT_S) == OK

    assert [got.count(b"GET") for got in engine.got] == [2, 1]


async def test_connections_that_a_burst_has_left_are_closed() -> None:
    """Each is a file that is open here and at the engine; the next request finds them out."""
    engine = Engine(*[OK] * 8)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream = UpstreamPool(Address("127.0.0.1", port), 2.0, idle_limit_s=0.0)

    await asyncio.gather(*(upstream.fetch("/", LIMIT_S) for _ in range(8)))
    await until(lambda: engine.closed == 8)

    server.close()


async def test_request_that_the_engine_dies_of_is_sent_twice_at_most() -> None:
    """Once on a connection that was idle, once on a new one; not down all that are idle."""
    engine = Fragile()
    async with fronted(engine) as client:
        await asyncio.gather(*(client.ask(GET) for _ in range(8)))
        engine.dies = True
        answer = await client.ask(GET)

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert engine.died == 2


class Fragile(Engine):
    """Answers eight requests together, so that each has a connection; then dies of every one."""

    def __init__(self) -> None:
        super().__init__()
        self._all_here = asyncio.Barrier(8)
        self.dies = False
        self.died = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if not self.dies:
            await self._all_here.wait()
            writer.write(OK)
            if not await reader.read(1):
                return
        self.died += 1
        writer.transport.abort()


async def test_malformed_chunks_end_the_answer_of_an_old_client() -> None:
    """It is cut where it cannot be read on, and nothing is raised into the event loop."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    # What is too much reads like the size of another chunk, if nobody looks closely.
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n"
    async with fronted(Engine(chunked)) as client:
        reader, writer = await client.connect()
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"abcdef" not in await asyncio.wait_for(reader.read(), LIMIT_S)

    assert raised == []


async def test_answer_to_head_ends_with_its_head() -> None:
    """Its Content-Length is that of a body which does not come, and the connection lives on."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    async with fronted(Engine(answer, OK)) as client:
        reader, writer = await client.connect()
        writer.write(b"HEAD /x HTTP/1.1\r\nHost: e\r\n\r\n")
        assert await asyncio.wait_for(reader.readexactly(len(answer)), LIMIT_S) == answer
        writer.write(GET)
        assert await asyncio.wait_for(reader.readexactly(len(OK)), LIMIT_S) == OK


async def test_client_of_http_1_0_gets_no_chunks() -> None:
    """It would take their sizes for text."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    async with fronted(Engine(chunked)) as client:
        answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")

    assert answer.endswith(b"connection: close\r\n\r\nhi")


async def test_client_that_leaves_is_not_worked_for() -> None:
    """The engine sees its connection end, and stops generating."""
    engine = Engine(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    async with fronted(engine) as client:
        reader, writer = await client.connect()
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"hi\r\n"), LIMIT_S)
        writer.transport.abort()

        await until(lambda: engine.closed == 1)


async def test_engine_that_is_not_there_is_a_bad_gateway() -> None:
    """502 in OpenAI's envelope."""
    engine = Engine()
    async with fronted(engine) as client:
        client.host.upstream = UpstreamPool(Address("127.0.0.1", 9), 2.0)

        answer = await client.ask(GET)

    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 502


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n"],
    ids=["nothing", "half a head", "not HTTP"],
)
async def test_engine_that_dies_before_it_answers_is_a_bad_gateway(answer: bytes) -> None:
    """Nothing is out yet, so the client can be told."""
    async with fronted(Dying(answer)) as client:
        assert (await client.ask(GET)).startswith(b"HTTP/1.1 502 ")


async def test_engine_that_dies_within_its_answer_ends_the_connection() -> None:
    """A cut answer must not look like a whole one."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    async with fronted(Dying(cut)) as client:
        answer = await _until_closed(client.port)

    assert not answer.endswith(b"0123456789")


async def _until_closed(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    answer = b""
    try:
        async with asyncio.timeout(LIMIT_S):
            while piece := await reader.read(65536):
                answer += piece
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return answer


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\n", b"GET\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_what_is_not_http_is_refused(garbage: bytes) -> None:
    """TLS on a plain port, for one."""
    engine = Engine(OK)
    async with fronted(engine) as client:
        assert (await client.ask(garbage)).startswith(b"HTTP/1.1 400 ")

    assert engine.got == []


async def test_body_beyond_the_limit_is_refused_unread() -> None:
    """413, before the engine hears of it."""
    engine = Engine(OK)
    async with fronted(engine, ConnectionLimits(max_body_bytes=10)) as client:
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 11\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert engine.got == []


async def test_silent_engine_is_given_up() -> None:
    """504, once it has been silent for as long as the host allows."""
    engine = Engine(b"")
    async with fronted(engine, ConnectionLimits(answer_timeout_s=0.1)) as client:
        answer = await client.ask(GET)
        await until(lambda: engine.closed == 1)

    assert answer.startswith(b"HTTP/1.1 504 ")


async def test_refused_request_is_not_sent() -> None:
    """And its body is not waited for."""
    engine = Engine(OK)
    async with fronted(engine) as client:
        client.host.refused = refuse(401, "no")
        answer = await ask(client.port, b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert engine.got == []


async def test_drain_waits_for_what_runs_and_closes_what_is_idle() -> None:
    """Then says how many were not done, and nobody new gets in."""
    engine = Engine(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    async with fronted(engine) as client:
        idle_reader, _ = await client.connect()
        reader, writer = await client.connect()
        writer.write(GET)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_S)

        client.host.draining = True
        lost = await client.listener.drain(1.0)

        assert lost == 1
        assert await asyncio.wait_for(idle_reader.read(), LIMIT_S) == b""
        with pytest.raises(ConnectionRefusedError):
            await client.connect()
