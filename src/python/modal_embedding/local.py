"""`local`: the embedding service on this machine, without Modal."""

import asyncio
import os
import secrets
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated

import structlog
import typer
from msgspec.structs import replace

from modal_embedding.engine.settings import EmbeddingSettings, read_embedding_settings
from modal_embedding.engine.weights import bring_model
from modal_embedding.server.api import NO_KEY, EmbeddingApi
from modal_embedding.server.embedding_server import EmbeddingEnginePlan, EmbeddingServer
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped, until_stopped
from servekit.engine.environment import EngineFolders
from servekit.launch.port import free_port
from servekit.secrets.secret import Secret
from servekit.timing.clock import SystemClock

log = structlog.get_logger()

app = ProgramApp("modal_embedding")


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model; default: MODEL_NAME.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 = a free one.")] = 0,
    engine: Annotated[str, typer.Option(help="Command that starts vLLM.")] = "vllm",
    engine_url: Annotated[
        str | None, typer.Option(help="URL of an engine that is already running.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Max restarts of an engine that exited.")] = 3,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Accept requests without a token.")
    ] = False,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Further arguments of `vllm serve`.")
    ] = None,
) -> None:
    """Serve /v1/embeddings on this machine until stopped.

    Without EMBEDDING_API_KEY a key is made, and told on stdout.
    """
    configure_logs()
    settings = _settings(model, engine_url)
    own = settings.embedding_api_key or Secret(secrets.token_urlsafe(24))
    key = NO_KEY if no_auth else own
    command = tuple(shlex.split(engine))
    made = {} if no_auth or settings.embedding_api_key else {"api_key": key.reveal()}

    async def run(stop: asyncio.Event) -> None:
        plan = await _plan(settings, command, tuple(arguments or ()))
        front = EmbeddingApi(settings, SystemClock(), key)
        server = EmbeddingServer(settings, plan, front, SystemClock())
        await _serve(server, stop, f"{host}:{port}", restarts, made)

    run_until_stopped(run)


def _settings(model: str | None, engine_url: str | None) -> EmbeddingSettings:
    given = {"MODEL_NAME": model or "", "ENGINE_URL": engine_url or ""}
    environ = os.environ | {name: value for name, value in given.items() if value}
    settings = read_embedding_settings(environ, log.warning)
    # Nobody takes a snapshot here, and vLLM on a CPU refuses the mode.
    return replace(settings, enable_sleep_mode=False)


async def _plan(
    settings: EmbeddingSettings, command: tuple[str, ...], arguments: tuple[str, ...]
) -> EmbeddingEnginePlan:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servekit"
    model = Path()
    if not settings.engine_url:
        clock = SystemClock()
        folder = cache / "models"
        model = await bring_model(settings, folder, os.environ, clock=clock, report=log.info)
    folders = EngineFolders(PurePosixPath(cache / "vllm"), PurePosixPath(Path.home()))
    # A share that was set is passed on; the default means nothing to an engine on a CPU.
    has_gpu = _has_gpu() or "GPU_MEMORY_UTILIZATION" in os.environ
    environ = dict(os.environ)
    return EmbeddingEnginePlan(command, model, free_port(), environ, folders, arguments, has_gpu)


def _has_gpu() -> bool:
    """Whether there is a driver of NVIDIA's or AMD's."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


async def _serve(
    server: EmbeddingServer, stop: asyncio.Event, address: str, restarts: int, told: dict[str, str]
) -> None:
    host, _, port = address.rpartition(":")
    try:
        await until_stopped(_start(server, host, int(port), restarts, told), stop)
    finally:
        await server.close()


async def _start(
    server: EmbeddingServer, host: str, port: int, restarts: int, told: dict[str, str]
) -> None:
    # The port is open while the engine starts, and /health says 503: a probe has something to ask.
    url = await server.listen(host, port)
    log.info("listening", url=url)
    await server.start_engine()
    await server.open()
    announce("ready", url=url, **told)
    await server.watch(restarts)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run_program(app)
