"""An engine that dies in five ways, as its container tells it; and one that is only slow."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from servekit.launch.keeper import descendants, process_name
from tests.cloudrun.container import container
from tests.support import fake_vllm_core
from tests.support.container_program import MODEL, Container, write_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The promise: by then /health is not 200.
NOTICED_S = 60.0
TIMES = 10
GROUPS = Path("/sys/fs/cgroup/memory")


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[Container]:
    write_snapshot(folder / "hf")
    engine = f"{sys.executable} {fake_vllm_core.__file__}"
    async with container(folder, ENGINE_COMMAND=engine, SKIP_PREWARM="1") as running:
        await running.url()
        # The keeper looks for new processes every two seconds.
        await asyncio.sleep(3)
        yield running


def _core(running: Container) -> int:
    below = descendants(running.process.pid)
    return next(pid for pid in below if process_name(pid) == "VLLM::EngineCore")


async def _ask(running: Container, prompt: str) -> int:
    """The status of a completion; 0 where the connection was cut."""
    url = f"http://127.0.0.1:{await running.port()}/v1/completions"
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"model": MODEL, "prompt": prompt}) as answer,
        ):
            return answer.status
    except aiohttp.ClientError:
        return 0


@dataclass(frozen=True, slots=True)
class Death:
    """What is done to the engine, and what the last line says then."""

    prompt: str
    number: int | None
    said: str


DEATHS = {
    "stopped core": Death("hi", signal.SIGSTOP, "EngineCore (process"),
    "killed core": Death("hi", signal.SIGKILL, "EngineCore was killed by signal 9"),
    "dead input thread": Death("input", None, "its core computes nothing"),
    "CUDA assert": Death("assert", None, "CUDA error: device-side assert triggered"),
}


async def _die(folder: Path, death: Death) -> tuple[float, int, str]:
    """Seconds until it ended, its exit code, and its last line."""
    async with _serving(folder) as running:
        assert await _ask(running, "hi") == 200
        began_s = time.monotonic()
        if death.number is not None:
            os.kill(_core(running), death.number)
        asked = asyncio.ensure_future(_ask(running, death.prompt))
        async with asyncio.timeout(2 * NOTICED_S):
            code = await running.process.wait()
        ended_s = time.monotonic() - began_s
        await asked
        assert await running.ended() == code
    return ended_s, code, running.log[-1]


@pytest.mark.parametrize("name", DEATHS)
async def test_death_is_noticed_and_named_every_time(tmp_path: Path, name: str) -> None:
    """Ten of ten: the process ends within 60 s, and its last line is the cause."""
    death = DEATHS[name]
    async with asyncio.TaskGroup() as group:
        dying = [group.create_task(_die(tmp_path / str(at), death)) for at in range(TIMES)]

    for ended_s, code, last in (task.result() for task in dying):
        assert death.said in last
        assert (code, ended_s <= NOTICED_S) == (1, True), last


@pytest.fixture(name="small_group")
def _small_group() -> Iterator[Path]:
    group = GROUPS / f"servekit-deaths-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no memory cgroup (version 1) can be made here")
    (group / "memory.limit_in_bytes").write_text(str(512 * 2**20))
    yield group
    group.rmdir()


def _group_of_this_process() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (path,) = [line.rpartition(":")[2] for line in lines if ":memory:" in line]
    return GROUPS / path.strip("/")


def _move_to(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


async def test_memory_that_ran_out_is_named(tmp_path: Path, small_group: Path) -> None:
    """The kernel kills the core; the last line has the limit that it met."""
    for at in range(TIMES):
        # What is started inherits the group, which a container never changes.
        own = _group_of_this_process()
        _move_to(small_group)
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(_serving(tmp_path / str(at)))
            finally:
                _move_to(own)
            asked = asyncio.ensure_future(_ask(running, "hog"))
            code = await running.ended()
            await asked

        assert code == 1
        assert "out of memory: cgroup limit 0.5 GiB" in running.log[-1]


async def test_slow_engine_is_left_alone(tmp_path: Path) -> None:
    """A prompt that is computed for 45 s, and others that wait behind it, are answered."""
    async with _serving(tmp_path / "slow") as running:
        prompts = ("slow", "hi", "hi", "hi")
        statuses = await asyncio.gather(*(_ask(running, prompt) for prompt in prompts))
        health = await running.get("/health")

    assert statuses == [200] * 4
    assert health[0] == 200
