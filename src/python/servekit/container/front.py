"""The process that owns $PORT: it says how far the start is, then relays, then drains."""

import json

from servekit.container.engine_command import ENGINE_KEEP_ALIVE_S
from servekit.container.engine_exchange import EngineExchange
from servekit.container.gate import STARTUP, STARTUP_METRICS, Gate, shows_life
from servekit.container.startup_progress import StartupProgress
from servekit.errors.tree import RequestInvalid
from servekit.launch.engine_work import EngineWork
from servekit.relay.client_connection import IN_TRANSIT_S, ConnectionLimits, Responder
from servekit.relay.heads import HttpRequestHead
from servekit.relay.listening import Listener, listen
from servekit.relay.responses import LocalResponse, refuse
from servekit.relay.upstream_pool import UpstreamPool
from servekit.timing.clock import Clock
from servekit.wire.address import Address
from servekit.wire.routes import HEALTH, RouteTable
from servekit.wire.schemas import require_bounded_body

# Cloud Run's start-up probe looks every 10 s; a client that waits this long meets the next state.
RETRY_AFTER_S = 5

STOPPING = "the server is stopping; retry"

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

_ROUTES = RouteTable()


class FrontServer:
    """Listens from the first moment.

    Attributes:
        engine_port: where the engine listens, on loopback.
        work: what the engine owes to those who have asked.
        ill: why the engine is taken for dead; empty while it is not.
    """

    limits = LIMITS

    def __init__(
        self, progress: StartupProgress, clock: Clock, *, engine_port: int, gate: Gate
    ) -> None:
        self._progress = progress
        self._gate = gate
        self._exchanges: set[EngineExchange] = set()
        self.work = EngineWork()
        self.ill = ""
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
        """Before its body is read: a body of 64 MiB is not taken from who may not send it."""
        return self._gate.refusal(head)

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | EngineExchange:
        """What the front answers itself: its own pages, and everything until the engine is warm."""
        path = head.path.decode("ascii")
        if path == STARTUP:
            return LocalResponse(200, self._progress.to_json())
        if path == STARTUP_METRICS:
            return LocalResponse(200, self._progress.to_metrics(), "text/plain; version=0.0.4")
        if not self._progress.ready:
            return LocalResponse(503, self._not_ready(), retry_after_s=RETRY_AFTER_S)
        if self.ill:
            return LocalResponse(503, _unavailable(self.ill), retry_after_s=RETRY_AFTER_S)
        if self.draining and path == HEALTH:
            return LocalResponse(503, self._leaving(), retry_after_s=RETRY_AFTER_S)
        if head.method == "POST":
            try:
                require_bounded_body(body)
            except RequestInvalid as error:
                return refuse(400, str(error))
        return EngineExchange(
            self, self._upstream, client, head, body, book=self, is_work=shows_life(head)
        )

    def refusal_for(self, head: HttpRequestHead | None, answer: LocalResponse) -> LocalResponse:
        """Return *answer* in the envelope of the API that was asked."""
        route = None if head is None else _ROUTES.find(head.target)
        return answer if route is None else answer.in_dialect(route.dialect)

    # What its exchanges say.

    def began(self, exchange: EngineExchange) -> None:
        if exchange.is_work and exchange not in self._exchanges:
            self.work.begin(self.now())
        self._exchanges.add(exchange)

    def heard(self) -> None:
        self.work.hear(self.now())

    def ended(self, exchange: EngineExchange, *, abandoned: bool) -> None:
        if exchange in self._exchanges:
            self._exchanges.discard(exchange)
            if exchange.is_work:
                self.work.end(abandoned=abandoned)

    def interrupt(self, message: str) -> None:
        """Tell everybody who waits that there is no more to come, and why."""
        for exchange in list(self._exchanges):
            exchange.interrupt(message)

    async def drain(self, timeout_s: float, *, linger_s: float = 0.0) -> int:
        """Let what runs finish; return how many did not in *timeout_s*.

        New connections are taken for *linger_s* more, though /health says 503: whoever routes to us
        may not have heard yet.  A request that comes meanwhile is still served.
        """
        self.draining = True
        return await self._listener.drain(timeout_s, linger_s=max(linger_s, IN_TRANSIT_S))

    def close(self) -> None:
        """Tell those who are left, and let go of them."""
        self.interrupt(self.ill or STOPPING)
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
