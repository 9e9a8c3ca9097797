"""The process that owns $PORT: it says how far the start is, then relays, then drains."""

import asyncio
import json

from servekit.container.progress import Progress
from servekit.container.relay import ClientConnection, LocalAnswer
from servekit.errors.tree import SettingInvalid
from servekit.timing.clock import Clock

# Cloud Run's start-up probe looks every 10 s; a client that waits this long meets the next state.
RETRY_AFTER_S = 5

HEALTH = b"/health"
STARTUP = b"/startup"
STARTUP_METRICS = b"/startup/metrics"


class FrontServer:
    """Listens from the first moment.

    Attributes:
        engine_port: where the engine listens, on loopback.
    """

    def __init__(self, progress: Progress, clock: Clock, *, engine_port: int) -> None:
        self._progress = progress
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._idle = asyncio.Event()
        self.engine_port = engine_port
        self.connections: set[ClientConnection] = set()
        self.active: set[ClientConnection] = set()
        self.draining = False

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: another one than asked for only if that was 0.

        Raises:
            SettingInvalid: the port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: ClientConnection(self, self._clock.now), host, port
            )
        except OSError as error:
            raise SettingInvalid(f"port {port} cannot be listened on: {error.strerror}") from error
        return int(self._server.sockets[0].getsockname()[1])

    def local_answer(self, path: bytes) -> LocalAnswer | None:
        """What the front answers itself: its own pages, and everything until the engine is warm."""
        if path == STARTUP:
            return LocalAnswer(200, self._progress.to_json())
        if path == STARTUP_METRICS:
            return LocalAnswer(200, self._progress.to_metrics(), "text/plain; version=0.0.4")
        if not self._progress.ready:
            return LocalAnswer(503, self._not_ready(), retry_after_s=RETRY_AFTER_S)
        if self.draining and path == HEALTH:
            return LocalAnswer(503, self._leaving(), retry_after_s=RETRY_AFTER_S)
        return None

    def finished(self, connection: ClientConnection) -> None:
        self.active.discard(connection)
        if not self.active:
            self._idle.set()

    async def drain(self, timeout_s: float, *, linger_s: float = 0.0) -> int:
        """Let what runs finish; return how many did not in *timeout_s*.

        New connections are taken for *linger_s* more, though /health says 503: whoever routes to us
        may not have heard yet.  A request that comes meanwhile on a connection that is open is
        still served.
        """
        deadline_s = self._clock.now() + timeout_s
        self.draining = True
        await self._clock.sleep(min(linger_s, timeout_s))
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close_if_idle()
        while self.active and self._clock.now() < deadline_s:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), deadline_s - self._clock.now())
            except TimeoutError:
                break
        return len(self.active)

    def close(self) -> None:
        """Cut what is left."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.abandon()

    def _not_ready(self) -> bytes:
        progress = self._progress
        return _unavailable(
            f"starting: {progress.stage}",
            stage=progress.stage,
            phase=progress.phase,
            elapsed_s=round(progress.total_s, 1),
        )

    def _leaving(self) -> bytes:
        return _unavailable("stopping: what runs is finished", stage="Draining")


def _unavailable(message: str, **facts: object) -> bytes:
    error = {"message": message, "type": "ServiceUnavailableError", "code": 503}
    return json.dumps({"error": error, **facts}).encode()
