"""`chat_backend`: the chat's HTTP interface before a model server."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from chat_backend.api import ChatApi
from chat_backend.chat_settings import ChatSettings
from servekit.cli.app import ProgramApp
from servekit.cli.logs import announce, configure_logs
from servekit.cli.program import run_program
from servekit.cli.server import run_until_stopped
from servekit.errors.tree import SettingInvalid
from servekit.settings.environment import read_settings

# An answer that streams may end; Kubernetes kills after 30 s.
DRAIN_S = 25

log = structlog.get_logger()

app = ProgramApp("chat_backend")


class _Server(uvicorn.Server):
    """Leaves signals to `run_until_stopped`, so that a stop is exit code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@app.command()
def serve() -> None:
    """Serve the chat until stopped.  Settings come from the environment: see the README."""
    configure_logs()
    settings = read_settings(ChatSettings, os.environ, lambda text: log.warning(text))
    listening = _listen(settings.host, settings.port)
    run_until_stopped(lambda stop: _serve(settings, listening, stop))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingInvalid(
            f"cannot listen on {host}:{port}: {error.strerror}; free the port or set PORT"
        ) from error


async def _serve(settings: ChatSettings, listening: socket.socket, stop: asyncio.Event) -> None:
    port = listening.getsockname()[1]
    api = ChatApi(
        settings,
        now=time.monotonic,
        on_ready=lambda: announce("ready", url=f"http://{settings.host}:{port}"),
    )
    server = _Server(
        uvicorn.Config(
            api.application(),
            log_config=None,
            access_log=False,
            # TRUSTED_PROXIES says whom to believe; uvicorn would believe this machine.
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
            ws_max_size=settings.max_body_bytes,
        )
    )
    serving = asyncio.create_task(server.serve([listening]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving
    stopping.cancel()


if __name__ == "__main__":
    run_program(app)
