"""Relay HTTP between a client's connection and one of its own to the engine.

A request's head is parsed once and passed on; bodies and answers are passed on as they come.  The
parser follows along only to know where a message ends.  A pipelined request is not served: the
connection is closed after the answer before it, and clients that pipeline send it again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from servekit.wire.openai import error_envelope

# They concern one connection, not the message (RFC 9110, section 7.6.1); Host is ours to write.
_NOT_PASSED_ON = frozenset(
    {b"connection", b"host", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding"}
)

# The engine keeps an idle connection for 75 s (engine_defaults.py); ours must be given up before.
_IDLE_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalAnswer:
    """An answer that the front gives itself."""

    status: int
    body: bytes
    content_type: str = "application/json"
    retry_after_s: int | None = None


class Front(Protocol):
    """What a connection must know of the front that accepted it."""

    connections: "set[ClientConnection]"
    active: "set[ClientConnection]"
    draining: bool
    engine_port: int

    def local_answer(self, path: bytes) -> LocalAnswer | None:
        """None where the engine is to answer."""

    def finished(self, connection: "ClientConnection") -> None:
        """An exchange of *connection* has ended."""


class EngineConnection(asyncio.Protocol):
    """A client's connection to the engine."""

    def __init__(self, client: "ClientConnection") -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._began = False
        self._completed = False
        self.idle_since_s = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self.transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._client.pass_back(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._client.abandon()
            return
        if self._completed:
            self._completed = False
            self._client.answered(keep=self._parser_keeps)

    def on_message_begin(self) -> None:
        self._parser_keeps = True

    def on_headers_complete(self) -> None:
        # The parser cannot know that an answer to HEAD has no body.
        if self._client.asked_for_head and self._parser.get_status_code() >= 200:
            self._parser_keeps = False
            self._completed = True

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            return
        self._parser_keeps = self._parser_keeps and self._parser.should_keep_alive()
        self._completed = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._client.engine_lost(self)

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        self._client.resume_reading()


class ClientConnection(asyncio.Protocol):
    """One client's connection, and the exchange that is under way on it."""

    def __init__(self, front: Front, now: Callable[[], float]) -> None:
        self._front = front
        self._now = now
        self._parser = httptools.HttpRequestParser(self)
        self._engine: EngineConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._answer: LocalAnswer | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunked = False
        self._busy = False
        self._asked = False
        self._overrun = False
        self._answer_began = False
        self.asked_for_head = False

    # The client's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._front.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(501, "protocols other than HTTP/1.1 are not relayed")
        except httptools.HttpParserError:
            self._refuse(400, "this is not HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        # An engine whose client is gone should stop generating for it.
        self._front.connections.discard(self)
        self._drop_engine()
        self._end_exchange()

    def pause_writing(self) -> None:
        if self._engine is not None and self._engine.transport is not None:
            self._engine.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._engine is not None and self._engine.transport is not None:
            self._engine.transport.resume_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def close_if_idle(self) -> None:
        if not self._busy:
            self._transport.close()

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._overrun = self._busy
        if not self._overrun:
            self._url, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        if not self._overrun:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._overrun:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._overrun:
            return
        self._busy, self._asked, self._answer_began = True, False, False
        self._front.active.add(self)
        method = self._parser.get_method()
        self.asked_for_head = method == b"HEAD"
        self._answer = self._front.local_answer(self._url.partition(b"?")[0])
        if self._answer is None:
            self._pass_on(self._head(method))

    def on_body(self, piece: bytes) -> None:
        if self._answer is None and self._busy and not self._overrun:
            self._pass_on(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def on_message_complete(self) -> None:
        if self._overrun:
            return
        self._asked = True
        self._keeps = self._parser.should_keep_alive()
        if self._answer is not None:
            self._write(self._answer)
            self.answered(keep=self._keeps)
        elif self._chunked:
            self._pass_on(b"0\r\n\r\n")

    # The engine's side.

    def pass_back(self, data: bytes) -> None:
        self._answer_began = True
        self._transport.write(data)

    def answered(self, *, keep: bool) -> None:
        """The answer is whole; *keep* says whether the one who gave it stays connected."""
        if self._engine is not None:
            self._engine.idle_since_s = self._now()
        # An engine that refuses a body before it has come must not be sent the rest of it.
        keep = keep and self._keeps and self._asked
        closes = not keep or self._overrun or self._front.draining
        self._end_exchange()
        if closes:
            self._drop_engine()
            self._transport.close()

    def engine_lost(self, engine: EngineConnection) -> None:
        if engine is not self._engine:
            return
        self._engine = None
        if not self._busy:
            return
        if self._answer_began:
            # The end of an answer without a length, or a cut one: closing says either.
            self._end_exchange()
            self._transport.close()
        else:
            self._refuse(502, "the engine closed the connection; send the request again")

    def abandon(self) -> None:
        """Close both sides: what the engine sent is not HTTP."""
        self._drop_engine()
        self._transport.abort()

    def _head(self, method: bytes) -> bytes:
        self._chunked = False
        self._keeps = True
        lines = [b"%b %b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % (method, self._url)]
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"transfer-encoding":
                self._chunked = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
            elif lower not in _NOT_PASSED_ON:
                lines.append(b"%b: %b\r\n" % (name, value))
        return b"".join((*lines, b"\r\n"))

    def _pass_on(self, data: bytes) -> None:
        engine = self._engine
        if engine is None and self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        elif engine is not None and not self._answer_began and self._is_stale(engine):
            self._drop_engine()
            self._pass_on(data)
            return
        if self._engine is not None:
            self._engine.idle_since_s = self._now()
            self._engine.send(data)
        else:
            self._waiting.append(data)

    def _is_stale(self, engine: EngineConnection) -> bool:
        return self._now() - engine.idle_since_s > _IDLE_LIMIT_S

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport.pause_reading()
        try:
            _, engine = await loop.create_connection(
                lambda: EngineConnection(self), "127.0.0.1", self._front.engine_port
            )
        except OSError:
            self._connecting = None
            self._refuse(502, "the engine does not take connections; send the request again")
            return
        self._connecting = None
        self._engine = engine
        self._transport.resume_reading()
        engine.idle_since_s = self._now()
        waiting, self._waiting = self._waiting, []
        engine.send(b"".join(waiting))

    def _drop_engine(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        engine, self._engine = self._engine, None
        if engine is not None and engine.transport is not None:
            engine.transport.abort()
        self._waiting = []

    def _refuse(self, status: int, message: str) -> None:
        if not self._transport.is_closing():
            self._write(LocalAnswer(status, error_envelope(status, message)), close=True)
        self._end_exchange()
        self._drop_engine()
        self._transport.close()

    def _write(self, answer: LocalAnswer, *, close: bool = False) -> None:
        close = close or self._front.draining
        retry = answer.retry_after_s
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            f"{'' if retry is None else f'Retry-After: {retry}{chr(13)}{chr(10)}'}"
            f"{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n"
        )
        self._transport.write(head.encode() + (b"" if self.asked_for_head else answer.body))

    def _end_exchange(self) -> None:
        if self._busy:
            self._busy = False
            self._front.finished(self)


_REASONS = {
    200: "OK",
    400: "Bad Request",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
