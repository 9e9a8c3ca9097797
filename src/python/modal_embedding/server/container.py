"""The HTTP service inside a container on Modal: a thread of ours beside Modal's own.

Modal calls `start_asleep` before the snapshot and `open` after it.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path, PurePosixPath

import structlog
from msgspec.structs import replace

from modal_embedding.engine.loop_thread import LoopThread
from modal_embedding.engine.settings import EmbeddingSettings, check_protected
from modal_embedding.server.api import EmbeddingApi
from modal_embedding.server.embedding_server import EmbeddingEnginePlan, EmbeddingServer
from servekit.engine.environment import EngineFolders
from servekit.secrets.secret import Secret
from servekit.timing.clock import SystemClock

log = structlog.get_logger()


class ContainerService:
    """An engine that sleeps until it is opened."""

    def __init__(
        self, settings: EmbeddingSettings, plan: EmbeddingEnginePlan, end: Callable[[], None]
    ):
        self._settings = settings
        self._loop = LoopThread()
        self._end = end
        self._front = EmbeddingApi(settings, SystemClock())
        self._server = EmbeddingServer(settings, plan, self._front, SystemClock())

    def start_asleep(self) -> None:
        """Return once the engine was warm and sleeps."""
        self._loop.run(self._server.start_engine())
        self._loop.run(self._server.sleep())

    def open(self, api_key: Secret, port: int) -> None:
        """Wake the engine, and listen on every address.

        Raises:
            SettingInvalid: anybody could call.
        """
        check_protected(replace(self._settings, modal_secrets=(), embedding_api_key=api_key))
        self._front.api_key = api_key
        self._loop.run(self._server.wake())
        self._loop.run(self._server.open())
        # The container's own network; Modal's edge is what the world reaches.
        self._loop.run(self._server.listen("0.0.0.0", port))  # noqa: S104
        self._loop.start(self._server.watch(restarts=0)).add_done_callback(self._engine_ended)

    def close(self) -> None:
        """Let requests end, then the engine."""
        self._end = lambda: None
        self._loop.run(self._server.close())
        self._loop.close()

    def _engine_ended(self, watching: "Future[None]") -> None:
        error = None if watching.cancelled() else watching.exception()
        if error is not None:
            log.error("engine ended, and the container with it", reason=str(error))
            self._end()


def start_asleep(
    settings: EmbeddingSettings,
    environ: Mapping[str, str],
    bring: Callable[[], Path],
    cache: str,
    port: int,
) -> ContainerService:
    """Return a service whose engine was warm and sleeps."""
    model = Path() if settings.engine_url else bring()
    folders = EngineFolders(PurePosixPath(cache), PurePosixPath(environ.get("HOME", "/root")))
    plan = EmbeddingEnginePlan(("vllm",), model, port, dict(environ), folders)
    # Another container comes from the snapshot in seconds; a new engine here would take a minute.
    service = ContainerService(settings, plan, end=lambda: os._exit(1))
    service.start_asleep()
    return service
