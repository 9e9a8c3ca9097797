"""What the front adds to a request: `python -m tests.cloudrun.relay_latency`.

Front and engine are processes of their own, and so is this client.  Requests leave on a schedule,
whether or not the ones before are answered, to the engine itself and through the front in blocks
that take turns, so that both see the same machine.  Prints one JSON object; times in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from servekit.client.client import Client
from servekit.timing.clock import SystemClock
from tests.cloudrun import instant_engine
from tests.cloudrun.container import container
from tests.support.container_program import MODEL, write_snapshot

RATE_PER_S = 500
BLOCK_S = 2.0
BLOCKS = 10
BODY = json.dumps({"model": MODEL, "prompt": "x" * 512, "max_tokens": 16}).encode()


async def _block(client: Client, clock: SystemClock, seconds: float) -> list[float]:
    """Send for *seconds*; return how long each request took from its sending, in ms."""
    began_s = clock.now()
    tasks = []
    for number in range(int(RATE_PER_S * seconds)):
        await clock.sleep(began_s + number / RATE_PER_S - clock.now())
        tasks.append(asyncio.create_task(_time(client, clock)))
    return await asyncio.gather(*tasks)


async def _time(client: Client, clock: SystemClock) -> float:
    began_s = clock.now()
    outcome = await client.send("/v1/completions", BODY, stream=False)
    taken_s = clock.now() - began_s
    assert outcome.ok, outcome
    return taken_s * 1000


async def main() -> None:
    clock = SystemClock()
    engine = f"{sys.executable} {instant_engine.__file__}"
    with TemporaryDirectory() as folder:
        write_snapshot(Path(folder) / "hf")
        async with container(Path(folder), SKIP_PREWARM="1", ENGINE_COMMAND=engine) as running:
            url = await running.url()
            line = await running.logged('"engine starting"')
            port = json.loads(line)["command"].partition("--port ")[2].split()[0]
            arms = {
                "direct": Client(f"http://127.0.0.1:{port}", clock),
                "front": Client(url, clock),
            }
            times: dict[str, list[float]] = {name: [] for name in arms}
            for client in arms.values():
                await _block(client, clock, 0.5)
            for _ in range(BLOCKS):
                for name, client in arms.items():
                    times[name] += await _block(client, clock, BLOCK_S)
            for client in arms.values():
                await client.aclose()
            # The container ends its engine; who only kills the one leaves the other behind.
            running.terminate()
            await running.ended()
    sys.stdout.write(json.dumps(_table(times)) + "\n")


def _table(times: dict[str, list[float]]) -> dict[str, object]:
    table = {
        name: {
            "p50": round(statistics.median(values), 3),
            "p90": round(statistics.quantiles(values, n=10)[8], 3),
            "p99": round(statistics.quantiles(values, n=100)[98], 3),
        }
        for name, values in times.items()
    }
    direct, front = table["direct"]["p50"], table["front"]["p50"]
    return {
        "rate_per_s": RATE_PER_S,
        "requests": len(times["front"]),
        **table,
        "added_p50": round(front - direct, 3),
        "ratio_p50": round(front / direct, 2),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    uvloop.run(main())
