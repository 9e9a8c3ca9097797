"""One container's program on this machine: `cloudrun serve` with a fake engine below it."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.container_program import ENGINE, EXTRA_ROUTES, MODEL, Container, running_program


def container_environment(folder: Path, **environ: str) -> dict[str, str]:
    """Variables for a container whose files are all in *folder*."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PORT": "0",
        "MODEL_NAME": MODEL,
        "HF_HOME": str(folder / "hf"),
        "ENGINE_COMMAND": f"{sys.executable} {ENGINE}",
        "ENGINE_PYTHON": sys.executable,
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "COMPILE_CACHE": str(folder / "kept"),
        "EXTRA_ROUTES": EXTRA_ROUTES,
        "TIMELINE_FILE": str(folder / "startup.json"),
        **environ,
    }


@asynccontextmanager
async def container(
    folder: Path, *args: str, host: str = "127.0.0.1", **environ: str
) -> AsyncIterator[Container]:
    """Start the program; end it if the test has not."""
    given = {"LISTEN_HOST": host, **container_environment(folder, **environ)}
    module = "cloudrun.entrypoint"
    async with running_program(module, *args, folder=folder, environ=given) as running:
        yield running
