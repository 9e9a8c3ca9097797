"""The model server with the real vLLM on a CPU: what a node without a GPU falls back to."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.model_server.node import FOR_CPU, PROGRAM, node_environment
from tests.real_engine.engine import READY_TIMEOUT_S, ensure_model
from tests.real_engine.environment import EngineEnvironment, environment_or_skip
from tests.real_engine.processes import descendants, engine_core_of
from tests.support.container_program import MODEL, Container, running_program
from tests.support.gated_hub import Hub, hub
from tests.support.waiting import until

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

TOKEN = "hf_thisTokenOpensTheModelThatIsGated"  # noqa: S105  (the stand-in's)


@pytest.fixture(name="vllm", scope="module")
def _vllm() -> EngineEnvironment:
    return environment_or_skip(os.environ)


@pytest.fixture(name="files", scope="module")
def _files(vllm: EngineEnvironment) -> dict[str, bytes]:
    """The files of a model that vLLM can load, by name."""
    return {path.name: path.read_bytes() for path in ensure_model(vllm, 0).iterdir()}


@pytest.fixture(name="session")
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
        yield session


def _server(
    folder: Path, vllm: EngineEnvironment, **environ: str
) -> AbstractAsyncContextManager[Container]:
    given = node_environment(
        folder,
        gpus=None,
        engine=FOR_CPU,
        ENGINE_COMMAND=f"{vllm.python} -m vllm.entrypoints.cli.main",
        STARTUP_TIMEOUT_S=str(READY_TIMEOUT_S),
        SERVED_MODEL_NAME="small",
        VLLM_CPU_KVCACHE_SPACE="1",
        **environ,
    )
    given |= {"PATH": f"{vllm.python.parent}:/usr/bin:/bin", "ENGINE_PYTHON": str(vllm.python)}
    # Enough for an engine that is never ready to be given up by the program, not by the test.
    patience_s = READY_TIMEOUT_S + 60
    return running_program(PROGRAM, folder=folder, environ=given, patience_s=patience_s)


def _online(gated: Hub) -> dict[str, str]:
    return {"HF_ENDPOINT": gated.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}


async def test_whole_life_on_a_cpu(
    tmp_path: Path,
    vllm: EngineEnvironment,
    files: dict[str, bytes],
    session: aiohttp.ClientSession,
) -> None:
    """Downloaded with a token, warmed up, served by every name, drained with nothing lost."""
    with hub(TOKEN, files) as gated:
        async with _server(tmp_path, vllm, **_online(gated)) as running:
            url = await running.url()
            await running.logged("runs on the CPU")
            async with session.get(f"{url}/v1/models") as answer:
                served = {model["id"] for model in (await answer.json())["data"]}
            async with session.get(f"{url}/metrics") as answer:
                metrics = await answer.text()
            async with session.get(f"{url}/startup") as answer:
                start = await answer.json()

            streams = [await session.post(**_stream(url)) for _ in range(4)]
            running.terminate()
            bodies = [await answer.read() for answer in streams]
            code = await running.ended()

    assert served == {"small", MODEL, "tiny-1b"}
    assert 'model_name="small"' in metrics
    assert start["device"] == "CPU"
    assert {"weights", "KV profile"} <= {phase["name"] for phase in start["phases"]}
    assert [line for line in running.log if "prewarm failed" in line] == []
    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert code == 0
    assert len(list((tmp_path / "models").glob("acme--tiny-1b-*/.complete.json"))) == 1


async def test_killed_engine_ends_the_server(
    tmp_path: Path, vllm: EngineEnvironment, files: dict[str, bytes], session: aiohttp.ClientSession
) -> None:
    """Nothing of it is left, the exit code is 1, and the last line says what was killed."""
    placed = tmp_path / "models/small"
    placed.mkdir(parents=True)
    for name, content in files.items():
        (placed / name).write_bytes(content)
    async with _server(tmp_path, vllm) as running:
        url = await running.url()
        answer = await session.post(**_stream(url))
        os.kill(engine_core_of(running.process.pid), signal.SIGKILL)
        code = await running.ended()
        answer.close()

    assert code == 1
    assert "EngineCore was killed by signal 9" in running.log[-1]
    assert "EngineDead" in "\n".join(running.log)
    await until(lambda: not descendants(running.process.pid))


def _stream(url: str) -> dict[str, Any]:
    """A completion that outlasts its first bytes; some of it is made when the answer is here."""
    body = {"model": "small", "prompt": "hi", "max_tokens": 400, "ignore_eos": True, "stream": True}
    return {"url": f"{url}/v1/completions", "json": body}
