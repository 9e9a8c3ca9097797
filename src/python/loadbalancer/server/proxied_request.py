"""One request: sent where the policy says, its answer relayed; sent again if nothing came yet."""

import asyncio
from typing import TYPE_CHECKING

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.replicas import ReplicaState, RoutableRequest
from loadbalancer.observe.decision_log import DecisionLog, LoggedDecision
from servekit.errors.tree import EngineError, EngineTimeout, ReplicaMissing, ServeError
from servekit.relay.client_connection import Responder
from servekit.relay.engine_connection import EngineConnection
from servekit.relay.exchange import RelayExchange
from servekit.relay.framing import ChunkedFraming, Framing
from servekit.relay.heads import HttpRequestHead, HttpResponseHead, request_head
from servekit.relay.responses import last_chunks, refusal, status_of
from servekit.routing.load_tracker import InFlight

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Traced

# Of an event stream only whole chunks are passed on, so that an error event can follow at any time;
# a chunk beyond this size is no event, and is passed on as it comes.
MAX_HELD_BYTES = 64 * 1024

# One replica may have died and a second be full; after three, waiting is better than trying.
MOST_ATTEMPTS = 3


class ProxiedRequest(RelayExchange):
    """A sink for the engine's answer.  It lives until the client has it, or is gone."""

    __slots__ = (
        "_answer_bytes",
        "_balancer",
        "_begun_s",
        "_decided_s",
        "_decision",
        "_faulty",
        "_held",
        "_in_flight",
        "_over",
        "_pending",
        "_raw",
        "_replica",
        "_routable",
        "_sent_s",
        "_shadow",
        "_spoken",
        "_status",
        "_traced",
        "_trial",
        "_tried",
        "_ttft_s",
        "_waited_s",
    )

    def __init__(
        self,
        balancer: Balancer,
        client: Responder,
        head: HttpRequestHead,
        routable: RoutableRequest,
        body: bytes,
        traced: "Traced | None" = None,
    ) -> None:
        super().__init__(client, head, body)
        self._traced = traced
        self._balancer = balancer
        self._routable = routable
        self._begun_s = balancer.now()
        self._tried: tuple[str, ...] = ()
        self._waited_s: float | None = None
        self._over = False
        # Whether the engine answered with a fault of its own.
        self._faulty = False
        self._in_flight: InFlight | None = None
        self._pending: HttpResponseHead | None = None
        self._held = b""
        self._raw = True
        self._spoken = False
        self._ttft_s: float | None = None
        self._status: int | None = None
        self._answer_bytes: int | None = None
        # Whether this request shows if an ejected replica is well again.
        self._trial = False

    def start(self) -> None:
        """Send the request to the replica that the policy chooses."""
        self._balancer.budget.earn()
        service = self._routable.service
        service.admission.enter(self, len(service.pool) or 1, self._begun_s)

    def admitted(self, waited_s: float) -> None:
        """There is room for the request."""
        self._waited_s = waited_s
        self._balancer.telemetry.queue_s.observe(waited_s)
        if waited_s:
            self._client.wait_anew()
        self._try_next()

    def turned_away(self, why: str) -> None:
        """There was none in time."""
        self._fail(ReplicaMissing(f"model {self._routable.service.model!r} is at its limit: {why}"))

    def abandon(self) -> None:
        """The client is gone: the engine must not work on it any longer."""
        self._release("client gone")
        self._leave(client_gone=True)

    def time_out(self) -> None:
        """The engine has been silent for too long."""
        if self._waited_s is None:
            self.turned_away("queued for too long; retry later")
            return
        limit_s = self._balancer.rules.answer_timeout_s
        self._release("timeout")
        self._balancer.failed(self._replica)
        self._fail(
            EngineTimeout(f"upstream timed out after {limit_s:g} s without data; retry later")
        )

    # Sending.

    def _try_next(self) -> None:
        balancer = self._balancer
        now_s = self._decided_s = balancer.now()
        try:
            decision = balancer.choose(self._routable, self._tried, now_s)
        except ServeError as error:
            self._fail(error)
            return
        self._decision = decision
        replica = self._replica = balancer.replicas[decision.replica]
        connection = self._idle(replica.upstream)
        # The request is sent first and counted after it: no other decision comes in between.
        if connection is not None:
            self._send(connection)
        self._in_flight = balancer.sent(self._routable, decision, replica.load, now_s)
        self._shadow = balancer.decisions[-1][2]
        if replica.health.troubled:
            self._trial = balancer.on_trial(replica)
        if connection is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(replica))

    async def _connect(self, replica: ReplicaState) -> None:
        try:
            connection = await replica.upstream.connect()
        except EngineError as error:
            self._connecting = None
            self.broke(error)
            return
        self._connecting = None
        self._send(connection)

    def _send(self, connection: EngineConnection) -> None:
        self._connection = connection
        head = request_head(self._head, self._replica.upstream.address, len(self._body))
        connection.send(head, self._body, self)
        self._sent_s = self._balancer.now()
        if not self._tried:
            self._balancer.telemetry.overhead_s.observe(self._sent_s - self._begun_s)

    # The engine's answer.

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        self.chunks_received += 1
        self._status, self._answer_bytes = head.status, head.length
        if head.status >= 429 and self._refused(head):
            return
        if head.is_event_stream:
            self._raw = not isinstance(framing, ChunkedFraming)
            self._pending = head
            if piece:
                self.more(piece, framing)
            return
        self._pass_on_head(head, piece)
        if piece:
            self._first_byte()

    def more(self, piece: bytes, framing: Framing) -> None:
        self.chunks_received += 1
        if not self._raw and (framing.unfinished or self._held):
            piece = self._whole_chunks(piece, framing)
        if self._pending is not None:
            self._pass_on_head(self._pending, piece)
        elif self._decoder is not None:
            self._write_decoded(piece)
        elif piece:
            self._write(piece)
        if not self._spoken:
            self._first_byte()

    def ended(self) -> None:
        if self._pending is not None:
            self._pass_on_head(self._pending, b"")
        balancer = self._balancer
        if self._replica.health.troubled and not self._faulty:
            balancer.recovered(self._replica)
        now_s = balancer.now()
        balancer.telemetry.duration_s.observe(now_s - self._begun_s)
        self._connection = None
        self._release("done")
        self._leave(now_s)
        self._client.relayed(keep_alive=self._stays_open)

    def broke(self, error: EngineError) -> None:
        """The engine failed: try another where nothing is out yet, else say so and end."""
        stale, fresh = self._was_idle_too_long(), not self._out
        self._release("failed")
        if stale:
            # No fault, and no attempt either.
            self._try_next()
            return
        self._balancer.failed(self._replica)
        if fresh and self._may_retry():
            self._retry("failed")
        else:
            self._fail(error)

    # Refusals and retries.

    def _refused(self, head: HttpResponseHead) -> bool:
        """Whether another replica was asked instead, because this one has no room."""
        if head.status >= 500 and head.status != 503:
            self._faulty = True
            self._balancer.failed(self._replica)
            return False
        if head.status not in (429, 503):
            return False
        self._balancer.refused(self._replica, head.fields)
        if not self._may_retry():
            return False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.discard()
        self._release("refused")
        self._retry("refused")
        return True

    def _may_retry(self) -> bool:
        tried = {*self._tried, self._replica.name}
        others = any(load.name not in tried for load in self._routable.service.pool)
        return others and len(tried) < MOST_ATTEMPTS and self._balancer.budget.spend()

    def _retry(self, why: str) -> None:
        self._balancer.telemetry.retries[why] += 1
        self._client.wait_anew()
        self._tried = (*self._tried, self._replica.name)
        self._pending, self._held, self._spoken, self._raw = None, b"", False, True
        self._ttft_s, self._status, self._answer_bytes = None, None, None
        self._try_next()

    def _fail(self, error: ServeError) -> None:
        if not self._out:
            self._status = status_of(error)
            self._balancer.telemetry.refusals[self._status] += 1
        self._leave(error=type(error).__name__)
        if not self._out:
            self._client.answer(refusal(error))
        elif self._raw or self._decoder is not None:
            self._client.cut()
        else:
            self._write(last_chunks(error))
            self._client.relayed(keep_alive=False)

    # Relaying.

    def _first_byte(self) -> None:
        self._spoken = True
        balancer = self._balancer
        now_s = balancer.now()
        balancer.telemetry.ttft_s.observe(now_s - self._begun_s)
        self._ttft_s = now_s - self._sent_s
        # An error comes quickly, and says nothing about how long a prompt takes.
        if self._in_flight is not None and (self._status or 0) < 400:
            balancer.answered(self._routable, self._in_flight, self._ttft_s)
        if self._trial and not self._faulty:
            self._trial = False
            balancer.recovered(self._replica)

    def _pass_on_head(self, head: HttpResponseHead, piece: bytes) -> None:
        self._pending = None
        own = b"x-servekit-replica: %b\r\nx-servekit-policy: %b\r\nx-servekit-queue-ms: %d\r\n" % (
            self._decision.replica.encode(),
            self._decision.policy.encode(),
            1000 * (self._waited_s or 0.0),
        )
        self._begin_answer(head, piece, draining=self._balancer.draining, own=own)

    def _whole_chunks(self, piece: bytes, framing: Framing) -> bytes:
        """Return the chunks that *piece* completes; keep the rest."""
        whole = self._held + piece
        end = len(whole) - framing.unfinished
        if len(whole) - end > MAX_HELD_BYTES:
            self._raw = True
            end = len(whole)
        self._held = whole[end:]
        return whole[:end]

    def _leave(
        self, now_s: float | None = None, *, error: str | None = None, client_gone: bool = False
    ) -> None:
        """Make room for the next."""
        if self._over:
            return
        self._over = True
        service = self._routable.service
        if self._waited_s is None:
            service.admission.give_up(self)
        else:
            if now_s is None:
                now_s = self._balancer.now()
            service.admission.leave(len(service.pool) or 1, now_s)
        if self._traced is not None:
            self._end_trace(self._traced, error, client_gone=client_gone)

    def _end_trace(self, traced: "Traced", error: str | None, *, client_gone: bool) -> None:
        traced.end(
            self._balancer.now(),
            status=self._status,
            error=error,
            client_gone=client_gone,
            model=self._routable.service.model,
            # There is none before the first choice.
            decision=getattr(self, "_decision", None),
            attempts=len(self._tried) + 1,
            queue_s=self._waited_s,
            ttft_s=self._ttft_s,
        )

    def _log(self, log: DecisionLog, outcome: str) -> None:
        log.add(
            LoggedDecision(
                decided_at_s=log.epoch_s + self._decided_s,
                request=self._routable.route,
                decision=self._decision,
                shadow=self._shadow,
                outcome=outcome,
                status=self._status,
                ttft_s=self._ttft_s,
                duration_s=self._balancer.now() - self._decided_s,
                pieces=self.chunks_received,
                answer_bytes=self._answer_bytes,
            )
        )

    def _release(self, outcome: str) -> None:
        """Count the request no more, and let go of its connection."""
        if self._in_flight is not None:
            self._balancer.ended(self._in_flight)
            self._in_flight = None
            self._balancer.telemetry.requests[self._replica.name, outcome] += 1
            if self._balancer.decision_log is not None:
                self._log(self._balancer.decision_log, outcome)
        if self._trial:
            self._trial = False
            self._balancer.trial_over(self._replica)
        self._let_go()
