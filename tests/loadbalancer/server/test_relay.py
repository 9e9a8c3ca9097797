"""What a client sees of requests that are relayed, and of engines that fail."""

import asyncio
import json

import pytest

from loadbalancer.balancing.health import HealthRules
from tests.loadbalancer.engine import (
    EVENT,
    WHOLE,
    Engine,
    Held,
    chunk,
    post,
    request,
    running,
    talk,
)
from tests.support.waiting import until

STREAM = b'{"model":"m","prompt":"x","stream":true}'


def status(answer: bytes) -> int:
    return int(answer[9:12])


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def test_whole_answer_is_passed_on_with_who_served_it() -> None:
    """The body is the engine's, byte for byte; two headers are added."""
    async with running(Engine()) as (_, port):
        answer = await post(port)

    assert status(answer) == 200
    assert body(answer) == WHOLE
    assert b"x-servekit-replica: r0\r\n" in answer
    assert b"x-servekit-policy: round-robin\r\n" in answer


async def test_stream_is_passed_on_byte_for_byte() -> None:
    """Chunks are neither cut nor joined differently."""
    async with running(Engine("stream", events=50)) as (_, port):
        answer = await post(port, STREAM)

    assert body(answer) == chunk(EVENT) * 50 + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def test_requests_on_one_connection_take_turns() -> None:
    """Keep-alive, and pipelining, in order."""
    engines = Engine(), Engine()
    async with running(*engines) as (_, port):
        last = request(lines=b"connection: close\r\n")
        answer = await talk(port, request() * 3 + last)

    assert answer.count(b"HTTP/1.1 200") == 4
    assert [len(engine.bodies) for engine in engines] == [2, 2]


async def test_engine_sees_the_request_without_hop_by_hop_headers() -> None:
    """What concerns the client's connection ends there."""
    engine = Engine()
    async with running(engine) as (_, port):
        lines = (
            b"connection: close, x-private\r\nx-private: 1\r\nkeep-alive: 5\r\ntraceparent: t\r\n"
        )
        await post(port, lines=lines)

    head = engine.heads[0]
    assert b"traceparent: t\r\n" in head
    assert b"x-private" not in head
    assert b"keep-alive" not in head
    assert head.count(b"host: ") == 1


async def test_chunked_request_arrives_with_its_length() -> None:
    """The engine gets the same bytes, in one piece."""
    engine = Engine()
    sent = b'{"model":"m","prompt":"chunked"}'
    async with running(engine) as (_, port):
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        pieces = chunk(sent[:7]) + chunk(sent[7:]) + b"0\r\n\r\n"
        answer = await talk(port, head + b"transfer-encoding: chunked\r\n\r\n" + pieces)

    assert status(answer) == 200
    assert engine.bodies == [sent]


@pytest.mark.parametrize("script", ["stream", "whole"])
async def test_http_1_0_client_gets_the_end_of_the_connection(script: str) -> None:
    """It could not read chunks; one that asks to be kept alive would wait for a word of it."""
    async with running(Engine(script, events=3)) as (_, port):
        head = b"POST /v1/completions HTTP/1.0\r\nconnection: keep-alive\r\n"
        answer = await talk(port, head + b"content-length: %d\r\n\r\n" % len(STREAM) + STREAM)

    assert body(answer) == (WHOLE if script == "whole" else EVENT * 3 + b"data: [DONE]\n\n")
    assert b"transfer-encoding" not in answer
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b'{"model":"nope"}', 404),
        (b'{"prompt":"x"}', 400),
        (b'{"model":"m"', 400),
        (b"[1]", 400),
        (b'{"model":7}', 400),
        (b'{"model":"m","prompt":"' + b"x" * 2000 + b'"}', 413),
    ],
)
async def test_wrong_request_is_refused_in_openais_envelope(sent: bytes, expected: int) -> None:
    """With a status that says who must act."""
    async with running(Engine(), max_body_bytes=1000) as (_, port):
        answer = await post(port, sent)

    assert status(answer) == expected
    assert json.loads(body(answer))["error"]["code"] == expected


class Slow(Engine):
    """Answers after 20 ms."""

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        await super()._complete(reader, writer)


async def test_error_that_comes_quickly_attracts_nobody() -> None:
    """`latency` learns nothing from it: a replica is not fast because it refuses."""
    right = Slow()
    async with running(Engine("400"), right, policy="latency") as (_, port):
        for _ in range(100):
            await post(port)

    assert len(right.bodies) > 25


async def test_dead_engine_costs_no_request() -> None:
    """Before the first byte another replica is asked; the dead one is taken out."""
    async with running(Engine("die"), Engine()) as (balancer, port):
        answers = [await post(port) for _ in range(12)]

        assert [status(answer) for answer in answers] == [200] * 12
        assert balancer.replicas["r0"].health.ejections == 1
        assert balancer.telemetry.retries["failed"] <= 4


async def test_ejected_replica_gets_one_request_on_trial() -> None:
    """However many arrive when its time is over; the next only when that one has ended."""
    sick = Engine("die")
    rules = HealthRules(faults_to_eject=1, eject_s=0.01)
    async with running(sick, Engine(), Engine(), health=rules) as (balancer, port):
        while not balancer.replicas["r0"].health.ejections:
            await post(port)
        sick.script, before = "stall", len(sick.bodies)
        await until(lambda: balancer.services["m"].pool.named("r0"))
        stuck = [asyncio.create_task(post(port, wait_s=30)) for _ in range(10)]
        await until(lambda: sum(task.done() for task in stuck) == 9)
        on_trial = len(sick.bodies) - before
        sick.script = "whole"
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)
        await until(lambda: balancer.services["m"].pool.named("r0"))
        while balancer.replicas["r0"].health.troubled:
            await post(port)

        assert on_trial == 1
        assert balancer.replicas["r0"].health.state(balancer.now()) == "closed"


async def test_engine_that_dies_after_its_head_costs_no_stream() -> None:
    """The head of a stream is held until its first byte: a prompt was being read."""
    async with running(Engine("die-silent"), Engine("stream")) as (_, port):
        answers = [await post(port, STREAM) for _ in range(2)]

    assert all(b"[DONE]" in answer for answer in answers)


@pytest.mark.parametrize("script", ["die-mid-stream", "die-mid-chunk"])
async def test_stream_that_breaks_ends_with_an_error_event(script: str) -> None:
    """After the first byte nothing is replayed; the client is told, in whole chunks."""
    engines = Engine(script, events=3), Engine("stream")
    async with running(*engines) as (_, port):
        answer = await post(port, STREAM)

    told = body(answer)
    assert told.startswith(chunk(EVENT) * 3)
    # A client that knows no errors sees that the end is missing.
    assert not told.endswith(b"0\r\n\r\n")
    assert json.loads(told.split(b"data: ")[-1].split(b"\n\n")[0])["error"]["code"] == 502
    assert engines[1].bodies == []


@pytest.mark.parametrize("refusal", ["429", "503"])
async def test_replica_without_room_is_left_alone(refusal: str) -> None:
    """Another replica answers; the full one rests as long as it asked, and is not ejected."""
    full = Engine(refusal)
    async with running(full, Engine()) as (balancer, port):
        answers = [await post(port) for _ in range(8)]

        assert [status(answer) for answer in answers] == [200] * 8
        assert len(full.bodies) == 1
        assert balancer.replicas["r0"].health.ejections == 0


async def test_refusal_of_every_replica_reaches_the_client() -> None:
    """With the Retry-After of the engine that was asked last."""
    async with running(Engine("429"), Engine("429")) as (_, port):
        answer = await post(port)

    assert status(answer) == 429
    assert b"retry-after: 7\r\n" in answer


async def test_fleet_that_is_full_says_when_it_is_not() -> None:
    """Nobody is asked before; and another balancer could not do better."""
    full = Engine("429")
    async with running(full) as (_, port):
        await post(port)
        answer = await post(port)
        ready = await talk(port, b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert status(answer) == 503
    assert b"retry-after: 7\r\n" in answer
    assert b"at its limit" in answer
    assert status(ready) == 200
    assert len(full.bodies) == 1


async def test_request_that_engines_die_of_is_not_sent_for_ever() -> None:
    """Connections that had been idle are no proof of innocence, however many there are."""
    engines = Held(), Held()
    async with running(*engines) as (balancer, port):
        warm = [asyncio.create_task(post(port)) for _ in range(20)]
        await until(lambda: sum(len(engine.bodies) for engine in engines) == 20)
        for engine in engines:
            engine.go.set()
        await asyncio.gather(*warm)
        for engine in engines:
            engine.script = "die"
        answer = await post(port)
        idle = [replica.upstream.idle() for replica in balancer.replicas.values()]

    assert status(answer) == 502
    assert all(idle)
    assert sum(len(engine.bodies) for engine in engines) == 20 + 3


async def test_client_errors_do_not_eject() -> None:
    """4xx says nothing about the replica."""
    async with running(Engine("400")) as (balancer, port):
        answers = [await post(port) for _ in range(10)]

        assert {status(answer) for answer in answers} == {400}
        assert balancer.replicas["r0"].health.ejections == 0


async def test_client_that_leaves_cancels_the_engine() -> None:
    """Nobody generates for nobody, and nothing stays in flight."""
    engine = Engine("endless")
    async with running(engine) as (balancer, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(STREAM))
        await reader.readuntil(b"data: ")
        writer.transport.abort()
        async with asyncio.timeout(5):
            await engine.left.wait()

        assert balancer.replicas["r0"].load.in_flight == 0


async def test_silent_engine_is_a_timeout() -> None:
    """504, after the silence that is allowed."""
    async with running(Engine("stall"), answer_timeout_s=0.1) as (_, port):
        answer = await post(port)

    assert status(answer) == 504


async def test_no_engine_is_503_and_not_ready() -> None:
    """/readyz tells whoever routes to us; /health keeps the seed's 200."""
    async with running() as (_, port):
        answer = await post(port)
        close = b"HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ready = await talk(port, b"GET /readyz " + close)
        health = await talk(port, b"GET /health " + close)

    assert (status(answer), status(ready)) == (503, 503)
    assert status(health) == 200
    assert json.loads(body(health))["healthy_endpoints"] == 0


async def test_policy_can_be_chosen_by_header() -> None:
    """An unknown one is the caller's mistake."""
    async with running(Engine()) as (_, port):
        known = await post(port, lines=b"x-servekit-policy: p2c\r\n")
        unknown = await post(port, lines=b"x-servekit-policy: best\r\n")

    assert b"x-servekit-policy: p2c\r\n" in known
    assert status(unknown) == 400


async def test_failure_after_a_refusal_is_answered() -> None:
    """One replica is full, the other dies: the client still gets an answer."""
    async with running(Engine("429"), Engine("die")) as (_, port):
        answer = await post(port)

    assert status(answer) == 502


async def test_server_errors_are_asked_about_elsewhere_and_eject() -> None:
    """No client sees them while a sibling answers; who gives them is taken out, and says why."""
    async with running(Engine("500"), Engine()) as (balancer, port):
        answers = [await post(port) for _ in range(20)]

        assert {status(answer) for answer in answers} == {200}
        assert balancer.replicas["r0"].health.ejections == 1
        assert balancer.replicas["r0"].health.ejected_for == "server_error"
        assert balancer.replicas["r1"].health.ejections == 0


def to(path: bytes, body: bytes = b'{"model":"m"}', method: bytes = b"POST") -> bytes:
    """Return a request to *path*."""
    whole = request(body, b"connection: close\r\n")
    return whole.replace(b"POST /v1/completions", method + b" " + path, 1)


@pytest.mark.parametrize(
    "path", [b"/v1/embeddings", b"/v1/responses?a=b.c%20", b"/tokenize", b"/v2/rerank", b"/pooling"]
)
async def test_whatever_asks_a_model_is_relayed(path: bytes) -> None:
    """Not only what OpenAI has, and with its query."""
    engine = Engine()
    async with running(engine) as (_, port):
        answer = await talk(port, to(path))

    assert status(answer) == 200
    assert engine.heads[0].startswith(b"POST " + path + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "path",
    [
        b"/sleep",
        b"/collective_rpc",
        b"/invocations",
        b"/v1/../collective_rpc",
        b"/v1/./../sleep",
        b"/v1/%2e%2e/sleep",
        b"/v1",
        b"//v1/completions",
    ],
)
async def test_what_rules_an_engine_is_not_relayed(path: bytes) -> None:
    """Nor what somebody on the way might read as such."""
    engine = Engine()
    async with running(engine) as (_, port):
        answer = await talk(port, to(path))

    assert status(answer) == 404
    assert engine.bodies == []


async def test_other_method_is_told_which_one_there_is() -> None:
    """In the header that clients look at."""
    async with running(Engine()) as (_, port):
        relayed = await talk(port, to(b"/v1/completions", method=b"PUT"))
        own = await talk(port, to(b"/health"))

    assert (status(relayed), status(own)) == (405, 405)
    assert b"allow: POST\r\n" in relayed
    assert b"allow: GET, HEAD\r\n" in own


async def test_models_are_listed_as_openai_lists_them() -> None:
    """Clients that are strict want every field."""
    async with running(Engine()) as (_, port):
        listed = json.loads(body(await talk(port, to(b"/v1/models", b"", b"GET"))))

    (card,) = listed["data"]
    assert {key: type(value) for key, value in card.items()} == {
        "id": str,
        "object": str,
        "created": int,
        "owned_by": str,
        "replicas": int,
    }


async def test_name_of_any_length_is_refused_in_few_words() -> None:
    """Nobody wants a megabyte back."""
    async with running(Engine()) as (_, port):
        answer = await post(port, b'{"model":"' + b"a" * 1_000_000 + b'"}')

    assert status(answer) == 404
    assert len(answer) < 1000
