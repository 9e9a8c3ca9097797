"""One request: sent where the policy says, its answer relayed; sent again if nothing came yet.

An answer is passed on once its head and its first bytes are what they should be.  Until then a
request whose replica fails, refuses, or answers badly is sent to another one; what that one answers
tells whose fault it was.
"""

import asyncio
import re
from typing import TYPE_CHECKING

import msgspec
import structlog
import xxhash

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.balancing.copies import MOST_COPIES, FirstCopy
from loadbalancer.balancing.health import CONNECTION
from loadbalancer.balancing.progress import OpenRequest
from loadbalancer.balancing.receipt import receipt_of
from loadbalancer.balancing.replicas import ModelService, ReplicaState, RoutableRequest
from loadbalancer.observe.decision_log import DecisionLog, LoggedDecision, RouteReceipt
from loadbalancer.prompt.usage import prompt_tokens_of
from loadbalancer.server.answer_faults import (
    CALLERS,
    NO_TOKENS,
    SERVER_ERROR,
    UNAUTHORIZED,
    fault_of_body,
    fault_of_status,
    says_no_tokens,
    stream_has_no_tokens,
)
from loadbalancer.server.forwarding import REQUEST_ID
from loadbalancer.workers.deadly_requests import MOST_KILLED
from servekit.errors.tree import (
    EngineError,
    EngineRefused,
    EngineTimeout,
    ReplicaMissing,
    RequestInvalid,
    ServeError,
    ShortOfResources,
    StreamCut,
)
from servekit.relay.client_connection import Responder
from servekit.relay.engine_connection import EngineConnection
from servekit.relay.exchange import RelayExchange
from servekit.relay.framing import ChunkedFraming, Framing
from servekit.relay.heads import HttpRequestHead, HttpResponseHead, request_head
from servekit.relay.responses import last_chunk, refusal, status_of
from servekit.routing.decision import Decision
from servekit.routing.load_tracker import InFlight
from servekit.wire.dialects import Dialect, error_event, has_ended
from servekit.wire.routes import Route

if TYPE_CHECKING:
    from loadbalancer.observe.tracing import Traced

# Of an event stream only whole chunks are passed on, so that an error event can follow at any time;
# a chunk beyond this size is no event, and is passed on as it comes.
MAX_HELD_BYTES = 64 * 1024

# One replica may have died and a second be full; after three, waiting is better than trying.
MOST_ATTEMPTS = 3

# How long a request waits that an engine may have died of: engines that have a copy of it, perhaps
# another worker's, have broken off by then too.
SUSPECT_WAITS_S = 0.4

# The first pieces of an answer are kept, to see at its end whether it had a token.
PIECES_KEPT = 6


_OWN_LINES = b"%bx-servekit-replica: %b\r\nx-servekit-policy: %b\r\nx-servekit-queue-ms: %d\r\n"
_JSON_STARTS = b"{["
_JSON_ENDS = (b"}", b"]")
# An event may come in two pieces; its number is near its end or its beginning.
TAIL_BYTES = 64
_RESPONSES = Dialect.RESPONSES
# The id comes first, whether the response is whole or its first event.
_RESPONSE_ID = re.compile(rb'"id": ?"([\w-]{1,200})"')
_STREAMS = re.compile(rb'"stream"\s*:\s*true')

log = structlog.get_logger()


class ProxiedRequest(RelayExchange):
    """A sink for the engine's answer.  It lives until the client has it, or is gone."""

    __slots__ = (
        "_answer_bytes",
        "_answer_head",
        "_balancer",
        "_begun_s",
        "_decided_s",
        "_decision",
        "_early",
        "_early_pieces",
        "_engine_key",
        "_fault",
        "_first_copy",
        "_has_waited",
        "_hash",
        "_held",
        "_in_flight",
        "_killed",
        "_last",
        "_open_ended",
        "_over",
        "_own_lines",
        "_pending",
        "_raw",
        "_receipt",
        "_replica",
        "_routable",
        "_route",
        "_says_usage",
        "_sent_s",
        "_shadow",
        "_spoken",
        "_status",
        "_suspected",
        "_tokenizing",
        "_traced",
        "_trial",
        "_tried",
        "_ttft_s",
        "_usage_piece",
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
        *,
        route: Route,
        own_lines: bytes = b"",
        engine_key: bool = False,
    ) -> None:
        """*own_lines*: headers that the answer gets from us; *engine_key*: whether *head* has the
        engines' key in place of the client's."""
        super().__init__(client, head, body)
        self._route = route
        if route.dialect is _RESPONSES:
            self._write = self._write_kept  # type: ignore[assignment]
        self._own_lines = own_lines
        self._traced = traced
        self._balancer = balancer
        self._routable = routable
        self._begun_s = balancer.now()
        self._tried: tuple[str, ...] = ()
        self._replica: ReplicaState
        self._waited_s: float | None = None
        self._tokenizing: asyncio.Task[None] | None = None
        # What was known of the chosen replica's cache, where caches are followed.
        self._receipt: RouteReceipt | None = None
        self._over = False
        self._engine_key = engine_key
        # What is wrong with the answer under way, if anything.
        self._fault: str | None = None
        # Replicas that answered badly, and how; whose fault that was, the next answer tells.
        self._suspected: tuple[tuple[ReplicaState, str], ...] = ()
        # What engines may have died of is known by its hash.
        self._hash = 0
        self._killed: tuple[str, ...] = ()
        # Whether it has waited for what comes of copies of it.
        self._has_waited = False
        # Where it is the first of several that are alike, and nothing came of it yet.
        self._first_copy: FirstCopy | None = None
        self._in_flight: InFlight | None = None
        self._pending: HttpResponseHead | None = None
        self._answer_head: HttpResponseHead | None = None
        self._held = b""
        # What came last, where the events are numbered or the answer ends with the connection.
        self._last = b""
        self._open_ended = False
        self._raw = True
        self._spoken = False
        # Whether the pieces that come are kept.
        self._early = True
        self._early_pieces: tuple[bytes, ...] = ()
        # Where an engine says what it counted, unless in a stream's first event.
        self._usage_piece = b""
        self._says_usage = False
        self._ttft_s: float | None = None
        self._status: int | None = None
        self._answer_bytes: int | None = None
        # Whether this request shows if an ejected replica is well again.
        self._trial = False

    def start(self) -> None:
        """Send the request to the replica that the policy chooses."""
        balancer = self._balancer
        balancer.budget.earn()
        # As `watchful` has it, without a call.
        if self._begun_s < balancer.deadly.until_s[0] and self._was_refused(self._begun_s):
            return
        if self._routable.question is not None:
            self._tokenizing = asyncio.get_running_loop().create_task(self._enter_with_tokens())
            return
        self._routable.service.admission.enter(self, self._begun_s)

    async def _enter_with_tokens(self) -> None:
        """Learn the prompt's tokens first, where caches are followed by events."""
        self._routable = await self._balancer.with_tokens(self._routable)
        self._tokenizing = None
        # The client may have left meanwhile.
        if not self._over:
            self._routable.service.admission.enter(self, self._balancer.now())

    @property
    def sent_to(self) -> str | None:
        """The replica that has the request; None where none has."""
        return None if self._in_flight is None else self._in_flight.replica.name

    @property
    def begun(self) -> bool:
        """Whether anything of the answer has come."""
        return self._spoken

    @property
    def waiting(self) -> OpenRequest:
        """What the replica has of it, and since when."""
        return OpenRequest(self._decided_s, self._routable.route.prompt_tokens)

    @property
    def service(self) -> ModelService:
        return self._routable.service

    @property
    def streams(self) -> bool:
        """Whether the client wants a stream, as far as a glance at the body tells."""
        return _STREAMS.search(self._body) is not None

    def admitted(self, waited_s: float) -> None:
        """There is room for the request."""
        self._waited_s = waited_s
        self._balancer.telemetry.queue_s.observe(waited_s)
        if waited_s:
            self._client.wait_anew()
            self._try_next(self._balancer.now())
        else:
            self._try_next(self._begun_s)

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

    def _try_next(self, now_s: float) -> None:
        balancer = self._balancer
        self._decided_s = now_s
        number, copies, only, alone = self._request_hash(), balancer.copies, None, False
        if number not in copies.answered and not self._routable.owner:
            if now_s < balancer.deadly.until_s[0] and balancer.deadly.is_suspected(number):
                if not self._has_waited:
                    self._has_waited = True
                    asyncio.get_running_loop().call_later(SUSPECT_WAITS_S, self.go_on)
                    return
                only = balancer.replica_for_suspect(self._routable.service, number)
            elif (first := copies.first.get(number)) is None:
                alone = True
            elif first.copies < MOST_COPIES:
                first.copies += 1
                only = first.replica
            elif not first.survived(now_s):
                first.waiting = (*first.waiting, self)
                return
        try:
            decision = balancer.choose(self._routable, self._tried, now_s, only)
        except ServeError as error:
            self._fail(error)
            return
        if alone:
            self._first_copy = copies.first[number] = FirstCopy(decision.replica, now_s)
        self._try(decision, now_s)

    def go_on(self) -> None:
        """Copies of the request need not be waited for any longer."""
        if not self._over and not self._was_refused(now_s := self._balancer.now()):
            self._client.wait_anew()
            self._try_next(now_s)

    def _try(self, decision: Decision, now_s: float) -> None:
        balancer = self._balancer
        self._decision = decision
        # One that was removed meanwhile is still there for a request that it has broken off.
        replica = balancer.replicas.get(decision.replica) or self._replica
        self._replica = replica
        connection = self._idle(replica.upstream)
        # The request is sent first and counted after it: no other decision comes in between.
        if connection is not None:
            self._send(connection)
        if self._routable.question is not None:
            self._receipt = receipt_of(self._routable, replica.name)
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
            self.broke(_without_address(error, replica))
            return
        self._connecting = None
        self._send(connection)

    def _send(self, connection: EngineConnection) -> None:
        self._connection = connection
        upstream = self._replica.upstream
        head = request_head(self._head, upstream.path, upstream.authority, len(self._body))
        connection.send(head, self._body, self)
        self._sent_s = self._balancer.now()
        if not self._tried:
            self._balancer.telemetry.overhead_s.observe(self._sent_s - self._begun_s)

    # The engine's answer.

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        self.chunks_received += 1
        self._status, self._answer_bytes = head.status, head.length
        if head.status >= 400:
            if self._sent_elsewhere(head):
                return
            self._pass_on_head(head, piece)
            if piece:
                self._first_byte()
            return
        if head.length is None and not head.chunked:
            # Only what came last tells whether it was the end.
            self._open_ended = True
            self._write = self._write_kept  # type: ignore[assignment]
        if head.is_event_stream:
            self._raw = not isinstance(framing, ChunkedFraming)
            self._says_usage = b'"include_usage"' in self._body
        elif piece and piece[0] in _JSON_STARTS and not (head.chunked or says_no_tokens(piece)):
            # What nearly all other answers are.
            self._early = False
            self._usage_piece = piece
            self._pass_on_head(head, piece)
            self._first_byte()
            return
        # A head alone says little: it waits for the first bytes of the body.
        self._pending = head
        if piece:
            self._receive_early(piece, framing)

    def more(self, piece: bytes, framing: Framing) -> None:
        self.chunks_received += 1
        if self._says_usage and b'"usage"' in piece:
            self._usage_piece = piece
        if not (self._early or framing.unfinished or self._held or self._decoder):
            self._write(piece)
            return
        if self._early:
            self._receive_early(piece, framing)
            return
        if not self._raw and (framing.unfinished or self._held):
            piece = self._whole_chunks(piece, framing)
        if self._decoder is not None:
            self._write_decoded(piece)
        elif piece:
            self._write(piece)

    def _receive_early(self, piece: bytes, framing: Framing) -> None:
        """Take one of the first pieces, which show whether the answer is good."""
        if not self._raw and (framing.unfinished or self._held):
            piece = self._whole_chunks(piece, framing)
        if not piece:
            return
        pending = self._pending
        if pending is not None and self._judge_beginning(pending, piece):
            return
        self._early_pieces = (*self._early_pieces, piece)
        self._early = len(self._early_pieces) < PIECES_KEPT
        if pending is not None:
            self._pass_on_head(pending, piece)
        elif self._decoder is not None:
            self._write_decoded(piece)
        else:
            self._write(piece)
        if not self._spoken:
            self._first_byte()

    def ended(self) -> None:
        # It has gone back to its pool already.
        self._connection = None
        if self._pending is not None:
            if self._judge_beginning(self._pending, b""):
                return
            self._pass_on_head(self._pending, b"")
        balancer = self._balancer
        head = self._answer_head
        if self._open_ended and head is not None and not self._has_ended(head):
            self.broke(StreamCut("the engine closed the connection before its answer ended"))
            return
        # What the caller did wrong counts neither for the replica nor against it.
        if self._fault is None and head is not None and head.status < 400:
            if self._early and head.is_event_stream and stream_has_no_tokens(self._early_pieces):
                self._fault = NO_TOKENS
                balancer.bad_answer(self._routable.service, self._replica, NO_TOKENS)
            else:
                self._routable.service.answers.good(self._replica.name)
                self._learn_usage()
        if self._replica.health.troubled and not self._fault:
            balancer.recovered(self._replica)
        now_s = balancer.now()
        balancer.telemetry.duration_s.observe(now_s - self._begun_s)
        self._release("done")
        self._leave(now_s)
        self._client.relayed(keep_alive=self._stays_open)

    def _learn_usage(self) -> None:
        """Tell how many tokens the prompt had, if the answer says so and they were estimated."""
        if any(self._routable.parts):
            counted = prompt_tokens_of(self._usage_piece)
            if counted is None and self._early_pieces:
                counted = prompt_tokens_of(self._early_pieces[0])
            if counted is not None:
                self._balancer.counted(self._routable, counted)

    def broke(self, error: EngineError) -> None:
        """The engine failed: try another where nothing is out yet, else say so and end."""
        if isinstance(error, ShortOfResources):
            # Ours, and no fault of the replica.
            self._release("failed")
            self._fail(error)
            return
        sent = self._connection is not None
        stale, fresh = self._was_idle_too_long(), not self._out
        if not stale and (sent or self._resent):
            # Before copies of it that wait are let go.
            self._suspect_deadly(broke=True)
        self._release("stale" if stale else "failed")
        if stale:
            # No fault, and no attempt either.  The same replica tells whether it is still there.
            self._try(self._decision, self._balancer.now())
            return
        self._balancer.failed(self._replica)
        if not (fresh and self._may_move()) or self._was_deadly():
            self._fail(error)
        elif sent or self._resent:
            self._has_waited = True
            loop = asyncio.get_running_loop()
            loop.call_later(SUSPECT_WAITS_S, self._retry_suspect, error)
        elif self._balancer.budget.spend():
            self._retry("failed")
        else:
            self._fail(error)

    def _retry_suspect(self, error: EngineError) -> None:
        if self._over:
            return
        if not self._was_deadly() and self._may_retry():
            self._retry("failed")
        else:
            self._fail(error)

    # Requests that engines die of.

    def _was_refused(self, now_s: float) -> bool:
        """Whether the request was refused, because engines died of one like it."""
        refused_s = self._balancer.deadly.refused_for_s(self._request_hash(), now_s)
        if refused_s:
            self._fail(
                RequestInvalid(
                    f"{MOST_KILLED} engines failed while they had this request; it is refused for "
                    f"{refused_s:.0f} s"
                )
            )
        return bool(refused_s)

    def _was_deadly(self) -> bool:
        """Whether enough engines died of this request, or of one like it."""
        balancer = self._balancer
        return len(self._killed) >= MOST_KILLED or (
            balancer.deadly.refused_for_s(self._request_hash(), balancer.now()) > 0.0
        )

    def _request_hash(self) -> int:
        if not self._hash:
            self._hash = xxhash.xxh3_64_intdigest(self._body or self._head.target) or 1
        return self._hash

    def _suspect_deadly(self, *, broke: bool) -> None:
        """The connection broke, or the engine answered with an error: it may have died of this."""
        balancer = self._balancer
        if self._replica.name not in self._killed:
            self._killed = (*self._killed, self._replica.name)
        now_s, number = balancer.now(), self._request_hash()
        balancer.copies.answered.discard(number)
        balancer.deadly.suspect(number, self._replica.number, now_s, broke=broke)
        refused_s = balancer.deadly.refused_for_s(number, now_s)
        if refused_s:
            log.warning("deadly request", model=self.service.model, refused_for_s=round(refused_s))

    def _drop_body(self) -> None:
        self._request_hash()
        super()._drop_body()

    # Bad answers.

    def _sent_elsewhere(self, head: HttpResponseHead) -> bool:
        """Whether another replica was asked instead of passing on an error."""
        if head.status in (429, 503):
            self._balancer.refused(self._replica, head.fields)
            return self._abandoned_for("refused") if self._may_retry() else False
        fault = fault_of_status(head.status)
        if fault is None:
            return False
        if fault == SERVER_ERROR:
            self._suspect_deadly(broke=False)
        return self._answered_badly(fault)

    def _judge_beginning(self, head: HttpResponseHead, piece: bytes) -> bool:
        """Look at the head and the first bytes of an answer; return whether it was left."""
        fault = fault_of_body(head, piece, self._head.path)
        return fault is not None and self._answered_badly(fault)

    def _answered_badly(self, fault: str) -> bool:
        """The answer has a *fault*: return whether another replica was asked instead."""
        self._fault = fault
        service, key = self._routable.service, self._caller_key(fault)
        if self._engine_key and fault == UNAUTHORIZED:
            # Not the client's key: whatever the siblings say, this is between us and the engine.
            key = None
        elif self._suspected and self._suspected[-1][1] == fault:
            # A sibling says the same: it is the request, or all engines; no replica is to blame.
            self._suspected = ()
            service.agreed.add(key, self._balancer.now())
            return False
        elif service.agreed.holds(key, self._balancer.now()):
            return False
        may_retry = fault != SERVER_ERROR or not self._was_deadly()
        if may_retry and self._may_retry():
            self._suspected = (*self._suspected, (self._replica, fault))
            return self._abandoned_for(fault)
        self._unresolved(fault)
        return self._engine_key and fault == UNAUTHORIZED

    def _unresolved(self, fault: str) -> None:
        """No sibling can be asked about an answer with a *fault*."""
        if self._engine_key and fault == UNAUTHORIZED:
            self._balancer.bad_answer(self.service, self._replica, fault)
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.discard()
            self._release("done")
            self._fail(EngineRefused("the replica rejects VLLM_API_KEY", status=502))
        elif fault not in CALLERS:
            self._balancer.bad_answer(self.service, self._replica, fault)

    def _caller_key(self, fault: str) -> tuple[str, bytes, bytes] | None:
        """Return what an answer with this *fault* may be about; None where it is the engine."""
        if fault not in CALLERS:
            return None
        return fault, self._head.target, self._head.fields.get(b"authorization", b"")

    def _settle(self) -> None:
        """The request was answered as it should be: those who answered it badly are to blame."""
        for replica, fault in self._suspected:
            self._balancer.bad_answer(self._routable.service, replica, fault)
        self._suspected = ()
        self._balancer.deadly.answered(self._request_hash())

    # Other replicas.

    def leave_replica(self) -> bool:
        """The replica that has the request is gone or stuck: ask another, if there is one."""
        if self._out or not self._may_move():
            return False
        self._release("failed")
        self._retry("given up")
        return True

    def cut_off(self, why: str) -> None:
        """The replica that has begun the answer is gone or stuck: end it with an error."""
        self._release("failed")
        self._fail(EngineTimeout(why))

    def _abandoned_for(self, why: str) -> bool:
        """Leave the answer under way and ask another replica, because of *why*."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.discard()
        self._release("refused" if why == "refused" else "failed")
        self._retry(why)
        return True

    def _may_move(self) -> bool:
        if not self._route.retried or self._routable.owner:
            return False
        tried = {*self._tried, self._replica.name}
        return len(tried) < MOST_ATTEMPTS and self._balancer.others(self._routable.service, tried)

    def _may_retry(self) -> bool:
        return self._may_move() and self._balancer.budget.spend()

    def _retry(self, why: str) -> None:
        self._balancer.telemetry.retries[why] += 1
        self._client.wait_anew()
        self._tried = (*self._tried, self._replica.name)
        self._pending, self._held, self._spoken, self._raw = None, b"", False, True
        self._fault, self._early, self._early_pieces = None, True, ()
        self._ttft_s, self._status, self._answer_bytes = None, None, None
        self._open_ended = False
        self._try_next(self._balancer.now())

    def _fail(self, error: ServeError) -> None:
        if not self._out:
            self._status = status_of(error)
            self._balancer.telemetry.refusals[self._status] += 1
        self._leave(error=type(error).__name__)
        if not self._out:
            answer = refusal(error).in_dialect(self._route.dialect)
            self._client.answer(answer.with_lines(self._own_lines))
        else:
            self._cut_short(error)

    def _cut_short(self, error: ServeError) -> None:
        """Say in the stream what failed, if it can be said there, and leave it without its end."""
        head = self._answer_head
        assert head is not None
        # Within a chunk anything of ours would be taken for the engine's.
        takes_events = head.is_event_stream and b"content-encoding" not in head.fields
        in_chunk = head.chunked and self._raw
        event = None
        if takes_events and not in_chunk:
            event = error_event(self._route.dialect, 502, str(error), self._last)
        if event is None:
            self._client.cut()
        elif head.chunked and self._decoder is None:
            self._client.cut(last_chunk(event), framed=True)
        else:
            self._client.cut(event)

    # Relaying.

    def _write_kept(self, piece: bytes | bytearray | memoryview) -> None:
        """Pass on a piece of which more must be known later than that it was passed on."""
        kept = MAX_HELD_BYTES if self._open_ended else TAIL_BYTES
        self._last = bytes(piece) if len(piece) >= kept else self._last[-kept:] + piece
        self._client.transport.write(piece)

    def _has_ended(self, head: HttpResponseHead) -> bool:
        """Whether an answer that ends with its connection has come to its end."""
        if b"content-encoding" in head.fields or head.status >= 400:
            return True
        if head.is_event_stream:
            return has_ended(self._route.dialect, self._last)
        kind = head.fields.get(b"content-type", b"")
        return not kind.startswith(b"application/json") or self._last.rstrip()[-1:] in _JSON_ENDS

    def _first_byte(self) -> None:
        self._spoken = True
        balancer = self._balancer
        if self._hash not in balancer.copies.answered and self._fault != SERVER_ERROR:
            balancer.copies.prove(self._hash)
            self._first_copy = None
        now_s = balancer.now()
        balancer.telemetry.ttft_s.observe(now_s - self._begun_s)
        self._ttft_s = now_s - self._sent_s
        # An error comes quickly, and says nothing about how long a prompt takes.
        if self._in_flight is not None and (self._status or 0) < 400:
            balancer.answered(self._routable, self._in_flight, self._sent_s, self._ttft_s)
        if self._trial and not self._fault:
            replica = self._replica
            # Whether answers are good again, only a whole one tells.
            if replica.health.ejected_for == CONNECTION:
                self._trial = False
                balancer.recovered(replica)

    def _pass_on_head(self, head: HttpResponseHead, piece: bytes) -> None:
        self._pending = None
        self._answer_head = head
        if head.status < 400 and (self._suspected or self._balancer.deadly.until_s[0]):
            self._settle()
        if self._route.dialect is _RESPONSES and head.status < 400:
            self._keep_owner(piece)
        own = _OWN_LINES % (
            self._own_lines,
            self._replica.label.encode(),
            self._decision.policy.encode(),
            1000 * (self._waited_s or 0.0),
        )
        if self._receipt is not None:
            own += self._receipt.header()
        if REQUEST_ID in head.fields:
            # The engine has it from us, and says so itself.
            own = own[own.index(b"\n") + 1 :]
        self._begin_answer(head, piece, draining=self._balancer.draining, own=own)

    def _keep_owner(self, piece: bytes) -> None:
        """Remember which replica can be asked for the response that begins with *piece*."""
        named = _RESPONSE_ID.search(piece)
        if named is not None:
            self._balancer.response_owners.add(named[1].decode(), self._replica.number)

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
            balancer = self._balancer
            if balancer.rules.max_in_flight:
                balancer.left(service, balancer.now() if now_s is None else now_s)
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
                request=msgspec.structs.replace(self._routable.route, exact=None)
                if self._routable.route.exact is not None
                else self._routable.route,
                receipt=self._receipt,
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
        if self._first_copy is not None and outcome != "stale":
            self._balancer.copies.over(self._hash, self._first_copy)
            self._first_copy = None
        if self._in_flight is not None:
            self._balancer.ended(self._in_flight)
            self._in_flight = None
            told = "failed" if outcome == "stale" else outcome
            self._balancer.telemetry.requests[self._replica.name, told] += 1
            if self._balancer.decision_log is not None:
                self._log(self._balancer.decision_log, outcome)
        if self._trial:
            self._trial = False
            self._balancer.trial_over(self._replica)
        self._let_go()


def _without_address(error: EngineError, replica: ReplicaState) -> EngineError:
    """Return *error*, which says where *replica* is, as a client may read it."""
    log.debug("replica not connected", replica=replica.name, why=str(error))
    if isinstance(error, ShortOfResources):
        return ShortOfResources("no connection to an engine can be opened; retry later")
    return type(error)("the engine cannot be connected; retry later")
