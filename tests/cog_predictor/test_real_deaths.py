"""The predictor with the real vLLM, when a part of it dies: the server ends, and says why."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from servekit.launch.keeper import descendants, read_stat
from tests.cog_predictor.cog_server import CogServer
from tests.cog_predictor.real_server import CONFIG, real_server
from tests.real_engine.engine import READY_TIMEOUT_S
from tests.real_engine.environment import environment_or_skip
from tests.real_engine.processes import engine_core_of
from tests.support.waiting import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

# The promise: by then the server is gone.
NOTICED_S = 60.0

LONG = {"prompt": "hello", "max_tokens": 1900, "min_tokens": 1900}


@dataclass(frozen=True, slots=True)
class Death:
    """Who is sent which signal, and what is said then; empty where nobody is left to say it."""

    who: str
    number: int
    said: str


DEATHS = {
    "stopped core": Death("core", signal.SIGSTOP, "is stopped, as by SIGSTOP"),
    "killed core": Death("core", signal.SIGKILL, "EngineCore was killed by signal 9"),
    "killed worker": Death("worker", signal.SIGKILL, ""),
    "killed server": Death("server", signal.SIGKILL, ""),
}


@pytest_asyncio.fixture(name="server")
async def _server(tmp_path: Path) -> AsyncIterator[CogServer]:
    async with real_server(tmp_path / "flat", environment_or_skip(os.environ), CONFIG) as server:
        health = await server.settled(READY_TIMEOUT_S)
        assert health["status"] == "READY", health["setup"]["logs"]
        # The guardian looks for new processes every two seconds.
        await asyncio.sleep(3)
        yield server


def _lives(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[0] != "Z"


@pytest.mark.parametrize("name", DEATHS)
async def test_death_ends_the_server_and_all_of_it(server: CogServer, name: str) -> None:
    """Within 60 s, with a prediction under way; its caller is told, and no process is left."""
    death = DEATHS[name]
    core = engine_core_of(server.process.pid)
    family = [server.process.pid, *descendants(server.process.pid)]
    who = {"core": core, "worker": _parent(core), "server": server.process.pid}
    prediction = asyncio.create_task(server.predict(LONG))
    await asyncio.sleep(0.5)
    began_s = time.monotonic()
    os.kill(who[death.who], death.number)

    try:
        _, body = await prediction
    except aiohttp.ClientError:
        body = {}
    await asyncio.wait_for(server.process.wait(), 2 * NOTICED_S)

    assert time.monotonic() - began_s <= NOTICED_S
    if death.said:
        assert "E1200 VLLMUnknownError: the engine is gone: " in body["error"]
        assert death.said in body["error"]
        assert death.said in (server.folder / "server.log").read_text()
    await until(lambda: not any(map(_lives, family)))


def _parent(pid: int) -> int:
    stat = read_stat(pid)
    assert stat is not None
    return int(stat[1])
