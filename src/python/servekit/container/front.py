"""The process that owns $PORT: it says how far the start is, then relays, then drains."""

import json

from servekit.container.engine_defaults import ENGINE_KEEP_ALIVE_S
from servekit.container.startup_progress import StartupProgress
from servekit.relay.client_connection import IN_TRANSIT_S, ConnectionLimits, Responder
from servekit.relay.exchange import PassThrough
from servekit.relay.heads import HttpRequestHead
from servekit.relay.listening import Listener, listen
from servekit.relay.responses import LocalResponse
from servekit.relay.upstream_pool import UpstreamPool
from servekit.timing.clock import Clock
from servekit.wire.address import Address

# Cloud Run's start-up probe looks every 10 s; a client that waits this long meets the next state.
RETRY_AFTER_S = 5

HEALTH = b"/health"
STARTUP = b"/startup"
STARTUP_METRICS = b"/startup/metrics"

LIMITS = ConnectionLimits(
    # Cloud Run passes on 32 MiB; a chat with several images may bring more to a node.
    max_body_bytes=64 * 1024 * 1024,
    # Google's load balancers keep a connection to us for 600 s, and want it kept for longer.
    idle_timeout_s=620.0,
    # How long an answer may take is for the platform to say, and for the client.
    answer_timeout_s=float("inf"),
)

# The engine is on the same machine: what takes longer is not there.
CONNECT_TIMEOUT_S = 2.0


class FrontServer:
    """Listens from the first moment.

    Attributes:
        engine_port: where the engine listens, on loopback.
    """

    limits = LIMITS

    def __init__(self, progress: StartupProgress, clock: Clock, *, engine_port: int) -> None:
        self._progress = progress
        self._listener = Listener(self, clock)
        self.now = clock.now
        self.engine_port = engine_port
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Requests under way (count)."""
        return self._listener.in_flight

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port: another one than asked for only if that was 0.

        Raises:
            SettingInvalid: the port is taken.
        """
        # Of an idle connection the last fifth is left unused: the engine counts from another event.
        self._upstream = UpstreamPool(
            Address("127.0.0.1", self.engine_port),
            CONNECT_TIMEOUT_S,
            idle_limit_s=0.8 * ENGINE_KEEP_ALIVE_S,
        )
        listening = listen(host, port)
        await self._listener.start(listening)
        return int(listening.getsockname()[1])

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        del head
        return None

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | PassThrough:
        """What the front answers itself: its own pages, and everything until the engine is warm."""
        path = head.path
        if path == STARTUP:
            return LocalResponse(200, self._progress.to_json())
        if path == STARTUP_METRICS:
            return LocalResponse(200, self._progress.to_metrics(), "text/plain; version=0.0.4")
        if not self._progress.ready:
            return LocalResponse(503, self._not_ready(), retry_after_s=RETRY_AFTER_S)
        if self.draining and path == HEALTH:
            return LocalResponse(503, self._leaving(), retry_after_s=RETRY_AFTER_S)
        return PassThrough(self, self._upstream, client, head, body)

    async def drain(self, timeout_s: float, *, linger_s: float = 0.0) -> int:
        """Let what runs finish; return how many did not in *timeout_s*.

        New connections are taken for *linger_s* more, though /health says 503: whoever routes to us
        may not have heard yet.  A request that comes meanwhile is still served.
        """
        self.draining = True
        return await self._listener.drain(timeout_s, linger_s=max(linger_s, IN_TRANSIT_S))

    def close(self) -> None:
        """Cut what is left."""
        self._listener.close()
        self._upstream.close()

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
