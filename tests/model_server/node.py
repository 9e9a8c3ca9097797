"""A node for the model server on this machine: a driver's word, an engine's, and a volume."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.container_program import ENGINE, EXTRA_ROUTES, MODEL, Container, running_program

T4 = "0, GPU-aaaa, Tesla T4, 15360, 7.5"
H200 = "0, GPU-bbbb, NVIDIA H200, 143771, 9.0"

PROGRAM = "model_server.entrypoint"

FOR_CUDA = "0.33.0 2.14.0+cu130"
FOR_CPU = "0.32.0+cpu 2.13.0+cpu"


def write_program(path: Path, says: str, code: int = 0) -> Path:
    """A program that says *says*, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{says}\nEND\nexit {code}\n")
    path.chmod(0o755)
    return path


def node_environment(
    folder: Path, *, gpus: str | None = T4, engine: str = FOR_CUDA, **environ: str
) -> dict[str, str]:
    """Variables for a server whose files are all in *folder*; *gpus* None is no driver at all."""
    programs = folder / "programs"
    write_program(programs / "engine-python", "\n".join(engine.split()))
    if gpus is not None:
        write_program(programs / "nvidia-smi", gpus)
    return {
        # Of this machine's own programs, none that could be a driver's.
        "PATH": f"{programs}:/usr/bin:/bin" if gpus is not None else str(programs),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LISTEN_HOST": "127.0.0.1",
        "PORT": "0",
        "MODEL_NAME": MODEL,
        "MODELS_FOLDER": str(folder / "models"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "ENGINE_COMMAND": f"{sys.executable} {ENGINE}",
        "ENGINE_PYTHON": str(programs / "engine-python"),
        "SHUTDOWN_LINGER_S": "0",
        "EXTRA_ROUTES": EXTRA_ROUTES,
        "TIMELINE_FILE": str(folder / "startup.json"),
        **environ,
    }


@asynccontextmanager
async def model_server(
    folder: Path,
    *args: str,
    gpus: str | None = T4,
    engine: str = FOR_CUDA,
    **environ: str,
) -> AsyncIterator[Container]:
    """Start the program on such a node; end it if the test has not."""
    given = node_environment(folder, gpus=gpus, engine=engine, **environ)
    async with running_program(PROGRAM, *args, folder=folder, environ=given) as running:
        yield running
