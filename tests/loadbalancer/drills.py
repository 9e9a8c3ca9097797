"""Faults of one replica under load, from outside: `python -m tests.loadbalancer.drills`.

The load balancer and the engines are processes; 1,000 requests are sent, and after the first 100
the fault sets in.  Prints the table of docs/benchmarks/loadbalancer.md.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.loadbalancer.drill_engines import BAD, FAULTS, POISON
from tests.loadbalancer.engine import post, request, talk
from tests.loadbalancer.started import Started, here, started

REQUESTS, BEFORE, CLIENTS = 1000, 100, 32
COUNTED = re.compile(rb"^servekit_lb_(faults|ejections)_total\{[^}]*\} ([0-9.]+)", re.MULTILINE)
POISONS = {"poison": 0.05, "poison-at-once": 0.0}
DRILLS = (*FAULTS, "stopped", "zombie", *POISONS, "descriptors", "client-errors")
# What a process that is short of descriptors may have open, and the clients that do nothing.
FEW_FILES, IDLE_CLIENTS = 160, 120


@dataclass
class DrillResult:
    """What became of the requests of a drill.

    Attributes:
        bad: answers that were none (count).
        longest_s: until the first byte of any answer.
        faults: bad answers that were blamed on replicas (count).
        ejections: times that replicas were ejected (count).
        gone: engines that do not listen any more (count).
    """

    bad: list[bytes] = field(default_factory=list)
    longest_s: float = 0.0
    faults: int = 0
    ejections: int = 0
    gone: int = 0


@asynccontextmanager
async def engines(
    count: int, fault: str
) -> AsyncIterator[tuple[list[str], asyncio.subprocess.Process]]:
    """Give the URLs of engines, and their process."""
    code = f"import sys; sys.path[:0] = {here()!r}.split(':')"
    code += "; import tests.loadbalancer.drill_engines as d"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{code}; d.asyncio.run(d.main({count}, {fault!r}))",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline()), process
    finally:
        process.kill()
        await process.wait()


async def drill(fault: str, replicas: int, workers: int) -> DrillResult:
    """Return what became of 1,000 requests, of which 900 came after the fault had set in."""
    async with (
        engines(1, fault) as (first, faulty),
        engines(replicas - 1, "") as (others, _),
    ):
        urls = first + others
        files = FEW_FILES + 2 * replicas if fault == "descriptors" else None
        options = ("--endpoints", ",".join(urls), "--workers", str(workers))
        async with started(*options, poll_s=0.2, open_files=files) as balancer:
            return await _drill(fault, balancer, faulty, urls)


async def _drill(
    fault: str, balancer: Started, faulty: asyncio.subprocess.Process, urls: list[str]
) -> DrillResult:
    result = DrillResult()
    await _load(balancer.port, BEFORE, result)
    if fault == "stopped":
        faulty.send_signal(signal.SIGSTOP)
    elif fault in POISONS:
        poisoned = asyncio.create_task(_poison(balancer.port, POISONS[fault]))
    elif fault not in ("descriptors", "client-errors"):
        faulty.send_signal(signal.SIGUSR1)
    idle = [
        await asyncio.open_connection("127.0.0.1", balancer.port)
        for _ in range(IDLE_CLIENTS if fault == "descriptors" else 0)
    ]
    if fault == "client-errors":
        await _client_errors(balancer.port)
    else:
        await _load(balancer.port, REQUESTS - BEFORE, result)
    if fault in POISONS:
        await poisoned
        result.gone = sum([await _is_gone(url) for url in urls])
    for _, writer in idle:
        writer.close()
    await _count(balancer.port, result)
    if fault == "stopped":
        faulty.send_signal(signal.SIGCONT)
    return result


async def _load(port: int, count: int, result: DrillResult) -> None:
    left = iter(range(count))

    async def client() -> None:
        for number in left:
            stream = b',"stream":true' if number % 2 else b""
            body = b'{"model":"m","prompt":"%d of this drill"%b}' % (number, stream)
            await _ask(port, body, result)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def _ask(port: int, body: bytes, result: DrillResult) -> None:
    begun_s = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(body, b"connection: close\r\n"))
        async with asyncio.timeout(30.0):
            answer = await reader.read(1)
            result.longest_s = max(result.longest_s, time.monotonic() - begun_s)
            answer += await reader.read(-1)
        writer.close()
    except (OSError, TimeoutError) as error:
        result.longest_s = max(result.longest_s, time.monotonic() - begun_s)
        answer = repr(error).encode()
    whole = b"[DONE]" in answer if b"stream" in body else b"hello" in answer
    if not answer.startswith(b"HTTP/1.1 200") or not whole:
        result.bad.append(answer[:300])


async def _poison(port: int, pause_s: float) -> None:
    """One request that engines die of, sent again and again, or without a pause all at once."""

    async def copy(number: int) -> None:
        await asyncio.sleep(number * pause_s)
        with contextlib.suppress(OSError, TimeoutError):
            await post(port, b'{"model":"m","prompt":"%b"}' % POISON)

    await asyncio.gather(*(copy(number) for number in range(20)))


async def _client_errors(port: int) -> None:
    async def client(first: int) -> None:
        for number in range(first, REQUESTS, CLIENTS):
            await post(port, b'{"model":"m","prompt":"%b %d"}' % (BAD, number))

    await asyncio.gather(*(client(first) for first in range(CLIENTS)))


async def _is_gone(url: str) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    except OSError:
        return True
    writer.close()
    return False


async def _count(port: int, result: DrillResult) -> None:
    # What another worker has seen is at most a quarter of a second old.
    await asyncio.sleep(0.3)
    text = await talk(port, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    counts = {b"faults": 0, b"ejections": 0}
    for name, count in COUNTED.findall(text):
        counts[name] += int(float(count))
    result.faults, result.ejections = counts[b"faults"], counts[b"ejections"]


HEADINGS = (
    "fault",
    "replicas",
    "workers",
    "bad of 1,000",
    "longest wait (s)",
    "faults",
    "ejections",
    "engines gone",
)


def _show(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)  # noqa: T201


async def main() -> None:
    _show(*HEADINGS)
    _show(*("---" for _ in HEADINGS))
    for fault in sys.argv[1:] or DRILLS:
        for replicas, workers in itertools.product((2, 8, 40), (1, 2)):
            result = await drill(fault, replicas, workers)
            _show(
                fault,
                replicas,
                workers,
                len(result.bad),
                f"{result.longest_s:.2f}",
                result.faults,
                result.ejections,
                result.gone,
            )
            if result.bad:
                print(result.bad[:2], file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
