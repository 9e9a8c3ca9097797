"""The side that clients see: bytes of a connection -> requests, one after the other."""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from servekit.errors.tree import RequestError, RequestTooLarge, ServeError
from servekit.relay.framing import ChunkedBody
from servekit.relay.heads import MAX_HEAD_BYTES, HttpRequestHead, read_request_head
from servekit.relay.responses import LocalResponse, refusal, refuse

# A request line and its headers are one packet; a slow client on a bad line still makes it in time.
HEAD_TIMEOUT_S = 10.0
# A body may be silent for so long, and after as long must have come at this rate: a slow upload of
# many megabytes is let through, a client that sends a byte now and then is not.
BODY_TIMEOUT_S = 60.0
LEAST_BODY_BYTES_PER_S = 1024
# A request that was sent before its client could know that we leave has arrived by then.
IN_TRANSIT_S = 0.25
# After a refusal the rest of the request is read and dropped: closing at once would reset the
# connection and take the answer with it.  Clients send a body to its end before they look; who is
# still sending after as long as nginx would listen (lingering_time) will not.
LINGER_S = 1.0
LINGER_AT_MOST_S = 30.0

# Requests that a client sends before it has the answer to the last one.
MAX_AHEAD_BYTES = 64 * 1024

# Of the idle connections one in so many is closed where connections run out.
SHED_SHARE = 8

# What looks like a request in it ends here; the rest is read by who speaks HTTP/2.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a front takes.

    Attributes:
        idle_timeout_s: for how long a connection is kept that carries nothing.  The default is
            longer than the 60 s for which most clients and cloud load balancers keep one.
        answer_timeout_s: the longest silence of an engine, before and within an answer.
        max_body_memory_bytes: for the bodies of all requests under way.
    """

    max_body_bytes: int = 32 * 1024 * 1024
    idle_timeout_s: float = 75.0
    answer_timeout_s: float = 300.0
    max_body_memory_bytes: int = 1 << 62


class RelayedRequest(Protocol):
    """A request that is being relayed.

    Attributes:
        chunks_received: how often something came from the engine (count).
    """

    chunks_received: int

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request."""

    @property
    def bodiless(self) -> bool:
        """Whether the answer has a head only."""

    def start(self) -> None:
        """Send the request."""

    def abandon(self) -> None:
        """The client is gone: the engine must not work on it any longer."""

    def time_out(self) -> None:
        """The engine has been silent for too long."""

    def client_sent(self, data: bytes) -> bool:
        """The client sent *data* before it has the answer; return whether that is part of this
        exchange, and not the beginning of the next request."""

    def pause(self) -> None:
        """The client does not keep up."""

    def resume(self) -> None:
        """It does again."""


class Responder(Protocol):
    """Where the answer to a request goes.

    Attributes:
        peer: the client's IP address, as text; `unknown` where it has none.
    """

    transport: asyncio.Transport
    peer: bytes

    def answer(self, answer: LocalResponse) -> None:
        """Send an answer of our own; the exchange is over."""

    def relayed(self, *, keep_alive: bool) -> None:
        """The answer is out; the exchange is over."""

    def cut(self, last: bytes = b"", *, framed: bool = False) -> None:
        """Write *last*, and end an answer that cannot be completed, so that no client takes it for
        whole.  *framed*: its end would be marked, so that closing the connection is enough."""

    def wait_anew(self) -> None:
        """Only now does the engine have the request: its silence begins."""

    def release_body(self) -> None:
        """The request's body is not needed any more."""


class Handler(Protocol):
    """Who decides what becomes of a request."""

    limits: ConnectionLimits

    def now(self) -> float:
        """Return seconds since an arbitrary start."""

    @property
    def draining(self) -> bool:
        """Whether we leave: connections are closed after the answer under way."""

    def admit(self, head: HttpRequestHead) -> LocalResponse | None:
        """Return a refusal, before the body is read; None to go on."""

    def serve(
        self, client: Responder, head: HttpRequestHead, body: bytes
    ) -> LocalResponse | RelayedRequest:
        """Return an answer of our own, or an exchange that will bring the engine's.

        Raises:
            ServeError: the request cannot be relayed.
        """

    def refusal_for(self, head: HttpRequestHead | None, answer: LocalResponse) -> LocalResponse:
        """Return *answer*, which refuses the request of *head* (None where that was not read), as
        its client expects it."""


class ConnectedClient(Protocol):
    """A connection, or one of several requests on it.

    Attributes:
        exchange: the request that is being relayed, if one is.
        idle_since_s: since when it has carried nothing.
    """

    exchange: RelayedRequest | None
    idle_since_s: float

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""

    @property
    def requests(self) -> int:
        """How many are, and are no clients themselves."""

    def check(self, now_s: float) -> None:
        """Act on what has taken too long."""

    def close_if_idle(self, now_s: float) -> None:
        """Close a connection on which nothing is under way, nor likely to be on its way."""

    def close(self) -> None:
        """Close it, after what is written."""

    def abort(self) -> None:
        """Close it at once."""


class ClientSet(set[ConnectedClient]):
    """The connections of all clients, and what they hold together.

    Attributes:
        body_bytes: memory of request bodies.
        most: connections at one time; beyond it idle ones are closed, or the new one is refused.
        make_http2: makes a connection that speaks HTTP/2; None where that is not spoken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body_bytes = 0
        self.most = 1 << 62
        self.make_http2: Callable[[Handler, ClientSet], asyncio.Protocol] | None = None

    def exchanges(self) -> list[RelayedRequest]:
        """Return the requests that are being relayed."""
        return [client.exchange for client in self if client.exchange is not None]

    def shed_idle(self) -> int:
        """Close some of the connections that carry nothing, the longest idle first.

        Returns how many.  Clients expect it: HTTP/1.1 has them send a request again whose kept
        connection was closed before any answer (RFC 9112, section 9.3.1).
        """
        idle = sorted((c for c in self if not c.busy), key=lambda client: client.idle_since_s)
        shed = idle[: max(1, len(idle) // SHED_SHARE)]
        for client in shed:
            client.close()
        return len(shed)


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = (
        "_begun_s",
        "_body",
        "_body_bytes",
        "_body_since_s",
        "_buffer",
        "_chunks_received",
        "_clients",
        "_deadline_s",
        "_handler",
        "_head",
        "_limits",
        "_linger_until_s",
        "_now",
        "_paused",
        "_received",
        "_unread",
        "exchange",
        "idle_since_s",
        "peer",
        "transport",
    )

    def __init__(self, handler: Handler, clients: ClientSet) -> None:
        """*clients*: where it is found for as long as it is connected."""
        self._handler = handler
        self._limits = handler.limits
        self._now = handler.now
        self._clients = clients
        self._buffer = b""
        self._head: HttpRequestHead | None = None
        self._body: ChunkedBody | list[bytes] = []
        self._received = 0
        # This client's part of `clients.body_bytes`.
        self._body_bytes = 0
        self._body_since_s = 0.0
        self.exchange: RelayedRequest | None = None
        self._chunks_received = 0
        self._linger_until_s: float | None = None
        self._paused = False
        # Whether the client leaves unread what is written to it.
        self._unread = False
        self._begun_s = self.idle_since_s = self._now()
        self._deadline_s = self.idle_since_s + self._limits.idle_timeout_s

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self.exchange is not None or self._head is not None or bool(self._buffer)

    @property
    def requests(self) -> int:
        return int(self.busy)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.peer = peer_of(transport)
        clients = self._clients
        clients.add(self)
        if len(clients) > clients.most and not clients.shed_idle():
            self._refuse(refuse(503, "too many connections; retry later"))

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._clients.discard(self)
        self.release_body()
        if self.exchange is not None:
            self.exchange.abandon()
            self.exchange = None

    def pause_writing(self) -> None:
        self._unread = True
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self._unread = False
        if self.exchange is not None:
            self.exchange.resume()

    def data_received(self, data: bytes) -> None:
        if self._linger_until_s is not None:
            self._deadline_s = min(self._now() + LINGER_S, self._linger_until_s)
            return
        if self.exchange is not None:
            self._take_ahead(data)
        elif self._head is not None:
            self._take_body(data)
        else:
            self._take_head(data)

    # Time.

    def check(self, now_s: float) -> None:
        """Act on what has taken too long."""
        exchange = self.exchange
        if exchange is None:
            if now_s > self._deadline_s:
                self._expire()
        elif exchange.chunks_received != self._chunks_received:
            self._chunks_received = exchange.chunks_received
            self._deadline_s = now_s + self._limits.answer_timeout_s
        elif now_s > self._deadline_s:
            self._give_up(exchange)

    def close_if_idle(self, now_s: float) -> None:
        """Close a connection on which nothing is under way, nor likely to be on its way."""
        if not self.busy and now_s - self.idle_since_s > IN_TRANSIT_S:
            self.transport.close()

    def close(self) -> None:
        """Close it, after what is written."""
        self.transport.close()

    def abort(self) -> None:
        """Close it at once."""
        reset(self.transport)

    def _give_up(self, exchange: RelayedRequest) -> None:
        if self._unread:
            # We read no more of the answer because the client does not: the engine is not to blame.
            reset(self.transport)
        else:
            exchange.time_out()

    def _expire(self) -> None:
        if self._linger_until_s is not None or self._unread:
            self.transport.abort()
        elif self.busy:
            self._refuse(refuse(408, "the request did not arrive in time; send it faster"))
        else:
            self.transport.close()

    # Requests.

    def _take_head(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        elif data:
            self._deadline_s = self._now() + HEAD_TIMEOUT_S
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
        if end == 3:
            self._wait_for_head(data)
            return
        self._buffer = b""
        try:
            head = read_request_head(data[:end])
        except RequestError as error:
            if not self._speak_http2(data):
                self._refuse(refusal(error))
            return
        refused = self._handler.admit(head)
        if refused is not None:
            self._head = head
            self._refuse(refused)
        elif head.length == 0:
            self._serve(head, b"", data[end:])
        else:
            self._expect_body(head, data[end:])

    def _speak_http2(self, data: bytes) -> bool:
        """Whether the client does, without TLS, and from its first byte on (RFC 9113, 3.3)."""
        make = self._clients.make_http2
        if make is None or self.idle_since_s != self._begun_s:
            return False
        if not data.startswith(HTTP2_PREFACE):
            return False
        self._clients.discard(self)
        connection = make(self._handler, self._clients)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.data_received(data)
        return True

    def _wait_for_head(self, data: bytes) -> None:
        self._buffer = data
        if len(data) >= MAX_HEAD_BYTES:
            self._refuse(refuse(431, f"the head is larger than {MAX_HEAD_BYTES} bytes"))
        elif _BARE_LINE_FEED.search(data):
            self._refuse(refuse(400, "a line ends without a carriage return"))

    def _expect_body(self, head: HttpRequestHead, data: bytes) -> None:
        limit = self._limits.max_body_bytes
        length = head.length
        if length is not None and length > limit:
            self._head = head
            self._refuse(refusal(_too_large(length, limit)))
            return
        if length is not None and len(data) >= length:
            self._serve(head, data[:length], data[length:])
            return
        self._head = head
        self._body_since_s = self._now()
        self._deadline_s = self._body_since_s + BODY_TIMEOUT_S
        self._body = ChunkedBody(limit) if length is None else []
        self._received = 0
        waits = head.fields.get(b"expect", b"").lower() == b"100-continue"
        if waits and not data and not head.old:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if data:
            self._take_body(data)

    def _take_body(self, data: bytes) -> None:
        head, body = self._head, self._body
        assert head is not None
        if not self._hold_body(len(data)):
            self._refuse(refuse(503, "no memory for another request body; retry later"))
            return
        now_s = self._now()
        allowed_s = BODY_TIMEOUT_S + self._body_bytes / LEAST_BODY_BYTES_PER_S
        self._deadline_s = min(now_s + BODY_TIMEOUT_S, self._body_since_s + allowed_s)
        if isinstance(body, ChunkedBody):
            try:
                rest = body.feed(data)
            except RequestError as error:
                self._refuse(refusal(error))
                return
            if body.done:
                self._serve(head, body.take(), rest)
            return
        assert head.length is not None
        body.append(data)
        self._received += len(data)
        if self._received >= head.length:
            whole = b"".join(body)
            self._serve(head, whole[: head.length], whole[head.length :])

    def _take_ahead(self, data: bytes) -> None:
        if self.exchange is not None and self.exchange.client_sent(data):
            return
        self._buffer += data
        if len(self._buffer) > MAX_AHEAD_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _hold_body(self, size: int) -> bool:
        """Count *size* more bytes of the body; return whether there is memory for them."""
        clients = self._clients
        if clients.body_bytes + size > self._limits.max_body_memory_bytes:
            return False
        clients.body_bytes += size
        self._body_bytes += size
        return True

    def _serve(self, head: HttpRequestHead, body: bytes, rest: bytes) -> None:
        if self._head is not None:
            # It came in pieces, which were counted.
            self._head, self._body = None, []
        elif body:
            size = self._body_bytes = len(body)
            self._clients.body_bytes += size
            if self._clients.body_bytes > self._limits.max_body_memory_bytes:
                self._head = head
                self._refuse(refuse(503, "no memory for another request body; retry later"))
                return
        self._buffer = rest
        try:
            served = self._handler.serve(self, head, body)
        except ServeError as error:
            served = self._handler.refusal_for(head, refusal(error))
        if isinstance(served, LocalResponse):
            self._reply(served, keep_alive=head.keep_alive, bodiless=head.method == "HEAD")
            return
        self.exchange = served
        self._chunks_received = 0
        self._deadline_s = self._now() + self._limits.answer_timeout_s
        served.start()

    # What an exchange calls.

    def answer(self, answer: LocalResponse) -> None:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        self._reply(answer, keep_alive=exchange.keep_alive, bodiless=exchange.bodiless)

    def relayed(self, *, keep_alive: bool) -> None:
        self.exchange = None
        self._next(keep_alive=keep_alive)

    def cut(self, last: bytes = b"", *, framed: bool = False) -> None:
        self.exchange = None
        if last:
            self.transport.write(last)
        if framed:
            self.transport.close()
        else:
            reset(self.transport)

    def wait_anew(self) -> None:
        self._deadline_s = self._now() + self._limits.answer_timeout_s

    def release_body(self) -> None:
        self._clients.body_bytes -= self._body_bytes
        self._body_bytes = 0

    # Answers.

    def _reply(self, answer: LocalResponse, *, keep_alive: bool, bodiless: bool) -> None:
        keep_alive = keep_alive and not self._handler.draining
        self.transport.write(answer.encode(keep_alive=keep_alive, bodiless=bodiless))
        self._next(keep_alive=keep_alive)

    def _next(self, *, keep_alive: bool) -> None:
        # As `release_body` does, without a call.
        self._clients.body_bytes -= self._body_bytes
        self._body_bytes = 0
        if not keep_alive or self._handler.draining:
            self.transport.close()
            return
        self.idle_since_s = self._now()
        self._deadline_s = self.idle_since_s + self._limits.idle_timeout_s
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self._buffer:
            # Not at once: a client that sends thousands of requests ahead must not nest them.
            asyncio.get_running_loop().call_soon(self._take_ahead_up)

    def _take_ahead_up(self) -> None:
        if self.exchange is None and self._head is None and self._linger_until_s is None:
            data, self._buffer = self._buffer, b""
            if data and not self.transport.is_closing():
                self._take_head(data)

    def _refuse(self, answer: LocalResponse) -> None:
        """Answer a request that cannot be read to its end, and close."""
        head, self._head = self._head, None
        answer = self._handler.refusal_for(head, answer)
        bodiless = head is not None and head.method == "HEAD"
        self._body = []
        self._buffer = b""
        self.release_body()
        now_s = self._now()
        self._linger_until_s = now_s + LINGER_AT_MOST_S
        self._deadline_s = now_s + LINGER_S
        self.transport.write(answer.encode(keep_alive=False, bodiless=bodiless))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            # TLS reads and drops the rest by itself until the client has closed too.
            self.transport.close()


def peer_of(transport: asyncio.BaseTransport) -> bytes:
    """Return the address that a client speaks from."""
    peer = transport.get_extra_info("peername")
    return peer[0].encode() if isinstance(peer, tuple) else b"unknown"


def reset(transport: asyncio.Transport) -> None:
    """End a connection in a way that no client takes for the end of an answer, which an HTTP/1.0
    one sees in any orderly close."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _too_large(length: int, limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body has {length} bytes; at most {limit} are taken")
