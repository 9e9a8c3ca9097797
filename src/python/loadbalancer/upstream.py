"""Connections to one engine: a pool of them, each carrying one exchange at a time."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

from loadbalancer.framing import ChunkedBody, ChunkedFraming, Framing, LengthFraming, OpenFraming
from loadbalancer.heads import MAX_HEAD_BYTES, ResponseHead, read_response_head
from servekit.errors.tree import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    SettingInvalid,
    StreamCut,
)

# uvicorn, under vLLM, closes a connection that was idle for 5 s; one that is reused at that very
# moment would be reset through no fault of the request's.
IDLE_LIMIT_S = 4.0


class Sink(Protocol):
    """Whoever wants an engine's answer."""

    def started(self, head: ResponseHead, piece: bytes, framing: Framing) -> None:
        """The head came, and with it the first *piece* of the body, which may be empty."""

    def more(self, piece: bytes, framing: Framing) -> None:
        """A further piece of the body came, as it was sent."""

    def ended(self) -> None:
        """The answer is whole."""

    def broke(self, error: EngineError) -> None:
        """The answer is not whole and never will be."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens.

    Attributes:
        path: what stands before `/v1`; usually empty.
    """

    host: str
    port: int
    secure: bool = False
    path: str = ""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path}"


def read_address(url: str) -> Address:
    """Return the address in *url*, `http://host:port` or https, with or without `/v1`.

    Raises:
        SettingInvalid: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise SettingInvalid(f"endpoint {url!r}: {error}; write http://host:port") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingInvalid(f"endpoint {url!r} is no URL; write http://host:port")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.hostname, port, parts.scheme == "https", path)


class Connection(asyncio.Protocol):
    """One connection.  `sink` hears of the exchange that is under way, if one is.

    Attributes:
        used: whether it has carried an exchange before; then a reset may be mere idleness.
    """

    __slots__ = (
        "_done",
        "_framing",
        "_held",
        "_keep_alive",
        "_on_idle",
        "_sink",
        "idle_since_s",
        "open",
        "transport",
        "used",
    )

    def __init__(self, on_idle: "Callable[[Connection], None]") -> None:
        self._on_idle = on_idle
        self._sink: Sink | None = None
        self._framing: Framing | None = None
        self._held = b""
        self._keep_alive = False
        self.idle_since_s = 0.0
        self.open = True
        self.used = False

    def send(self, head: bytes, body: bytes, sink: Sink) -> None:
        """Send a request; its answer goes to *sink*."""
        self._sink = sink
        self._framing = None
        if body:
            self.transport.writelines([head, body])
        else:
            self.transport.write(head)

    def abandon(self) -> None:
        """Close at once; whoever waited for an answer hears nothing more."""
        self._sink = None
        self.open = False
        self.transport.abort()

    def discard(self) -> None:
        """Let the answer come to its end unheard, so that the connection can be used again."""
        self._sink = _Nobody()

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
        except StreamCut as error:
            self._break(error)
            return
        if taken != len(data):
            # Bytes after the end were not asked for: nothing that follows can be trusted.
            self._keep_alive = False
            data = data[:taken]
        sink = self._sink
        if sink is not None:
            sink.more(data, framing)
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
            self._break(StreamCut("the engine sent an answer that nobody asked for"))
            return
        head, data = self._final_head(self._held + data)
        if head is None:
            return
        framing = self._framing = _framing(head)
        self._keep_alive = head.keep_alive
        taken = framing.feed(data)
        if taken != len(data):
            self._keep_alive = False
            data = data[:taken]
        self._sink.started(head, data, framing)
        if framing.done:
            self._finish()

    def _final_head(self, data: bytes) -> tuple[ResponseHead | None, bytes]:
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


def _framing(head: ResponseHead) -> Framing:
    if head.chunked:
        return ChunkedFraming()
    return OpenFraming() if head.length is None else LengthFraming(head.length)


class _Nobody:
    """Hears an answer that is no longer wanted."""

    def started(self, head: ResponseHead, piece: bytes, framing: Framing) -> None:
        pass

    def more(self, piece: bytes, framing: Framing) -> None:
        pass

    def ended(self) -> None:
        pass

    def broke(self, error: EngineError) -> None:
        pass


class Upstream:
    """The connections to one engine."""

    def __init__(self, address: Address, connect_timeout_s: float) -> None:
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if address.secure else None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def idle(self) -> Connection | None:
        """Return a connection that can be used at once; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            if self._loop.time() - connection.idle_since_s < IDLE_LIMIT_S:
                return connection
            connection.abandon()
        return None

    async def connect(self) -> Connection:
        """Return a new connection.

        Raises:
            EngineUnreachable: nobody listens there.
            EngineTimeout: it was not connected in time.
        """
        where = self.address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._rest), where.host, where.port, ssl=self._tls
                )
        except TimeoutError as error:
            raise EngineTimeout(
                f"{where.url} was not connected within {self._connect_timeout_s:g} s"
            ) from error
        except (OSError, UnicodeError) as error:
            raise EngineUnreachable(f"{where.url} cannot be connected: {error}") from error
        return connection

    async def fetch(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of a GET.

        Raises:
            EngineUnreachable, EngineTimeout, StreamCut: there was no whole answer.
        """
        collected = _Collected(self._loop)
        connection = self.idle() or await self.connect()
        head = f"GET {self.address.path}{path} HTTP/1.1\r\nHost: {self.address.authority}\r\n\r\n"
        try:
            async with asyncio.timeout(timeout_s):
                connection.send(head.encode(), b"", collected)
                return await collected.answer
        except TimeoutError as error:
            raise EngineTimeout(
                f"{self.address.url}{path} did not answer within {timeout_s:g} s"
            ) from error
        finally:
            if not collected.answer.done() or collected.answer.cancelled():
                connection.abandon()

    def close(self) -> None:
        """Close what is idle; exchanges that are under way end by themselves."""
        self._closed = True
        for connection in self._idle:
            connection.abandon()
        self._idle.clear()

    def _rest(self, connection: Connection) -> None:
        if self._closed:
            connection.abandon()
            return
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)


class _Collected:
    """A whole answer, for requests of our own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._status = 0
        self._pieces: list[bytes] = []
        self._chunked = False

    def started(self, head: ResponseHead, piece: bytes, framing: Framing) -> None:
        del framing
        self._status = head.status
        self._chunked = head.chunked
        self._pieces.append(piece)

    def more(self, piece: bytes, framing: Framing) -> None:
        del framing
        self._pieces.append(piece)

    def ended(self) -> None:
        if self.answer.done():
            return
        body = b"".join(self._pieces)
        self.answer.set_result((self._status, _unchunked(body) if self._chunked else body))

    def broke(self, error: EngineError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _unchunked(body: bytes) -> bytes:
    whole = ChunkedBody(limit=len(body))
    whole.feed(body)
    return whole.take()
