"""One connection to an engine, which carries one exchange at a time."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from servekit.errors.tree import EngineError, StreamCut
from servekit.relay.framing import ChunkedFraming, Framing, LengthFraming, OpenFraming
from servekit.relay.heads import MAX_HEAD_BYTES, HttpResponseHead, read_response_head


class Sink(Protocol):
    """Receives an engine's answer.

    `started` and `more` may raise StreamCut, where they cannot make use of it.
    """

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        """The head came, and with it the first *piece* of the body, which may be empty."""

    def more(self, piece: bytes, framing: Framing) -> None:
        """A further piece of the body came, as it was sent."""

    def ended(self) -> None:
        """The answer is whole."""

    def broke(self, error: EngineError) -> None:
        """The answer is not whole and never will be."""


class EngineConnection(asyncio.Protocol):
    """One connection.  `sink` hears of the exchange that is under way, if one is.

    Attributes:
        used: whether it has carried an exchange before; then a reset may be mere idleness.
    """

    __slots__ = (
        "_bodiless",
        "_framing",
        "_held",
        "_keep_alive",
        "_on_idle",
        "_paused",
        "_sink",
        "idle_since_s",
        "open",
        "transport",
        "used",
    )

    def __init__(self, on_idle: "Callable[[EngineConnection], None]") -> None:
        self._on_idle = on_idle
        self._sink: Sink | None = None
        self._framing: Framing | None = None
        self._bodiless = False
        self._held = b""
        self._keep_alive = False
        self._paused = False
        self.idle_since_s = 0.0
        self.open = True
        self.used = False

    def send(self, head: bytes, body: bytes, sink: Sink, *, bodiless: bool = False) -> None:
        """Send a request; its answer goes to *sink*.

        The answer to a HEAD is *bodiless*, whatever length it states.
        """
        self._sink = sink
        self._bodiless = bodiless
        self._framing = None
        if body:
            self.transport.writelines([head, body])
        else:
            self.transport.write(head)

    def abandon(self) -> None:
        """Close at once; its sink is not called any more."""
        self._sink = None
        self.open = False
        self.transport.abort()

    def pause(self) -> None:
        """Stop reading: the client does not keep up."""
        self._paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        self.transport.resume_reading()

    def discard(self) -> None:
        """Let the answer come to its end unheard, so that the connection can be used again."""
        self._sink = _DiscardSink()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        framing = self._framing
        try:
            if framing is None:
                self._read_head(data)
                return
            taken = framing.feed(data)
            if taken != len(data):
                # Bytes after the end were not asked for: nothing that follows can be trusted.
                self._keep_alive = False
                data = data[:taken]
            sink = self._sink
            if sink is not None:
                sink.more(data, framing)
        except StreamCut as error:
            self._break(error)
            return
        if framing.done:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if isinstance(self._framing, OpenFraming) and error is None:
            self._framing.done = True
            self._finish()
        elif self._sink is not None:
            what = "reset" if error else "closed"
            self._break(StreamCut(f"the engine {what} the connection before its answer ended"))

    def pause_writing(self) -> None:
        """A request waits in memory: it is whole already, and the engine takes it as it can."""

    def resume_writing(self) -> None:
        pass

    def _read_head(self, data: bytes) -> None:
        if self._sink is None:
            self._break(StreamCut("the engine sent an unsolicited answer"))
            return
        head, data = self._final_head(self._held + data)
        if head is None:
            return
        framing = self._framing = LengthFraming(0) if self._bodiless else _framing(head)
        self._keep_alive = head.keep_alive
        taken = framing.feed(data)
        if taken != len(data):
            self._keep_alive = False
            data = data[:taken]
        self._sink.started(head, data, framing)
        if framing.done:
            self._finish()

    def _final_head(self, data: bytes) -> tuple[HttpResponseHead | None, bytes]:
        """Return the head and what follows it; no head while it is not whole."""
        while (end := data.find(b"\r\n\r\n") + 4) != 3:
            head = read_response_head(data[:end])
            data = data[end:]
            # 100 Continue and its like announce an answer, and are none.
            if head.status >= 200:
                self._held = b""
                return head, data
        self._held = data
        if len(data) > MAX_HEAD_BYTES:
            raise StreamCut(f"the engine's head is larger than {MAX_HEAD_BYTES} bytes")
        return None, b""

    def _finish(self) -> None:
        sink, self._sink, self._framing = self._sink, None, None
        self.used = True
        if self._paused and self.open:
            # Who comes next must not wait for the client of this answer.
            self.resume()
        if self.open and self._keep_alive:
            self._on_idle(self)
        elif self.open:
            self.abandon()
        if sink is not None:
            sink.ended()

    def _break(self, error: EngineError) -> None:
        sink = self._sink
        self.abandon()
        if sink is not None:
            sink.broke(error)


def _framing(head: HttpResponseHead) -> Framing:
    if head.chunked:
        return ChunkedFraming()
    return OpenFraming() if head.length is None else LengthFraming(head.length)


class _DiscardSink:
    """Drops an answer that is no longer wanted."""

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        pass

    def more(self, piece: bytes, framing: Framing) -> None:
        pass

    def ended(self) -> None:
        pass

    def broke(self, error: EngineError) -> None:
        pass
