"""Engines that are killed, restarted and replaced under load: no request is lost.

The engines are processes of their own, so that kill -9 is what it says.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.membership.reloading import apply_fleet
from loadbalancer.server.server import Server
from servekit.fleet.fleet import Fleet, FleetModel, FleetReplica
from servekit.launch.port import free_port
from servekit.relay.listening import listen
from servekit.timing.clock import SystemClock
from tests.loadbalancer.engine import post

RATE = 200.0
STREAM = b'{"model":"m","prompt":"x","stream":true}'

# Half of what it serves are streams of 10 events in 0.1 s, half are whole answers.
ENGINE = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from tests.loadbalancer.engine import Engine, EVENT, chunk, WHOLE, whole
class Slow(Engine):
    async def _complete(self, reader, writer):
        if b'"stream":true' not in self.bodies[-1]:
            await asyncio.sleep(0.02)
            writer.write(whole(WHOLE))
            return
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n"
                     b"transfer-encoding: chunked\\r\\n\\r\\n")
        for _ in range(10):
            await asyncio.sleep(0.01)
            writer.write(chunk(EVENT))
        writer.write(chunk(b"data: [DONE]\\n\\n") + b"0\\r\\n\\r\\n")
async def main():
    server = await asyncio.start_server(Slow().serve, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"""


def start(port: int) -> "subprocess.Popen[bytes]":
    paths = [str(Path(entry).resolve()) for entry in sys.path if entry]
    here = str(Path(__file__).resolve().parents[2])
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(port), here, *paths])  # noqa: S603
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return engine
        time.sleep(0.02)
    raise AssertionError("the engine did not start")


@contextmanager
def engines(count: int) -> "Iterator[dict[int, subprocess.Popen[bytes]]]":
    running = {port: start(port) for port in (free_port() for _ in range(count))}
    try:
        yield running
    finally:
        for engine in running.values():
            engine.kill()
            engine.wait()


def fleet_of(ports: list[int]) -> Fleet:
    return Fleet(
        models=(FleetModel(name="m", short_name="m"),),
        replicas=tuple(
            FleetReplica(name=f"r{port}", model="m", gpus=(number,), port=port)
            for number, port in enumerate(ports)
        ),
    )


@asynccontextmanager
async def balanced(ports: list[int]) -> AsyncIterator[tuple[Balancer, Server, int]]:
    clock = SystemClock()
    balancer = Balancer(Rules(policy="queue", poll_s=0.1), Random(0), clock.now)
    apply_fleet(balancer, fleet_of(ports))
    server = Server(balancer, clock, Random(0))
    listening = listen("127.0.0.1", 0)
    await server.start(listening)
    try:
        yield balancer, server, listening.getsockname()[1]
    finally:
        await server.stop(1.0)


async def load(port: int, seconds: float) -> Counter[str]:
    """Send RATE requests a second; return what became of them."""
    start_s = time.monotonic()
    calls = []
    for number in range(int(RATE * seconds)):
        await asyncio.sleep(max(0.0, start_s + number / RATE - time.monotonic()))
        calls.append(asyncio.create_task(_call(port, stream=number % 2 == 0)))
    return Counter(await asyncio.gather(*calls))


async def _call(port: int, *, stream: bool) -> str:
    try:
        answer = await (post(port, STREAM) if stream else post(port))
    except (OSError, TimeoutError) as error:
        return f"lost: {error!r}"
    if not answer.startswith(b"HTTP/1.1 200"):
        return f"lost: {answer[:300]!r}"
    if not stream or b"[DONE]" in answer:
        return "whole"
    return "told" if b'"error"' in answer and not answer.endswith(b"0\r\n\r\n") else "cut"


async def test_killed_replica_costs_no_request_before_its_first_byte() -> None:
    """kill -9 at 200 requests a second: streams that had begun end with an error event."""
    with engines(3) as running:
        async with balanced(list(running)) as (_, _, port):
            under_way = asyncio.create_task(load(port, 2.0))
            await asyncio.sleep(0.7)
            next(iter(running.values())).send_signal(signal.SIGKILL)
            outcomes = await under_way

    report("kill -9 of a replica", outcomes)
    assert set(outcomes) <= {"whole", "told"}
    assert outcomes["whole"] > 0.9 * outcomes.total()


async def test_reload_under_load_loses_nothing() -> None:
    """Replicas leave and join while 200 requests a second arrive."""
    with engines(3) as running:
        ports = list(running)
        async with balanced(ports[:2]) as (balancer, server, port):
            under_way = asyncio.create_task(load(port, 2.0))
            for kept in (ports[1:], ports[:1], ports):
                await asyncio.sleep(0.5)
                apply_fleet(balancer, fleet_of(kept))
                server.pollers.follow()
            outcomes = await under_way

    report("reload under load", outcomes)
    assert set(outcomes) == {"whole"}


async def test_rolling_restart_loses_nothing() -> None:
    """Each replica leaves the fleet, is restarted, and joins again."""
    with engines(3) as running:
        ports = list(running)
        async with balanced(ports) as (balancer, server, port):
            under_way = asyncio.create_task(load(port, 4.0))
            for out in ports:
                apply_fleet(balancer, fleet_of([p for p in ports if p != out]))
                server.pollers.follow()
                await asyncio.sleep(0.4)
                running[out].kill()
                running[out].wait()
                running[out] = await asyncio.to_thread(start, out)
                apply_fleet(balancer, fleet_of(ports))
                server.pollers.follow()
            outcomes = await under_way

    report("rolling restart", outcomes)
    assert set(outcomes) == {"whole"}


def report(what: str, outcomes: Counter[str]) -> None:
    """Shown by pytest -s: docs/benchmarks/loadbalancer.md quotes it."""
    if os.environ.get("REPORT"):
        print(what, dict(outcomes))  # noqa: T201
