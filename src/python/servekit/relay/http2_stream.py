"""One request of an HTTP/2 connection, and its answer: frames on one side, HTTP/1.1 on the other.

Whoever relays an answer writes it as HTTP/1.1 has it, whatever the client speaks; here it becomes
frames.  What a client does not take waits here, and beyond a little the engine is not read.
"""

import asyncio
from typing import Any, Protocol

from servekit.errors.tree import RequestError, RequestTooLarge, ServeError, StreamCut
from servekit.relay.client_connection import (
    BODY_TIMEOUT_S,
    LEAST_BODY_BYTES_PER_S,
    ClientSet,
    Handler,
    RelayedRequest,
)
from servekit.relay.framing import ChunkedBody
from servekit.relay.heads import HttpRequestHead, read_response_head
from servekit.relay.http2_heads import http2_answer_fields, http2_request_head
from servekit.relay.responses import LocalResponse, refusal, refuse

# Bytes of an answer that wait for their client before the engine is not read any more.
MOST_WAITING_BYTES = 64 * 1024
_FEW_WAITING_BYTES = 16 * 1024

# How long after its last words a stream is reset.
RESET_LATER_S = 0.05

# Why a stream is reset (RFC 9113, section 7).
NO_ERROR, INTERNAL_ERROR, CANCEL = 0, 2, 8


class Frames(Protocol):
    """What a connection sends of a stream.  Nothing is raised where the client has left."""

    peer: bytes

    def send_head(self, stream: int, fields: list[tuple[bytes, bytes]], *, last: bool) -> None:
        """Send the header fields of an answer; *last*: it has no body."""

    def send_body(self, stream: int, waiting: bytearray, *, last: bool) -> bool:
        """Send one frame of what is *waiting*, which is taken out of it, if the client lets us;
        return whether it did.  *last*: the answer ends with it."""

    def reset(self, stream: int, why: int) -> None:
        """Reset the stream."""

    def over(self, stream: int) -> None:
        """Nothing more is sent of it."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""


class Http2Stream(asyncio.Transport):
    """A client for as long as its one request takes; also the transport of the answer."""

    busy = True
    requests = 1

    def __init__(self, number: int, frames: Frames, handler: Handler, clients: ClientSet) -> None:
        super().__init__()
        self._number = number
        self._frames = frames
        self._handler = handler
        self._limits = handler.limits
        self._clients = clients
        self.transport: asyncio.Transport = self
        self.peer = frames.peer
        self.exchange: RelayedRequest | None = None
        self._head: HttpRequestHead | None = None
        # The request's body, until it is whole.
        self._body: list[bytes] | None = []
        self._received = 0
        self._body_bytes = 0
        self._chunks_received = 0
        self._begun_s = self.idle_since_s = handler.now()
        self._deadline_s = self._begun_s + BODY_TIMEOUT_S
        # The answer, which is chunked or not.
        self._answering = False
        self._decoder: ChunkedBody | None = None
        self._waiting = bytearray()
        self._ended = False
        self._cut = False
        self._paused = False
        self._over = False
        clients.add(self)

    # The request.

    def open(self, fields: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        """Take the request's header fields; *ended*: it has no body."""
        try:
            self._head = head = http2_request_head(fields, ended=ended)
        except RequestError as error:
            self._refuse(refusal(error))
            return
        refused = self._handler.admit(head)
        limit = self._limits.max_body_bytes
        if refused is not None:
            self._refuse(refused)
        elif ended:
            self._serve(head)
        elif head.length is not None and head.length > limit:
            self._refuse(refusal(_too_large(limit)))
        elif head.fields.get(b"expect", b"").lower() == b"100-continue":
            self._frames.send_head(self._number, [(b":status", b"100")], last=False)

    def take_body(self, data: bytes) -> None:
        """Take a piece of the request's body; it is dropped where the answer is known already."""
        if self._body is None:
            return
        clients, limits, size = self._clients, self._limits, len(data)
        if self._received + size > limits.max_body_bytes:
            self._refuse(refusal(_too_large(limits.max_body_bytes)))
            return
        if clients.body_bytes + size > limits.max_body_memory_bytes:
            self._refuse(refuse(503, "no memory for another request body; retry later"))
            return
        self._received += size
        self._body_bytes += size
        clients.body_bytes += size
        self._body.append(data)
        now_s = self._handler.now()
        allowed_s = BODY_TIMEOUT_S + self._received / LEAST_BODY_BYTES_PER_S
        self._deadline_s = min(now_s + BODY_TIMEOUT_S, self._begun_s + allowed_s)

    def end_body(self) -> None:
        """The request is whole."""
        if self._body is not None and self._head is not None:
            self._serve(self._head)

    def _serve(self, head: HttpRequestHead) -> None:
        body, self._body = b"".join(self._body or ()), None
        try:
            served = self._handler.serve(self, head, body)
        except ServeError as error:
            served = self._handler.refusal_for(head, refusal(error))
        if isinstance(served, LocalResponse):
            self._send(served)
            return
        self.exchange = served
        self._chunks_received = 0
        self._deadline_s = self._handler.now() + self._limits.answer_timeout_s
        served.start()

    def _refuse(self, answer: LocalResponse) -> None:
        """Answer a request that is not read to its end."""
        self._body = None
        self.release_body()
        self._send(self._handler.refusal_for(self._head, answer))

    def _send(self, answer: LocalResponse) -> None:
        bodiless = self._head is not None and self._head.method == "HEAD"
        self.write(answer.encode(keep_alive=True, bodiless=bodiless))
        self._end()

    # Time.

    def check(self, now_s: float) -> None:
        """Act on what has taken too long."""
        exchange = self.exchange
        if exchange is not None and exchange.chunks_received != self._chunks_received:
            self._chunks_received = exchange.chunks_received
            self._deadline_s = now_s + self._limits.answer_timeout_s
        elif now_s <= self._deadline_s:
            return
        elif exchange is None and not self._answering:
            self._refuse(refuse(408, "the request did not arrive in time; send it faster"))
        elif exchange is None or self._paused:
            # Its client does not take the answer: the engine is not to blame.
            self.abort()
        else:
            exchange.time_out()

    def close_if_idle(self, now_s: float) -> None:
        """It never is."""

    def gone(self) -> None:
        """The client has given it up, or has left."""
        self._over = True
        self._clients.discard(self)
        self.release_body()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.abandon()

    # What an exchange calls.

    def answer(self, answer: LocalResponse) -> None:
        self.exchange = None
        self._send(answer)

    def relayed(self, *, keep_alive: bool) -> None:
        del keep_alive
        self.exchange = None
        self._end()

    def cut(self, last: bytes = b"", *, framed: bool = False) -> None:
        del framed
        self.exchange = None
        if last and self._answering:
            self.write(last)
        self._cut = True
        self._end()

    def wait_anew(self) -> None:
        self._deadline_s = self._handler.now() + self._limits.answer_timeout_s

    def release_body(self) -> None:
        self._clients.body_bytes -= self._body_bytes
        self._body_bytes = 0

    # The answer.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a piece of an answer of HTTP/1.1, which begins with its whole head.

        Raises:
            StreamCut: it is none.
        """
        if self._over:
            return
        piece = bytes(data)
        if not self._answering:
            piece = self._begin(piece)
        self._waiting += self._decoded(piece)
        self._control()
        self.pump()

    def _decoded(self, piece: bytes) -> bytes:
        if self._decoder is None or not piece:
            return piece
        try:
            self._decoder.feed(piece)
        except RequestError as error:
            raise StreamCut("the answer's chunks are malformed") from error
        return self._decoder.take()

    def _begin(self, data: bytes) -> bytes:
        """Send the head in *data*; return what follows it."""
        end = data.index(b"\r\n\r\n") + 4
        head = read_response_head(data[:end])
        self._answering = True
        if head.chunked:
            self._decoder = ChunkedBody(limit=1 << 62)
        self._frames.send_head(self._number, http2_answer_fields(head), last=False)
        return data[end:]

    def _end(self) -> None:
        self._ended = True
        self.release_body()
        self._deadline_s = self._handler.now() + self._limits.idle_timeout_s
        self.pump()

    @property
    def waits(self) -> bool:
        """Whether something of the answer has not been sent yet."""
        return not self._over and (bool(self._waiting) or self._ended)

    def pump(self) -> None:
        """Send what the client lets us send."""
        while self.send_frame():
            pass

    def send_frame(self) -> bool:
        """Send one frame; return whether there may be another."""
        if not self.waits:
            return False
        last = self._ended and not self._cut
        if self._waiting or last:
            if not self._frames.send_body(self._number, self._waiting, last=last):
                return False
            self._control()
            if self._waiting:
                return True
        if self._ended:
            self._finish()
        return False

    def _control(self) -> None:
        """Read no more of the engine's answer while much of it waits."""
        exchange = self.exchange
        if exchange is None:
            return
        if not self._paused and len(self._waiting) > MOST_WAITING_BYTES:
            self._paused = True
            exchange.pause()
        elif self._paused and len(self._waiting) < _FEW_WAITING_BYTES:
            self._paused = False
            exchange.resume()

    def _finish(self) -> None:
        self._over = True
        self._clients.discard(self)
        self._frames.over(self._number)
        if self._cut:
            # Many clients drop what they have not read yet when they see the reset.
            loop = asyncio.get_running_loop()
            loop.call_later(RESET_LATER_S, self._frames.reset, self._number, INTERNAL_ERROR)

    # The rest of what a transport and a client have.

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._over

    def can_write_eof(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._frames.get_extra_info(name, default)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Give it up: the answer cannot be completed."""
        if self._over:
            return
        self.gone()
        self._frames.reset(self._number, CANCEL)
        self._frames.over(self._number)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body is larger than the limit of {limit} bytes")
