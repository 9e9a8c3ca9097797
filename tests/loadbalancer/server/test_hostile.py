"""Hostile bytes: refused with the right status, and the server serves on."""

import asyncio
import re
from random import Random

import pytest

from loadbalancer.server.handlers import RequestHandlers
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.relay.client_connection import HEAD_TIMEOUT_S, ClientConnection, ClientSet
from tests.loadbalancer.engine import Engine, post, request, running, talk


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000, 431),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"DELETE /v1/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ],
)
async def test_hostile_request_is_refused(data: bytes, expected: int) -> None:
    """And what follows on the same connection is not read as a request."""
    engine = Engine()
    async with running(engine) as (_, port):
        answer = await talk(port, data + request())

        assert int(answer[9:12]) == expected
        assert len(re.findall(rb"HTTP/1.1 [0-9]", answer)) == 1
        assert engine.bodies == []
        assert (await post(port)).startswith(b"HTTP/1.1 200")


async def test_slow_loris_is_shown_out() -> None:
    """A head that does not come to its end is answered with 408."""
    async with running(Engine()) as (balancer, _):
        written: list[bytes] = []
        client = ClientConnection(
            RequestHandlers(balancer, WorkerStats(balancer)), clients=ClientSet()
        )
        client.connection_made(_Recording(written))
        client.data_received(b"POST /v1/completions HTTP/1.1\r\nHost:")
        client.check(balancer.now() + HEAD_TIMEOUT_S - 1)
        assert written == []
        client.check(balancer.now() + HEAD_TIMEOUT_S + 1)

    assert written[0].startswith(b"HTTP/1.1 408")


class _Recording(asyncio.Transport):
    def __init__(self, written: list[bytes]) -> None:
        super().__init__()
        self._written = written

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written.append(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass


async def test_mutated_requests_never_crash_or_hang() -> None:
    """Each gets an answer or a closed connection; the server serves on."""
    rng = Random(20261121)
    good = request() + request(b'{"model":"m","stream":true}')
    async with running(Engine()) as (balancer, port):
        for _ in range(200):
            data = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                position = rng.randrange(len(data))
                what = rng.choice([b"", b"\r", b"\n", b"\x00", b":", b"0", b"\r\n\r\n", b"\xff"])
                data[position : position + rng.randint(0, 3)] = what
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bytes(data))
            writer.write_eof()
            async with asyncio.timeout(5):
                await reader.read(-1)
            writer.close()

        assert (await post(port)).startswith(b"HTTP/1.1 200")
        assert balancer.replicas["r0"].load.in_flight == 0
