"""The checks that a deployment ends with, against a running container."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.cloudrun.container import container
from tests.support.container_program import MODEL, write_snapshot

FOLDER = Path(__file__).parents[2] / "src/docker/cloudrun"
COMMANDS = {
    "pytest": (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull),
    "bash": ("bash",),
}
SCRIPTS = {"pytest": "test_endpoint.py", "bash": "test_endpoint.sh"}


async def _run(kind: str, url: str, model: str = MODEL, pause_s: float = 0.2) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMANDS[kind],
        str(FOLDER / SCRIPTS[kind]),
        env={
            **os.environ,
            "SERVICE_URL": url,
            "MODEL_NAME": model,
            "PAUSE_S": str(pause_s),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_service_that_answers_passes(kind: str, tmp_path: Path) -> None:
    """Also while it still starts: both ask again."""
    write_snapshot(tmp_path / "hf")
    async with container(tmp_path, FAKE_STEP_S="0.05") as running:
        port = await running.port()
        code, said = await _run(kind, f"http://127.0.0.1:{port}", pause_s=3.0)

    assert code == 0, said


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_service_with_another_model_fails(kind: str, tmp_path: Path) -> None:
    """The seed's tests asked for a name that was not served."""
    write_snapshot(tmp_path / "hf")
    async with container(tmp_path) as running:
        code, said = await _run(kind, await running.url(), "acme/another")

    assert code == 1, said
    assert "another" in said


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_nobody_there_fails(kind: str) -> None:
    """After five looks, and not with a traceback of its own."""
    code, _ = await _run(kind, "http://127.0.0.1:9")

    assert code == 1
