"""Cog's own server, in a folder as `cog build` would make it."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from servekit.launch.keeper import die_with_parent
from servekit.launch.port import free_port

REPOSITORY = Path(__file__).parents[2]
FLAT_FOLDER = REPOSITORY / "src/python/cog_predictor/flat"

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class CogServer:
    """A server that listens."""

    url: str
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process
    folder: Path

    async def health(self) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/health-check") as answer:
            assert answer.status == 200
            return dict(await answer.json())

    async def settled(self, timeout_s: float = _START_S) -> dict[str, Any]:
        """Return the health once setup has ended, well or badly."""
        async with asyncio.timeout(timeout_s):
            while True:
                health = await self.health()
                if health["status"] != "STARTING":
                    return health
                await asyncio.sleep(0.02)

    async def predict(
        self, inputs: Mapping[str, object], path: str = "/predictions"
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of the answer."""
        async with self.session.post(f"{self.url}{path}", json={"input": inputs}) as answer:
            return answer.status, dict(await answer.json())

    def engine_log(self) -> list[str]:
        log = self.folder / "engine.log"
        return log.read_text().splitlines() if log.exists() else []


def flat_folder(
    folder: Path, *, config: Mapping[str, object] | None = None, python: str = sys.executable
) -> Path:
    """Lay out what is shipped in *folder*, with *config* and another engine to choose.

    *python* is the interpreter that will run it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("run.py", "predict.py", "train.py"):
        shutil.copy(FLAT_FOLDER / name, folder)
    shutil.copy(Path(__file__).with_name("fake_run.py"), folder)
    if config is not None:
        (folder / "predictor_config.json").write_text(json.dumps(config))
    _write_python(folder / "bin", python)
    return folder


@asynccontextmanager
async def cog_server(
    folder: Path,
    *,
    weights: str | None,
    runner: str = "fake_run.py:Runner",
    environ: Mapping[str, str] | None = None,
    train: bool = False,
    concurrency: int = 32,
    module: str = "cog.server.http",
) -> AsyncIterator[CogServer]:
    """Run Cog's server on *folder*; it is ended at the end, and killed if it will not.

    *environ* goes over the variables that the server would have.
    """
    port = free_port()
    stub = "COG_TRAIN_TYPE_STUB" if train else "COG_PREDICT_TYPE_STUB"
    variables = {
        **_environ(folder),
        "PORT": str(port),
        stub: runner,
        "COG_MAX_CONCURRENCY": str(concurrency),
        **({"COG_WEIGHTS": weights} if weights is not None else {}),
        **(environ or {}),
    }
    await _write_schema(folder, runner, variables)
    with (folder / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            str(folder / "bin/python"),
            "-m",
            module,
            "--host",
            "127.0.0.1",
            *(["--x-mode", "train"] if train else []),
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,
        )
    async with aiohttp.ClientSession() as session:
        server = CogServer(f"http://127.0.0.1:{port}", session, process, folder)
        try:
            await _listening(server)
            yield server
        finally:
            await _end(process)


def _environ(folder: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    return {
        **inherited,
        # coglet starts its worker as the first `python` of the PATH.
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in sys.path if path),
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }


def _write_python(folder: Path, python: str) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    program.chmod(0o755)


async def _write_schema(folder: Path, runner: str, environ: Mapping[str, str]) -> None:
    process = await asyncio.create_subprocess_exec(
        str(folder / "bin/python"),
        "-m",
        "cog_predictor.schema",
        runner,
        cwd=folder,
        env=dict(environ),
        stdout=asyncio.subprocess.PIPE,
    )
    schema, _ = await process.communicate()
    assert process.returncode == 0
    (folder / ".cog").mkdir(exist_ok=True)
    (folder / ".cog/openapi_schema.json").write_bytes(schema)


async def _listening(server: CogServer) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            try:
                await server.health()
                return
            except aiohttp.ClientError:
                assert server.process.returncode is None, "the server ended"
                await asyncio.sleep(0.02)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10.0)
    except TimeoutError:
        process.kill()
        await process.wait()
