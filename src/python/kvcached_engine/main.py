"""`kvcached_engine serve MODEL ...`: `vllm serve`, which fails where KVCached has no part in it."""

import asyncio
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kvcached_engine.gpu_memory import NVIDIA_SMI
from kvcached_engine.proven import ProvenEngine, run_engine
from kvcached_engine.segment import SHARED_MEMORY, claimed
from kvcached_engine.settings import KVCachedSettings, check_name, read_serving
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped
from servekit.settings.environment import read_settings
from servekit.timing.clock import SystemClock

log = structlog.get_logger()

app = ProgramApp("kvcached_engine")


# What follows is vLLM's own to understand, from the first word on.
@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def main(
    arguments: Annotated[
        list[str], typer.Argument(help="Arguments of vLLM: serve MODEL [OPTIONS].")
    ],
    vllm: Annotated[str, typer.Option(help="Command that starts vLLM.")] = "vllm",
    shared_memory: Annotated[Path, typer.Option(hidden=True)] = SHARED_MEMORY,
    gpu_memory: Annotated[
        str, typer.Option(help="Command that prints index, uuid and used MiB of each GPU.")
    ] = NVIDIA_SMI,
) -> None:
    """Serve a model with KVCached, or say why not and exit."""
    configure_logs()
    settings = read_settings(KVCachedSettings, os.environ, log.warning)
    segment = shared_memory / check_name(settings.kvcached_ipc_name)
    engine = ProvenEngine(
        settings,
        read_serving(tuple(arguments)),
        segment,
        SystemClock(),
        memory_command=gpu_memory,
    )

    def ready(page: str) -> None:
        usage = engine.usage()
        course = engine.course
        announce(
            "ready",
            url=engine.url,
            metrics=page,
            kvcached=usage and asdict(usage),
            memory=course and asdict(course),
        )

    async def run(stop: asyncio.Event) -> None:
        with claimed(segment):
            await run_engine(engine, shlex.split(vllm), os.environ, stop, ready)

    run_until_stopped(run)


if __name__ == "__main__":
    run_program(app)
