"""What the front adds to a request: `python -m tests.cloudrun.relay_latency`.

Front and engine are processes of their own; requests go to either in turn, one at a time, so that
both see the same machine.  Prints one JSON object; times in milliseconds.
"""

import asyncio
import json
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from servekit.client.client import Client
from servekit.timing.clock import SystemClock
from tests.cloudrun.container import container
from tests.support.container_program import MODEL, write_snapshot

REQUESTS = 1000
BODY = json.dumps({"model": MODEL, "prompt": "x" * 512, "max_tokens": 16}).encode()


async def _time(client: Client, clock: SystemClock) -> float:
    began = clock.now()
    outcome = await client.send("/v1/completions", BODY, stream=False)
    assert outcome.ok, outcome
    return (clock.now() - began) * 1000


async def main() -> None:
    clock = SystemClock()
    with TemporaryDirectory() as folder:
        write_snapshot(Path(folder) / "hf")
        async with container(Path(folder), SKIP_PREWARM="1") as running:
            url = await running.url()
            line = await running.logged('"engine starting"')
            port = json.loads(line)["command"].partition("--port ")[2].split()[0]
            arms = {
                "direct": Client(f"http://127.0.0.1:{port}", clock),
                "front": Client(url, clock),
            }
            times: dict[str, list[float]] = {name: [] for name in arms}
            for number in range(REQUESTS + 100):
                for name, client in arms.items():
                    taken = await _time(client, clock)
                    if number >= 100:
                        times[name].append(taken)
            for client in arms.values():
                await client.aclose()
    added = [front - direct for front, direct in zip(times["front"], times["direct"], strict=True)]
    table = {
        name: {
            "p50": round(statistics.median(values), 3),
            "p99": round(statistics.quantiles(values, n=100)[98], 3),
        }
        for name, values in {**times, "added": added}.items()
    }
    sys.stdout.write(json.dumps({"requests": REQUESTS, **table}) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
