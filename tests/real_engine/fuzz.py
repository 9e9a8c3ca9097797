"""Hostile requests for a real engine, each followed by a plain one.

    PYTHONPATH=src/python:. python -m tests.real_engine.fuzz cog --requests 10000
    PYTHONPATH=src/python:. python -m tests.real_engine.fuzz embeddings --requests 3000

`cog` is vLLM in the process of Cog's own server, by three doors: /predictions, and vLLM's routes
for completions and chats on the same engine.  `embeddings` is modal_embedding's front, its engine
behind it.  Promised: every hostile request is answered with a code, or is still being worked on
after HOSTILE_S and dropped; the plain one that follows is answered, in PLAIN_S on idle cores.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated

import aiohttp
import typer

from servekit.cli.program import run_program
from servekit.errors.tree import ServeError
from servekit.launch.port import free_port
from tests.cog_predictor.real_server import CONFIG, real_server
from tests.modal_embedding.real_service import KEY, local
from tests.real_engine.doors import CHAT, COMPLETIONS, EMBEDDINGS, PREDICTIONS, Door, hostile_body
from tests.real_engine.engine import READY_TIMEOUT_S, ensure_model
from tests.real_engine.environment import EngineEnvironment, ensure_environment

PLAIN_S = 2.0
# A whole context of 2048 tokens takes some seconds on two cores.
HOSTILE_S = 60.0


class Fuzzed(ServeError):
    """A promise was broken; the message has the case that broke it."""


@dataclass(frozen=True, slots=True)
class Fuzz:
    """A server under attack.

    Attributes:
        doors: with the base of their URLs.
        plain_at: the door of the plain requests.
    """

    session: aiohttp.ClientSession
    doors: Sequence[tuple[str, Door]]
    plain_at: tuple[str, Door]
    outcomes: "Counter[str]" = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    async def attack(self, seed: int, case: int) -> None:
        """Send one hostile request and a plain one.

        Raises:
            Fuzzed: a promise was broken.
        """
        rng = Random(f"{seed}-{case}")
        base, door = rng.choice(self.doors)
        body = hostile_body(door, rng)
        hostile = await self._answered(base + door.path, body, HOSTILE_S)
        self.outcomes[f"{door.path} {hostile}"] += 1
        began_s = time.monotonic()
        plain = json.dumps(self.plain_at[1].plain).encode()
        status = await self._answered(self.plain_at[0] + self.plain_at[1].path, plain, 5 * PLAIN_S)
        took_s = time.monotonic() - began_s
        self.seconds.append(took_s)
        is_answered = hostile.isdecimal() or hostile in ("dropped", "failed")
        if not is_answered or status != "200":
            raise Fuzzed(
                f"seed {seed}, case {case}, {door.path}: {hostile}; the plain request was "
                f"answered {status} after {took_s:.2f} s; the hostile one: {body[:300]!r}"
            )

    async def _answered(self, url: str, body: bytes, timeout_s: float) -> str:
        """Return the status of the answer, or why there is none."""
        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            asking = self.session.post(url, data=body, headers=headers, timeout=timeout)
            async with asking as answer:
                content = await answer.read()
                # Cog answers 200 for a prediction that failed.
                is_failed = url.endswith(PREDICTIONS.path) and b'"status":"failed"' in content
                return "failed" if answer.status == 200 and is_failed else str(answer.status)
        except TimeoutError:
            return "dropped"
        except aiohttp.ClientError as error:
            return type(error).__name__


@asynccontextmanager
async def cog_under_attack(folder: Path, vllm: EngineEnvironment) -> AsyncIterator[Fuzz]:
    port = free_port()
    environ = {"OPENAI_PORT": str(port), "OPENAI_ARGS": "--served-model-name m"}
    async with real_server(folder / "flat", vllm, CONFIG, environ) as server:
        health = await server.settled(READY_TIMEOUT_S)
        if health["status"] != "READY":
            raise Fuzzed(f"the server is not ready: {health}")
        openai = f"http://127.0.0.1:{port}"
        predictions = (server.url, PREDICTIONS)
        doors = (predictions, (openai, COMPLETIONS), (openai, CHAT))
        yield Fuzz(server.session, doors, predictions)


@asynccontextmanager
async def embeddings_under_attack(folder: Path, vllm: EngineEnvironment) -> AsyncIterator[Fuzz]:
    async with AsyncExitStack() as stack:
        service = await asyncio.to_thread(
            stack.enter_context, local(vllm, ensure_model(vllm, 1), folder / "local.log")
        )
        headers = {"Authorization": f"Bearer {KEY}"}
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        door = (service.url, EMBEDDINGS)
        yield Fuzz(session, (door,), door)


SERVERS = {"cog": cog_under_attack, "embeddings": embeddings_under_attack}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    server: Annotated[str, typer.Argument(help=f"server: {', '.join(SERVERS)}")] = "cog",
    requests: Annotated[int, typer.Option(help="hostile requests")] = 10_000,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    first: Annotated[int, typer.Option(help="number of the first case")] = 0,
) -> None:
    """Attack a server, and say what became of it."""
    asyncio.run(_fuzz(server, range(first, first + requests), seed))


async def _fuzz(server: str, cases: range, seed: int) -> None:
    vllm = ensure_environment(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        async with SERVERS[server](Path(folder), vllm) as fuzz:
            try:
                for case in cases:
                    await fuzz.attack(seed, case)
            except Fuzzed:
                await asyncio.to_thread(_tell_logs, Path(folder))
                raise
            finally:
                _tell(fuzz)


def _tell_logs(folder: Path) -> None:
    for log in folder.rglob("*.log"):
        typer.echo("\n".join(log.read_text(errors="replace").splitlines()[-60:]))


def _tell(fuzz: Fuzz) -> None:
    for outcome, count in sorted(fuzz.outcomes.items()):
        typer.echo(f"{outcome:40} {count:8}")
    took_s = sorted(fuzz.seconds)
    if len(took_s) > 1:
        p99_s = statistics.quantiles(took_s, n=100)[98]
        typer.echo(
            f"{len(took_s)} plain requests: median {statistics.median(took_s):.3f} s, "
            f"p99 {p99_s:.3f} s, max {took_s[-1]:.3f} s; "
            f"{sum(one > PLAIN_S for one in took_s)} took more than {PLAIN_S:.0f} s"
        )


if __name__ == "__main__":
    run_program(app)
