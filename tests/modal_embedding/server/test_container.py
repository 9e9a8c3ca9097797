import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import aiohttp
import pytest

from modal_embedding.engine.loop_thread import LoopThread
from modal_embedding.server.container import ContainerService
from modal_embedding.server.embedding_server import EmbeddingEnginePlan
from servekit.engine.environment import EngineFolders
from servekit.errors.tree import SettingInvalid
from servekit.secrets.secret import Secret
from tests.real_engine.engine import reserved_port
from tests.support.modal_front import small_settings


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    with reserved_port() as engine_port, reserved_port() as front_port:
        yield engine_port, front_port


def plan_of(port: int) -> EmbeddingEnginePlan:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    folders = EngineFolders(PurePosixPath("/nowhere"), PurePosixPath("/nowhere"))
    command = (sys.executable, "-m", "tests.support.modal_engine")
    return EmbeddingEnginePlan(command, Path("model"), port, environ, folders)


async def ask(url: str, key: str = "k") -> int:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.post(f"{url}/v1/embeddings", json={"input": "a"}) as answer,
    ):
        return answer.status


def test_a_container_serves_after_its_snapshot(ports: tuple[int, int]) -> None:
    """Nothing listens for callers before; then the key of that moment counts."""
    engine_port, front_port = ports
    url = f"http://127.0.0.1:{front_port}"
    settings = small_settings(enable_sleep_mode=True)
    service = ContainerService(settings, plan_of(engine_port), end=lambda: None)
    try:
        service.start_asleep()
        with pytest.raises(aiohttp.ClientConnectorError):
            asyncio.run(ask(url))

        service.open(Secret("k"), front_port)

        assert asyncio.run(ask(url)) == 200
        assert asyncio.run(ask(url, "other")) == 401
    finally:
        service.close()


def test_a_container_ends_with_its_engine(ports: tuple[int, int]) -> None:
    """The next one comes from the snapshot: sooner than a new engine would."""
    engine_port, front_port = ports
    ended = threading.Event()
    service = ContainerService(small_settings(), plan_of(engine_port), end=ended.set)
    try:
        service.start_asleep()
        service.open(Secret("k"), front_port)

        with pytest.raises(aiohttp.ServerDisconnectedError):
            asyncio.run(_kill(engine_port))

        assert ended.wait(30)
    finally:
        service.close()


async def _kill(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        await session.post(f"http://127.0.0.1:{port}/die")


def test_a_container_that_anybody_could_call_does_not_open(ports: tuple[int, int]) -> None:
    """The secret may have been named, and yet not hold the key."""
    engine_port, front_port = ports
    settings = small_settings(proxy_auth=False, modal_secrets=("named",))
    service = ContainerService(settings, plan_of(engine_port), end=lambda: None)
    try:
        with pytest.raises(SettingInvalid, match="EMBEDDING_API_KEY"):
            service.open(Secret(), front_port)
    finally:
        service.close()


def test_a_loop_thread_returns_and_raises_what_its_work_does() -> None:
    """To a caller that has no loop."""
    loop = LoopThread()

    async def work(fail: bool) -> str:
        if fail:
            raise SettingInvalid("no")
        return threading.current_thread().name

    try:
        assert loop.run(work(False)) != threading.current_thread().name
        with pytest.raises(SettingInvalid):
            loop.run(work(True))
    finally:
        loop.close()
