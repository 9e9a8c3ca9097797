"""Answers that are bad, and whose fault that is; over engines that answer so on purpose."""

import asyncio
from dataclasses import dataclass, field

import pytest

from loadbalancer.balancing.copies import MOST_COPIES
from loadbalancer.balancing.health import HealthRules
from loadbalancer.server.answer_faults import stream_has_no_tokens
from servekit.relay.client_connection import MAX_AHEAD_BYTES
from tests.loadbalancer.engine import (
    EVENT,
    Engine,
    Held,
    chunk,
    post,
    request,
    running,
    talk,
    whole,
)
from tests.support.waiting import until

JSON = b"content-type: application/json\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
ZERO = b'{"choices":[{"text":""}],"usage":{"completion_tokens":0}}'
BAD = {
    "unauthorized": whole(b'{"error":"Unauthorized"}', 401, JSON),
    "forbidden": whole(b"{}", 403, JSON),
    "not_found": whole(b'{"error":{}}', 404, JSON),
    "server_error": whole(b"oops", 500),
    "bad_gateway": whole(b"oops", 502),
    "gateway_timeout": whole(b"oops", 504),
    "html": whole(b"<html></html>", 200, b"content-type: text/html\r\n"),
    "html_unnamed": whole(b"\n <!doctype html>", 200),
    "text": whole(b"it works", 200, b"content-type: text/plain\r\n"),
    "not_json": whole(b"oops", 200, JSON),
    "empty": whole(b"", 200, JSON),
    "empty_chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "empty_stream": STREAM_HEAD + b"0\r\n\r\n",
    "no_tokens": whole(ZERO, 200, JSON),
    "error_event": STREAM_HEAD + chunk(b'data: {"error": {"message": "x"}}\n\n') + b"0\r\n\r\n",
}


@dataclass
class Answering(Engine):
    """Answers with the same bytes, whatever it is asked."""

    answer: bytes = b""
    asked: int = 0

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        self.asked += 1
        writer.write(self.answer)


@dataclass
class Stuck(Engine):
    """Takes requests and never answers; /health is well until it is *stopped*."""

    stopped: bool = False
    begins: bool = False
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.stopped:
            await self.go.wait()
        await super().serve(reader, writer)

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.stopped:
            await self.go.wait()
        await super()._answer(head, reader, writer)

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        if self.begins:
            writer.write(STREAM_HEAD + chunk(EVENT))
            await writer.drain()
        await self.go.wait()


def status(answer: bytes) -> int:
    return int(answer[9:12])


@pytest.mark.parametrize("fault", BAD)
async def test_bad_answer_is_asked_about_elsewhere_and_counted(fault: str) -> None:
    """The client has the sibling's; after a few the replica is out, and the metric says why."""
    bad = Answering(answer=BAD[fault])
    async with running(bad, Engine()) as (balancer, port):
        answers = [await post(port) for _ in range(24)]

        assert [a for a in answers if b"hello" not in a] == []
        assert balancer.replicas["r0"].health.ejections >= 1
        assert balancer.replicas["r1"].health.ejections == 0
        assert {name for name, _ in balancer.telemetry.faults} == {"r0"}
    assert bad.asked < 12


@pytest.mark.parametrize("fault", BAD)
async def test_bad_answer_that_all_give_is_no_replicas_fault(fault: str) -> None:
    """It is what the client gets: nobody is taken out, for the request or the model is to blame."""
    engines = [Answering(answer=BAD[fault]) for _ in range(2)]
    async with running(*engines) as (balancer, port):
        answers = [await post(port) for _ in range(40)]

        assert {a.partition(b"\r\n\r\n")[2] for a in answers} == {
            BAD[fault].partition(b"\r\n\r\n")[2]
        }
        assert [r.health.ejections for r in balancer.replicas.values()] == [0, 0]


@pytest.mark.parametrize("fault", BAD)
async def test_bad_answer_of_the_only_replica_is_passed_on(fault: str) -> None:
    """There is none to compare it with."""
    async with running(Answering(answer=BAD[fault])) as (balancer, port):
        answers = [await post(port) for _ in range(12)]

        assert {status(a) for a in answers} == {int(BAD[fault][9:12])}
        assert balancer.replicas["r0"].health.ejections == 0


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_callers_mistake_is_passed_on_and_counts_against_nobody(code: int) -> None:
    """Not even where one replica alone says so."""
    engine = Answering(answer=whole(b"{}", code, JSON))
    async with running(engine, Engine()) as (balancer, port):
        answers = [await post(port) for _ in range(40)]

        assert [status(a) for a in answers].count(code) == 20
        assert balancer.telemetry.faults == {}
        assert balancer.replicas["r0"].health.ejections == 0


async def test_wrong_paths_do_not_use_up_the_retries() -> None:
    """What siblings agree about is not asked about again for a while."""
    engines = [Answering(answer=BAD["not_found"]) for _ in range(2)]
    async with running(*engines) as (balancer, port):
        for _ in range(200):
            await post(port)

        assert sum(balancer.telemetry.retries.values()) <= 5
        assert balancer.budget.spend()


def _numbered(number: int) -> bytes:
    """Return the body of a request that no other one is a copy of."""
    return b'{"model":"m","prompt":"%d"}' % number


async def test_copies_that_nothing_is_known_of_go_to_one_engine() -> None:
    """A few of them; once one was answered, the rest goes to all."""
    engines = [Held(), Held(), Held()]
    async with running(*engines, policy="round-robin") as (_, port):
        waiting = [asyncio.create_task(post(port)) for _ in range(30)]
        await until(lambda: sum(len(engine.bodies) for engine in engines) == MOST_COPIES)
        await asyncio.sleep(0.1)
        at_first = sorted(len(engine.bodies) for engine in engines)
        for engine in engines:
            engine.go.set()
        answers = await asyncio.gather(*waiting)

    assert at_first == [0, 0, MOST_COPIES]
    assert all(b"hello" in answer for answer in answers)
    assert all(len(engine.bodies) >= 5 for engine in engines)


async def test_copies_do_not_wait_for_an_answer_that_takes_long() -> None:
    """After a second the engine has shown that it lives with the request."""
    engine = Held()
    async with running(engine) as (_, port):
        waiting = [asyncio.create_task(post(port)) for _ in range(30)]
        await until(lambda: len(engine.bodies) == 30)
        engine.go.set()
        answers = await asyncio.gather(*waiting)

    assert all(b"hello" in answer for answer in answers)


async def test_requests_leave_a_replica_that_polls_gave_up() -> None:
    """At once, though nothing broke; and it is not asked again."""
    stuck, good = Stuck(), Engine()
    async with running(stuck, good, health=HealthRules(polls_to_fail=1)) as (balancer, port):
        waiting = [asyncio.create_task(post(port, _numbered(n))) for n in range(6)]
        await until(lambda: len(stuck.bodies) == 3)
        stuck.stopped = True
        async with asyncio.timeout(5.0):
            answers = await asyncio.gather(*waiting)
        stuck.go.set()

        assert all(b"hello" in answer for answer in answers)
        assert balancer.telemetry.retries["given up"] == 3


async def test_begun_stream_of_a_replica_that_is_gone_ends_with_an_error() -> None:
    """Within seconds; it cannot be sent again."""
    stuck = Stuck(begins=True)
    async with running(stuck, Engine(), health=HealthRules(polls_to_fail=1)) as (_, port):
        waiting = [asyncio.create_task(post(port, _numbered(n))) for n in range(2)]
        await until(lambda: len(stuck.bodies) == 1)
        stuck.stopped = True
        async with asyncio.timeout(8.0):
            answers = await asyncio.gather(*waiting)
        stuck.go.set()

    assert sum(b'data: {"error"' in answer for answer in answers) == 1


async def test_body_beyond_the_memory_is_refused_and_the_next_one_taken() -> None:
    """What is refused is not held; an answer that has begun has let go of its body."""
    async with running(Engine(), max_body_memory_bytes=1000) as (_, port):
        small = b'{"model":"m","prompt":"x"}'
        large = b'{"model":"m","prompt":"%b"}' % (b"x" * 2000)
        answers = [await post(port, body) for body in (small, large, small, large, small)]

    assert [status(a) for a in answers] == [200, 503, 200, 503, 200]


async def test_limit_holds_for_a_replica_over_its_models() -> None:
    """An adapter's requests are requests of the same engine."""
    engine = Stuck()
    async with running(engine, max_in_flight=2) as (balancer, port):
        balancer.serves(balancer.replicas["r0"], ("m", "adapter"))
        bodies = [b'{"model":"m"}', b'{"model":"adapter"}'] * 2
        waiting = [asyncio.create_task(post(port, body)) for body in bodies]
        await until(lambda: sum(s.admission.waiting for s in balancer.services.values()) == 2)
        held = balancer.replicas["r0"].load.in_flight
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        engine.go.set()

    assert held == 2


async def test_slow_upload_that_goes_on_is_taken() -> None:
    """In many pieces, the body is whole at the engine."""
    engine = Engine()
    body = b'{"model":"m","prompt":"%b"}' % (b"x" * 3 * MAX_AHEAD_BYTES)
    data = request(body, b"connection: close\r\n")
    async with running(engine) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start in range(0, len(data), 5000):
            writer.write(data[start : start + 5000])
            await writer.drain()
        answer = await reader.read(-1)
        writer.close()
        metrics = await talk(port, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert status(answer) == 200
    assert status(metrics) == 200
    assert engine.bodies == [body]


@pytest.mark.parametrize(
    ("pieces", "none"),
    [
        ((b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',), True),
        ((b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',), False),
        ((b'data: {"choices":[{"text":" "}]}\n\n',), False),
        ((b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n',), False),
        ((b'data: {"choices":[{"delta":{"reasoning_content":"so"}}]}\n\n',), False),
        ((b"data: [DONE]\n\n",), True),
        ((), True),
    ],
)
def test_stream_without_a_token(pieces: tuple[bytes, ...], none: bool) -> None:
    """A role alone is none; a call of a tool and a thought are."""
    assert stream_has_no_tokens(pieces) is none


async def test_error_that_every_engine_answers_is_no_reason_to_refuse_the_request() -> None:
    """A template that cannot be rendered is a 500 of all engines, and kills none of them."""
    engines = [Engine("500") for _ in range(3)]
    async with running(*engines) as (balancer, port):
        answers = [await post(port) for _ in range(3)]
        for engine in engines:
            engine.script = "whole"
        mended = await post(port)

    assert [status(answer) for answer in answers] == [500, 500, 500]
    assert status(mended) == 200
    assert all(not replica.health.ejected_for for replica in balancer.replicas.values())
