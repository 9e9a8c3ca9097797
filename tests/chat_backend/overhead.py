"""What the chat backend adds to the engine's answer: `python -m tests.chat_backend.overhead`.

Engine (simulated, a thousand times as fast), backend and client are processes of their own.  Asked
in turn and one at a time, so that both see the same machine.  Prints one JSON object; milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass

import aiohttp

from servekit.launch.port import free_port
from tests.chat_backend.services import MODEL
from tests.support.programs import program

REQUESTS, WARM_UP = 1000, 100
MESSAGE, MAX_TOKENS = "x" * 512, 16


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to ask for the same answer."""

    url: str
    body: dict[str, object]


def arms(engine: str, chat: str, stream: bool) -> dict[str, Arm]:
    asked = {"max_tokens": MAX_TOKENS, "stream": stream}
    messages = [{"role": "user", "content": MESSAGE}]
    direct = {"model": MODEL, "messages": messages, **asked}
    return {
        "engine": Arm(engine + "/v1/chat/completions", direct),
        "backend": Arm(chat + "/chat", {"message": MESSAGE, **asked}),
    }


async def timed(http: aiohttp.ClientSession, arm: Arm) -> tuple[float, float]:
    """Return the milliseconds to the first byte of the body and to the last."""
    began = time.perf_counter()
    async with http.post(arm.url, json=arm.body) as answer:
        await answer.content.readany()
        first = time.perf_counter()
        await answer.read()
        assert answer.status == 200, answer.status
    return (first - began) * 1000, (time.perf_counter() - began) * 1000


async def measured(compared: dict[str, Arm]) -> dict[str, list[tuple[float, float]]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in compared}
    async with aiohttp.ClientSession() as http:
        for number in range(REQUESTS + WARM_UP):
            for name, arm in compared.items():
                taken = await timed(http, arm)
                if number >= WARM_UP:
                    times[name].append(taken)
    return times


def table(times: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Quantiles of each arm, and of the differences between neighbours."""
    pairs = list(zip(times["engine"], times["backend"], strict=True))
    added = [(late[0] - early[0], late[1] - early[1]) for early, late in pairs]
    return {
        name: {
            "first_byte_ms": quantiles([first for first, _ in values]),
            "last_byte_ms": quantiles([last for _, last in values]),
        }
        for name, values in {**times, "added": added}.items()
    }


def quantiles(values: list[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(values, n=100)
    return {"p50": round(hundredths[49], 3), "p99": round(hundredths[98], 3)}


def main() -> None:
    simulator = ("simulator.main", "--ports", "auto", "--only", MODEL, "--speed", "1000")
    port = str(free_port())
    with program(*simulator) as fleet:
        engine = next(iter(fleet["replicas"].values()))
        environ = {"ENGINE_URL": engine, "MODEL_NAME": MODEL, "PORT": port}
        with program("chat_backend.main", RATE_LIMIT_PER_MINUTE="0", **environ):
            chat = f"http://127.0.0.1:{port}"
            results = {
                name: table(asyncio.run(measured(arms(engine, chat, stream))))
                for name, stream in (("whole", False), ("streamed", True))
            }
    sys.stdout.write(json.dumps({"requests": REQUESTS, **results}, indent=2) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
