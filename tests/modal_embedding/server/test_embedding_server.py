import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import aiohttp
import pytest

from modal_embedding.server.api import EmbeddingApi
from modal_embedding.server.embedding_server import (
    EmbeddingEnginePlan,
    EmbeddingServer,
    engine_command,
    engine_environ,
)
from servekit.engine.environment import EngineFolders
from servekit.errors.tree import EngineExited, SettingInvalid
from servekit.launch.keeper import descendants, process_name
from servekit.timing.clock import SystemClock
from tests.real_engine.engine import reserved_port
from tests.support.clock import FakeClock
from tests.support.modal_engine import stand_in_engine
from tests.support.modal_front import no_plan, serving, small_settings
from tests.support.waiting import until


def plan_of(port: int) -> EmbeddingEnginePlan:
    """The stand-in engine as a child process."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    folders = EngineFolders(PurePosixPath("/nowhere"), PurePosixPath("/nowhere"))
    command = (sys.executable, "-m", "tests.support.modal_engine")
    return EmbeddingEnginePlan(command, Path("model"), port, environ, folders)


async def status_of(url: str, text: str = "a") -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/embeddings", json={"input": text}) as answer,
    ):
        return answer.status


def test_the_engine_is_told_what_it_serves() -> None:
    """A pooling model on loopback, by vLLM's current flags."""
    settings = small_settings(enable_sleep_mode=True, served_model_name="e")

    command = " ".join(engine_command(settings, replace(no_plan(), command=("vllm",), port=8001)))

    assert command.startswith("vllm serve . --host 127.0.0.1 --port 8001")
    for flag in (
        "--runner pooling --convert embed",
        "--served-model-name e",
        "--max-model-len 100",
        "--gpu-memory-utilization 0.9",
        "--enforce-eager",
        "--enable-sleep-mode",
        "--trust-remote-code",
    ):
        assert flag in command


def test_the_engine_is_offline_and_knows_no_secret() -> None:
    """Its development routes are open only where they are needed, to put it to sleep."""
    plan = replace(no_plan(), environ={"HF_TOKEN": "t", "VLLM_API_KEY": "k", "LANG": "C"})

    asleep = engine_environ(small_settings(enable_sleep_mode=True), plan, lambda _: None)
    awake = engine_environ(small_settings(), plan, lambda _: None)

    assert not {"HF_TOKEN", "VLLM_API_KEY"} & set(asleep)
    assert (asleep["HF_HUB_OFFLINE"], asleep["LANG"]) == ("1", "C")
    assert asleep["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_SERVER_DEV_MODE" not in awake


async def test_an_engine_is_started_and_stopped() -> None:
    """A real child process, asked over a real socket."""
    with reserved_port() as port:
        async with serving(small_settings(), plan_of(port)) as (url, _):
            assert await status_of(url) == 200

        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{port}/health")


async def test_an_engine_that_cannot_start_says_why() -> None:
    """At once, and not after the time that a start may take."""
    failing = replace(plan_of(1), arguments=("--fail",))
    with pytest.raises(EngineExited, match="No available memory for the cache blocks"):
        async with serving(small_settings(), failing):
            pass


async def test_an_engine_that_died_is_started_again() -> None:
    """Meanwhile callers are told 503, none hangs, and then they are served as before."""
    with reserved_port() as port:
        async with serving(small_settings(), plan_of(port)) as (url, server):
            watching = asyncio.ensure_future(server.watch(restarts=1))
            await kill(port)
            assert await status_of(url) == 503

            async def served() -> None:
                while await status_of(url) != 200:  # noqa: ASYNC110  # a process sets no event
                    await asyncio.sleep(0.02)

            await asyncio.wait_for(served(), 30)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def test_an_engine_that_keeps_dying_is_given_up() -> None:
    """Whoever runs us starts us anew: on Modal from the snapshot, in seconds."""
    with reserved_port() as port:
        async with serving(small_settings(), plan_of(port)) as (_, server):
            watching = asyncio.ensure_future(server.watch(restarts=0))
            await kill(port)

            with pytest.raises(EngineExited, match="exited with 9"):
                await asyncio.wait_for(watching, 30)


class _FastClock(FakeClock):
    """Ten seconds in one: a process that starts has its time too."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(seconds / 10)


@pytest.mark.parametrize("how", ["stopped", "hangs"])
async def test_an_engine_that_computes_nothing_is_ended(how: str) -> None:
    """It is taken for dead within 60 s, and those who wait are told."""
    clock = _FastClock()
    with reserved_port() as port:
        plan = replace(plan_of(port), arguments=("--core",))
        async with serving(small_settings(), plan, clock=clock) as (url, server):
            asked = asyncio.ensure_future(status_of(url, "hang"))
            await until(lambda: server._front.work.open)
            began_s = clock.now()
            if how == "stopped":
                os.kill(core_of_the_engine(), signal.SIGSTOP)

            with pytest.raises(EngineExited, match=f"{how}.*; it is not started again"):
                await server.watch(restarts=0)

            assert clock.now() - began_s <= 60.0
            assert await asked == 503
            assert await status_of(url) == 503


def core_of_the_engine() -> int:
    """The stand-in's process that computes."""
    below = descendants(os.getpid())
    return next(pid for pid in below if process_name(pid) == "sleep")


async def kill(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(f"http://127.0.0.1:{port}/die")


async def test_a_port_that_is_taken_is_named() -> None:
    """With what to do about it."""
    async with stand_in_engine() as engine:
        taken = int(engine.url.rpartition(":")[2])
        server = EmbeddingServer(
            small_settings(),
            no_plan(),
            EmbeddingApi(small_settings(), SystemClock()),
            SystemClock(),
        )
        try:
            with pytest.raises(SettingInvalid, match=f"127.0.0.1:{taken} cannot be listened on"):
                await server.listen("127.0.0.1", taken)
        finally:
            await server.close()


async def test_the_engine_sleeps_and_wakes_where_it_can() -> None:
    """vLLM's own routes, in the order of a snapshot."""
    async with stand_in_engine() as engine:
        settings = small_settings(engine_url=engine.url, enable_sleep_mode=True)
        async with serving(settings) as (url, server):
            await server.sleep()
            await server.wake()
            await until(lambda: "/wake_up" in engine.calls)

            assert engine.calls == ["/health", "/sleep?level=1", "/wake_up", "/health"]
            assert await status_of(url) == 200
