"""What the load balancer's own code costs, without sockets: `python -m tests.loadbalancer.cost`.

CPU per request and per chunk of a stream, the best of some rounds: it says the same on a machine
that does other things besides.  The kernel and uvloop come on top; docs/benchmarks/loadbalancer.md
has the sum.  Spans go to a collector that is a process of its own; what sending them costs counts.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from random import Random

import uvloop

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.observe.tracing import Tracing
from loadbalancer.server.handlers import RequestHandlers
from loadbalancer.workers.shared_stats import WorkerStats
from servekit.relay.client_connection import ClientConnection, ClientSet
from servekit.relay.engine_connection import EngineConnection
from servekit.relay.upstream_pool import UpstreamPool
from servekit.timing.clock import SystemClock
from servekit.wire.address import read_address
from tests.loadbalancer.engine import EVENT, WHOLE, chunk, request, whole
from tests.loadbalancer.started import here

CLIENTS = 64
TURNS = 60
ROUNDS = 15
CHUNKS = 50
# Fewer than the SDK's queue holds, and a pause in which they are sent.
TRACED_TURNS = 8
PAUSE_S = 1.0

# As a client and vLLM's server write them.  No two at a time are alike, nor like those of late.
REQUESTS = cycle(
    [
        request(
            b'{"model":"m","prompt":"hello there, this is %05d","max_tokens":16}' % number,
            b"content-type: application/json\r\nuser-agent: x\r\naccept: */*\r\n",
        )
        for number in range(20_000)
    ]
)
ANSWER = whole(
    WHOLE,
    lines=b"date: Sat, 21 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: application/json\r\n",
)
STREAM = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
EVENT_CHUNK, LAST_CHUNK = chunk(EVENT), b"0\r\n\r\n"


class Wire(asyncio.Transport):
    """Takes whatever is written."""

    def write(self, data: object) -> None:
        pass

    def writelines(self, pieces: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class Warm(UpstreamPool):
    """Always has an idle connection, and keeps those that it gave."""

    def __init__(self, given: list[EngineConnection]) -> None:
        super().__init__(read_address("http://127.0.0.1:9"), 1.0)
        self._given = given
        self._spare: list[EngineConnection] = []

    def idle(self) -> EngineConnection:
        if self._spare:
            connection = self._spare.pop()
        else:
            connection = EngineConnection(self._spare.append)
            connection.connection_made(Wire())
        self._given.append(connection)
        return connection


def house(
    policy: str, given: list[EngineConnection], tracing: Tracing | None = None
) -> list[ClientConnection]:
    """Return the clients of a load balancer over two engines, whose connections come to *given*."""
    balancer = Balancer(Rules(policy=policy), Random(0), SystemClock().now)
    for name in ("r0", "r1"):
        balancer.add(name, "http://127.0.0.1:9", ("m",)).upstream = Warm(given)
    handlers = RequestHandlers(balancer, WorkerStats(balancer))
    handlers.tracing = tracing
    clients = ClientSet()
    connections = [ClientConnection(handlers, clients) for _ in range(CLIENTS)]
    for connection in connections:
        connection.connection_made(Wire())
    return connections


def ask(clients: list[ClientConnection], given: list[EngineConnection]) -> list[EngineConnection]:
    """Let every client send a request; return the connections on which the engines have them."""
    given.clear()
    for client in clients:
        client.data_received(next(REQUESTS))
    return list(given)


def answer_all(clients: list[ClientConnection], given: list[EngineConnection]) -> int:
    """Have every client answered; return how many were."""
    for connection in ask(clients, given):
        connection.data_received(ANSWER)
    return CLIENTS


def stream_all(clients: list[ClientConnection], given: list[EngineConnection]) -> int:
    """Have every client answered by a stream; return how many chunks were relayed."""
    connections = ask(clients, given)
    for piece in (STREAM, *(EVENT_CHUNK for _ in range(CHUNKS)), LAST_CHUNK):
        for connection in connections:
            connection.data_received(piece)
    return CLIENTS * CHUNKS


def seconds(
    policy: str, work: Callable[[list[ClientConnection], list[EngineConnection]], int]
) -> float:
    """Return the CPU time of one unit of *work*, the best of some rounds."""
    given: list[EngineConnection] = []
    clients = house(policy, given)
    best = float("inf")
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        units = sum(work(clients, given) for _ in range(TURNS))
        best = min(best, (time.process_time() - begun_s) / units)
    return best


@contextmanager
def collector() -> Iterator[str]:
    """Give the URL of a collector."""
    code = f"import sys; sys.path[:0] = {here()!r}.split(':'); import tests.loadbalancer.otlp as o"
    command = [sys.executable, "-c", f"{code}; o.asyncio.run(o.serve())"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def traced_seconds(url: str, share: str) -> float:
    """Return the CPU time of a request under `latency`, with a span of each or of a *share*."""
    os.environ["OTEL_TRACES_SAMPLER"] = "traceidratio"
    os.environ["OTEL_TRACES_SAMPLER_ARG"] = share
    given: list[EngineConnection] = []
    epoch_s = time.time() - time.monotonic()
    tracing = Tracing(f"{url}/v1/traces", ("127.0.0.1", 9), epoch_s)
    clients = house("latency", given, tracing)
    best = float("inf")
    for _ in range(ROUNDS):
        begun_s = time.process_time()
        units = sum(answer_all(clients, given) for _ in range(TRACED_TURNS))
        time.sleep(PAUSE_S)
        best = min(best, (time.process_time() - begun_s) / units)
    tracing.close()
    return best


async def main() -> None:
    for policy in ("round-robin", "least-inflight", "queue", "prefix", "latency"):
        whole_us, chunk_us = (1e6 * seconds(policy, work) for work in (answer_all, stream_all))
        print(f"{policy:16}{whole_us:8.2f} us a request{chunk_us:8.2f} us a chunk")  # noqa: T201
    with collector() as url:
        for share in ("0.01", "1"):
            traced_us = 1e6 * traced_seconds(url, share)
            print(f"latency, {share} of all traced:{traced_us:8.2f} us a request")  # noqa: T201


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    uvloop.run(main())
