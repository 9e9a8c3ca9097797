"""Hostile bytes for minutes: `python -m tests.loadbalancer.fuzz --minutes 10`.

Requests are mutated, cut at random points, aborted or half-closed, sixteen at a time, over engines
that answer, stream, die, refuse and break off.  What is promised: no exception, every connection
comes to an end, nothing stays in flight, and the next good request is answered.
"""

import asyncio
import time
from collections import Counter
from random import Random
from typing import Annotated

import typer

from loadbalancer.balancing.balancer import Balancer
from servekit.cli.program import run_program
from servekit.errors.tree import ServeError
from tests.loadbalancer.engine import Engine, chunk, post, request, running

GOOD = (
    request(),
    request(b'{"model":"m","stream":true}'),
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    + chunk(b'{"model":"m"}')
    + b"0\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /status HTTP/1.0\r\n\r\n",
)
SPLICES = (b"", b"\r", b"\n", b"\0", b":", b"0", b"\r\n\r\n", b"\xff", b"Content-Length: 5\r\n")
ENGINES = ("whole", "stream", "die-mid-stream", "die-mid-chunk", "429", "500", "die")
AT_ONCE = 16
# Beyond the longest time that a front gives anybody: 60 s for a body, and 1 s to linger.
HANG_S = 75.0


class Fuzzed(ServeError):
    """A promise was broken; the message has the seed that broke it."""


def hostile(rng: Random) -> bytes:
    """Return one to three requests with up to five wounds."""
    data = bytearray(b"".join(rng.choice(GOOD) for _ in range(rng.randint(1, 3))))
    for _ in range(rng.randint(0, 5)):
        place = rng.randrange(len(data) + 1)
        noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 30)))
        data[place : place + rng.randint(0, 6)] = rng.choice((*SPLICES, noise))
    return bytes(data)


async def attack(port: int, rng: Random) -> str:
    """Send one case in pieces; return how it went."""
    data = hostile(rng)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while data:
            cut = rng.randint(1, 400)
            writer.write(data[:cut])
            data = data[cut:]
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        if rng.random() < 0.9:
            writer.write_eof()
        else:
            writer.transport.abort()
            return "aborted"
        async with asyncio.timeout(HANG_S):
            return "answered" if await reader.read(-1) else "closed without an answer"
    except TimeoutError:
        return "hung"
    except OSError:
        return "reset"
    finally:
        writer.close()


async def fuzz(seconds: float, seed: int) -> Counter[str]:
    """Return how many cases went which way.

    Raises:
        Fuzzed: a promise was broken.
    """
    raised: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(str(context)))
    outcomes: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    async with running(*map(Engine, ENGINES), policy="latency", shadow="queue") as (balancer, port):
        while time.monotonic() < end_s:
            rngs = [Random(f"{seed}-{outcomes.total() + n}") for n in range(AT_ONCE)]
            outcomes.update(await asyncio.gather(*(attack(port, rng) for rng in rngs)))
            if raised or outcomes["hung"]:
                raise Fuzzed(f"seed {seed}, case {outcomes.total()}: {raised or 'a hang'}")
        await _settled(balancer)
        if not (await post(port)).startswith(b"HTTP/1.1 "):
            raise Fuzzed(f"seed {seed}: the next good request was not answered")
    return outcomes


async def _settled(balancer: Balancer) -> None:
    """Return once nothing is in flight any more.

    Raises:
        Fuzzed: something is, long after everybody has left.
    """
    for _ in range(1000):
        held = [replica.load.in_flight for replica in balancer.replicas.values()]
        inside = [service.admission.waiting for service in balancer.services.values()]
        if not any([*held, *inside]):
            return
        await asyncio.sleep(0.03)
    raise Fuzzed(f"in flight at the end: {held} at replicas, {inside} queued")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="for how long")] = 10.0,
    seed: Annotated[int, typer.Option(help="every choice comes from it")] = 1,
) -> None:
    """Attack a load balancer, and say what became of it."""
    outcomes = asyncio.run(fuzz(60.0 * minutes, seed))
    for outcome, count in outcomes.most_common():
        typer.echo(f"{outcome:26} {count:8}")
    typer.echo(f"{'cases':26} {outcomes.total():8}")


if __name__ == "__main__":
    run_program(app)
