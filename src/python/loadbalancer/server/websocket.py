"""A WebSocket between a client and the replica that the policy chose.

Until the engine has agreed, another replica can be asked.  From then on bytes are passed on in both
directions as they come, and nobody reads them; what one side does not take, the other does not
send.  Where the engine breaks off, the client's connection is reset, which is no orderly end.
"""

import asyncio
from urllib.parse import parse_qs

import structlog

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ReplicaState, RoutableRequest
from loadbalancer.server.request_info import BodyFields, routable_request
from servekit.errors.tree import (
    EngineError,
    EngineTimeout,
    ReplicaMissing,
    RequestInvalid,
    ServeError,
    StreamCut,
)
from servekit.relay.client_connection import MAX_AHEAD_BYTES, Responder
from servekit.relay.exchange import RelayExchange
from servekit.relay.framing import ChunkedFraming, Framing, LengthFraming, OpenFraming
from servekit.relay.heads import (
    MAX_HEAD_BYTES,
    HttpRequestHead,
    HttpResponseHead,
    answer_head,
    read_response_head,
    request_head,
)
from servekit.relay.responses import refusal, status_of
from servekit.routing.load_tracker import InFlight

MOST_ATTEMPTS = 3
SWITCHING = 101
UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"

log = structlog.get_logger()


def read_upgrade(balancer: Balancer, head: HttpRequestHead) -> RoutableRequest:
    """Return what a handshake asks for; its model is in the query.

    Raises:
        RequestInvalid: none is named, and there are several.
        ModelUnknown: no replica serves it.
        ReplicaMissing: none is known to serve it yet.
    """
    query = parse_qs(head.target.partition(b"?")[2].decode("latin-1"))
    model = query.get("model", [""])[0]
    if not model and len(balancer.services) == 1:
        (model,) = balancer.services
    if not model:
        raise RequestInvalid("the WebSocket names no model; add ?model=NAME to its URL")
    service = balancer.service(model)
    return routable_request(
        service,
        service.policy,
        BodyFields(model=model),
        head.fields,
        0,
        sessions=balancer.rules.sessions,
    )


class WebSocket(RelayExchange):
    """One WebSocket; it lives until either side leaves.

    Attributes:
        heard_s: when something came from the engine.
    """

    __slots__ = (
        "_ahead",
        "_balancer",
        "_engine_head",
        "_framing",
        "_in_flight",
        "_open",
        "_over",
        "_own_lines",
        "_replica",
        "_routable",
        "_side",
        "_tried",
        "_waits",
        "heard_s",
    )

    def __init__(
        self,
        balancer: Balancer,
        client: Responder,
        head: HttpRequestHead,
        routable: RoutableRequest,
        *,
        own_lines: bytes,
    ) -> None:
        super().__init__(client, head, b"")
        self._balancer = balancer
        self._routable = routable
        self._own_lines = own_lines
        self._tried: tuple[str, ...] = ()
        self._replica: ReplicaState
        self._in_flight: InFlight | None = None
        # The engine's head as far as it has come, and what the client has sent meanwhile.
        self._engine_head = b""
        self._ahead = b""
        # The body of a refusal; None where there is none.
        self._framing: Framing | None = None
        self._side: _EngineSide | None = None
        self._waits = True
        self._open = False
        self._over = False
        self.heard_s = balancer.now()

    @property
    def sent_to(self) -> str | None:
        """The replica that has it; None where none has."""
        return None if self._in_flight is None else self._in_flight.replica.name

    def start(self) -> None:
        """Wait for room, and ask the replica that the policy chooses."""
        self._balancer.budget.earn()
        self._routable.service.admission.enter(self, self._balancer.now())

    def admitted(self, waited_s: float) -> None:
        """There is room for it."""
        self._waits = False
        self._balancer.telemetry.queue_s.observe(waited_s)
        self._try_next()

    def turned_away(self, why: str) -> None:
        """There was none in time."""
        self._fail(ReplicaMissing(f"model {self._routable.service.model!r} is at its limit: {why}"))

    def abandon(self) -> None:
        """The client is gone: so is the engine's side."""
        self._release("client gone")
        self._leave()

    def time_out(self) -> None:
        """Neither side has said anything for too long."""
        self.cut_off("the WebSocket was silent for too long; connect again")

    def cut_off(self, why: str) -> None:
        """The replica is gone or stuck, or nobody uses it."""
        self._release("failed")
        self._fail(EngineTimeout(why))

    # From the client.

    def client_sent(self, data: bytes) -> bool:
        """Pass on what the client sent."""
        self.chunks_received += 1
        connection = self._connection
        if self._open and connection is not None:
            connection.transport.write(data)
            return True
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES:
            self._client.transport.pause_reading()
        return True

    # To a replica.

    def _try_next(self) -> None:
        balancer, now_s = self._balancer, self._balancer.now()
        try:
            decision = balancer.choose(self._routable, self._tried, now_s)
        except ServeError as error:
            self._fail(error)
            return
        self._replica = balancer.replicas[decision.replica]
        self._in_flight = balancer.sent(self._routable, decision, self._replica.load, now_s)
        self._connecting = asyncio.get_running_loop().create_task(self._connect(self._replica))

    async def _connect(self, replica: ReplicaState) -> None:
        upstream = replica.upstream
        try:
            connection = await upstream.connect()
        except EngineError as error:
            self._connecting = None
            log.debug("replica not connected", replica=replica.name, why=str(error))
            self._broke(type(error)("the engine cannot be connected; retry later"))
            return
        self._connecting = None
        self._connection = connection
        self._engine_head = b""
        self._side = _EngineSide(self, self._client.transport)
        connection.transport.set_protocol(self._side)
        head = request_head(self._head, upstream.path, upstream.authority, 0)
        connection.transport.write(head[:-2] + UPGRADE + b"\r\n")

    def _broke(self, error: EngineError) -> None:
        """The engine failed: ask another one, where nothing is agreed yet."""
        self._release("failed")
        self._balancer.failed(self._replica)
        self._tried = (*self._tried, self._replica.name)
        may_retry = not self._out and len(self._tried) < MOST_ATTEMPTS
        others = self._balancer.others(self._routable.service, self._tried)
        if may_retry and others and self._balancer.budget.spend():
            self._balancer.telemetry.retries["failed"] += 1
            self._try_next()
        else:
            self._fail(error)

    # From the engine.

    def is_with(self, side: "_EngineSide") -> bool:
        """Whether *side* is the engine's that has it, and not one that it has left."""
        return self._side is side and self._connection is not None

    def engine_sent(self, data: bytes) -> None:
        """Take the engine's head, then pass on what follows it."""
        self.chunks_received += 1
        self.heard_s = self._balancer.now()
        if self._open:
            self._write(data)
        elif self._framing is not None:
            self._pass_on_refusal(data)
        else:
            self._read_head(self._engine_head + data)

    def engine_left(self, *, orderly: bool) -> None:
        """The engine's connection is closed."""
        self._connection = None
        if isinstance(self._framing, OpenFraming):
            self._end()
        elif self._open and orderly:
            # After the closing handshake it is the server that closes (RFC 6455, section 7.1.1);
            # without one, a client sees that it is missing.
            self._end()
        else:
            self._broke(StreamCut("the engine closed the connection"))

    def _read_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._engine_head = data
            if len(data) > MAX_HEAD_BYTES:
                self._broke(StreamCut(f"the engine's head is larger than {MAX_HEAD_BYTES} bytes"))
            return
        try:
            head = read_response_head(data[:end])
        except StreamCut as error:
            self._broke(error)
            return
        if head.status == SWITCHING:
            self._begin(head, data[end:])
        elif head.status >= 200:
            self._refused(head, data[end:])
        else:
            self._engine_head = b""
            if data[end:]:
                self._read_head(data[end:])

    def _begin(self, head: HttpResponseHead, rest: bytes) -> None:
        """The engine has agreed."""
        self._open = self._out = True
        self._stays_open = False
        if self._replica.health.troubled:
            self._balancer.recovered(self._replica)
        self._write(head.first + self._lines() + UPGRADE + b"\r\n" + rest)
        ahead, self._ahead = self._ahead, b""
        if ahead and self._connection is not None:
            self._connection.transport.write(ahead)
            self._client.transport.resume_reading()

    def _refused(self, head: HttpResponseHead, rest: bytes) -> None:
        """The engine has not: its answer is passed on as it is."""
        if head.status >= 500:
            self._broke(StreamCut(f"the engine answered {head.status}"))
            return
        self._out = True
        self._framing = _framing_of(head)
        self._write(answer_head(head, old=False, closing=True, own=self._lines())[0])
        self._pass_on_refusal(rest)

    def _pass_on_refusal(self, data: bytes) -> None:
        framing = self._framing
        assert framing is not None
        try:
            taken = framing.feed(data)
        except StreamCut as error:
            self._broke(error)
            return
        self._write(data[:taken])
        if framing.done:
            self._end()

    def _lines(self) -> bytes:
        return b"%bx-servekit-replica: %b\r\n" % (self._own_lines, self._replica.label.encode())

    # The end.

    def _end(self) -> None:
        self._release("done")
        self._leave()
        self._client.relayed(keep_alive=False)

    def _fail(self, error: ServeError) -> None:
        self._leave()
        if self._out:
            self._client.cut()
            return
        self._balancer.telemetry.refusals[status_of(error)] += 1
        answer = refusal(error)
        self._stays_open = False
        self._client.answer(answer.with_lines(self._own_lines))

    def _leave(self) -> None:
        """Make room for the next."""
        if self._over:
            return
        self._over = True
        service = self._routable.service
        if self._waits:
            service.admission.give_up(self)
        elif self._balancer.rules.max_in_flight:
            self._balancer.left(service, self._balancer.now())

    def _release(self, outcome: str) -> None:
        """Count it no more, and let go of the engine's side."""
        if self._in_flight is not None:
            self._balancer.ended(self._in_flight)
            self._in_flight = None
            self._balancer.telemetry.requests[self._replica.name, outcome] += 1
        self._let_go()


class _EngineSide(asyncio.Protocol):
    """What the event loop calls for the engine's connection, in place of its usual protocol."""

    def __init__(self, websocket: WebSocket, client: asyncio.Transport) -> None:
        self._websocket = websocket
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._websocket.engine_sent(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._websocket.is_with(self):
            self._websocket.engine_left(orderly=error is None)

    def pause_writing(self) -> None:
        """The engine does not keep up with the client."""
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()


def _framing_of(head: HttpResponseHead) -> Framing:
    if head.chunked:
        return ChunkedFraming()
    return OpenFraming() if head.length is None else LengthFraming(head.length)
