"""What a load balancer adds to a first token of 2 ms: `python -m tests.loadbalancer.ttft_floor`.

An engine that answers after 2 ms, a load balancer of ours before it, and one client that asks one
request at a time, by turns directly and through it.  All three are processes of their own.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import typer
import uvloop

from servekit.cli.program import run_program
from tests.loadbalancer.engine import EVENT, Engine, chunk, request
from tests.loadbalancer.started import here, started

BODY = b'{"model":"m","prompt":"x","stream":true}'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Punctual(Engine):
    """Its first event comes *ttft_s* after the request, by spinning where a sleep would be late."""

    ttft_s = 0.002

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader
        due_s = time.perf_counter() + self.ttft_s
        while time.perf_counter() < due_s:  # noqa: ASYNC110
            await asyncio.sleep(0)
        writer.write(_HEAD + chunk(EVENT) + _END)


async def engine(ttft_s: float) -> None:
    """Serve until killed; say the port first."""
    punctual = Punctual()
    punctual.ttft_s = ttft_s
    server = await asyncio.start_server(punctual.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


@asynccontextmanager
async def engine_process(ttft_s: float) -> AsyncIterator[int]:
    """Give the port of an engine."""
    code = f"import tests.loadbalancer.ttft_floor as t; t.uvloop.run(t.engine({ttft_s}))"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = {here()!r}.split(':'); {code}",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def first_tokens(port: int, count: int) -> list[float]:
    """Return how long each of *count* requests on one connection took to its first byte, in ms."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    taken_ms = []
    for _ in range(count):
        sent_s = time.perf_counter()
        writer.write(request(BODY))
        got = await reader.read(65536)
        taken_ms.append(1e3 * (time.perf_counter() - sent_s))
        while not got.endswith(b"0\r\n\r\n"):
            got += await reader.read(65536)
    writer.close()
    return taken_ms


async def measure(ttft_s: float, requests: int, options: Sequence[str]) -> dict[str, list[float]]:
    """Return the times to the first byte, directly and through `managed` with *options*."""
    async with engine_process(ttft_s) as port:
        url = f"http://127.0.0.1:{port}"
        async with started("--endpoints", url, *options, poll_s=0.2) as balancer:
            ports = {"direct": port, "managed": balancer.port}
            taken: dict[str, list[float]] = {name: [] for name in ports}
            # By turns: the machine's mood is then the same for both.
            for _ in range(10):
                for name, at in ports.items():
                    taken[name] += await first_tokens(at, requests // 10)
    return taken


app = typer.Typer(add_completion=False)


@app.command()
def main(
    ttft_ms: Annotated[float, typer.Option(help="what the engine takes")] = 2.0,
    requests: Annotated[int, typer.Option(help="of each kind")] = 2000,
    policy: Annotated[str, typer.Option(help="routing policy")] = "latency",
) -> None:
    """Print a table of times to the first byte."""
    taken = uvloop.run(measure(ttft_ms / 1e3, requests, ["--policy", policy]))
    typer.echo("| | TTFT p50, ms | p99 |\n|---|---|---|")
    for name, times_ms in taken.items():
        cuts = statistics.quantiles(times_ms, n=100)
        typer.echo(f"| {name} | {cuts[49]:.3f} | {cuts[98]:.3f} |")


if __name__ == "__main__":
    run_program(app)
