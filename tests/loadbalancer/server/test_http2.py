"""HTTP/2 in: the same answers as over HTTP/1.1, and the same guards (RFC 9113)."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from loadbalancer.balancing.balancer import Balancer
from servekit.relay.http2_stream import MOST_WAITING_BYTES
from tests.loadbalancer.engine import EVENT, WHOLE, Engine, Held, chunk, post, running, talk
from tests.loadbalancer.http2_client import BODY, Answered, Http2Client, http2_client
from tests.support.waiting import until

STREAM = b'{"model":"m","prompt":"x","stream":true}'


def in_flight(balancer: Balancer) -> int:
    return sum(replica.load.in_flight for replica in balancer.replicas.values())


async def one(port: int, body: bytes = BODY, **more: object) -> Answered:
    """Return the answer to one request on a connection of its own."""
    async with http2_client(port) as client:
        (answer,) = await client.answered(client.ask(body, **more))  # type: ignore[arg-type]
    return answer


async def test_answer_is_that_of_http_1() -> None:
    """Whole or streamed: the body without its chunks, and no header of a connection."""
    async with running(Engine("whole")) as (_, port):
        whole = await one(port)
    async with running(Engine("stream")) as (_, port):
        streamed = await one(port, STREAM)

    assert (whole.status, whole.body, whole.ended) == (200, WHOLE, True)
    assert streamed.status == 200
    assert streamed.body == 5 * EVENT + b"data: [DONE]\n\n"
    assert not {b"transfer-encoding", b"connection", b"keep-alive"} & streamed.fields.keys()
    assert b"x-servekit-policy" in streamed.fields


@pytest.mark.parametrize("at_once", [1, 33, 240])
async def test_requests_of_one_connection_do_not_wait_for_each_other(at_once: int) -> None:
    """Each has its own answer, although none is whole before all were asked."""
    engine = Held("stream")
    async with running(engine) as (balancer, port), http2_client(port) as client:
        streams = [client.ask(STREAM) for _ in range(at_once)]
        reading = asyncio.create_task(client.answered(*streams))
        await until(lambda: len(engine.bodies) == at_once)
        engine.go.set()
        answers = await reading
        await until(lambda: in_flight(balancer) == 0)

    assert all(a.ended and a.body.endswith(b"[DONE]\n\n") for a in answers)


async def test_what_we_answer_ourselves_is_the_same() -> None:
    """Models, an unknown path, a wrong method, and a HEAD without a body."""
    async with running(Engine()) as (_, port), http2_client(port) as client:
        asked = [
            client.ask(b"", path=b"/v1/models", method=b"GET"),
            client.ask(b"", path=b"/nope", method=b"GET"),
            client.ask(b"", method=b"GET"),
            client.ask(b"", path=b"/health", method=b"HEAD"),
        ]
        models, unknown, wrong, head = await client.answered(*asked)

    assert json.loads(models.body)["data"][0]["id"] == "m"
    assert (unknown.status, wrong.status, head.status, head.body) == (404, 405, 200, b"")
    assert b"allow" in wrong.fields


@pytest.mark.parametrize(
    "fields",
    [
        ((b"a", b"b\r\nx: y"),),
        ((b"a", b"b\nx: y"),),
        ((b"a\r\nx", b"y"),),
        ((b"a: b", b"c"),),
        ((b"A", b"b"),),
        ((b"a", b"\x00"),),
        ((b"transfer-encoding", b"chunked"),),
        ((b"connection", b"x-a"),),
        ((b"upgrade", b"h2c"),),
        ((b"te", b"gzip"),),
        ((b"content-length", b"1"), (b"content-length", b"26")),
        ((b"content-length", b"25"),),
        ((b"content-length", b"+26"),),
        ((b"host", b"other"),),
        ((b":path", b"/sleep"),),
        ((b":method", b"GET"),),
    ],
)
async def test_request_that_could_become_two_is_refused(
    fields: tuple[tuple[bytes, bytes], ...],
) -> None:
    """By a reset, a status or the end of the connection; no engine hears of it."""
    engine = Engine()
    async with running(engine) as (_, port):
        async with http2_client(port) as client:
            (answer,) = await client.answered(client.ask(more=fields))
        good = await one(port)

    assert answer.reset is not None or answer.status == 400 or client.closed
    assert answer.status != 200
    assert engine.bodies == [BODY]
    assert good.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"POST", b"/v1/completions HTTP/1.1\r\nhost: y"),
        (b"POST", b"http://x/v1/completions"),
        (b"POST", b"*"),
        (b"POST", b""),
        (b"POST /v1/completions HTTP/1.1\r\n\r\nPOST", b"/v1/completions"),
        (b"post", b"/v1/completions"),
        (b"CONNECT", b"/v1/completions"),
    ],
)
async def test_method_or_path_that_is_none_is_refused(method: bytes, path: bytes) -> None:
    """They become the first line of the engine's request."""
    engine = Engine()
    async with running(engine) as (_, port), http2_client(port) as client:
        (answer,) = await client.answered(client.ask(method=method, path=path))

    assert answer.status != 200
    assert engine.bodies == []


async def test_cookies_reach_nobody_as_two_headers() -> None:
    """A cookie in pieces is one header; what stands in a field stays in it."""
    engine = Engine()
    cookies = ((b"cookie", b"a=1"), (b"cookie", b"session_id=s"), (b"x-a", b"b"))
    async with running(engine, policy="session") as (_, port):
        answer = await one(port, more=cookies)

    assert answer.status == 200
    assert engine.heads[0].lower().count(b"cookie:") <= 1
    assert b"x-a: b\r\n" in engine.heads[0]


@pytest.mark.parametrize("said", [True, False])
async def test_body_beyond_the_limit_is_refused(said: bool) -> None:
    """Whether its length is said or not, and however the client goes on sending."""
    body = b"x" * 60_000
    length = ((b"content-length", b"60000"),) if said else ()
    async with running(Engine(), max_body_bytes=50_000) as (_, port), http2_client(port) as client:
        (answer,) = await client.answered(client.ask(body, more=length))
        (next_answer,) = await client.answered(client.ask())

    assert (answer.status, answer.ended) == (413, True)
    assert next_answer.status == 200


async def test_memory_for_bodies_is_limited_over_all_streams() -> None:
    """Bodies that are not whole count; they are given back when their clients leave."""
    async with running(Engine(), max_body_memory_bytes=70_000) as (_, port):
        async with http2_client(port) as client:
            for _ in range(3):
                client.ask(b"x" * 20_000, end=False)
            (refused,) = await client.answered(client.ask(b"x" * 5_000 * 3, end=False))
        await asyncio.sleep(0.1)
        good = await one(port, b'{"model":"m","prompt":"%b"}' % (b"x" * 60_000))

    assert refused.status == 503
    assert good.status == 200


async def test_reset_of_a_stream_ends_the_work_of_its_engine_alone() -> None:
    """Other requests of the connection go on."""
    engine = Engine("endless")
    async with running(engine) as (balancer, port), http2_client(port) as client:
        stream = client.ask(STREAM)
        while not client.answers[stream].body:
            await client.read()
        client.h2.reset_stream(stream, ErrorCodes.CANCEL)
        client.flush()
        await asyncio.wait_for(engine.left.wait(), 10.0)
        await until(lambda: in_flight(balancer) == 0)
        engine.script = "whole"
        (good,) = await client.answered(client.ask())

    assert good.status == 200


async def test_client_that_leaves_ends_all_its_requests() -> None:
    """Whatever they were at."""
    engine = Engine("endless")
    async with running(engine) as (balancer, port):
        async with http2_client(port) as client:
            for _ in range(20):
                client.ask(STREAM)
            await until(lambda: in_flight(balancer) == 20)
        await until(lambda: in_flight(balancer) == 0)


async def test_requests_that_are_reset_at_once_end_the_connection() -> None:
    """Rapid reset (CVE-2023-44487): a few hundred are let through, no thousands."""
    engine = Engine("endless")
    async with running(engine) as (balancer, port):
        async with http2_client(port) as client:
            for _ in range(3000):
                client.h2.reset_stream(client.ask(STREAM), ErrorCodes.CANCEL)
            client.flush()
            await client.read_until_closed()
        await until(lambda: in_flight(balancer) == 0)
        engine.script = "whole"
        good = await one(port)

    assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM
    assert good.status == 200


@pytest.mark.parametrize("what", ["ping", "settings", "empty data"])
async def test_frames_that_carry_nothing_end_the_connection(what: str) -> None:
    """They cost us an answer each, or at least a look."""
    async with running(Held()) as (_, port), http2_client(port) as client:
        stream = client.ask(b"x", end=False)
        for number in range(5000):
            if what == "ping":
                client.h2.ping(b"%08d" % number)
            elif what == "settings":
                client.h2.update_settings({SettingCodes.MAX_FRAME_SIZE: 16384 + number % 2})
            else:
                client.h2.send_data(stream, b"")
            client.flush()
        await client.read_until_closed()

    assert client.goaway == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [40_000, 400_000])
async def test_headers_beyond_the_limit_end_the_connection(size: int) -> None:
    """In one frame or in continuations without end; the next client is served."""
    many = tuple((b"x-%d" % n, b"y" * 1000) for n in range(size // 1000))
    async with running(Engine()) as (_, port):
        async with http2_client(port) as client:
            client.ask(more=many)
            await client.read_until_closed()
        good = await one(port)

    assert good.status == 200


FLOOD_EVENTS = 500


@dataclass
class Flood(Engine):
    """Streams megabytes as fast as they are taken."""

    sent: int = 0

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(FLOOD_EVENTS):
            writer.write(chunk(b'data: {"choices":[{"text":"%b"}]}\n\n' % (b"x" * 20_000)))
            await writer.drain()
            self.sent += 20_000
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def test_slow_reader_slows_its_engine_and_nobody_else() -> None:
    """What waits for it here is little; it gets everything once it reads on."""
    engine = Flood()
    async with running(engine) as (_, port), http2_client(port) as client:
        client.opens_window = False
        stream = client.ask(STREAM)
        await until(lambda: engine.sent > 0)
        reading = asyncio.create_task(client.answered(stream, wait_s=60.0))
        before = -1
        while before != engine.sent:
            before = engine.sent
            await asyncio.sleep(0.3)
        stopped_at = engine.sent
        client.opens_window = True
        client.h2.increment_flow_control_window(1 << 20)
        client.h2.increment_flow_control_window(1 << 20, stream)
        client.flush()
        (answer,) = await reading

    # The sockets' own buffers hold some megabytes.
    assert stopped_at < 20_000 * FLOOD_EVENTS - MOST_WAITING_BYTES
    assert (answer.ended, answer.reset) == (True, None)
    assert len(answer.body) > 20_000 * FLOOD_EVENTS


@pytest.mark.parametrize("script", ["die-mid-stream", "die-mid-chunk"])
async def test_answer_that_breaks_off_does_not_look_whole(script: str) -> None:
    """The client hears of the error, and the stream is reset."""
    async with running(Engine(script)) as (_, port):
        answer = await one(port, STREAM)

    assert answer.status == 200
    assert b'"error"' in answer.body
    assert (answer.ended, answer.reset) == (False, ErrorCodes.INTERNAL_ERROR)


async def test_engine_that_dies_before_its_answer_is_replaced() -> None:
    """Requests are sent elsewhere, whatever their client speaks."""
    async with running(Engine("die"), Engine("whole")) as (_, port):
        answers = [await one(port) for _ in range(4)]

    assert [a.status for a in answers] == [200] * 4


async def test_request_under_way_is_answered_while_we_leave() -> None:
    """The client is told to ask elsewhere from now on; what it asks all the same is not begun."""
    engine, balancer = Held("stream"), AsyncExitStack()
    _, port = await balancer.enter_async_context(running(engine, drain_s=10.0))
    async with http2_client(port) as client:
        stream = client.ask(STREAM)
        await until(lambda: len(engine.bodies) == 1)
        stopping = asyncio.create_task(balancer.aclose())
        async with asyncio.timeout(10.0):
            while client.goaway is None:
                await client.read()
        engine.go.set()
        (answer,) = await client.answered(stream)
        await client.read_until_closed()
        await stopping

    assert client.goaway == ErrorCodes.NO_ERROR
    assert answer.ended


async def test_upgrade_of_http_1_is_refused_here() -> None:
    """A WebSocket over HTTP/2 is another protocol (RFC 8441), which we do not announce."""
    async with running(Engine()) as (_, port), http2_client(port) as client:
        asked = client.ask(b"", path=b"/v1/realtime?model=m", method=b"GET")
        (answer,) = await client.answered(asked)
        (good,) = await client.answered(client.ask())

    assert 400 <= answer.status < 500
    assert good.status == 200


async def test_client_may_not_have_us_remember_headers_without_end() -> None:
    """Whatever size its table may have, answers are understood."""
    async with running(Engine()) as (_, port), http2_client(port) as client:
        client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 1 << 24})
        client.flush()
        answers = [(await client.answered(client.ask()))[0] for _ in range(50)]

    assert [a.status for a in answers] == [200] * 50
    assert len({a.fields[b"x-request-id"] for a in answers}) == 50


async def test_http_2_begins_with_the_first_byte_or_never() -> None:
    """Its preface after a request of HTTP/1.1 is no request."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    ask = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    async with running(Engine()) as (_, port):
        answer = await talk(port, ask + preface + b"\0\0\0\4\0\0\0\0\0")

    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 400") == 1


async def test_mutated_frames_never_crash_or_hang() -> None:
    """Each connection comes to an end, nothing stays in flight, and the next request is served."""
    rng = Random(20261128)
    raised: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: raised.append(str(c)))
    good = _recorded()
    async with running(Engine("stream")) as (balancer, port):
        for _ in range(400):
            data = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(24, len(data))
                data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 4))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(data))
            writer.write_eof()
            async with asyncio.timeout(20.0):
                await _drained(reader)
            writer.close()
        await until(lambda: in_flight(balancer) == 0)
        answer = await post(port)

    assert raised == []
    assert answer.startswith(b"HTTP/1.1 200")


async def _drained(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionError:
        return


def _recorded() -> bytes:
    """Return what a client sends for three requests, one with a body in two frames."""

    class Tape:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    tape = Tape()
    client = Http2Client(None, tape)  # type: ignore[arg-type]
    client.ask()
    stream = client.ask(b'{"model":"m",', end=False)
    client.send(stream, b'"stream":true}', end=True)
    client.ask(b"", path=b"/v1/models", method=b"GET")
    return tape.data
